"""``bus trace``: the decision path of a subject, on a node with a guest."""

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest

from buscli.exits import Exit
from buscli.output import Output
from buscli.tracing import _lines, _sentence, _show_table
from tests.clients.cli_support import Cli, guest_of
from tests.support import RunningNode, running_node, wait_until

POLICY = """\
allow publish,subscribe,call,serve > from host,guest
allow call,subscribe $bus.> from host uid=0,self
allow call $bus.ping,$bus.explain from guest
export stream metrics.> from acme to node
export service demo.> from node to acme
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    home = tmp_path_factory.mktemp("node")
    policy = home / "policy.d"
    policy.mkdir(mode=0o755)
    (policy / "10-all.policy").write_text("deny publish secret.> from host,guest\n")
    (policy / "20-all.policy").write_text(POLICY)
    with running_node(home / "run", "--policy-dir", str(policy)) as running:
        yield running


@pytest.fixture
def bus(node: RunningNode) -> Cli:
    return Cli(node.url, NO_COLOR="1")


@pytest.fixture(scope="module")
def guest(node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return guest_of(node, tmp_path_factory.mktemp("vm"))


def test_a_message_s_way_is_shown_from_sender_to_receivers(bus: Cli) -> None:
    with bus.subscribed("t1.*", subject="t1.x") as sub:
        (found,) = bus.records("trace", "t1.x")
        code, shown = bus.on_terminal("trace", "t1.x")
        receiver = bus.endpoint(sub.pid)
    assert (found["outcome"], found["receivers"][0]["endpoint"]) == ("delivered", receiver)
    assert code == Exit.OK
    assert re.search(r"^from      host-\d+, host, tenant node, unit host, generation 0; node pays$", shown, re.M)
    assert "policy    a publish on t1.x is allowed, by 20-all.policy:1\n          allow publish,subscribe" in shown
    assert "quotas    calls " in shown
    assert re.search(rf"{receiver} +bus-cli +t1\.\* +0/65536 \(0 %\)", shown)
    assert shown.rstrip().endswith("would be delivered to 1 endpoint: 1 matching subscription of 1 endpoint")


def test_nothing_is_sent_unless_asked_for(bus: Cli) -> None:
    with bus.running("sub", "t2.x", "--count", "1", "--timeout", "20s") as sub:
        wait_until(lambda: bus.is_known("t2.x"))
        name = bus.endpoint(sub.pid)

        def got() -> Any:
            (row,) = bus.records("inspect", name)
            return row["statistics"]["outbox"]["delivered_messages"], row["queued_messages"], row["lost_messages"]

        before = got()
        for _ in range(3):
            bus.records("trace", "t2.x")
        assert got() == before
        _, sent = bus.records("trace", "t2.x", "--deliver", '{"n": 1}')
        assert sent["sent"] == "t2.x"
        output, _ = sub.communicate(timeout=30)
        assert b'"payload":{"n":1}' in output


def test_a_call_names_who_would_answer_and_can_be_made(bus: Cli) -> None:
    with bus.serving("demo.t3", "--echo", subject="demo.t3") as serve:
        name = bus.endpoint(serve.pid)
        code, shown = bus.on_terminal("trace", "demo.t3", "--call")
        assert code == Exit.OK
        assert re.search(rf"demo\.t3 +default +{name} +bus-cli +0 +0/8192 \(0 %\) +gets it", shown)
        _, sent = bus.records("trace", "demo.t3", "--call", "--deliver", '{"n": 1}')
        assert (sent["reply"], sent["from"]) == ({"n": 1}, name)
        code, shown = bus.on_terminal("trace", "demo.t3", "--call", "--deliver", "hi")
        assert f"sent: {name} replied, after " in shown
    ended = bus("trace", "demo.t3", "--call", "--deliver", "1")
    assert ended.returncode == Exit.NO_RESPONDERS
    assert b'"outcome":"nobody"' in ended.stdout


def test_a_denial_names_rule_and_next_step_and_sending_it_ends_as_a_publish_does(bus: Cli) -> None:
    (found,) = bus.records("trace", "secret.key")
    assert (found["outcome"], found["rule"]) == ("denied", "10-all.policy:1")
    code, shown = bus.on_terminal("trace", "secret.key")
    assert code == Exit.OK
    assert "is denied, by 10-all.policy:1\n          deny publish secret.> from host,guest\n" in shown
    assert "denied: denied by 10-all.policy:1\n" in shown
    assert re.search(r"what would have to change: bus policy explain publish secret\.key --endpoint host-\d+", shown)
    assert bus("trace", "secret.key", "--deliver", "1").returncode == Exit.DENIED


def test_administrators_trace_as_a_guest_and_guests_as_themselves(bus: Cli, guest: Cli) -> None:
    with guest.running("sub", "x.>") as process, bus.running("sub", "tenant.acme.>"):
        wait_until(lambda: bus.records("list", "--tenant", "acme"))
        wait_until(
            lambda: any(
                row["subscriptions"]
                for row in bus.records("list", "--boundary", "host")
                if row["claims"]["component"] == "bus-cli"
            )
        )
        name = bus.records("list", "--tenant", "acme")[0]["endpoint"]
        (found,) = bus.records("trace", "metrics.cpu", "--as", name)
        stamped = {key: found["sender"][key] for key in ("endpoint", "boundary", "tenant", "unit", "account")}
        assert list(stamped.values()) == [name, "guest", "acme", "vm-42", "tenant acme"]
        assert found["sender"]["rates"]["messages"]["per_second"] > 0
        assert found["exports"] == ["20-all.policy:4 shows it to the node, as tenant.acme.metrics.cpu"]
        assert [row["as"] for row in found["receivers"]] == ["tenant.acme.metrics.cpu"]
        _, shown = bus.on_terminal("trace", "metrics.cpu", "--as", name)
        assert "tenant.acme.> (as tenant.acme.metrics.cpu)" in shown
        assert "rate      messages: " in shown
        refused = guest("trace", "a.b", "--as", "host-1")
        assert refused.returncode == Exit.DENIED
        assert b"is told about itself only" in refused.stderr
        (own,) = guest.records("trace", "a.b")
        assert (own["sender"]["tenant"], own["rule_text"]) == ("acme", None)
        process.kill()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("a.b", "--as", "host-99999"), Exit.FAILED, "no endpoint is called 'host-99999'"),
        (("a.b", "--as", "host-1", "--deliver", "1"), Exit.USAGE, "nobody can send in another's name"),
        (("a.b", "--call", "--publish"), Exit.USAGE, "are two questions"),
        (("a..b",), Exit.USAGE, "BUS-2001"),
        (("a.b", "--deliver", "{"), Exit.USAGE, "--deliver is not a body"),
    ],
)
def test_what_cannot_be_asked_is_said(bus: Cli, words: tuple[str, ...], code: Exit, said: str) -> None:
    ended = bus("trace", *words)
    assert (ended.returncode, ended.stdout) == (code, b"")
    assert said in ended.stderr.decode()


def test_explain_is_another_name_for_it(bus: Cli) -> None:
    (found,) = bus.records("explain", "a.b")
    assert found["outcome"] == "nobody"
    assert b"bus explain: no endpoint" in bus("explain", "a.b", "--as", "host-99999").stderr


def test_what_others_say_cannot_drive_the_terminal() -> None:
    written = io.BytesIO()
    output = Output(written, io.StringIO(), human=True, colour=False)
    hostile = "x\x1b[2J\x9b"
    sender: dict[str, Any] = dict.fromkeys(("endpoint", "boundary", "tenant", "unit", "account"), hostile)
    quotas = {key: {"used": 0, "limit": 1} for key in ("calls", "outbox_messages", "outbox_bytes")}
    sender |= {"generation": 0, "charges": quotas, "rates": {}, "throttled": []}
    row: dict[str, Any] = dict.fromkeys(("endpoint", "component", "pattern", "as", "would_lose"), hostile)
    row |= {"latest": False}
    row |= dict.fromkeys(("queued_messages", "queued_bytes", "limit_messages", "limit_bytes"), 1)
    found: dict[str, Any] = {
        "sender": sender,
        "verb": "publish",
        "subject": hostile,
        "rule": hostile,
        "rule_text": hostile,
    }
    found |= {"allowed": False, "exports": [hostile], "receivers": [row], "groups": [], "reason": hostile}
    for outcome in ("denied", "lost"):
        for line in _lines(output, found):
            output.line(line)
        _show_table(output, found)
        output.line(_sentence(output, {**found, "outcome": outcome}))
    assert all(line.isprintable() for line in written.getvalue().decode().splitlines())
