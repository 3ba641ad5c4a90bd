"""What was proven of an endpoint, and by what: the kernel, the hypervisor, a key; never its own word."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from buscli.units import user_name

UNIT_BY: Final = {
    "host": "the node itself",
    "guest": "the unit as it was registered (bus guest inspect {unit})",
    "soc": "the key as it was enrolled (bus keys list)",
}
"""What stands behind tenant, unit and generation, by boundary."""


def proofs(principal: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Each thing that is proven of ``principal``, its value, and where that comes from."""
    boundary = principal["boundary"]
    whose = " of the VMM's process" if boundary == "guest" else ""
    registered = UNIT_BY[boundary].format(unit=principal["unit"])
    yield "boundary", boundary, "the listener that it came through"
    yield "tenant", principal["tenant"], registered
    yield "unit", f"{principal['unit']}, generation {principal['generation']}", registered
    if principal["uid"] is not None:
        yield "user", _named(principal["uid"]), f"SO_PEERCRED{whose}"
    if principal["gid"] is not None:
        groups = ", ".join(map(str, principal["groups"]))
        yield "groups", f"{principal['gid']}" + (f", and {groups}" if groups else ""), f"SO_PEERCRED{whose}"
    if principal["pid"] is not None:
        yield "process", f"{principal['pid']}", f"SO_PEERCRED{whose}, when it connected"
    if principal["started"] is not None:
        said = f"{principal['started']} ticks after boot"
        yield "started", said, "/proc: with the process id it names one process and no later one"
    if principal["cid"] is not None:
        yield "cid", f"{principal['cid']}", "AF_VSOCK, from the hypervisor"
    if principal["key"] is not None:
        yield "key", principal["key"], "CURVE: it holds the secret key"


def _named(uid: int) -> str:
    name = user_name(uid)
    return f"{uid}" if name == uid else f"{uid} ({name})"
