"""``bus keys`` on a real node: make, enrol, attach, revoke; and no private key anywhere it could be seen."""

import json
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from busproto.z85 import encode_key
from tests.clients.cli_support import Cli, lines_of
from tests.support import running_node, wait_until


class SocNode(NamedTuple):
    """A node that listens on the network, and the command on its host socket."""

    bus: Cli
    url: str
    run_dir: Path


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocNode]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    run_dir = tmp_path_factory.mktemp("soc")
    with running_node(run_dir, "--soc-listen", address) as running:
        yield SocNode(Cli(running.url), f"tcp://{address}", run_dir)


def card(node: SocNode, directory: Path, name: str) -> Cli:
    """The command as a card has it: the network's address and its keys, and no unix socket."""
    (directory / "broker.pub").write_bytes(node.bus("keys", "broker").stdout)
    return Cli(node.url, BUS_KEY=str(directory / f"{name}.key"), BUS_SERVER_KEY=str(directory / "broker.pub"))


def secret_in(directory: Path, name: str) -> bytes:
    return (directory / f"{name}.key").read_bytes().strip()


def test_a_card_from_its_key_to_its_revocation(node: SocNode, tmp_path: Path) -> None:
    bus = node.bus
    made = bus("keys", "new", "dpu0", "--out", str(tmp_path))
    assert made.returncode == 0, made.stderr
    (said,) = lines_of(made.stdout)
    secret = secret_in(tmp_path, "dpu0")
    assert said["key"].encode() + b"\n" == (tmp_path / "dpu0.pub").read_bytes()
    assert stat.S_IMODE((tmp_path / "dpu0.key").stat().st_mode) == 0o600
    on_card = card(node, tmp_path, "dpu0")

    early = on_card("ping", "--count", "1")
    assert early.returncode == 8
    assert b"BUS-6011 key-refused" in early.stderr
    assert b"bus keys enroll" in early.stderr

    (enrolled,) = bus.records("keys", "enroll", "dpu0", str(tmp_path / "dpu0.pub"))
    assert (enrolled["tenant"], enrolled["generation"], enrolled["key"]) == ("node", 1, said["key"])
    pong = on_card("list")
    assert pong.returncode == 0, pong.stderr
    assert [row["principal"]["unit"] for row in lines_of(pong.stdout) if row["principal"]["boundary"] == "soc"] == [
        "dpu0"
    ]
    with on_card.running("sub", "demo.>", "--json") as subscriber:
        wait_until(lambda: bus.records("keys", "list")[0]["endpoints"], what="the card's subscription")
        shown = bus("keys", "list")
        (receipt,) = bus.records("keys", "revoke", "dpu0")
        assert receipt["endpoints"] == 1
        assert receipt["key"] == said["key"]
        wait_until(lambda: not [row for row in bus.records("list") if row["principal"]["boundary"] == "soc"])
        subscriber.kill()
        complaints = subscriber.communicate()
    assert bus.records("keys", "list") == []
    late = on_card("list")
    assert (late.returncode, b"key-refused" in late.stderr) == (8, True)
    again = bus("keys", "enroll", "dpu1", said["key"])
    assert again.returncode == 1
    assert b"BUS-3012 key-not-enrolled" in again.stderr
    assert b"was revoked as 'dpu0'" in again.stderr
    for ended in (made, early, pong, shown, late, again):
        assert secret not in ended.stdout + ended.stderr
    assert secret not in b"".join(filter(None, complaints))


def test_what_is_wrong_is_said_and_how_to_right_it(node: SocNode, tmp_path: Path) -> None:
    bus = node.bus
    assert bus("keys", "new", "dpu2", "--out", str(tmp_path)).returncode == 0
    before = secret_in(tmp_path, "dpu2")
    for words, status, says in (
        (("keys", "new", "dpu2", "--out", str(tmp_path)), 1, "is there already; a key is never overwritten"),
        (("keys", "new", "../x"), 2, "'../x' is not a name"),
        (("keys", "new", "x", "--out", str(tmp_path / "none")), 2, "No such file"),
        (("keys", "enroll", "dpu2", str(tmp_path / "dpu2.key")), 2, "this is a secret key file"),
        (("keys", "enroll", "dpu2", str(tmp_path / "none.pub")), 2, "No such file"),
        (("keys", "enroll", "dpu2", '"' * 40), 2, "character 1 of it is none of Z85's"),
        (("keys", "enroll", "DPU2", str(tmp_path / "dpu2.pub")), 1, "name may hold only"),
        (("keys", "enroll", "dpu2", str(node.run_dir / "keys" / "broker.pub")), 1, "the broker's own key"),
        (("keys", "revoke", "dpu9"), 1, "no key is enrolled as 'dpu9'"),
        (("keys", "remove", "dpu9"), 2, "bus keys revoke"),
        (("list", "--bus", node.url), 2, "BUS-6010 key-unusable"),
        (("list", "--bus", node.url, "--key", str(tmp_path / "dpu2.key")), 2, "the broker's public key"),
        (
            ("list", "--bus", node.url, "--key", str(tmp_path / "dpu2.key"), "--server-key", "0" * 40),
            8,
            "BUS-6012 server-key-wrong",
        ),
    ):
        ended = bus(*words)
        said = ended.stderr.decode()
        assert (ended.returncode, says in said) == (status, True), (words, ended.returncode, said)
        assert before not in ended.stdout + ended.stderr
    assert secret_in(tmp_path, "dpu2") == before
    (tmp_path / "dpu2.key").chmod(0o644)
    shared = bus("list", "--bus", node.url, "--key", str(tmp_path / "dpu2.key"), "--server-key", "0" * 40)
    assert b"chmod 600" in shared.stderr


def test_a_near_miss_is_named(node: SocNode, tmp_path: Path) -> None:
    assert node.bus("keys", "new", "edge-17", "--out", str(tmp_path)).returncode == 0
    (row,) = node.bus.records("keys", "enroll", "edge-17", str(tmp_path / "edge-17.pub"), "--tenant", "acme")
    assert row["tenant"] == "acme"
    ended = node.bus("keys", "revoke", "edge-71")
    assert (ended.returncode, b"bus keys revoke edge-17" in ended.stderr) == (1, True)
    assert node.bus("keys", "revoke", "edge-17").returncode == 0


def test_a_key_that_begins_with_a_dash_is_enrolled(node: SocNode) -> None:
    key = "-" + encode_key(bytes(range(32)))[1:]
    (row,) = node.bus.records("keys", "enroll", "edge-5", key)
    assert row["key"] == key
    assert node.bus("keys", "revoke", "edge-5").returncode == 0


def test_tables_for_people(node: SocNode, tmp_path: Path) -> None:
    status, shown = node.bus.on_terminal("keys", "new", "dpu5", "--out", str(tmp_path))
    secret = secret_in(tmp_path, "dpu5").decode()
    assert (status, "bus keys enroll dpu5 dpu5.pub" in shown) == (0, True)
    assert secret not in shown
    assert node.bus("keys", "enroll", "dpu5", str(tmp_path / "dpu5.pub")).returncode == 0
    status, shown = node.bus.on_terminal("keys", "list")
    assert (status, "dpu5" in shown, "last seen" in shown) == (0, True, True)
    status, shown = node.bus.on_terminal("keys", "broker")
    key = (node.run_dir / "keys" / "broker.pub").read_text().strip()
    assert (status, key in shown, f"{node.url} (listening)" in shown) == (0, True, True)
    assert node.bus("keys", "revoke", "dpu5").returncode == 0


def test_keys_outlive_the_node_and_its_secret_is_in_no_log(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with running_node(run_dir) as first:
        bus = Cli(first.url)
        broker = bus("keys", "broker").stdout
        keys = tmp_path / "k"
        keys.mkdir()
        assert bus("keys", "new", "dpu0", "--out", str(keys)).returncode == 0
        assert bus("keys", "enroll", "dpu0", str(keys / "dpu0.pub")).returncode == 0
        listed = bus.records("keys", "list")
    with running_node(run_dir) as second:
        bus = Cli(second.url)
        assert bus("keys", "broker").stdout == broker
        (row,) = bus.records("keys", "list")
        assert {**listed[0], "last_seen_seconds": None} == {**row, "last_seen_seconds": None}
    secret = (run_dir / "keys" / "broker.key").read_text().strip()
    for path in (*run_dir.rglob("*.json"), *run_dir.rglob("*.log"), *(run_dir / "audit").rglob("*")):
        if path.is_file():
            assert secret not in path.read_text()
            assert secret_in(keys, "dpu0").decode() not in path.read_text()


def test_a_damaged_key_folder_keeps_the_node_from_starting(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with running_node(run_dir) as node:
        bus = Cli(node.url)
        assert bus("keys", "new", "dpu0", "--out", str(tmp_path)).returncode == 0
        assert bus("keys", "enroll", "dpu0", str(tmp_path / "dpu0.pub")).returncode == 0
    path = run_dir / "keys" / "enrolled" / "dpu0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tenant": "*"}))
    command = [sys.executable, "-m", "busd", "run", "--run-dir", str(run_dir), "--http-listen", "off"]
    ended = subprocess.run(command, env=bus.environment, capture_output=True, timeout=30, check=False)
    assert ended.returncode != 0
    assert b"BUS-7020 key-folder-unusable" in ended.stderr
    assert str(path).encode() in ended.stderr
