"""The cache as its users meet it: values in, values out, keys that change, records that were tampered with."""

import itertools
import math
import os
import sys
import threading
import time
from typing import Any

import pytest

from busd.components.cache import Cache
from busd.components.cache.entry import ABSENT, Entry
from busd.components.cache.found import Found
from busd.components.cache.keyring import Keyring
from busd.components.cache.record import Failure
from busd.components.cache.rootkey import RootKey, RootKeyWarning
from busd.components.cache.scratch import Scratch
from busd.components.cache.security import SecurityEvent
from busd.components.cache.settings import CacheSettings, TenantSettings
from busd.components.cache.tenant import TenantCache
from busproto.errors import BusError, Code
from tests.components.test_cache_store import Clock
from tests.support import wait_until


def cache_of(clock: Clock | None = None, **share: object) -> Cache:
    usual = TenantSettings(**share)  # type: ignore[arg-type]
    return Cache.generated(CacheSettings(usual=usual), quiet=True, clock=clock)


def tenant_of(clock: Clock | None = None, **share: object) -> TenantCache:
    return cache_of(clock, **share).tenant("acme")


def entry_of(mine: TenantCache, name: str) -> tuple[bytes, Entry]:
    """What lies in the index, as only an attacker in the process sees it."""
    key = mine._keys.blind(name.encode())
    entry = mine._store.find(key, ABSENT)
    assert entry is not ABSENT
    return key, entry


def tamper(mine: TenantCache, name: str, record: bytes, generation: int | None = None) -> None:
    """Put ``record`` in the place of what is there."""
    key, old = entry_of(mine, name)
    new = Entry(record, old.generation if generation is None else generation, old.flags, old.expiry, old.epoch)
    assert mine._store.replace(key, old, new)


def test_three_lines_are_enough() -> None:
    with pytest.warns(RootKeyWarning):
        cache = Cache.generated()
    mine = cache.tenant("acme")
    mine.set("k", b"v", ttl=60)
    assert mine.get("k") == b"v"


def test_what_is_set_is_got_under_text_or_its_utf_8_and_in_each_kind_of_bytes() -> None:
    mine = tenant_of()
    mine.set("größe", b"1")
    assert mine.get("größe".encode()) == b"1"
    for value in (b"", b"x", bytearray(b"abc"), memoryview(b"abcdef")[::2], memoryview(bytes(8)).cast("I")):
        mine.set("k", value)
        assert mine.get("k") == bytes(value)
        assert type(mine.get("k")) is bytes
    assert mine.get("absent") is None
    assert mine.get("absent", 7) == 7
    assert ("k" in mine, "absent" in mine, len(mine), bool(tenant_of())) == (True, False, 2, True)


def test_many_at_once() -> None:
    mine = tenant_of()
    values: dict[str | bytes, bytes] = {"a": b"1", b"b": b"2"}
    mine.set_many(values, ttl=5)
    assert mine.get_many(["a", b"b", "c"]) == {"a": b"1", b"b": b"2"}


def test_add_replace_and_delete_say_whether_they_did() -> None:
    mine = tenant_of()
    assert not mine.replace("k", b"0")
    assert mine.add("k", b"1")
    assert not mine.add("k", b"2")
    assert mine.get("k") == b"1"
    assert mine.replace("k", b"3")
    assert mine.get("k") == b"3"
    assert mine.delete("k")
    assert not mine.delete("k")
    assert mine.clear() == 0


def test_compare_and_set_stores_over_what_was_seen_and_nothing_else() -> None:
    mine = tenant_of()
    mine.set("k", b"1")
    found = mine.get_entry("k")
    assert found is not None
    assert (found.value, found.ttl) == (b"1", math.inf)
    generation = mine.cas("k", b"2", found.generation)
    assert generation > found.generation
    for name, token in (("k", found.generation), ("absent", 0), ("absent", generation)):
        with pytest.raises(BusError) as conflict:
            mine.cas(name, b"3", token)
        assert conflict.value.code == 9106
    assert mine.get("k") == b"2"
    assert mine.touch("k", 60)
    assert mine.cas("k", b"4", generation), "a touch changes when it goes, not what it is"


def test_counting_with_compare_and_set_loses_nothing_among_threads() -> None:
    mine = tenant_of()
    mine.set("n", b"0")

    def count() -> None:
        for _ in range(100):
            while True:
                found = mine.get_entry("n")
                assert found is not None
                try:
                    mine.cas("n", str(int(found.value) + 1).encode(), found.generation)
                    break
                except BusError:
                    continue

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert mine.get("n") == b"400"


def test_times_to_live() -> None:
    clock = Clock()
    mine = tenant_of(clock, ttl=10, ttl_limit=100)
    mine.set("usual", b"")
    mine.set("short", b"", ttl=1)
    mine.set("long", b"", ttl=math.inf)
    clock.now += 1
    assert (mine.get("short"), mine.get("usual")) == (None, b"")
    found = mine.get_entry("usual")
    assert found is not None
    assert found.ttl == 9
    assert mine.touch("usual", 50)
    assert not mine.touch("short", 50)
    clock.now += 49.5
    assert mine.get("usual") == b""
    clock.now += 0.5
    assert mine.get("usual") is None
    clock.now += 49
    assert mine.get("long") is None, "the tenant's limit"
    for ttl in (0, -1, math.nan, -math.inf):
        with pytest.raises(ValueError, match="time to live"):
            mine.set("k", b"", ttl=ttl)
    mine.set("k", b"", ttl=1)
    clock.now += 5
    assert mine.sweep() == 1


def test_what_is_too_large_is_refused_with_the_number_and_changes_nothing() -> None:
    mine = tenant_of(quota=10_000, value_limit=8_000, name_limit=10)
    mine.set("k", b"before")
    for code, name, value in (
        (Code.CACHE_VALUE_SIZE, "k", bytes(8_001)),
        (Code.CACHE_KEY_SIZE, "k" * 11, b""),
        (Code.CACHE_KEY_SIZE, "", b""),
    ):
        with pytest.raises(BusError) as refused:
            mine.set(name, value)
        assert refused.value.code == code
    for bad in ("", "k" * 11, b"", bytes(11)):
        with pytest.raises(BusError):
            mine.get(bad)
    small = tenant_of(quota=4_096)
    small.set("k", b"before")
    with pytest.raises(BusError) as refused:
        small.set("k", bytes(4_096))
    assert refused.value.code == Code.CACHE_ENTRIES
    assert (mine.get("k"), small.get("k")) == (b"before", b"before")
    with pytest.raises(TypeError):
        mine.set("k", "text")  # type: ignore[arg-type]


def test_sixteen_mebibytes_are_a_value_and_one_byte_more_is_not() -> None:
    mine = tenant_of(quota=64 << 20)
    whole = os.urandom(1 << 20) * 16
    mine.set("k", whole)
    assert mine.get("k") == whole
    with pytest.raises(BusError, match=str((16 << 20) + 1)):
        mine.set("k", bytes((16 << 20) + 1))


@pytest.mark.parametrize("padding", ["none", "power-of-two", "padme"])
@pytest.mark.parametrize("keep_names", [False, True])
def test_padding_and_names_are_inside_and_do_not_show(padding: str, keep_names: bool) -> None:
    mine = tenant_of(padding=padding, keep_names=keep_names)
    values = {f"name-{size}": os.urandom(size) for size in (0, 1, 3, 100, 1000, 5000)}
    for name, value in values.items():
        mine.set(name, value)
        assert mine.get(name) == value
        with Scratch() as scratch:
            view = mine.lend(name, scratch)
            assert view is not None
            assert bytes(view) == value
            assert view.readonly
        assert name.encode() not in entry_of(mine, name)[1].record
    if padding == "power-of-two":
        assert {len(entry_of(mine, f"name-{size}")[1].record) for size in (1, 3)} in ({37}, {45})
    if keep_names:
        assert sorted(mine.names()) == sorted(name.encode() for name in values)
    else:
        with pytest.raises(TypeError, match="keep_names"):
            mine.names()


def test_what_is_lent_is_wiped_and_a_miss_lends_nothing() -> None:
    mine = tenant_of()
    mine.set("k", b"secret")
    scratch = Scratch()
    view = mine.lend("k", scratch)
    assert view is not None
    assert bytes(view) == b"secret"
    scratch.release()
    assert scratch.blank
    assert mine.lend("absent", scratch) is None
    record = entry_of(mine, "k")[1].record
    tamper(mine, "k", record[:-1] + bytes([record[-1] ^ 1]))
    assert mine.lend("k", scratch) is None
    assert scratch.blank


@pytest.mark.parametrize("share", [{}, {"padding": "padme", "keep_names": True}])
def test_what_is_lent_is_sealed_anew_after_a_rotation(share: dict[str, Any]) -> None:
    """Else what is only ever lent would be lost with its key, however often it is used."""
    mine, scratch = tenant_of(**share), Scratch()
    mine.set("k", b"secret", ttl=60)
    generation = entry_of(mine, "k")[1].generation
    first = mine.statistics().epoch
    second = mine.rotate()
    for _ in range(2):
        view = mine.lend("k", scratch)
        assert view is not None
        assert bytes(view) == b"secret"
        scratch.release()
    entry = entry_of(mine, "k")[1]
    assert (entry.epoch, entry.generation, mine.statistics().resealed) == (second, generation, 1)
    assert mine.shred_epoch(first)
    assert mine.get("k") == b"secret"


def test_each_way_to_tamper_is_a_miss_that_is_told_and_counted() -> None:
    events: list[SecurityEvent] = []
    cache = Cache.generated(CacheSettings(quarantine_failures=0), quiet=True, on_security=events.append)
    mine, other = cache.tenant("acme"), cache.tenant("umbrella")
    for each in (mine, other):
        each.set("k", b"value of k")
        each.set("l", b"value of l")
    _, original = entry_of(mine, "k")
    first = original.record
    mine.set("k", b"value of k, later")
    later = entry_of(mine, "k")[1].record
    flipped = [
        bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(later))
        for bit in range(len(later) * 8)
    ]
    forged = {
        Failure.TRUNCATED: [b"", later[:28], b"\x01"],
        Failure.TAG: [first, later[:-1], later + b"\0", entry_of(mine, "l")[1].record, entry_of(other, "k")[1].record],
    }
    tried = 0
    for reason, records in [*forged.items(), (None, flipped)]:
        for record in records:
            mine.set("k", b"value of k")
            tamper(mine, "k", record, 3 if reason is None else None)
            assert mine.get("k") is None
            assert mine.get("k", b"default") == b"default", "it was taken out"
            tried += 1
            assert len(events) == tried
            assert events[-1].tenant == "acme"
            if reason is not None:
                assert events[-1].reason == reason
            assert events[-1].count == tried
    assert {event.reason for event in events} == {Failure.TRUNCATED, Failure.TAG, Failure.VERSION, Failure.EPOCH}
    assert mine.statistics().unauthentic == tried
    assert other.get("k") == b"value of k"
    assert other.statistics().unauthentic == 0


def test_generation_flags_and_expiry_cannot_be_changed_in_the_index() -> None:
    events: list[SecurityEvent] = []
    cache = Cache.generated(quiet=True, on_security=events.append)
    mine = cache.tenant("acme")
    for change in ({"generation": 99}, {"flags": 1}, {"expiry": 1e12}):
        mine.set("k", b"v", ttl=60)
        entry = entry_of(mine, "k")[1]
        for field, value in change.items():
            setattr(entry, field, value)
        assert mine.get("k") is None
    assert [event.reason for event in events] == [Failure.TAG] * 3


def test_who_is_told_and_raises_does_not_turn_a_miss_into_an_error(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(event: SecurityEvent) -> None:
        raise ValueError("not now")

    mine = Cache.generated(quiet=True, on_security=refuse).tenant("acme")
    mine.set("k", b"v")
    tamper(mine, "k", bytes(40))
    assert mine.get("k") is None
    assert "not now" in caplog.text


def test_a_rotation_keeps_what_there_is_and_reading_seals_it_anew() -> None:
    events: list[SecurityEvent] = []
    cache = Cache.generated(quiet=True, on_security=events.append)
    mine = cache.tenant("acme")
    mine.set("read", b"1")
    mine.set("unread", b"2")
    generation = entry_of(mine, "read")[1].generation
    first = mine.statistics().epoch
    assert cache.rotate() == 1
    assert mine.get("read") == b"1"
    assert entry_of(mine, "read")[1].epoch == mine.statistics().epoch == first + 1
    assert entry_of(mine, "read")[1].generation == generation
    assert mine.statistics().resealed == 1
    assert cache.shred_epoch("acme", first)
    assert mine.get("read") == b"1"
    assert mine.get("unread") is None
    assert (mine.statistics().keyless, mine.statistics().unauthentic, events) == (1, 0, [])
    assert mine.statistics().key_messages == 1
    mine.rotate()
    assert mine.get_entry("read") == Found(b"1", generation, math.inf)
    assert entry_of(mine, "read")[1].epoch == mine.statistics().epoch == first + 2
    assert mine.statistics().resealed == 2


def test_a_shred_destroys_everything_of_one_tenant_and_its_handles() -> None:
    cache = Cache.generated(quiet=True)
    mine, other = cache.tenant("acme"), cache.tenant("umbrella")
    mine.set("k", b"1")
    other.set("k", b"2")
    assert cache.shred("acme")
    assert not cache.shred("acme")
    for call in (lambda: mine.get("k"), lambda: mine.set("k", b""), lambda: mine.delete("k"), mine.rotate):
        with pytest.raises(BusError) as gone:
            call()
        assert gone.value.code == 9105
    assert len(mine) == 0
    again = cache.tenant("acme")
    assert again is not mine
    assert again.get("k") is None
    again.set("k", b"3")
    assert (again.get("k"), other.get("k")) == (b"3", b"2")


def test_a_shred_by_the_handle_gives_way_to_a_new_one_as_well() -> None:
    cache = Cache.generated(CacheSettings(bytes_limit=64 << 20), quiet=True)
    mine = cache.tenant("acme")
    mine.set("k", b"1")
    mine.shred()
    assert mine.gone
    again = cache.tenant("acme")
    assert (again.gone, again.get("k")) == (False, None)


def test_a_shred_while_others_ask_leaves_nobody_with_a_handle_that_is_gone() -> None:
    cache = Cache.generated(quiet=True)
    end, failed = threading.Event(), []

    def ask() -> None:
        while not end.is_set():
            try:
                cache.tenant("acme").get_or_compute("k", lambda: b"v")
            except BusError as error:
                if error.code != Code.CACHE_KEYS_GONE:
                    failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        cache.shred("acme")
    end.set()
    for thread in threads:
        thread.join(20)
    assert not failed
    assert cache.tenant("acme").get_or_compute("k", lambda: b"v") == b"v"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quota", 4095), ("entries", 0), ("value_limit", (16 << 20) + 1), ("name_limit", 65_536),
        ("policy", "random"), ("padding", "some"), ("ttl", 0), ("ttl_limit", math.nan),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} is"):
        TenantSettings(**{field: value})  # type: ignore[arg-type]


@pytest.mark.alone
def test_a_shred_takes_the_same_time_for_a_million_entries_as_for_one() -> None:
    cache = cache_of(quota=1 << 30)
    for name, entries in (("one", 1), ("many", 1_000_000)):
        mine = cache.tenant(name)
        mine.set("sealed", b"v")
        record = entry_of(mine, "sealed")[1]
        for number in range(entries - 1):  # one record for all: sealing a million of them shows nothing more
            mine._store.put(number.to_bytes(16, "big"), Entry(record.record, record.generation, epoch=record.epoch))
        assert len(mine) == entries
        began = time.perf_counter()
        cache.shred(name)
        assert time.perf_counter() - began < 0.05
        assert len(mine) == 0
        mine.settle()


def test_what_was_there_before_a_shred_is_never_read_after_it() -> None:
    """Threads read, write and rotate all the time. Each handle's values say which handle they were written by."""
    cache, wrong = cache_of(), list[object]()
    handles: dict[TenantCache, int] = {}
    number, done = itertools.count(), threading.Event()

    def work(seed: int) -> None:
        try:
            for turn in itertools.count(seed):
                if done.is_set():
                    return
                mine = cache.tenant("acme")
                own = b"%d" % handles.setdefault(mine, next(number))
                try:
                    value = mine.get(f"k{turn % 5}")
                    if value not in (None, own):
                        wrong.append((value, own))
                    mine.set(f"k{(turn + seed) % 5}", own)
                    if turn % 50 == 0:
                        mine.rotate()
                except BusError as error:
                    if error.code != Code.CACHE_KEYS_GONE:
                        raise
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for before in range(40):
            wait_until(lambda before=before: len(handles) > before)  # type: ignore[misc]
            cache.shred("acme")
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert wrong == []
    assert len(handles) >= 40


def test_tenants_have_the_shares_that_they_are_given() -> None:
    settings = CacheSettings(
        tenants={"large": TenantSettings(quota=1 << 20)}, usual=None, tenants_limit=5, bytes_limit=2 << 20
    )
    cache = Cache.generated(settings, quiet=True)
    assert cache.tenant("large") is cache.tenant("large")
    assert cache.tenant("large").statistics().bytes_limit == 1 << 20
    with pytest.raises(BusError) as unknown:
        cache.tenant("unheard-of")
    assert unknown.value.code == 9107
    crowded = Cache.generated(CacheSettings(tenants_limit=2), quiet=True)
    crowded.tenant("a"), crowded.tenant("b")
    with pytest.raises(BusError):
        crowded.tenant("c")
    crowded.shred("a")
    assert crowded.tenant("c").name == "c"
    promised = Cache.generated(CacheSettings(bytes_limit=100 << 20), quiet=True)
    promised.tenant("a")
    with pytest.raises(BusError):
        promised.tenant("b")
    promised.shred("a")
    promised.tenant("b")


def test_in_blind_mode_records_are_held_as_they_come() -> None:
    clock = Clock()
    cache = Cache(None, CacheSettings(usual=TenantSettings(value_limit=1000)), clock=clock)
    with pytest.raises(BusError) as refused:
        cache.tenant("acme")
    assert refused.value.code == Code.CACHE_KEY_MISSING
    held = cache.opaque("acme")
    key, record = bytes(range(16)), os.urandom(50)
    assert held.put(key, record, 5, flags=7, expiry=1010.0)
    found = held.get(key)
    assert found is not None
    assert (found.record, found.generation, found.flags, found.expiry) == (record, 5, 7, 1010.0)
    assert not held.put(key, os.urandom(50), 4), "an older one does not come back"
    assert not held.put(key, os.urandom(50), 8, expected=4)
    assert held.put(key, os.urandom(50), 8, expiry=1010.0, expected=5)
    assert not held.put(key, os.urandom(50), 9, expected=0)
    for bad in ({"key": b"short"}, {"record": bytes(28)}, {"record": bytes(1072)}):
        with pytest.raises(BusError):
            held.put(**{"key": key, "record": record, "generation": 9, **bad})  # type: ignore[arg-type]
    for wrong in ({"generation": 0}, {"generation": 1 << 64}, {"flags": -1}, {"expiry": math.nan}):
        with pytest.raises(ValueError, match="generation"):
            held.put(**{"key": key, "record": record, "generation": 9, **wrong})  # type: ignore[arg-type]
    clock.now = 1010.0
    assert held.get(key) is None
    assert held.put(key, record, 1, expected=0), "what has expired is nothing"
    assert (held.delete(key), held.clear(), len(held), held.sweep()) == (True, 0, 0, 0)
    assert held.statistics().hits == 1
    assert cache.shred("acme")


def test_a_forked_child_begins_empty_and_works_though_a_lock_was_held() -> None:
    if sys.platform == "win32":
        pytest.skip("there is no fork here")
    cache = Cache.generated(quiet=True)
    mine = cache.tenant("acme")
    mine.set("k", b"parent's")
    reading, writing = os.pipe()
    with mine._store._lock, cache._lock:
        child = os.fork()
        if child == 0:
            try:
                told = [mine.get("k"), mine.set("k", b"child's") > 0, mine.get("k"), cache.tenant("new").get("k")]
                os.write(writing, repr(told).encode())
            finally:
                os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b'[None, True, b"child\'s", None]'
    os.waitpid(child, 0)
    assert mine.get("k") == b"parent's"


def test_a_cache_that_is_closed_gives_nothing() -> None:
    with Cache(Keyring(RootKey.generated(quiet=True))) as cache:
        mine = cache.tenant("acme")
        mine.set("k", b"v")
        assert cache.tenants() == ["acme"]
    with pytest.raises(BusError):
        mine.get("k")
    with pytest.raises(BusError):
        cache.tenant("acme")


def test_figures_say_what_happened() -> None:
    mine = tenant_of()
    assert mine.statistics().hit_ratio == 0
    mine.set("k", b"v")
    mine.get("k"), mine.get("absent"), mine.delete("k")
    figures = mine.statistics()
    assert (figures.hits, figures.misses, figures.sets, figures.deletes, figures.entries) == (1, 1, 1, 1, 0)
    assert figures.hit_ratio == 0.5
    assert (figures.policy, figures.key_messages, figures.bytes) == ("lru", 1, 0)
    assert figures.key_age >= 0
    assert "acme" in repr(mine)
    assert "1 tenants" in repr(cache_of()) or "0 tenants" in repr(cache_of())
