"""Fuzzing of the reader of recordings.

The invariant: for any bytes, what is read is read or the file is refused with error 6020 or 6021, and nothing else is
raised. What was read of a file that is whole makes a file of the same items again. Nothing is allocated beyond the file
and a little; and it takes time in proportion to the file. Bodies are fuzzed apart as well, under checksums that are
right: mutations of a whole file seldom get past those.
"""

import io
import zlib
from collections.abc import Hashable

import pytest

from buscli.recording import MAGIC, End, Gap, Header, Item, Message, Reader, Writer
from busproto.envelope import pack
from busproto.errors import BusError, Code
from tests.fuzz import driver

pytestmark = pytest.mark.timeout(driver.TIMEOUT)

HEADER = Header("n", "busd/1", "2026-01-31T12:00:00.000000Z", ("a.>",))


def written(header: Header, items: list[Item]) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, header)
    for item in items:
        if isinstance(item, Message):
            writer.message(item)
        elif isinstance(item, Gap):
            writer.gap(item)
        else:
            writer._write([2, round(item.at * 1e6), item.messages, item.gaps])
    return file.getvalue()


def judge(data: bytes) -> Hashable:
    items: list[Item] = []
    refusal: BusError | None = None
    try:
        made = Reader(io.BytesIO(data), "f")
        items.extend(made.items())  # what came before an error stays
    except BusError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code in (Code.RECORDING_UNREADABLE, Code.RECORDING_DAMAGED)
        assert not items or not isinstance(items[-1], End)
        if refusal.code == Code.RECORDING_DAMAGED:
            assert refusal.fields["record"] >= len(items)
            assert 0 <= refusal.fields["offset"] <= len(data)
        return refusal.code, str(refusal.fields["reason"])[:30], min(len(items), 4)
    assert isinstance(items[-1], End)
    again = Reader(io.BytesIO(written(made.header, items)), "g")
    assert (again.header, list(again.items())) == (made.header, items)
    return "whole", min(len(items), 6), tuple(sorted({type(item).__name__ for item in items}))


def judge_bodies(data: bytes) -> Hashable:
    """``data`` cut at each 0xC1, which is no msgpack, as bodies whose checksums are right."""
    file, checksum = MAGIC, 0
    for body in data.split(b"\xc1"):
        length = len(body).to_bytes(4, "big")
        checksum = zlib.crc32(body, zlib.crc32(length, checksum))
        file += length + checksum.to_bytes(4, "big") + body
    return judge(file)


BODIES = (
    pack({"version": 1, "node": "n", "broker": "b", "started": "s", "patterns": ["a.>"]}),
    pack([0, 5, "a.b", None, b"x", None]),
    pack([0, 6, "a.b", {"h": "v", "n": 1}, b"", ["e", "guest", "t", "u", 3]]),
    pack([1, 7, "a.>", None, "r"]),
    pack([1, 7, "a.>", 3, "r"]),
    pack([2, 8, 2, 2]),
)

WHOLE = written(
    HEADER,
    [
        Message(0.1, "a.b", None, b"x", None),
        Message(0.2, "a.c", {"h": 1}, b"y" * 300, ("e", "guest", "t", "u", 1)),
        Gap(0.3, "a.>", 4, "r"),
        End(0.4, 2, 1),
    ],
)

TOKENS = (*BODIES, MAGIC, b"\xc1", b"\xc0", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc7\x00\x01", b"\xd7\xff")


def test_any_file_is_read_or_refused() -> None:
    corpus = (b"", MAGIC, WHOLE, WHOLE[:-1], WHOLE + b"\0", WHOLE[: len(WHOLE) // 2], WHOLE + WHOLE)
    report = driver.run("recording", judge, corpus, executions=6000, tokens=TOKENS)
    assert report.endings > 8


def test_any_body_is_read_or_refused() -> None:
    corpus = (
        b"\xc1".join(BODIES),
        b"\xc1".join(BODIES[:3]),
        BODIES[0],
        b"\xc1".join((BODIES[0], *BODIES[1:5], BODIES[5])),
    )
    report = driver.run("recording-bodies", judge_bodies, corpus, executions=12000, tokens=TOKENS)
    assert report.endings > 20


def test_every_prefix_of_a_whole_file_is_refused() -> None:
    endings = {judge(WHOLE[:length])[0] for length in range(len(WHOLE))}  # type: ignore[index]
    assert endings == {Code.RECORDING_UNREADABLE, Code.RECORDING_DAMAGED}
    assert judge(WHOLE)[0] == "whole"  # type: ignore[index]


def test_a_bomb_costs_next_to_nothing() -> None:
    bombs = (b"\xdd\x00\x00\x00\x40" * 4000, b"\x91" * 100_000, b"\xdf\x00\x00\x00\x40" * 4000, b"\xdd\xff\xff\xff\xff")
    for bomb in bombs:
        data = b"\xc1".join((BODIES[0], bomb))
        assert driver.cpu_seconds(lambda data=data: judge_bodies(data), 0.2) < 0.2  # type: ignore[misc]


def test_the_time_that_it_takes_grows_with_the_file_alone() -> None:
    def made(count: int) -> bytes:
        return written(HEADER, [*(Message(0.0, "a.b", None, b"z", None) for _ in range(count)), End(0.0, count, 0)])

    small, large = made(2000), made(16000)
    seconds = driver.cpu_seconds(lambda: judge(small), 0.001)
    assert driver.cpu_seconds(lambda: judge(large), 24 * seconds) < 24 * seconds
