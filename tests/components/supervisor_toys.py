"""Components that behave as badly as they are told to, for the supervisor to run."""

import asyncio
import os
import sys
import time
from typing import Any

import msgspec

from busd.components.model import Budget, Component, Health, Manifest, Request


class Tally(msgspec.Struct, frozen=True):
    """What a toy hands over."""

    count: int


def _manifest(**changes: Any) -> Manifest:
    operations = ("count", "pid", "wait", "die", "hang", "grow", "spin", "write", "sicken")
    fields: dict[str, Any] = {
        "component": "toy",
        "version": "1",
        "owner": "tests",
        "purpose": "is supervised",
        "operations": tuple(Request(name) for name in operations),
        "placements": ("host", "soc"),
        "state": Tally,
    }
    return Manifest(**{**fields, **changes})


class Toy(Component):
    """Counts, and does what it should not."""

    manifest = _manifest()

    def __init__(self, start: int = 0, trouble: str = "") -> None:
        self._count = start
        self._trouble = trouble
        self._held: list[bytearray] = []
        self._ill = ""

    async def start(self) -> None:
        """Get ready, or not."""
        if self._trouble == "start":
            raise RuntimeError("there is no paper")
        if self._trouble == "exit":
            os._exit(7)
        if self._trouble == "hang":
            time.sleep(60)

    async def run(self) -> None:
        """Fail after a while, or stop to serve."""
        if self._trouble == "run":
            raise RuntimeError("the paper is used up")
        if self._trouble == "pretend":
            bus = self.context.bus
            assert bus is not None
            for service in [each for each in bus._connection.dependents if hasattr(each, "pattern")]:
                if service.pattern.startswith("toy."):
                    await service.close()  # type: ignore[attr-defined]

    async def hand_over(self) -> Tally:
        """The count, or nothing."""
        if self._trouble == "hand_over":
            raise RuntimeError("it is mine")
        if self._trouble == "die_draining":
            os._exit(9)
        return Tally(self._count)

    async def take_over(self, state: Tally) -> None:
        """Go on counting, or not."""
        if self._trouble == "take_over":
            raise RuntimeError("it is not mine")
        if self._trouble == "die_taking":
            os._exit(8)
        self._count = state.count

    def health(self) -> Health:
        """As it was told to be."""
        return Health(not self._ill, self._ill)

    async def count(self) -> int:
        """One more."""
        self._count += 1
        return self._count

    async def pid(self) -> int:
        """Its process."""
        return os.getpid()

    async def wait(self, seconds: float) -> int:
        """Answer later."""
        await asyncio.sleep(seconds)
        return os.getpid()

    async def die(self, status: int = 3) -> None:
        """End at once."""
        os._exit(status)

    async def hang(self) -> None:
        """Block the loop."""
        time.sleep(60)

    async def grow(self, mebibytes: int) -> None:
        """Hold more memory."""
        self._held.append(bytearray(os.urandom(1 << 20) * mebibytes))

    async def spin(self, seconds: float) -> None:
        """Use a core, and go on answering."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            until = time.monotonic() + 0.01
            while time.monotonic() < until:
                pass
            await asyncio.sleep(0)

    async def write(self, lines: int, text: str = "line", stream: str = "stdout") -> None:
        """Write to standard output or error."""
        out = sys.stdout if stream == "stdout" else sys.stderr
        for number in range(lines):
            print(f"{text} {number}", file=out)

    async def sicken(self, detail: str) -> None:
        """Be ill from now on."""
        self._ill = detail


class Small(Toy):
    """One with a budget of 96 MiB in its manifest."""

    manifest = _manifest(budget=Budget(memory_bytes=96 << 20, cpu_percent=50.0))


class Better(Toy):
    """The next version, which counts in tens."""

    manifest = _manifest(version="2")

    async def count(self) -> int:
        """Ten more."""
        self._count += 10
        return self._count


class Other(Toy):
    """Another component."""

    manifest = _manifest(component="other")


class Homebody(Toy):
    """One that may be on the host only."""

    manifest = _manifest(placements=("host",))


class Anywhere(Toy):
    """One that may be in a guest as well."""

    manifest = _manifest(placements=("host", "guest"))
