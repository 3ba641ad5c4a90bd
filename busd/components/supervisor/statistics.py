"""A component's figures over all its instances: what one counted is not lost when another takes its place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from busd.components.supervisor.ownmetrics import LAST_WORDS, OwnMetric
from busd.components.supervisor.runners import Operation, Seconds

__all__ = ["LAST_WORDS", "ComponentStatistics", "OperationTotals", "Totals"]


NAMES: Final = 256
"""Operations that are remembered of one component, over all its versions; of one operation error codes, and buckets."""


@dataclass(frozen=True, slots=True)
class OperationTotals:
    """One operation's figures over all instances."""

    calls: int = 0
    in_flight: int = 0
    """Of the instances that run."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """By code."""
    count: int = 0
    """Calls whose time is in ``buckets``."""
    seconds: float = 0.0
    """All of them together."""
    buckets: tuple[tuple[float, int], ...] = ()
    """(upper bound in seconds, calls up to it), bounds ascending."""

    def row(self) -> dict[str, Any]:
        """As a plain map, in the form of a runner's status."""
        return {
            "calls": self.calls,
            "in_flight": self.in_flight,
            "errors": dict(self.errors),
            "seconds": {
                "count": self.count,
                "sum": self.seconds,
                "buckets": [list(bucket) for bucket in self.buckets],
            },
        }


@dataclass(frozen=True, slots=True)
class ComponentStatistics:
    """One component, as it stands."""

    name: str
    state: str
    reason: str
    """Why it is in that state, if there is something to say."""
    placement: str
    """``host``, ``soc`` or ``guest:UNIT``; empty while nothing of it runs."""
    supervised: bool
    restarts: int
    cut_off: int
    memory_bytes: int
    cpu_percent: float
    """Of one core, over the last 10 s."""
    budget_memory_bytes: int
    """0 while it is not known."""
    budget_cpu_percent: float
    operations: Mapping[str, OperationTotals]
    log_lines: int
    healthy: bool = False
    """Whether it says that it is well; False while nothing of it serves."""
    metrics: tuple[OwnMetric, ...] = ()
    """Of its own."""
    metrics_refused: int = 0
    """Of its own, that were not taken: ill-formed, or too many."""


class Totals:
    """Adds up the operations of a component's instances, as their statuses come."""

    __slots__ = ("_before", "_current", "_left")

    def __init__(self) -> None:
        self._before: dict[str, Operation] = {}
        """Of the instances that are over."""
        self._current: dict[str, Mapping[str, Operation]] = {}
        """By instance."""
        self._left: dict[str, Mapping[str, Operation]] = {}
        """The same of those that left last, whose last words may still come."""

    def hear(self, instance: str, operations: Mapping[str, Operation]) -> None:
        """``instance`` has counted ``operations`` so far. One that counts from 0 again has begun anew."""
        last = self._current.get(instance) or self._left.pop(instance, None)
        if last is not None and any(
            name not in operations or operations[name].calls < operation.calls for name, operation in last.items()
        ):
            self._keep(last)
        self._current[instance] = operations

    def leave(self, instance: str) -> None:
        """``instance`` is over; what it counted stays."""
        last = self._current.pop(instance, None)
        if last is not None:
            self._left[instance] = last
        while len(self._left) > LAST_WORDS:
            self._keep(self._left.pop(next(iter(self._left))))

    def hear_last(self, instance: str, operations: Mapping[str, Operation]) -> None:
        """What ``instance`` had counted when it left, if it is known."""
        last = self._left.get(instance)
        if last is not None and all(
            name in operations and operations[name].calls >= operation.calls for name, operation in last.items()
        ):
            self._left[instance] = operations

    def totals(self) -> dict[str, OperationTotals]:
        """Every operation that an instance ever had, by name."""
        sums: dict[str, list[Operation]] = {}
        for operations in (self._before, *self._current.values()):
            for name, operation in operations.items():
                sums.setdefault(name, []).append(operation)
        for operations in self._left.values():
            for name, operation in operations.items():
                sums.setdefault(name, []).append(msgspec.structs.replace(operation, in_flight=0))
        return {name: _total(operations) for name, operations in sorted(sums.items())}

    def _keep(self, operations: Mapping[str, Operation]) -> None:
        for name, operation in operations.items():
            if name not in self._before and len(self._before) >= NAMES:
                continue
            before = self._before.get(name)
            total = _total([operation] if before is None else [before, operation])
            self._before[name] = Operation(
                calls=total.calls,
                in_flight=0,
                errors=dict(total.errors),
                seconds=Seconds(count=total.count, sum=total.seconds, buckets=list(total.buckets)),
            )


def _total(operations: Iterable[Operation]) -> OperationTotals:
    calls = in_flight = count = 0
    seconds = 0.0
    errors: dict[str, int] = {}
    buckets: dict[float, int] = {}
    for operation in operations:
        calls += operation.calls
        in_flight += operation.in_flight
        count += operation.seconds.count
        seconds += operation.seconds.sum
        for code, number in operation.errors.items():
            if code not in errors and len(errors) >= NAMES:
                continue
            errors[code] = errors.get(code, 0) + number
        for bound, number in operation.seconds.buckets:
            if bound not in buckets and len(buckets) >= NAMES:
                continue
            buckets[bound] = buckets.get(bound, 0) + number
    return OperationTotals(calls, in_flight, errors, count, seconds, tuple(sorted(buckets.items())))
