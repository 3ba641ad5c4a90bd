"""Tenants of the cache component: each has its own values, keys, share and figures, and learns nothing of others."""

import asyncio
import random
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from busclient import BusError, Code, Denied, NoResponders
from busd.components.cache.component import EncryptedCache
from busd.components.model import Component, Context, Manifest, Request, attach, compile_operations, offer, on_behalf
from tests.components.cache_component_world import SECONDS, World, damage, entry_of, lines, put_back, world
from tests.core.peer import OPEN


async def refusal(call: Awaitable[Any]) -> BusError:
    with pytest.raises(BusError) as caught:
        await call
    return caught.value


def test_one_name_of_two_tenants_is_two_values() -> None:
    async def main() -> None:
        async with world(mode="both") as here:
            for tenant, cache in (("acme", here.acme), ("globex", here.globex), ("node", here.node)):
                await cache.set(b"name", value=tenant.encode())
                await cache.put_record(bytes(16), tenant.encode() * 10, 1)
            for tenant, cache in (("acme", here.acme), ("globex", here.globex), ("node", here.node)):
                assert (await cache.get(b"name")).value == tenant.encode()
                assert (await cache.get_record(bytes(16))).record == tenant.encode() * 10
            await here.acme.clear()
            assert await here.globex.delete(b"name")
            assert (await here.node.get(b"name")).value == b"node"
            assert (await here.node.get_record(bytes(16))).found

    asyncio.run(main())


def test_a_tenant_cannot_name_another_one() -> None:
    async def main() -> None:
        async with world() as here:
            await here.globex.set(b"name", value=b"v")
            for verb in ("stats", "rotate", "shred"):
                theirs = await refusal(getattr(here.acme, verb)(tenant="globex"))
                nobodys = await refusal(getattr(here.acme, verb)(tenant="nobodys"))
                assert theirs.code == nobodys.code == Code.CACHE_TENANT_UNKNOWN, verb
                assert theirs.text.replace("globex", "X") == nobodys.text.replace("nobodys", "X")
                assert (await refusal(getattr(here.acme, verb)(tenant="node"))).code == Code.CACHE_TENANT_UNKNOWN
            assert (await here.acme.stats(tenant="acme")).tenant == "acme"
            assert [share.tenant for share in await here.acme.tenants()] == ["acme"]
            assert (await refusal(here.acme.all_stats())).code == Code.DENIED
            assert [each.tenant for each in await here.node.all_stats()] == ["acme", "globex"]
            assert (await here.globex.get(b"name")).value == b"v"

    asyncio.run(main())


def test_the_node_looks_after_all_and_sees_no_value(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(state=str(tmp_path)) as here:
            await here.acme.set(b"name", value=b"v")
            await here.globex.set(b"name", value=b"v")
            assert not (await here.node.get(b"name")).found
            shares = {share.tenant: share.entries for share in await here.node.tenants()}
            assert shares == {"acme": 1, "globex": 1, "node": 0}
            before = (await here.node.stats(tenant="acme")).sealed
            assert before is not None
            assert await here.node.rotate(tenant="acme") == before.epoch + 1
            assert await here.node.shred(tenant="acme")
            assert not (await here.acme.get(b"name")).found
            assert (await here.globex.get(b"name")).value == b"v"
            await here.globex.shred()
        told = [(each["event"], each["by"]["tenant"], each["by"]["unit"]) for each in lines(tmp_path, "acme")]
        assert told == [("rotated", "node", "host"), ("shredded", "node", "host")]
        (own,) = lines(tmp_path, "globex")
        assert (own["by"]["boundary"], own["by"]["tenant"], own["by"]["unit"]) == ("guest", "globex", "vm-2")

    asyncio.run(main())


def test_figures_are_the_tenant_s_own_whatever_others_do() -> None:
    async def main() -> None:
        async with world(usual={"quota": 40_000}) as here:
            await here.acme.set(b"name", value=b"v")
            before = (await here.acme.stats()).sealed
            assert before is not None
            for number in range(200):
                await here.globex.set(b"%d" % number, value=bytes(1000))
                await here.globex.get(b"name")
            await here.globex.rotate()
            await here.globex.shred()
            after = (await here.acme.stats()).sealed
            assert after is not None
            for field in before.__struct_fields__:
                if field != "key_age":
                    assert getattr(after, field) == getattr(before, field), field
            assert (await here.acme.get(b"name")).value == b"v", "nobody's flood evicts another's values"

    asyncio.run(main())


def test_shares_are_set_aside_and_run_out() -> None:
    async def main() -> None:
        shares = [{"name": "acme", "quota": 8192, "value_limit": 10}]
        async with world(tenants=shares, usual="off") as here:
            await here.acme.set(b"name", value=bytes(10))
            assert (await refusal(here.acme.set(b"name", value=bytes(11)))).code == Code.CACHE_VALUE_SIZE
            for cache in (here.globex, here.node):
                for call in (cache.get(b"n"), cache.set(b"n", value=b"v"), cache.stats(), cache.shred(epoch=1)):
                    assert (await refusal(call)).code == Code.CACHE_TENANT_UNKNOWN
        async with world(tenants=shares, usual={"quota": 8192}, bytes_limit=16384) as here:
            await here.globex.set(b"n", value=b"v")
            assert (await refusal(here.node.set(b"n", value=b"v"))).code == Code.CACHE_TENANT_UNKNOWN
            await here.acme.set(b"n", value=b"v")
            assert await here.acme.shred()
            assert (await refusal(here.node.set(b"n", value=b"v"))).code == Code.CACHE_TENANT_UNKNOWN
            await here.acme.set(b"n", value=b"v")
            assert await here.globex.shred()
            await here.node.set(b"n", value=b"v")

    asyncio.run(main())


class Broker(Component):
    """Caches for others."""

    manifest = Manifest(
        component="broker",
        version="1",
        owner="tests",
        purpose="caches for others",
        operations=(Request("keep"), Request("look")),
    )
    cache: EncryptedCache
    mine: EncryptedCache

    async def keep(self, value: bytes) -> None:
        """Keep ``value`` for who asks, and another one for itself."""
        await self.cache.set(b"name", value=value)
        await self.mine.set(b"name", value=b"the broker's")

    async def look(self) -> list[bytes]:
        """What is there of who asks, and what of the broker itself."""
        return [(await self.cache.get(b"name")).value, (await self.mine.get(b"name")).value]


def test_who_acts_for_a_tenant_has_that_tenant_s_cache() -> None:
    async def main() -> None:
        async with world() as here:
            broker = Broker()
            own = await here.bus.connect(component="broker")
            broker.context = Context(Broker, own, clock=own.clock)
            async with (
                attach(EncryptedCache, bus=own, where="bus") as handle,
                offer(own, broker, compile_operations(Broker).values()),
                attach(Broker, bus=here.buses["acme"], where="bus") as asked,
            ):
                broker.cache, broker.mine = on_behalf(handle), handle
                await asked.keep(b"acme's")
                assert await asked.look() == [b"acme's", b"the broker's"]
            assert (await here.acme.get(b"name")).value == b"acme's"
            assert (await here.node.get(b"name")).value == b"the broker's"
            assert not (await here.globex.get(b"name")).found

    asyncio.run(main())


def test_a_record_of_another_tenant_or_name_is_a_miss_and_is_written_down(tmp_path: Path) -> None:
    """Whatever bug or attacker puts it there."""

    async def main() -> None:
        async with world(state=str(tmp_path)) as here:
            for cache in (here.acme, here.globex):
                await cache.set(b"name", value=b"v")
                await cache.set(b"other", value=b"w")
            stolen = entry_of(here.component, "globex", b"name")[1].record
            key = put_back(here.component, "acme", b"name", stolen)
            assert not (await here.acme.get(b"name")).found
            own = entry_of(here.component, "globex", b"other")[1].record
            put_back(here.component, "globex", b"name", own)
            assert (await here.globex.get_many([b"name", b"other"])).values[0].found is False
            damage(here.component, "globex", b"other")
            assert not await here.globex.touch(b"other", ttl=5.0)
        (first,) = lines(tmp_path, "acme")
        assert (first["event"], first["reason"], first["key"], first["tenant"]) == ("unauthentic", "tag", key, "acme")
        assert first["by"]["endpoint"].startswith("guest") or first["by"]["boundary"] == "guest"
        assert [each["reason"] for each in lines(tmp_path, "globex")] == ["tag", "tag"]

    asyncio.run(main())


def test_shredding_and_rotating_under_load_disturb_nobody() -> None:
    async def one(cache: EncryptedCache, tenant: str, seed: int, wrong: list[str]) -> int:
        chosen, done = random.Random(seed), 0
        for number in range(150):
            name = f"key-{chosen.randrange(20)}"
            value = f"{tenant} {name} ".encode() * chosen.randrange(1, 40)
            if chosen.random() < 0.5:
                await cache.set(text=name, value=value)
            else:
                found = await cache.get(text=name)
                if found.found and not found.value.startswith(f"{tenant} {name} ".encode()):
                    wrong.append(f"{tenant} {name}: {found.value[:40]!r}")
            done += 1
            if number % 10 == seed % 10:
                await (cache.rotate() if chosen.random() < 0.8 else cache.shred())
        return done

    async def main() -> None:
        async with world() as here:
            wrong: list[str] = []
            tasks = [one(here.acme, "acme", seed, wrong) for seed in range(8)]
            tasks += [one(here.globex, "globex", seed, wrong) for seed in range(8, 16)]
            assert await asyncio.gather(*tasks) == [150] * 16, "no call failed"
            assert wrong == []
            for tenant in ("acme", "globex"):
                figures = (await here.node.stats(tenant=tenant)).sealed
                assert figures is not None
                assert figures.unauthentic == 0

    asyncio.run(main())


async def storm(here: World, chosen: random.Random, wrong: list[str]) -> int:
    """Calls of two tenants that are cancelled at any moment; how many were."""
    caches = {"acme": here.acme, "globex": here.globex}
    cancelled = 0

    async def call(tenant: str, number: int) -> None:
        cache, name = caches[tenant], f"key-{number % 8}"
        own = f"{tenant} {name}".encode()
        await cache.set(text=name, value=own)
        many = await cache.get_many(texts=[name, f"key-{(number + 1) % 8}"])
        found = await cache.get(text=name)
        for value, expected in ((found, own), (many.values[0], own)):
            if value.found and value.value != expected:
                wrong.append(f"{tenant} asked for {name} and got {value.value!r}")

    for _ in range(40):
        tasks = [asyncio.create_task(call(("acme", "globex")[n % 2], n)) for n in range(30)]
        for _ in range(chosen.randrange(12)):
            await asyncio.sleep(0)
        for task in chosen.sample(tasks, 20):
            cancelled += task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        wrong += [repr(each) for each in outcomes if not isinstance(each, asyncio.CancelledError | None)]
    return cancelled


def test_a_storm_of_cancelled_calls_mixes_nothing_up() -> None:
    """As when a cancelled request's reply was given to the next user of a connection (redis-py, March 2023)."""

    async def main() -> None:
        async with world() as here:
            wrong: list[str] = []
            assert await storm(here, random.Random(1), wrong) > 300
            assert wrong == []
            for tenant in ("acme", "globex"):
                figures = (await here.node.stats(tenant=tenant)).sealed
                assert figures is not None
                assert figures.unauthentic == 0

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_without_an_export_a_tenant_does_not_reach_it() -> None:
    async def main() -> None:
        async with world(policy=OPEN) as here:
            assert isinstance(await refusal(here.acme.get(b"n")), NoResponders)
        denied = "deny call cache.> from guest tenant=acme\nexport service cache.> from node to acme,globex\n"
        async with world(policy=denied + OPEN) as here:
            assert isinstance(await refusal(here.acme.get(b"n")), Denied)
            assert not (await here.globex.get(b"n")).found

    asyncio.run(main())
