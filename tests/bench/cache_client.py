"""A client process of the cache's benchmark: ``python -m tests.bench.cache_client SPEC``, SPEC being a JSON object.

It connects, fills the cache, and writes ``{"ready": true}``. For each line on its standard input, ``{"work": ...,
"seconds": ...}``, it works and writes ``{"result": {...}}``; it ends when its input does. What fails is
``{"error": "..."}``.
"""

import asyncio
import json
import sys
from time import perf_counter, perf_counter_ns, process_time
from typing import Any, NamedTuple

from tests.bench.cache_peers import PEERS, CacheLink
from tests.bench.client import loop_factory

NAMES = 512
"""That are asked for in turn, where so many values fit."""

MOST_BYTES = 64 << 20
"""Of all values of one size."""

MANY = 64
"""Names in one call of get-many."""


class Spec(NamedTuple):
    """The fields of the command line's JSON object."""

    peer: str
    url: str
    size: int
    in_flight: int


class Work:
    """What one client does, once it is connected."""

    def __init__(self, link: CacheLink, spec: Spec) -> None:
        self._link = link
        self._in_flight = spec.in_flight
        count = max(1, min(NAMES, MOST_BYTES // spec.size))
        self._names = [f"user:{spec.size}:{number}" for number in range(count)]
        self._absent = [f"absent:{number}" for number in range(count)]
        self._values = [number.to_bytes(4, "big") * (spec.size // 4) for number in range(count)]

    async def fill(self) -> None:
        """Put everything in. Raises ValueError if it does not come back."""
        for name, value in zip(self._names, self._values, strict=True):
            await self._link.set(name, value)
        for name, value in zip(self._names, self._values, strict=True):
            if await self._link.get(name) != value:
                raise ValueError(f"{name} is not what was put in")
        if await self._link.get(self._absent[0]) is not None:
            raise ValueError("what was never put in is there")

    async def run(self, work: str, seconds: float) -> dict[str, float]:
        """Do it with so many under way, and say how many and how long each took."""
        times: list[int] = []
        cpu, start = process_time(), perf_counter()
        do = {"get-hit": self._get, "get-miss": self._miss, "set": self._set, "get-many": self._many}[work]
        step = self._in_flight if work != "get-many" else 1
        begins = range(step)
        await asyncio.gather(*(do(begin, step, start + seconds, times) for begin in begins))
        elapsed = perf_counter() - start
        times.sort()
        count = len(times) * (MANY if work == "get-many" else 1)
        return {
            "rate": count / elapsed,
            "count": float(count),
            "cpu": process_time() - cpu,
            "p50": times[len(times) // 2] / 1000,
            "p99": times[len(times) * 99 // 100] / 1000,
        }

    async def _get(self, number: int, step: int, end: float, times: list[int]) -> None:
        get, names, sizes = self._link.get, self._names, [len(value) for value in self._values]
        count = len(names)
        while perf_counter() < end:
            number = (number + step) % count
            begun = perf_counter_ns()
            value = await get(names[number])
            times.append(perf_counter_ns() - begun)
            if value is None or len(value) != sizes[number]:
                raise ValueError(f"{names[number]} is not there")

    async def _miss(self, number: int, step: int, end: float, times: list[int]) -> None:
        get, names = self._link.get, self._absent
        count = len(names)
        while perf_counter() < end:
            number = (number + step) % count
            begun = perf_counter_ns()
            value = await get(names[number])
            times.append(perf_counter_ns() - begun)
            if value is not None:
                raise ValueError(f"{names[number]} is there")

    async def _set(self, number: int, step: int, end: float, times: list[int]) -> None:
        put, names, values = self._link.set, self._names, self._values
        count = len(names)
        while perf_counter() < end:
            number = (number + step) % count
            begun = perf_counter_ns()
            await put(names[number], values[number])
            times.append(perf_counter_ns() - begun)

    async def _many(self, number: int, step: int, end: float, times: list[int]) -> None:
        names = self._names[:MANY]
        while perf_counter() < end:
            begun = perf_counter_ns()
            values = await self._link.get_many(names)
            times.append(perf_counter_ns() - begun)
            if None in values:
                raise ValueError("some are not there")


async def serve(spec: Spec) -> None:
    """Work as the parent says, until it has no more to say."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    link = await PEERS[spec.peer].connect(spec.url)
    work = Work(link, spec)
    await work.fill()
    tell({"ready": True})
    while line := await reader.readline():
        asked: dict[str, Any] = json.loads(line)
        tell({"result": await work.run(asked["work"], asked["seconds"])})
    await link.close()


def tell(what: dict[str, Any]) -> None:
    """One line for the parent."""
    print(json.dumps(what), flush=True)


def main() -> int:
    """Serve; exit 1 with the error told if that fails."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(Spec(**json.loads(sys.argv[1]))))
    except Exception as error:
        tell({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
