"""Blind mode: what clients seal only clients read, and what a worker does to it is a miss and is told."""

import asyncio
import math
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busd.components.cache import Cache, CacheSettings, RootKey, TenantSettings
from busd.components.cache.blind import BlindBusClient, BlindClient, BlindOptions
from busd.components.cache.component import EncryptedCache
from busd.components.cache.datakey import ALGORITHMS, HEADER_SIZE
from busd.components.cache.entry import Entry
from busd.components.cache.opaque import OpaqueCache
from busd.components.cache.padding import PADDINGS
from busd.components.cache.record import OVERHEAD, Failure
from busd.components.cache.security import SecurityEvent
from busd.components.model.testing import Form, both_forms, forms
from busproto.errors import BusError, Code

KEY = bytes(range(32))
T0 = 1_800_000_000.0


class Clock:
    """Seconds since 1970, as a test says."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


class World:
    """One worker, honest unless a test makes it lie, and as many clients of a tenant as a test makes."""

    def __init__(self, settings: TenantSettings | None = None) -> None:
        self.clock = Clock()
        self.store = Cache(None, CacheSettings(usual=settings or TenantSettings()), clock=self.clock).opaque("acme")
        self.events: list[SecurityEvent] = []

    def client(self, *, key: bytes = KEY, tenant: str = "acme", **options: Any) -> BlindClient:
        chosen: BlindOptions = {"clock": self.clock, "on_security": self.events.append}
        chosen.update(options)  # type: ignore[typeddict-item]
        return BlindClient(key, self.store, tenant=tenant, **chosen)

    def held(self, client: BlindClient, name: str) -> tuple[bytes, Entry]:
        """What lies at the worker under ``name``."""
        key = client.keyring.tenant("acme").blind(name.encode())
        entry = self.store.get(key)
        assert entry is not None
        return key, entry

    def put_back(self, key: bytes, entry: Entry, **changed: Any) -> None:
        """Have the worker give ``entry`` again, changed or not, whatever came later."""
        self.store.delete(key)
        had = {"record": entry.record, "generation": entry.generation, "flags": entry.flags, "expiry": entry.expiry}
        assert self.store.put(key, **{**had, **changed})

    def reasons(self) -> list[Failure]:
        return [event.reason for event in self.events]


@pytest.fixture
def world() -> World:
    return World()


def test_what_one_client_writes_every_client_of_the_tenant_reads_and_the_worker_does_not(world: World) -> None:
    one, other = world.client(), world.client()
    value = os.urandom(100)
    generation = one.set("name", value, ttl=60)
    assert one.get("name") == other.get(b"name") == value
    found = other.get_entry("name")
    assert found is not None
    assert (found.value, found.generation, found.ttl) == (value, generation, 60.0)
    key, entry = world.held(one, "name")
    assert len(entry.record) == len(value) + OVERHEAD + HEADER_SIZE
    assert value[:16] not in entry.record
    assert b"name" not in key
    assert other.get("absent") is None
    assert other.get("absent", 7) == 7
    assert (other.statistics().hits, other.statistics().misses, one.statistics().sets) == (2, 2, 1)
    assert not world.events


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_every_algorithm_and_padding_is_read_by_a_client_that_uses_another(
    world: World, algorithm: str, padding: str
) -> None:
    writer, reader = world.client(algorithm=algorithm, padding=padding), world.client()
    for size in (0, 1, 1000, 70_000):
        value = os.urandom(size)
        writer.set("name", memoryview(value))
        assert reader.get("name") == value
    if padding == "power-of-two":
        sizes = set()
        for size in (600, 900):
            writer.set("name", bytes(size))
            sizes.add(len(world.held(writer, "name")[1].record))
        assert len(sizes) == 1


def test_all_operations(world: World) -> None:
    one, other = world.client(), world.client()
    assert one.add("k", b"1")
    assert not other.add("k", b"2")
    found = other.get_entry("k")
    assert found is not None
    assert found.ttl == math.inf
    later = other.cas("k", b"3", found.generation)
    assert later > found.generation
    for stale in (found.generation, later + 1, 0, (1 << 64) - 1):
        with pytest.raises(BusError) as refused:
            one.cas("k", b"4", stale)
        assert refused.value.code == Code.CACHE_CONFLICT
    assert one.get_many(["k", "none"]) == {"k": b"3"}
    one.set_many({"k": b"5", "l": b"6"}, ttl=10)
    assert other.get_many(["k", "l"]) == {"k": b"5", "l": b"6"}
    assert other.delete("k")
    assert not other.delete("k")
    assert one.get("k") is None
    world.clock.now += 10
    assert one.get("l") is None
    assert world.events == []


def test_what_cannot_be_is_refused_with_the_number(world: World) -> None:
    client = world.client(value_limit=100)
    for name in ("", b"", "x" * 65_536):
        with pytest.raises(BusError) as refused:
            client.get(name)
        assert refused.value.code == Code.CACHE_KEY_SIZE
    with pytest.raises(BusError) as refused:
        client.set("k", bytes(101))
    assert (refused.value.code, refused.value.fields) == (Code.CACHE_VALUE_SIZE, {"size": 101, "limit": 100})
    for ttl in (0, -1, math.nan):
        with pytest.raises(ValueError, match="time to live"):
            client.set("k", b"v", ttl=ttl)
    for options in ({"remember": 0}, {"value_limit": 0}, {"algorithm": "rot13"}, {"padding": "some"}):
        with pytest.raises(ValueError):
            world.client(**options)
    for key in (b"short", bytes(33), bytes(32)):
        with pytest.raises(BusError) as refused:
            world.client(key=key)
        assert refused.value.code == Code.CACHE_KEY_MISSING
    with pytest.raises(BusError) as refused:
        world.client(tenant="")
    assert refused.value.code == Code.CACHE_TENANT_UNKNOWN
    with client:
        client.set("k", b"v")
    for work in (lambda: client.get("k"), lambda: client.set("k", b"v"), lambda: client.delete("k")):
        with pytest.raises(BusError) as refused:
            work()
        assert refused.value.code == Code.CACHE_KEYS_GONE


def test_the_largest_value_fits_with_the_header_before_it() -> None:
    world = World(TenantSettings(value_limit=1000))
    client = world.client()
    client.set("k", bytes(1000))
    assert client.get("k") == bytes(1000)
    with pytest.raises(BusError) as refused:
        client.set("k", bytes(1001))
    assert refused.value.code == Code.CACHE_VALUE_SIZE


def test_another_key_or_tenant_opens_nothing(world: World) -> None:
    mine = world.client()
    mine.set("k", b"v")
    _, entry = world.held(mine, "k")
    for client in (world.client(key=os.urandom(32)), world.client(tenant="other")):
        assert client.get("k") is None, "it has another blinded name"
        theirs = client.keyring.tenant(client.tenant).blind(b"k")
        world.put_back(theirs, entry)
        assert client.get("k") is None
        assert world.events[-1].reason == Failure.EPOCH, "its header is none of theirs"
        assert client.statistics().unauthentic == 1
    root = RootKey.generated(quiet=True)
    with BlindClient(root, world.store, tenant="acme") as own:
        own.set("k", b"w")
        assert own.get("k") == b"w"
    with pytest.raises(BusError):
        root.derive("x")


def flip(place: int) -> Callable[[Entry], dict[str, Any]]:
    """Flip a bit of the byte at ``place``."""

    def change(entry: Entry) -> dict[str, Any]:
        record = bytearray(entry.record)
        record[place] ^= 1
        return {"record": bytes(record)}

    return change


LIES: dict[str, Callable[[Entry], dict[str, Any]]] = {
    **{f"byte {place}": flip(place) for place in range(HEADER_SIZE, HEADER_SIZE + OVERHEAD + 5)},
    "earlier": lambda entry: {"generation": entry.generation - 1},
    "later": lambda entry: {"generation": entry.generation + 1},
    "flags": lambda entry: {"flags": 2},
    "lives longer": lambda entry: {"expiry": entry.expiry + 1},
    "lives for ever": lambda entry: {"expiry": math.inf},
    "shorter": lambda entry: {"record": entry.record[:-1]},
    "longer": lambda entry: {"record": entry.record + b"\0"},
    "without header": lambda entry: {"record": entry.record[HEADER_SIZE:]},
    "nothing": lambda entry: {"record": bytes(OVERHEAD)},
}


@pytest.mark.parametrize("lie", LIES)
def test_whatever_a_worker_changes_is_a_miss_and_is_told(world: World, lie: str) -> None:
    writer, reader = world.client(), world.client()
    writer.set("k", b"value", ttl=50)
    assert reader.get("k") == b"value"
    key, entry = world.held(writer, "k")
    world.put_back(key, entry, **LIES[lie](entry))
    assert reader.get("k") is None
    assert len(world.events) == 1
    assert world.events[0].key == key.hex()
    assert reader.statistics().unauthentic == 1
    world.put_back(key, entry)
    assert reader.get("k") == b"value", "nothing that it made up stays"


def test_a_changed_header_is_of_no_use_to_a_client_that_needs_it_and_none_to_who_has_the_key(world: World) -> None:
    writer = world.client()
    writer.set("k", b"value")
    key, entry = world.held(writer, "k")
    for place in range(HEADER_SIZE):
        world.put_back(key, entry, **flip(place)(entry))
        assert writer.get("k") == b"value"
        assert world.client().get("k") is None
    assert set(world.reasons()) == {Failure.EPOCH}
    assert len(world.events) == HEADER_SIZE


def test_numbers_that_no_record_has_are_a_miss(world: World) -> None:
    class Liar:
        def put(self, *args: Any, **named: Any) -> bool:
            return True

        def get(self, key: bytes) -> Entry | None:
            return self.answer

        def delete(self, key: bytes) -> bool:
            return True

        answer: Entry | None = None

    liar = Liar()
    client = BlindClient(KEY, liar, tenant="acme", clock=world.clock, on_security=world.events.append)
    for generation, flags in ((-1, 0), (0, 0), (1 << 64, 0), (5, -1), (5, 1 << 32)):
        liar.answer = Entry(bytes(100), generation, flags)
        assert client.get("k") is None
    assert world.reasons() == [Failure.TAG] * 5
    liar.answer = Entry(b"", 5)
    assert client.get("k") is None
    assert world.reasons()[5:] == [Failure.TRUNCATED]
    liar.answer = Entry(bytes(100), 5, 0, math.nan)
    assert client.get("k") is None


def test_records_of_two_names_cannot_be_exchanged(world: World) -> None:
    client = world.client()
    client.set("one", b"1")
    client.set("two", b"2")
    (one, first), (two, second) = world.held(client, "one"), world.held(client, "two")
    world.put_back(one, second)
    world.put_back(two, first)
    assert (client.get("one"), client.get("two")) == (None, None)
    assert world.reasons() == [Failure.TAG, Failure.TAG]


def test_an_old_value_is_stale_to_who_saw_a_later_one_and_no_other(world: World) -> None:
    writer, reader, late = world.client(), world.client(), world.client()
    writer.set("k", b"old")
    key, old = world.held(writer, "k")
    writer.set("k", b"new")
    assert reader.get("k") == b"new"
    world.put_back(key, old)
    assert (writer.get("k"), reader.get("k")) == (None, None)
    assert world.reasons() == [Failure.STALE, Failure.STALE]
    assert (reader.statistics().stale, reader.statistics().unauthentic) == (1, 0)
    assert late.get("k") == b"old", "it has not seen that there was another: this is what a worker can do"
    reader.set("k", b"newest")
    assert (writer.get("k"), reader.get("k")) == (b"newest", b"newest")


def test_what_was_deleted_does_not_come_back_to_who_deleted_it(world: World) -> None:
    client = world.client()
    client.set("k", b"v")
    key, entry = world.held(client, "k")
    client.delete("k")
    world.put_back(key, entry)
    assert client.get("k") is None
    assert world.reasons() == [Failure.STALE]
    client.set("k", b"w")
    assert client.get("k") == b"w"


def test_what_is_remembered_is_bounded_and_the_least_used_goes_first(world: World) -> None:
    client = world.client(remember=3)
    old = {}
    for name in "abcd":
        client.set(name, b"old")
        old[name] = world.held(client, name)
    for name in "abcd":
        client.set(name, b"new")
    assert client.get("b") == b"new"
    client.set("e", b"new")
    statistics = client.statistics()
    assert (statistics.remembered, statistics.remembered_limit) == (3, 3)
    for name in "abd":
        world.put_back(*old[name])
    assert client.get("b") is None, "remembered, for it was used"
    assert client.get("d") is None
    assert client.get("a") == b"old", "forgotten"


def test_a_write_over_what_a_clock_ahead_wrote_is_done(world: World) -> None:
    ahead = world.client(clock=lambda: T0 + 3600)
    ahead.set("k", b"ahead")
    behind = world.client()
    generation = behind.set("k", b"behind")
    assert ahead.get("k") == behind.get("k") == b"behind"
    assert generation > (T0 + 3600) * 1e9
    assert world.events == []


def test_a_record_that_nobody_sealed_does_not_keep_a_name_from_being_written(world: World) -> None:
    client = world.client()
    key = client.keyring.tenant("acme").blind(b"k")
    assert world.store.put(key, os.urandom(100), (1 << 64) - 1)
    client.set("k", b"v")
    assert client.get("k") == b"v"
    assert len(world.events) == 1


def test_a_worker_that_stores_nothing_is_told_apart_from_success(world: World) -> None:
    class Refuser(OpaqueCache):
        def put(self, *args: Any, **named: Any) -> bool:
            return False

    client = BlindClient(KEY, Refuser(TenantSettings()), tenant="acme")
    with pytest.raises(BusError) as refused:
        client.set("k", b"v")
    assert refused.value.code == Code.CACHE_CONFLICT
    assert client.statistics().sets == 0


def test_rotation_and_very_many_clients(world: World) -> None:
    clients = [world.client() for _ in range(70)]
    for number, client in enumerate(clients):
        client.set(f"of {number}", b"%d" % number)
        client.rotate()
        client.set(f"again {number}", b"%d" % number)
    for _ in range(2):
        for number in range(70):
            assert clients[0].get(f"of {number}") == clients[1].get(f"again {number}") == b"%d" % number
    assert clients[0].statistics().epochs == 64, "bounded; what is met again is made again"
    assert world.events == []


def test_many_threads(world: World) -> None:
    client = world.client()
    wrong: list[bytes | None] = []

    def work(number: int) -> None:
        for turn in range(200):
            name = f"k{turn % 7}"
            client.set(name, name.encode() * 10)
            value = client.get(name)
            if value != name.encode() * 10:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert world.events == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_of_a_fork_goes_on_with_new_keys(world: World) -> None:
    client = world.client()
    client.set("k", b"v")
    key, entry = world.held(client, "k")
    with client._lock:  # as if another thread held it
        child = os.fork()
        if not child:
            code = 1
            try:
                client.set("l", b"w")
                world.put_back(key, entry)  # a store in this process is empty in its child; a worker is not
                same = client.get("k") == b"v" and client.get("l") == b"w"
                code = 0 if same and client.statistics().epochs == 2 else 2
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_is_told_may_fail(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: SecurityEvent) -> None:
        raise RuntimeError("no")

    client = world.client(on_security=fail)
    client.set("k", b"v")
    key, entry = world.held(client, "k")
    world.put_back(key, entry, **flip(60)(entry))
    assert client.get("k") is None
    assert "telling of a record" in caplog.text


@given(junk=st.binary(max_size=200), generation=st.integers(1, (1 << 64) - 1), flags=st.integers(0, (1 << 32) - 1))
def test_junk_never_opens(junk: bytes, generation: int, flags: int) -> None:
    world = World()
    client = world.client()
    key = client.keyring.tenant("acme").blind(b"k")
    if len(junk) >= OVERHEAD:
        world.store.put(key, junk, generation, flags=flags)
    assert client.get("k") is None
    client.close()


# Over a bus


class Held(NamedTuple):
    """As the component gives it."""

    found: bool
    record: bytes = b""
    generation: int = 0
    flags: int = 0
    expiry: float | None = None


class Worker:
    """The operations of the component that blind clients use, on a store."""

    def __init__(self, store: OpaqueCache) -> None:
        self.store = store
        self.gate: asyncio.Event | None = None

    async def put_record(
        self,
        key: bytes,
        record: bytes,
        generation: int,
        *,
        flags: int = 0,
        expiry: float | None = None,
        expected: int | None = None,
    ) -> bool:
        await asyncio.sleep(0)
        until = math.inf if expiry is None else expiry
        return self.store.put(key, record, generation, flags=flags, expiry=until, expected=expected)

    async def get_record(self, key: bytes) -> Held:
        entry = self.store.get(key)
        if self.gate is not None:
            await self.gate.wait()
        if entry is None:
            return Held(False)
        until = None if entry.expiry == math.inf else entry.expiry
        return Held(True, entry.record, entry.generation, entry.flags, until)

    async def delete_record(self, key: bytes) -> bool:
        await asyncio.sleep(0)
        return self.store.delete(key)


def over(world: World, worker: Any) -> BlindBusClient:
    return BlindBusClient(KEY, worker, tenant="acme", clock=world.clock, on_security=world.events.append)


async def use(client: BlindBusClient) -> None:
    """Every operation."""
    generation = await client.set("k", b"v", ttl=60)
    assert await client.get("k") == b"v"
    assert await client.get("none") is None
    assert await client.get("none", 7) == 7
    found = await client.get_entry("k")
    assert found is not None
    assert (found.value, found.generation) == (b"v", generation)
    assert 55 < found.ttl <= 60
    assert not await client.add("k", b"w")
    assert await client.cas("k", b"w", generation) > generation
    with pytest.raises(BusError) as refused:
        await client.cas("k", b"x", generation)
    assert refused.value.code == Code.CACHE_CONFLICT
    await client.set_many({f"n{number}": b"%d" % number for number in range(100)})
    many = await client.get_many([*(f"n{number}" for number in range(100)), "none"])
    assert many == {f"n{number}": b"%d" % number for number in range(100)}
    assert await client.delete("k")
    assert not await client.delete("k")
    assert await client.get("k") is None
    assert client.statistics().unauthentic == client.statistics().stale == 0


def test_every_operation_at_a_worker(world: World) -> None:
    async def main() -> None:
        async with over(world, Worker(world.store)) as client:
            await use(client)
            await client.set("k", b"by bus")
            assert world.client().get("k") == b"by bus"

    asyncio.run(main())
    assert world.events == []


def test_an_answer_that_was_under_way_while_this_client_wrote_is_not_stale(world: World) -> None:
    async def main() -> None:
        worker = Worker(world.store)
        client = over(world, worker)
        await client.set("k", b"old")
        worker.gate = asyncio.Event()
        asked = asyncio.create_task(client.get("k"))
        await asyncio.sleep(0)
        await client.set("k", b"new")
        worker.gate.set()
        assert await asked == b"old", "it was there when it was asked for"
        assert await client.get("k") == b"new"

    asyncio.run(main())
    assert world.events == []


@forms
def test_every_operation_at_the_component(form: Form, world: World) -> None:
    async def main() -> None:
        async with both_forms(EncryptedCache, form, mode="blind", state="off") as worker:
            events: list[SecurityEvent] = []
            async with BlindBusClient(KEY, worker, tenant="node", on_security=events.append) as client:
                await use(client)
                await client.set("k", bytes(100_000))
                assert await client.get("k") == bytes(100_000)
                assert events == []
                key = client.keyring.tenant("node").blind(b"k")
                await worker.delete_record(key)
                assert await worker.put_record(key, bytes(100), 1 << 63)
                assert await client.get("k") is None
                assert [event.reason for event in events] == [Failure.VERSION]
            with pytest.raises(BusError) as refused:
                await client.get("k")
            assert refused.value.code == Code.CACHE_KEYS_GONE

    asyncio.run(main())
