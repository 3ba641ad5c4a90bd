"""What an operator says of a guest when it is added: who it is, and its one way in."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from busd.core.introspection import Request
from busd.edge.identity import HOST_UNIT
from busd.edge.socketfile import components
from busproto.subjects import check_name

PORT: Final = 5670
"""The vsock port that guests connect to unless another is named."""

HIGHEST_PORT: Final = 2**32 - 2
"""2**32 - 1 is VMADDR_PORT_ANY of vsock(7)."""

LOOPBACK_CID: Final = 1
"""VMADDR_CID_LOCAL: this machine itself, where the kernel has vsock_loopback."""

HIGHEST_CID: Final = 2**32 - 2
"""2**32 - 1 is VMADDR_CID_ANY."""

HIGHEST_GENERATION: Final = 2**53 - 1
"""The greatest integer that every JSON reader holds exactly."""

WAYS: Final = ("socket", "connect", "cid", "device")
"""Ways in; a unit has one. The file that a VMM connects to, the file that a VMM listens on, AF_VSOCK, a serial line."""

_VSOCK_LOOPBACK: Final = Path("/sys/module/vsock_loopback")

_FITS: Final = {
    "port": ("socket", "connect"),
    "owner": ("socket", "connect", "device"),
    "pid": ("socket", "connect", "device"),
    "any_process": ("socket", "connect", "device"),
}
"""Which ways in each further field belongs to: AF_VSOCK has a context id instead of a process and a file."""


@dataclass(frozen=True, slots=True)
class GuestRequest:
    """A unit as it was asked for. Read from a request or from the units file, by the same rules."""

    name: str
    """The unit's name."""
    tenant: str
    """Who owns it."""
    way: str
    """One of ``WAYS``."""
    generation: int | None = None
    """Which life of this name it is; None to have one chosen."""
    path: str | None = None
    """The VMM's vsock file or the device, for every way but ``cid``."""
    port: int | None = None
    """The vsock port, for ``socket`` and ``connect``."""
    cid: int | None = None
    """The guest's context id, for ``cid``."""
    owner: int | None = None
    """The user that the VMM runs as, where that is not this one."""
    pid: int | None = None
    """The VMM's process, where it is known beforehand."""
    any_process: bool = False
    """Whether connections may come from several processes: no one process is the unit's VMM."""

    @property
    def address(self) -> str:
        """Its way in for people: where busd listens or connects."""
        if self.way == "socket":
            return self.listens_at
        return f"vsock cid {self.cid}" if self.path is None else self.path

    @property
    def listens_at(self) -> str:
        """The file that Firecracker and Cloud Hypervisor connect to when the guest connects to CID 2 at the port."""
        return f"{self.path}_{self.port}"

    def fields(self) -> dict[str, Any]:
        """The request that would say the same."""
        fields = {key: value for key, value in asdict(self).items() if value not in (None, False)}
        way, path = fields.pop("way"), fields.pop("path", None)
        return fields if path is None else {**fields, way: path}


def read(request: Request) -> GuestRequest:
    """The unit that ``request`` asks for. Raises BusError 2008 naming the field that is not acceptable."""
    request.only("name", "tenant", "generation", *WAYS, *_FITS)
    ways = [way for way in WAYS if request.has(way)]
    if len(ways) != 1:
        given = " and ".join(ways) or "none"
        raise request.error(f"a unit has exactly one way in of {', '.join(WAYS)}; this names {given}")
    way = ways[0]
    for field, fitting in _FITS.items():
        if request.has(field) and way not in fitting:
            raise request.error(f"{field} does not go with {way}")
    port = request.optional_number("port", 1, HIGHEST_PORT)
    any_process = request.flag("any_process")
    pid = request.optional_number("pid", 1, 2**31 - 1)
    if any_process and pid is not None:
        raise request.error("pid and any_process exclude each other")
    return GuestRequest(
        name=_name(request, "name", HOST_UNIT),
        tenant=_name(request, "tenant"),
        way=way,
        generation=request.optional_number("generation", 1, HIGHEST_GENERATION),
        path=None if way == "cid" else _path(request, way),
        port=(port or PORT) if way in _FITS["port"] else None,
        cid=_cid(request) if way == "cid" else None,
        owner=request.optional_number("owner", 0, 2**32 - 2),
        pid=pid,
        any_process=any_process,
    )


def _name(request: Request, field: str, own: str = "") -> str:
    """The name ``field``, which must not be ``own``: what the host itself is called."""
    name = request.text(field)
    reason = check_name(name)
    if reason is None and name == own:
        reason = f"must not be '{own}': that is the node itself"
    if reason is not None:
        raise request.error(f"{field} {reason}")
    return name


def _path(request: Request, way: str) -> str:
    path = request.text(way)
    try:
        components(path)
    except ValueError as error:
        raise request.error(f"{way}: {error}") from None
    return path


def _cid(request: Request) -> int:
    cid = request.optional_number("cid", 0, HIGHEST_CID)
    assert cid is not None
    if cid in (0, 2):
        raise request.error(f"cid {cid} is not a guest: 0 is the hypervisor and 2 this host (vsock(7))")
    if cid == LOOPBACK_CID and not _VSOCK_LOOPBACK.exists():
        raise request.error("cid 1 is this machine's own loopback, and this kernel has not loaded vsock_loopback")
    return cid
