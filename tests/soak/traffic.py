"""Actors that use the bus as agents do: they come and go, call, publish, read slowly, and flood."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import busclient
from busproto import envelope
from busproto.zmtp import frame_header
from tests.soak.actor import SECONDS, Actor, AttachError
from tests.support import environment

ECHO = "node.echo"
"""A service of the node that every tenant may call; `Echo` serves it. The attackers know it by this name too."""


async def echo(call: busclient.Call) -> Any:
    """Answers what it was asked."""
    return call.payload


def lost_by(gap: busclient.Gap) -> int:
    """How many messages it says were lost: known as long as the connection is the same."""
    assert gap.count, f"a gap that does not say of how many messages: {gap}"
    return gap.count


class Echo(Actor):
    """Serves: in the node's space for everybody, and in each well-behaved tenant's own."""

    pause = 1.0

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        addresses = self.house.addresses
        async with (
            self.connect(purpose="serves the node") as node,
            node.serve(ECHO, echo),
            self.connect(addresses["acme-1"]) as acme,
            acme.serve("local.echo", echo),
            self.connect(addresses["globex-1"]) as globex,
            globex.serve("local.echo", echo),
        ):
            yield

    async def act(self) -> None:
        self.tally.done["seconds served"] += 1


class Caller(Actor):
    """Calls at a steady rate from host and guests, and compares what comes back."""

    pause = 0.1
    number = 0

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        addresses = self.house.addresses
        async with (
            self.connect() as host,
            self.connect(addresses["acme-1"]) as acme,
            self.connect(addresses["globex-1"]) as globex,
        ):
            self._ways = [(host, ECHO), (acme, ECHO), (acme, "local.echo"), (globex, ECHO), (globex, "local.echo")]
            await self.rest(0.5)  # who serves comes at the same time
            yield

    async def act(self) -> None:
        await asyncio.gather(*(self._ask(bus, subject) for bus, subject in self._ways))

    async def _ask(self, bus: busclient.Bus, subject: str) -> None:
        self.number += 1
        asked = {"n": self.number, "data": self.chance.randbytes(self.chance.choice((10, 200, 5000)))}
        try:
            answer = await self.call(bus, subject, asked)
        except busclient.NotConnected:
            raise
        except busclient.BusError as error:
            self.tally.problem(f"a call of {subject} ended with {error}")
        else:
            self.tally.done["replies"] += 1
            if answer != asked:
                self.tally.problem(f"a call of {subject} was answered by what was not asked")


class Publisher(Actor):
    """Publishes numbered messages at a steady rate; a reader counts: what came and what gaps say is all there was."""

    pause = 0.1
    batch: ClassVar[int] = 20

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        self._next = 0
        self._read = 0
        address = self.house.addresses["acme-1"]
        async with (
            self.connect(address) as writer,
            self.connect(address) as reader,
            reader.subscribe("ticks.>", gaps="yield") as ticks,
        ):
            self._writer = writer
            following = asyncio.create_task(self._follow(ticks))
            try:
                yield
                await writer.flush()
                async with asyncio.timeout(SECONDS):
                    while self._read < self._next and not following.done():
                        await asyncio.sleep(0.05)
            except TimeoutError:
                self.tally.problem(f"{self._next - self._read} messages were lost without a gap")
            finally:
                following.cancel()
                await asyncio.wait([following])
            if not following.cancelled():
                following.result()

    async def _follow(self, ticks: busclient.Subscription[Any]) -> None:
        async for message in ticks:
            if isinstance(message, busclient.Gap):
                self._read += lost_by(message)
                self.tally.done["lost, by gaps"] += lost_by(message)
                continue
            if message.payload < self._read:
                self.tally.problem(f"message {message.payload} came when {self._read} was next")
            elif message.payload > self._read:
                self.tally.problem(f"message {message.payload} came when {self._read} was next, without a gap")
            self._read = message.payload + 1
            self.tally.done["received"] += 1

    async def act(self) -> None:
        for _ in range(self.batch):
            await self._writer.publish(f"ticks.{self._next % 7}", self._next)
            self._next += 1


class Visitor(Actor):
    """Comes, subscribes, calls, and leaves in one of the ways in which clients leave."""

    pause = 0.4

    async def act(self) -> None:
        url = self.chance.choice([self.house.url, *(self.house.addresses[unit] for unit in ("acme-1", "globex-1"))])
        way = self.chance.choice(("bye", "bye", "abrupt", "in a call", "silent"))
        if way == "bye":
            await self._visit(url)
        elif way == "silent":
            _, writer = await asyncio.open_unix_connection(url.removeprefix("unix://"))
            writer.close()
        else:
            await asyncio.to_thread(self._hang_up, url.removeprefix("unix://"), way)
        self.tally.done[f"left: {way}"] += 1

    async def _visit(self, url: str) -> None:
        async with self.connect(url) as bus, bus.subscribe(f"visits.{self.chance.randrange(1000)}.>") as visits:
            subject = visits.pattern.replace(">", "now")
            await bus.publish(subject, "here")
            async with asyncio.timeout(SECONDS):
                message = await anext(visits)
            assert message.payload == "here"
            await self.call(bus, "$bus.ping")

    def _hang_up(self, path: str, way: str) -> None:
        with self.attach(path) as peer:
            said = envelope.subscribe(1, f"visits.{self.chance.randrange(1000)}.>", {})
            if way == "in a call":
                said += envelope.serve(2, "visits.self", {}) + envelope.call(3, "visits.self", 60_000, None, b"\xc0")
            peer.sendall(frame_header(len(said)) + said)


MORTAL = """
import asyncio, sys, busclient
async def never(call):
    await asyncio.Event().wait()
async def main():
    async with busclient.connect(sys.argv[1], component="soak-mortal", owner="soak", purpose="is killed") as bus:
        async with bus.serve("mortal.never", never), bus.subscribe("ticks.>"):
            call = asyncio.create_task(bus.call("mortal.never", timeout=600))
            await asyncio.sleep(0.05)
            print("here", flush=True)
            await call
asyncio.run(main())
"""


async def killed(process: asyncio.subprocess.Process) -> None:
    """Kill it, and wait until it is gone. Not by its own method, which takes the status away from asyncio's watcher."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await process.wait()


class Mortal(Actor):
    """Processes that serve, hold a call and are killed; their own caller, which stays, is told what became of it."""

    pause = 4.0

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        async with self.connect(self.house.addresses["acme-1"]) as bus:
            self._bus = bus
            yield

    async def act(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MORTAL, self.house.addresses["acme-1"], env=environment(),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            word = await asyncio.wait_for(process.stdout.readline(), 2 * SECONDS)
            if word != b"here\n":
                *_, last = (word + await process.stdout.read()).splitlines()
                raise AttachError(last.decode()) if b"were not complete" in last else AssertionError(last.decode())
            held = asyncio.create_task(self.call(self._bus, "mortal.never"))
            await asyncio.sleep(0.1)
        finally:
            await killed(process)
        try:
            await held
        except (busclient.UnknownOutcome, busclient.NoResponders) as outcome:  # the latter: not read before it was gone
            self.tally.done[f"killed, its caller's call: {outcome.name}"] += 1
        else:
            self.tally.problem("a call that its responder took along was answered")


class SlowReader(Actor):
    """Reads slower than is published, and counts; and one that does not read at all, and leaves."""

    pause = 2.0
    messages: ClassVar[int] = 2000

    async def act(self) -> None:
        address = self.house.addresses["globex-1"]
        with await asyncio.to_thread(self.attach, address.removeprefix("unix://")) as stuck:
            said = envelope.subscribe(1, "heavy.>", {})
            await asyncio.to_thread(stuck.sendall, frame_header(len(said)) + said)
            async with (
                self.connect(address) as writer,
                self.connect(address) as reader,
                reader.subscribe("heavy.>", gaps="yield", max_pending=100) as heavy,
            ):
                for _ in range(self.messages):
                    await writer.publish("heavy.load", b"x" * 1000)
                await writer.flush()
                counted = 0
                async with asyncio.timeout(SECONDS):
                    while counted < self.messages:
                        message = await anext(heavy)
                        lost = lost_by(message) if isinstance(message, busclient.Gap) else 0
                        counted += lost or 1
                        self.tally.done["lost, by gaps"] += lost
                        self.tally.done["received"] += not lost
                if counted != self.messages:
                    self.tally.problem(f"of {self.messages} messages {counted} came or were lost")


FLOODS = (
    "publish", "calls-nobody", "not-reading", "denied", "publish-subjects", "calls", "subscribe", "half-frames",
    "asking", "overfull", "withhold", "trickle", "not-reading-answers", "huge", "subscribe-quota",
    "publish-fanout", "calls-singly", "connect",
)  # fmt: skip
"""Of ``make bench-hostile``; the one that keeps the tenant out for a while is last."""


FLOODED = "floods"
"""How a flooder counts that it has tried one."""


class Flooder(Actor):
    """One tenant attacks the node from two of its units, in one of the ways of ``make bench-hostile`` after another."""

    pause = 3.0
    seconds: ClassVar[float] = 3.0

    def __init__(self, *given: Any, attacks: Sequence[str]) -> None:
        super().__init__(*given)
        self._coming = itertools.cycle(attacks)

    async def act(self) -> None:
        attack = next(self._coming)
        spec = {"attack": attack, "paths": self.house.hostile_sockets, "seconds": self.seconds}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.attacker", json.dumps(spec),
            env=environment(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        line = b""
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            for word in (b"\n", b""):
                line = await asyncio.wait_for(process.stdout.readline(), 3 * SECONDS)
                process.stdin.write(word)
            if line:
                self.tally.done[attack] += int(json.loads(line)["count"])
            else:
                self.tally.done[f"{attack}: the node kept it out"] += 1
            self.tally.done[FLOODED] += 1
        finally:
            await killed(process)
