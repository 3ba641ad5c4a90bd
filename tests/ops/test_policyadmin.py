"""Administration of the policy: reload takes all or nothing, show and explain tell what is in effect."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from busd.core.introspection import Request
from busd.core.policy import Policy, parse
from busd.core.principal import Principal
from busd.core.rules import PolicyFile
from busd.ops import policyadmin
from busd.ops.policyadmin import PolicyAdmin, read_policy
from busd.ops.policyfolder import BUILT_IN
from busproto.errors import BusError, Code

ROOT = Principal("host", "node", "host", 0, uid=0)
GUEST = Principal("guest", "acme", "vm-1", 1)


class Node:
    """What the services are given: a folder, a policy in effect, and two endpoints."""

    def __init__(self, folder: Path, *, named: bool = False) -> None:
        self.folder = folder
        self.policy = read_policy(folder, named=named)
        self.applied: list[Policy] = []
        self.admin = PolicyAdmin(
            folder, lambda: self.policy, self._apply, {"guest-1": GUEST, "host-1": ROOT}.get, named=named
        )

    def _apply(self, policy: Policy) -> int:
        self.policy = policy
        self.applied.append(policy)
        return 3

    def ask(self, service: str, **fields: Any) -> dict[str, Any]:
        subject = f"$bus.admin.policy.{service}"
        answer: Callable[..., Any] = self.admin.services()[subject]
        reply: dict[str, Any] = asyncio.run(answer(Request(subject, fields or None), ROOT))
        return reply

    def refuses(self, service: str, **fields: Any) -> BusError:
        with pytest.raises(BusError) as refusal:
            self.ask(service, **fields)
        return refusal.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "policy.d"
    path.mkdir(mode=0o755)
    write(path, "allow call a from guest\n")
    return path


def write(folder: Path, text: str, name: str = "10-a.policy") -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o644)


def test_reload_takes_what_is_on_disk_now(folder: Path) -> None:
    node = Node(folder)
    old = node.policy
    write(folder, "allow call b from guest\nexport stream logs.> from acme to node\n")
    reply = node.ask("reload")
    assert reply == {
        "source": str(folder),
        "digest": node.policy.digest,
        "rules": 1,
        "exports": 1,
        "withdrawn": 3,
    }
    assert node.policy is not old
    assert node.policy.rights(GUEST).decide("call", "b").allowed
    assert not node.policy.rights(GUEST).decide("call", "a").allowed


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda folder: write(folder, "alow call a from guest\n"), "10-a.policy:1: a line begins with"),
        (lambda folder: write(folder, "# fine\n", "20-b.polcy"), "20-b.polcy: the name gives it no place"),
        (lambda folder: write(folder, ""), "10-a.policy: it has 0 bytes"),
        (lambda folder: (folder / "10-a.policy").chmod(0o666), "10-a.policy: everybody can write it"),
        (lambda folder: (folder / "10-a.policy").unlink(), "there is no policy file"),
        (lambda folder: folder.chmod(0o777), "everybody can write it"),
        (lambda folder: folder.rename(folder.with_name("moved")), "is gone, and the built-in set may allow more"),
    ],
)
def test_reload_of_anything_wrong_keeps_the_old_policy(
    folder: Path, break_it: Callable[[Path], object], reason: str
) -> None:
    node = Node(folder)
    old = node.policy
    break_it(folder)
    error = node.refuses("reload")
    assert error.code == Code.POLICY_INVALID
    assert reason in error.text
    assert node.policy is old
    assert node.applied == []


def test_reload_without_descriptors_keeps_the_old_policy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(folder)

    def none_left(*_: object, **__: object) -> Policy:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(policyadmin, "read_policy", none_left)
    error = node.refuses("reload")
    assert (error.code, error.fields["errors"]) == (Code.POLICY_INVALID, f"{folder}: Too many open files")
    assert node.applied == []


def test_reload_repairs_a_policy_that_was_in_error_at_start(folder: Path) -> None:
    write(folder, "oops\n")
    node = Node(folder)
    assert not node.policy.rights(GUEST).decide("call", "a").allowed
    assert node.ask("show")["errors"] == [
        "10-a.policy:1: a line begins with allow, deny or export, not 'oops'",
    ]
    write(folder, "allow call a from guest\n")
    node.ask("reload")
    assert node.policy.rights(GUEST).decide("call", "a").allowed


def test_a_node_without_a_folder_takes_one_that_appears(tmp_path: Path) -> None:
    folder = tmp_path / "policy.d"
    node = Node(folder)
    assert node.policy.source == BUILT_IN
    assert node.ask("reload")["source"] == BUILT_IN
    folder.mkdir(mode=0o755)
    write(folder, "allow call a from guest\n")
    assert node.ask("reload")["source"] == str(folder)


def test_a_folder_that_was_named_must_be_there(tmp_path: Path) -> None:
    node = Node(tmp_path / "policy.d", named=True)
    assert node.policy.source != BUILT_IN
    assert not node.policy.rights(ROOT).decide("call", "a").allowed
    assert "No such file or directory" in node.refuses("reload").text


def test_two_reloads_at_once_take_turns(folder: Path) -> None:
    node = Node(folder)

    async def both() -> list[dict[str, Any]]:
        request = Request("$bus.admin.policy.reload", None)
        return list(await asyncio.gather(node.admin.reload(request, ROOT), node.admin.reload(request, ROOT)))

    assert [reply["digest"] for reply in asyncio.run(both())] == [node.policy.digest] * 2
    assert len(node.applied) == 2


def test_show_tells_enough_to_build_the_same_policy_elsewhere(folder: Path) -> None:
    write(folder, "allow call a from host uid=self\n", "20-b.policy")
    node = Node(folder)
    reply = node.ask("show")
    assert (reply["source"], reply["digest"], reply["rules"]) == (str(folder), node.policy.digest, 2)
    assert reply["errors"] == []
    files = [PolicyFile(entry["name"], entry["text"], entry["problem"]) for entry in reply["files"]]
    again = parse(files, self_uid=reply["uid"], source=reply["source"])
    assert (again.digest, again.rules, again.errors) == (node.policy.digest, node.policy.rules, ())


def test_explain_of_an_endpoint_and_of_a_description(folder: Path) -> None:
    node = Node(folder)
    by_name = node.ask("explain", verb="call", subject="a", endpoint="guest-1")
    assert (by_name["allowed"], by_name["where"]) == (True, "10-a.policy:1")
    assert by_name["principal"]["unit"] == "vm-1"
    described = node.ask("explain", verb="call", subject="b", **{"from": "guest tenant=acme unit=vm-9"})
    assert not described["allowed"]
    assert described["change"]["line"] == "allow call b from guest tenant=acme unit=vm-9"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "verb must be a string"),
        ({"verb": "call"}, "subject must be a string"),
        ({"verb": "call", "subject": "a"}, "it takes either endpoint"),
        ({"verb": "call", "subject": "a", "endpoint": "x", "from": "soc"}, "it takes either endpoint"),
        ({"verb": "call", "subject": "a", "endpoint": "x\x1b[31m"}, "no endpoint is called 'x\\x1b[31m'"),
        ({"verb": "grab", "subject": "a", "from": "soc"}, "'grab' is no verb"),
        ({"verb": "call", "subject": "a.>", "from": "soc"}, "'a.>' is not a subject"),
        ({"verb": "call", "subject": "a", "from": "guest"}, "a guest has a tenant"),
        ({"verb": "call", "subject": "a", "from": ""}, "whom is it about?"),
        ({"verb": "call", "subject": "a", "from": 5}, "from must be a string"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(folder: Path, fields: dict[str, Any], reason: str) -> None:
    error = Node(folder).refuses("explain", **fields)
    assert error.code == Code.REQUEST_INVALID
    assert reason in error.text


def test_statistics_count_reloads_by_result_and_show_what_is_in_effect(folder: Path) -> None:
    node = Node(folder)
    assert node.admin.statistics().reloads == {"ok": 0, "failed": 0}
    write(folder, "allow call a from guest\nallow call b from guest\n")
    node.ask("reload")
    write(folder, "allow nonsense\n")
    node.refuses("reload")
    node.refuses("reload")
    figures = node.admin.statistics()
    assert figures.reloads == {"ok": 1, "failed": 2}
    assert (figures.source, figures.current.rules, figures.current.errors) == (str(folder), 2, 0)
    assert figures.current.digest == node.policy.digest
