"""A real network between broker, card and guest host: what reaches the node over it, and what an outage does.

Three network namespaces, joined by veth pairs, made for this module and removed after it: ``broker``, ``card`` and
``guest``. Needs root and iproute2.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import busclient
from busclient.message import Call
from tests.support import START_SECONDS, environment, needs, wait_until

pytestmark = pytest.mark.timeout(180)

PORT = 5670
SUBNET = "198.18"
"""198.18.0.0/15 is for tests of network devices (RFC 2544): nobody has a route there."""

CARD_SIDE, CARD = f"{SUBNET}.1.1", f"{SUBNET}.1.2"
GUEST_SIDE, GUEST = f"{SUBNET}.2.1", f"{SUBNET}.2.2"

LEASE_SECONDS = 15.0
"""5 s of silence, then 10 s to answer a ping."""

PROGRAM = """
import asyncio, json, sys, time
import busclient

async def hold(call):
    await asyncio.Event().wait()

def say(**fields):
    print(json.dumps({**fields, "at": time.monotonic()}), flush=True)

async def main(url, key, server_key):
    bus = busclient.connect(url, component="card", owner="test", purpose="is cut off", key=key, server_key=server_key)
    async with bus, bus.serve("card.hold", hold):
        say(event="attached", endpoint=bus.endpoint)
        try:
            reply = await bus.call("host.hold", timeout=120)
        except busclient.BusError as error:
            say(event="ended", code=error.code, error=str(error))
        else:
            say(event="ended", reply=reply.payload)

asyncio.run(main(*sys.argv[1:]))
"""
"""On the card: serves and calls at once, each of which only the other side's end can end."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


class Network(NamedTuple):
    """The namespaces' names, which no other run has."""

    broker: str
    card: str
    guest: str

    def make(self) -> None:
        """Card and guest host are each joined with the broker's; loopback is up everywhere."""
        for name in self:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for far, here, there in ((self.card, CARD_SIDE, CARD), (self.guest, GUEST_SIDE, GUEST)):
            near = "to-card" if far == self.card else "to-guest"
            ip("link", "add", near, "netns", self.broker, "type", "veth", "peer", "name", "up0", "netns", far)
            ip("-n", self.broker, "address", "add", f"{here}/24", "dev", near)
            ip("-n", self.broker, "link", "set", near, "up")
            ip("-n", far, "address", "add", f"{there}/24", "dev", "up0")
            ip("-n", far, "link", "set", "up0", "up")
            ip("-n", far, "route", "add", "default", "via", here)

    def remove(self) -> None:
        for name in self:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=10)

    def run(self, name: str, *words: str, seconds: float = 30.0) -> "subprocess.CompletedProcess[str]":
        """Run a command in namespace ``name`` to its end."""
        command = ["ip", "netns", "exec", name, *words]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=seconds)

    @contextmanager
    def running(self, name: str, *words: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
        """A command in namespace ``name`` while it runs; killed at the end if it still does."""
        command = ["ip", "netns", "exec", name, *words]
        with subprocess.Popen(command, env=environment(), text=True, **options) as process:
            try:
                yield process
            finally:
                process.kill()


class Site(NamedTuple):
    """The network, and a node in it that listens for cards."""

    network: Network
    url: str
    """Of the host socket."""
    soc: str
    """Of the listener for cards."""
    directory: Path

    def bus(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """The ``bus`` command as an operator on the node runs it."""
        command = [sys.executable, "-m", "buscli", *words]
        return subprocess.run(
            command, env=environment(BUS_URL=self.url), capture_output=True, text=True, timeout=30, check=False
        )

    def records(self, *words: str) -> list[Any]:
        """What it says as JSON."""
        done = self.bus(*words, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def key(self, name: str) -> Path:
        """A new key pair; the path without its suffix."""
        done = self.bus("keys", "new", name, "--out", str(self.directory))
        assert done.returncode == 0, done.stderr
        return self.directory / name

    def enrolled(self, name: str) -> Path:
        """A new key pair that may attach as ``name``."""
        path = self.key(name)
        done = self.bus("keys", "enroll", name, f"{path}.pub")
        assert done.returncode == 0, done.stderr
        return path

    @property
    def broker_key(self) -> str:
        path = self.directory / "broker.pub"
        path.write_text(self.bus("keys", "broker").stdout)
        return str(path)

    def from_afar(self, where: str, key: Path, *words: str) -> "subprocess.CompletedProcess[str]":
        """The ``bus`` command in namespace ``where``, over the network with ``key``."""
        way = ("--bus", self.soc, "--key", f"{key}.key", "--server-key", self.broker_key)
        return self.network.run(where, sys.executable, "-m", "buscli", *words, *way, "--json", seconds=60)

    def endpoints(self, boundary: str) -> list[dict[str, Any]]:
        return [row for row in self.records("list") if row["principal"]["boundary"] == boundary]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    needs("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    directory = tmp_path_factory.mktemp("net")
    directory.chmod(0o755)
    mark = f"busd-test-{os.getpid()}"
    network = Network(f"{mark}-broker", f"{mark}-card", f"{mark}-guest")
    try:
        network.make()
        command = [sys.executable, "-m", "busd", "run", "--run-dir", str(directory / "run"), "--manifest", "allow"]
        command += ["--soc-listen", f"{CARD_SIDE}:{PORT}", "--http-listen", "127.0.0.1:9850"]
        with network.running(network.broker, *command) as process:
            host = directory / "run" / "host.sock"
            wait_until(lambda: host.exists() or process.poll() is not None, what="the node's socket")
            assert process.poll() is None
            yield Site(network, f"unix://{host}", f"tcp://{CARD_SIDE}:{PORT}", directory)
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_SECONDS) == 0
    finally:
        network.remove()


async def hold(call: Call) -> None:
    await asyncio.Event().wait()


async def echo(call: Call) -> Any:
    assert call.origin is not None
    return [call.origin.boundary, call.origin.unit, call.payload]


def beside(site: Site, work: Callable[[], None]) -> None:
    """Do ``work`` while a program of the host serves ``host.echo`` and ``host.hold``."""

    async def main() -> None:
        async with (
            busclient.connect(site.url, component="host", owner="test", purpose="answers cards") as bus,
            bus.serve("host.echo", echo),
            bus.serve("host.hold", hold),
        ):
            await asyncio.to_thread(work)

    asyncio.run(asyncio.wait_for(main(), 120))


def test_enrolled_card_calls_a_host_service_over_the_network_until_its_key_is_revoked(site: Site) -> None:
    key = site.enrolled("dpu-call")

    def work() -> None:
        done = site.from_afar(site.network.card, key, "call", "host.echo", '"over the wire"')
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == ["soc", "dpu-call", "over the wire"]
        with site.network.running(
            site.network.card,
            *(sys.executable, "-c", PROGRAM, site.soc, f"{key}.key", site.broker_key),
            stdout=subprocess.PIPE,
        ) as program:
            assert program.stdout is not None
            assert json.loads(program.stdout.readline())["event"] == "attached"
            (row,) = site.endpoints("soc")
            assert (row["principal"]["unit"], row["principal"]["tenant"]) == ("dpu-call", "node")
            (receipt,) = site.records("keys", "revoke", "dpu-call")
            assert receipt["unit"] == "dpu-call"
            ended = json.loads(program.stdout.readline())
            assert ended["event"] == "ended"
            assert "code" in ended, "a call of a revoked card must not succeed"
        wait_until(lambda: not site.endpoints("soc"), what="the revoked card's endpoint to be gone")
        assert site.from_afar(site.network.card, key, "call", "host.echo", "-t", "2s").returncode == 8

    beside(site, work)


def test_unenrolled_host_gets_nothing(site: Site) -> None:
    """From the guest's host the port can be reached, and says nothing to whoever has no key that was enrolled."""
    stranger = site.key("stranger")
    done = site.from_afar(site.network.guest, stranger, "list")
    assert done.returncode == 8, done.stdout
    assert done.stdout == ""
    script = f"""
import socket
peer = socket.create_connection(("{CARD_SIDE}", {PORT}), 5)
peer.settimeout(5)
peer.sendall(b"\\xff" + bytes(8) + b"\\x7f\\x03\\x01" + b"NULL".ljust(20, b"\\0") + bytes(32))
peer.sendall(b"\\x04\\x1a\\x05READY\\x0bSocket-Type\\x00\\x00\\x00\\x06DEALER")
said = b""
try:
    while chunk := peer.recv(4096):
        said += chunk
except ConnectionResetError:
    pass
print(len(said), b"READY" in said, b"busd" in said)
"""
    plain = site.network.run(site.network.guest, sys.executable, "-c", script)
    size, *told = plain.stdout.split()
    assert told == ["False", "False"], plain.stderr
    assert int(size) <= 128, "a greeting, and at most an error"
    assert not site.endpoints("soc")


def test_nothing_but_the_port_for_cards_listens_to_the_network(site: Site) -> None:
    """HTTP is for loopback only, and sockets of the host are files: none is abstract, which needs no permission."""
    for where in (site.network.card, site.network.guest):
        for port in (9850, PORT + 1):
            script = f"import socket; socket.create_connection(('{CARD_SIDE}', {port}), 2)"
            done = site.network.run(where, sys.executable, "-c", script)
            assert "ConnectionRefusedError" in done.stderr, done
    listening = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        text = site.network.run(site.network.broker, "cat", f"/proc/net/{table}").stdout
        rows = [line.split() for line in text.splitlines()[1:]]
        wanted = "0A" if table.startswith("tcp") else "07"
        listening += [row[1] for row in rows if row[3] == wanted]
    addresses = sorted(
        (socket.inet_ntoa(bytes.fromhex(a)[::-1]), int(p, 16)) for a, p in (x.split(":") for x in listening)
    )
    assert addresses == [("127.0.0.1", 9850), (CARD_SIDE, PORT)]
    unix = site.network.run(site.network.broker, "cat", "/proc/net/unix").stdout
    names = [line.split()[7] for line in unix.splitlines()[1:] if len(line.split()) > 7]
    assert any(name.startswith(str(site.directory)) for name in names)
    assert not [name for name in names if name.startswith("@")]


def test_guest_host_in_a_network_of_its_own_is_its_unit_and_can_reach_its_tenant_only(site: Site) -> None:
    (row,) = site.records("guest", "add", "vm-net", "--tenant", "acme", "--socket", str(site.directory / "vm-net"))
    url = f"unix://{row['address']}"

    def work() -> None:
        script = f"""
import asyncio, json, busclient
async def main():
    async with busclient.connect({url!r}, component="agent", owner="acme", purpose="looks around") as bus:
        rows = (await bus.call("$bus.list", {{}})).payload["endpoints"]
        try:
            await bus.call("host.echo")
        except busclient.BusError as error:
            print(json.dumps([[row["principal"]["unit"] for row in rows], error.code]))
asyncio.run(main())
"""
        done = site.network.run(site.network.guest, sys.executable, "-c", script)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [["vm-net"], 3001]

    beside(site, work)
    (receipt,) = site.records("guest", "remove", "vm-net")
    assert receipt["unit"] == "vm-net"


@pytest.mark.slow
def test_link_that_is_down_for_longer_than_the_lease_ends_calls_on_both_sides(site: Site) -> None:
    key = site.enrolled("dpu-link")
    link = ("-n", site.network.broker, "link", "set", "to-card")

    def work() -> None:
        with site.network.running(
            site.network.card,
            *(sys.executable, "-c", PROGRAM, site.soc, f"{key}.key", site.broker_key),
            stdout=subprocess.PIPE,
        ) as program:
            assert program.stdout is not None
            assert json.loads(program.stdout.readline())["event"] == "attached"
            with subprocess.Popen(
                [sys.executable, "-m", "buscli", "call", "card.hold", "-t", "100s"],
                env=environment(BUS_URL=site.url),
            ) as caller:
                try:
                    wait_until(lambda: any(row["held_calls"] for row in site.endpoints("soc")), what="the call")
                    down = time.monotonic()
                    ip(*link, "down")
                    wait_until(lambda: not site.endpoints("soc"), 3 * LEASE_SECONDS, what="the lease to end")
                    assert time.monotonic() - down > 5, "a short outage must end nothing"
                    assert caller.wait(10) == 7, "the caller learns that the outcome is unknown"
                    # The card finds out by itself, while the link is still down.
                    ended = json.loads(program.stdout.readline())
                    assert ended["event"] == "ended"
                    assert "code" in ended
                    assert ended["at"] - down < 4 * LEASE_SECONDS
                finally:
                    caller.kill()
                    ip(*link, "up")
        (departed,) = [
            row for row in site.records("list", "--departed") if row.get("principal", {}).get("unit") == "dpu-link"
        ][:1]
        # Whichever finds out first, the lease or libzmq's own heartbeat.
        assert departed["reason"] in ("lease-expired", "connection-lost")
        # A route of the broker's side is gone with the link; the card's traffic is its own affair and goes on.
        wait_until(
            lambda: site.from_afar(site.network.card, key, "call", "host.echo", "1", "-t", "2s").returncode == 0,
            what="the card to attach again",
        )

    beside(site, work)


def test_calls_get_through_a_lossy_and_slow_network_each_once(site: Site) -> None:
    key = site.enrolled("dpu-lossy")
    tc = ("tc", "-n", site.network.broker, "qdisc")
    shaping = ("dev", "to-card", "root", "netem", "delay", "20ms", "10ms", "loss", "5%", "reorder", "20%")
    if (shaped := subprocess.run([*tc, "add", *shaping], capture_output=True, text=True)).returncode:
        pytest.skip(f"tc netem: {shaped.stderr.strip()}")
    seen: list[int] = []

    async def count(call: Call) -> Any:
        seen.append(call.payload)
        return call.payload

    script = f"""
import asyncio, busclient
async def main():
    way = {{"key": {f"{key}.key"!r}, "server_key": {site.broker_key!r}}}
    async with busclient.connect({site.soc!r}, component="card", owner="test", purpose="calls", **way) as bus:
        replies = await asyncio.gather(*(bus.call("host.count", n, timeout=60) for n in range(200)))
        assert [reply.payload for reply in replies] == list(range(200))
asyncio.run(main())
"""

    async def main() -> None:
        async with (
            busclient.connect(site.url, component="host", owner="test", purpose="counts") as bus,
            bus.serve("host.count", count),
        ):
            done = await asyncio.to_thread(
                site.network.run, site.network.card, sys.executable, "-c", script, seconds=90
            )
            assert done.returncode == 0, done.stderr

    try:
        asyncio.run(main())
    finally:
        subprocess.run([*tc, "delete", "dev", "to-card", "root"], check=True, capture_output=True)
    assert sorted(seen) == list(range(200))
