"""The cache component as a process of its own: on a real node with real guests, replaced, killed and hardened."""

import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

import busclient
from busclient import Bus, Code
from busd.components.cache.component import EncryptedCache
from busd.components.model import attach, within
from tests.components.supervisor_world import SECONDS, World, run, world
from tests.fault.guests import add_guest
from tests.support import ROOT, START_SECONDS, environment, running_node

POLICY = "export service cache.> from node to acme,globex\n"
TENANTS = ("acme", "globex")


def settings(folder: Path, *more: str) -> Path:
    """The file of the component, with a root key in ``folder``."""
    key = folder / "root.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o400)
    file = folder / "cache.toml"
    file.write_text("\n".join((f'[config]\nstate = "{folder}/state"', *more, f'[config.key]\nfile = "{key}"\n')))
    return file


async def started(here: World) -> None:
    await here.admin("start", "cache")
    await here.ready("cache")


# -- on a real node ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def guests(url: str, folder: Path, connections: int) -> AsyncIterator[dict[str, list[Bus]]]:
    """So many connections of a guest of each tenant, once the cache serves."""
    async with busclient.connect(url, component="operator") as bus, AsyncExitStack() as stack:
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    await bus.call("cache.get", {"text": "ready"})
                    break
                except busclient.NoResponders:
                    await asyncio.sleep(0.05)
        made: dict[str, list[Bus]] = {}
        for tenant in TENANTS:
            address = await add_guest(bus, folder, tenant, f"{tenant}-vm")
            made[tenant] = [
                await stack.enter_async_context(busclient.connect(f"unix://{address}", component=f"app{number}"))
                for number in range(connections)
            ]
        yield made


def test_a_storm_of_cancelled_calls_on_a_real_bus_mixes_nothing_up(tmp_path: Path) -> None:
    """Two tenants, the same names, cancelled at any moment and timed out: everybody only ever sees his own."""
    (folder := tmp_path / "components").mkdir()
    settings(folder)
    shutil.copytree(ROOT / "busd" / "ops" / "policy.d", tmp_path / "policy")
    (tmp_path / "policy" / "60-cache.policy").write_text(POLICY)
    wrong: list[str] = []
    counted = {"calls": 0, "cancelled": 0, "late": 0}

    async def work(cache: EncryptedCache, tenant: str, seed: int) -> None:
        chosen = random.Random(seed)

        async def call(name: str) -> None:
            own = f"{tenant} {name} ".encode() * chosen.randrange(1, 50)
            handle = cache if chosen.random() < 0.9 else within(cache, 0.001)
            await handle.set(text=name, value=own)
            found = await handle.get(text=name)
            if found.found and not found.value.startswith(f"{tenant} {name} ".encode()):
                wrong.append(f"{tenant} asked for {name} and got {found.value[:60]!r}")

        for _ in range(25):
            tasks = [asyncio.create_task(call(f"key-{chosen.randrange(10)}")) for _ in range(8)]
            await asyncio.sleep(chosen.random() * 0.003)
            for task in chosen.sample(tasks, 4):
                counted["cancelled"] += task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                counted["calls"] += 1
                if isinstance(outcome, busclient.CallTimeout):
                    counted["late"] += 1
                elif outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                    wrong.append(repr(outcome))

    async def main(url: str) -> None:
        async with asyncio.timeout(SECONDS), guests(url, tmp_path, 4) as made, AsyncExitStack() as stack:
            works = []
            for tenant, buses in made.items():
                for number, bus in enumerate(buses):
                    cache = await stack.enter_async_context(attach(EncryptedCache, bus=bus, where="bus"))
                    works.append(work(cache, tenant, number))
            await asyncio.gather(*works)
            for buses in made.values():
                figures = (await buses[0].call("cache.stats")).payload["sealed"]
                assert (figures["unauthentic"], figures["keyless"]) == (0, 0)

    flags = ["--components", "cache", "--component-dir", str(folder), "--policy-dir", str(tmp_path / "policy")]
    with running_node(tmp_path / "run", *flags) as node:
        asyncio.run(main(node.url))
    assert wrong == []
    assert counted["cancelled"] > 100, counted


# -- kept running ------------------------------------------------------------------------------------------------------


def test_a_replacement_begins_empty_and_no_call_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            settings(tmp_path)
            await started(here)
            async with attach(EncryptedCache, bus=here.bus, where="bus", timeout=SECONDS) as cache:
                await cache.set(b"before", value=b"v")
                over, hits = False, 0

                async def load(number: int) -> int:
                    nonlocal hits
                    name, calls = f"key-{number}", 0
                    while not over:
                        await cache.set(text=name, value=name.encode())
                        found = await cache.get(text=name)
                        assert not found.found or found.value == name.encode()
                        hits += found.found
                        calls += 2
                    return calls

                loads = [asyncio.create_task(load(number)) for number in range(8)]
                first = (await here.ready("cache"))["pid"]
                await asyncio.sleep(0.2)
                await here.admin("replace", "cache")
                await asyncio.sleep(0.2)
                over = True
                assert min(await asyncio.gather(*loads)) > 0, "calls waited, and none failed"
                assert (await here.ready("cache"))["pid"] != first
                assert hits > 0
                assert not (await cache.get(b"before")).found, "what was sealed there cannot be read here"
            assert here.reports == []

    run(main, monkeypatch)


def test_one_that_is_killed_comes_back_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            settings(tmp_path)
            await started(here)
            async with attach(EncryptedCache, bus=here.bus, where="bus", timeout=SECONDS) as cache:
                await cache.set(b"n", value=b"v")
                first = await here.ready("cache")
                os.kill(first["pid"], signal.SIGKILL)
                await here.until(lambda row: row["state"] == "ready" and row["pid"] != first["pid"], "cache")
                assert not (await cache.get(b"n")).found
                await cache.set(b"n", value=b"w")
                assert (await cache.get(b"n")).value == b"w"

    run(main, monkeypatch)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_its_own_process_is_hardened_and_works_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            settings(tmp_path)
            await started(here)
            row = await here.ready("cache")
            limits = Path(f"/proc/{row['pid']}/limits").read_text()
            (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
            assert core[4:6] == ["0", "0"]
            row = await here.until(lambda row: row["memory_bytes"], "cache")
            assert row["memory_bytes"] > 1 << 20, "it still measures itself"
            assert row["health"]["ok"]
            assert re.fullmatch("root key [0-9a-f]{16}", row["health"]["detail"]), "and nothing of it was refused"

    run(main, monkeypatch)


def test_large_values_go_over_real_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            settings(tmp_path)
            await started(here)
            async with attach(EncryptedCache, bus=here.bus, where="bus", timeout=SECONDS) as cache:
                await cache.get(b"n")  # from then on it has a share
                (share,) = await cache.tenants()
                value = os.urandom(share.value_limit)
                await cache.set(b"large", value=value)
                assert (await cache.get(b"large")).value == value
                with pytest.raises(busclient.ErrorReply) as caught:
                    await cache.set(b"large", value=value + b"x")
                assert caught.value.code == Code.CACHE_VALUE_SIZE
                assert caught.value.fields["limit"] == share.value_limit
                with pytest.raises(busclient.PayloadTooLarge):
                    await cache.set(b"large", value=bytes(16 << 20))

    run(main, monkeypatch)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("", Code.CONFIG_INVALID, "config of component 'cache' in {file}: key: say where the root key is"),
        (
            '[config.key]\nfile = "/no/such"\n',
            Code.CACHE_KEY_MISSING,
            "there is no usable root key in /no/such: No such file or directory",
        ),
        (
            '[config.key]\ngenerate = true\n[[config.tenants]]\nname = "acme"\nquota = 7\n',
            Code.CONFIG_INVALID,
            "config of component 'cache' in {file}: tenants[0].quota: expected int >= 4096",
        ),
    ],
)
def test_a_wrong_configuration_ends_it_with_the_key_and_the_file(
    tmp_path: Path, text: str, code: Code, reason: str
) -> None:
    file = tmp_path / "cache.toml"
    file.write_text(text)
    with running_node(tmp_path / "run") as node:
        done = subprocess.run(
            [sys.executable, "-m", "busd", "component", "run", "cache", "--config", str(file), "--bus", node.url],
            env=environment(STATE_DIRECTORY=str(tmp_path / "state")),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    assert done.returncode == (2 if code == Code.CONFIG_INVALID else 1)
    assert f"BUS-{int(code)}" in done.stderr
    assert reason.format(file=file) in done.stderr
    assert "Traceback" not in done.stderr
