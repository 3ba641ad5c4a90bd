"""What the page of the cache component says is so."""

import asyncio
import inspect
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import busclient.testing
from buscli.parser import Line, parse
from buscli.table import load
from busd.components.cache import audit, keyring, quarantine
from busd.components.cache.answers import Found, Many, Record
from busd.components.cache.component import MANY, EncryptedCache
from busd.components.cache.config import BYTES_LIMIT, ROOM, KeyConfig
from busd.components.cache.datakey import ALGORITHMS, MAX_BYTES, MAX_MESSAGES
from busd.components.cache.lru import LRU
from busd.components.cache.padding import PADDINGS
from busd.components.cache.policy import POLICIES
from busd.components.cache.record import OVERHEAD
from busd.components.cache.s3fifo import S3FIFO
from busd.components.cache.settings import TenantSettings
from busd.components.cache.sieve import Sieve
from busd.components.cache.store import EXPIRING
from busd.components.model import compile_operations, configure, offer
from busd.components.runner.config import read_config
from busd.components.supervisor.settings import read_settings
from busd.core.policy import parse as policy_of
from busd.core.rules import PolicyFile
from busproto.limits import PAYLOAD_BYTES
from tests.components.cache_component_world import SECONDS, alive, config
from tests.pages import blocks, page, rows

PAGE = page("busd/components/cache/README.md")
TEXT = " ".join(PAGE.split())
"""The page without its line breaks."""


def test_the_configuration_it_shows_is_taken(tmp_path: Path) -> None:
    trial, shown = blocks(PAGE, "toml")
    for text in (trial, shown):
        (tmp_path / "cache.toml").write_text(text)
        settings = read_settings("cache", tmp_path)
        assert settings.config == read_config(tmp_path / "cache.toml")
        configure(EncryptedCache, settings.config)
    assert tomllib.loads(trial) == {"config": {"key": {"generate": True}}}
    table = tomllib.loads(shown)["config"]
    defaults = {name: each.default for name, each in inspect.signature(EncryptedCache).parameters.items()}
    for name, value in table.items():
        if name not in ("key", "tenants", "usual"):
            assert value == defaults[name], f"{name} is shown with its default"
    usual = TenantSettings()
    for name, value in table["usual"].items():
        assert value == getattr(usual, name), f"usual.{name} is shown with its default"
    named = set(re.findall(r"^(\w+) =", shown, re.MULTILINE)) | set(re.findall(r"`([a-z_]+)`", PAGE)) | {"ttl_limit"}
    assert set(defaults) <= named | {"key", "tenants", "usual"}, "each setting is named"
    assert {f"key.{name}" for name in KeyConfig.__struct_fields__} - set(re.findall(r"`(key\.\w+)`", PAGE)) == {
        "key.check"
    }
    for choices in (ALGORITHMS, POLICIES, PADDINGS):
        for choice in choices:
            assert choice in shown


def test_the_operations_and_fields_it_lists_are_there() -> None:
    assert {row[0].strip("`") for row in rows(PAGE, "subject")} == set(EncryptedCache.manifest.serves)
    answers: dict[str, type[msgspec.Struct]] = {"get": Found, "get_many": Many, "get_record": Record}
    for subject, takes, gives in rows(PAGE, "subject"):
        name = subject.strip("`").removeprefix("cache.")
        parameters = set(inspect.signature(getattr(EncryptedCache, name)).parameters) - {"self"}
        named = set(re.findall(r"`(\w+)`", takes)) - {"set"}
        if "as `set`" in takes:
            named |= {"name", "text", "value", "ttl"}
        assert named == parameters, name
        if name in answers:
            assert [each for each in re.findall(r"`(\w+)`", gives) if each != "get"] == list(
                answers[name].__struct_fields__
            )


def test_the_numbers_it_says_are_those_of_the_code() -> None:
    assert f"{OVERHEAD} bytes longer than its value" in TEXT
    assert (keyring.ROTATE_SECONDS, MAX_MESSAGES, MAX_BYTES) == (86_400, 1 << 32, 1 << 36)
    assert "after a day, 2^32 values, 2^36 bytes" in TEXT
    assert PAYLOAD_BYTES - ROOM == (16 << 20) - 512
    assert "16 MiB less 512 bytes" in TEXT
    assert f"At most {MANY} names or items" in TEXT
    assert (audit.BURST, audit.EVERY, audit.KEEP, audit.FILE_BYTES) == (20, 60, 2, 256 << 10)
    assert "20 lines are written at once and then one a minute" in TEXT
    assert "two files of 256 KiB" in TEXT
    assert (quarantine.FAILURES, quarantine.SECONDS) == (16, 60)
    assert "The 16th within 60 seconds" in TEXT
    assert EncryptedCache.manifest.budget.memory_bytes == 1.5 * BYTES_LIMIT == 1.5 * (1 << 30)
    assert "The budget is 1.5 GiB" in TEXT
    costs = f"{LRU.OVERHEAD} bytes more (lru; {Sieve.OVERHEAD} sieve, {S3FIFO.OVERHEAD} s3fifo), {EXPIRING} more"
    assert costs in TEXT
    assert keyring.LOOK_SECONDS == 1.0, "within one second"


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("program", ["main", "blind"])
def test_the_programs_it_shows_run(program: str, attached: bool, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(blocks(PAGE, "python")[0 if program == "main" else 4], names)
    settings = config(mode="blind", key={}) if program == "blind" else config()
    key = [os.urandom(32)] if program == "blind" else []

    async def main() -> None:
        async with asyncio.timeout(SECONDS):
            if not attached:
                await names[program](*key, config=settings)
                return
            async with (
                busclient.testing.bus(component="cache") as bus,
                alive(settings, bus, clock=bus.clock) as cache,
                offer(bus, cache, compile_operations(EncryptedCache).values()),
            ):
                await names[program](*key, bus=await bus.connect(component="program"))

    asyncio.run(main())
    assert capsys.readouterr().out == "b'value'\n"


def test_the_library_it_shows_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks(PAGE, "python")[1], {})
    assert capsys.readouterr().out == "b'value' b'made once'\n"
    exec(blocks(PAGE, "python")[2], {})
    assert capsys.readouterr().out == "b'from far away'\n"
    exec(blocks(PAGE, "python")[3], {})
    assert capsys.readouterr().out == "welcome False welcome 0\n"


def test_the_commands_it_shows_are_there() -> None:
    typed = re.findall(r"`(bus [^`]+)`", PAGE)
    assert typed
    for text in typed:
        line = Line(text.split()[1:])
        parse(load(line.command), line)


def test_the_policy_it_shows_is_one() -> None:
    (shown,) = [block for block in blocks(PAGE) if block.startswith("export ")]
    policy = policy_of([PolicyFile("60-cache.policy", shown)], self_uid=0, source="test")
    assert not policy.errors


def test_the_threat_model_names_each_attacker_and_what_remains() -> None:
    table = rows(PAGE, "who attacks")
    assert len(table) >= 9
    assert all(len(row) == 4 and all(row) for row in table)
    root = next(row for row in table if "root, the hypervisor" in row[0])
    assert root[2].startswith("nothing"), "said plainly"
