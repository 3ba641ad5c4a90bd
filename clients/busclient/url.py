"""Addresses of a bus: what ``--bus`` and ``BUS_URL`` take, and where the bus is when neither is given."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final, Literal

from busproto.errors import BusError, Code

__all__ = ["Address", "default_url", "parse"]

Scheme = Literal["unix", "vsock", "serial", "tcp"]

SYSTEM_SOCKET: Final = "/run/busd/host.sock"
"""Where a busd that root runs listens."""

SOCKET_PATH_BYTES: Final = 107
"""sun_path in Linux' sockaddr_un (unix(7)), less its final zero byte."""

DEVICE_PATH_BYTES: Final = 4095
"""PATH_MAX of Linux, less its final zero byte."""

VSOCK_MAX: Final = 2**32 - 2
"""Context ids and ports of vsock(7) are unsigned 32-bit numbers, of which the last means "any"."""

TCP_PORT_MAX: Final = 65535

CIDS: Final = {"local": 1, "host": 2}
"""Context ids that have a meaning of their own: VMADDR_CID_LOCAL and VMADDR_CID_HOST."""

_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_ESCAPED: Final = "percent signs are not decoded; "


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bus is."""

    url: str
    """As it was written."""
    scheme: Scheme
    path: str = ""
    """Of the unix socket or the device."""
    host: str = ""
    """Of ``tcp``: a name, an IPv4 address, or an IPv6 address without brackets."""
    cid: int = 0
    """Of ``vsock``: the context id."""
    port: int = 0
    """Of ``tcp`` and ``vsock``."""


def parse(url: str) -> Address:
    """The address that ``url`` names.

    ``unix:///path/host.sock`` or an absolute path; ``vsock://CID:PORT``, in which CID may be ``host`` or ``local``;
    ``serial:///dev/PORT``; ``tcp://HOST:PORT``, an IPv6 address in brackets.

    Raises:
        BusError: 6005, when it is not one of these; the reason says what is wrong with it.
    """
    scheme, separator, rest = url.partition("://")
    try:
        if not separator:
            return Address(url, "unix", path=_path(url, "it is not an absolute path", SOCKET_PATH_BYTES))
        if scheme not in _PARSERS:
            raise ValueError(_IPC if scheme == "ipc" else f"{scheme}:// is not known")
        return _PARSERS[scheme](url, rest)
    except ValueError as error:
        raise BusError(Code.URL_INVALID, url=url, reason=str(error)) from None


_IPC: Final = "ipc:// is how ZeroMQ spells it; write unix:// and the same path"


def _unix(url: str, rest: str) -> Address:
    if "%" in rest:
        raise ValueError(f"{_ESCAPED}a path that has one is given without unix://")
    return Address(url, "unix", path=_path(rest, "unix:// takes three slashes: unix:///path", SOCKET_PATH_BYTES))


def _serial(url: str, rest: str) -> Address:
    if "%" in rest:
        raise ValueError(f"{_ESCAPED}write the device's path as it is, or a link to it")
    reason = "serial:// takes three slashes: serial:///dev/PORT"
    return Address(url, "serial", path=_path(rest, reason, DEVICE_PATH_BYTES))


def _vsock(url: str, rest: str) -> Address:
    cid, colon, port = rest.partition(":")
    if not colon:
        raise ValueError("the port is missing: vsock://CID:PORT")
    number = CIDS[cid] if cid in CIDS else _number(cid, "CID", 0, VSOCK_MAX, " or the word host or local")
    return Address(url, "vsock", cid=number, port=_number(port, "port", 1, VSOCK_MAX))


def _tcp(url: str, rest: str) -> Address:
    if "%" in rest:
        raise ValueError(f"{_ESCAPED}an IPv6 address has no zone here")
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        if not bracket:
            raise ValueError("the bracket of the IPv6 address is not closed")
        try:
            host = str(IPv6Address(host))
        except ValueError:
            raise ValueError(f"'{host}' is no IPv6 address") from None
    else:
        host, colon, port = rest.partition(":")
        after = colon + port
        if ":" in port:
            raise ValueError("an IPv6 address stands in brackets: tcp://[::1]:PORT")
        if host and not _HOST_NAME.fullmatch(host):
            raise ValueError(f"'{host}' is no host name or address")
    if not host:
        raise ValueError("the host is missing: tcp://HOST:PORT")
    if not after.startswith(":"):
        raise ValueError("the port is missing: tcp://HOST:PORT")
    return Address(url, "tcp", host=host, port=_number(after[1:], "port", 1, TCP_PORT_MAX))


_PARSERS: Final[dict[str, Callable[[str, str], Address]]] = {
    "unix": _unix,
    "vsock": _vsock,
    "serial": _serial,
    "tcp": _tcp,
}


def _path(path: str, otherwise: str, longest: int) -> str:
    if not path.startswith("/"):
        raise ValueError(otherwise)
    if "\0" in path or len(os.fsencode(path)) > longest:
        raise ValueError(f"the path has at most {longest} bytes and no zero byte")
    return path


def _number(text: str, what: str, lowest: int, highest: int, also: str = "") -> int:
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(highest))
    if not digits or not lowest <= int(text) <= highest:
        raise ValueError(f"the {what} '{text:.40}' is not a number from {lowest} to {highest}{also}")
    return int(text)


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
