"""Fuzzing of the ZMTP decoder.

The invariant: for any bytes, in either role, fed whole, byte by byte or in pieces, from bytes, from a reused buffer or
through get_buffer(), the decoder gives frames or raises BusError with a 100x code, never another exception; all ways of
feeding agree on frames, refusal, answer and final state; held_bytes never exceeds the largest unit, nor twice what was
sent plus one chunk, and is 0 after a refusal; a refusal is final.
"""

import random
import zlib
from collections.abc import Callable, Hashable

import pytest

from busproto import zmtp
from busproto.limits import ZMTP_COMMAND_BYTES
from busproto.zmtp import ZmtpConnection, ZmtpError
from tests.fuzz import driver
from tests.schemas.vectors_support import data_of, load
from tests.schemas.zmtp_support import (
    Feed,
    Outcome,
    by_get_buffer,
    by_receive,
    by_reused_buffer,
    command,
    cut,
    error,
    feed,
    frame,
    greeting,
    message,
    new_client,
    new_server,
    ping,
    prop,
    ready,
)

pytestmark = pytest.mark.timeout(driver.TIMEOUT)

MAX_FRAME = 150_000
HEADER = 9
ZMTP_CODES = range(1001, 1010)

OPENINGS = {
    "server": greeting() + ready(),
    "client": greeting(minor=0) + ready(prop(b"Socket-Type", b"ROUTER"), prop(b"X-Any", b"thing")),
}
TRAFFIC = [
    b"",
    message(b"") + message(b"a") + message(b"b" * 255) + message(b"c" * 256),
    message(b"a") + ping(10, b"context") + command(b"PONG", b"x") + message(b"b") + message(b"c")[:2],
    message(b"d" * 1000) + frame(2, b"") + frame(6, b"\x04PING\0\1ctx"),
    message(b"e" * 700)[:500],
    message(b"f" * 70_000) + message(b"g"),
    error(b"BUS-1004:zmtp-socket-type"),
    command(b"SUBSCRIBE", b"topic"),
    frame(1, b"more") + frame(0, b"last"),
    b"\x02" + (MAX_FRAME + 1).to_bytes(8, "big"),
]
TOKENS = [
    *(bytes((flags,)) for flags in range(8)),
    b"\x02" + (500).to_bytes(8, "big"),
    b"\x06" + (ZMTP_COMMAND_BYTES).to_bytes(8, "big"),
    ping(1, b""),
    message(b"x"),
    message(b"x" * 300),
    error(b""),
    b"\x05READY",
    b"\x04PING",
    b"\x04PONG",
    prop(b"Socket-Type", b"DEALER"),
    prop(b"Identity", b"i"),
    greeting(),
]


def corpus(role: str) -> list[bytes]:
    """Conversations of this file and of the protocol's test vectors; those of megabytes only cost time."""
    vectors = [data_of(case) for case in load("zmtp.json")["cases"] if case["role"] == role]
    return [OPENINGS[role] + traffic for traffic in TRAFFIC] + [data for data in vectors if len(data) < 2000]


def pieces_for(data: bytes) -> list[int]:
    """Sizes that depend on nothing but the input, so that a finding can be repeated from its bytes alone."""
    rng = random.Random(zlib.crc32(data))
    return [rng.choice((1, 2, 9, 64, 300, 40_000)) for _ in range(rng.randrange(2, 200))]


def target(new: Callable[[int], ZmtpConnection]) -> driver.Target:
    def judge(data: bytes) -> Hashable:
        sizes = pieces_for(data)
        whole, state = decode(new, data, [len(data)], by_receive)
        ways: list[tuple[list[int], Feed]] = [(sizes, by_receive), (sizes, by_get_buffer), (sizes, by_reused_buffer)]
        if len(data) < 5000:
            ways += [([1] * len(data), by_receive), ([1] * len(data), by_get_buffer)]
        for cuts, way in ways:
            other, other_state = decode(new, data, cuts, way)
            assert other.frames == whole.frames
            assert other.code == whole.code
            assert other.sent == whole.sent
            assert other_state == state
        kinds = frozenset(len(body).bit_length() // 4 for body in whole.frames)
        return whole.code, state[:2], kinds, len(whole.sent) // 32

    return judge


State = tuple[str, int, int, int, int, str]


def decode(new: Callable[[int], ZmtpConnection], data: bytes, cuts: list[int], way: Feed) -> tuple[Outcome, State]:
    connection = new(MAX_FRAME)
    outcome = feed(connection, cut(data, cuts) if data else [], way)
    assert all(type(body) is bytes and len(body) <= MAX_FRAME for body in outcome.frames)
    assert outcome.held_peak <= max(MAX_FRAME, ZMTP_COMMAND_BYTES) + HEADER
    assert outcome.held_peak <= 2 * len(data) + zmtp._CHUNK_MIN
    text = ""
    if outcome.code is not None:
        assert outcome.code in ZMTP_CODES
        assert connection.held_bytes == 0
        assert connection.get_buffer() is None
        with pytest.raises(ZmtpError) as again:
            connection.receive(b"\0")
        assert again.value.code == outcome.code
        text = again.value.text
    figures = connection.statistics()
    return outcome, (figures.stage, figures.peer_minor, figures.pings, figures.pongs, connection.peer_ttl_ds, text)


ROLES = {"server": new_server, "client": new_client}


@pytest.mark.parametrize("role", ROLES)
def test_any_bytes(role: str) -> None:
    report = driver.run(f"zmtp {role}", target(ROLES[role]), corpus(role), 2000, TOKENS)
    assert report.endings > 20


def test_any_bytes_with_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of large frames, with its thresholds so low that short inputs reach it."""
    monkeypatch.setattr(zmtp, "_WHOLE_BYTES", 256)
    monkeypatch.setattr(zmtp, "_CHUNK_MIN", 64)
    monkeypatch.setattr(zmtp, "_CHUNK_MAX", 200)
    report = driver.run("zmtp chunks", target(new_server), corpus("server"), 2000, TOKENS)
    assert report.endings > 20


def test_the_fuzzer_finds_what_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that loses a byte at a boundary, and one that fails with another exception, are both found."""
    if driver.SECONDS:
        pytest.skip("BUSD_FUZZ_SECONDS is for the runs that look for something unknown")
    step = ZmtpConnection._step
    short = [data for data in corpus("server") if len(data) < 1500]

    def forgetful(self: ZmtpConnection, part: bytearray, frames: list[bytes]) -> None:
        if len(part) > 300 and len(part) == self._need and part[0] == 2:
            part[-1] = 0
        step(self, part, frames)

    with monkeypatch.context() as patch:
        patch.setattr(ZmtpConnection, "_step", forgetful)
        with pytest.raises(driver.BrokenInvariantError):
            driver.run("planted", target(new_server), short, 300, TOKENS)

    def fragile(self: ZmtpConnection, data: bytes) -> None:
        data[40]

    monkeypatch.setattr(ZmtpConnection, "_answer_ping", fragile)
    with pytest.raises(driver.BrokenInvariantError) as found:
        driver.run("planted", target(new_server), short, 300, TOKENS)
    assert isinstance(found.value.__cause__, IndexError)
    # Shrunk to little more than a handshake and a PING.
    assert len(found.value.data) < len(OPENINGS["server"]) + 40


def test_mutations_are_the_same_for_the_same_seed() -> None:
    first, second = (
        [driver.mutate(rng, [b"abc", b"defg"], [b"token"]) for _ in range(500)]
        for rng in (random.Random(5), random.Random(5))
    )
    assert first == second
    assert len(set(first)) > 300
