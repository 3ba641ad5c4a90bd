"""The deletion component: what it takes, how it follows jobs, how well it says that it is, how it comes and goes."""

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from busclient import BusError, Code, ErrorReply
from busclient.testing import FakeClock
from busd.components.deletion import rootinfo, watches
from busd.components.deletion.component import Deletion
from busd.components.deletion.filters import Filter
from busd.components.deletion.settings import FilterText
from busd.components.model import Context, configure, invoke
from busd.components.model.operation import compile_operations
from busd.components.model.testing import Form, both_forms, forms
from busd.components.statefolder import default_state
from tests.components.deletion_component_world import SECONDS, config, ended, tree

Play = Callable[[Deletion], Awaitable[None]]


def play(form: Form, settings: dict[str, Any], test: Play) -> None:
    """Run ``test`` with a handle of the component."""

    async def main() -> None:
        async with asyncio.timeout(SECONDS), both_forms(Deletion, form, clock=FakeClock(), **settings) as deletion:
            await test(deletion)

    asyncio.run(main())


async def code_of(call: Awaitable[Any]) -> int:
    with pytest.raises(ErrorReply) as caught:
        await call
    return caught.value.code


# -- operations --------------------------------------------------------------------------------------------------------


@forms
def test_a_tree_goes_and_the_report_proves_it(form: Form, tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        progress = await deletion.submit(root="scratch", path=b"old")
        assert (progress.tenant, progress.root, progress.path) == ("node", "scratch", b"old")
        assert progress.name_free
        assert not (tmp_path / "scratch" / "old").exists()
        last = await ended(deletion, progress.job)
        assert (last.state, last.removed, last.failed) == ("done", 9, {})
        report = await deletion.report(progress.job)
        assert report.proof is not None
        assert report.proof.gone
        assert report.request.path == b"old"
        while await deletion.list():  # its empty tombstone goes last
            await asyncio.sleep(0.01)
        assert [each.job for each in await deletion.list(all=True)] == [progress.job]

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old", files=3, directories=2)
    play(form, settings, test)


@forms
@pytest.mark.parametrize("name", [b"\xff\xfe", b"-rf", b"new\nline", "Müll".encode()])
def test_a_path_is_bytes_or_text(form: Form, name: bytes, tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        (tmp_path / "scratch" / os.fsdecode(name)).mkdir()
        first = await deletion.submit(root="scratch", path=name)
        assert (await ended(deletion, first.job)).state == "done"
        (tmp_path / "scratch" / "Müll").mkdir()
        second = await deletion.submit(root="scratch", text="Müll")
        assert (await ended(deletion, second.job)).path == "Müll".encode()
        assert await code_of(deletion.submit(root="scratch", path=b"a", text="b")) == Code.REQUEST_INVALID

    play(form, config(tmp_path), test)


@forms
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "root and path"),
        ({"root": "scratch"}, "root and path"),
        ({"root": "scratch", "path": b"a", "plan": "b"}, "plan: "),
        ({"root": "scratch", "path": b"a", "grace_seconds": 1.0, "in_place": True}, "grace_seconds: "),
        ({"root": "scratch", "path": b"a", "files_per_second": -1.0}, "files_per_second: "),
        ({"root": "scratch", "path": b"a", "files_per_second": float("nan")}, "files_per_second: "),
        ({"root": "scratch", "path": b"a", "max_entries": 0}, "max_entries: "),
        ({"root": "scratch", "path": b"a", "filter": {"older_than": "soon"}}, "older_than: "),
        ({"root": "scratch", "path": b"a", "filter": {"glob": 7}}, "glob: "),
        ({"root": "scratch", "path": b"a", "filter": {"younger_than": 7}}, "filter.younger_than: "),
        ({"root": "scratch", "path": b"a", "filter": {"smaller_than": 1, "larger_than": 5}}, "smaller_than: "),
    ],
)
def test_what_cannot_be_meant_is_refused_and_named(
    form: Form, fields: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    async def test(deletion: Deletion) -> None:
        with pytest.raises(ErrorReply) as caught:
            await deletion.submit(**fields)
        assert caught.value.code == Code.REQUEST_INVALID
        assert str(caught.value.fields["reason"]).startswith(reason)
        assert (tmp_path / "scratch" / "a").exists()

    settings = config(tmp_path)
    (tmp_path / "scratch" / "a").mkdir()
    play(form, settings, test)


@forms
@pytest.mark.parametrize(
    "chosen",
    [
        FilterText(glob="**.log"),
        FilterText(glob=b"**.log", types="file,link", smaller_than="1M"),
        FilterText(glob="**.log", types=["file"], larger_than=0, owner=os.geteuid()),
        Filter(glob=b"**.log", types=frozenset({"file"}), larger_than=0),
    ],
)
def test_a_filter_is_typed_or_text(form: Form, chosen: Any, tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        job = (await deletion.submit(root="scratch", text="logs", filter=chosen)).job
        assert (await ended(deletion, job)).mode == "filter"
        assert sorted(os.listdir(tmp_path / "scratch" / "logs")) == ["keep.txt"]

    settings = config(tmp_path)
    (tmp_path / "scratch" / "logs").mkdir()
    for name in ("a.log", "b.log", "keep.txt"):
        (tmp_path / "scratch" / "logs" / name).write_text("x")
    play(form, settings, test)


@forms
def test_a_dry_run_makes_a_plan_that_is_carried_out(form: Form, tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        look = await deletion.submit(root="scratch", path=b"old", dry_run=True)
        await ended(deletion, look.job)
        plan = (await deletion.report(look.job)).plan
        assert plan is not None
        assert (plan.id, plan.entries) == (look.job, 4)
        assert (tmp_path / "scratch" / "old").exists()
        done = await ended(deletion, (await deletion.submit(plan=plan.id)).job)
        assert (done.state, done.path) == ("done", b"old")
        assert not (tmp_path / "scratch" / "old").exists()
        assert await code_of(deletion.submit(plan="nothing")) == Code.DELETION_JOB_UNKNOWN

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old")
    play(form, settings, test)


@forms
def test_rates_are_changed_taken_away_and_kept(form: Form, tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        job = (await deletion.submit(root="scratch", path=b"old", files_per_second=0, bytes_per_second=1e9)).job
        assert await code_of(deletion.change("nothing")) == Code.DELETION_JOB_UNKNOWN

        async def rates() -> tuple[float | None, float | None]:
            request = (await deletion.report(job)).request
            return request.files_per_second, request.bytes_per_second

        await deletion.change(job, bytes_per_second=2e9)
        assert await rates() == (0, 2e9)
        await deletion.change(job, files_per_second=0, unlimited=True)
        assert await rates() == (0, None)
        await deletion.change(job, unlimited=True)
        assert (await ended(deletion, job)).state == "done"

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old")
    play(form, settings, test)


@forms
def test_a_job_is_paused_cancelled_resumed_and_had_back(form: Form, tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        job = (await deletion.submit(root="scratch", path=b"old", files_per_second=0)).job
        for _ in range(2):
            assert (await deletion.pause(job)).state == "paused"
        assert (await deletion.cancel(job)).state == "cancelled"
        assert (await deletion.resume(job)).state in ("queued", "running", "paused")
        assert (await deletion.cancel(job, "restore")).state == "cancelled"
        assert sorted(os.listdir(tmp_path / "scratch" / "old")) == ["d0"]
        assert await code_of(deletion.undelete(job)) == Code.DELETION_JOB_STATE
        kept = await deletion.submit(root="scratch", path=b"old", grace_seconds=3600)
        assert not (tmp_path / "scratch" / "old").exists()
        await deletion.undelete(kept.job)
        assert sorted(os.listdir(tmp_path / "scratch" / "old" / "d0")) == ["f0", "f1", "f2"]

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old")
    play(form, settings, test)


# -- watching ----------------------------------------------------------------------------------------------------------


@forms
def test_whoever_watches_is_told_at_once_and_at_changes(
    form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(deletion: Deletion) -> None:
        job = (await deletion.submit(root="scratch", path=b"old", files_per_second=0)).job
        parts = aiter(deletion.watch(job))
        while (await anext(parts)).state != "running":
            pass
        await deletion.pause(job)
        assert (await anext(parts)).state == "paused"
        await deletion.cancel(job, "restore")
        assert [part.state async for part in parts][-1] == "cancelled"

    monkeypatch.setattr(watches, "EACH_SECONDS", 1000.0)
    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old")
    play(form, settings, test)


@forms
def test_whoever_watches_is_told_figures_each_second(form: Form, tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        job = (await deletion.submit(root="scratch", path=b"old", files_per_second=0)).job
        parts = aiter(deletion.watch(job))
        while (await anext(parts)).state != "running":
            pass
        began = asyncio.get_running_loop().time()
        assert (await anext(parts)).state == "running"
        assert asyncio.get_running_loop().time() - began > 0.5
        await deletion.cancel(job, "restore")

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old")
    play(form, settings, test)


def test_who_is_slow_gets_the_newest(tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        job = (await deletion.submit(root="scratch", path=b"old", files_per_second=0)).job
        parts = aiter(deletion.watch(job))
        await anext(parts)
        for verb in (deletion.pause, deletion.resume, deletion.pause, deletion.resume, deletion.pause):
            await verb(job)
            await asyncio.sleep(0.25)
        assert (await anext(parts)).state == "paused"
        await deletion.cancel(job, "restore")
        assert [part.state async for part in parts] == ["cancelled"], "of what was between, nothing waits"

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old")
    play("direct", settings, test)


@forms
def test_a_watch_that_is_given_up_leaves_the_job_alone(form: Form, tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        job = (await deletion.submit(root="scratch", path=b"old", files_per_second=0)).job
        watching = asyncio.create_task(ended(deletion, job))
        await asyncio.sleep(0.3)
        watching.cancel()
        await asyncio.wait([watching])
        assert watching.cancelled()
        async with deletion.watch(job) as parts:  # type: ignore[attr-defined]
            await anext(parts)
        assert (await deletion.report(job)).progress.state == "running"
        assert await code_of(anext(aiter(deletion.watch("nothing")))) == Code.DELETION_JOB_UNKNOWN

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old")
    play(form, settings, test)


def test_many_who_watch_are_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(deletion: Deletion) -> None:
        jobs = []
        for number in range(3):
            tree(tmp_path / "scratch" / f"t{number}")
            jobs.append((await deletion.submit(root="scratch", text=f"t{number}", files_per_second=0)).job)
        watching = [asyncio.create_task(ended(deletion, job)) for job in jobs for _ in range(20)]
        await asyncio.sleep(0.3)
        looks.clear()
        await asyncio.sleep(0.5)
        assert 1 <= len(looks) <= 7, "one each 0.1 s, however many watch"
        assert sorted(looks[-1]) == sorted(jobs)
        for job in jobs:
            await deletion.cancel(job, "restore")
        assert {each.state for each in await asyncio.gather(*watching)} == {"cancelled"}

    looks: list[list[str]] = []
    look = Deletion._look

    async def counted(self: Deletion, ids: list[str]) -> Any:
        looks.append(ids)
        return await look(self, ids)

    monkeypatch.setattr(Deletion, "_look", counted)
    play("direct", config(tmp_path), test)


# -- health, settings --------------------------------------------------------------------------------------------------


async def alive(settings: dict[str, Any], test: Callable[[Deletion], Awaitable[None]]) -> None:
    """``test`` with the component itself, running."""
    from busd.components.model.lifecycle import running

    deletion = configure(Deletion, settings)
    deletion.context = Context(Deletion)
    async with asyncio.timeout(SECONDS), running(deletion):
        await ask(deletion, "list")  # it has come up
        await test(deletion)


async def ask(deletion: Deletion, name: str, **arguments: Any) -> Any:
    """The result of one of its operations, for the node itself."""
    return (await invoke(deletion, compile_operations(Deletion)[name], arguments))[1]


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_without_roots_it_is_there_and_says_so(tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        health = deletion.health()
        assert health.ok
        assert "there are no roots" in health.detail
        assert await ask(deletion, "roots") == []
        assert await ask(deletion, "list", all=True) == []
        with pytest.raises(BusError) as caught:
            await ask(deletion, "submit", root="scratch", path=b"old")
        assert caught.value.code == Code.DELETION_ROOT_UNKNOWN

    asyncio.run(alive({"state": str(tmp_path / "state")}, test))


def test_a_root_that_goes_away_is_not_well_and_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(deletion: Deletion) -> None:
        assert deletion.health().ok
        (tmp_path / "scratch").rename(tmp_path / "elsewhere")
        (tmp_path / "scratch").mkdir()
        (tmp_path / "scratch" / "old").mkdir()
        await until(lambda: not deletion.health().ok)  # for a moment there is none
        await until(lambda: "another directory or file system is at its path" in deletion.health().detail)
        assert deletion.health().detail.startswith("root scratch: ")
        (root,) = await ask(deletion, "roots")
        assert (root.ok, root.problem) == (False, deletion.health().detail.removeprefix("root scratch: "))
        with pytest.raises(BusError) as caught:
            await ask(deletion, "submit", root="scratch", path=b"old")
        assert caught.value.code == Code.DELETION_CHANGED
        assert (tmp_path / "scratch" / "old").exists()
        assert (tmp_path / "elsewhere" / "old").exists()
        assert deletion.statistics().roots_gone == 1
        (tmp_path / "scratch" / "old").rmdir()
        (tmp_path / "scratch").rmdir()
        (tmp_path / "elsewhere").rename(tmp_path / "scratch")
        await until(lambda: deletion.health().ok)

    monkeypatch.setattr(rootinfo, "CHECK_SECONDS", 0.05)
    settings = config(tmp_path)
    (tmp_path / "scratch" / "old").mkdir()
    asyncio.run(alive(settings, test))


def test_a_state_folder_that_cannot_be_written_is_not_well_and_deletion_goes_on(tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        shutil.rmtree(tmp_path / "state")
        (tmp_path / "state").write_text("in the way")
        job = (await ask(deletion, "submit", root="scratch", path=b"old")).job
        await until(lambda: not deletion.health().ok)
        assert "what becomes of jobs cannot be written down" in deletion.health().detail
        while (await ask(deletion, "report", job=job)).progress.state != "done":
            await asyncio.sleep(0.01)

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old")
    asyncio.run(alive(settings, test))


def test_two_processes_do_not_share_a_state_folder(tmp_path: Path) -> None:
    async def test(_: Deletion) -> None:
        other = configure(Deletion, settings)
        other.context = Context(Deletion)
        await other.start()
        waiting = asyncio.create_task(ask(other, "list"))
        with pytest.raises(BusError) as caught:
            await other.run()
        assert caught.value.code == Code.DELETION_FAILED
        assert "another process" in caught.value.text
        assert str(tmp_path / "state") in caught.value.text
        with pytest.raises(BusError):
            await waiting
        await other.stop()

    settings = config(tmp_path)
    asyncio.run(alive(settings, test))


def root(**changes: Any) -> dict[str, Any]:
    return {"id": "b", "path": "/srv/b", **changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"roots": [root(), {"id": "c"}]}, "roots[1].path: missing"),
        ({"roots": [root(path=7)]}, "roots[0].path: expected str, got int"),
        ({"roots": [root(path="srv")]}, "roots[0].path: it must be absolute"),
        ({"roots": [root(id="B")]}, "roots[0].id: an id is of a-z"),
        ({"roots": [root(), root(id="c"), root()]}, "roots[2].id: 'b' is that of roots[0]"),
        ({"roots": [root(tenants=["Acme"])]}, "roots[0].tenants: 'Acme' is no tenant"),
        ({"roots": [root(tenants=["node"])]}, "roots[0].tenants: 'node' is no tenant"),
        ({"roots": [root(min_depth=0)]}, "roots[0].min_depth: expected int >= 1"),
        ({"roots": [root(max_entries=0)]}, "roots[0].max_entries: expected int >= 1"),
        ({"roots": [root(no_such=0)]}, "roots[0].no_such: there is no such field"),
        ({"state": "here"}, "state: it must be an absolute path"),
        ({"workers": 0}, "workers: expected int >= 1"),
        ({"jobs_per_tenant": 65}, "jobs_per_tenant: expected int <= 64"),
        ({"backlog_jobs": 0}, "backlog_jobs: expected int >= 1"),
        ({"adaptive": "yes"}, "adaptive: expected bool, got str"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BusError) as caught:
        configure(Deletion, changes)
    assert caught.value.code == Code.CONFIG_INVALID
    assert caught.value.text.startswith(f"config of component 'deletion': {reason}")


@pytest.mark.parametrize("what", ["absent", "link", "file", "state", "root", "twice", "platform"])
def test_a_root_that_cannot_be_opened_is_named(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "good")
    state = tmp_path / "state"
    (state / "jobs").mkdir(parents=True)
    (tmp_path / "good" / "inner").mkdir()
    paths = {"state": state / "jobs", "root": Path("/"), "twice": tmp_path / "good" / "inner"}
    path = paths.get(what, tmp_path / what)
    reasons = {"absent": "No such file", "link": "is a link", "file": "Not a directory", "state": "which is protected"}
    reasons |= {"root": "/ cannot be a root", "twice": "it lies in root 'good'"}
    reasons |= {"platform": "this platform has no descriptors of directories"}
    if what == "platform":
        monkeypatch.setattr(os, "supports_dir_fd", set())  # as on Windows
    roots = [{"id": "good", "path": str(tmp_path / "good")}, {"id": "bad", "path": str(path)}]
    deletion = configure(Deletion, {"roots": roots, "state": str(state)})
    with pytest.raises(BusError) as caught:
        asyncio.run(deletion.start())
    assert caught.value.code == Code.CONFIG_INVALID
    number = 0 if what == "platform" else 1
    assert caught.value.text.startswith(f"config of component 'deletion': roots[{number}].path: ")
    assert reasons[what] in caught.value.text


@pytest.mark.parametrize(
    ("environment", "uid", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/busd:/var/lib/more"}, 7, "/var/lib/busd"),
        ({"STATE_DIRECTORY": "relative", "HOME": "/home/x"}, 0, "/var/lib/busd"),
        ({"XDG_STATE_HOME": "/state", "HOME": "/home/x"}, 7, "/state/busd"),
        ({"XDG_STATE_HOME": "state", "HOME": "/home/x"}, 7, "/home/x/.local/state/busd"),
        ({}, 7, "/tmp/busd-7"),
    ],
)
def test_where_state_is_by_default(
    environment: dict[str, str], uid: int, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert default_state(environment) == Path(folder)


def test_without_a_state_folder_nothing_is_written_anywhere(tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        job = (await ask(deletion, "submit", root="scratch", path=b"old")).job
        while (await ask(deletion, "report", job=job)).progress.state != "done":
            await asyncio.sleep(0.01)

    for state in (None, "off"):
        settings = config(tmp_path, state=state)
        tree(tmp_path / "scratch" / "old")
        asyncio.run(alive(settings, test))
        assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


# -- coming and going --------------------------------------------------------------------------------------------------


def test_a_drain_ends_who_watches_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """As a runner does it: told to leave, run() cancelled; and begun anew when the successor failed."""

    async def main() -> None:
        deletion = configure(Deletion, settings)
        deletion.context = Context(Deletion)
        await deletion.start()
        run = asyncio.create_task(deletion.run())
        job = (await ask(deletion, "submit", root="scratch", path=b"old", files_per_second=1000)).job
        for _ in range(3):
            watching = asyncio.create_task(watched(deletion, job))
            await asyncio.sleep(0.2)
            deletion.draining()
            assert (await watching)[-1].state in ("queued", "running"), "it ends before the job does"
            assert len(await watched(deletion, job)) == 1, "and one that comes now is not kept"
            run.cancel()
            await asyncio.wait([run])
            late = asyncio.create_task(ask(deletion, "report", job=job))
            await asyncio.sleep(0.05)
            assert not late.done(), "there is nobody who could answer"
            run = asyncio.create_task(deletion.run())
            assert (await late).progress.job == job
        await ask(deletion, "change", job=job, unlimited=True)
        last = (await watched(deletion, job))[-1]
        assert (last.state, last.removed) == ("done", 5002)
        run.cancel()
        await asyncio.wait([run])
        await deletion.stop()

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old", files=5000)
    asyncio.run(asyncio.wait_for(main(), SECONDS))


async def watched(deletion: Deletion, job: str) -> list[Any]:
    from busd.components.model import invoke_stream

    parts = invoke_stream(deletion, compile_operations(Deletion)["watch"], {"job": job})
    return [part async for _, part in parts]


def test_it_can_be_stopped_before_it_has_run(tmp_path: Path) -> None:
    async def main() -> None:
        deletion = configure(Deletion, config(tmp_path))
        await deletion.start()
        assert deletion.health().ok
        await deletion.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert set(os.listdir("/proc/self/fd")) <= before


def test_one_that_is_told_to_end_as_it_comes_up_lets_go_of_its_state(tmp_path: Path) -> None:
    async def main() -> None:
        settings = config(tmp_path)
        for _ in range(20):
            deletion = configure(Deletion, settings)
            deletion.context = Context(Deletion)
            await deletion.start()
            run = asyncio.create_task(deletion.run())
            await asyncio.sleep(0.0)
            run.cancel()
            await asyncio.wait([run])
            assert run.cancelled()
            await deletion.stop()

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_its_figures(tmp_path: Path) -> None:
    async def test(deletion: Deletion) -> None:
        job = (await ask(deletion, "submit", root="scratch", path=b"old")).job
        while (await ask(deletion, "report", job=job)).progress.state != "done":
            await asyncio.sleep(0.01)
        held = (await ask(deletion, "submit", root="scratch", path=b"more", grace_seconds=60)).job
        await until(lambda: deletion.statistics().jobs.get("grace"))
        await until(lambda: deletion.statistics().ended)
        figures = deletion.statistics()
        assert (figures.submitted, dict(figures.ended), figures.removed) == (2, {"done": 1}, 5)
        assert figures.jobs == {"done": 1, "grace": 1}
        assert (figures.roots, figures.roots_gone, figures.watched, figures.calls) == (1, 0, 0, 0)
        await ask(deletion, "undelete", job=held)
        lines = (tmp_path / "state" / "audit" / "node.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        assert events == ["submitted", "ended", "submitted", "ended", "undeleted"]

    settings = config(tmp_path)
    tree(tmp_path / "scratch" / "old")
    tree(tmp_path / "scratch" / "more")
    asyncio.run(alive(settings, test))
