"""``bus policy``: on a folder as a user runs it, and on a node whose services are the real ones."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from buscli import connection, policygraph
from buscli.exits import Exit
from busclient.errors import ErrorReply
from busd.core.introspection import Request
from busd.core.policy import Policy, parse
from busd.core.principal import Principal
from busd.core.rules import PolicyFile
from busd.ops.policyadmin import PolicyAdmin, read_policy
from busproto.errors import BusError
from tests.clients.cli_support import SECONDS, Cli
from tests.clients.ran import Ran
from tests.support import ROOT, environment

RULES = """\
# guests publish, the node listens
deny publish metrics.secret.> from guest
allow publish metrics.> from guest tenant=acme
allow subscribe tenant.acme.metrics.> from host uid=0,self
"""
EXPORTS = "export stream metrics.> from acme to node\n"
TESTS = "allow publish metrics.cpu from guest tenant=acme\ndeny publish metrics.secret.x from guest tenant=acme\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "policy.d"
    path.mkdir(mode=0o755)
    for name, text in (("30-guests.policy", RULES), ("50-exports.policy", EXPORTS), ("policy.tests", TESTS)):
        write(path, name, text)
    return path


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o644)


@pytest.fixture
def ran(capsysbinary: pytest.CaptureFixture[bytes]) -> Any:
    return lambda *words: Ran(capsysbinary, "policy", *words)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without a policy folder, and no bus."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() or 4242)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("BUS_URL", "/nowhere/host.sock")
    return tmp_path / "config" / "busd" / "policy.d"


# -- lint -------------------------------------------------------------------------------------------------------------


def test_lint_of_a_clean_folder(ran: Any, folder: Path) -> None:
    result = ran("lint", str(folder))
    assert (result.code, result.out, result.err) == (Exit.OK, "", "")


def test_lint_tells_every_error_with_its_place_and_then_warnings(ran: Any, folder: Path) -> None:
    write(folder, "40-more.policy", "alow x\nallow publish metrics.x from guest tenant=acme\nallow call A from soc\n")
    write(folder, "30-guests.policy", RULES + "allow publish metrics.cpu from guest tenant=acme unit=vm\n")
    write(folder, "10-foo.polcy", "")
    result = ran("lint", str(folder))
    assert result.code == Exit.FAILED
    assert [(each["severity"], each["where"]) for each in result.records] == [
        ("error", "10-foo.polcy"),
        ("error", "40-more.policy:1"),
        ("error", "40-more.policy:3"),
    ], "the rules that are not in effect are not judged"
    (folder / "10-foo.polcy").unlink()
    result = ran("lint", str(folder))
    assert ("warning", "30-guests.policy:5") in [(each["severity"], each["where"]) for each in result.records]


def test_warnings_alone_are_no_failure(ran: Any, folder: Path) -> None:
    write(folder, "60-again.policy", "allow publish metrics.x from guest tenant=acme\n")
    result = ran("lint", str(folder))
    assert result.code == Exit.OK
    assert [each["severity"] for each in result.records] == ["warning"]


def test_lint_without_a_folder_takes_the_place_where_busd_looks(ran: Any, nowhere: Path) -> None:
    assert ran("lint").code == Exit.OK, "the built-in set"
    nowhere.mkdir(parents=True, mode=0o755)
    result = ran("lint")
    assert result.code == Exit.FAILED
    assert result.records == [
        {"severity": "error", "where": str(nowhere), "text": "there is no policy file, so nothing is allowed"}
    ]


def test_a_folder_that_is_not_there_is_an_error_and_not_the_built_in_set(ran: Any, tmp_path: Path) -> None:
    result = ran("lint", str(tmp_path / "none"))
    assert result.code == Exit.FAILED
    assert "No such file or directory" in result.records[0]["text"]


def test_lint_on_a_terminal(folder: Path) -> None:
    write(folder, "40-more.policy", "alow \x1b[31mx\n")
    code, shown = Cli("/nowhere.sock").on_terminal("policy", "lint", str(folder))
    assert code == Exit.FAILED
    assert f"-> policy {folder}" in shown
    assert re.search(r"40-more\.policy:1: .*error.*: U\+001B \(a control character\) at character 6", shown)
    assert re.search(r"3 files, 3 rules, 0 exports, digest [0-9a-f]{16}: 1 errors, 0 warnings", shown)


# -- test -------------------------------------------------------------------------------------------------------------


def test_expectations_that_are_met(ran: Any, folder: Path) -> None:
    result = ran("test", str(folder))
    assert result.code == Exit.OK
    assert [each["met"] for each in result.records] == [True, True]


def test_an_expectation_that_is_not_met_names_the_deciding_rule(ran: Any, folder: Path) -> None:
    write(folder, "policy.tests", "deny publish metrics.cpu from guest tenant=acme\n")
    result = ran("test", str(folder))
    assert result.code == Exit.FAILED
    (record,) = result.records
    assert (record["where"], record["met"], record["decided_by"]) == ("policy.tests:1", False, "30-guests.policy:3")
    code, shown = Cli("/nowhere.sock").on_terminal("policy", "test", str(folder))
    assert code == Exit.FAILED
    assert "allowed by 30-guests.policy:3: allow publish metrics.> from guest tenant=acme" in shown
    assert "1 expectations, 1 not met" in shown


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        ("allow publish x.> from guest tenant=acme\n", "policy.tests:1: 'x.>' is not a subject"),
        ("# none yet\n", "policy.tests holds no expectation"),
    ],
)
def test_expectations_that_say_nothing_are_a_failure(ran: Any, folder: Path, tests: str, says: str) -> None:
    write(folder, "policy.tests", tests)
    result = ran("test", str(folder))
    assert result.code == Exit.FAILED
    assert says in result.err


def test_a_policy_in_error_is_a_failure_even_if_expectations_are_met(ran: Any, folder: Path) -> None:
    write(folder, "90-bad.policy", "oops\n")
    result = ran("test", str(folder))
    assert all(each["met"] for each in result.records)
    assert result.code == Exit.FAILED
    assert "error: 90-bad.policy:1" in result.err


def test_expectations_may_stand_elsewhere_or_be_missing(ran: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "policy.tests").rename(tmp_path / "elsewhere")
    assert ran("test", str(folder), "--tests", str(tmp_path / "elsewhere")).code == Exit.OK
    result = ran("test", str(folder))
    assert result.code == Exit.FAILED
    assert "policy.tests: it cannot be read: No such file or directory" in result.err


def test_the_built_in_set_meets_its_expectations(ran: Any, nowhere: Path) -> None:
    result = ran("test")
    assert result.code == Exit.OK
    assert len(result.records) > 25


# -- explain ----------------------------------------------------------------------------------------------------------


def test_explain_ends_with_what_was_decided(ran: Any, folder: Path) -> None:
    words = ("--from", "guest tenant=acme", "--policy", str(folder))
    allowed = ran("explain", "publish", "metrics.cpu", *words)
    assert allowed.code == Exit.OK
    assert (allowed.records[0]["where"], allowed.records[0]["allowed"]) == ("30-guests.policy:3", True)
    assert allowed.records[0]["exports"] == [
        "50-exports.policy:1 shows it to the node, as tenant.acme.metrics.cpu",
    ]
    denied = ran("explain", "publish", "metrics.secret.key", *words)
    assert denied.code == Exit.DENIED
    assert denied.records[0]["change"] == {
        "where": "30-guests.policy:2",
        "line": "allow publish metrics.secret.key from guest tenant=acme",
    }


def test_explain_on_a_terminal(folder: Path) -> None:
    code, shown = Cli("/nowhere.sock").on_terminal(
        "policy", "explain", "publish", "logs.x", "--from", "guest tenant=acme unit=vm-1", "--policy", str(folder)
    )
    assert code == Exit.DENIED
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "denied: publish logs.x, guest, tenant acme, unit vm-1" in plain
    assert "no rule allows it" in plain
    assert "to allow it, add as 30-guests.policy:4: allow publish logs.x from guest tenant=acme unit=vm-1" in plain
    assert "metrics.> does not match" in plain


# -- graph ------------------------------------------------------------------------------------------------------------


def test_graph_as_records(ran: Any, folder: Path) -> None:
    result = ran("graph", str(folder))
    assert result.code == Exit.OK
    assert result.records == [
        {
            "kind": "publish",
            "sender": "guest tenant=acme",
            "sender_rule": "30-guests.policy:3",
            "subject": "tenant.acme.metrics.>",
            "space": "acme > node",
            "receiver": "host uid=0,self",
            "receiver_rule": "30-guests.policy:4",
            "export": "50-exports.policy:1",
        }
    ]


def test_graph_on_a_terminal(folder: Path) -> None:
    code, shown = Cli("/nowhere.sock").on_terminal("policy", "graph", str(folder))
    assert code == Exit.OK
    for text in ("guest tenant=acme", "tenant.acme.metrics.>", "host uid=0,self", "50-exports.policy:1"):
        assert text in shown


def test_graph_as_dot(ran: Any, folder: Path) -> None:
    result = ran("graph", str(folder), "--dot")
    assert result.code == Exit.OK
    assert result.out.startswith("digraph policy {\n")
    assert result.out.endswith("}\n")
    assert 'label="publish tenant.acme.metrics.>"' in result.out
    assert len(re.findall(r"^  n\d+ -> n\d+ \[color=\"#[0-9a-f]{6}\", style=dashed\];$", result.out, re.M)) == 2
    assert result.out.count("{") == result.out.count("}")


def test_graph_as_a_picture(ran: Any, folder: Path, tmp_path: Path) -> None:
    result = ran("graph", str(folder), "--svg", str(tmp_path / "policy.svg"))
    assert (result.code, result.out) == (Exit.OK, "")
    text = (tmp_path / "policy.svg").read_text()
    check_picture(text)
    assert ran("graph", str(folder), "--svg", "-").out == text


def test_graph_of_a_policy_in_error_says_so(ran: Any, folder: Path) -> None:
    write(folder, "90-bad.policy", "oops\n")
    result = ran("graph", str(folder), "--dot")
    assert result.code == Exit.FAILED
    assert "error: 90-bad.policy:1" in result.err


def check_picture(text: str) -> int:
    """A picture stands by itself, and no two of its labels overlap. How many labels it has."""
    tree = ElementTree.fromstring(text)
    name = "{http://www.w3.org/2000/svg}"
    assert tree.tag == f"{name}svg"
    width, height = float(tree.attrib["width"]), float(tree.attrib["height"])
    assert not tree.findall(f".//{name}script")
    assert not tree.findall(f".//{name}image")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    boxes = []
    for group in tree.iter(f"{name}g"):
        rect, label = group.find(f"{name}rect"), group.find(f"{name}text")
        assert rect is not None
        assert label is not None
        x, y, wide, high = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + wide <= width
        assert y + high <= height
        assert len(label.text or "") * 7.3 <= wide, f"{label.text} is wider than its box"
        boxes.append((x, y, wide, high))
    for number, (x, y, wide, high) in enumerate(boxes):
        for other_x, other_y, other_wide, other_high in boxes[number + 1 :]:
            apart = x + wide <= other_x or other_x + other_wide <= x or y + high <= other_y or other_y + other_high <= y
            assert apart
    return len(boxes)


def test_a_picture_of_fifty_rules_has_no_labels_that_overlap() -> None:
    flows = [
        {
            "kind": ("publish", "call", "delegate")[number % 3],
            "sender": f"guest tenant=tenant-{number % 11}",
            "sender_rule": f"30-guests.policy:{number}",
            "subject": f"component-{number}.of.a.rather.long.name.>",
            "space": f"tenant-{number % 11}" if number % 4 else f"tenant-{number % 11} > node",
            "receiver": f"host uid={number % 7}",
            "receiver_rule": f"20-host.policy:{number}",
            "export": None if number % 4 else "50-exports.policy:1",
        }
        for number in range(150)
    ]
    assert check_picture(policygraph.svg(flows, "fifty rules")) == 11 + 150 + 7


def test_text_in_a_picture_is_text() -> None:
    hostile = '"><script>alert(1)</script>&\\"'
    flow = {
        "kind": "publish",
        "sender": hostile,
        "sender_rule": hostile,
        "subject": "x" * 300,
        "space": hostile,
        "receiver": hostile,
        "receiver_rule": None,
        "export": hostile,
    }
    text = policygraph.svg([flow], hostile)
    assert check_picture(text) == 3
    assert "<script" not in text
    dot = policygraph.dot([flow], hostile)
    assert dot.count('"') - dot.count('\\"') == 2 * len(re.findall(r'="', dot)), "a quote ends where it must not"


def test_an_empty_policy_has_a_picture(ran: Any, folder: Path) -> None:
    for name in ("30-guests.policy", "50-exports.policy"):
        write(folder, name, "# nothing\n")
    result = ran("graph", str(folder), "--svg", "-")
    assert result.code == Exit.OK
    assert check_picture(result.out) == 0


# -- on a node --------------------------------------------------------------------------------------------------------


class Node:
    """The real services behind a bus that is none."""

    def __init__(self, folder: Path) -> None:
        self.policy = read_policy(folder)
        guest = Principal("guest", "acme", "vm-1", 1)
        self.admin = PolicyAdmin(folder, lambda: self.policy, self._apply, {"guest-1": guest}.get)
        self.asked: list[str] = []

    def _apply(self, policy: Policy) -> int:
        self.policy = policy
        return 2

    async def call(self, subject: str, request: Any, *, timeout: float) -> Any:
        self.asked.append(subject)
        try:
            answer = self.admin.services()[subject]
            payload = await answer(Request(subject, request), Principal("host", "node", "host", 0, uid=0))
        except BusError as error:
            raise ErrorReply.from_body(error.body()) from None
        return SimpleNamespace(payload=payload)


@pytest.fixture
def node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(folder)

    @asynccontextmanager
    async def attached(*_: object, **__: object) -> AsyncIterator[Node]:
        yield node

    monkeypatch.setattr(connection, "attached", attached)
    return node


def test_reload_says_what_is_in_effect_and_what_was_withdrawn(ran: Any, node: Node, folder: Path) -> None:
    write(folder, "30-guests.policy", "allow publish a from guest\n")
    result = ran("reload")
    assert result.code == Exit.OK
    (record,) = result.records
    assert (record["rules"], record["exports"], record["withdrawn"]) == (1, 1, 2)
    assert record["digest"] == node.policy.digest


def test_reload_of_a_policy_in_error_names_the_line_and_fails(ran: Any, node: Node, folder: Path) -> None:
    write(folder, "30-guests.policy", "oops\n")
    result = ran("reload")
    assert result.code == Exit.FAILED
    assert "BUS-7006 policy-invalid" in result.err
    assert "30-guests.policy:1" in result.err
    assert "try: What was in effect stays in effect. bus policy lint DIR" in result.err


def test_show_prints_the_files(ran: Any, node: Node) -> None:
    (record,) = ran("show").records
    assert [file["name"] for file in record["files"]] == ["30-guests.policy", "50-exports.policy"]
    assert record["files"][0]["text"] == RULES


def test_explain_asks_the_node(ran: Any, node: Node) -> None:
    result = ran("explain", "publish", "metrics.cpu", "--endpoint", "guest-1")
    assert result.code == Exit.OK
    assert result.records[0]["principal"]["unit"] == "vm-1"
    assert ran("explain", "publish", "logs.x", "--from", "guest tenant=acme").code == Exit.DENIED
    assert node.asked == ["$bus.admin.policy.explain"] * 2
    result = ran("explain", "publish", "logs.x", "--endpoint", "nobody")
    assert result.code == Exit.FAILED
    assert "no endpoint is called 'nobody'" in result.err


def test_lint_test_and_graph_of_what_is_in_effect(ran: Any, node: Node, folder: Path, tmp_path: Path) -> None:
    offline = ran("graph", str(folder)).records
    tests = str(folder / "policy.tests")
    for name in ("30-guests.policy", "50-exports.policy"):
        (folder / name).unlink()
    assert ran("lint", "--live").code == Exit.OK
    assert ran("graph", "--live").records == offline
    assert ran("test", "--live", "--tests", tests).code == Exit.OK
    assert node.asked == ["$bus.admin.policy.show"] * 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lint", "/a", "--live"], "--live and a folder are two policies"),
        (["test", "--live"], "a node has no expectations"),
        (["graph", "--dot", "--svg", "x"], "--dot and --svg are two forms"),
        (["explain", "publish", "a"], "of whom? give either --from or --endpoint"),
        (["explain", "publish", "a", "--from", "soc", "--endpoint", "x"], "of whom?"),
        (["explain", "publish", "a", "--endpoint", "x", "--policy", "/p"], "a folder has no endpoints"),
        (["explain", "grab", "a", "--from", "soc"], "invalid choice: 'grab'"),
        (["explain", "publish", "a.>", "--from", "soc", "--policy", "/p"], "'a.>' is not a subject"),
        (["explain", "publish", "a", "--from", "guest", "--policy", "/p"], "a guest has a tenant"),
        (["explain", "publish", "a", "--from", "", "--policy", "/p"], "whom is it about?"),
        ([], "bus policy: which of lint, test, explain, graph, reload, show?"),
        (["lnt"], "unknown command 'lnt'"),
    ],
)
def test_a_wrong_command_line_is_refused_with_its_cure(ran: Any, words: list[str], says: str) -> None:
    result = ran(*words)
    assert (result.code, result.out) == (Exit.USAGE, "")
    assert says in result.err
    assert "\n  try: " in result.err


def test_the_family_has_help_of_its_own(ran: Any) -> None:
    for words in (["--help"], ["-h"]):
        result = ran(*words)
        assert result.code == Exit.OK
        for word in ("lint", "test", "explain", "graph", "reload", "show"):
            assert re.search(rf"^  {word} ", result.out, re.M)
    assert "--tests FILE" in ran("test", "--help").out


def test_completion_knows_the_family() -> None:
    from buscli.completion import complete
    from buscli.shells import FILE

    def offers(*words: str) -> list[str]:
        return [offer.word for offer in complete(["policy", *words])]

    assert offers("") == ["lint", "test", "explain", "graph", "reload", "show"]
    assert offers("re") == ["reload"]
    assert offers("lint", "") == [FILE]
    assert offers("explain", "pub") == ["publish"]
    assert "--svg" in offers("graph", "--s")


EXTRAS = ("uvloop", "cryptography", "prometheus_client", "aiohttp", "psutil", "rich", "asyncio", "zmq")


def test_offline_commands_need_no_node_and_none_of_its_dependencies(folder: Path) -> None:
    """A laptop that has only the base package: everything works but asking a node."""
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"  # importing any of them fails
        "from buscli.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    for words in (["lint", str(folder)], ["test", str(folder)], ["graph", str(folder), "--svg", "-"]):
        ended = subprocess.run(
            [sys.executable, "-c", program, "policy", *words], capture_output=True, timeout=SECONDS, env=environment()
        )
        assert ended.returncode == Exit.OK, ended.stderr.decode()
    assert Cli("/nowhere.sock")("policy", "reload").returncode == Exit.NOT_CONNECTED


def test_the_guide_s_rules_are_rules() -> None:
    guide = (ROOT / "busd/core/POLICY.md").read_text()
    (example,) = [block for block in re.findall(r"```\n(.*?)```", guide, re.S) if block.startswith("# 30-")]
    policy = parse([PolicyFile("30-guests.policy", example)], self_uid=0)
    assert policy.errors == ()
    assert len(policy.rules) == 4
