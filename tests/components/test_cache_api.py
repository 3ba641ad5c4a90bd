"""What the library takes and what it never does: no object is ever pickled, and nothing but bytes is stored."""

import json
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busd.components.cache import Cache, CacheSettings, TenantSettings
from busd.components.cache.blind import BlindClient
from tests.support import ROOT

UNPICKLED = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name in ("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"):
            raise ImportError(name + " is not to be used")
for name in ("pickle", "_pickle", "shelve"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refused())
import asyncio
from busd.components.cache import Cache
from busd.components.cache.blind import BlindClient

with Cache.generated(quiet=True) as cache:
    mine = cache.tenant("acme")
    mine.set("k", b"v", ttl=60)
    mine.touch("k", 30), mine.rotate(), mine.get_many(["k"]), mine.get_entry("k")
    made = cache.mapping("acme", dumps=str.encode, loads=bytes.decode)
    made["text"] = "v"
    async def compute(): return b"c"
    asyncio.run(mine.get_or_compute_async("c", compute, ttl=1, stale=1))
    assert (mine.get("k"), made["text"], mine.get("c")) == (b"v", "v", b"c")
with Cache(None) as worker:
    client = BlindClient(bytes(range(32)), worker.opaque("acme"), tenant="acme")
    client.set("k", b"v")
    assert client.get("k") == b"v"
assert "pickle" not in sys.modules and "_pickle" not in sys.modules
print("without")
"""


def test_it_works_where_there_is_no_pickle() -> None:
    paths = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients")]
    code = f"import sys; sys.path[:0] = {paths!r}\n{UNPICKLED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("without\n", "")


@pytest.mark.parametrize("value", [{"a": 1}, "text", 7, 1.5, None, [b"v"], (b"v",), object(), Exception])
@pytest.mark.parametrize("share", [{}, {"padding": "padme"}, {"keep_names": True}])
def test_what_is_not_bytes_is_refused_and_leaves_what_was_there(share: dict[str, Any], value: Any) -> None:
    mine = Cache.generated(CacheSettings(usual=TenantSettings(**share)), quiet=True).tenant("acme")
    mine.set("k", b"before")
    for write in (mine.set, mine.add, mine.replace):
        with pytest.raises(TypeError):
            write("k" if write != mine.add else "new", value)
    with pytest.raises(TypeError):
        mine.set_many({"k": value})
    assert mine.get("k") == b"before"
    assert mine.get("new") is None


@pytest.mark.parametrize("name", [7, None, ["k"], ("k",), object()])
def test_what_is_no_name_is_refused(name: Any) -> None:
    mine = Cache.generated(quiet=True).tenant("acme")
    for call in (mine.get, mine.get_entry, mine.delete, mine.touch, lambda name: mine.set(name, b"v")):
        with pytest.raises(TypeError):
            call(name)
    with Cache(None) as worker, BlindClient(bytes(range(32)), worker.opaque("acme"), tenant="acme") as client:
        for blind in (client.get, client.delete, lambda name: client.set(name, b"v")):
            with pytest.raises(TypeError):
                blind(name)


names = st.text(st.sampled_from("ab\0\x01.:/é"), min_size=1, max_size=6)


@given(st.lists(st.tuples(names, names), min_size=2, max_size=12, unique=True))
def test_whatever_tenants_and_names_are_called_each_pair_has_its_own_value(pairs: list[tuple[str, str]]) -> None:
    """``a`` and ``bc`` is not ``ab`` and ``c``, with any bytes in between."""
    with Cache.generated(quiet=True) as cache:
        for number, (tenant, name) in enumerate(pairs):
            cache.tenant(tenant).set(name, b"%d" % number)
        for number, (tenant, name) in enumerate(pairs):
            assert cache.tenant(tenant).get(name) == b"%d" % number
        blinded = {(tenant, name): cache.tenant(tenant)._keys.blind(name.encode()) for tenant, name in pairs}
        assert len(set(blinded.values())) == len(pairs)


def test_threads_write_while_others_list_and_count() -> None:
    settings = CacheSettings(usual=TenantSettings(keep_names=True, entries=200))
    mine = Cache.generated(settings, quiet=True).tenant("acme")
    mapping = Cache.generated(settings, quiet=True).mapping(
        "acme", dumps=lambda v: json.dumps(v).encode(), loads=json.loads
    )
    mine.set("stays", b"")
    wrong: list[object] = []
    done = threading.Event()

    def write(seed: int) -> None:
        try:
            number = seed
            while not done.is_set():
                number += 7
                mine.set(f"k{number % 150}", b"v")
                mapping[f"k{number % 150}"] = number
                mine.delete(f"k{(number * 3) % 150}")
                mapping.pop(f"k{(number * 3) % 150}", None)
                if number % 100 == 0:
                    mapping.clear()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(seed,), daemon=True) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            found = list(mine.names())
            if len(found) != len(set(found)) or b"stays" not in found or not 0 < len(mine) <= 200:
                wrong.append((len(found), len(mine)))
            for name, value in mapping.items():
                if not (name.startswith("k") and isinstance(value, int)):
                    wrong.append((name, value))
            wrong += [value for value in mapping.values() if not isinstance(value, int)]
            assert len(list(mapping)) <= 200 >= len(mapping)
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert wrong == []


def test_of_all_who_pop_one_gets_it() -> None:
    cache = Cache.generated(quiet=True)
    mapping = cache.mapping("acme", dumps=lambda value: b"%d" % value, loads=int)
    ready = threading.Barrier(4)
    taken: list[int] = []

    def take() -> None:
        for number in range(300):
            if ready.wait(20) == 0:
                mapping["k"] = number
                cache.rotate()  # what is being read is sealed anew: that must not give it to two
            ready.wait(20)
            value = mapping.pop("k", None)
            if value is not None:
                taken.append(value)

    threads = [threading.Thread(target=take, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == list(range(300))
    with pytest.raises(KeyError):
        mapping.pop("k")


def test_what_goes_while_it_is_listed_is_left_out() -> None:
    settings = CacheSettings(usual=TenantSettings(keep_names=True))
    mapping = Cache.generated(settings, quiet=True).mapping("acme")
    mapping.update({name: name.encode() for name in "abc"})
    items = iter(mapping.items())
    first = next(items)[0]
    goes, stays = sorted(set(mapping) - {first})
    del mapping[goes]
    assert list(items) == [(stays, stays.encode())]
    values = iter(mapping.values())
    seen = {next(values).decode()}
    (goes,) = set(mapping) - seen
    del mapping[goes]
    assert list(values) == []
    mapping["a"] = b"a"
    assert ("a", b"a") in mapping.items()
    assert b"a" in mapping.values()
    while mapping:
        name, value = mapping.popitem()
        assert value == name.encode()
    with pytest.raises(KeyError):
        mapping.popitem()
