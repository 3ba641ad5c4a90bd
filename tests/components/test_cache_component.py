"""The cache component: what it takes and gives, how it is configured, how well it says that it is."""

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from busclient import BusError, Code, ErrorReply
from busclient.testing import FakeClock
from busd.components.cache import component as component_module
from busd.components.cache.audit import Audit, Ration
from busd.components.cache.component import MANY, EncryptedCache
from busd.components.cache.config import BYTES_LIMIT, ROOM
from busd.components.cache.harden import Hardened
from busd.components.cache.rootkey import RootKey
from busd.components.model import Context, configure, invoke
from busd.components.model.operation import compile_operations
from busd.components.model.testing import Form, both_forms, forms
from busproto.limits import PAYLOAD_BYTES
from tests.components.cache_component_world import SECONDS, alive, config, damage, lines

Play = Callable[[EncryptedCache], Awaitable[None]]


def play(form: Form, test: Play, **changes: Any) -> None:
    """Run ``test`` with a handle of the component."""

    async def main() -> None:
        async with (
            asyncio.timeout(SECONDS),
            both_forms(EncryptedCache, form, clock=FakeClock(), **config(**changes)) as cache,
        ):
            await test(cache)

    asyncio.run(main())


async def code_of(call: Awaitable[Any]) -> int:
    with pytest.raises(ErrorReply) as caught:
        await call
    return caught.value.code


async def ask(cache: EncryptedCache, operation: str, /, **arguments: Any) -> Any:
    """What an operation gives that is called without any bus."""
    return (await invoke(cache, compile_operations(EncryptedCache)[operation], arguments))[1]


# -- operations --------------------------------------------------------------------------------------------------------


@forms
def test_what_is_set_is_got_by_bytes_or_text_of_the_same_name(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        assert not (await cache.get(b"name")).found
        first = await cache.set("Müll".encode(), value=b"\x00\xff")
        found = await cache.get(text="Müll")
        assert (found.found, found.value, found.generation, found.ttl) == (True, b"\x00\xff", first, None)
        assert await cache.set(text="Müll", value=b"") > first
        assert (await cache.get("Müll".encode())).value == b""
        assert (await cache.get("Müll".encode())).found
        assert await cache.delete(text="Müll")
        assert not await cache.delete(text="Müll")
        assert await code_of(cache.get(b"a", text="b")) == Code.REQUEST_INVALID
        assert await code_of(cache.set(value=b"v")) == Code.CACHE_KEY_SIZE

    play(form, test)


@forms
def test_add_replace_cas_and_touch(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        assert not await cache.replace(b"n", value=b"1")
        assert await cache.add(b"n", value=b"1")
        assert not await cache.add(b"n", value=b"2")
        assert await cache.replace(b"n", value=b"2")
        seen = await cache.get(b"n")
        after = await cache.cas(b"n", value=b"3", generation=seen.generation)
        assert after > seen.generation
        assert await code_of(cache.cas(b"n", value=b"4", generation=seen.generation)) == Code.CACHE_CONFLICT
        assert await code_of(cache.cas(b"none", value=b"4", generation=1)) == Code.CACHE_CONFLICT
        assert await cache.touch(b"n", ttl=50)
        found = await cache.get(b"n")
        assert (found.value, found.generation) == (b"3", after)
        assert found.ttl is not None
        assert 40 < found.ttl <= 50
        assert not await cache.touch(b"none", ttl=50)
        assert await cache.clear() == 1
        assert not (await cache.get(b"n")).found

    play(form, test)


@forms
def test_times_to_live_are_the_tenant_s_unless_the_caller_says(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        for ttl, least, most in ((None, 50, 60), (10.0, 5, 10), (1000.0, 90, 100), (math.inf, 90, 100)):
            await cache.set(b"n", value=b"v", ttl=ttl)
            left = (await cache.get(b"n")).ttl
            assert left is not None
            assert least < left <= most
        await cache.set(b"short", value=b"v", ttl=0.02)
        await asyncio.sleep(0.03)
        assert not (await cache.get(b"short")).found
        for wrong in (0.0, -1.0, math.nan):
            assert await code_of(cache.set(b"n", value=b"v", ttl=wrong)) == Code.REQUEST_INVALID

    play(form, test, usual={"ttl": 60.0, "ttl_limit": 100.0})


@forms
def test_many_at_once_come_in_their_order(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        items = [{"name": b"a", "value": b"1"}, {"text": "b", "value": b"2", "ttl": 9.0}]
        generations = await cache.set_many(items)  # type: ignore[arg-type]
        assert sorted(generations) == generations
        many = await cache.get_many([b"b", b"none", b"a"], texts=["a", "b"])
        assert [each.value for each in many.values] == [b"2", b"", b"1", b"1", b"2"]
        assert [each.found for each in many.values] == [True, False, True, True, True]
        assert [each.generation for each in many.values][2:] == [generations[0], *generations]
        assert many.left == 0
        assert await cache.get_many() == type(many)([])
        assert await cache.set_many([]) == []
        both = [{"name": b"a", "text": "b", "value": b""}]
        assert await code_of(cache.set_many(both)) == Code.REQUEST_INVALID  # type: ignore[arg-type]
        assert await code_of(cache.get_many([b"n"] * (MANY + 1))) == Code.REQUEST_INVALID

    play(form, test)


@forms
def test_of_several_values_none_is_stored_if_one_is_too_large(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        for wrong, code in (
            ({"name": b"x", "value": bytes(101)}, Code.CACHE_VALUE_SIZE),
            ({"name": b"x" * 21, "value": b""}, Code.CACHE_KEY_SIZE),
            ({"value": b""}, Code.CACHE_KEY_SIZE),
        ):
            items = [{"name": b"good", "value": bytes(100)}, wrong]
            assert await code_of(cache.set_many(items)) == code  # type: ignore[arg-type]
            assert not (await cache.get(b"good")).found

    play(form, test, usual={"value_limit": 100, "name_limit": 20})


@forms
def test_values_are_up_to_what_a_message_holds_and_larger_ones_are_refused_with_the_number(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        largest = PAYLOAD_BYTES - ROOM
        value = os.urandom(largest)
        await cache.set(b"n", value=value)
        assert (await cache.get(b"n")).value == value
        with pytest.raises(ErrorReply) as caught:
            await cache.set(b"n", value=value + b"x")
        assert caught.value.code == Code.CACHE_VALUE_SIZE
        assert caught.value.fields == {"size": largest + 1, "limit": largest}
        assert (await cache.get(b"n")).value == value, "what was there stays"

        await cache.set(b"small", value=bytes(ROOM))
        many = await cache.get_many([b"small", b"n", b"n", b"small"])
        assert [len(each.value) for each in many.values] == [ROOM], "a message with both would be too large"
        assert many.left == 3
        many = await cache.get_many([b"n", b"small"])
        assert ([len(each.value) for each in many.values], many.left) == ([largest], 1)

    play(form, test)


@forms
def test_a_full_answer_of_many_can_be_sent(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        value = os.urandom(1 << 20)
        for number in range(20):
            await cache.set(b"%d" % number, value=value)
        names = [b"%d" % number for number in range(20)]
        got = []
        while names:
            many = await cache.get_many(names)
            got += [each.value == value for each in many.values]
            names = names[len(many.values) :]
            assert many.left == len(names)
        assert got == [True] * 20

    play(form, test)


@forms
def test_an_entry_larger_than_the_quota_is_refused(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        await cache.set(b"n", value=bytes(100))
        assert await code_of(cache.set(b"m", value=bytes(8192))) == Code.CACHE_ENTRIES
        assert (await cache.get(b"n")).found
        for number in range(100):
            await cache.set(b"%d" % number, value=bytes(100))
        (share,) = await cache.tenants()
        assert share.bytes <= share.quota == 8192
        assert share.entries < 30

    play(form, test, usual={"quota": 8192})


@forms
def test_records_that_were_sealed_elsewhere_are_held_as_they_came(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        key, record, largest = os.urandom(16), os.urandom(100), (1 << 64) - 1
        assert not (await cache.get_record(key)).found
        assert await cache.put_record(key, record, 7, flags=3, expiry=4e9)
        held = await cache.get_record(key)
        assert (held.record, held.generation, held.flags, held.expiry) == (record, 7, 3, 4e9)
        assert not await cache.put_record(key, record, 6)
        assert not await cache.put_record(key, record, 9, expected=6)
        assert await cache.put_record(key, bytes(29), largest, expected=7)
        held = await cache.get_record(key)
        assert (held.record, held.generation, held.flags, held.expiry) == (bytes(29), largest, 0, None)
        assert await cache.delete_record(key)
        assert not await cache.delete_record(key)
        assert await code_of(cache.put_record(b"short", record, 1)) == Code.CACHE_KEY_SIZE
        assert await code_of(cache.put_record(key, bytes(28), 1)) == Code.CACHE_VALUE_SIZE
        for wrong in ({"generation": 0}, {"generation": 1, "flags": -1}, {"generation": 1, "expiry": math.nan}):
            assert await code_of(cache.put_record(key, record, **wrong)) == Code.REQUEST_INVALID
        await cache.put_record(key, record, 1)
        assert await cache.clear() == 1
        await cache.put_record(key, record, 1)
        assert await cache.shred()
        assert not (await cache.get_record(key)).found

    for mode in ("blind", "both"):
        play(form, test, mode=mode, key={} if mode == "blind" else {"generate": True})


@forms
def test_each_mode_refuses_what_the_other_does_and_says_so(form: Form) -> None:
    async def sealed(cache: EncryptedCache) -> None:
        for call in (cache.put_record(bytes(16), bytes(29), 1), cache.get_record(bytes(16))):
            with pytest.raises(ErrorReply) as caught:
                await call
            assert caught.value.code == Code.REQUEST_INVALID
            assert "its mode is sealed" in caught.value.text

    async def blind(cache: EncryptedCache) -> None:
        for call in (cache.get(b"n"), cache.set(b"n", value=b"v"), cache.rotate(), cache.shred(epoch=1)):
            with pytest.raises(ErrorReply) as caught:
                await call
            assert caught.value.code == Code.CACHE_KEY_MISSING
            assert "blind mode" in caught.value.text
        assert (await cache.stats()).sealed is None

    play(form, sealed)
    play(form, blind, mode="blind", key={})


@forms
def test_keys_are_rotated_and_shredded(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        await cache.set(b"old", value=b"1")
        first = (await cache.stats()).sealed
        assert first is not None
        assert await cache.rotate() == first.epoch + 1
        await cache.set(b"new", value=b"2")
        assert (await cache.get(b"old")).value == b"1"
        figures = (await cache.stats()).sealed
        assert figures is not None
        assert figures.resealed == 1
        assert await cache.shred(epoch=first.epoch + 1)
        assert not await cache.shred(epoch=first.epoch + 1)
        assert not await cache.shred(epoch=-1)
        assert not (await cache.get(b"old")).found
        assert not (await cache.get(b"new")).found
        await cache.set(b"new", value=b"3")
        assert await cache.shred()
        assert not (await cache.get(b"new")).found
        await cache.set(b"new", value=b"4")
        assert (await cache.get(b"new")).value == b"4"

    play(form, test)


@forms
def test_figures_and_shares(form: Form) -> None:
    async def test(cache: EncryptedCache) -> None:
        await cache.set(b"n", value=b"v")
        for name in (b"n", b"n", b"n", b"none"):
            await cache.get(name)
        figures = await cache.stats()
        assert (figures.tenant, figures.hit_ratio, figures.blind) == ("node", 0.75, None)
        assert figures.sealed is not None
        assert (figures.sealed.hits, figures.sealed.misses, figures.sealed.sets) == (3, 1, 1)
        shares = {share.tenant: share for share in await cache.tenants()}
        assert list(shares) == ["acme", "node"], "a share that is named is there from the start"
        assert (shares["acme"].quota, shares["acme"].policy, shares["acme"].entries) == (8192, "sieve", 0)
        assert (shares["node"].entries, shares["node"].bytes) == (1, figures.sealed.bytes)
        assert (await cache.stats(tenant="acme")).sealed is not None
        assert await code_of(cache.stats(tenant="nobody")) == Code.CACHE_TENANT_UNKNOWN
        assert [each.tenant for each in await cache.all_stats()] == ["acme", "node"]
        (largest,) = await cache.all_stats(limit=1)
        assert (largest.tenant, largest.hit_ratio) == ("node", 0.75)

    play(form, test, tenants=[{"name": "acme", "quota": 8192, "policy": "sieve"}])


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_record_that_is_not_authentic_is_a_miss_and_is_written_down(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        async with alive(config(state=str(tmp_path)), clock=clock) as cache:
            await ask(cache, "set", name=b"n", value=b"v")
            key = damage(cache, "node", b"n")
            assert not (await ask(cache, "get", name=b"n")).found
            figures = (await ask(cache, "stats")).sealed
            assert (figures.unauthentic, figures.misses) == (1, 1)
            assert cache.health().ok
            assert "1 records failed authentication" in cache.health().detail
            await ask(cache, "rotate")
            await ask(cache, "shred")
        failed, rotated, shredded = lines(tmp_path, "node")
        by = {"boundary": "host", "tenant": "node", "unit": "host", "endpoint": "local"}
        assert failed.pop("at") > 1e9
        assert failed.pop("generation") > 0
        assert failed == {
            "event": "unauthentic",
            "tenant": "node",
            "reason": "tag",
            "key": key,
            "count": 1,
            "by": by,
        }
        assert (rotated["event"], rotated["epoch"], rotated["by"]) == ("rotated", 2, by)
        assert (shredded["event"], shredded["epoch"], shredded["by"]) == ("shredded", -1, by)
        assert cache.statistics().recorded == 3

    asyncio.run(main())


def test_what_can_be_caused_a_million_times_is_written_a_few_times_with_its_number(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        async with alive(config(state=str(tmp_path), quarantine_failures=0), clock=clock) as cache:
            cache._audit._ration = Ration(burst=5, every=60.0)
            for number in range(500):
                await ask(cache, "set", name=b"n", value=b"v")
                damage(cache, "node", b"n")
                assert not (await ask(cache, "get", name=b"n")).found, number
            assert (await ask(cache, "stats")).sealed.unauthentic == 500, "each is counted"
            assert cache.statistics().left_out == 495
            for _ in range(62):
                await clock.advance(1.0)
        told = lines(tmp_path, "node")
        assert [each.get("count") for each in told] == [1, 2, 3, 4, 5, None]
        assert told[-1]["left_out"] == 495

    asyncio.run(main())


def test_the_ration_is_each_tenant_s_and_each_event_s() -> None:
    ration = Ration(burst=2, every=10.0)
    assert [ration.take("a", "unauthentic", 0.0) for _ in range(5)] == [0, 0, None, None, None]
    assert ration.take("b", "unauthentic", 0.0) == 0
    assert ration.take("a", "shredded", 0.0) == 0
    assert ration.due(9.0) == []
    assert ration.take("a", "unauthentic", 10.0) == 3
    assert ration.take("a", "unauthentic", 10.0) is None
    assert ration.due(20.0) == [("a", "unauthentic", 1)]
    assert ration.left_out == 4
    assert ration.due(1000.0) == []
    assert not ration._kinds, "what was long ago takes no memory"


def test_an_audit_that_cannot_be_written_is_not_well_and_the_cache_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "state").write_text("a file")
        async with alive(config(state=str(tmp_path / "state"))) as cache:
            await ask(cache, "set", name=b"n", value=b"v")
            damage(cache, "node", b"n")
            assert not (await ask(cache, "get", name=b"n")).found
            async with asyncio.timeout(SECONDS):
                while cache.health().ok:
                    await asyncio.sleep(0.01)
            assert "the audit cannot be written: " in cache.health().detail
            await ask(cache, "set", name=b"n", value=b"v")
            assert (await ask(cache, "get", name=b"n")).found

    asyncio.run(main())


def test_a_dead_disk_takes_no_more_memory_than_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busd.components.cache.audit.WAITING", 3)
    monkeypatch.setattr("busd.components.cache.audit.CLOSE_SECONDS", 0.01)
    audit = Audit(tmp_path, ration=Ration(burst=100))
    assert audit._log is not None
    alive_again, begun = threading.Event(), threading.Event()

    def dead(tenant: str, line: bytes) -> None:
        begun.set()
        alive_again.wait(SECONDS)

    monkeypatch.setattr(audit._log, "write", dead)
    audit.note("shredded", "acme", 0.0)
    assert begun.wait(SECONDS)
    for _ in range(10):
        audit.note("shredded", "acme", 0.0)
    assert audit.lost == 7
    audit.close()
    alive_again.set()
    assert audit._thread is not None
    audit._queue.put(None, timeout=SECONDS)
    audit._thread.join(SECONDS)
    assert (audit.written, audit.lost) == (4, 7)


def test_what_has_expired_is_freed_though_nobody_asks() -> None:
    async def main() -> None:
        clock = FakeClock()
        async with alive(config(mode="both"), clock=clock) as cache:
            for number in range(10):
                await ask(cache, "set", name=b"%d" % number, value=b"v", ttl=0.01)
            soon = time.time() + 0.5
            await ask(cache, "put_record", key=bytes(16), record=bytes(29), generation=1, expiry=soon)
            assert cache.statistics().entries == 11
            async with asyncio.timeout(SECONDS):
                while cache.statistics().entries:  # a sixteenth of a second is as fine as it looks
                    await clock.advance(1.0)
                    await asyncio.sleep(0.01)
            assert cache.statistics().expired == 11

    asyncio.run(main())


# -- configuration -----------------------------------------------------------------------------------------------------

GENERATE = {"generate": True}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": {}}, "key: say where the root key is: one of file, credential, environment, or generate"),
        ({"key": {"file": "/a", "generate": True}}, "key.generate: there is key.file already"),
        ({"key": {"file": "here"}}, "key.file: it must be absolute"),
        ({"key": {"generate": True, "check": "0" * 16}}, "key.check: a key that is generated"),
        ({"key": {"file": "/a", "check": "xyz"}}, "key.check: expected str matching regex"),
        ({"key": {"path": "/a"}}, "key.path: there is no such field"),
        ({"mode": "blind"}, "key.generate: in blind mode the clients hold the keys"),
        ({"mode": "open"}, "mode: invalid enum value 'open'"),
        ({"algorithm": "rot13"}, "algorithm: invalid enum value 'rot13'"),
        ({"rotate_seconds": 0}, "rotate_seconds: expected float > 0"),
        ({"rotate_messages": 1 << 33}, "rotate_messages: expected int <= 4294967296"),
        ({"keep_epochs": 0}, "keep_epochs: expected int >= 1"),
        ({"tenants": [{"quota": 8192}]}, "tenants[0].name: missing"),
        ({"tenants": [{"name": "A"}]}, "tenants[0].name: it may hold only a-z"),
        ({"tenants": [{"name": "a"}, {"name": "a"}]}, "tenants[1].name: 'a' is that of tenants[0]"),
        ({"tenants": [{"name": "a", "quota": 1}]}, "tenants[0].quota: expected int >= 4096"),
        ({"tenants": [{"name": "a", "policy": "mru"}]}, "tenants[0].policy: invalid enum value 'mru'"),
        ({"tenants": [{"name": "a", "padding": "much"}]}, "tenants[0].padding: invalid enum value 'much'"),
        ({"tenants": [{"name": "a", "ttl": 0}]}, "tenants[0].ttl: expected float > 0"),
        (
            {"tenants": [{"name": "a"}, {"name": "b"}], "bytes_limit": 100 << 20},
            f"tenants[1].quota: with it {128 << 20} bytes are given away; bytes_limit is {100 << 20}",
        ),
        (
            {"tenants": [{"name": "a"}], "bytes_limit": 100 << 20, "mode": "both"},
            f"tenants[0].quota: with it {128 << 20} bytes",
        ),
        ({"tenants": [{"name": "a"}, {"name": "b"}], "tenants_limit": 1}, "tenants: they have 2 shares; tenants_limit"),
        ({"usual": "none"}, "usual: invalid enum value 'none'"),
        ({"usual": {"quota": 1 << 20}, "bytes_limit": 4096}, "usual.quota: it is 1048576; bytes_limit is 4096"),
        ({"bytes_limit": 1}, "bytes_limit: expected int >= 4096"),
        ({"harden": False, "lock_memory": True}, "lock_memory: it is a part of harden"),
        ({"state": "here"}, "state: it must be an absolute path"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BusError) as caught:
        configure(EncryptedCache, {"key": GENERATE, **changes})
    assert caught.value.code == Code.CONFIG_INVALID
    assert caught.value.text.startswith(f"config of component 'cache': {reason}")


def test_the_root_key_comes_from_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = os.urandom(32)
    (tmp_path / "key").write_bytes(secret)
    (tmp_path / "key").chmod(0o400)
    check = RootKey.from_file(tmp_path / "key").check
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("CACHE_KEY", secret.hex())

    async def blinded(**key: Any) -> bytes:
        async with alive(config(key=key)) as cache:
            assert cache.health().detail == f"root key {check}"
            return cache._opened().tenant("node")._keys.blind(b"name")

    names = {
        asyncio.run(blinded(file=str(tmp_path / "key"))),
        asyncio.run(blinded(credential="key")),
        asyncio.run(blinded(environment="CACHE_KEY")),
    }
    assert len(names) == 1, "the same key blinds to the same name"
    assert "CACHE_KEY" not in os.environ


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ({"file": "/no/such/key"}, "/no/such/key: No such file or directory"),
        ({"credential": "key"}, "credential key: CREDENTIALS_DIRECTORY is not set"),
        ({"environment": "NO_SUCH_KEY"}, "environment variable NO_SUCH_KEY: it is not set"),
    ],
)
def test_without_a_usable_root_key_it_does_not_start(
    key: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    async def main() -> None:
        async with alive(config(key=key)):
            pass

    with pytest.raises(BusError) as caught:
        asyncio.run(main())
    assert caught.value.code == Code.CACHE_KEY_MISSING
    assert caught.value.text == f"there is no usable root key in {reason}"


def test_the_wrong_root_key_is_noticed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)

    async def main() -> None:
        async with alive(config(key={"file": str(tmp_path / "key"), "check": "0123456789abcdef"})):
            pass

    with pytest.raises(BusError, match="its check value is"):
        asyncio.run(main())


def test_a_generated_key_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with alive(config()) as cache:
            assert "the root key was generated: for development only" in cache.health().detail

    asyncio.run(main())
    assert "generated for this process alone" in caplog.text


def test_a_process_is_hardened_if_it_is_the_component_s_own_or_if_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[bool] = []

    def hardened(*, lock_all: bool) -> Hardened:
        done.append(lock_all)
        return Hardened(True, True, False, ("locked: the limit is 7 bytes",) if lock_all else ())

    monkeypatch.setattr(component_module, "harden", hardened)

    async def start(own_process: bool, **settings: Any) -> list[bool]:
        done.clear()
        async with alive(config(**settings), own_process=own_process) as cache:
            detail = cache.health().detail
        assert ("not hardened as it could be: locked: " in detail) == (done == [True])
        return list(done)

    assert asyncio.run(start(False)) == [], "an application's process is not changed unasked"
    assert asyncio.run(start(True)) == [False]
    assert asyncio.run(start(False, harden=True)) == [False]
    assert asyncio.run(start(True, harden=False)) == []
    assert asyncio.run(start(True, lock_memory=True)) == [True]
    assert "the limit is 7 bytes" in caplog.text


@forms
def test_called_in_process_it_hardens_nothing(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component_module, "harden", lambda **_: pytest.fail("nobody asked for it"))

    async def test(cache: EncryptedCache) -> None:
        await cache.set(b"n", value=b"v")

    play(form, test)


def test_values_fit_the_messages_of_a_bus_that_takes_only_small_ones() -> None:
    class SmallBus:
        welcome = {"max_payload": 4096}

    async def main() -> None:
        async with alive(config(), SmallBus()) as cache:  # type: ignore[arg-type]
            await ask(cache, "set", name=b"n", value=bytes(4096 - ROOM))
            with pytest.raises(BusError) as caught:
                await ask(cache, "set", name=b"n", value=bytes(4097 - ROOM))
            assert caught.value.fields["limit"] == 4096 - ROOM
            operation = compile_operations(EncryptedCache)["get"]
            data, _ = await invoke(cache, operation, {"name": b"n"})
            assert len(data) <= 4096

    asyncio.run(main())


def test_nothing_is_left_when_it_is_stopped_and_it_can_be_stopped_before_it_has_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        cache = configure(EncryptedCache, config())
        cache.context = Context(EncryptedCache)
        await cache.start()
        values = cache._opened().tenant("node")
        values.set("n", b"v")
        await cache.stop()
        assert values.gone
        assert cache.statistics().tenants == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with caplog.at_level(logging.INFO):
        asyncio.run(main())


def test_the_budget_holds_what_may_be_given_away() -> None:
    assert EncryptedCache.manifest.state is None, "what it holds cannot be read without its process"
    assert EncryptedCache.manifest.budget.memory_bytes == 3 * BYTES_LIMIT // 2
