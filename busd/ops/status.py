"""What the node says of itself, in one frozen object: all that metrics, health, readiness and /statusz read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from busd.core.statistics import BusStatistics
from busd.ops.auditfile import AuditStatistics
from busd.ops.descriptors import Descriptors
from busd.ops.lag import LagStatistics
from busd.ops.policyadmin import PolicyAdminStatistics

__all__ = [
    "ComponentStatistics",
    "EdgeStatistics",
    "HttpFigures",
    "NodeStatistics",
    "Observed",
    "OperationStatistics",
    "OwnMetric",
    "SocStatistics",
    "State",
    "ZapStatistics",
    "document",
]


class State(StrEnum):
    """Where in its life a node is."""

    STARTING = "starting"
    """Not all listeners are open yet."""
    READY = "ready"
    """Clients can attach and call."""
    DRAINING = "draining"
    """Listeners are closed; calls in flight are finishing."""
    STOPPED = "stopped"
    """Nothing is left."""


@dataclass(frozen=True, slots=True)
class EdgeStatistics:
    """Connections, before and beside the endpoints that they become."""

    accepted: Mapping[str, int]
    """Connections accepted, by boundary."""
    refused: Mapping[tuple[str, str], int]
    """Connections refused before they could say a word, by boundary and reason."""
    handshaking: Mapping[str, int]
    """Connections that have not said hello, by boundary."""
    held_bytes: Mapping[str, int]
    """Bytes of half-received frames, by boundary."""


class ZapStatistics(Protocol):
    """The SoC listener's ZAP handler: a frozen dataclass with at least these."""

    @property
    def requests(self) -> int:
        """Keys asked about."""

    @property
    def denied(self) -> int:
        """Of these, keys that were not let in."""

    @property
    def malformed(self) -> int:
        """Questions that were not as they should be; denied too."""


class SocStatistics(Protocol):
    """The SoC boundary's listener: a frozen dataclass with at least these. Its connections are in `EdgeStatistics`."""

    @property
    def address(self) -> str:
        """Where it listens."""

    @property
    def state(self) -> str:
        """``listening``, ``stopped``, or why it closed."""

    @property
    def unproven(self) -> int:
        """Handshakes that failed."""

    @property
    def lease_expiries(self) -> int:
        """Sessions that ended because nothing came any more."""

    @property
    def discarded(self) -> int:
        """Messages, and parts of messages, that were dropped."""

    @property
    def late_wakeups(self) -> int:
        """Messages that libzmq had not told of."""

    @property
    def zap(self) -> ZapStatistics:
        """The ZAP handler."""


class OperationStatistics(Protocol):
    """One operation of a component, over all instances that there were: a frozen dataclass with at least these."""

    @property
    def calls(self) -> int:
        """Calls that were begun."""

    @property
    def in_flight(self) -> int:
        """Calls that it works on."""

    @property
    def errors(self) -> Mapping[str, int]:
        """Calls that ended with an error, by code."""

    @property
    def count(self) -> int:
        """Calls whose time was taken."""

    @property
    def seconds(self) -> float:
        """That time, all together."""

    @property
    def buckets(self) -> Sequence[tuple[float, int]]:
        """Upper bound in seconds, and calls that took no longer."""


class OwnMetric(Protocol):
    """A metric of a component's own: a frozen dataclass with at least these, all of it within bounds."""

    @property
    def name(self) -> str:
        """Without the component's; a counter's ends in ``_total``."""

    @property
    def kind(self) -> str:
        """``counter`` or ``gauge``."""

    @property
    def help(self) -> str:
        """What it counts."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of its labels."""

    @property
    def samples(self) -> Mapping[tuple[str, ...], float]:
        """Its values, by the values of the labels."""


class HttpFigures(Protocol):
    """The HTTP server: a frozen dataclass with at least these."""

    @property
    def connections(self) -> int:
        """Open now."""

    @property
    def connections_limit(self) -> int:
        """Most that can be."""

    @property
    def requests(self) -> int:
        """Answered, whatever the answer."""

    @property
    def foreign_hosts(self) -> int:
        """Refused because of their Host header."""

    @property
    def foreign_sites(self) -> int:
        """Refused because a browser sent them for another site's page."""

    @property
    def evicted(self) -> int:
        """Connections closed to make room for a newer one."""

    @property
    def viewers(self) -> int:
        """Streams of the console that are open now."""

    @property
    def viewers_evicted(self) -> int:
        """Streams of the console that were cut off."""


class ComponentStatistics(Protocol):
    """A component that the node keeps running: a frozen dataclass with at least these."""

    @property
    def name(self) -> str:
        """The component's."""

    @property
    def state(self) -> str:
        """``ready``, ``failed``, ``stopped``, or what it is on its way through."""

    @property
    def reason(self) -> str:
        """Why it is in that state, if there is something to say."""

    @property
    def placement(self) -> str:
        """Where it serves: ``host``, ``soc`` or ``guest:UNIT``; empty while nothing of it runs."""

    @property
    def restarts(self) -> int:
        """Times it was started again because it had ended."""

    @property
    def cut_off(self) -> int:
        """Times it was cut off: it lied, hung, or was over its budget."""

    @property
    def memory_bytes(self) -> int:
        """Resident memory of its process."""

    @property
    def cpu_percent(self) -> float:
        """Of one core, over 10 s."""

    @property
    def budget_memory_bytes(self) -> int:
        """Memory that it may use; 0 while that is not known."""

    @property
    def budget_cpu_percent(self) -> float:
        """The same of CPU."""

    @property
    def healthy(self) -> bool:
        """Whether it says that it is well."""

    @property
    def operations(self) -> Mapping[str, OperationStatistics]:
        """Its operations, by name."""

    @property
    def metrics(self) -> Sequence[OwnMetric]:
        """Those of its own."""

    @property
    def metrics_refused(self) -> int:
        """Of its own, that were not taken."""


FAILED: Final = "failed"
"""State of a component that is not started any more by itself."""

STOPPED: Final = "stopped"
"""State of a component that was stopped: by an operator, or, with a reason, because it was over its budget."""


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """A node, at one moment."""

    node: str
    """Its name."""
    version: str
    """Of busd."""
    protocol: int
    """Newest protocol version spoken."""
    python: str
    """Of the interpreter."""
    loop: str
    """``uvloop`` or ``asyncio``."""
    pid: int
    """Of this process."""
    state: State
    """Where in its life it is."""
    uptime_seconds: float
    """Since it started."""
    run_dir: str
    """Its run directory."""
    addresses: Mapping[str, str]
    """Open listeners: what they are for (``host``, ``http``) and where."""
    endpoints_limit: int
    """Endpoints that can be attached at once, as configuration and descriptors allow."""
    components: Mapping[str, ComponentStatistics]
    """Components that this node keeps running, by name."""
    bus: BusStatistics
    """The bus."""
    throttled: Mapping[str, int]
    """Accounts that have overdrawn a rate at this moment, by rate."""
    policy: PolicyAdminStatistics
    """The policy in effect, and its reloads."""
    edge: EdgeStatistics
    """Its connections."""
    lag: LagStatistics
    """The event loop's lateness."""
    descriptors: Descriptors
    """The process's descriptor limit."""
    configured: Mapping[str, str]
    """Configuration keys that are not at their default, and where each was set."""
    audit: AuditStatistics | None = None
    """The audit log; None where there is none."""
    soc: SocStatistics | None = None
    """The listener of the SoC boundary; None where there is none."""
    libzmq: str = ""
    """Version of libzmq."""
    http: HttpFigures | None = None
    """The HTTP server that is asked."""
    unsupervised: str = ""
    """Why components are not watched, or none is kept running at all; empty if they are."""

    @property
    def degraded(self) -> dict[str, str]:
        """Components that do not serve and will not by themselves, and why. The bus does without them."""
        found = {"supervisor": self.unsupervised} if self.unsupervised else {}
        return found | {
            name: f"{component.state}: {component.reason}" if component.reason else component.state
            for name, component in self.components.items()
            if component.state == FAILED or (component.state == STOPPED and component.reason)
        }


class Observed(Protocol):
    """Whatever has a node's statistics."""

    def statistics(self) -> NodeStatistics:
        """The figures of this moment."""
        ...


def document(value: Any) -> Any:
    """``value`` as JSON has it: dataclasses become objects, and a mapping by tuples one of objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: document(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        result: dict[str, Any] = {}
        for key, item in value.items():
            if isinstance(key, tuple):
                *path, last = map(str, key or ("",))
                place = result
                for step in path:
                    place = place.setdefault(step, {})
                place[last] = document(item)
            else:
                result[str(key)] = document(item)
        return result
    if isinstance(value, (list, tuple)):
        return [document(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
