"""The blocking SDK: from one thread and from several, interrupted and closed, leaving no thread behind."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import busclient
from busclient import BusError, Call, CallTimeout, Closed, ErrorReply, Gap, NoResponders, NotConnected, Reply
from busclient.blocking import Bus, connect
from tests.support import RunningNode, environment, wait_until


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """What is entered with ``with`` is gone after it."""
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before, 5, what="threads to end")


@pytest.fixture
def bus(shared_node: RunningNode) -> Iterator[Bus]:
    with connect(shared_node.url, component="blocking") as bus:
        yield bus


def echo(call: Call) -> Any:
    return call.payload


def test_the_shape_of_the_sdk(shared_node: RunningNode) -> None:
    with busclient.blocking.connect(shared_node.url, component="script", owner="tests") as bus:
        assert bus.endpoint
        assert bus.url == shared_node.url
        assert bus.welcome["boundary"] == "host"
        with bus.serve("b.echo", echo), bus.subscribe("b.>") as sub:
            assert bus.call("b.echo", {"n": 1}, timeout=5.0).payload == {"n": 1}
            bus.publish("b.tick", {"n": 2}, headers={"id": "x"})
            message = sub.receive(timeout=5.0)
            assert (message.subject, message.payload, message.headers["id"]) == ("b.tick", {"n": 2}, "x")
        bus.flush()
        assert bus.statistics().connects == 1
    assert bus.state == "closed"


def test_errors_are_those_of_the_sdk(bus: Bus) -> None:
    with pytest.raises(NoResponders):
        bus.call("b.nobody")
    with pytest.raises(BusError, match="not a subject"):
        bus.publish("NO")
    with pytest.raises(BusError, match="not a pattern"), bus.subscribe("a..b"):
        pass
    with pytest.raises(ValueError, match="gaps"):
        bus.subscribe("a", gaps="drop")  # type: ignore[call-overload]

    def fails(call: Call) -> None:
        raise BusError(10005, text="out of paper")

    with bus.serve("b.fails", fails), pytest.raises(ErrorReply, match="out of paper"):
        bus.call("b.fails")


def test_no_bus_there() -> None:
    with pytest.raises(NotConnected, match="no such socket"), connect("unix:///nowhere/at/all.sock"):
        pass


def test_iteration_ends_with_the_bus_and_receive_with_its_timeout(shared_node: RunningNode) -> None:
    got: list[int] = []
    with connect(shared_node.url) as bus:
        sub = bus.subscribe("b.n")
        sub.__enter__()
        with pytest.raises(TimeoutError):
            sub.receive(timeout=0.05)
        for n in range(1000):
            bus.publish("b.n", n)
        for message in sub:
            got.append(message.payload)
            if len(got) == 900:
                break
        reader = threading.Thread(target=lambda: got.extend(message.payload for message in sub))
        reader.start()
        wait_until(lambda: len(got) == 1000)
    reader.join(5)
    assert not reader.is_alive()
    assert got == list(range(1000))


def test_gaps(bus: Bus) -> None:
    with bus.subscribe("b.g", gaps="yield", max_pending=3) as yields, bus.subscribe("b.g", max_pending=3) as raises:
        for n in range(5):
            bus.publish("b.g", n)
        bus.flush()
        items = [yields.receive(5) for _ in range(4)]
        assert [item.count if isinstance(item, Gap) else item.payload for item in items] == [0, 1, 2, 2]
        assert [raises.receive(5).payload for _ in range(3)] == [0, 1, 2]
        with pytest.raises(Gap) as caught:
            raises.receive(5)
        assert caught.value.count == 2
        bus.publish("b.g", 9)
        assert raises.receive(5).payload == 9
        assert raises.statistics().lost_messages == 2


def test_streams_from_generators_and_leaving_them_early(bus: Bus) -> None:
    ended = threading.Event()

    def count(call: Call) -> Iterator[Any]:
        try:
            for n in range(call.payload):
                yield Reply(n, headers={"n": n})
        finally:
            ended.set()

    with bus.serve("b.count", count):
        assert [(part.payload, part.headers["n"]) for part in bus.stream("b.count", 4)] == [(n, n) for n in range(4)]
        ended.clear()
        for part in bus.stream("b.count", 10**9):
            if part.payload == 3:
                break
        assert ended.wait(5)
        ended.clear()
        with bus.stream("b.count", 10**9) as parts:
            next(parts)
        assert ended.wait(5)
        with pytest.raises(CallTimeout):
            for _ in bus.stream("b.count", 10**9, timeout=0.2):
                pass


def test_many_threads_share_one_bus(bus: Bus) -> None:
    def work(number: int) -> list[Any]:
        with bus.subscribe(f"b.t{number}") as sub:
            for n in range(20):
                bus.publish(f"b.t{number}", n)
            seen = [sub.receive(10).payload for _ in range(20)]
        return seen + [bus.call("b.echo", n).payload for n in range(20)]

    with bus.serve("b.echo", echo), ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(16)))
    assert results == [[*range(20), *range(20)]] * 16


def test_handlers_run_at_the_same_time_and_see_that_they_are_cancelled(bus: Bus) -> None:
    barrier = threading.Barrier(3, timeout=10)
    cancelled = threading.Event()

    def together(call: Call) -> int:
        return barrier.wait()

    def long(call: Call) -> None:
        wait_until(lambda: call.cancelled, 10)
        cancelled.set()

    with bus.serve("b.together", together, concurrency=3), bus.serve("b.long", long), ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(lambda _: bus.call("b.together").payload, range(3))) == [0, 1, 2]
        with pytest.raises(CallTimeout):
            bus.call("b.long", timeout=0.1)
        assert cancelled.wait(10)


def test_ctrl_c_interrupts_what_waits(shared_node: RunningNode) -> None:
    script = """
import sys, threading, busclient
with busclient.blocking.connect(sys.argv[1]) as bus:
    with bus.subscribe("b.never") as sub:
        try:
            print("ready", flush=True)
            sub.receive()
        except KeyboardInterrupt:
            print(bus.call("$bus.ping").payload["endpoint"] == bus.endpoint, flush=True)
            raise
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", script, shared_node.url]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            output, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert output == "True\n"
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "Task" not in errors
    assert process.returncode == -signal.SIGINT


def test_an_interrupted_call_is_cancelled(bus: Bus) -> None:
    started = threading.Event()
    cancelled = threading.Event()

    def long(call: Call) -> None:
        started.set()
        wait_until(lambda: call.cancelled, 10)
        cancelled.set()

    def interrupt() -> None:
        started.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with bus.serve("b.long", long):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            bus.call("b.long", timeout=60.0)
        thread.join()
        assert cancelled.wait(10)


def test_after_close_everything_is_closed(shared_node: RunningNode) -> None:
    with connect(shared_node.url) as bus:
        pass
    for verb in (lambda: bus.call("a"), lambda: bus.publish("a"), bus.flush, lambda: bus.subscribe("a").__enter__()):
        with pytest.raises(Closed):
            verb()
    with pytest.raises(RuntimeError, match="already open"):
        bus.open()
    bus = connect(shared_node.url)
    with pytest.raises(RuntimeError, match="with"):
        bus.call("a")


def test_closing_while_another_thread_waits_ends_its_wait(shared_node: RunningNode) -> None:
    errors: list[Exception] = []

    def waits(bus: Bus) -> None:
        try:
            bus.call("b.never", timeout=60.0)
        except BusError as error:
            errors.append(error)

    with connect(shared_node.url) as server:
        gate = threading.Event()
        with server.serve("b.never", lambda call: gate.wait(10)):
            with connect(shared_node.url) as bus:
                thread = threading.Thread(target=waits, args=(bus,))
                thread.start()
                wait_until(lambda: bus.statistics().calls_in_flight == 1)
            thread.join(10)
            gate.set()
    assert [type(error).__name__ for error in errors] == ["UnknownOutcome"]


def test_a_body_that_raises_still_closes(shared_node: RunningNode) -> None:
    with pytest.raises(KeyError), connect(shared_node.url) as bus, bus.serve("b.echo", echo):
        raise KeyError
    assert bus.state == "closed"


def test_draining_and_waiting_for_a_connection(bus: Bus) -> None:
    bus.connected(timeout=5)
    with bus.serve("b.echo", echo) as service:
        bus.call("b.echo")
        bus.drain(grace=5)
        with pytest.raises(NoResponders):
            bus.call("b.echo")
        assert service.statistics().answered_calls == 1


def test_it_cannot_be_used_from_its_own_thread(bus: Bus) -> None:
    async def inside() -> str:
        try:
            bus.publish("a")
        except Closed as error:
            return str(error)
        return "no error"

    assert bus._thread is not None
    assert "closed" in bus._thread.run(asyncio.wait_for(inside(), 5))
