"""A tenant's cache in the place of a dict."""

import json

import pytest

from busd.components.cache import Cache
from busd.components.cache.mapping import CacheMapping
from busd.components.cache.settings import CacheSettings, TenantSettings
from tests.components.test_cache_store import Clock


def mapping_of(clock: Clock | None = None, *, keep_names: bool = False) -> CacheMapping[bytes]:
    settings = CacheSettings(usual=TenantSettings(keep_names=keep_names))
    return CacheMapping(Cache.generated(settings, quiet=True, clock=clock).tenant("acme"), ttl=10)


def test_code_that_has_a_dict_does_not_notice() -> None:
    cache = mapping_of()
    cache["a"] = b"1"
    cache.update(b=b"2", c=b"3")
    assert (cache["a"], cache.get("b"), cache.get("x"), cache.get("x", b"?")) == (b"1", b"2", None, b"?")
    assert ("a" in cache, "x" in cache, object() in cache, "" in cache, len(cache)) == (True, False, False, False, 3)
    del cache["a"]
    assert cache.pop("b") == b"2"
    assert cache.pop("b", None) is None
    assert cache.setdefault("c", b"9") == b"3"
    assert cache.setdefault("d", b"9") == b"9"
    for missing in (lambda: cache["a"], lambda: cache.__delitem__("a"), lambda: cache.pop("a")):
        with pytest.raises(KeyError):
            missing()
    cache.clear()
    assert len(cache) == 0
    assert "acme" in repr(cache)


def test_values_of_any_type_go_in_and_out_by_the_callers_functions() -> None:
    tenant = Cache.generated(quiet=True).tenant("acme")
    cache: CacheMapping[dict[str, int]] = CacheMapping(
        tenant, dumps=lambda value: json.dumps(value).encode(), loads=json.loads
    )
    cache["a"] = {"n": 1}
    assert cache["a"] == {"n": 1}
    one = Cache.generated(quiet=True)
    one.mapping("acme")["a"] = b"1"
    assert one.mapping("acme", dumps=lambda value: str(value).encode(), loads=int)["a"] == 1
    with pytest.raises(ValueError, match="belong together"):
        CacheMapping(tenant, loads=json.loads)


def test_names_are_listed_if_they_are_kept_and_refused_if_not() -> None:
    clock = Clock()
    cache = mapping_of(clock, keep_names=True)
    cache["größe"] = b"1"
    cache["b"] = b"2"
    assert sorted(cache) == ["b", "größe"]
    assert dict(cache) == {"größe": b"1", "b": b"2"}
    assert sorted(cache.items()) == [("b", b"2"), ("größe", b"1")]
    clock.now += 10
    assert list(cache) == []
    blind = mapping_of()
    blind["a"] = b"1"
    for listing in (lambda: list(blind), lambda: blind.popitem(), lambda: list(blind.items())):
        with pytest.raises(TypeError, match="keep_names"):
            listing()


def test_iterating_while_others_write_goes_on() -> None:
    cache = mapping_of(keep_names=True)
    cache.update({str(number): b"" for number in range(50)})
    seen = set()
    for name in cache:
        seen.add(name)
        cache.pop(str(len(seen) + 20), None)
        cache[f"new-{name}"] = b""
    assert {str(number) for number in range(21)} <= seen
    assert len(seen) <= 50
