"""Addresses of a bus: what ``--bus`` and ``BUS_URL`` take, and where the bus is when neither is given."""

import os
from pathlib import Path
from typing import Final

from busproto.errors import BusError, Code

__all__ = ["default_url", "socket_path"]

SYSTEM_SOCKET: Final = "/run/busd/host.sock"
"""Where a busd that root runs listens."""

_LATER: Final = ("tcp", "vsock", "serial", "ipc")
_PATH_BYTES: Final = 107
"""sun_path in Linux' sockaddr_un (unix(7)), less its final zero byte."""


def socket_path(url: str) -> str:
    """The path of the unix socket that ``url`` names: ``unix:///path`` or an absolute path.

    Raises:
        BusError: 6005, when it is not one of these.
    """
    scheme, separator, rest = url.partition("://")
    path = rest if separator else url
    if separator and scheme != "unix":
        known = f"{scheme}:// is not supported by this version" if scheme in _LATER else f"{scheme}:// is not known"
        raise BusError(Code.URL_INVALID, url=url, reason=known)
    if not path.startswith("/"):
        reason = "unix:// takes three slashes: unix:///path" if separator else "it is not an absolute path"
        raise BusError(Code.URL_INVALID, url=url, reason=reason)
    if "\0" in path or len(os.fsencode(path)) > _PATH_BYTES:
        reason = f"a socket's path has at most {_PATH_BYTES} bytes and no zero byte"
        raise BusError(Code.URL_INVALID, url=url, reason=reason)
    return path


def default_url() -> str:
    """``BUS_URL``; else the socket that busd makes for this user, if it is there; else the system's, if that is there.

    When neither is there, the user's own: that is the one that ``busd run`` would make.
    """
    url = os.environ.get("BUS_URL")
    if url:
        return url
    own = _own_socket()
    path = own if own.exists() or not Path(SYSTEM_SOCKET).exists() else SYSTEM_SOCKET
    return f"unix://{path}"


def _own_socket() -> Path:
    user = os.geteuid() if hasattr(os, "geteuid") else -1
    if user == 0:
        return Path(SYSTEM_SOCKET)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime, "busd", "host.sock") if runtime.startswith("/") else Path(f"/tmp/busd-{user}/host.sock")
