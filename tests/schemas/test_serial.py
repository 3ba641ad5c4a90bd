"""Serial lines: framing, sessions, and what damage does to them."""

from random import Random
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busproto.limits import SERIAL_PIECE_BYTES, SERIAL_REASON_BYTES
from busproto.serial import Event, SerialLine

TOKEN = b"token-01"
OTHER = b"token-02"


def slip(record: bytes) -> bytes:
    """RFC 1055, byte by byte, as another implementation would write it."""
    out = bytearray(b"\xc0")
    for byte in record:
        out += {0xC0: b"\xdb\xdc", 0xDB: b"\xdb\xdd"}.get(byte, bytes((byte,)))
    return bytes(out + b"\xc0")


def record(prefix: bytes, kind: bytes, body: bytes) -> bytes:
    return slip(kind + body + crc32(prefix + kind + body).to_bytes(4, "big"))


def client_data(number: int, data: bytes, token: bytes = TOKEN) -> bytes:
    return record(b"c" + token, b"D", number.to_bytes(4, "big") + data)


def pair(token: bytes = TOKEN) -> tuple[SerialLine, SerialLine]:
    """A client and a broker whose session stands."""
    client, broker = SerialLine("client"), SerialLine("broker")
    begin(client, broker, token)
    return client, broker


def begin(client: SerialLine, broker: SerialLine, token: bytes) -> None:
    assert broker.receive(client.start(token))[-1] == ("start", token)
    assert client.receive(broker.accept(token))[-1] == ("accepted", token)


def data_of(events: list[Event]) -> bytes:
    assert {event.kind for event in events} <= {"data"}, events
    return b"".join(event.body for event in events)


# -- the bytes --------------------------------------------------------------------------------------------------------


def test_records_are_what_the_document_says() -> None:
    client, broker = SerialLine("client"), SerialLine("broker")
    assert client.start(TOKEN) == record(b"c", b"S", TOKEN)
    broker.receive(client.start(TOKEN))
    assert broker.accept(TOKEN) == record(b"b", b"A", TOKEN)
    client.receive(broker.accept(TOKEN))
    assert client.data(b"\xc0\xdb\xdc\xdd") == client_data(0, b"\xc0\xdb\xdc\xdd")
    assert client.data(b"next") == client_data(1, b"next")
    assert broker.data(b"x") == record(b"b" + TOKEN, b"D", b"\0\0\0\0x")
    assert broker.reset(b"why") == record(b"b", b"R", b"why")
    assert client.end() == record(b"c", b"E", b"")


@given(st.binary(max_size=3 * SERIAL_PIECE_BYTES), st.lists(st.integers(1, 3000), min_size=1, max_size=20))
def test_any_bytes_pass_however_they_are_cut(payload: bytes, cuts: list[int]) -> None:
    client, broker = pair()
    line = client.data(payload)
    got, position = b"", 0
    while position < len(line):
        for cut in cuts:
            got += data_of(broker.receive(line[position : position + cut]))
            position += cut
    assert got == payload


def test_both_directions_at_once_and_every_kind_of_buffer() -> None:
    client, broker = pair()
    assert data_of(broker.receive(bytearray(client.data(memoryview(b"up"))))) == b"up"
    assert data_of(client.receive(memoryview(broker.data(bytearray(b"down"))))) == b"down"


def test_large_payloads_are_split_and_numbers_wrap() -> None:
    client, broker = pair()
    payload = Random(1).randbytes(10 * SERIAL_PIECE_BYTES + 1)
    events = broker.receive(client.data(payload))
    assert [len(event.body) for event in events] == [SERIAL_PIECE_BYTES] * 10 + [1]
    assert data_of(events) == payload
    # 2^32 records are 16 TiB: put both ends where the counter wraps
    client._send_number = broker._receive_number = 2**32 - 1
    assert data_of(broker.receive(client.data(b"last") + client.data(b"first"))) == b"lastfirst"


def test_nothing_to_send_is_nothing_on_the_line() -> None:
    client, _ = pair()
    assert client.data(b"") == b""


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_a_client_hears_nothing_before_the_answer_to_its_last_start() -> None:
    client, broker = SerialLine("client"), SerialLine("broker")
    broker.receive(client.start(TOKEN))
    first = broker.accept(TOKEN) + broker.data(b"for the first")
    broker.receive(client.start(OTHER))
    assert client.receive(b"login: \xc0\xc0" + broker.reset(b"old") + first) == []
    assert not client.open
    assert client.receive(broker.accept(OTHER) + broker.data(b"yours")) == [("accepted", OTHER), ("data", b"yours")]
    assert client.open


def test_starts_that_piled_up_are_one_start() -> None:
    client, broker = SerialLine("client"), SerialLine("broker")
    line = b"".join(client.start(bytes((n,)) * 8) for n in range(5))
    assert broker.receive(line) == [("start", b"\4" * 8)]


def test_sessions_begun_and_ended_in_one_read_cost_one_event() -> None:
    client, broker = pair()
    storm = (client.start(OTHER) + client.end()) * 1000
    assert broker.receive(storm) == [("end", b"")]
    assert broker.receive(storm + client.start(TOKEN)) == [("start", TOKEN)]


def test_what_was_sent_before_the_end_arrives_though_the_next_session_is_there_already() -> None:
    client, broker = pair()
    line = client.data(b"last words") + client.end() + client.start(OTHER)
    assert broker.receive(line) == [("data", b"last words"), ("start", OTHER)]
    # What answers the last words still belongs to the session before: the new client does not hear it.
    assert client.receive(broker.data(b"answer") + broker.accept(OTHER) + broker.data(b"hi")) == [
        ("accepted", OTHER),
        ("data", b"hi"),
    ]


def test_ending_the_session_before_does_not_end_one_that_waits_to_be_accepted() -> None:
    client, broker = pair()
    assert [event.kind for event in broker.receive(client.data(b"nonsense") + client.start(OTHER))] == ["data", "start"]
    broker.reset(b"protocol broken")
    assert client.receive(broker.accept(OTHER)) == [("accepted", OTHER)]
    assert data_of(broker.receive(client.data(b"works"))) == b"works"


def test_data_after_a_refused_start_is_for_nobody() -> None:
    client, broker = SerialLine("client"), SerialLine("broker")
    broker.receive(client.start(TOKEN))
    broker.reset(b"unit unknown")
    assert broker.receive(client_data(0, b"x")) == [("reset", b"no session")]


@pytest.mark.parametrize("sender", ["client", "broker"])
def test_an_end_is_told_once_and_data_is_refused_after_it(sender: str) -> None:
    client, broker = pair()
    one, other = (client, broker) if sender == "client" else (broker, client)
    line = one.end()
    assert other.receive(line) == [("end", b"")]
    assert other.receive(line) == []
    with pytest.raises(RuntimeError, match="session"):
        one.data(b"x")
    begin(client, broker, OTHER)


def test_a_reset_carries_its_reason_cut_to_the_bound() -> None:
    client, broker = pair()
    assert client.receive(broker.reset(b"r" * 100)) == [("reset", b"r" * SERIAL_REASON_BYTES)]
    assert client.receive(broker.reset(b"again")) == []


def test_a_broker_that_was_replaced_tells_a_client_that_still_sends() -> None:
    client, _ = pair()
    broker = SerialLine("broker")
    assert broker.receive(client.data(b"x" * 3 * SERIAL_PIECE_BYTES)) == [("reset", b"no session")]
    assert client.receive(broker.reset(b"no session")) == [("reset", b"no session")]
    begin(client, broker, OTHER)


def test_two_ends_never_answer_resets_for_ever() -> None:
    client, broker = pair()
    line, rounds = broker.reset(b"first"), 0
    while line and rounds < 10:
        end = (client, broker)[rounds % 2]
        line = b"".join(end.reset(event.body) for event in end.receive(line) if event.kind == "reset")
        rounds += 1
    assert rounds == 2


def test_a_line_that_echoes_answers_nobody() -> None:
    client, broker = pair()
    echo = client.data(b"mine")
    assert client.receive(echo)[0].kind == "reset"
    waiting = SerialLine("client")
    assert waiting.receive(waiting.start(TOKEN) + record(b"c", b"A", TOKEN)) == []
    assert broker.receive(broker.accept(OTHER))[0].kind == "reset"


@pytest.mark.parametrize("token", [b"", b"1234567", b"123456789"])
def test_tokens_have_eight_bytes(token: bytes) -> None:
    for use in (SerialLine("client").start, SerialLine("broker").accept):
        with pytest.raises(ValueError, match="8 bytes"):
            use(token)


# -- damage -----------------------------------------------------------------------------------------------------------

DAMAGED = {
    "flipped": client_data(0, b"abc").replace(b"abc", b"abd"),
    "short": slip(b"D"),
    "data without a number": record(b"c" + TOKEN, b"D", b"\0\0"),
    "another session's": client_data(0, b"abc", OTHER),
    "out of order": client_data(1, b"abc"),
    "unknown kind": record(b"c", b"Z", b""),
    "start with a short token": record(b"c", b"S", b"1234567"),
    "end with a body": record(b"c", b"E", b"x"),
    "reset with a long reason": record(b"c", b"R", b"x" * (SERIAL_REASON_BYTES + 1)),
    "too long": client_data(0, b"x" * (SERIAL_PIECE_BYTES + 1)),
    "never ends": b"\xc0" + b"x" * 100_000,
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_does_not_fit_ends_the_session_and_the_next_start_begins_one(line: bytes) -> None:
    client, broker = pair()
    events = broker.receive(line)
    assert [event.kind for event in events] == ["reset"]
    assert 0 < len(events[0].body) <= SERIAL_REASON_BYTES
    assert client.receive(broker.reset(events[0].body)) == events
    assert broker.statistics().resets == client.statistics().resets == 1
    begin(client, broker, OTHER)
    assert data_of(broker.receive(client.data(b"again"))) == b"again"


def test_noise_between_sessions_is_skipped_and_counted() -> None:
    broker = SerialLine("broker")
    assert broker.receive(b"Booting Linux\r\n\xc0" + slip(b"noise") + slip(b"")) == []
    assert broker.statistics().damaged == 2
    assert broker.receive(b"half a line" + SerialLine("client").start(TOKEN)) == [("start", TOKEN)]


def test_a_record_without_end_takes_bounded_memory() -> None:
    _, broker = pair()
    held = 0
    for _ in range(1000):
        broker.receive(b"\xdb\xdc" * 500)
        held = max(held, broker.statistics().held_bytes)
    assert 4096 < held < 10_000
    assert broker.statistics().resets == 1


@given(st.data())
def test_no_damage_ever_delivers_wrong_data_and_the_next_start_always_works(draw: st.DataObject) -> None:
    """Bytes dropped, doubled, flipped, cut and inserted anywhere: each session gets a prefix of what was sent in it."""
    client, broker = pair()
    rng = Random(draw.draw(st.integers(0, 2**32)))
    sent = [rng.randbytes(rng.choice((1, 20, 300))) for _ in range(rng.randrange(1, 12))]
    line = b"".join(map(client.data, sent))
    for _ in range(draw.draw(st.integers(1, 4))):
        line = damage(line, rng)
    got = b""
    for event in broker.receive(line):
        if event.kind != "data":
            break
        got += event.body
    assert b"".join(sent).startswith(got)
    begin(client, broker, OTHER)
    assert data_of(broker.receive(client.data(b"again"))) == b"again"
    assert data_of(client.receive(broker.data(b"and back"))) == b"and back"


@given(st.data())
def test_old_sessions_bytes_are_never_taken_for_data_of_a_new_one(draw: st.DataObject) -> None:
    """A line that repeats itself, over several sessions: all data delivered was sent in the session it is given for."""
    rng = Random(draw.draw(st.integers(0, 2**32)))
    client, broker = SerialLine("client"), SerialLine("broker")
    line, sent = b"", {}
    for number in range(4):
        token = rng.randbytes(8)
        begin(client, SerialLine("broker"), token)
        sent[token] = f"session {number} ".encode() * 3
        line += record(b"c", b"S", token) + b"".join(client.data(bytes((byte,))) for byte in sent[token])
    start, stop = sorted(rng.randrange(len(line)) for _ in range(2))
    session, got = b"", b""
    for event in broker.receive(line[:stop] + line[start:]):
        if event.kind == "start":
            session, got = event.body, b""
            broker.accept(session)
        elif event.kind == "data":
            got += event.body
            assert sent[session].startswith(got)


def damage(line: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(line) + 1)
    stop = min(len(line), start + rng.choice((1, 2, 10, 400)))
    middle = line[start:stop]
    kind = rng.randrange(5)
    if kind == 0:
        return line[:start] + line[stop:]
    if kind == 1:
        return line[:stop] + middle + line[stop:]
    if kind == 2 and middle:
        return line[:start] + bytes((middle[0] ^ 1 << rng.randrange(8),)) + middle[1:] + line[stop:]
    if kind == 3:
        return line[:start]
    return line[:start] + rng.choice((b"\xc0", b"\xdb", b"\0", rng.randbytes(30))) + line[start:]
