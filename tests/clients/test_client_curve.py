"""The SDK over the network: ``tcp://`` with CURVE, on both event loops and on one that cannot watch descriptors."""

import asyncio
import errno
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import busclient
from busclient import BusError, Call, Code, NotConnected, UnknownOutcome
from busclient.curvelink import CurveLink
from busclient.keys import Keys, find_keys, make_pair, read_public
from tests.edge.curve_support import CurveNode, KeyPair, curve_node, until

SECONDS = 30.0


class Proactor(asyncio.SelectorEventLoop):
    """An event loop that cannot watch descriptors, as Windows' cannot."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:  # type: ignore[override]
        raise NotImplementedError

    def remove_reader(self, fd: Any) -> Any:
        raise NotImplementedError


def run(work: Coroutine[Any, Any, None], factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(work, SECONDS))


def loops() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    import uvloop

    return [asyncio.SelectorEventLoop, uvloop.new_event_loop]


both = pytest.mark.parametrize("factory", loops(), ids=["asyncio", "uvloop"])


def written(directory: Path, pair: KeyPair, name: str = "dpu0") -> Path:
    """The file of ``pair``'s secret half."""
    path = directory / f"{name}.key"
    path.write_text(pair.secret + "\n")
    path.chmod(0o600)
    return path


class Elsewhere:
    """A node on an event loop of its own, in a thread, so that clients can have any loop."""

    def __init__(self, node: CurveNode, loop: asyncio.AbstractEventLoop) -> None:
        self.node = node
        self.loop = loop

    async def do(self, work: Callable[[CurveNode], Any]) -> Any:
        """Call ``work`` with the node, on its loop."""

        async def there() -> Any:
            return work(self.node)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), self.loop))


@asynccontextmanager
async def elsewhere(**options: Any) -> AsyncIterator[Elsewhere]:
    """A node in a thread, gone afterwards."""
    started: asyncio.Future[Elsewhere] = asyncio.get_running_loop().create_future()
    here = asyncio.get_running_loop()
    stop: list[asyncio.Event] = []

    async def main() -> None:
        async with curve_node(**options) as node:
            stop.append(asyncio.Event())
            here.call_soon_threadsafe(started.set_result, Elsewhere(node, asyncio.get_running_loop()))
            await stop[0].wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    other = await started
    try:
        yield other
    finally:
        other.loop.call_soon_threadsafe(stop[0].set)
        await asyncio.to_thread(thread.join)


async def echo(call: Call) -> Any:
    return call.payload


async def everything(url: str, key: Path, server_key: str) -> None:
    """Each verb, small and large."""
    async with (
        busclient.connect(url, key=key, server_key=server_key, component="one", owner="tests") as one,
        busclient.connect(url, key=key, server_key=server_key, component="two", owner="tests") as two,
    ):
        assert one.welcome["boundary"] == "soc"
        assert one.welcome["unit"] == "dpu0"
        async with one.subscribe("n.>") as sub, two.serve("echo", echo):
            for n in range(2000):
                await two.publish("n.x", n)
            assert [(await anext(sub)).payload for _ in range(2000)] == list(range(2000))
            replies = await asyncio.gather(*[one.call("echo", n) for n in range(300)])
            assert [reply.payload for reply in replies] == list(range(300))
            large = os.urandom(3 << 20)
            assert (await one.call("echo", large)).payload == large


# -- the whole of it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [*loops(), Proactor], ids=["asyncio", "uvloop", "proactor"])
def test_everything_once(tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async with elsewhere() as other:
            pair = await other.do(lambda node: node.enroll("dpu0"))
            await everything(other.node.listener.url, written(tmp_path, pair), other.node.broker.public)
            assert (await other.do(lambda node: node.listener.statistics())).late_wakeups == 0
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("busclient")]

    run(main(), factory)


@both
def test_threads_and_variables(
    tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with curve_node() as node:
            monkeypatch.setenv("BUS_KEY", str(written(tmp_path, node.enroll("dpu0"))))
            (tmp_path / "broker.pub").write_text(node.broker.public + "\n")
            monkeypatch.setenv("BUS_SERVER_KEY", str(tmp_path / "broker.pub"))

            def script() -> Any:
                with busclient.blocking.connect(node.listener.url, component="script") as bus:
                    return bus.call("$bus.ping").payload["endpoint"]

            assert (await asyncio.to_thread(script)).startswith("soc-")

    run(main(), factory)


# -- refusals ---------------------------------------------------------------------------------------------------------


async def refusal(url: str, key: Path, server_key: str) -> BusError:
    with pytest.raises(BusError) as caught:
        async with busclient.connect(url, key=key, server_key=server_key):
            pass
    return caught.value


@both
def test_each_way_to_be_refused_says_what_it_is(
    tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        async with curve_node() as node:
            url, server = node.listener.url, node.broker.public
            good, stranger = node.enroll("dpu0"), KeyPair()
            key = written(tmp_path, good)

            refused = await refusal(url, written(tmp_path, stranger, "stranger"), server)
            assert refused.code == Code.KEY_REFUSED
            assert refused.fields["key"] == stranger.public
            assert "bus keys enroll" in refused.cure

            wrong = await refusal(url, key, KeyPair().public)
            assert wrong.code == Code.SERVER_KEY_WRONG
            assert "bus keys broker" in wrong.cure

            nobody = await refusal("tcp://127.0.0.1:1", key, server)
            assert isinstance(nobody, NotConnected)
            assert "nobody listens there" in nobody.text

            unknown = await refusal("tcp://no.such.host.invalid:5670", key, server)
            assert isinstance(unknown, NotConnected)
            assert "its name is not known" in unknown.text or "no answer" in unknown.text

            with socket.create_server(("127.0.0.1", 0)) as silent:
                slow = await refusal(f"tcp://127.0.0.1:{silent.getsockname()[1]}", key, server)
                assert slow.code == Code.HANDSHAKE_TIMEOUT
            for error in (refused, wrong, nobody, unknown, slow):
                for secret in (good.secret, stranger.secret):
                    assert secret not in f"{error!r} {error} {error.fields} {error.cure}"

    run(main(), factory)


@both
def test_http_is_not_a_bus(tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" + b" " * 64)
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            error = await refusal(url, written(tmp_path, KeyPair()), KeyPair().public)
        assert error.code == Code.SERVER_KEY_WRONG
        assert "is no busd" in error.text

    run(main(), factory)


# -- life -------------------------------------------------------------------------------------------------------------


@both
def test_a_revoked_client_ends_its_calls_and_stays_out(
    tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        async with curve_node() as node:
            key = written(tmp_path, node.enroll("dpu0"))
            held = asyncio.Event()

            async def hold(call: Call) -> None:
                held.set()
                await asyncio.sleep(60)

            other = written(tmp_path, node.enroll("dpu1"), "dpu1")
            async with (
                busclient.connect(node.listener.url, key=other, server_key=node.broker.public) as server,
                server.serve("hold", hold),
            ):
                bus = busclient.connect(node.listener.url, key=key, server_key=node.broker.public)
                await bus.open()
                call = asyncio.create_task(bus.call("hold", timeout=30.0))
                await held.wait()
                node.keyring.revoke(node.keyring.proven("dpu0/1"))  # type: ignore[arg-type]
                node.bus.remove_unit("dpu0", node.bus.started)
                node.pump.wake()
                with pytest.raises(UnknownOutcome):
                    await call
                await until(lambda: bus.state == "reconnecting")
                await until(lambda: node.listener.statistics().zap.denied >= 2)
                with pytest.raises(NotConnected):
                    await bus.call("hold")
                await bus.close()

    run(main(), factory)


@both
def test_it_comes_back_when_the_broker_does(tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        pair, broker = KeyPair(), KeyPair()
        key = written(tmp_path, pair)
        async with curve_node(broker=broker) as node:
            address = node.listener.address
            node.enroll("dpu0", pair=pair)
            bus = busclient.connect(node.listener.url, key=key, server_key=broker.public)
            await bus.open()
        await until(lambda: bus.state == "reconnecting")
        async with curve_node(broker=broker, address=address) as node:
            node.enroll("dpu0", pair=pair)
            await bus.connected()
            assert (await bus.call("$bus.ping")).payload["endpoint"] == bus.endpoint
            assert bus.statistics().connects == 2
            await bus.close()

    run(main(), factory)


@both
def test_a_publisher_waits_for_a_broker_that_does_not_read(
    tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        async with elsewhere() as other:
            pair = await other.do(lambda node: node.enroll("dpu0"))
            key = written(tmp_path, pair)
            url, server = other.node.listener.url, other.node.broker.public
            async with busclient.connect(url, key=key, server_key=server) as bus:
                resume = threading.Event()
                other.loop.call_soon_threadsafe(resume.wait, 20)  # the broker's loop stands still
                try:
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(2.0):
                            while True:
                                await bus.publish("x.y", bytes(60_000))
                    link = bus._connection.link
                    assert isinstance(link, CurveLink)
                    assert link.paused
                    assert link.unsent_bytes > 0
                finally:
                    resume.set()
                await bus.flush()
                assert not link.paused

    run(main(), factory)


@both
def test_what_was_sent_before_close_arrives(tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async with curve_node() as node:
            key = written(tmp_path, node.enroll("dpu0"))
            url, server = node.listener.url, node.broker.public
            async with busclient.connect(url, key=key, server_key=server) as reader, reader.subscribe("a.b") as sub:
                for n in range(10):
                    async with busclient.connect(url, key=key, server_key=server) as writer:
                        for _ in range(20):
                            writer.publish_nowait("a.b", n)
                    for _ in range(20):
                        assert (await anext(sub)).payload == n
                await until(lambda: len(node.bus.census) == 1)
                assert node.bus.statistics().departures == {("soc", "bye"): 10}

    run(main(), factory)


# -- keys -------------------------------------------------------------------------------------------------------------


def unusable(key: Any, server_key: Any) -> BusError:
    with pytest.raises(BusError) as caught:
        find_keys(key, server_key)
    assert caught.value.code == Code.KEY_UNUSABLE
    return caught.value


def test_a_pair_is_made_once_and_the_secret_is_its_owners(tmp_path: Path) -> None:
    secret, public, key = make_pair(tmp_path, "dpu0")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert public.read_text() == key + "\n"
    keys = find_keys(secret, public)
    assert (keys.public, keys.server) == (key, key)
    assert secret.read_text().strip() not in repr(keys)
    for missing in (public, secret):
        before = secret.read_text() if missing is public else public.read_text()
        missing.unlink()
        with pytest.raises(FileExistsError):
            make_pair(tmp_path, "dpu0")
        assert (secret if missing is public else public).read_text() == before
        missing.write_text(key)
        missing.chmod(0o600)
    assert isinstance(keys, Keys)


def test_a_credential_of_systemd_may_show_the_mask_of_its_acl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = written(tmp_path, KeyPair())
    server = KeyPair().public
    key.chmod(0o440)
    unusable(key, server)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert find_keys(key, server).server == server
    key.chmod(0o444)
    assert "mode 0444" in unusable(key, server).text
    other = tmp_path / "other"
    other.mkdir()
    key.rename(other / key.name)
    (other / key.name).chmod(0o440)
    assert "mode 0440" in unusable(other / key.name, server).text


def test_a_key_that_cannot_be_used_says_why_and_is_not_shown(tmp_path: Path) -> None:
    pair = KeyPair()
    key = written(tmp_path, pair)
    server = KeyPair().public
    assert "none was given (key, BUS_KEY or --key)" in unusable(None, server).text
    assert "none was given (server_key" in unusable(key, None).text
    assert "No such file" in unusable(tmp_path / "none.key", server).text
    assert "Is a directory" in unusable(tmp_path, server).text
    for bits in (0o640, 0o604, 0o644):
        key.chmod(bits)
        assert f"mode {bits:04o}); chmod 600 {key}" in unusable(key, server).text
    key.chmod(0o600)
    assert "this is a secret key file" in unusable(key, key).text
    assert "characters" in unusable(key, "not-a-key").text or "No such file" in unusable(key, "not-a-key").text
    assert "character 1 of it" in unusable(key, '"' * 40).text
    key.write_text(pair.secret[:-1])
    error = unusable(key, server)
    assert "has 39" in error.text
    assert pair.secret[:-1] not in str(error)
    assert read_public(pair.public, "it") == pair.public


def test_a_file_with_a_name_like_a_key_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, key = "a" * 40, KeyPair().public
    assert read_public(name, "it") == name
    Path(name).write_text(key)
    assert read_public(name, "it") == key


def test_errors_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    async def main() -> None:
        key = written(tmp_path, KeyPair())
        with pytest.raises(NotConnected) as caught:
            async with busclient.connect("tcp://127.0.0.1:1", key=key, server_key=KeyPair().public):
                pass
        cause = caught.value.__cause__
        assert isinstance(cause, ConnectionRefusedError)
        assert cause.errno == errno.ECONNREFUSED

    run(main(), asyncio.SelectorEventLoop)
