"""Those beside a hostile tenant: guests of other tenants and the node's own programs, calling at a steady pace.

Usage: ``python -m tests.bench.neighbours SPEC``, SPEC being a JSON object: ``role`` (``guests`` or ``host``), ``rate``
(calls a second) and for guests ``units`` (tenant, unit and socket of each), for the host ``path``. The process writes
``{"ready": true}`` once everybody is attached and calls until its standard input ends. For each line ``{"from": T,
"to": T}`` (the monotonic clock) it writes what came of the calls that were due in that time: latencies by kind, and
errors.

Calls are due at fixed times whatever became of earlier ones, and a latency counts from when the call was due: a node
that stands still for a second is seen by all the calls of that second, not by one (coordinated omission).
"""

import asyncio
import gc
import json
import selectors
import sys
import time
from bisect import bisect_left
from collections import deque
from typing import Any, NamedTuple

import busclient
from busclient import Bus
from busclient.message import Call
from tests.bench.attacks import EXPORTED, HELD

CALL_SECONDS = 5.0
"""A call that takes longer is an error."""

OWN = "own.echo"
"""A service that each tenant has for itself."""

HOST = "host.echo"
"""A service of the node for itself."""

REMEMBERED = 200_000
"""Calls that are remembered."""

IMPORTS_SECONDS = 0.05
"""For the first call to be due."""

CONCURRENCY = 16_384
"""Calls that the node's services handle at a time: to hold some must not keep others out."""

clock = time.monotonic


class Done(NamedTuple):
    """One call."""

    due: float
    kind: str
    seconds: float
    error: str | None


class Target(NamedTuple):
    """Who calls what."""

    bus: Bus
    subject: str
    kind: str
    """What its latency is counted as."""


class Pacer:
    """Calls each target in turn, ``rate`` calls a second in all, and remembers what came of it."""

    def __init__(self, targets: list[Target], rate: float) -> None:
        self._targets = targets
        self._rate = rate
        self._done: deque[Done] = deque(maxlen=REMEMBERED)
        self._pending: dict[asyncio.Task[None], float] = {}
        self._next_due = 0.0

    async def run(self) -> None:
        """Call until cancelled."""
        start = clock() + IMPORTS_SECONDS
        number = 0
        while True:
            self._next_due = due = start + number / self._rate
            if (ahead := due - clock()) > 0:
                await asyncio.sleep(ahead)
            task = asyncio.create_task(self._call(self._targets[number % len(self._targets)], due))
            self._pending[task] = due
            task.add_done_callback(lambda done: self._pending.pop(done, None))
            number += 1

    async def report(self, begin: float, end: float) -> dict[str, Any]:
        """What came of the calls that were due from ``begin`` to ``end``, when all of them have ended."""
        while self._next_due < end or any(due < end for due in self._pending.values()):
            await asyncio.sleep(0.01)
        done = sorted(self._done)
        chosen = done[bisect_left(done, (begin,)) : bisect_left(done, (end,))]
        latencies: dict[str, list[float]] = {}
        for call in chosen:
            latencies.setdefault(call.kind, []).append(call.seconds)
        return {"latencies": latencies, "errors": [f"{call.kind}: {call.error}" for call in chosen if call.error]}

    async def _call(self, target: Target, due: float) -> None:
        error = None
        try:
            await target.bus.call(target.subject, None, timeout=CALL_SECONDS)
        except busclient.BusError as failure:
            error = str(failure)
        self._done.append(Done(due, target.kind, clock() - due, error))


async def echo(call: Call) -> Any:
    return call.payload


async def hold(call: Call) -> Any:
    if call.payload == "never":
        await asyncio.Event().wait()
    return call.payload


async def attach(path: str, component: str) -> Bus:
    bus = busclient.connect(f"unix://{path}", component=component, owner="bench", purpose="calls at a steady pace")
    return await bus.open()


async def guests(spec: dict[str, Any]) -> list[Target]:
    """Every guest calls two services of the node, and that of its own tenant, which the tenant's first unit has."""
    targets = []
    serving = set()
    for tenant, unit, path in spec["units"]:
        bus = await attach(path, unit)
        if tenant not in serving:
            serving.add(tenant)
            await bus.serve(OWN, echo).open()
        targets += [Target(bus, EXPORTED, "node"), Target(bus, OWN, "own"), Target(bus, HELD, "node")]
    return targets


async def host(spec: dict[str, Any]) -> list[Target]:
    """The node serves everybody, and one of its programs another one."""
    server = await attach(spec["path"], "server")
    for subject, handler in ((EXPORTED, echo), (HELD, hold)):
        await server.serve(subject, handler, concurrency=CONCURRENCY).open()
    other = await attach(spec["path"], "other-server")
    await other.serve(HOST, echo).open()
    return [Target(await attach(spec["path"], "caller"), HOST, "host")]


async def run(spec: dict[str, Any]) -> None:
    """Play ``spec``'s role until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    pacer = Pacer(await {"guests": guests, "host": host}[spec["role"]](spec), spec["rate"])
    calling = asyncio.create_task(pacer.run())
    gc.freeze()
    print(json.dumps({"ready": True}), flush=True)
    while line := await reader.readline():
        asked = json.loads(line)
        print(json.dumps(await pacer.report(asked["from"], asked["to"])), flush=True)
    calling.cancel()


def precise_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are exact to microseconds: epoll and uvloop count milliseconds, select does not."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> int:
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(run(json.loads(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
