"""The directory of what a node keeps from one life to the next."""

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["default_audit_dir", "default_keys_dir", "state_dir"]


def state_dir(environ: Mapping[str, str]) -> Path:
    """/var/lib/busd for root, else $XDG_STATE_HOME/busd (~/.local/state); /tmp/busd-UID for who has no home."""
    if os.geteuid() == 0:
        return Path("/var/lib/busd")
    state = environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        return Path(state, "busd")
    home = environ.get("HOME", "")
    return Path(home, ".local", "state", "busd") if home.startswith("/") else Path(f"/tmp/busd-{os.geteuid()}")


def default_audit_dir(environ: Mapping[str, str]) -> Path:
    """Where the audit of a node in the default run directory is kept."""
    return state_dir(environ) / "audit"


def default_keys_dir(environ: Mapping[str, str]) -> Path:
    """Where the keys of a node in the default run directory are kept."""
    return state_dir(environ) / "keys"
