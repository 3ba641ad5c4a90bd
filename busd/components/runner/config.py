"""A component's configuration from a file."""

import tomllib
from pathlib import Path
from typing import Any, Final

from busproto.errors import BusError, Code

__all__ = ["read_config"]

FILE_BYTES: Final = 1 << 20
"""Of a configuration file; longer ones are not read."""

_OTHERS: Final = frozenset({"source", "path", "budget", "restarts"})
"""What else such a file holds: it is the same that the node reads, and these are for the node."""


def read_config(file: Path) -> dict[str, Any]:
    """The table ``[config]`` of ``file``; empty if it has none. Raises BusError CONFIG_INVALID, naming file and key."""
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES + 1)
    except OSError as error:
        raise _invalid(file, error.strerror or str(error)) from None
    if len(data) > FILE_BYTES:
        raise _invalid(file, f"it is longer than {FILE_BYTES} bytes")
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(file, f"this is not TOML: {error}") from None
    for key in table.keys() - _OTHERS - {"config"}:
        reason = "there is no such key; what the component is made with is in the table [config]"
        raise _invalid(file, reason, key)
    config = table.get("config", {})
    if not isinstance(config, dict):
        raise _invalid(file, "it must be a table", "config")
    return config


def _invalid(file: Path, reason: str, key: str = "") -> BusError:
    where = f" in {file}" if key else f" ({file})"
    return BusError(Code.CONFIG_INVALID, key=key or file.name, where=where, reason=reason)
