"""The board of runners: every runner that is attached to the bus, by the endpoint that the broker proved.

What a runner says of itself is read within bounds and kept beside what is proven: its endpoint, its boundary and its
unit. Two endpoints that say they are the same instance are told apart by that.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from busd.components.runner.status import Status, control_subject
from busd.components.supervisor.ownmetrics import Metrics, read_metrics
from busproto.errors import BusError, Code
from busproto.limits import MANIFEST_SUBJECTS, PURPOSE_BYTES
from busproto.subjects import check_name

__all__ = ["Board", "Operation", "Runner", "Seconds", "read_status"]

RUNNERS: Final = 512
"""Runners on the board. A node has dozens of components; what goes beyond is not taken in, and counted."""

STATUS_BYTES: Final = 256 << 10
"""One status: 128 operations with their histograms have about a tenth of it."""

FIGURES: Final = 64
"""Error codes of one operation, and buckets of its histogram: twice what any has."""

_INSTANCE: Final = re.compile(r"[0-9a-f]{12}")


class Seconds(msgspec.Struct, frozen=True):
    """A histogram of how long calls took: ``buckets`` are (upper bound in seconds, calls up to it)."""

    count: int = 0
    sum: float = 0.0
    buckets: list[tuple[float, int]] = []


class Operation(msgspec.Struct, frozen=True):
    """One operation's figures since its instance began."""

    calls: int = 0
    in_flight: int = 0
    errors: dict[str, int] = {}
    seconds: Seconds = Seconds()


_decoder: Final = msgspec.msgpack.Decoder(Status)


def read_status(subject: str, data: bytes) -> tuple[Status, dict[str, Operation]]:
    """The status in a message on ``component.NAME.INSTANCE.status``, and the figures of its operations.

    Raises ValueError saying what is wrong with it.
    """
    if len(data) > STATUS_BYTES:
        raise ValueError(f"a status of {len(data)} bytes is longer than {STATUS_BYTES}")
    try:
        status = _decoder.decode(data)
        operations = msgspec.convert(status.operations, dict[str, Operation])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    _, name, instance, *_ = subject.split(".")
    if (status.component, status.instance) != (name, instance):
        raise ValueError(f"it is of {status.component[:64]!a} {status.instance[:64]!a}, and came on {subject}")
    if check_name(name) is not None or _INSTANCE.fullmatch(instance) is None:
        raise ValueError(f"{subject} does not end in an instance: 12 hexadecimal digits")
    for field, limit in (("version", 64), ("owner", 64), ("purpose", PURPOSE_BYTES), ("source", 256), ("reason", 1024)):
        if len(getattr(status, field)) > limit:
            raise ValueError(f"{field} is longer than {limit}")
    if max(len(status.serves), len(status.publishes), len(status.operations)) > MANIFEST_SUBJECTS:
        raise ValueError(f"it names more than {MANIFEST_SUBJECTS} subjects")
    if any(max(len(each.errors), len(each.seconds.buckets)) > FIGURES for each in operations.values()):
        raise ValueError(f"one of its operations has more than {FIGURES} error codes, or buckets")
    return status, operations


class Runner:
    """One runner: what it said last, and what is proven of it."""

    __slots__ = ("boundary", "endpoint", "heard", "metrics", "operations", "status", "tenant", "unit")

    def __init__(self, status: Status, endpoint: str, boundary: str, tenant: str, unit: str, now: float) -> None:
        self.status = status
        self.operations: dict[str, Operation] = {}
        self.metrics: tuple[Metrics, int] = ({}, 0)
        """Those of its own, and how many were not taken."""
        self.endpoint = endpoint
        self.boundary = boundary
        self.tenant = tenant
        self.unit = unit
        self.heard = now
        """When its last status came."""

    @property
    def component(self) -> str:
        """Its component, as it says."""
        return self.status.component

    @property
    def instance(self) -> str:
        """Its instance, as it says."""
        return self.status.instance

    @property
    def placement(self) -> str:
        """Where it is, as proven: ``host``, ``soc`` or ``guest:UNIT``."""
        return f"guest:{self.unit}" if self.boundary == "guest" else self.boundary

    @property
    def control(self) -> str:
        """The subject on which it takes requests."""
        return control_subject(self.component, self.instance)

    def short(self) -> dict[str, Any]:
        """The row of one that does not serve."""
        return {
            "instance": self.instance,
            "endpoint": self.endpoint,
            "placement": self.placement,
            "version": self.status.version,
            "state": self.status.state,
        }


class Board:
    """Every runner that is known, by its endpoint."""

    def __init__(self) -> None:
        self._runners: dict[str, Runner] = {}
        self._departed: deque[tuple[str, str, str]] = deque(maxlen=RUNNERS)
        """Endpoint, component and instance of those who left: their last status may still be on the way here."""
        self.refused = 0
        """Statuses that were not taken: ill-formed, or too many runners."""

    def __iter__(self) -> Iterator[Runner]:
        return iter(list(self._runners.values()))

    def __len__(self) -> int:
        return len(self._runners)

    def hear(
        self, subject: str, data: bytes, endpoint: str, boundary: str, tenant: str, unit: str, now: float
    ) -> Runner:
        """Take in the status ``data`` that ``endpoint`` published on ``subject``. Returns its runner.

        Raises BusError 2008 for a status that is not taken; it is counted.
        """
        try:
            status, operations = read_status(subject, data)
            runner = self._runners.get(endpoint)
            if any(endpoint == left for left, _, _ in self._departed):
                raise ValueError(f"endpoint {endpoint} has left")
            if runner is None and len(self._runners) >= RUNNERS:
                raise ValueError(f"there are {RUNNERS} runners already")
            if runner is not None and (runner.component, runner.instance) != (status.component, status.instance):
                raise ValueError(f"endpoint {endpoint} is {runner.component} {runner.instance} already")
            other = self.instance(status.component, status.instance)
            if other is not None and other.endpoint != endpoint:
                raise ValueError(f"endpoint {other.endpoint} is {status.component} {status.instance} already")
        except ValueError as error:
            self.refused += 1
            raise BusError(Code.REQUEST_INVALID, subject=subject, reason=str(error)) from None
        if runner is None:
            runner = self._runners[endpoint] = Runner(status, endpoint, boundary, tenant, unit, now)
        runner.status = status
        runner.operations = operations
        runner.metrics = read_metrics(status.metrics)
        runner.heard = now
        return runner

    def leave(self, endpoint: str) -> Runner | None:
        """``endpoint`` is gone, and runs nothing any more. Returns the runner that it was."""
        runner = self._runners.pop(endpoint, None)
        if runner is not None:
            self._departed.append((endpoint, runner.component, runner.instance))
        elif all(endpoint != left for left, _, _ in self._departed):
            self._departed.append((endpoint, "", ""))
        return runner

    def last_words(self, subject: str, data: bytes, endpoint: str) -> Mapping[str, Operation] | None:
        """The figures in a status that comes after ``endpoint`` has left; None if it is none of the runner's there."""
        try:
            status, operations = read_status(subject, data)
        except ValueError:
            return None
        return operations if (endpoint, status.component, status.instance) in self._departed else None

    def find(self, endpoint: str) -> Runner | None:
        """The runner at ``endpoint``."""
        return self._runners.get(endpoint)

    def instance(self, component: str, instance: str) -> Runner | None:
        """The runner that is ``instance`` of ``component``."""
        return next((r for r in self._runners.values() if r.instance == instance and r.component == component), None)

    def of(self, component: str) -> list[Runner]:
        """The runners of ``component``, in order of arrival."""
        return [runner for runner in self._runners.values() if runner.component == component]

    def components(self) -> list[str]:
        """The components that have a runner."""
        return list(dict.fromkeys(runner.component for runner in self._runners.values()))

    def excuse(self, seconds: float) -> None:
        """Nobody could be heard for ``seconds``: count that time as nobody's silence."""
        for runner in self._runners.values():
            runner.heard += seconds
