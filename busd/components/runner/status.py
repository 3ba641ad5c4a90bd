"""What a runner says of itself, each second and at each change: its form, for who sends it and for who reads it."""

from typing import Any, Final, Literal

import msgspec

__all__ = ["STATUS_SECONDS", "Budget", "Health", "State", "Status", "control_subject", "status_subject"]

STATUS_SECONDS: Final = 1.0
"""Between two statuses of a runner that does not change."""

State = Literal["standby", "starting", "prepared", "ready", "draining", "drained", "stopped", "failed"]
"""Where a runner is: without a component, with one that gets ready, is ready to serve, serves, lets its last calls end,
has handed over, has stopped; or has failed, and then it ends."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the component says of its health."""

    ok: bool
    detail: str = ""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What the component may use."""

    memory_bytes: int
    cpu_percent: float
    """Of one core, over 10 s."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One status. All of it is the runner's own word; what it is worth, its origin shows."""

    instance: str
    """12 hex digits: which runner."""
    component: str
    version: str
    owner: str
    purpose: str
    source: str
    """``module:Class``."""
    state: State
    reason: str
    """Why it is in that state, where that is worth a word; above all of ``failed``."""
    stateful: bool
    """Whether it has something to hand over."""
    standby: bool
    """Whether it was started to wait until it is told to serve."""
    health: Health
    pid: int
    seconds: float
    """Since the runner started."""
    memory_bytes: int
    """In RAM."""
    cpu_percent: float
    """Of one core, over the last 10 s."""
    budget: Budget
    placements: list[str]
    """Boundaries where it may run."""
    serves: list[str]
    publishes: list[str]
    operations: dict[str, dict[str, Any]]
    """By name: ``{calls, in_flight, errors: {code: count}, seconds: {count, sum, buckets: [[le, count], ...]}}``."""
    metrics: Any = ()
    """Of its own: a list of ``{name, kind, help, labels: [name, ...], samples: [[[value, ...], figure], ...]}``. Who
    reads it leaves out what is ill-formed, and takes the rest."""


def control_subject(component: str, instance: str) -> str:
    """Where the runner ``instance`` of ``component`` is told what to do."""
    return f"component.{component}.{instance}"


def status_subject(component: str, instance: str) -> str:
    """Where the runner ``instance`` of ``component`` publishes its status."""
    return f"component.{component}.{instance}.status"
