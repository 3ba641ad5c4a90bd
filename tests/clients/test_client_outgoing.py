"""Packing frames: full ones, but never more in one than the node takes."""

from typing import Any

import pytest

from busclient.outgoing import SHORTEST, Outgoing
from busclient.queues import Inbox
from busclient.session import Session
from busd.core.principal import Principal
from busd.core.units import Unit
from busproto import envelope as wire
from busproto.envelope import Decoder
from busproto.limits import BATCH_BYTES, ENVELOPES_PER_FRAME
from tests.clients.session_pair import Wire

MANY = 40_000


def counts(frames: list[list[bytes]]) -> list[int]:
    """How many envelopes are in each frame; what the decoder refuses fails the test."""
    decoder = Decoder()
    return [len(decoder.decode(b"".join(pieces)).envelopes) for pieces in frames]


def attached(info: dict[str, Any]) -> Session:
    """A session to which a node has said ``info``."""
    session = Session({}, "memory://")
    session.attach(0.0)
    session.data_to_send()
    session.receive(wire.welcome(1, "guest-1", info), 0.0)
    return session


@pytest.mark.parametrize(
    ("info", "most"),
    [
        ({}, ENVELOPES_PER_FRAME),
        ({"max_envelopes": 1024}, 1024),
        ({"max_envelopes": 7}, 7),
        ({"max_envelopes": 1}, 1),
        ({"max_envelopes": 1 << 40}, ENVELOPES_PER_FRAME),
        *(({"max_envelopes": wrong}, ENVELOPES_PER_FRAME) for wrong in (0, -1, True, None, "8", 8.0, [8])),
    ],
    ids=repr,
)
@pytest.mark.parametrize("payload", [b"", b"x" * 300, b"x" * 20_000], ids=len)
def test_no_frame_holds_more_envelopes_than_the_node_takes(info: dict[str, Any], most: int, payload: bytes) -> None:
    session = attached(info)
    for number in range(1000):
        session.publish("a", payload, None)
        session.publish("b", payload, {"n": number})
        session.call("a", payload, None, 1.0, 0.0, None)
    found = counts(session.data_to_send())
    assert sum(found) == 3000
    assert max(found) <= most


@pytest.mark.parametrize("most", [1, 100, 1024, ENVELOPES_PER_FRAME])
def test_the_shortest_envelopes_fill_a_frame_up_to_the_limit_and_not_beyond(most: int) -> None:
    out = Outgoing()
    out.limit_envelopes(most)
    ping = wire.ping(1)
    assert len(ping) == SHORTEST
    for _ in range(MANY):
        out.push(ping)
    found = counts(out.take())
    assert sum(found) == MANY
    assert most * 0.98 <= max(found) <= most


def test_long_envelopes_fill_a_frame_as_before() -> None:
    sizes = []
    for most in (ENVELOPES_PER_FRAME, 1024):
        session = attached({"max_envelopes": most})
        for _ in range(100):
            session.publish("a", b"x" * 4000, None)
        sizes.append([sum(map(len, pieces)) for pieces in session.data_to_send()])
    assert sizes[0] == sizes[1]
    assert sizes[0][0] > BATCH_BYTES * 0.9


def test_a_limit_holds_from_the_next_frame_on_and_after_a_reconnect_for_all_that_is_asked_again() -> None:
    """What was packed before welcome came stays as it is; who has a thousand subscriptions asks for them in pieces."""
    session = Session({}, "memory://")
    session.attach(0.0)
    session.receive(wire.welcome(1, "guest-1", {"max_envelopes": 10}), 0.0)
    inboxes = [Inbox(f"a.n{number}", latest=False, limit=1, token=None) for number in range(30)]
    for inbox in inboxes:
        session.subscribe(inbox, 0.0, inbox.pattern)
    found = counts(session.data_to_send())
    assert found[0] == 1
    assert (sum(found), max(found) <= 10) == (31, True)
    session.receive(b"".join(wire.reply(inbox.id, 0, None, b"\xc0") for inbox in inboxes), 0.0)
    session.detach("cut")
    session.attach(1.0)
    found = counts(session.data_to_send())
    assert (sum(found), max(found) <= 10) == (31, True)


def test_a_tenant_that_sends_a_flood_is_not_cut_off_for_it() -> None:
    link = Wire(tenant_envelopes=64)
    link.core.add_unit(Unit("vm-1", "acme", 1))
    end = link.end(principal=Principal("guest", "acme", "vm-1", 1))
    assert end.session.info["max_envelopes"] == 64
    inbox = end.subscribe("a", limit=MANY)
    for number in range(5000):
        end.publish("a", wire.pack(number))
    link.run()
    assert end.session.farewell is None
    assert not end.peer.closing
    assert inbox.waiting_messages() == 5000
