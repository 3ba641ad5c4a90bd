"""Several envelopes a frame, and none: where each begins, what may be skipped, and one bad envelope among good ones."""
# ruff: noqa: E501 - one case a line

from typing import Any, Final

from vectors.case import Json, envelope, plain, written

MALFORMED: Final = 1010
TOO_MANY: Final = 1011
FIELDS: Final = 1012
HEADERS: Final = 1013
KIND_UNEXPECTED: Final = 1014


WORDY: Final = [64, [b"s" * 4000] * 10]
"""A kind that may be skipped, with 40 KB in a list."""


def document() -> Json:
    """batches.json."""
    return {
        "about": "Several envelopes a frame, and none. envelopes: what a reader reads; offsets: where each begins, and the frame's length. Kinds 64 to 127 "
        "are listed in skipped (places in envelopes): a reader that does not know them ignores them.",
        "cases": [*_good_batches(), *_bad_batches()],
    }


def _good_batches() -> list[Json]:
    hello = [1, 1, {"component": "a"}]
    publish = [3, "a.b", None, b"\xc0"]
    return [
        _batch("one", [publish], "a batch of one"),
        _batch("hello-and-requests", [hello, [4, 1, "a.>", {}], [8, 2, "$bus.ping", 1000, None, b"\xc0"]], "a client need not wait for welcome"),
        _batch("origin-then-publishes", [[15, "host-1", "host", "node", "host", 1], publish, publish], "the origin holds until the frame's end", KIND_UNEXPECTED),
        _batch("two-origins", [[15, "host-1", "host", "node", "host", 1], publish, [15, "host-2", "host", "node", "host", 1], publish],
               "the next origin replaces the one before", KIND_UNEXPECTED),
        _batch("gap-then-publish", [[15, "$bus", "host", "node", "", 0], [16, 1, 12, "outbox-messages"], publish], "the gap stands before what came next", KIND_UNEXPECTED),
        _batch("skippable-lowest", [[64, "anything", {"at": ["all"]}], publish], "kind 64 is skipped"),
        _batch("skippable-highest", [publish, [127, None]], "kind 127 is skipped"),
        _batch("skippable-only-kind", [[100], publish], "a kind that may be skipped may have any fields"),
        _batch("64-pings", [[11, n] for n in range(64)], "64 envelopes"),
        _batch("mixed-lengths", [[3, "a", None, b"x" * size] for size in (0, 1, 31, 32, 255, 256, 1000)], "short and long payloads"),
        _batch("16384", [[11, 1]] * 16_384, "as many as there may be"),
        _batch("large-among-small", [publish, [3, "a.b", None, b"L" * 200_000], publish, [11, 7]], "a large payload between small envelopes"),
        _batch(
            "hidden-behind-an-appended-field",
            [[*publish, b"\xc4\x01x"], [*publish, b"\xc4\x28x"], [15, "$bus", "host", "node", "", 0], [3, "a.b", None, b"hidden here"]],
            "the appended fields look like payloads of one byte and of 40: who compares bytes instead of reading them misses an origin",
            KIND_UNEXPECTED,
        ),
        _batch("structure-under-128k", [WORDY] * 3 + [publish], "120 KB of values besides the envelopes' own strings"),
        _batch("many-over-128k", [[3, "a.b", None, b"p" * 1000]] * 140, "a frame of more than 128 KiB made of small envelopes"),
    ]  # fmt: skip


def _bad_batches() -> list[Json]:
    publish = envelope(3, "a.b", None, b"\xc0")

    def bad(name: str, data: bytes, error: int, why: str) -> Json:
        return {"name": name, **written(data), "valid": False, "error": error, "why": why}

    return [
        bad("empty-frame", b"", MALFORMED, "a frame holds at least one envelope"),
        bad("trailing-never-used", publish + b"\xc1", MALFORMED, "all of the frame is envelopes"),
        bad("trailing-nil", publish + b"\xc0", MALFORMED, "all of the frame is envelopes"),
        bad("trailing-zero", publish + b"\x00", MALFORMED, "all of the frame is envelopes"),
        bad("trailing-newline", publish + b"\n", MALFORMED, "all of the frame is envelopes"),
        bad("trailing-array-header", publish + b"\x94", MALFORMED, "the second envelope ends in the middle"),
        bad("second-cut", publish + publish[:-1], MALFORMED, "the second envelope ends in the middle"),
        bad("second-wrong-fields", publish + envelope(11, "7"), FIELDS, "one wrong envelope refuses the frame"),
        bad("second-unknown-kind", publish + envelope(63, 7), FIELDS, "one unknown kind refuses the frame"),
        bad(
            "second-bad-headers",
            publish + envelope(3, "a.b", {"X": 1}, b"\xc0"),
            HEADERS,
            "headers of every envelope are checked",
        ),
        bad("16385", envelope(11, 1) * 16_385, TOO_MANY, "one more than there may be"),
        bad("16385-skippable", envelope(64, 1) * 16_385, TOO_MANY, "the bound counts what is skipped"),
        bad("large-cut", envelope(3, "a.b", None, b"L" * 200_000)[:-1], MALFORMED, "the payload ends in the middle"),
        bad(
            "large-trailing",
            envelope(3, "a.b", None, b"L" * 200_000) + b"\xc0",
            MALFORMED,
            "all of the frame is envelopes",
        ),
        bad(
            "large-second-wrong",
            envelope(3, "a.b", None, b"L" * 200_000) + envelope(11, "7"),
            FIELDS,
            "one wrong envelope refuses the frame",
        ),
        bad(
            "large-bad-headers",
            envelope(3, "a.b", {"X": 1}, b"L" * 200_000),
            HEADERS,
            "large or small, the same checks",
        ),
        bad(
            "large-payload-string",
            envelope(3, "a.b", None, "L" * 200_000),
            MALFORMED,
            "a payload is bin; no string is that long",
        ),
    ]


def _batch(name: str, envelopes: list[list[Any]], why: str, from_client: int | None = None) -> Json:
    encoded = [envelope(*fields) for fields in envelopes]
    offsets = [0]
    for data in encoded:
        offsets.append(offsets[-1] + len(data))
    spoof = {"from_client": from_client} if from_client else {}
    repeated = envelopes[1:] == envelopes[:-1] and len(envelopes) > 64
    read = (
        {"envelope": plain(envelopes[0]), "times": len(envelopes)}
        if repeated
        else {"envelopes": plain(envelopes), "offsets": offsets}
    )
    skipped = [place for place, fields in enumerate(envelopes) if 64 <= fields[0] <= 127]
    return {"name": name, **written(b"".join(encoded)), "valid": True, **read, "skipped": skipped, **spoof, "why": why}
