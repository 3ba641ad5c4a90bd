"""Turns: who floods is held up by his own flood, and nothing of anyone's is lost, doubled or put out of order by it."""

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from busd.core.account import UNBOUNDED, Account, Rates
from busd.core.principal import Principal
from busd.core.units import Unit
from busd.edge.pump import clock
from busd.edge.turns import QUANTUM_SECONDS, TURN_SECONDS, Turns
from busproto import envelope
from busproto.envelope import Kind, Status
from busproto.zmtp import frame_header
from tests.edge.raw import Listener, listening, loops, run

both = pytest.mark.parametrize("loop", sorted(loops()))


# -- the order, with a clock and a loop of the test's own -------------------------------------------------------------


class Loop:
    """As much of an event loop as turns need."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: deque[Callable[[], None]] = deque()
        self.later: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Any:
        entry = (self.now + seconds, callback)
        self.later.append(entry)
        return SimpleNamespace(cancel=lambda: self.later.remove(entry) if entry in self.later else None)

    def turn(self) -> None:
        """One turn: what is due by now."""
        for entry in [entry for entry in self.later if entry[0] <= self.now]:
            self.later.remove(entry)
            entry[1]()
        for _ in range(len(self.soon)):
            self.soon.popleft()()


class Work:
    """Something with ``steps`` steps of work, each of ``seconds``, that notes when it had one."""

    def __init__(self, world: "World", name: str, account: Account, steps: int, seconds: float) -> None:
        self.session: Any = SimpleNamespace(account=account)
        self._world, self._name, self._left, self._seconds = world, name, steps, seconds

    def step(self) -> bool:
        self._world.loop.now += self._seconds
        self._world.log.append(self._name)
        self._left -= 1
        return self._left > 0


class World:
    def __init__(self) -> None:
        self.loop = Loop()
        self.log: list[str] = []
        self.aside = 0.0
        """Seconds that the system gave to other processes."""
        self.turns = Turns(
            self.loop,  # type: ignore[arg-type]
            lambda: self.loop.now,
            lambda: self.log.append("|"),
            lambda: self.loop.now - self.aside,
        )

    def account(self, name: str, **rates: float) -> Account:
        return Account(name, rates=Rates(**rates), now=0.0)

    def offer(self, account: Account, steps: int = 1, seconds: float = 100e-6) -> None:
        self.turns.offer(Work(self, account.name, account, steps, seconds))


def test_accounts_take_turns_whatever_the_number_of_their_connections() -> None:
    world = World()
    loud, quiet = world.account("loud"), world.account("quiet")
    for _ in range(1000):
        world.offer(loud)
    world.offer(quiet)
    world.loop.turn()
    assert world.log.index("quiet") <= QUANTUM_SECONDS / 100e-6 + 1


def test_one_turn_is_over_in_time_and_the_rest_comes_in_the_next() -> None:
    world = World()
    world.offer(world.account("loud"), steps=100)
    world.loop.turn()
    assert world.loop.now <= TURN_SECONDS + QUANTUM_SECONDS + 100e-6
    for _ in range(100):
        world.loop.turn()
    assert world.log.count("loud") == 100
    assert not world.loop.soon


def test_who_has_overdrawn_waits_until_it_is_paid_and_others_do_not() -> None:
    world = World()
    hasty, other = world.account("hasty", loop=0.01), world.account("other", loop=0.01)
    for _ in range(5):
        world.offer(hasty, steps=1, seconds=300e-6)
    world.loop.turn()
    served = world.log.count("hasty")
    assert served < 5
    for _ in range(50):
        world.loop.turn()
    assert world.log.count("hasty") == served, "it is in debt: nothing is done for it, and nothing polls"
    assert not world.loop.soon
    world.offer(other)
    world.loop.turn()
    assert world.log[-2:] == ["other", "|"]
    while world.loop.later:
        world.loop.now = max(world.loop.now, min(at for at, _ in world.loop.later))
        world.loop.turn()
        world.loop.turn()
    assert world.log.count("hasty") == 5


class Interrupted(Work):
    """Work in the middle of which the system runs other processes for a while."""

    def step(self) -> bool:
        self._world.loop.now += 0.05
        self._world.aside += 0.05
        return super().step()


def test_nobody_is_charged_for_time_in_which_the_system_ran_other_processes() -> None:
    """On a busy machine one frame that was interrupted for 50 ms kept its tenant waiting for 12 seconds."""
    world = World()
    account = world.account("small", loop=0.2)
    world.turns.offer(Interrupted(world, "small", account, 1, 100e-6))
    world.loop.turn()
    assert account.ready_at <= world.loop.now
    world.offer(account, seconds=0.05)
    world.loop.turn()
    assert account.ready_at > world.loop.now + 10, "what did take long is as dear as ever"


# -- real sockets -----------------------------------------------------------------------------------------------------


async def tenant_peers(node: Listener, *tenants: str) -> list[Any]:
    peers = []
    for number, tenant in enumerate(tenants):
        unit = f"vm-{number}"
        node.bus.add_unit(Unit(unit, tenant, 1))
        node.principal = Principal("guest", tenant, unit, 1)
        peers.append(await node.peer())
    return peers


@both
def test_a_tenant_is_served_in_the_middle_of_anothers_flood(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(loop=0.5)) as node:
            loud, quiet = await tenant_peers(node, "acme", "globex")
            flooded = next(session for session in node.bus.census if session.principal.tenant == "acme")
            calls = 40_000
            frame = b"".join(envelope.call(100_000 + n, "nobody", 1000, None, b"") for n in range(100))
            loud.writer.write((frame_header(len(frame)) + frame) * (calls // 100))
            await asyncio.sleep(0)
            for token in range(20):
                quiet.send(envelope.ping(token))
                assert (await quiet.expect(Kind.PONG))[1] == token
                assert flooded.received_messages < calls, "the flood was handled before the ping was answered"

    run(main(), loop)


@both
def test_nothing_of_who_is_too_fast_is_lost(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(messages=20_000, bytes=50_000_000, loop=0.9)) as node:
            sender, reader = await tenant_peers(node, "acme", "acme")
            reader.send(envelope.subscribe(1, "a", {}))
            await reader.expect(Kind.REPLY)
            total = 25_000
            for first in range(0, total, 50):
                numbers = range(first, first + 50)
                sender.send(*(envelope.publish("a", None, b"%d" % number) for number in numbers))
            for number in range(total):
                assert (await reader.expect(Kind.PUBLISH))[3] == b"%d" % number
            assert node.bus.ledgers["held_bytes"].used == 0

    run(main(), loop)


@both
@pytest.mark.parametrize("size", [0, 100, 70_000, 3_000_000])
def test_frames_of_any_size_pass_whole_and_in_order(tmp_path: Path, loop: str, size: int) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(loop=0.9)) as node:
            sender, reader = await tenant_peers(node, "acme", "acme")
            reader.send(envelope.subscribe(1, "a", {}))
            await reader.expect(Kind.REPLY)
            for number in range(8):
                sender.send(envelope.publish("a", None, b"%d" % number + bytes(size)))
            for number in range(8):
                assert (await reader.expect(Kind.PUBLISH))[3] == b"%d" % number + bytes(size)

    run(main(), loop)


@both
def test_bytes_that_come_one_by_one_are_a_frame_all_the_same(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(loop=0.9)) as node:
            (peer,) = await tenant_peers(node, "acme")
            data = envelope.call(7, "nobody", 1000, None, b"x" * 300)
            for byte in frame_header(len(data)) + data:
                peer.writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            assert (await peer.expect(Kind.REPLY))[2] == Status.NO_RESPONDERS

    run(main(), loop)


@both
def test_what_comes_before_a_violation_is_done(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(loop=0.9)) as node:
            (peer,) = await tenant_peers(node, "acme")
            data = envelope.ping(1)
            peer.writer.write(frame_header(len(data)) + data + b"\x01\x00")
            assert (await peer.expect(Kind.PONG))[1] == 1
            assert (await peer.ended())["code"] == 1006

    run(main(), loop)


@both
def test_who_leaves_while_he_waits_leaves_nothing_behind(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(calls=100, loop=0.9)) as node:
            peers = await tenant_peers(node, *["acme"] * 10)
            frame = b"".join(envelope.call(100_000 + n, "nobody", 1000, None, b"") for n in range(100))
            for peer in peers:
                peer.writer.write((frame_header(len(frame)) + frame) * 20)
            await asyncio.sleep(0.05)
            for peer in peers:
                peer.writer.transport.abort()
            while node.admission.statistics().open:
                await asyncio.sleep(0.01)
            for ledger in node.bus.ledgers.values():
                assert (ledger.used, ledger.actors) == (0, 0)

    run(main(), loop)


@both
def test_the_node_itself_is_not_held_up_by_turns(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", rates=UNBOUNDED) as node:
            peer = await node.peer()
            assert not next(iter(node.bus.census)).account.paced
            peer.send(*(envelope.ping(token) for token in range(500)))
            for token in range(500):
                assert (await peer.expect(Kind.PONG))[1] == token

    run(main(), loop)


@both
def test_on_a_link_that_cannot_be_read_more_slowly_who_is_far_too_fast_is_cut_off(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(messages=10)) as node:
            (peer,) = await tenant_peers(node, "acme")
            (session,) = node.bus.census
            node.pump.receive(session, [envelope.publish("a", None, b"")] * 15)
            assert not session.closing
            node.pump.receive(session, [envelope.publish("a", None, b"")] * 15)
            assert (await peer.ended())["code"] == 4004

    run(main(), loop)


@both
def test_who_is_deep_in_debt_can_leave_at_once(tmp_path: Path, loop: str) -> None:
    """A node that stops waits for its connections to be gone, and would have waited until all was paid."""

    async def main() -> None:
        async with listening(tmp_path / "s", rates=Rates(messages=50)) as node:
            peers = await tenant_peers(node, *["acme"] * 20)
            bucket = next(iter(node.bus.census)).account.messages
            assert bucket is not None
            bucket.spend(100_000, clock())
            for peer in peers:
                peer.writer.transport.abort()
            while node.admission.statistics().open:
                await asyncio.sleep(0.001)
            assert len(node.bus.census) == 0

    run(main(), loop)
