"""Recordings: what is written is read back, and whatever is wrong with a file is said, never misread."""

import io
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from buscli.parser import UsageError
from buscli.recording import BODY_BYTES, MAGIC, End, Gap, Header, Item, Message, Reader, Writer
from buscli.recordingfile import create
from busproto.envelope import pack
from busproto.errors import BusError, Code
from busproto.limits import PAYLOAD_BYTES

HEADER = Header("node-1", "busd/1", "2026-01-31T12:00:00.000000Z", ("a.>", "$bus.>"))
ITEMS: tuple[Item, ...] = (
    Message(0.0, "a.b", None, b"", None),
    Message(
        0.25,
        "a.b",
        {"h": "x", "n": 1, "f": 1.5, "b": b"\0", "t": True},
        b"\x81\xa1n\x01",
        ("g-1", "guest", "t", "vm", 7),
    ),
    Gap(0.5, "a.>", 12, "outbox-bytes"),
    Gap(0.5, "a.>", None, "reconnected"),
    Message(2.000001, "$bus.endpoints.attached", None, b"\xc0", ("$bus", "host", "node", "", 0)),
)


def recorded(tmp_path: Path, *items: Item, end: bool = True) -> bytes:
    path = tmp_path / "made.rec"
    path.unlink(missing_ok=True)
    with create(path, force=False) as file:
        writer = Writer(file, HEADER)
        for item in items:
            if isinstance(item, Message):
                writer.message(item)
            elif isinstance(item, Gap):
                writer.gap(item)
        if end:
            writer.end(3.0)
        assert writer.size == file.tell()
    return path.read_bytes()


def reader(data: bytes) -> Reader:
    return Reader(io.BytesIO(data), "x.rec")


def read(data: bytes) -> list[Item]:
    return list(reader(data).items())


def frames(data: bytes) -> list[int]:
    """Where each frame begins, and where the last one ends."""
    places = [len(MAGIC)]
    while places[-1] < len(data):
        places.append(places[-1] + 8 + int.from_bytes(data[places[-1] : places[-1] + 4], "big"))
    return places


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    data = recorded(tmp_path, *ITEMS)
    made = reader(data)
    assert made.header == HEADER
    assert list(made.items()) == [*ITEMS, End(3.0, 3, 2)]
    assert list(made.items()) == list(made.items()), "it can be read again"


def test_two_walks_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    made = reader(recorded(tmp_path, *ITEMS))
    assert [pair[0] == pair[1] for pair in zip(made.items(), made.items(), strict=True)] == [True] * 6


def test_the_largest_payload_fits(tmp_path: Path) -> None:
    message = Message(0.0, "a." + "x" * 250, {f"h{n}": "y" * 200 for n in range(32)}, b"z" * PAYLOAD_BYTES, None)
    assert read(recorded(tmp_path, message))[0] == message


def test_a_file_cut_anywhere_is_torn_and_what_is_before_is_right(tmp_path: Path) -> None:
    data = recorded(tmp_path, *ITEMS)
    places = frames(data)
    for length in range(len(data)):
        got: list[Item] = []
        with pytest.raises(BusError) as refusal:
            got.extend(reader(data[:length]).items())
        if length < len(MAGIC):
            assert refusal.value.code == Code.RECORDING_UNREADABLE
            continue
        assert refusal.value.code == Code.RECORDING_DAMAGED
        whole = sum(place <= length for place in places[1:])
        assert refusal.value.fields["record"] == whole, length
        assert got == list(ITEMS[: max(0, whole - 1)])
        assert "torn" in str(refusal.value) or whole == 0


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    data = recorded(tmp_path, *ITEMS)
    places = frames(data)
    for place in range(len(data)):
        for change in (1, 0x80):
            broken = bytearray(data)
            broken[place] ^= change
            with pytest.raises(BusError) as refusal:
                read(bytes(broken))
            if place >= len(MAGIC):
                assert refusal.value.code == Code.RECORDING_DAMAGED
                assert refusal.value.fields["record"] == sum(start <= place for start in places) - 1


@pytest.mark.parametrize(
    "mangle",
    [
        lambda parts: [*parts[:2], *parts[3:]],  # one is missing
        lambda parts: [*parts[:2], parts[2], *parts[2:]],  # one is there twice
        lambda parts: [parts[0], parts[2], parts[1], *parts[3:]],  # two have changed places
        lambda parts: [*parts, parts[-1]],  # something follows
        lambda parts: [*parts, b"\0" * 8],
    ],
)
def test_records_that_are_whole_but_not_in_their_place_are_found(
    mangle: Callable[[list[bytes]], list[bytes]], tmp_path: Path
) -> None:
    data = recorded(tmp_path, *ITEMS)
    places = frames(data)
    parts = [data[start:stop] for start, stop in pairwise(places)]
    with pytest.raises(BusError) as refusal:
        read(MAGIC + b"".join(mangle(parts)))
    assert refusal.value.code == Code.RECORDING_DAMAGED


def sealed(*bodies: bytes) -> bytes:
    """A file of any bodies, with right checksums."""
    data, checksum = MAGIC, 0
    for body in bodies:
        length = len(body).to_bytes(4, "big")
        checksum = zlib.crc32(body, zlib.crc32(length, checksum))
        data += length + checksum.to_bytes(4, "big") + body
    return data


HEAD = pack({"version": 1, "node": "n", "broker": "b", "started": "s", "patterns": []})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        pack(None),
        pack([]),
        pack([0]),
        pack([9, 1]),
        pack([0, -1, "a", None, b"", None]),
        pack([0, 1.5, "a", None, b"", None]),
        pack([0, 2**63, "a", None, b"", None]),
        pack([0, 0, "A", None, b"", None]),
        pack([0, 0, "a.*", None, b"", None]),
        pack([0, 0, "a", {"Bad": 1}, b"", None]),
        pack([0, 0, "a", {"h": None}, b"", None]),
        pack([0, 0, "a", {"h": [1]}, b"", None]),
        pack([0, 0, "a", {f"h{n}": 1 for n in range(33)}, b"", None]),
        pack([0, 0, "a", None, "text", None]),
        pack([0, 0, "a", None, b"", ["e"]]),
        pack([0, 0, "a", None, b"", ["e", "b", "t", "u", -1]]),
        pack([0, 0, "a", None, b"", "abcde"]),
        pack([0, 0, "a", None, b""]),
        pack([0, 0, "a", None, b"", None, 1]),
        pack([1, 0, "a..b", 1, "r"]),
        pack([1, 0, "a", -1, "r"]),
        pack([1, 0, "a", 1, "r" * 2000]),
        pack([2, 0, 1, 0]),
        pack([2, 0, 0]),
    ],
    ids=lambda body: body[:20].hex(),
)
def test_bodies_with_right_checksums_that_are_no_records(body: bytes) -> None:
    with pytest.raises(BusError) as refusal:
        read(sealed(HEAD, body, pack([2, 0, 0, 0])))
    assert (refusal.value.code, refusal.value.fields["record"]) == (Code.RECORDING_DAMAGED, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"PK\x03\x04not a recording", "does not begin"),
        (MAGIC.replace(b"\r\n", b"\n") + b"x", "does not begin"),
        (sealed(pack({"version": 2})), "version 2"),
    ],
)
def test_what_is_no_recording_of_ours_is_said_to_be_none(data: bytes, reason: str) -> None:
    with pytest.raises(BusError, match=reason) as refusal:
        reader(data)
    assert (refusal.value.code, refusal.value.fields["path"]) == (Code.RECORDING_UNREADABLE, "x.rec")


@pytest.mark.parametrize("head", [{}, {"version": True}, {"version": 1}, [], {"version": 1, "patterns": [1]}], ids=repr)
def test_a_header_that_is_none_is_damage(head: object) -> None:
    with pytest.raises(BusError) as refusal:
        reader(sealed(pack(head)))
    assert refusal.value.code == Code.RECORDING_DAMAGED


def test_time_does_not_run_backwards() -> None:
    later, earlier = (pack([0, at, "a", None, b"", None]) for at in (5, 4))
    with pytest.raises(BusError, match="earlier") as refusal:
        read(sealed(HEAD, later, earlier, pack([2, 9, 2, 0])))
    assert refusal.value.fields["record"] == 2


def test_a_length_that_the_file_does_not_hold_is_refused_before_anything_is_read() -> None:
    class Counting(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.most = max(self.most, len(self.getbuffer()) if size is None or size < 0 else size)
            return super().read(size)

    for length in (BODY_BYTES, BODY_BYTES + 1, 2**32 - 1):
        file = Counting(sealed(HEAD) + length.to_bytes(4, "big") + b"\0" * 4)
        with pytest.raises(BusError) as refusal:
            list(Reader(file, "x.rec").items())
        assert refusal.value.fields["record"] == 1
        assert file.most < 200


# -- the file ----------------------------------------------------------------------------------------------------------


def test_it_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    create(path, force=False).close()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"kept")
    with pytest.raises(UsageError, match="is there already"):
        create(path, force=False)
    assert path.read_bytes() == b"kept"
    with create(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["x.rec"]


def test_force_replaces_plain_files_only(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    link = tmp_path / "link"
    link.symlink_to(target)
    (tmp_path / "folder").mkdir()
    for path in (link, tmp_path / "folder", Path("/dev/null")):
        for force in (True, False):
            with pytest.raises(UsageError, match="no plain file"):
                create(path, force=force)
    assert target.read_bytes() == b"kept"
