"""What identity was proven of whoever is at the other end of a connection."""

from dataclasses import dataclass
from typing import Final

NODE_TENANT: Final = "node"
"""The node's own subject space."""

BOUNDARIES: Final = ("guest", "host", "soc")
"""The sides of the node from which an endpoint can attach."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Identity from the kernel or the hypervisor, never from the client. All that is decided is decided by this."""

    boundary: str
    """``guest``, ``host`` or ``soc``: fixed by the listener that the connection came through."""
    tenant: str
    """Owner; its subject space is the one the endpoint speaks in."""
    unit: str
    """VM, container, card or host that can be torn down whole."""
    generation: int
    """Which life of the unit this is."""
    uid: int | None = None
    """User id of the peer process (SO_PEERCRED), where the boundary has one."""
    gid: int | None = None
    """Its primary group."""
    pid: int | None = None
    """Its process id when it connected."""
    groups: tuple[int, ...] = ()
    """Its supplementary groups (SO_PEERGROUPS)."""
    started: int | None = None
    """When that process started, in clock ticks since boot: with the pid it names one process and no later one."""
    cid: int | None = None
    """Context id of the guest's AF_VSOCK connection."""
    key: str | None = None
    """CURVE public key that the peer proved to hold, in Z85."""

    @property
    def is_node(self) -> bool:
        """Whether it belongs to the node itself, and so speaks in the node's own space."""
        return self.tenant == NODE_TENANT

    @property
    def is_own_guest(self) -> bool:
        """Whether it is a guest that the node itself owns: a service VM."""
        return self.boundary == "guest" and self.tenant == NODE_TENANT

    def describe(self) -> dict[str, object]:
        """The principal as ``$bus.inspect`` shows it."""
        return {
            "boundary": self.boundary,
            "tenant": self.tenant,
            "unit": self.unit,
            "generation": self.generation,
            "uid": self.uid,
            "gid": self.gid,
            "pid": self.pid,
            "groups": list(self.groups),
            "started": self.started,
            "cid": self.cid,
            "key": self.key,
        }
