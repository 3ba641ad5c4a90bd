"""What a direct handle costs over the plain method call: `python tests/bench/handle.py`, run by hand.

Deadline, validation, copies, caller and statistics included; for an operation that answers at once and for one that
has to wait for its turn, which needs a timer. Prints microseconds per call: the least of several rounds.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "clients"), str(ROOT / "schemas")]

from busd.components.model import Component, Manifest, Request, attach  # noqa: E402

ROUNDS: Final = 15
CALLS: Final = 5_000
TARGET_MICROSECONDS: Final = 5.0


class Found(msgspec.Struct, frozen=True):
    """What is found for a key."""

    value: bytes
    age: float


class Shelf(Component):
    """Does next to nothing, as fast as can be."""

    manifest = Manifest(
        component="shelf",
        version="1",
        owner="bench",
        purpose="measures what a handle costs",
        operations=(Request("get"), Request("count"), Request("turn")),
    )
    found = Found(b"x" * 1024, 0.5)

    async def get(self, key: Annotated[str, msgspec.Meta(max_length=255)], limit: int = 10) -> Found:
        """1 KiB."""
        return self.found

    async def count(self) -> int:
        """A number."""
        return 7

    async def turn(self) -> int:
        """A number, after the loop's next turn."""
        await asyncio.sleep(0)
        return 7


async def measure(call: Callable[[], Awaitable[Any]]) -> float:
    """Microseconds per call: the least of all rounds, which others disturbed least."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(CALLS):
            await call()
        best = min(best, time.perf_counter() - begun)
    return best / CALLS * 1e6


async def main() -> int:
    """Print the table. Returns 1 if an operation costs more than the target."""
    shelf = Shelf()
    worst = 0.0
    async with attach(Shelf, where="here") as handle:
        rows: list[tuple[str, Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]] = [
            ("count() -> int", shelf.count, handle.count),
            ("get(key) -> 1 KiB", lambda: shelf.get("a/key"), lambda: handle.get("a/key")),
            ("get(key=, limit=)", lambda: shelf.get(key="k", limit=5), lambda: handle.get(key="k", limit=5)),
            ("turn() -> int, waits", shelf.turn, handle.turn),
        ]
        print(f"{'operation':22} {'plain us':>9} {'handle us':>10} {'overhead us':>12}")
        for name, plain, through in rows:
            before, after = await measure(plain), await measure(through)
            print(f"{name:22} {before:9.2f} {after:10.2f} {after - before:12.2f}")
            worst = max(worst, after - before)
    print(f"target: below {TARGET_MICROSECONDS:g} us; at worst {worst:.2f} us")
    return int(worst >= TARGET_MICROSECONDS)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
