"""Fuzzing of serial lines.

The invariant: for any bytes, in either role and in any state, fed whole, byte by byte or in pieces, `receive` gives
events and never raises; all ways of feeding deliver the same data in the same sessions; between two events that are not
data there is data; what is held is never more than one record's longest form; and the next start begins a session that
works.
"""

import random
import zlib
from collections.abc import Hashable
from functools import partial
from itertools import pairwise

import pytest

from busproto.limits import SERIAL_PIECE_BYTES, SERIAL_REASON_BYTES
from busproto.serial import Event, SerialLine
from tests.fuzz import driver

pytestmark = pytest.mark.timeout(driver.TIMEOUT)

TOKEN = b"\xc0oken\xdb01"
NEXT = b"next one"
HELD_MAX = 2 * (1 + 4 + SERIAL_PIECE_BYTES + 4)


def standing(role: str) -> tuple[SerialLine, SerialLine]:
    """This end, and the other one, with a session between them."""
    client, broker = SerialLine("client"), SerialLine("broker")
    broker.receive(client.start(TOKEN))
    client.receive(broker.accept(TOKEN))
    return (broker, client) if role == "broker" else (client, broker)


def corpus(role: str) -> list[bytes]:
    payload = random.Random(3).randbytes(2 * SERIAL_PIECE_BYTES)
    lines = [b"", b"\xc0" * 50, b"boot: \r\n"]
    for data in (b"", b"\xc0\xdb\xdc\xdd", payload):
        for last in (SerialLine.end, partial(SerialLine.reset, reason=b"why"), partial(SerialLine.data, payload=b"x")):
            _, peer = standing(role)
            lines.append(peer.data(b"first") + peer.data(data) + last(peer))
    client = SerialLine("client")
    starts = [client.start(token) for token in (TOKEN, NEXT)]
    return [*lines, *starts, starts[0] + lines[6], starts[0] + starts[1], lines[3] + starts[1]]


def tokens(role: str) -> list[bytes]:
    _, peer = standing(role)
    records = [peer.data(b"one"), peer.data(b"two"), peer.data(b""), peer.reset(b"why"), peer.end()]
    return [*records, b"\xc0", b"\xdb", b"\xdb\xdc", b"\xdb\xdd", SerialLine("client").start(TOKEN), b"x" * 9000]


def told(events: list[Event]) -> list[tuple[str, bytes]]:
    """Events as they are whatever the pieces were: data joined, and of those without data between them the last."""
    out: list[tuple[str, bytes]] = []
    for kind, body in events:
        if out and (kind == "data") == (out[-1][0] == "data"):
            out[-1] = (kind, out[-1][1] + body if kind == "data" else body)
        else:
            out.append((kind, body))
    return out


def feed(line: SerialLine, data: bytes, sizes: list[int]) -> list[Event]:
    events: list[Event] = []
    position = 0
    for size in sizes:
        got = line.receive(data[position : position + size])
        assert all(a.kind == "data" or b.kind == "data" for a, b in pairwise(got))
        assert all(len(body) <= {"data": SERIAL_PIECE_BYTES}.get(kind, SERIAL_REASON_BYTES) for kind, body in got)
        assert line.statistics().held_bytes <= HELD_MAX
        events += got
        position += size
    return events


def target(role: str) -> driver.Target:
    def judge(data: bytes) -> Hashable:
        rng = random.Random(zlib.crc32(data))
        pieces, left = [], len(data)
        while left > 0:
            pieces.append(rng.choice((1, 2, 9, 64, 300, 4000)))
            left -= pieces[-1]
        outcome: list[tuple[str, bytes]] | None = None
        for sizes in ([len(data)], pieces, [1] * len(data)):
            if len(sizes) > 3000:
                continue
            line, peer = standing(role)
            # A reset for want of a session comes once a read: how many there are depends on the pieces.
            events = told([event for event in feed(line, data, sizes) if event != ("reset", b"no session")])
            outcome = events if outcome is None else outcome
            assert events == outcome
            damaged = line.statistics().damaged
            works(line, peer, role)
        assert outcome is not None
        length = sum(len(body) for _, body in outcome).bit_length()
        return tuple(kind for kind, _ in outcome)[:6], length, damaged.bit_length()

    return judge


def works(line: SerialLine, peer: SerialLine, role: str) -> None:
    """A start after all that begins a session in which data passes both ways."""
    broker, client = (line, peer) if role == "broker" else (peer, line)
    assert broker.receive(client.start(NEXT))[-1] == ("start", NEXT)
    # What is left in the line before the answer may be half a record.
    assert client.receive(broker.accept(NEXT)) == [("accepted", NEXT)]
    assert broker.receive(client.data(b"up")) == [("data", b"up")]
    assert client.receive(broker.data(b"down")) == [("data", b"down")]


@pytest.mark.parametrize("role", ["broker", "client"])
def test_any_bytes(role: str) -> None:
    report = driver.run(f"serial {role}", target(role), corpus(role), 2000, tokens(role))
    assert report.endings > 20


def test_the_fuzzer_finds_what_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that loses what it holds is found."""
    if driver.SECONDS:
        pytest.skip("BUSD_FUZZ_SECONDS is for the runs that look for something unknown")
    receive = SerialLine.receive

    def forgetful(self: SerialLine, data: bytes) -> list[Event]:
        """Loses what a piece began when the next one is a single byte."""
        if len(data) == 1 and data == b"\xdc":
            self._held = b""
        return receive(self, data)

    monkeypatch.setattr(SerialLine, "receive", forgetful)
    with pytest.raises(driver.BrokenInvariantError):
        driver.run("planted", target("broker"), corpus("broker"), 500, tokens("broker"))
