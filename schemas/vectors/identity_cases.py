"""Who says who a sender is: frames of clients that claim an identity, and what a broker makes of them. It proves its own."""
# ruff: noqa: E501 - one case a line

from typing import Any, Final

from vectors.case import Json, envelope, plain, written

KIND_UNEXPECTED: Final = 1014
MANIFEST_INVALID: Final = 1016
NO_RESPONDERS: Final = (3, 3001)
DENIED: Final = (6, 3004)
"""Status of the reply, and code of the error body in it."""

NODE: Final = ["$bus", "host", "node", "", 0]
"""The five fields of an origin: the broker itself."""

OTHER: Final = ["guest-7", "guest", "acme", "vm-42", 3]
"""The same of a guest."""

PROVEN: Final = {
    "endpoint": "$bus", "boundary": "host", "tenant": "node", "unit": "host", "generation": 9, "uid": 0, "gid": 0, "pid": 1,
    "groups": [0], "started": 1, "cid": 3, "key": "k" * 40, "account": "node",
}  # fmt: skip
"""Everything that a broker proves, as names of entries in a manifest."""

NOT_HELD: Final[tuple[tuple[str, object], ...]] = (
    ("unknown", 99_999), ("own-id", 5), ("zero", 0), ("minus-1", -1), ("2^32", 2**32), ("2^64-1", 2**64 - 1), ("true", True), ("float", 1.0),
    ("string", "guest-7"), ("binary", b"\x01"), ("list", [1]), ("map", {"id": 1}), ("origin", OTHER),
)  # fmt: skip
"""What is not the id of a call that the sender holds."""


def document() -> Json:
    """identity.json."""
    return {
        "about": "Frames that a client sends, and what a broker makes of them. attached: whether the client has said hello (with an empty manifest) "
        "before; if not, the frame is its first. ends: the code of the bye that ends the session, null if it goes on. answers: the replies that come, "
        "as id, status and code of the error body. claims: what the broker keeps of the manifest. delivered: how many of the frame's publishes reach a "
        "subscriber, each with the origin that the broker proved of this client, and with no other. Whatever a frame claims, the client's principal stays as it was.",
        "cases": [*_origins(), *_behalf(), *_manifests(), *_replies()],
    }


def _case(
    name: str,
    *envelopes: list[Any],
    why: str,
    attached: bool = True,
    ends: int | None = None,
    answers: tuple[tuple[int, int, int], ...] = (),
    delivered: int = 0,
    claims: dict[str, Any] | None = None,
) -> Json:
    data = b"".join(envelope(*fields) for fields in envelopes)
    told = {"ends": ends, "answers": [list(answer) for answer in answers], "delivered": delivered}
    return {"name": name, **written(data), "attached": attached, **told, "claims": plain(claims or {}), "why": why}


def _origins() -> list[Json]:
    publish = [3, "a.b", None, b"\xc0"]
    hello = [1, 1, {}]
    return [
        _case("origin-alone", [15, *OTHER], ends=KIND_UNEXPECTED, why="a client says no origin"),
        _case("origin-of-the-broker", [15, *NODE], publish, ends=KIND_UNEXPECTED, why="nor the broker's"),
        _case("origin-then-publish", [15, *OTHER], publish, ends=KIND_UNEXPECTED, why="what stands behind it goes nowhere"),
        _case("origin-then-call", [15, *OTHER], [8, 5, "$bus.ping", 1000, None, b"\xc0"], ends=KIND_UNEXPECTED, why="on calls too"),
        _case("origin-with-a-chain", [15, *OTHER, NODE], publish, ends=KIND_UNEXPECTED, why="nor whom it acts for"),
        _case("origin-behind-a-publish", publish, [15, *OTHER], publish, ends=KIND_UNEXPECTED, delivered=1, why="what stood before it was sent by then, under the true origin"),
        _case("origin-behind-an-appended-field", [*publish, b"\xc4\x01x"], [15, *NODE], publish, ends=KIND_UNEXPECTED, delivered=1,
              why="an appended field that looks like a payload hides nothing"),
        _case("origin-first", [15, *OTHER], hello, attached=False, ends=KIND_UNEXPECTED, why="hello comes first"),
        _case("origin-behind-hello", hello, [15, *NODE], publish, attached=False, ends=KIND_UNEXPECTED, why="nor right after it"),
        _case("welcome-to-itself", [2, 1, "$bus", {"boundary": "host", "tenant": "node"}], publish, ends=KIND_UNEXPECTED, why="only the broker gives names"),
        _case("origin-in-a-publish", [*publish, OTHER], delivered=1, why="an appended field is not looked at"),
        _case("origin-in-headers", [3, "a.b", {"origin": "guest-7", "tenant": "acme", "source": "$bus"}, b"\xc0"], delivered=1,
              why="headers are the sender's own words, and stay that"),
    ]  # fmt: skip


def _behalf() -> list[Json]:
    def call(held: object) -> list[Any]:
        return [8, 5, "a.b", 1000, None, b"\xc0", held]

    return [
        *(_case(f"on-behalf-of-{label}", call(held), answers=((5, *DENIED),), why="not a call that it holds; its own calls are not held by it")
          for label, held in NOT_HELD),
        _case("on-behalf-of-nil", call(None), answers=((5, *NO_RESPONDERS),), why="nil: it calls for itself (and nobody serves that)"),
        _case("on-behalf-of-and-more", [*call(None), "later"], answers=((5, *NO_RESPONDERS),), why="a field that a newer sender appended: ignored"),
        _case("on-behalf-of-a-service-of-the-broker", [8, 5, "$bus.none", 1000, None, b"\xc0", 1], answers=((5, *DENIED),),
              why="it is denied before anyone looks who serves it"),
    ]  # fmt: skip


def _manifests() -> list[Json]:
    owned = {"component": "cache", "owner": "platform"}
    return [
        _case("manifest-claims-all-that-is-proven", [1, 1, PROVEN], attached=False, why="none of it is a claim that a manifest can make"),
        _case("manifest-claims-a-principal", [1, 1, {**owned, "principal": PROVEN}], attached=False, claims=owned, why="the rest of the manifest stays"),
        _case("manifest-claims-to-be-nested", [1, 1, {**owned, "claims": {"tenant": "node"}, "origin": NODE}], attached=False, claims=owned, why="at no depth"),
        _case("hello-with-a-principal-appended", [1, 1, owned, PROVEN, NODE], attached=False, claims=owned, why="appended fields are ignored"),
        _case("manifest-named-as-the-broker", [1, 1, {"component": "$bus"}], attached=False, ends=MANIFEST_INVALID, why="names are a-z, 0-9, - and _"),
        _case("manifest-with-a-look-alike", [1, 1, {"component": "c\u0430che"}], attached=False, ends=MANIFEST_INVALID, why="a Cyrillic letter that looks like a"),
        _case("manifest-again", [1, 1, {"owner": "root"}], ends=KIND_UNEXPECTED, why="a manifest is given once"),
    ]  # fmt: skip


def _replies() -> list[Json]:
    return [
        _case("reply-to-a-call-of-others", [9, 65_537, 0, None, b"\xc0"], why="not the endpoint that got the call: dropped and counted"),
        _case("reply-with-an-origin-appended", [9, 65_537, 0, None, b"\xc0", NODE], why="the same, whatever is appended"),
    ]  # fmt: skip
