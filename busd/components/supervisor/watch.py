"""Who is cut off, and why: budgets, liars, and those who are not heard of any more. Pure: the time is an argument."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from busd.components.supervisor.runners import Runner

__all__ = ["Budget", "Liveness", "Usage"]

CPU_SECONDS: Final = 10.0
"""The mean over this time is what a CPU budget is about: a short burst is nobody's harm."""

SILENT_SECONDS: Final = 5.0
"""Without a status, which comes every second."""

ANSWER_SECONDS: Final = 2.0
"""For a runner to answer the question for its status."""

ASK_SECONDS: Final = 5.0
"""Between two such questions to one runner."""

LACKING_SECONDS: Final = 2.0
"""For which it may say that it is ready without offering what it serves: the two do not arrive together."""

START_SECONDS: Final = 30.0
"""From a process's start to its first status: Python and the component's modules are read from a cold disk then."""

READY_SECONDS: Final = 60.0
"""From a process's start until it serves."""

_MEBIBYTE: Final = 1 << 20


class Budget:
    """What a component may use."""

    __slots__ = ("cpu_percent", "memory_bytes")

    def __init__(self, memory_bytes: int, cpu_percent: float) -> None:
        self.memory_bytes = memory_bytes
        self.cpu_percent = cpu_percent

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and self.row() == other.row()

    def row(self) -> dict[str, float]:
        """The budget as a plain map."""
        return {"memory_bytes": self.memory_bytes, "cpu_percent": self.cpu_percent}


class Usage:
    """What one instance uses: its memory at the last look, its CPU time over the last 10 s."""

    __slots__ = ("_looks", "cpu_percent", "memory_bytes")

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float]] = deque()
        self.memory_bytes = 0
        self.cpu_percent = 0.0
        """Of one core, since the oldest look of the last 10 s."""

    def look(self, memory_bytes: int, cpu_seconds: float, now: float) -> None:
        """It holds ``memory_bytes``, and has used ``cpu_seconds`` in all, at ``now``."""
        self.memory_bytes = memory_bytes
        looks = self._looks
        looks.append((now, cpu_seconds))
        # The last look from before the 10 s stays: the mean is over at least that long.
        while len(looks) > 2 and now - looks[1][0] >= CPU_SECONDS:
            looks.popleft()
        since, before = looks[0]
        self.cpu_percent = max(0.0, 100 * (cpu_seconds - before) / (now - since)) if now > since else 0.0

    @property
    def seconds(self) -> float:
        """The time that ``cpu_percent`` is the mean of."""
        return self._looks[-1][0] - self._looks[0][0] if self._looks else 0.0

    def said(self, memory_bytes: int, cpu_percent: float) -> None:
        """What an instance that cannot be measured from here says of itself."""
        self.memory_bytes = memory_bytes
        self.cpu_percent = cpu_percent

    def over(self, budget: Budget) -> str | None:
        """Why it is over ``budget``; None if it is not. CPU counts only when there are 10 s of it."""
        if self.memory_bytes > budget.memory_bytes:
            used, limit = _amounts(self.memory_bytes, budget.memory_bytes)
            return f"memory of {used} is over its budget of {limit}"
        if self.cpu_percent > budget.cpu_percent and self.seconds >= CPU_SECONDS:
            return (
                f"CPU of {self.cpu_percent:.0f} % over {CPU_SECONDS:g} s is over its budget of {budget.cpu_percent:g} %"
            )
        return None


def _amounts(used: int, limit: int) -> tuple[str, str]:
    """Both in MiB; in bytes where that would show them as equal."""
    if used // _MEBIBYTE == limit // _MEBIBYTE or limit < _MEBIBYTE:
        return f"{used} bytes", f"{limit} bytes"
    return f"{used // _MEBIBYTE} MiB", f"{limit // _MEBIBYTE} MiB"


class Liveness:
    """Whether one runner is what it says. Made when it is first heard."""

    __slots__ = ("_asked", "_lacking", "_waiting")

    def __init__(self, now: float) -> None:
        self._asked = now
        self._waiting = False
        self._lacking: float | None = None

    def ask(self, now: float) -> bool:
        """Whether it is time to ask it for its status; if so, that is noted as being done at ``now``."""
        if self._waiting or now - self._asked < ASK_SECONDS:
            return False
        self._asked = now
        self._waiting = True
        return True

    def answered(self) -> None:
        """It has answered, whatever the answer is."""
        self._waiting = False

    def excuse(self, seconds: float) -> None:
        """Nobody could be heard for ``seconds``."""
        self._asked += seconds
        if self._lacking is not None:
            self._lacking += seconds

    def lie(self, runner: Runner, offered: Iterable[str] | None, now: float) -> str | None:
        """Why ``runner`` is to be cut off at ``now``; None while it keeps its word.

        ``offered`` is what the broker knows that its endpoint serves; None if that is not attached, which is no lie.
        """
        if self._waiting and now - self._asked >= ANSWER_SECONDS:
            return f"it did not answer the question for its status within {ANSWER_SECONDS:g} s"
        if (silent := now - runner.heard) >= SILENT_SECONDS:
            return f"no status came from it for {silent:.1f} s"
        missing = _missing(runner.status.serves, offered) if runner.status.state == "ready" else []
        if not missing:
            self._lacking = None
            return None
        if self._lacking is None:
            self._lacking = now
        if now - self._lacking < LACKING_SECONDS or runner.heard <= self._lacking:
            return None
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return f"it says that it is ready, but does not serve {', '.join(missing[:3])}{more}"


def _missing(serves: Sequence[str], offered: Iterable[str] | None) -> list[str]:
    return [] if offered is None else sorted(set(serves) - set(offered))
