"""The deletion component as a process of its own, kept running and handed over by the supervisor."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from busclient import Code
from busd.components.deletion.component import Deletion
from busd.components.deletion.progress import FINAL, Progress
from busd.components.model import attach, within
from tests.components.deletion_component_world import tree
from tests.components.supervisor_world import SECONDS, World, run, world
from tests.support import START_SECONDS, environment

FILES = 300
DIRECTORIES = 40


def settings(folder: Path) -> str:
    """The file of the component: root ``scratch`` in ``folder``."""
    (folder / "scratch").mkdir()
    text = f'[config]\nstate = "{folder}/state"\nadaptive = false\n'
    (folder / "deletion.toml").write_text(f'{text}\n[[config.roots]]\nid = "scratch"\npath = "{folder}/scratch"\n')
    return str(folder / "deletion.toml")


async def until_done(deletion: Any, job: str, seen: list[Progress]) -> Progress:
    """Follow a job as a client does that knows that a watch may end before the job."""
    while True:
        async for progress in within(deletion, SECONDS).watch(job):
            seen.append(progress)  # noqa: PERF401  (others look at it meanwhile)
        if seen[-1].state in FINAL:
            return seen[-1]


async def started(here: World) -> None:
    await here.admin("start", "deletion")
    await here.ready("deletion")


def test_a_replacement_while_it_works_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            settings(tmp_path)
            await started(here)
            tree(tmp_path / "scratch" / "old", files=FILES, directories=DIRECTORIES)
            async with attach(Deletion, bus=here.bus, where="bus") as deletion:
                job = (await deletion.submit(root="scratch", path=b"old", files_per_second=300)).job
                seen: list[Progress] = []
                following = asyncio.create_task(until_done(deletion, job, seen))
                pids = set()
                for _ in range(2):
                    while not seen or seen[-1].removed == 0:
                        await asyncio.sleep(0.05)
                    pids.add((await here.ready("deletion"))["pid"])
                    await here.admin("replace", "deletion")
                    assert not following.done(), "it is under way"
                    (one,) = await deletion.list()
                    assert one.job == job
                pids.add((await here.ready("deletion"))["pid"])
                assert len(pids) == 3
                await deletion.change(job, unlimited=True)
                last = await following
                assert (last.state, last.failed, last.parked) == ("done", {}, {})
                # What was removed between the last time that it was noted and a replacement is known: none was killed.
                assert last.removed == FILES * DIRECTORIES + DIRECTORIES + 1
                report = await deletion.report(job)
                assert report.proof is not None
                assert report.proof.gone
            assert os.listdir(tmp_path / "scratch") in ([], [".busd-tombstones"])
            assert here.reports == []

    run(main, monkeypatch)


def test_one_that_is_killed_goes_on_when_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            settings(tmp_path)
            await started(here)
            tree(tmp_path / "scratch" / "old", files=FILES, directories=DIRECTORIES)
            async with attach(Deletion, bus=here.bus, where="bus") as deletion:
                job = (await deletion.submit(root="scratch", path=b"old", files_per_second=300)).job
                async for progress in deletion.watch(job):
                    if progress.removed:
                        break
                first = await here.ready("deletion")
                os.kill(first["pid"], signal.SIGKILL)
                await here.until(lambda row: row["state"] == "ready" and row["pid"] != first["pid"], "deletion")
                await deletion.change(job, unlimited=True)
                last = await until_done(deletion, job, [])
                assert (last.state, last.failed, last.parked) == ("done", {}, {})
            assert os.listdir(tmp_path / "scratch") in ([], [".busd-tombstones"])

    run(main, monkeypatch)


def test_stopping_it_takes_no_longer_because_somebody_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            settings(tmp_path)
            await started(here)
            tree(tmp_path / "scratch" / "old")
            async with attach(Deletion, bus=here.bus, where="bus") as deletion:
                job = (await deletion.submit(root="scratch", path=b"old", files_per_second=0)).job
                parts = aiter(within(deletion, SECONDS).watch(job))
                await anext(parts)
                loop = asyncio.get_running_loop()
                began = loop.time()
                await here.admin("stop", "deletion")
                assert loop.time() - began < 5.0, "calls in flight would have 5 s"
                rest = [part.state async for part in parts]
                assert not FINAL & set(rest), "the job goes on later"
                await here.admin("start", "deletion")
                await here.ready("deletion")
                assert (await deletion.cancel(job, "restore")).state == "cancelled"
            assert (tmp_path / "scratch" / "old" / "d0" / "f0").exists()

    run(main, monkeypatch)


@pytest.mark.slow
def test_it_is_not_cut_off_for_doing_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its budget is what all processors give, and its process is far below the memory."""

    async def main() -> None:
        async with world(tmp_path, None) as here:
            settings(tmp_path)
            await started(here)
            async with attach(Deletion, bus=here.bus, where="bus") as deletion:
                jobs = []
                for number in range(4):
                    tree(tmp_path / "scratch" / f"t{number}", files=200, directories=10)
                    jobs.append((await deletion.submit(root="scratch", text=f"t{number}")).job)
                for job in jobs:
                    assert (await until_done(deletion, job, [])).state == "done"
                row = await here.ready("deletion")
                assert row["cut_off"] == 0
                assert row["memory_bytes"] < row["budget"]["memory_bytes"] / 2
                assert row["budget"]["cpu_percent"] == 100.0 * (os.cpu_count() or 1)

    run(main, monkeypatch)


def test_many_jobs_at_a_time_fit_into_the_memory_that_it_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stacks of threads count: 8 MiB each would have been too many for a third of these."""

    async def main() -> None:
        async with world(tmp_path, None) as here:
            file = settings(tmp_path)
            text = Path(file).read_text().replace("adaptive = false", "adaptive = false\njobs_per_tenant = 64")
            budget = "[budget]\nmemory_bytes = 268435456\ncpu_percent = 400\n"  # known from the first start on
            Path(file).write_text(text + budget)
            await started(here)
            async with attach(Deletion, bus=here.bus, where="bus") as deletion:
                jobs = []
                for number in range(64):
                    tree(tmp_path / "scratch" / f"t{number}", directories=2)
                    path = f"t{number}"
                    jobs.append((await deletion.submit(root="scratch", text=path, files_per_second=0)).job)
                states = {each.state for each in await deletion.list(limit=100)}
                assert states <= {"queued", "running"}
                for job in jobs:
                    await deletion.change(job, unlimited=True)
                for job in jobs:
                    assert (await until_done(deletion, job, [])).state == "done"
                row = await here.ready("deletion")
                assert row["memory_bytes"] < row["budget"]["memory_bytes"] / 2
            assert here.reports == []

    run(main, monkeypatch)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[[config.roots]]\nid = "x"\npath = "/no/such"\n', "roots[0].path: /no: No such file or directory"),
        ('[[config.roots]]\nid = "x"\npath = "/"\n', "roots[0].path: / cannot be a root"),
        ('[[config.roots]]\nid = "x"\n', "roots[0].path: missing"),
        ('[config]\nroots = "/srv"\n', "roots: expected array, got str"),
    ],
)
def test_a_wrong_configuration_ends_it_with_the_key_and_the_file(tmp_path: Path, text: str, reason: str) -> None:
    from tests.support import running_node

    file = tmp_path / "deletion.toml"
    file.write_text(text)
    with running_node(tmp_path / "run") as node:
        done = subprocess.run(
            [sys.executable, "-m", "busd", "component", "run", "deletion", "--config", str(file), "--bus", node.url],
            env=environment(STATE_DIRECTORY=str(tmp_path / "state")),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    assert done.returncode == 2
    assert f"BUS-{int(Code.CONFIG_INVALID)}" in done.stderr
    assert f"config of component 'deletion' in {file}: {reason}" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_the_node_and_without_a_file_it_serves_and_has_no_roots(tmp_path: Path) -> None:
    from tests.support import running_node

    async def main(url: str) -> tuple[Any, Any]:
        import busclient

        async with busclient.connect(url, component="test") as bus, asyncio.timeout(START_SECONDS):
            while True:
                try:
                    roots = (await bus.call("deletion.roots")).payload
                    break
                except busclient.NoResponders:
                    await asyncio.sleep(0.05)
            rows: list[dict[str, Any]] = []
            while not rows or not rows[0]["health"]["detail"]:
                rows = (await bus.call("$bus.components", {})).payload["components"]
                await asyncio.sleep(0.05)
            return roots, rows[0]["health"]

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    try:
        with running_node(tmp_path / "run", "--components", "deletion") as node:
            roots, health = asyncio.run(main(node.url))
    finally:
        monkeypatch.undo()
    assert roots == []
    assert health["ok"]
    assert "there are no roots" in health["detail"]


def test_what_it_hands_over_is_on_disk() -> None:
    assert Deletion.manifest.state is None
    assert Deletion.manifest.placements == ("host",), "what is moved away would leave its jobs behind"
