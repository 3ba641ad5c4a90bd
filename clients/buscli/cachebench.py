"""``bus cache bench``: gets that hit, gets that miss, and sets; over the bus, or in this process."""

import asyncio
import secrets
from argparse import Namespace
from array import array
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter, process_time
from typing import Final

from buscli import cachehandle
from buscli.cachehandle import CACHE, wrong
from buscli.componenthandle import cache_here
from buscli.connection import version_line
from buscli.exits import Exit
from buscli.load import CLOSED_LOOP, all_of, percentiles
from buscli.output import Output, printable
from buscli.units import binary_size, short
from busproto.errors import BusError, Code
from busproto.limits import PAYLOAD_BYTES

__all__ = ["Bench"]

IN_FLIGHT: Final = 64
"""Calls at a time without ``--in-flight``."""

ENTRIES: Final = 1000
"""Entries that the gets and sets go round, if there is room for so many."""

SHARE: Final = 8
"""They take at most this part of the tenant's share."""

OVERHEAD: Final = 512
"""Bytes that an entry is reckoned to take besides its value; it takes less."""

LOCAL_QUOTA: Final = 256 << 20
"""Bytes of the cache in this process: as many as 8 values of the largest size need, and an eighth of it."""

LIFETIME: Final = 600.0
"""Seconds after which what a run that was killed has left is gone: three works of a minute, and filling, fit."""

ROUND: Final = 64
"""In this process: operations of which one is timed. Timing each would cost a tenth of the throughput."""

BREATH: Final = 0.01
"""Seconds of work in this process between two looks at whether it is to stop."""

_GONE: Final = frozenset({Code.NO_RESPONDERS, Code.NOT_CONNECTED, Code.CLOSED})
"""There is nobody any more to be measured."""

_WORKS: Final = ("get-hit", "get-miss", "set")


@dataclass(slots=True)
class Measured:
    """What came of one work."""

    work: str
    in_flight: int
    done: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """CPU time of this process meanwhile."""
    errors: dict[str, int] = field(default_factory=dict)
    """What did not end as it had to, by the error's name; ``miss``: an entry had to go meanwhile."""
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    """Seconds: of each operation, or in this process of one in `ROUND`."""

    @property
    def throughput(self) -> float:
        """Operations a second."""
        return self.done / self.seconds if self.seconds else 0.0

    def fail(self, name: str, number: int = 1) -> None:
        """Count operations that did not end as they had to."""
        self.errors[name] = self.errors.get(name, 0) + number


class Bench:
    """One command line. Raises UsageError for one that contradicts itself."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        self._in_flight = args.in_flight or IN_FLIGHT
        # One that nobody else uses, and that another run of this does not meet.
        self._prefix = f"bus-bench.{secrets.token_hex(8)}."
        if args.size > PAYLOAD_BYTES:
            said = f"--size {args.size} is more than the {PAYLOAD_BYTES:,} bytes that can be cached"
            raise wrong(args, said, "--size 1k", exit=Exit.TOO_LARGE)
        if args.local and args.in_flight is not None:
            raise wrong(args, "in this process there is one call at a time: --in-flight does not go with --local")

    async def run(self) -> int:
        results = await (self._here() if self._args.local else self._on_node())
        self._show(results)
        return Exit.OK if not any(result.errors for result in results) else Exit.FAILED

    def _names(self, kind: str, room: int) -> list[bytes]:
        """As many names as there is room for in a share of ``room`` bytes. Raises UsageError if that is none."""
        fit = room // SHARE // (self._args.size + OVERHEAD)
        if fit < 1:
            said = f"a value of {self._args.size:,} bytes takes more than an eighth of the share of {room:,}"
            raise wrong(self._args, said, "--size 1k", exit=Exit.TOO_LARGE)
        return [f"{self._prefix}{kind}.{number}".encode() for number in range(min(ENTRIES, fit))]

    # -- over the bus -------------------------------------------------------------------------------------------------

    async def _on_node(self) -> list[Measured]:
        async with cachehandle.on_node(self._args, self._output) as handle:
            figures = (await handle.stats()).sealed
            if figures is None:
                raise wrong(self._args, "the node's cache holds only what clients seal", "bus cache bench --local")
            room = figures.bytes_limit
            there, absent = self._names("there", room), self._names("absent", room)
            value = secrets.token_bytes(self._args.size)

            async def put(name: bytes) -> bool:
                await handle.set(name, value=value, ttl=LIFETIME)
                return True

            async def hit(name: bytes) -> bool:
                return bool((await handle.get(name)).found)

            async def miss(name: bytes) -> bool:
                return not (await handle.get(name)).found

            try:
                self._output.progress(f"storing {len(there)} entries ...")
                for name in there:
                    await put(name)
                works = zip(_WORKS, (hit, miss, put), (there, absent, there), strict=True)
                return [await self._measure(work, operation, names) for work, operation, names in works]
            finally:
                self._output.progress("")
                with suppress(BusError):  # the connection may be lost; they do not live long
                    for name in there:
                        await handle.delete(name)

    async def _measure(self, work: str, operation: Callable[[bytes], Awaitable[bool]], names: list[bytes]) -> Measured:
        result = Measured(work, self._in_flight)
        loop = asyncio.get_running_loop()
        turn = cycle(names)

        async def caller(end: float) -> None:
            while (began := perf_counter()) < end:
                try:
                    as_it_should = await operation(next(turn))
                except BusError as error:
                    if error.code in _GONE:
                        raise
                    result.fail(error.name)
                else:
                    result.done += 1
                    result.latencies.append(perf_counter() - began)
                    if not as_it_should:
                        result.fail("miss")

        self._output.progress(f"{work} ...")
        began, cpu = perf_counter(), process_time()
        end = began + self._args.seconds
        await all_of([loop.create_task(caller(end)) for _ in range(self._in_flight)])
        result.seconds, result.cpu_seconds = perf_counter() - began, process_time() - cpu
        return result

    # -- in this process ----------------------------------------------------------------------------------------------

    async def _here(self) -> list[Measured]:
        with cache_here(CACHE, LOCAL_QUOTA) as cache:
            mine = cache.tenant("bench")
            there, absent = self._names("there", LOCAL_QUOTA), self._names("absent", LOCAL_QUOTA)
            value = secrets.token_bytes(self._args.size)

            def put(name: bytes) -> bool:
                return bool(mine.set(name, value))

            for name in there:
                put(name)
            hit, miss = (lambda name: mine.get(name) is not None), (lambda name: mine.get(name) is None)
            works = zip(_WORKS, (hit, miss, put), (there, absent, there), strict=True)
            try:
                return [await self._measure_here(work, operation, names) for work, operation, names in works]
            finally:
                self._output.progress("")

    async def _measure_here(self, work: str, operation: Callable[[bytes], bool], names: list[bytes]) -> Measured:
        result = Measured(work, 1)
        turn = cycle(names)
        self._output.progress(f"{work} ...")
        cpu = process_time()
        left = self._args.seconds
        while left > 0:
            # Ctrl-C is noticed between two of these; the time in between is none of the cache's.
            await asyncio.sleep(0)
            began = now = perf_counter()
            end = began + min(BREATH, left)
            while now < end:
                start = perf_counter()
                missed = int(not operation(next(turn)))
                result.latencies.append(perf_counter() - start)
                for _ in range(ROUND - 1):
                    missed += not operation(next(turn))
                result.done += ROUND
                if missed:
                    result.fail("miss", missed)
                now = perf_counter()
            result.seconds += now - began
            left -= now - began
        result.cpu_seconds = process_time() - cpu
        return result

    # -- what came of it ----------------------------------------------------------------------------------------------

    @property
    def _remark(self) -> str:
        if self._args.local:
            return f"one thread, one call after another; times are those of one call in {ROUND}"
        return CLOSED_LOOP

    def _show(self, results: list[Measured]) -> None:
        if self._output.human:
            self._show_table(results)
            return
        for result in results:
            self._output.record(
                {
                    "work": result.work,
                    "where": "here" if self._args.local else "node",
                    "size": self._args.size,
                    "in_flight": result.in_flight,
                    "done": result.done,
                    "errors": result.errors,
                    "seconds": result.seconds,
                    "throughput": result.throughput,
                    "cpu_us": result.cpu_seconds / result.done * 1e6 if result.done else None,
                    **(percentiles(result.latencies) or dict.fromkeys(("p50", "p90", "p99", "max"))),
                    "client": version_line(),
                    "remark": self._remark,
                }
            )

    def _show_table(self, results: list[Measured]) -> None:
        output = self._output
        where = "in this process" if self._args.local else f"over the bus, {self._in_flight} at a time"
        output.line(f"{version_line()}; values of {binary_size(self._args.size)}, {where}")
        rows = []
        for result in results:
            times = percentiles(result.latencies)
            shown = ["-"] * 4 if times is None else [_time(seconds) for seconds in times.values()]
            rows.append((result.work, f"{result.throughput:,.0f}/s", *shown, sum(result.errors.values())))
        output.table(("work", "throughput", "p50", "p90", "p99", "max", "failed"), rows)
        output.line(self._remark)
        for result in results:
            for name, number in result.errors.items():
                output.line(f"{result.work}: {number:,} ended with {printable(name)}")


def _time(seconds: float) -> str:
    """As `short`, and in microseconds with a digit behind the point: a get in this process takes few of them."""
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-4 else short(seconds)
