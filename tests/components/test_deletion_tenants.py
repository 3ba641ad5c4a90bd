"""Tenants of the deletion component: each has its own roots and jobs, and learns nothing of others or of the host."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from busclient import Bus, BusError, Code, Denied, NoResponders
from busclient.testing import MemoryBus
from busd.components.deletion.component import Deletion
from busd.components.model import Component, Manifest, Request, attach, on_behalf
from tests.components.deletion_component_world import SECONDS, config, ended, on_bus, tree
from tests.components.runner_support import attached_as
from tests.core.peer import OPEN

EXPORTED = OPEN + "export service deletion.> from node to acme,globex\nexport service janitor.> from node to acme\n"

OF_A_JOB = ("pause", "resume", "change", "cancel", "undelete", "report", "watch")


class World:
    """A bus with the component, two tenants' guests and the node itself, each with a handle."""

    def __init__(self, bus: MemoryBus, acme: Bus, globex: Bus, handles: dict[str, Any]) -> None:
        self.bus = bus
        self.acme_bus = acme
        self.globex_bus = globex
        self.acme: Deletion = handles["acme"]
        self.globex: Deletion = handles["globex"]
        self.node: Deletion = handles["node"]


@asynccontextmanager
async def world(folder: Path, *, policy: str = EXPORTED, **changes: Any) -> AsyncIterator[World]:
    """Roots ``acme``, ``globex``, ``both`` and ``private``, each of whom its name says."""
    tenants = {"acme": ["acme"], "globex": ["globex"], "both": ["acme", "globex"], "private": []}
    for name in tenants:
        (folder / "host" / name).mkdir(parents=True)
    roots = [{"id": id, "path": str(folder / "host" / id), "tenants": who} for id, who in tenants.items()]
    settings = {**config(folder), "roots": roots, **changes}
    async with asyncio.timeout(SECONDS), on_bus(settings, policy=policy) as bus:
        acme = await attached_as(bus, "guest", "acme", "vm-1")
        globex = await attached_as(bus, "guest", "globex", "vm-2")
        node = await bus.connect(component="operator")
        async with (
            attach(Deletion, bus=acme, where="bus") as first,
            attach(Deletion, bus=globex, where="bus") as second,
            attach(Deletion, bus=node, where="bus") as third,
        ):
            yield World(bus, acme, globex, {"acme": first, "globex": second, "node": third})
        await acme.close()
        await globex.close()


async def refusal(call: Awaitable[Any]) -> BusError:
    with pytest.raises(BusError) as caught:
        await call
    return caught.value


async def of_a_job(deletion: Deletion, verb: str, job: str) -> Any:
    """What ``verb`` of ``job`` gives; of a stream its first part."""
    called = getattr(deletion, verb)(job)
    return await anext(aiter(called)) if verb == "watch" else await called


def test_a_tenant_sees_its_own_roots_and_not_where_they_are(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            assert [root.id for root in await here.acme.roots()] == ["acme", "both"]
            assert [root.id for root in await here.globex.roots()] == ["both", "globex"]
            for root in (*await here.acme.roots(), *await here.globex.roots()):
                assert (root.path, root.tenants, root.problem, root.ok) == ("", [], "", True)
            roots = {root.id: root for root in await here.node.roots()}
            assert list(roots) == ["acme", "both", "globex", "private"]
            assert roots["both"].path == str(tmp_path / "host" / "both")
            assert roots["both"].tenants == ["acme", "globex"]

    asyncio.run(main())


def test_another_s_root_is_as_one_that_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            (tmp_path / "host" / "globex" / "theirs").mkdir()
            for dry_run in (False, True):
                theirs = await refusal(here.acme.submit(root="globex", path=b"theirs", dry_run=dry_run))
                nobodys = await refusal(here.acme.submit(root="nobodys", path=b"theirs", dry_run=dry_run))
                assert theirs.code == nobodys.code == Code.DELETION_ROOT_UNKNOWN
                assert theirs.text.replace("globex", "X") == nobodys.text.replace("nobodys", "X")
            assert (await refusal(here.acme.submit(root="private", path=b"x"))).code == Code.DELETION_ROOT_UNKNOWN
            assert (tmp_path / "host" / "globex" / "theirs").exists()

    asyncio.run(main())


def test_another_s_job_is_as_one_that_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            tree(tmp_path / "host" / "both" / "t")
            tree(tmp_path / "host" / "both" / "u")
            job = (await here.globex.submit(root="both", path=b"t", files_per_second=0)).job
            look = (await here.globex.submit(root="both", path=b"u", dry_run=True)).job
            await ended(here.globex, look)
            before = (await here.globex.report(job)).progress.state
            for verb in OF_A_JOB:
                theirs = await refusal(of_a_job(here.acme, verb, job))
                nobodys = await refusal(of_a_job(here.acme, verb, "0123456789"))
                assert theirs.code == nobodys.code == Code.DELETION_JOB_UNKNOWN, verb
                assert theirs.text.replace(job, "X") == nobodys.text.replace("0123456789", "X")
            assert (await refusal(here.acme.submit(plan=look))).code == Code.DELETION_JOB_UNKNOWN
            assert await here.acme.list(all=True) == []
            assert [each.job for each in await here.globex.list()] == [job]
            assert (await here.globex.report(job)).progress.state == before
            await here.globex.cancel(job, "restore")

    asyncio.run(main())


def test_the_node_sees_and_may_do_everything(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            for tenant in ("acme", "globex"):
                tree(tmp_path / "host" / tenant / "t")
            mine = (await here.acme.submit(root="acme", path=b"t", files_per_second=0)).job
            other = (await here.globex.submit(root="globex", path=b"t", files_per_second=0)).job
            assert {(each.job, each.tenant) for each in await here.node.list()} == {(mine, "acme"), (other, "globex")}
            assert (await here.node.pause(mine)).state == "paused"
            assert (await here.acme.report(mine)).progress.state == "paused"
            await here.node.cancel(mine, "restore")
            await here.node.change(other, unlimited=True)
            assert (await ended(here.globex, other)).state == "done"
            assert (tmp_path / "host" / "acme" / "t" / "d0" / "f0").exists()

    asyncio.run(main())


class Janitor(Component):
    """Deletes for others."""

    manifest = Manifest(
        component="janitor",
        version="1",
        owner="tests",
        purpose="deletes for others",
        operations=(Request("clean"), Request("look")),
    )
    deletion: Deletion
    mine: Deletion

    async def clean(self, root: str, path: bytes) -> str:
        """Have what is at ``path`` deleted with the rights of who asks."""
        return (await self.deletion.submit(root=root, path=path)).tenant

    async def look(self) -> list[int]:
        """How many jobs who asks may see, and how many the janitor itself."""
        return [len(await self.deletion.list(all=True)), len(await self.mine.list(all=True))]


def test_who_acts_for_a_tenant_has_that_tenant_s_rights(tmp_path: Path) -> None:
    async def main() -> None:
        from busd.components.model import Context, compile_operations, offer

        async with world(tmp_path) as here:
            janitor = Janitor()
            own = await here.bus.connect(component="janitor")
            janitor.context = Context(Janitor, own, clock=own.clock)
            async with (
                attach(Deletion, bus=own, where="bus") as handle,
                offer(own, janitor, compile_operations(Janitor).values()),
                attach(Janitor, bus=here.acme_bus, where="bus") as asked,
            ):
                janitor.deletion, janitor.mine = on_behalf(handle), handle
                tree(tmp_path / "host" / "acme" / "t")
                tree(tmp_path / "host" / "globex" / "t")
                tree(tmp_path / "host" / "private" / "t")
                assert await asked.clean("acme", b"t") == "acme"
                for root in ("globex", "private"):
                    assert (await refusal(asked.clean(root, b"t"))).code == Code.DELETION_ROOT_UNKNOWN
                (own_job,) = await here.acme.list(all=True)
                assert (await ended(here.acme, own_job.job)).state == "done"
                await here.node.submit(root="private", path=b"t")
                assert await asked.look() == [1, 2]
            lines = (tmp_path / "state" / "audit" / "acme.jsonl").read_text().splitlines()
            by = json.loads(lines[0])["by"]
            assert (by["boundary"], by["tenant"], by["unit"]) == ("guest", "acme", "vm-1")
            assert by["endpoint"] == here.acme_bus.endpoint

    asyncio.run(main())


def test_what_a_tenant_is_told_names_no_path_of_the_host(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            root = tmp_path / "host" / "acme"
            tree(root / "t")
            (root / "link").symlink_to("/etc")
            told: list[str] = []
            for path in (b"absent", b"link/passwd", b"../globex", b"/etc", b".", b"", b"t/../t", b"t/d0/f0/x", b"\xff"):
                failed = await refusal(here.acme.submit(root="acme", path=path))
                told.append(f"{failed} {failed.fields}")
            job = (await here.acme.submit(root="acme", path=b"t", files_per_second=0)).job
            tree(root / "t")
            failed = await refusal(here.acme.cancel(job, "restore"))
            assert failed.code == Code.DELETION_CHANGED
            told += [f"{failed} {failed.fields}", str(await here.acme.report(job)), str(await here.acme.list())]
            told.append(str(await here.acme.roots()))
            root.rename(tmp_path / "host" / "moved")
            failed = await refusal(here.acme.submit(root="acme", path=b"t"))
            assert failed.code == Code.DELETION_CHANGED
            told.append(f"{failed} {failed.fields}")
            assert str(tmp_path) in str(await refusal(here.node.submit(root="acme", path=b"t")))
            for text in told:
                assert str(tmp_path) not in text
                assert "host" not in text, text

    asyncio.run(main())


def test_each_tenant_has_an_audit_of_its_own_that_names_who(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            tree(tmp_path / "host" / "acme" / "t")
            tree(tmp_path / "host" / "globex" / "t")
            key = (tmp_path / "host" / "acme" / "t").stat()
            job = (await here.acme.submit(root="acme", path=b"t", files_per_second=0)).job
            await here.node.change(job, files_per_second=1e6)
            await ended(here.acme, job)
            await ended(here.globex, (await here.globex.submit(root="globex", path=b"t")).job)
            while len(records("globex")) < 2 or len(records("acme")) < 3:
                await asyncio.sleep(0.01)
            submitted, changed, over = records("acme")
            assert [each["event"] for each in (submitted, changed, over)] == ["submitted", "changed", "ended"]
            who = {"boundary": "guest", "tenant": "acme", "unit": "vm-1", "endpoint": here.acme_bus.endpoint}
            assert submitted["by"] == over["by"] == who
            assert (changed["by"]["tenant"], changed["detail"]) == ("node", "files_per_second: 1000000.0")
            assert (submitted["root"], submitted["path"], submitted["job"]) == ("acme", "t", job)
            assert (submitted["device"], submitted["inode"]) == (key.st_dev, key.st_ino)
            assert (over["state"], over["removed"], over["files"], over["mode"]) == ("done", 5, 3, "tombstone")
            assert over["finished"] >= over["started"] >= over["submitted"] > 0
            assert {each["tenant"] for each in records("globex")} == {"globex"}

    def records(tenant: str) -> list[dict[str, Any]]:
        path = tmp_path / "state" / "audit" / f"{tenant}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    asyncio.run(main())


def test_one_tenant_s_backlog_is_not_another_s(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, backlog_jobs=2) as here:
            for number in range(3):
                (tmp_path / "host" / "acme" / f"t{number}").mkdir()
            (tmp_path / "host" / "globex" / "t").mkdir()
            for number in range(2):
                await here.acme.submit(root="acme", text=f"t{number}", grace_seconds=60)
            failed = await refusal(here.acme.submit(root="acme", path=b"t2", grace_seconds=60))
            assert failed.code == Code.DELETION_BACKLOG
            assert (tmp_path / "host" / "acme" / "t2").exists()
            await here.globex.submit(root="globex", path=b"t", grace_seconds=60)

    asyncio.run(main())


def test_without_an_export_a_tenant_does_not_reach_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, policy=OPEN) as here:
            assert isinstance(await refusal(here.acme.roots()), NoResponders)
        (tmp_path / "again").mkdir()
        denied = "deny call deletion.> from guest tenant=acme\n" + EXPORTED
        async with world(tmp_path / "again", policy=denied) as here:
            assert isinstance(await refusal(here.acme.roots()), Denied)
            assert len(await here.globex.roots()) == 2

    asyncio.run(main())
