"""Manifests: what cannot be one is refused when it is made, with the field at fault."""

from typing import Any

import pytest

from busd.components.model import Budget, Event, Manifest, Request, Stream

GOOD: dict[str, Any] = {
    "component": "cache",
    "version": "1.2",
    "owner": "platform",
    "purpose": "keeps what was looked up",
    "operations": (Request("get"), Stream("keys"), Event("evicted", str)),
}


def test_subjects_come_from_the_names() -> None:
    manifest = Manifest(**GOOD)
    assert manifest.serves == ("cache.get", "cache.keys")
    assert manifest.publishes == ("cache.evicted",)
    assert [each.name for each in manifest.events()] == ["evicted"]
    assert manifest.subject(Request("get")) == "cache.get"
    assert manifest.placements == ("host", "soc", "guest")
    assert manifest.budget == Budget(memory_bytes=256 << 20, cpu_percent=100.0)
    assert manifest.needs == ()
    assert manifest.state is None


def test_a_component_may_offer_nothing() -> None:
    assert Manifest(**{**GOOD, "operations": ()}).serves == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"component": "Cache"}, "component may hold only a-z, 0-9, - and _, not 'Cache'"),
        ({"component": ""}, "component must have 1 to 64 characters"),
        ({"component": "a.b"}, "component may hold only"),
        ({"component": None}, "component must be a string, not None"),
        ({"owner": "the team"}, "owner may hold only"),
        ({"version": ""}, "version must be a text of 1 to 64 bytes"),
        ({"version": 1}, "version must be a text"),
        ({"purpose": ""}, "purpose must be a text of 1 to 256 bytes"),
        ({"purpose": "ä" * 129}, "purpose must be a text of 1 to 256 bytes"),
        ({"operations": [Request("get")]}, "operations must be a tuple, not list"),
        ({"operations": ("get",)}, "operations must hold Request, Stream and Event, not 'get'"),
        ({"operations": (Request("get"), Event("get", str))}, "there are two operations 'get'"),
        ({"operations": (Request("Get"),)}, "the name of an operation may hold only"),
        ({"operations": (Request(""),)}, "the name of an operation must have 1 to 64"),
        ({"operations": (Event("a.b", int),)}, "the name of an operation may hold only"),
        ({"operations": (Request("look-up"),)}, "operation 'look-up' cannot be a method"),
        ({"operations": (Request("2nd"),)}, "operation '2nd' cannot be a method"),
        ({"operations": (Request("import"),)}, "operation 'import' cannot be a method"),
        ({"operations": (Request("_get"),)}, "operation '_get' cannot be a method"),
        ({"operations": (Stream("run"),)}, "operation 'run' has the name of a part of every component"),
        ({"operations": (Request("hand_over"),)}, "operation 'hand_over' has the name of a part"),
        ({"operations": tuple(Request(f"r{n}") for n in range(65))}, "there are 65 operations; at most 64"),
        ({"placements": ()}, "placements must be some of host, soc, guest"),
        ({"placements": ("host", "cloud")}, "placements must be some of host, soc, guest"),
        ({"placements": ("host", "host")}, "each once"),
        ({"placements": "host"}, "placements must be a tuple, not str"),
        ({"needs": ("Not.A.Subject",)}, "needs: 'Not.A.Subject' is not a pattern"),
        ({"needs": (3,)}, "needs must hold texts"),
        ({"needs": ("a",) * 65}, "needs has 65 patterns; at most 64"),
        ({"budget": {"memory_bytes": 1}}, "budget must be a Budget"),
        ({"state": {}}, "state must be a class"),
    ],
)
def test_what_cannot_be_a_manifest(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Manifest(**{**GOOD, **change})
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("amounts", "field"),
    [
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"memory_bytes": -1}, "memory_bytes"),
        ({"memory_bytes": 1.5}, "memory_bytes"),
        ({"memory_bytes": True}, "memory_bytes"),
        ({"cpu_percent": 0}, "cpu_percent"),
        ({"cpu_percent": float("nan")}, "cpu_percent"),
        ({"cpu_percent": float("inf")}, "cpu_percent"),
        ({"cpu_percent": "half"}, "cpu_percent"),
    ],
)
def test_what_cannot_be_a_budget(amounts: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be"):
        Budget(**amounts)


def test_an_event_may_have_a_name_that_no_method_could() -> None:
    manifest = Manifest(**{**GOOD, "operations": (Event("run", int), Event("9-lives", int))})
    assert manifest.publishes == ("cache.run", "cache.9-lives")
