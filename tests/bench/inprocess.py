"""Measure SDK, core and SDK in one process: CPU time of a call and of a message, without sockets.

Usage: ``tests/bench/inprocess.py [--only CASE] [--rounds N] [--profile]``

What a run with sockets shows beyond this is system calls, wake-ups and cold caches. Figures are of processor time and
the best of the rounds is shown, so they repeat within a few per cent on a busy machine too.
"""

import argparse
import asyncio
import cProfile
import pstats
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import process_time
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients")]

import busclient.testing  # noqa: E402
from busclient import Bus  # noqa: E402
from busclient.message import Call  # noqa: E402
from tests.bench.client import loop_factory  # noqa: E402

PAYLOAD = bytes(100)
SUBJECT = "bench.data"
ECHO = "bench.echo"
CHUNK = 256
"""Messages published before the event loop turns."""

Work = Callable[[int], Awaitable[None]]
"""Does that many operations."""


async def echo(call: Call) -> object:
    return call.payload


def calling(in_flight: int) -> Callable[[Bus, Bus], Awaitable[Work]]:
    """Calls, ``in_flight`` at a time."""

    async def set_up(here: Bus, there: Bus) -> Work:
        await there.serve(ECHO, echo).open()

        async def call_some(count: int) -> None:
            for _ in range(count):
                await here.call(ECHO, PAYLOAD, timeout=5.0)

        async def work(count: int) -> None:
            await asyncio.gather(*(call_some(count // in_flight) for _ in range(in_flight)))

        return work

    return set_up


async def publishing(here: Bus, there: Bus) -> Work:
    """Publish, and read the payload of every message."""
    subscription = await there.subscribe(SUBJECT).open()

    async def receive(count: int) -> None:
        async for message in subscription:
            assert len(message.payload) == len(PAYLOAD)
            count -= 1
            if not count:
                return

    async def work(count: int) -> None:
        receiving = asyncio.create_task(receive(count))
        for _ in range(count // CHUNK):
            for _ in range(CHUNK):
                await here.publish(SUBJECT, PAYLOAD)
            await asyncio.sleep(0)
        await receiving

    return work


class Case(NamedTuple):
    """One thing to measure."""

    name: str
    set_up: Callable[[Bus, Bus], Awaitable[Work]]
    operations: int
    """In one round."""


CASES = (
    Case("call-1", calling(1), 2048),
    Case("call-64", calling(64), 6400),
    Case("publish", publishing, 100 * CHUNK),
)


async def measure(case: Case, rounds: int, profile: bool) -> None:
    """Run ``case`` and print its figure, or where its time goes."""
    async with busclient.testing.bus() as here:
        there = await here.connect(component="other")
        work = await case.set_up(here, there)
        await work(case.operations)
        if profile:
            with cProfile.Profile() as profiler:
                await work(case.operations)
            print(f"{case.name}:")
            pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
            return
        seconds = []
        for _ in range(rounds):
            start = process_time()
            await work(case.operations)
            seconds.append(process_time() - start)
        print(f"{case.name:8} {min(seconds) / case.operations * 1e6:8.2f} us of CPU", flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure SDK, core and SDK in one process: CPU time, no sockets.")
    names = [case.name for case in CASES]
    parser.add_argument("--only", action="append", choices=names, metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=9, help="the best of these is shown (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead of how much it is")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        for case in CASES:
            if not options.only or case.name in options.only:
                runner.run(measure(case, options.rounds, options.profile))
    return 0


if __name__ == "__main__":
    sys.exit(main())
