"""Actors that do what operators and their tools do, and users of the components that are replaced meanwhile."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

import busclient
from busd.components.cache.client import BusCache
from busd.components.cache.component import EncryptedCache
from busd.components.deletion.component import Deletion
from busd.components.deletion.progress import FINAL, Progress
from busd.components.model import attach, within
from busd.components.telemetry.component import Telemetry
from busproto.errors import Code
from tests.components.deletion_component_world import tree
from tests.soak.actor import SECONDS, Actor
from tests.soak.house import COMPONENTS


class Administrator(Actor):
    """An actor with a connection of the node's own."""

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        async with self.connect() as bus:
            self.bus = bus
            yield


class PolicyReloader(Administrator):
    """Gives and withdraws a right, which ends the subscription that rests on it, and tries a policy that is wrong."""

    pause = 2.0
    RELOAD = "$bus.admin.policy.reload"

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        self._file = self.house.policy / "15-soak.policy"
        async with super().there():
            try:
                yield
            finally:
                self._file.unlink(missing_ok=True)
                await self.call(self.bus, self.RELOAD)

    async def act(self) -> None:
        self._file.write_text("allow subscribe favours.> from guest tenant=acme\n")
        await self.call(self.bus, self.RELOAD)
        async with self.connect(self.house.addresses["acme-1"]) as bus, bus.subscribe("favours.>") as favours:
            self._file.write_text("deny subscribe favours.> from guest\n")
            await self.call(self.bus, self.RELOAD)
            try:
                async with asyncio.timeout(SECONDS):
                    await anext(favours)
            except busclient.Denied:
                self.tally.done["taken"] += 2
            else:
                self.tally.problem("a subscription went on whose right was withdrawn")
        self._file.write_text("alow everything\n")
        try:
            await self.call(self.bus, self.RELOAD)
        except busclient.BusError as error:
            if error.code != Code.POLICY_INVALID:
                raise
            self.tally.done["refused"] += 1
        else:
            self.tally.problem("a policy that is wrong was taken")


class Replacer(Administrator):
    """Replaces one component after another while they are used."""

    pause = 5.0
    number = 0

    async def act(self) -> None:
        component = COMPONENTS[self.number % len(COMPONENTS)]
        self.number += 1
        await self.call(self.bus, "$bus.admin.component.replace", {"component": component}, 2 * SECONDS)
        self.tally.done[component] += 1


class UnitChanger(Administrator):
    """Adds a guest in which an agent attaches, and takes it away under the agent's feet."""

    pause = 1.5

    async def act(self) -> None:
        request = {"name": "passing", "tenant": "acme", "socket": str(self.house.home / "passing"), "any_process": True}
        added = await self.call(self.bus, "$bus.admin.guest.add", request)
        try:
            agent = await self.connect(f"unix://{added['address']}").open()
            subscription = await agent.subscribe("passing.>").open()
            await self.call(agent, "$bus.ping")
        finally:
            removed = await self.call(self.bus, "$bus.admin.guest.remove", {"name": "passing"})
        assert removed["endpoints"] == 1, removed
        try:
            async with asyncio.timeout(SECONDS):
                await anext(subscription)
        except busclient.BusError:
            self.tally.done["units"] += 1
        else:
            self.tally.problem("an endpoint outlived its unit")
        await agent.close()


class Scraper(Actor):
    """Prometheus: scrapes and parses."""

    pause = 2.0

    async def act(self) -> None:
        page = await asyncio.to_thread(self.house.page, "/metrics")
        names = {family.name for family in text_string_to_metric_families(page)}
        assert {"busd_endpoints", "busd_calls", "busd_component_up"} <= names, sorted(names)
        self.tally.done["scrapes"] += 1


class Viewer(Actor):
    """A console that is opened, looked at for a while, and closed."""

    pause = 3.0

    async def act(self) -> None:
        host, port = self.house.http
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SECONDS)
        async with (
            aiohttp.ClientSession(f"http://{host}:{port}", timeout=timeout) as client,
            client.get("/console/events") as stream,
        ):
            assert stream.status == 200, stream.status
            wanted = self.chance.randrange(1, 5)
            async for line in stream.content:
                if line.startswith(b"data:"):
                    self.tally.done["documents"] += 1
                    wanted -= 1
                if not wanted or self.over.is_set():
                    break
        self.tally.done["views"] += 1


class Deleter(Administrator):
    """Has small trees deleted, looks at some first, takes some back; each must be gone, or be all there."""

    pause = 1.0
    files: ClassVar[int] = 20
    directories: ClassVar[int] = 5
    number = 0

    @property
    def entries(self) -> int:
        return self.files * self.directories + self.directories + 1

    async def act(self) -> None:
        self.number += 1
        name = f"tree-{os.getpid()}-{id(self)}-{self.number}"
        place = self.house.scratch / name
        await asyncio.to_thread(tree, place, self.files, self.directories)
        async with attach(Deletion, bus=self.bus, where="bus") as handle:
            deletion = within(handle, SECONDS)
            if self.chance.random() < 0.3:
                job = (await deletion.submit(root="scratch", path=name.encode(), grace_seconds=3600.0)).job
                await self._until(deletion, job, {"grace"})
                assert not place.exists()
                await deletion.undelete(job)
                found = await asyncio.to_thread(lambda: sum(1 for _ in place.rglob("*")) + 1)
                assert found == self.entries, f"{found} of {self.entries} entries came back"
                self.tally.done["had back"] += 1
            if self.chance.random() < 0.3:
                job = (await deletion.submit(root="scratch", path=name.encode(), dry_run=True)).job
                seen = (await self._until(deletion, job, FINAL)).seen + 1  # it looks below
                assert seen == self.entries, f"a dry run saw {seen} of {self.entries} entries"
                self.tally.done["dry runs"] += 1
            job = (await deletion.submit(root="scratch", path=name.encode())).job
            last = await self._until(deletion, job, FINAL)
            assert (last.state, last.failed, last.parked) == ("done", {}, {}), last
            assert not place.exists()
            self.tally.done["trees"] += 1

    async def _until(self, deletion: Any, job: str, states: "frozenset[Any] | set[str]") -> Progress:
        """Its progress when it is at one of ``states``. A watch may end before, with the component's instance."""
        async with asyncio.timeout(2 * SECONDS):
            while True:
                async for progress in deletion.watch(job):
                    if progress.state in states:
                        found: Progress = progress
                        return found


class CacheUser(Actor):
    """Stores more than there is room for, from host and guest; what is found is what was stored under that name."""

    pause = 0.2
    names: ClassVar[int] = 400

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        self._stored: dict[tuple[int, int], bytes] = {}
        async with (
            self.connect() as host,
            self.connect(self.house.addresses["acme-1"]) as acme,
            attach(EncryptedCache, bus=host, where="bus") as near,
            attach(EncryptedCache, bus=acme, where="bus") as far,
        ):
            self._caches = [BusCache(within(worker, SECONDS)) for worker in (near, far)]
            yield

    async def act(self) -> None:
        numbers = self.chance.sample(range(self.names), 5)
        await asyncio.gather(*(self._use(whose, number) for whose in range(len(self._caches)) for number in numbers))

    async def _use(self, whose: int, number: int) -> None:
        key = (whose, number)
        mine = self._caches[whose]
        stored = self._stored.pop(key, None)
        if stored is not None:
            found = await mine.get(f"name-{number}")
            self.tally.done["misses" if found is None else "hits"] += 1
            if found not in (None, stored):
                self.tally.problem("what was found is not what was stored")
        value = self.chance.randbytes(self.chance.choice((10, 1000, 8000)))
        await mine.set(f"name-{number}", value, ttl=self.chance.choice((None, 1.0, 60.0)))
        self._stored[key] = value


class Watcher(Administrator):
    """Reads the machine's figures, and asks for its processes."""

    pause = 3.0

    async def act(self) -> None:
        async with self.bus.subscribe("telemetry.cpu") as figures, asyncio.timeout(SECONDS):
            await anext(figures)
            self.tally.done["figures"] += 1
        async with attach(Telemetry, bus=self.bus, where="bus") as telemetry:
            found = await within(telemetry, SECONDS).processes(limit=3)
            assert len(found.processes) == 3
            self.tally.done["process lists"] += 1
