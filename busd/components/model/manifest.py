"""What a component says of itself: who made it, why it exists, what it offers, where it may run and what it may use."""

import keyword
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Literal, get_args

from busd.components.model.operation import Declaration, Event, Request, Stream
from busproto.errors import BusError
from busproto.limits import MANIFEST_SUBJECTS, NAME_BYTES, PURPOSE_BYTES
from busproto.subjects import check_name, check_pattern, check_subject

__all__ = ["LIFECYCLE", "Budget", "Manifest", "Placement"]

Placement = Literal["host", "soc", "guest"]
"""A boundary at which a component may run."""

PLACEMENTS: Final[tuple[Placement, ...]] = get_args(Placement)

LIFECYCLE: Final = frozenset(
    {"context", "draining", "hand_over", "health", "manifest", "run", "start", "stop", "take_over"}
)
"""Names of a component that are not its operations'."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a component may use before it is stopped. Raises ValueError for what is no amount."""

    memory_bytes: int = 256 << 20
    """In RAM."""
    cpu_percent: float = 100.0
    """Of one core, over 10 s."""

    def __post_init__(self) -> None:
        if type(self.memory_bytes) is not int or self.memory_bytes < 1:
            raise ValueError(f"memory_bytes must be a whole number above 0, not {self.memory_bytes!r}")
        if type(self.cpu_percent) not in (int, float) or not (isfinite(self.cpu_percent) and self.cpu_percent > 0):
            raise ValueError(f"cpu_percent must be a number above 0, not {self.cpu_percent!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A component's manifest. Raises ValueError, naming the field, for what cannot be one."""

    component: str
    """Its name, and the first token of its subjects: a-z, 0-9, - and _."""
    version: str
    owner: str
    """Who is asked about it: a name as ``component``."""
    purpose: str
    """Why it exists, in one sentence."""
    operations: tuple[Declaration, ...]
    """What it offers. A request or stream is a method of the same name."""
    placements: tuple[Placement, ...] = PLACEMENTS
    """Where it may run."""
    needs: tuple[str, ...] = ()
    """Subjects (or patterns) that it calls or subscribes to."""
    budget: Budget = field(default_factory=Budget)
    state: type[Any] | None = None
    """The type of what it hands over to its successor; None: nothing."""

    def __post_init__(self) -> None:
        for key in ("component", "owner"):
            if (reason := check_name(getattr(self, key))) is not None:
                raise ValueError(f"{key} {reason}, not {getattr(self, key)!r}")
        for key, limit in (("version", NAME_BYTES), ("purpose", PURPOSE_BYTES)):
            text = getattr(self, key)
            if not isinstance(text, str) or not 0 < len(text.encode()) <= limit:
                raise ValueError(f"{key} must be a text of 1 to {limit} bytes, not {text!r}")
        for key in ("operations", "placements", "needs"):
            if not isinstance(getattr(self, key), tuple):
                raise ValueError(f"{key} must be a tuple, not {type(getattr(self, key)).__name__}")
        self._check_operations()
        unknown = [place for place in self.placements if place not in PLACEMENTS]
        if unknown or not self.placements or len(set(self.placements)) < len(self.placements):
            raise ValueError(f"placements must be some of {', '.join(PLACEMENTS)}, each once, not {self.placements!r}")
        if len(self.needs) > MANIFEST_SUBJECTS:
            raise ValueError(f"needs has {len(self.needs)} patterns; at most {MANIFEST_SUBJECTS}")
        for pattern in self.needs:
            if not isinstance(pattern, str):
                raise ValueError(f"needs must hold texts, not {pattern!r}")
            try:
                check_pattern(pattern)
            except BusError as error:
                raise ValueError(f"needs: {error.text}") from None
        if not isinstance(self.budget, Budget):
            raise ValueError(f"budget must be a Budget, not {self.budget!r}")
        if self.state is not None and not isinstance(self.state, type):
            raise ValueError(f"state must be a class, not {self.state!r}")

    def _check_operations(self) -> None:
        if len(self.operations) > MANIFEST_SUBJECTS:
            raise ValueError(f"there are {len(self.operations)} operations; at most {MANIFEST_SUBJECTS}")
        seen: set[str] = set()
        for operation in self.operations:
            if not isinstance(operation, Request | Stream | Event):
                raise ValueError(f"operations must hold Request, Stream and Event, not {operation!r}")
            name = operation.name
            if (reason := check_name(name)) is not None:
                raise ValueError(f"the name of an operation {reason}, not {name!r}")
            if name in seen:
                raise ValueError(f"there are two operations '{name}'")
            seen.add(name)
            if not isinstance(operation, Event):
                self._check_method_name(name)
            try:
                check_subject(self.subject(operation))
            except BusError as error:  # not reached with the bounds of today: two names are shorter than a subject
                raise ValueError(f"operation '{name}': {error.text}") from None

    def _check_method_name(self, name: str) -> None:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise ValueError(f"operation '{name}' cannot be a method: begin with a letter, then a-z, 0-9 and _")
        if name in LIFECYCLE:
            raise ValueError(f"operation '{name}' has the name of a part of every component; choose another")

    def subject(self, operation: Declaration) -> str:
        """Where ``operation`` is called, or published."""
        return f"{self.component}.{operation.name}"

    @property
    def serves(self) -> tuple[str, ...]:
        """Subjects of its requests and streams."""
        return tuple(self.subject(each) for each in self.operations if not isinstance(each, Event))

    @property
    def publishes(self) -> tuple[str, ...]:
        """Subjects of its events."""
        return tuple(self.subject(each) for each in self.events())

    def events(self) -> Iterator[Event[Any]]:
        """Its events."""
        return (each for each in self.operations if isinstance(each, Event))
