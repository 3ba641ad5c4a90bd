"""Where components keep what has to outlive their process."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["default_state", "state_folder"]


def default_state(environ: Mapping[str, str]) -> Path:
    """Where a node of this user keeps its state: $STATE_DIRECTORY if a service manager set that; else /var/lib/busd for
    root, $XDG_STATE_HOME/busd (~/.local/state) for other users, %LOCALAPPDATA%/busd on Windows.
    """
    given = environ.get("STATE_DIRECTORY", "").partition(os.pathsep)[0]
    if os.path.isabs(given):
        return Path(given)
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local", "busd")
    if os.geteuid() == 0:
        return Path("/var/lib/busd")
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if state.startswith("/"):
        return Path(state, "busd")
    return Path(home, ".local", "state", "busd") if home.startswith("/") else Path(f"/tmp/busd-{os.geteuid()}")


def state_folder(state: str | None, environ: Mapping[str, str], component: str) -> Path | None:
    """The folder of ``component``, as its setting ``state`` says; of an empty one, its name in `default_state`; None
    for None and "off". Raises ValueError if it is not absolute.
    """
    if state is None or state == "off":
        return None
    if not state:
        return default_state(environ) / component
    if not Path(state).is_absolute():
        raise ValueError("state: it must be an absolute path, or off")
    return Path(state)
