"""A plan is carried out only where it was made, on what it was made of, and as long as that has not grown."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from busd.components.deletion.filters import Filter
from busd.components.deletion.found import Found
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.plan import Plan
from busd.components.deletion.roots import Root, RootSettings
from busd.components.deletion.survey import Survey
from busd.components.deletion.tally import Failure
from busd.components.deletion.target import Target, resolve
from busproto.errors import BusError, Code


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    (tmp_path / "scratch").mkdir()
    opened = Root.open(RootSettings("scratch", tmp_path / "scratch"))
    yield opened
    opened.close()


@pytest.fixture
def tree(root: Root) -> Path:
    made = root.settings.path / "tree"
    made.mkdir()
    for number in range(100):
        (made / f"{number}").write_text("x")
    return made


def look(root: Root, path: bytes = b"tree") -> tuple[Target, Found]:
    target = resolve(root, path)
    fd = os.open(target.name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=target.parent)
    try:
        return target, Survey(fd, gate=OpenGate(), workers=1).run()
    finally:
        os.close(fd)


def refusal(plan: Plan, target: Target, found: Found | None = None, **named: Any) -> str:
    with target, pytest.raises(BusError) as caught:
        plan.check(target, found, **named)
    assert caught.value.code == Code.DELETION_CHANGED
    return str(caught.value.fields["reason"])


def made(root: Root) -> Plan:
    target, found = look(root)
    with target:
        return Plan.of("7", target, found, None, 1000.0)


def test_a_plan_holds_while_nothing_has_changed(root: Root, tree: Path) -> None:
    plan = made(root)
    assert (plan.id, plan.root, plan.path, plan.made) == ("7", "scratch", b"tree", 1000.0)
    assert (plan.entries, plan.bytes, plan.directory) == (100, plan.found.bytes, True)
    assert (plan.device, plan.inode) == (tree.stat().st_dev, tree.stat().st_ino)
    target, found = look(root)
    with target:
        plan.check(target)
        plan.check(target, found)
        (tree / "1").unlink()
    target, found = look(root)
    with target:
        plan.check(target, found)  # fewer are no harm


def test_what_has_grown_is_not_what_was_planned(root: Root, tree: Path) -> None:
    plan = made(root)
    for number in range(100, 120):
        (tree / f"{number}").touch()
    assert refusal(plan, *look(root)) == "it has 120 entries; 100 were planned"
    assert refusal(plan, *look(root), slack_percent=19.5) == "it has 120 entries; 100 were planned, 19.5 % more may be"
    target, found = look(root)
    with target:
        plan.check(target, found, slack_percent=20)
        plan.check(target)  # nobody counted


@pytest.mark.parametrize("slack", [-1.0, float("nan")])
def test_a_slack_is_a_share(root: Root, tree: Path, slack: float) -> None:
    plan = made(root)
    with resolve(root, b"tree") as target, pytest.raises(ValueError, match="slack_percent"):
        plan.check(target, slack_percent=slack)


def test_another_directory_of_the_same_name_is_not_what_was_planned(root: Root, tree: Path) -> None:
    plan = made(root)
    tree.rename(tree.parent / "away")  # it stays, so that its inode is not used again
    tree.mkdir()
    assert refusal(plan, resolve(root, b"tree")) == "it is another directory than was planned"
    tree.rmdir()
    tree.write_text("")
    assert refusal(plan, resolve(root, b"tree")) == "it is no directory; one was planned"
    assert refusal(plan, resolve(root, b"away")) == "the plan is for tree in root scratch"


def test_a_plan_for_one_file(root: Root, tree: Path) -> None:
    with resolve(root, b"tree/5") as target:
        plan = Plan.of("8", target, Found.of(target.check()), None, 5.0)
        plan.check(target)
    assert (plan.entries, plan.directory, plan.found.files, plan.found.apparent) == (1, False, 1, 1)
    (tree / "5").rename(tree / "six")
    (tree / "5").write_text("y")
    assert refusal(plan, resolve(root, b"tree/5")) == "it is another file than was planned"
    (tree / "5").unlink()
    (tree / "5").mkdir()
    assert refusal(plan, resolve(root, b"tree/5")) == "it is a directory; something else was planned"


def test_a_plan_survives_the_wire(root: Root, tree: Path) -> None:
    target, found = look(root)
    found.mount(b"\xff/mounted")
    found.fail(b"\xff", 13, "open")
    found.spare("young")
    with target:
        wanted = Filter(older_than=60.0, glob=b"\xff*", types=frozenset({"file"}))
        plan = Plan.of("9", target, found, wanted, 1.5)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=Plan)
    assert again == plan
    assert (again.found.mount_paths, again.found.failures) == ([b"\xff/mounted"], [Failure(b"\xff", 13, "open")])
    assert again.found.unreadable == {13: 1}
    with pytest.raises(AttributeError):
        again.entries = 7  # type: ignore[misc]
