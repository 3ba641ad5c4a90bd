"""The telemetry component: what this machine is doing, once a second. README.md beside this has the payloads."""
