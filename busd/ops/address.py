"""Addresses that a node may listen on.

For operators' HTTP: loopback TCP, a unix socket, or nothing. Nothing else can be expressed: metrics and health need no
authentication only because this machine alone reaches them (the NATS monitoring port binds 0.0.0.0 by default and its
documentation has to warn of it). For peers of the network, who are known by their keys: any address, or nothing.
"""

import ipaddress
from typing import Final, NamedTuple

__all__ = [
    "OFF",
    "Listen",
    "Off",
    "TcpAddress",
    "UnixAddress",
    "is_loopback",
    "parse_listen",
    "parse_network",
]


class TcpAddress(NamedTuple):
    """TCP."""

    host: str
    """An IPv4 or IPv6 address; of HTTP it is one of 127.0.0.0/8, or ::1."""
    port: int
    """0 lets the kernel choose."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self}"


class UnixAddress(NamedTuple):
    """A unix stream socket."""

    path: str
    """Absolute."""

    def __str__(self) -> str:
        return self.url

    @property
    def url(self) -> str:
        return f"unix://{self.path}"


class Off(NamedTuple):
    """Not listening at all."""

    def __str__(self) -> str:
        return self.url

    @property
    def url(self) -> str:
        return "off"


Listen = TcpAddress | UnixAddress | Off
OFF: Final = Off()


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address without brackets) can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_listen(text: str) -> Listen:
    """Read ``HOST:PORT``, ``[IPV6]:PORT``, ``unix:///PATH`` or ``off``.

    Raises:
        ValueError: it is none of these, or the host is not loopback.
    """
    if text == "off":
        return OFF
    if text.startswith("unix:"):
        path = text.removeprefix("unix://")
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f"'{text:.128}' has no absolute path; write unix:///path/to/http.sock")
        return UnixAddress(path)
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"'{text:.128}' has no port from 0 to 65535; write 127.0.0.1:9850, unix:///path or off")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"'{text:.128}': write an IPv6 address in brackets, as in [::1]:9850")
    if not is_loopback(host):
        raise ValueError(
            f"'{host:.128}' is not a loopback address; metrics and health are served to this machine only "
            "(127.0.0.1, [::1], or unix:///path behind a proxy of your own)"
        )
    return TcpAddress("127.0.0.1" if host.lower() == "localhost" else host, int(port))


def parse_network(text: str) -> TcpAddress | Off:
    """Read ``IPV4:PORT``, ``[IPV6]:PORT`` or ``off``, for a listener that knows by keys who comes.

    Raises:
        ValueError: it is none of these.
    """
    if text == "off":
        return OFF
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"'{text:.128}' has no port from 0 to 65535; write 192.0.2.1:5670, [::1]:5670 or off")
    in_brackets = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if in_brackets else host)
    except ValueError:
        reason = "is not an address of this machine; a name could come to mean another one"
        raise ValueError(f"'{host:.128}' {reason} (0.0.0.0 or [::] for all of them)") from None
    if in_brackets != (address.version == 6):
        raise ValueError(f"'{text:.128}': write an IPv6 address, and no other, in brackets, as in [::1]:5670")
    return TcpAddress(str(address), int(port))
