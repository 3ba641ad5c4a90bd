"""The golden vectors against our own decoders and encoders: what a second language runs, run by the first."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from busproto import envelope as wire
from busproto.envelope import KIND_NAMES, SKIPPABLE, Decoder
from busproto.errors import ENTRIES, BusError
from busproto.zmtp import ZmtpConnection, ZmtpError
from tests.schemas.vectors_support import VECTORS, data_of, load, value_of

ENVELOPES: list[dict[str, Any]] = load("envelopes.json")["cases"]
BATCHES: list[dict[str, Any]] = load("batches.json")["cases"]
ZMTP: list[dict[str, Any]] = load("zmtp.json")["cases"]
IDENTITY: list[dict[str, Any]] = load("identity.json")["cases"]
CANONICAL = [case for case in ENVELOPES if case.get("canonical")]


def name_of(case: dict[str, Any]) -> str:
    return str(case["name"])


def settled(envelope: list[Any]) -> list[Any]:
    """Payloads of large frames may be views of the frame; compared as bytes."""
    return [bytes(field) if isinstance(field, memoryview) else field for field in envelope]


def as_lists(value: Any) -> Any:
    """``value`` with lists for tuples, at every level."""
    if isinstance(value, dict):
        return {key: as_lists(entry) for key, entry in value.items()}
    return [as_lists(entry) for entry in value] if isinstance(value, list | tuple) else value


def test_files_are_up_to_date() -> None:
    command = [sys.executable, "-m", "vectors.generate", "--check"]
    run = subprocess.run(command, cwd=VECTORS.parent, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr


def test_generator_owes_nothing_to_the_code_under_test() -> None:
    for path in VECTORS.glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.startswith(("import ", "from ")) and "busproto" in line], path


@pytest.mark.parametrize("cases", [ENVELOPES, BATCHES, ZMTP], ids=["envelopes", "batches", "zmtp"])
def test_files_are_well_formed(cases: list[dict[str, Any]]) -> None:
    names = [case["name"] for case in cases]
    assert len(names) == len(set(names)), "names are unique"
    for case in cases:
        assert ("hex" in case) != ("runs" in case)
        assert case["why"]
        assert case["valid"] or case["error"] in ENTRIES


def test_claims_of_identity_are_sound_frames_so_that_a_decoder_cannot_be_what_stops_them() -> None:
    names = [case["name"] for case in IDENTITY]
    assert len(names) == len(set(names)), "names are unique"
    for case in IDENTITY:
        assert set(case) == {"name", "hex", "attached", "ends", "answers", "delivered", "claims", "why"}
        assert case["ends"] in {None, *ENTRIES}
        assert Decoder().decode(data_of(case)).envelopes


def test_every_kind_has_valid_and_invalid_cases() -> None:
    valid = {case["envelope"][0] for case in ENVELOPES if case["valid"]}
    assert set(KIND_NAMES) <= valid
    refused = {case["name"].split("-")[0] for case in ENVELOPES if not case["valid"]}
    assert set(KIND_NAMES.values()) <= refused


@pytest.mark.parametrize("case", ENVELOPES, ids=name_of)
def test_decoder_on_envelope(case: dict[str, Any]) -> None:
    data = data_of(case)
    if case["valid"]:
        batch = Decoder().decode(data)
        assert [settled(read) for read in batch.envelopes] == [value_of(case["envelope"])]
        assert batch.offsets == [0, len(data)]
    else:
        with pytest.raises(BusError) as refusal:
            Decoder().decode(data)
        assert refusal.value.code == case["error"], refusal.value


@pytest.mark.parametrize("case", BATCHES, ids=name_of)
def test_decoder_on_batch(case: dict[str, Any]) -> None:
    data = data_of(case)
    if not case["valid"]:
        with pytest.raises(BusError) as refusal:
            Decoder().decode(data)
        assert refusal.value.code == case["error"], refusal.value
        return
    batch = Decoder().decode(data)
    if "times" in case:
        assert [settled(read) for read in batch.envelopes] == [value_of(case["envelope"])] * case["times"]
    else:
        assert [settled(read) for read in batch.envelopes] == value_of(case["envelopes"])
        assert batch.offsets == case["offsets"]
    assert [place for place, read in enumerate(batch.envelopes) if read[0] in SKIPPABLE] == case["skipped"]


def test_one_decoder_is_not_confused_by_what_it_refused() -> None:
    decoder = Decoder()
    sound = bytes.fromhex("920b07")
    for case in [*ENVELOPES, *BATCHES]:
        if not case["valid"]:
            with pytest.raises(BusError):
                decoder.decode(data_of(case))
            assert decoder.decode(sound).envelopes == [[11, 7]], case["name"]


def test_reading_without_checks_gives_the_same_and_keeps_its_head() -> None:
    """``Decoder.read``, for one's own broker's frames, may take what ``decode`` refuses; what both take is alike."""
    decoder = Decoder()
    sound = bytes.fromhex("920b07")
    for case in [*ENVELOPES, *BATCHES]:
        data = data_of(case)
        if case["valid"]:
            assert as_lists(decoder.read(data)) == Decoder().decode(data).envelopes, case["name"]
            continue
        with suppress(BusError):
            decoder.read(data)
        assert as_lists(decoder.read(sound)) == [[11, 7]], case["name"]


@pytest.mark.parametrize("case", CANONICAL, ids=name_of)
def test_encoder(case: dict[str, Any]) -> None:
    kind, *fields = value_of(case["envelope"])
    encode = getattr(wire, KIND_NAMES[kind])
    if kind == wire.Kind.HELLO:
        fields.reverse()  # hello(manifest, version)
    assert encode(*fields) == data_of(case)


@pytest.mark.parametrize(
    "case", [case for case in ENVELOPES if case["valid"] and case["envelope"][0] in (8, 9, 10)], ids=name_of
)
def test_an_id_is_rewritten_and_nothing_else(case: dict[str, Any]) -> None:
    data = data_of(case)
    before = b"\xc0" * 3
    frame = before + data + b"\xc0"
    head, rest = wire.head_with_id(frame, len(before), 0xFEED)
    rewritten = head + frame[rest : len(before) + len(data)]
    expected = value_of(case["envelope"])
    expected[1] = 0xFEED
    assert Decoder().decode(rewritten).envelopes == [expected]


class Reading:
    """What one ``ZmtpConnection`` makes of a case, in reads of a given size."""

    def __init__(self, case: dict[str, Any], size: int) -> None:
        peers = frozenset({"DEALER" if case["role"] == "server" else "ROUTER"})
        own = "ROUTER" if case["role"] == "server" else "DEALER"
        self.zmtp = ZmtpConnection(case["role"], socket_type=own, peers=peers)
        self.messages: list[bytes] = []
        self.error: int | None = None
        self.sent = bytearray(self.zmtp.data_to_send())
        data = data_of(case)
        try:
            for start in range(0, len(data), size):
                self.messages += [bytes(message) for message in self.zmtp.receive(data[start : start + size])]
        except ZmtpError as error:
            self.messages += [bytes(message) for message in error.frames]
            self.error = error.code
        self.sent += self.zmtp.data_to_send()


@pytest.mark.parametrize("size", [1, 7, 1 << 30], ids=["bytewise", "by-7", "whole"])
@pytest.mark.parametrize("case", ZMTP, ids=name_of)
def test_zmtp(case: dict[str, Any], size: int) -> None:
    reading = Reading(case, size)
    assert reading.error == case["error"]
    assert reading.messages == [data_of(message) for message in case["messages"]]
    if case["valid"]:
        assert reading.zmtp.ready == case["open"]
        replies = bytes.fromhex(case["replies"])
        assert reading.sent.endswith(replies)
        assert (b"\x04PONG" in reading.sent) == bool(replies), "PONG answers PING and nothing else"


def test_zmtp_greeting_and_ready_are_what_the_page_says() -> None:
    for role, own, peer in (("server", "ROUTER", "DEALER"), ("client", "DEALER", "ROUTER")):
        case = next(case for case in ZMTP if case["role"] == role and case["open"])
        sent = bytes(Reading(case, 1 << 30).sent)
        assert sent[0] == 0xFF
        assert sent[9] == 0x7F
        assert sent[10:12] == b"\x03\x01"
        assert sent[12:32] == b"NULL".ljust(20, b"\x00")
        assert sent[32:64] == bytes(32), "as-server is 0 with NULL, and the filler is zero"
        assert sent[64] & 0x07 == 4, "a command, no MORE"
        assert sent[66:72] == b"\x05READY"
        assert b"\x0bSocket-Type" + len(own).to_bytes(4, "big") + own.encode() in sent[72:]
        assert peer.encode() not in sent


def test_readme_names_every_file() -> None:
    text = (VECTORS / "README.md").read_text(encoding="utf-8")
    for path in sorted(VECTORS.glob("*.json")):
        assert f"`{Path(path).name}`" in text
