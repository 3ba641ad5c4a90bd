"""The golden vectors as frames that a client sends to the bus: what is refused ends the session, and with that code."""

from typing import Any

import pytest

from busproto.envelope import Kind
from tests.core.peer import World
from tests.schemas.vectors_support import data_of, load

CASES: list[dict[str, Any]] = [*load("envelopes.json")["cases"], *load("batches.json")["cases"]]


def kinds_of(case: dict[str, Any]) -> set[int]:
    envelopes = case["envelopes"] if "envelopes" in case else [case["envelope"]]
    return {fields[0] for fields in envelopes}


REFUSED = [case for case in CASES if not case["valid"]]
SPOOFED = [case for case in CASES if "from_client" in case]
# Hello is for the beginning, and statuses 3 to 8 are for the broker to give.
HARMLESS = [
    case
    for case in CASES
    if case["valid"]
    and case not in SPOOFED
    and Kind.HELLO not in kinds_of(case)
    and not (Kind.REPLY in kinds_of(case) and case["envelope"][2] > 2)
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_refused_frame_ends_the_session_with_its_code(case: dict[str, Any]) -> None:
    peer = World().peer()
    peer.send(data_of(case))
    assert peer.session.closing
    assert [(got[0], got[1]["code"]) for got in peer.take()] == [(Kind.BYE, case["error"])]


@pytest.mark.parametrize("case", SPOOFED, ids=lambda case: case["name"])
def test_what_only_the_broker_sends_ends_the_session(case: dict[str, Any]) -> None:
    world = World()
    watcher, peer = world.peer(), world.peer()
    watcher.send(bytes.fromhex("940401a13e80"))
    watcher.take()
    watcher.origins.clear()
    peer.send(data_of(case))
    assert peer.session.closing
    assert [got[1]["code"] for got in peer.take()] == [case["from_client"]]
    before = [fields for fields in case.get("envelopes", []) if fields[0] == Kind.PUBLISH]
    got = watcher.take()
    assert len(got) < len(before) or not before, "what stands behind it went nowhere"
    assert {origin[1] for origin in watcher.origins if origin} <= {peer.name}


@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case["name"])
def test_accepted_frame_keeps_the_session(case: dict[str, Any]) -> None:
    world = World()
    peer = world.peer()
    peer.send(data_of(case))
    assert peer.session.closing == (Kind.BYE in kinds_of(case))
    peer.take()
    peer.leave()
    statistics = world.statistics()
    assert statistics.subscriptions == statistics.services == statistics.calls_in_flight == 0


@pytest.mark.parametrize("status", range(3, 9))
def test_status_that_only_the_broker_gives_ends_the_session(status: int) -> None:
    peer = World().peer()
    peer.send(bytes([0x95, 9, 1, status, 0xC0, 0xC4, 0]))
    assert [got[1]["code"] for got in peer.take()] == [1012]
