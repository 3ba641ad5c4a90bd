"""Every configuration key, once: the dataclasses below are the table.

A field made with ``key(...)`` is a key; its kind, default, meaning and reason stand beside its type. Loading, ``busd
config show`` and ``explain``, the commented example file, the environment variables and the flags are all derived from
here, so a key that is added here is complete (nsq's Options struct is the precedent).

Names follow from the field: ``limits.endpoints`` is ``[limits] endpoints`` in TOML, ``BUSD_LIMITS_ENDPOINTS`` in the
environment and ``--limits-endpoints`` as a flag. There are no exceptions to remember.
"""

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast, get_type_hints

from busd.ops.address import OFF, Listen, Off, TcpAddress
from busd.ops.configdir import default_components_dir
from busd.ops.kinds import (
    Choice,
    Count,
    Kind,
    ListenAddress,
    Name,
    Names,
    NetworkAddress,
    Place,
    PlaceOrOff,
    Seconds,
    Size,
)
from busd.ops.policyfolder import default_policy_dir
from busd.ops.rundir import default_run_dir
from busd.ops.statedir import default_audit_dir, default_keys_dir
from busproto import limits

__all__ = [
    "KEYS",
    "AuditKeys",
    "ComponentKeys",
    "Computed",
    "Config",
    "Drain",
    "GuestKeys",
    "Http",
    "Key",
    "Limits",
    "Log",
    "MetricsKeys",
    "NodeKeys",
    "Origin",
    "PolicyKeys",
    "SocKeys",
    "Tenants",
]

T = TypeVar("T")


class Origin(NamedTuple):
    """Where a value came from."""

    source: str
    """``default``, ``file``, ``environment``, ``flag`` or ``program``."""
    where: str = ""
    """File and line, variable or flag."""

    def __str__(self) -> str:
        return f"{self.source} {self.where}" if self.where else self.source


DEFAULT: Final = Origin("default")


class Computed(NamedTuple):
    """A default that depends on the machine or the user."""

    text: str
    """How it is found, for people."""
    example: Any
    """A value to show in the example file."""
    compute: Callable[[Mapping[str, str]], Any]
    """Finds it, given the environment."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the configuration."""

    name: str
    """``limits.endpoints``."""
    kind: Kind[Any]
    """What it accepts."""
    default: Any
    """Its default, or a ``Computed``."""
    meaning: str
    """What it does, with its unit."""
    why: str
    """Why the default is what it is: a precedent or a measurement."""

    @property
    def section(self) -> str:
        """The TOML table, or "" at the top."""
        return self.name.rpartition(".")[0]

    @property
    def field(self) -> str:
        """The name inside its table."""
        return self.name.rpartition(".")[2]

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "BUSD_" + self.name.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """Its flag."""
        return "--" + self.name.replace(".", "-").replace("_", "-")

    def default_value(self, environ: Mapping[str, str]) -> Any:
        """The default in this environment."""
        return self.default.compute(environ) if isinstance(self.default, Computed) else self.default

    @property
    def default_text(self) -> str:
        """The default for people: a TOML value, or how it is found."""
        return self.default.text if isinstance(self.default, Computed) else self.kind.show(self.default)


def key(kind: Kind[T], default: T | Computed, meaning: str, why: str) -> T:
    """Declare a key. Returns a dataclass field; the type says what the loaded value is."""
    metadata = {"kind": kind, "default": default, "meaning": meaning, "why": why}
    return cast(T, field(metadata=metadata))


def _default_manifest(environ: Mapping[str, str]) -> str:
    return "require" if hasattr(os, "geteuid") and os.geteuid() == 0 else "allow"


def _host_name(environ: Mapping[str, str]) -> str:
    label = re.sub(r"[^a-z0-9_-]", "-", socket.gethostname().partition(".")[0].lower())[:64]
    return label or "node"


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """[node]"""

    name: str = key(
        Name(),
        Computed("the host name's first label", "node-7", _host_name),
        "Name of this node, as peers and operators see it.",
        "The name that the machine already has.",
    )


@dataclass(frozen=True, slots=True)
class Log:
    """[log]"""

    level: str = key(
        Choice("debug", "info", "warning", "error"),
        "info",
        "Least severity that is logged.",
        "At info a healthy node writes one line at start and one at stop, as dbus-broker does.",
    )
    format: str = key(
        Choice("auto", "text", "json"),
        "auto",
        "Form of a log line on standard error. auto: text on a terminal, one JSON object a line elsewhere.",
        "People read terminals, programs read pipes.",
    )


@dataclass(frozen=True, slots=True)
class Http:
    """[http]"""

    listen: Listen = key(  # noqa: RUF009 - declares a field
        ListenAddress(),
        TcpAddress("127.0.0.1", 9850),
        "Where /metrics, /healthz, /readyz and /statusz are served: loopback only, port 0 for any free port. "
        "If the default port is taken, <run_dir>/http.sock is used instead; an address that was set is never replaced.",
        "Prometheus scrapes TCP. Loopback, because the NATS monitoring port, open to all by default, taught why.",
    )


@dataclass(frozen=True, slots=True)
class MetricsKeys:
    """[metrics]"""

    tenants: tuple[str, ...] = key(
        Names(most=64, never="node"),
        (),
        "Tenants that have series of their own on /metrics (busd_tenant_...): what each uses of what it may have, "
        "sent, got, lost and was denied. At most 64, and not node.",
        "Tenants come and go by themselves, and each would add 18 series for ever: those that are worth it are named.",
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """[limits]"""

    endpoints: int = key(
        Count(1, 1_000_000),
        16384,
        "Endpoints attached to this node at once. Each takes one descriptor.",
        "173 agents are a busy node today; dbus-broker's unit asks for 16384 descriptors.",
    )
    connections_per_uid: int = key(
        Count(1, 1_000_000),
        12288,
        "Connections of one user id at once, those still in the handshake included.",
        "Three quarters of limits.endpoints: one user cannot shut out all others (dbus-daemon keeps an eighth).",
    )
    handshake_seconds: float = key(
        Seconds(0.1, 60.0),
        limits.HANDSHAKE_SECONDS,
        "Seconds from accept until hello is complete; then the connection is cut.",
        "nats-server's authentication timeout. libzmq's 30 s let idle peers pile up.",
    )
    frame_seconds: float = key(
        Seconds(1.0, 3600.0),
        30.0,
        "Seconds from a frame's first byte to its last; then the connection is cut.",
        "A peer that trickles bytes would hold memory for ever; a process that was stopped for a while may go on.",
    )
    held_bytes: int = key(
        Size(limits.FRAME_BYTES, 1 << 36),
        256 * limits.MIB,
        "Bytes of half-received frames, of all connections together; who goes beyond that is cut.",
        "Sixteen of the largest frames at once. dbus-broker charges half-received messages too.",
    )
    max_payload: int = key(
        Size(1024, limits.PAYLOAD_BYTES),
        limits.PAYLOAD_BYTES,
        "Largest payload of one message. Announced to each client in welcome.",
        "The protocol's ceiling; larger things travel as references.",
    )
    outbox_bytes: int = key(
        Size(64 * 1024, 1 << 32),
        32 * limits.MIB,
        "Bytes queued for one endpoint that reads too slowly; beyond that it is told of a gap.",
        "Two payloads of the largest size: one being sent while the next waits.",
    )
    outbox_messages: int = key(
        Count(16, 10_000_000),
        65536,
        "Messages queued for one endpoint that reads too slowly; beyond that it is told of a gap.",
        "Bounds what is held for each message beside its bytes; 65536 messages of 100 bytes are 6.25 MiB.",
    )
    subscriptions: int = key(
        Count(1, 1_000_000),
        1024,
        "Subscriptions of one endpoint.",
        "dbus-daemon's max_match_rules_per_connection is 512; ours cost a publisher nothing unless they match.",
    )
    services: int = key(
        Count(1, 1_000_000),
        256,
        "Patterns that one endpoint serves.",
        "A component serves a handful; dbus-daemon allows 512 names per connection.",
    )
    queued_bytes: int = key(
        Size(64 * limits.MIB, 1 << 38),
        1024 * limits.MIB,
        "Bytes queued for all endpoints together, beyond 64 KiB each. The node may use all of it; tenants share what "
        "is left: the first may have half, the second a sixth.",
        "Thirty-two endpoints that do not read at all. dbus-broker's arithmetic keeps any number of greedy tenants "
        "from taking the node's own share.",
    )
    calls_in_flight: int = key(
        Count(1, 1_000_000),
        4096,
        "Calls of one endpoint without a final reply.",
        "At 1 ms a call this is 4 million calls a second; more in flight is a leak in the caller.",
    )


@dataclass(frozen=True, slots=True)
class PolicyKeys:
    """[policy]"""

    dir: Path = key(  # noqa: RUF009 - declares a field
        Place(),
        Computed(
            "/etc/busd/policy.d for root, else $XDG_CONFIG_HOME/busd/policy.d (~/.config)",
            Path("/etc/busd/policy.d"),
            default_policy_dir,
        ),
        "Folder of the policy: files NN-name.policy, read in the order of their names (busd/core/POLICY.md). Without a "
        "folder at the default place the built-in set holds; a folder that was set must be there, and an empty one "
        "denies everything.",
        "Beside the configuration, as Qubes and sudo keep theirs: one file for each concern, so that packages add "
        "files and never edit one.",
    )


@dataclass(frozen=True, slots=True)
class ComponentKeys:
    """[component]"""

    dir: Path = key(  # noqa: RUF009 - declares a field
        Place(),
        Computed(
            "/etc/busd/components.d for root, else $XDG_CONFIG_HOME/busd/components.d (~/.config)",
            Path("/etc/busd/components.d"),
            default_components_dir,
        ),
        "Folder of the components' own settings: NAME.toml says where component NAME comes from, its configuration, "
        "budget and restarts. Without a folder at the default place there are the components that come with busd; a "
        "folder that was set must be there.",
        "Beside the configuration, one file for each component, so that packages add files and never edit one.",
    )


@dataclass(frozen=True, slots=True)
class AuditKeys:
    """[audit]"""

    dir: Path | None = key(  # noqa: RUF009 - declares a field
        PlaceOrOff(),
        Computed(
            "/var/lib/busd/audit for root, else $XDG_STATE_HOME/busd/audit (~/.local/state); <run_dir>/audit if "
            "run_dir was set",
            Path("/var/lib/busd/audit"),
            default_audit_dir,
        ),
        "Folder of the audit log: files that are only appended to, for this user alone, which `bus audit verify` "
        "checks. off: no audit.",
        "On disk, because who did what must outlive a restart. A node with a run directory of its own must not meet "
        "another one's log.",
    )
    key_file: Path | None = key(  # noqa: RUF009 - declares a field
        PlaceOrOff(),
        None,
        "File with a secret (mode 0600, 16 bytes or more) that seals each record with HMAC-SHA-256. off: SHA-256, "
        "which everybody can compute.",
        "A key must be made and kept by someone. Without one, who can write the log can make a false one that fits.",
    )
    max_bytes: int = key(
        Size(limits.MIB, 1 << 34),
        64 * limits.MIB,
        "Bytes of one file of the log; then the next one is begun.",
        "About 150,000 records: read and checked in a few seconds.",
    )
    keep: int = key(
        Count(2, 10_000),
        16,
        "Files of the log that are kept. That older ones are removed is recorded.",
        "With files of 64 MiB, 1 GiB: a day and a half of the most that all guests together can cause.",
    )
    on_failure: str = key(
        Choice("continue", "stop"),
        "continue",
        "What happens when a record cannot be written. continue: the node goes on, records wait, and what there is no "
        "room for is counted and recorded later. stop: the node drains and ends, and does not start.",
        "A full disk must not take the node's agents down, unless the operator says that nothing may go unseen.",
    )


@dataclass(frozen=True, slots=True)
class Tenants:
    """[tenants]"""

    connections: int = key(
        Count(1, 100_000),
        1023,
        "Connections of one unit at once.",
        "Firecracker's own bound for one vsock device.",
    )
    connects_per_second: int = key(
        Count(0, 1_000_000),
        25,
        "Connections a second of one unit, and four times as many at once; more wait in the kernel's queue. 0: no "
        "bound.",
        "One that comes and goes costs the broker 0.3 ms: a flood of them takes less than a hundredth of a core.",
    )
    messages_per_second: int = key(
        Count(0, 100_000_000),
        100_000,
        "Envelopes a second of one tenant; one that sends faster is read more slowly. 0: no bound.",
        "A tenth of what the broker routes: a busy agent sends a hundred a second.",
    )
    bytes_per_second: int = key(
        Size(0, 1 << 40),
        256 * limits.MIB,
        "Bytes a second of one tenant; one that sends faster is read more slowly. 0: no bound.",
        "A tenth of what the broker copies.",
    )
    calls_per_second: int = key(
        Count(0, 10_000_000),
        5_000,
        "Calls a second of one tenant; one that calls faster is read more slowly. 0: no bound.",
        "A call costs the broker ten times what a message does, and a service that tenants share far more.",
    )
    denials_per_second: int = key(
        Count(0, 1_000_000),
        50,
        "Denied requests a second of one tenant or foreign user; one that asks for more is read more slowly. 0: no "
        "bound.",
        "Who asks for what he may not have is wrong or hostile (Qubes OS has no such bound, and its issue 10906).",
    )
    loop_percent: int = key(
        Count(1, 100),
        20,
        "Per cent of the routing loop's time that one tenant may take.",
        "Whatever a tenant finds to do that is dear, others keep four fifths.",
    )


@dataclass(frozen=True, slots=True)
class GuestKeys:
    """[guests]"""

    vsock: int = key(
        Count(0, 2**32 - 2),
        0,
        "Port of the node's AF_VSOCK listener, for guests that were added with a CID (bus guest add --cid). 0: none.",
        "Firecracker and Cloud Hypervisor have a unix socket for each guest and need none; QEMU with vhost-vsock does, "
        "and then 5670 is where guests look.",
    )


@dataclass(frozen=True, slots=True)
class SocKeys:
    """[soc]"""

    listen: TcpAddress | Off = key(  # noqa: RUF009 - declares a field
        NetworkAddress(),
        OFF,
        "Where cards and other peers of the network attach, over TCP with CURVE: address and port, 5670 where there is "
        "no reason for another. Only enrolled keys get in (bus keys). off: nothing listens.",
        "A node without configuration opens nothing to the network.",
    )
    keys_dir: Path = key(  # noqa: RUF009 - declares a field
        Place(),
        Computed(
            "/var/lib/busd/keys for root, else $XDG_STATE_HOME/busd/keys (~/.local/state); <run_dir>/keys if run_dir "
            "was set",
            Path("/var/lib/busd/keys"),
            default_keys_dir,
        ),
        "Folder of the broker's own key pair and of the enrolled keys, for this user alone. Made when it is needed.",
        "On disk, because cards know the broker by its key. A node with a run directory of its own must not meet "
        "another one's keys.",
    )


@dataclass(frozen=True, slots=True)
class Drain:
    """[drain]"""

    grace_seconds: float = key(
        Seconds(0.0, 600.0),
        5.0,
        "Seconds that calls in flight have to finish when the node stops. A second signal ends it at once.",
        "Below the 10 s after which container engines kill; calls on a node take milliseconds.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The node's configuration, complete and checked. Made by ``busd.ops.config``."""

    run_dir: Path = key(  # noqa: RUF009 - declares a field
        Place(),
        Computed(
            "/run/busd for root, else $XDG_RUNTIME_DIR/busd, else /tmp/busd-UID", Path("/run/busd"), default_run_dir
        ),
        "Directory of the node's sockets (host.sock) and lock. One busd per directory.",
        "A directory of its own, so that a container mounts the directory and never pins a dead socket file.",
    )
    loop: str = key(
        Choice("auto", "uvloop", "asyncio"),
        "auto",
        "Event loop. auto: uvloop where it is installed.",
        "uvloop about doubles what the routing loop does in a second.",
    )
    busy_poll_us: int = key(
        Count(0, 1000),
        120,
        "Microseconds that the loop looks for the next frame before it sleeps, while frames come within 300 us of each "
        "other; if none comes, it lets eight pass before it looks again. 0 sleeps at once.",
        "Halves the round trip of calls in quick succession, for at most this much of a core per frame; a quiet bus "
        "costs nothing. Linux has the same for sockets: net.core.busy_poll.",
    )
    manifest: str = key(
        Choice("require", "allow"),
        Computed("require for root, else allow", "require", _default_manifest),
        "What happens to an endpoint that does not give component, owner and purpose. require: it is refused. allow: "
        "it is let in, and shown as unowned.",
        "A machine's node must be able to say whose each agent is and what for; a user's own is for trying things.",
    )
    components: tuple[str, ...] = key(
        Names(),
        (),
        "Components that the node starts by itself and keeps running: a name that has a file in component.dir, or one "
        "that comes with busd.",
        "A node without configuration runs the bus and nothing else.",
    )
    node: NodeKeys
    log: Log
    http: Http
    metrics: MetricsKeys
    limits: Limits
    tenants: Tenants
    guests: GuestKeys
    soc: SocKeys
    policy: PolicyKeys
    component: ComponentKeys
    audit: AuditKeys
    drain: Drain
    origins: Mapping[str, Origin]
    """Where each key's value came from."""

    def value(self, name: str) -> Any:
        """The value of key ``name``."""
        section, _, leaf = name.rpartition(".")
        return getattr(getattr(self, section) if section else self, leaf)

    def origin(self, name: str) -> Origin:
        """Where the value of key ``name`` came from."""
        return self.origins[name]


def _collect(cls: type, prefix: str = "") -> dict[str, Key]:
    hints = get_type_hints(cls)
    keys: dict[str, Key] = {}
    for item in fields(cls):
        name = prefix + item.name
        if item.metadata:
            keys[name] = Key(name, **item.metadata)
        elif is_dataclass(hints[item.name]):
            keys |= _collect(cast(type, hints[item.name]), name + ".")
    return keys


KEYS: Final[Mapping[str, Key]] = _collect(Config)
"""Every key by name; those outside a table first, as TOML needs them."""

SECTIONS: Final[Mapping[str, type]] = {
    name: cast(type, kind) for name, kind in get_type_hints(Config).items() if is_dataclass(kind)
}
"""The tables and their dataclasses."""


def assemble(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> Config:
    """A ``Config`` of ``values``, which must hold every key."""
    sections = {
        name: kind(**{k.field: values[k.name] for k in KEYS.values() if k.section == name})
        for name, kind in SECTIONS.items()
    }
    top = {k.field: values[k.name] for k in KEYS.values() if not k.section}
    return Config(**top, **sections, origins=origins)
