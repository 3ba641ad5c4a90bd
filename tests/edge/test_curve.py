"""The SoC boundary: CURVE keys in, sessions of the bus out, and nobody else."""

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import threading
import time
from functools import partial
from typing import Any

import pytest
import zmq

from busd.core.account import Rates
from busd.core.principal import Principal
from busd.edge.curve import CurveListener, Lease
from busd.edge.zap import ZapHandler
from busproto import envelope
from busproto.envelope import Kind
from busproto.errors import BusError, Code
from busproto.limits import PAYLOAD_BYTES
from tests.edge.curve_support import Card, CurveNode, KeyPair, curve_node, until
from tests.edge.raw import loops, run
from tests.edge.rawcurve import RawCurve

both = pytest.mark.parametrize("loop", sorted(loops()))

NIL = b"\xc0"


async def farewell(card: Card) -> dict[str, Any]:
    """The error body of the bye that must come next."""
    body: dict[str, Any] = (await card.expect(Kind.BYE))[1]
    return body


async def hung_up(card: Card) -> None:
    """Return when the broker has ended the connection."""
    await until(lambda: card.happened(zmq.EVENT_DISCONNECTED))


async def refused(card: Card) -> None:
    """Return when the handshake has failed, as it must."""
    failures = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_CLOSED)
    await until(lambda: any(map(card.happened, failures)))
    assert not card.happened(zmq.EVENT_HANDSHAKE_SUCCEEDED)


# -- who gets in ------------------------------------------------------------------------------------------------------


@both
def test_an_enrolled_key_is_its_unit_and_nothing_else(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            pair = node.enroll("dpu0", "acme")
            card = await Card(node, pair).attach()
            (session,) = node.bus.census
            assert session.principal == Principal("soc", "acme", "dpu0", 1, key=pair.public)
            assert session.name.startswith("soc-")
            card.send(envelope.call(1, "$bus.ping", 5000, None, NIL))
            assert (await card.expect(Kind.REPLY))[1:3] == [1, 0]
            assert node.listener.endpoints("dpu0") == [session.name]
            figures = node.listener.statistics()
            assert (figures.state, figures.accepted, figures.attached, figures.open) == ("listening", 1, 1, 1)
            assert (figures.zap.requests, figures.zap.denied, figures.refused) == (1, 0, {})

    run(main(), loop)


@both
def test_a_key_that_is_not_enrolled_is_refused_and_named(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            node.enroll("dpu0")
            stranger = KeyPair()
            card = Card(node, stranger)
            await refused(card)
            assert (zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400) in card.events
            await until(lambda: node.reported("key-denied"))
            (report,) = node.reported("key-denied")
            assert report["count"] == 1
            assert stranger.public in report["last"]
            await until(lambda: node.listener.statistics().unproven == 1)
            figures = node.listener.statistics()
            assert (figures.attached, figures.zap.denied) == (0, 1)
            assert stranger.secret not in repr((node.reports, figures))

    run(main(), loop)


@both
def test_a_client_of_another_broker_is_refused(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            await refused(Card(node, node.enroll("dpu0"), server=KeyPair().public))
            await until(lambda: node.listener.statistics().unproven == 1)
            figures = node.listener.statistics()
            assert (figures.open, figures.zap.requests, figures.attached) == (0, 0, 0)

    run(main(), loop)


@both
def test_no_mechanism_and_plain_are_refused(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            context = zmq.Context()
            plain: dict[int, Any] = {zmq.PLAIN_USERNAME: b"dpu0", zmq.PLAIN_PASSWORD: b"x"}
            for number, options in enumerate(({}, plain), 1):
                with context.socket(zmq.DEALER) as peer:
                    for option, value in {zmq.LINGER: 0, zmq.RECONNECT_IVL: -1, **options}.items():
                        peer.setsockopt(option, value)
                    peer.connect(node.listener.url)
                    with contextlib.suppress(zmq.Again):  # it is refused already, and a send would wait for ever
                        peer.send(envelope.hello({}), zmq.DONTWAIT)
                    while node.listener.statistics().unproven < number:
                        await asyncio.sleep(0.01)
            context.term()
            figures = node.listener.statistics()
            assert (figures.accepted, figures.attached, figures.zap.requests) == (2, 0, 0)

    run(main(), loop)


@both
def test_a_name_that_comes_again_is_a_new_life(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            old = node.enroll("dpu0")
            node.keyring.revoke(next(iter(node.keyring)))
            node.bus.remove_unit("dpu0", time.monotonic())
            new = node.enroll("dpu0")
            await refused(Card(node, old))
            await Card(node, new).attach()
            (session,) = node.bus.census
            assert session.principal.generation == 2

    run(main(), loop)


@both
def test_a_key_revoked_after_the_handshake_gets_no_session(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            card = Card(node, node.enroll("dpu0"))
            await until(lambda: card.happened(zmq.EVENT_HANDSHAKE_SUCCEEDED))
            node.keyring.revoke(next(iter(node.keyring)))
            node.bus.remove_unit("dpu0", time.monotonic())
            card.send(envelope.hello({}))
            assert (await farewell(card))["code"] == Code.UNIT_UNKNOWN
            await hung_up(card)
            assert node.listener.statistics().refused == {"unit": 1}

    run(main(), loop)


@both
def test_revoking_ends_what_is_attached_at_once(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            card = await Card(node, node.enroll("dpu0")).attach()
            card.send(envelope.subscribe(1, "a.>", {}), envelope.serve(2, "b", {}))
            await card.expect(Kind.REPLY)
            await card.expect(Kind.REPLY)
            other = await Card(node, node.enroll("dpu1")).attach()
            node.keyring.revoke(next(iter(node.keyring)))
            receipt = node.bus.remove_unit("dpu0", time.monotonic())
            node.pump.wake()
            assert (receipt.endpoints, receipt.subscriptions, receipt.services) == (1, 1, 1)
            assert (await farewell(card))["code"] == Code.UNIT_UNKNOWN
            await hung_up(card)
            await until(lambda: len(node.bus.census) == 1)
            other.send(envelope.ping(5))
            assert await other.expect(Kind.PONG) == [Kind.PONG, 5]
            await refused(Card(node, KeyPair()))

    run(main(), loop)


# -- the handler that must answer -------------------------------------------------------------------------------------


def kill(thread: threading.Thread) -> None:
    """Have ``thread`` end by an exception that it does not catch, the next time that it runs Python."""
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def is_refused(node: CurveNode) -> bool:
    """Whether nobody listens at the node's address any more."""
    host, _, port = node.listener.address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == errno.ECONNREFUSED


@both
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_gets_in_without_the_zap_handler(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            pair = node.enroll("dpu0")
            card = await Card(node, pair).attach()
            kill(node.listener._zap.thread)
            assert (await farewell(card))["code"] == Code.LISTENER_CLOSED
            await hung_up(card)
            assert not node.listener._zap.is_alive
            await until(lambda: is_refused(node))
            for key in (pair, KeyPair()):
                await refused(Card(node, key))
            (report,) = node.reported("curve-listener-closed")
            assert report["reason"] == "the ZAP handler has ended"
            assert node.listener.statistics().state == "closed: the ZAP handler has ended"
            assert node.listener.statistics().attached == 1

    run(main(), loop)


@both
def test_nobody_gets_in_while_the_zap_handler_hangs(loop: str) -> None:
    class Hanging:
        """An authority that never decides."""

        def __init__(self) -> None:
            self.end = threading.Event()

        def user_id_of(self, key: str) -> str | None:
            self.end.wait(30)
            return "dpu0/1"

    async def main() -> None:
        authority = Hanging()
        async with curve_node(authority=authority) as node:
            pair = node.enroll("dpu0")
            card = Card(node, pair)
            await until(lambda: node.reported("curve-listener-closed"))
            assert node.reported("curve-listener-closed")[0]["reason"] == "the ZAP handler does not answer"
            await until(lambda: is_refused(node))
            await refused(Card(node, pair))
            authority.end.set()
            await refused(card)
            assert node.listener.statistics().attached == 0

    run(main(), loop)


@both
def test_what_libzmq_lets_in_unasked_is_not_taken(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a handler libzmq accepts every CURVE key ("Stonehouse"). The second wall: no proven key, no session."""
    monkeypatch.setattr(ZapHandler, "start", lambda handler: None)
    monkeypatch.setattr(CurveListener, "_look", lambda listener: None)

    async def main() -> None:
        async with curve_node() as node:
            for key in (node.enroll("dpu0"), KeyPair()):
                card = Card(node, key)
                card.send(envelope.hello({}))
                await hung_up(card)
                assert card.happened(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            figures = node.listener.statistics()
            assert (figures.attached, figures.refused) == (0, {"unproven": 2})
            assert [fields["reason"] for fields in node.reported("connection-refused")] == ["unproven"] * 2

    run(main(), loop)


# -- sessions ---------------------------------------------------------------------------------------------------------


@both
def test_two_with_one_routing_id_do_not_meet(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            options: dict[int, Any] = {zmq.ROUTING_ID: b"dpu"}
            first = await Card(node, node.enroll("dpu0"), options=options).attach()
            second = Card(node, node.enroll("dpu1"), options=options)
            second.send(envelope.hello({}), envelope.subscribe(1, "x.>", {}))
            await hung_up(second)
            (session,) = node.bus.census
            assert session.principal.unit == "dpu0"
            first.send(envelope.call(1, "$bus.ping", 5000, None, NIL))
            assert (await first.expect(Kind.REPLY))[1:3] == [1, 0]
            with pytest.raises(TimeoutError):
                await second.receive(0.1)
            assert node.listener.statistics().refused == {"silent": 1}
            # Free again, it is the next one's, as a session of its own.
            first.close()
            await until(lambda: not len(node.bus.census))
            await Card(node, node.keys["dpu1"], options=options).attach()
            assert next(iter(node.bus.census)).principal.unit == "dpu1"

    run(main(), loop)


@both
def test_a_card_that_leaves_is_noticed_at_once(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            staying = await Card(node, node.enroll("dpu0")).attach()
            leaving = await Card(node, node.enroll("dpu1")).attach()
            crashing = await Card(node, node.enroll("dpu2")).attach()
            leaving.send(envelope.bye(None))
            crashing.close()
            await until(lambda: len(node.bus.census) == 1, 5.0)
            await until(lambda: sum(node.bus.statistics().departures.values()) == 2)
            departures = node.bus.statistics().departures
            assert departures == {("soc", "bye"): 1, ("soc", "connection-lost"): 1}
            staying.send(envelope.ping(1))
            await staying.expect(Kind.PONG)

    run(main(), loop)


@both
def test_what_was_sent_just_before_leaving_arrives(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            reader = await Card(node, node.enroll("dpu0")).attach()
            reader.send(envelope.subscribe(1, "last.words", {}))
            await reader.expect(Kind.REPLY)
            pair = node.enroll("dpu1")
            for number in range(20):
                writer = Card(node, pair, options={zmq.LINGER: 5000})
                writer.send(envelope.hello({}), envelope.publish("last.words", None, bytes([number])))
                await until(partial(writer.happened, zmq.EVENT_HANDSHAKE_SUCCEEDED))
                writer.close(linger=5000)
                assert await reader.expect(Kind.PUBLISH) == [Kind.PUBLISH, "last.words", None, bytes([number])]

    run(main(), loop)


@both
def test_a_silent_card_is_asked_and_given_up(loop: str) -> None:
    async def main() -> None:
        async with curve_node(lease=Lease(quiet_seconds=0.2, answer_seconds=0.8)) as node:
            mute = await Card(node, node.enroll("dpu0")).attach()
            alive = await Card(node, node.enroll("dpu1")).attach()
            started = time.monotonic()
            while len(node.bus.census) == 2:
                ping = await alive.expect(Kind.PING)
                alive.send(envelope.pong(ping[1]))
                assert time.monotonic() - started < 10
            assert next(iter(node.bus.census)).principal.unit == "dpu1"
            assert time.monotonic() - started > 0.9
            assert (await mute.receive())[0] == Kind.PING
            bye = await farewell(mute)
            assert bye["code"] == Code.LEASE_EXPIRED
            await hung_up(mute)
            assert node.listener.statistics().lease_expiries == 1
            assert ("soc", "lease-expired") in node.bus.statistics().departures

    run(main(), loop)


@both
def test_a_message_of_several_parts_ends_the_session(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            card = await Card(node, node.enroll("dpu0")).attach()
            other = await Card(node, node.enroll("dpu1")).attach()
            card.socket.send_multipart([envelope.ping(1), *[b"x"] * 500])
            assert (await farewell(card))["code"] == Code.MULTIPART_MESSAGE
            await hung_up(card)
            other.send(envelope.ping(1))
            await other.expect(Kind.PONG)
            assert node.listener.statistics().discarded == 500

    run(main(), loop)


@both
def test_a_message_that_never_ends_is_cut_while_it_is_small(loop: str) -> None:
    """libzmq counts whole messages only: unbounded, one enrolled card takes all of the broker's memory (0.3 GiB/s)."""

    def flood(node: CurveNode, pair: KeyPair, hello: bool) -> int:
        card = RawCurve(node.listener.address, pair, node.broker.public)
        sent = 0
        try:
            if hello:
                card.send(envelope.hello({}))
                card.receive()
            while sent < 1 << 30:
                card.send(bytes(1 << 16), more=True)
                sent += 1 << 16
        except (OSError, EOFError):
            pass
        finally:
            card.tcp.close()
        return sent

    async def main() -> None:
        async with curve_node() as node:
            other = await Card(node, node.enroll("dpu1")).attach()
            pair = node.enroll("dpu0")
            # What the kernel and a tick of this busy machine add to the largest frame.
            assert await asyncio.to_thread(flood, node, pair, True) < 300 << 20
            await until(lambda: node.reported("endpoint-cut-off"))
            assert node.reported("endpoint-cut-off")[0]["code"] == Code.FRAME_TOO_LARGE
            assert await asyncio.to_thread(flood, node, pair, False) < 300 << 20
            await until(lambda: node.listener.statistics().refused == {"held": 1})
            other.send(envelope.ping(1))
            await other.expect(Kind.PONG)

    run(main(), loop, 60.0)


@both
def test_half_a_message_is_charged_and_must_end_in_time(loop: str) -> None:
    async def main() -> None:
        async with curve_node(quotas={"frame_seconds": 1.0}) as node:
            pair = node.enroll("dpu0")

            def half() -> None:
                card = RawCurve(node.listener.address, pair, node.broker.public)
                try:
                    card.send(envelope.hello({}))
                    card.receive()
                    card.send(envelope.ping(1))
                    card.send(bytes(1 << 20), more=True)
                    while True:
                        card.receive()
                except (EOFError, OSError):
                    card.tcp.close()

            task = asyncio.create_task(asyncio.to_thread(half))
            await until(lambda: len(node.bus.census) == 1)
            (session,) = node.bus.census
            await until(lambda: session.held_bytes)
            assert 1 << 20 < session.held_bytes < 1100 << 10
            assert node.listener.statistics().held_bytes == session.held_bytes
            await task
            await until(lambda: not len(node.bus.census))
            assert session.error is not None
            assert session.error["code"] == Code.FRAME_TIMEOUT

    run(main(), loop)


@both
def test_a_tenants_card_waits_for_its_turn(loop: str) -> None:
    async def main() -> None:
        rates = Rates(messages=200.0)
        async with curve_node(bus={"guest_rates": rates}, quotas={"held_bytes": 1 << 20}) as node:
            own = await Card(node, node.enroll("dpu0")).attach()
            fast = await Card(node, node.enroll("dpu1", "acme")).attach()
            for number in range(300):
                fast.send(envelope.ping(number))
            own.send(envelope.ping(1))
            await own.expect(Kind.PONG)
            started = time.monotonic()
            for number in range(300):
                assert await fast.expect(Kind.PONG) == [Kind.PONG, number]
            assert time.monotonic() - started > 0.2
            # What goes on beyond its share of what may wait is cut off. In the middle of a message that is at once, and
            # the bye does not reach it then.
            for _ in range(200):
                fast.send(envelope.publish("x.y", None, bytes(10_000)))
                await asyncio.sleep(0)
            await until(lambda: node.reported("endpoint-cut-off"))
            [told] = node.reported("endpoint-cut-off")
            assert (told["unit"], told["code"]) == ("dpu1", Code.QUOTA_EXCEEDED)
            own.send(envelope.ping(2))
            await own.expect(Kind.PONG)

    run(main(), loop)


@both
def test_the_largest_payload_crosses_and_a_larger_frame_does_not(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            reader = await Card(node, node.enroll("dpu0")).attach()
            writer = await Card(node, node.enroll("dpu1")).attach()
            reader.send(envelope.subscribe(1, "big", {}))
            await reader.expect(Kind.REPLY)
            payload = bytes(PAYLOAD_BYTES)
            writer.send(envelope.publish("big", None, payload))
            assert (await reader.expect(Kind.PUBLISH))[3] == payload
            writer.socket.send(bytes(PAYLOAD_BYTES + (64 << 10) + 1))
            await hung_up(writer)

    run(main(), loop, 30.0)


@both
def test_who_does_not_read_is_charged_for_what_waits(loop: str) -> None:
    async def main() -> None:
        async with curve_node(quotas={"outbox_bytes": 1 << 20, "max_payload": 1 << 19}) as node:
            options: dict[int, Any] = {zmq.RCVHWM: 1, zmq.RCVBUF: 4096}
            reader = await Card(node, node.enroll("dpu0"), options=options).attach()
            reader.send(envelope.subscribe(1, "much", {}))
            await reader.expect(Kind.REPLY)
            writer = await Card(node, node.enroll("dpu1")).attach()
            sent = 0
            session = next(each for each in node.bus.census if each.principal.unit == "dpu0")
            while not session.outbox.lost:
                writer.send(envelope.publish("much", {"n": sent}, bytes(50_000)))
                sent += 1
                await asyncio.sleep(0.001)
                assert sent < 2000
            assert session.outbox.bytes <= 1 << 20
            # What went to libzmq and the kernel is bounded: the rest waits where it is charged, or is counted as lost.
            writer.send(envelope.ping(1))
            await writer.expect(Kind.PONG)
            got = lost = 0
            while got + lost < sent:
                message = await reader.receive()
                if message[0] == Kind.GAP:
                    lost += message[2]
                elif message[0] == Kind.PING:
                    reader.send(envelope.pong(message[1]))
                else:
                    assert message[0] == Kind.PUBLISH
                    got += 1
            assert lost > 0

    run(main(), loop, 30.0)


# -- strangers --------------------------------------------------------------------------------------------------------


@both
def test_idle_connections_do_not_keep_a_card_waiting(loop: str) -> None:
    """The shape of CVE-2020-15166: connections that never speak."""

    async def main() -> None:
        async with curve_node() as node:
            host, _, port = node.listener.address.rpartition(":")
            idle = [socket.create_connection((host, int(port))) for _ in range(50)]
            try:
                await until(lambda: node.listener.statistics().open == 50)
                started = time.monotonic()
                await Card(node, node.enroll("dpu0")).attach()
                assert time.monotonic() - started < 1.0
                await until(lambda: node.listener.statistics().open == 1)
            finally:
                for connection in idle:
                    connection.close()

    run(main(), loop)


@both
def test_connections_are_bounded_in_number(loop: str) -> None:
    async def main() -> None:
        async with curve_node(connections=10) as node:
            await Card(node, node.enroll("dpu0")).attach()
            host, _, port = node.listener.address.rpartition(":")
            idle = [socket.create_connection((host, int(port))) for _ in range(15)]
            try:
                await until(lambda: node.listener.statistics().refused.get("connections", 0) >= 6)
                await until(lambda: node.reported("connection-refused"))
                assert node.reported("connection-refused")[0]["reason"] == "connections"
                assert len(node.bus.census) == 1
            finally:
                for connection in idle:
                    connection.close()
            await until(lambda: node.listener.statistics().open == 1)
            await Card(node, node.enroll("dpu1")).attach()

    run(main(), loop)


@both
def test_a_full_or_leaving_node_says_so(loop: str) -> None:
    async def main() -> None:
        async with curve_node(quotas={"endpoints": 1}) as node:
            first = await Card(node, node.enroll("dpu0")).attach()
            second = Card(node, node.enroll("dpu1"))
            second.send(envelope.hello({}))
            assert (await farewell(second))["code"] == Code.TOO_MANY_CONNECTIONS
            await hung_up(second)
            node.bus.drain(1.0)
            third = Card(node, node.enroll("dpu2"))
            third.send(envelope.hello({}))
            assert (await farewell(third))["code"] == Code.DRAINING
            node.pump.wake()
            await first.expect(Kind.DRAIN)
            assert node.listener.statistics().refused == {"endpoints": 1, "draining": 1}

    run(main(), loop)


# -- life -------------------------------------------------------------------------------------------------------------


@both
def test_closing_lets_byes_out_first(loop: str) -> None:
    async def main() -> None:
        async with curve_node() as node:
            card = await Card(node, node.enroll("dpu0")).attach()
            node.bus.shut(0.0)
            node.pump.wake()
            closing = asyncio.create_task(node.listener.close(5.0))
            assert (await farewell(card))["code"] == Code.DRAINING
            card.close()
            await closing
            assert node.listener.statistics().attached == 1

    run(main(), loop)


@both
def test_an_address_in_use_is_refused(loop: str) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            node = CurveNode(address=f"127.0.0.1:{holder.getsockname()[1]}")
            with pytest.raises(BusError) as caught:
                node.listener.start()
            assert caught.value.code == Code.LISTEN_FAILED
            assert "in use" in caught.value.text
            await node.listener.close(0)

    run(main(), loop)


@both
def test_nothing_is_left_when_it_is_closed(loop: str) -> None:
    async def main() -> None:
        def count() -> int:
            return len(os.listdir("/proc/self/fd"))

        async with curve_node() as node:
            await Card(node, node.enroll("dpu0")).attach()
        before = count()
        for _ in range(3):
            async with curve_node() as node:
                await Card(node, node.enroll("dpu0")).attach()
        assert count() == before
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("busd")]

    run(main(), loop, 30.0)
