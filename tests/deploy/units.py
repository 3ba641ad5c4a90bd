"""Unit files as systemd reads them, and what the sandbox needs to know of one."""

import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import ROOT

UNITS = ROOT / "deploy" / "systemd"

Settings = dict[str, list[str]]
"""The values of each setting of the [Service] section, in order. An empty one takes back those before it."""


def read(unit: str, *dropins: str) -> Settings:
    """The [Service] section of a unit and of these drop-ins."""
    found: Settings = {}
    for path in [UNITS / unit, *(UNITS / f"{unit}.d" / name for name in dropins)]:
        for name, value in _service(path):
            if not value:
                found[name] = []
            else:
                found.setdefault(name, []).append(value)
    return found


def _service(path: Path) -> Iterator[tuple[str, str]]:
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield name, value


def last(settings: Settings, name: str, default: str = "") -> str:
    return settings.get(name, [default])[-1]


def words(settings: Settings, name: str) -> list[str]:
    return [word for value in settings.get(name, []) for word in shlex.split(value)]


def for_sandbox(unit: str, *dropins: str) -> dict[str, Any]:
    """What `tests.deploy.sandbox` takes, of a unit with these drop-ins."""
    settings = read(unit, *dropins)
    bases = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib"}
    return {
        "unit": unit,
        "command": shlex.split(last(settings, "ExecStart")),
        "user": last(settings, "User"),
        "environment": dict(word.split("=", 1) for word in words(settings, "Environment")),
        "directories": [
            (base, name, int(last(settings, f"{setting}Mode", "0755"), 8))
            for setting, base in bases.items()
            for name in words(settings, setting)
        ],
        "read_write": words(settings, "ReadWritePaths"),
        "private_tmp": last(settings, "PrivateTmp") == "yes",
        "credentials": dict(value.split(":", 1) for value in words(settings, "LoadCredential")),
        "limits": {
            f"RLIMIT_{name[5:]}": -1 if last(settings, name) == "infinity" else int(last(settings, name))
            for name in settings
            if name.startswith("Limit")
        },
        "umask": int(last(settings, "UMask", "0022"), 8),
        "ambient": [name.removeprefix("CAP_").lower() for name in words(settings, "AmbientCapabilities")],
        "bounding": [name.removeprefix("CAP_").lower() for name in words(settings, "CapabilityBoundingSet")],
        "calls": sorted({call for group in words(settings, "SystemCallFilter") for call in calls(group)}),
        "families": [int(socket.AddressFamily[name]) for name in words(settings, "RestrictAddressFamilies")],
        "deny_write_execute": last(settings, "MemoryDenyWriteExecute") == "yes",
    }


def calls(group: str) -> set[str]:
    """The system calls of a group, as systemd knows it."""
    if not group.startswith("@"):
        return {group}
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    ).stdout
    lines = (line.strip() for line in text.splitlines()[1:])
    # @default (exit, read, ...) is part of every list of what is allowed.
    found = {"@default"} if group != "@default" else set()
    found |= {line for line in lines if re.fullmatch(r"@?[a-z0-9_-]+", line)}
    return {call for each in found for call in (calls(each) if each.startswith("@") else {each})}
