"""One envelope a frame: every kind, minimal and full, in canonical and other legal forms, and the ways to get it wrong."""
# ruff: noqa: E501 - one case a line

from typing import Any, Final

from vectors.case import Json, Raw, envelope, mapping, pack, plain, written

MALFORMED: Final = 1010
FIELDS: Final = 1012
HEADERS: Final = 1013
KIND_UNEXPECTED: Final = 1014

NIL: Final = pack(None)
BODY: Final = {
    "code": 3001,
    "name": "no-responders",
    "text": "nobody serves 'a.b'",
    "retryable": True,
    "fields": {"subject": "a.b"},
}

WITHDRAWN: Final = {
    "code": 3010,
    "name": "right-withdrawn",
    "text": "subscribe 'a.>' has ended: no rule allows it",
    "retryable": False,
    "fields": {"action": "subscribe", "subject": "a.>", "reason": "no rule allows it"},
}

BROKER_ONLY: Final = frozenset({2, 15, 16, 17})
"""Kinds that only the broker sends: from a client they decode, and end its session with 1014."""

# kind: (name, its fields as (name, type) pairs). The table of schemas/README.md, written down a second time.
KINDS: Final[dict[int, tuple[str, tuple[tuple[str, str], ...]]]] = {
    1: ("hello", (("version", "version"), ("manifest", "map"))),
    2: ("welcome", (("version", "integer"), ("endpoint", "text"), ("info", "map"))),
    3: ("publish", (("subject", "text"), ("headers", "headers"), ("payload", "payload"))),
    4: ("subscribe", (("id", "id"), ("pattern", "text"), ("options", "map"))),
    5: ("unsubscribe", (("id", "id"), ("subscription", "id"))),
    6: ("serve", (("id", "id"), ("pattern", "text"), ("options", "map"))),
    7: ("unserve", (("id", "id"), ("serve", "id"))),
    8: (
        "call",
        (("id", "id"), ("subject", "text"), ("timeout", "timeout"), ("headers", "headers"), ("payload", "payload")),
    ),
    9: ("reply", (("id", "id"), ("status", "status"), ("headers", "headers"), ("payload", "payload"))),
    10: ("cancel", (("id", "id"),)),
    11: ("ping", (("token", "u32"),)),
    12: ("pong", (("token", "u32"),)),
    13: ("drain", (("grace", "u32"),)),
    14: ("bye", (("body", "map or nil"),)),
    15: (
        "origin",
        (("endpoint", "text"), ("boundary", "text"), ("tenant", "text"), ("unit", "text"), ("generation", "integer")),
    ),
    16: ("gap", (("subscription", "id"), ("count", "integer"), ("reason", "text"))),
    17: ("error", (("ref", "id or nil"), ("body", "map"))),
}

OPTIONAL: Final = {8: 1, 15: 1}
"""Fields that a kind may have behind those: nil is as good as none."""

GOOD: Final[dict[str, Any]] = {
    "version": 1, "map": {}, "text": "a.b", "headers": None, "payload": b"\xc0", "id": 1, "timeout": 1000, "status": 0,
    "u32": 7, "integer": 1, "map or nil": None, "id or nil": None,
}  # fmt: skip

NUMBER_NOT: Final = (("nil", None), ("true", True), ("string", "1"), ("float", 1.0))
ID_NOT: Final = (*NUMBER_NOT, ("minus-1", -1), ("zero", 0), ("2^32", 2**32))
MAP_NOT: Final[tuple[tuple[str, object], ...]] = (
    ("list", []),
    ("string", "x"),
    ("integer", 1),
    ("true", True),
    ("binary", b"\x80"),
)

WRONG: Final[dict[str, tuple[tuple[str, object], ...]]] = {
    "version": (*NUMBER_NOT, ("zero", 0), ("minus-1", -1)),
    "integer": NUMBER_NOT,
    "map": (*MAP_NOT, ("nil", None)),
    "map or nil": MAP_NOT,
    "text": (("nil", None), ("integer", 1), ("binary", b"a.b"), ("list", ["a"])),
    "headers": MAP_NOT,
    "payload": (("nil", None), ("string", "text"), ("list", []), ("integer", 1)),
    "id": ID_NOT,
    "id or nil": NUMBER_NOT[1:],
    "timeout": (*NUMBER_NOT, ("zero", 0), ("minus-1", -1), ("over-24h", 86_400_001)),
    "status": (*NUMBER_NOT, ("minus-1", -1), ("nine", 9)),
    "u32": (*NUMBER_NOT, ("minus-1", -1), ("2^32", 2**32)),
}
"""For each type, what is not of it."""


def document() -> Json:
    """envelopes.json."""
    return {
        "about": "One envelope a frame. valid: whether a reader accepts it; then envelope is what it reads, else error is the code it refuses with "
        "(errors.json). canonical: an encoder that writes shortest forms produces exactly these bytes. from_client: set where the bytes are right "
        "but a client may not send them: the code that ends its session.",
        "cases": [
            *_minimal(),
            *_full(),
            *_other_forms(),
            *_headers(),
            *_shapes(),
            *_wrong_fields(),
            *_control(),
            *_bad_headers(),
            *_bombs(),
        ],
    }


def _valid(name: str, data: bytes, fields: list[Any], why: str, *, canonical: bool = False) -> Json:
    spoof = {"from_client": KIND_UNEXPECTED} if fields[0] in BROKER_ONLY else {}
    return {
        "name": name,
        **written(data),
        "valid": True,
        "envelope": plain(fields),
        "canonical": canonical,
        **spoof,
        "why": why,
    }


def _canonical(name: str, fields: list[Any], why: str) -> Json:
    return _valid(name, envelope(*fields), fields, why, canonical=True)


def _invalid(name: str, data: bytes, error: int, why: str) -> Json:
    return {"name": name, **written(data), "valid": False, "error": error, "why": why}


def _minimal() -> list[Json]:
    return [
        _canonical(f"{name}-minimal", [kind, *(GOOD[type_] for _, type_ in fields)], "every field, nothing more")
        for kind, (name, fields) in KINDS.items()
    ]


def _full() -> list[Json]:
    manifest = {
        "component": "cpu-agent", "version": "1.4.0", "owner": "platform", "purpose": "measures the processors",
        "serves": ["cpu.info"], "publishes": ["telemetry.cpu.*"], "needs": ["$bus.list"],
    }  # fmt: skip
    info = {
        "node": "n1", "broker": "busd 0.1.0", "boundary": "host", "tenant": "node", "unit": "host", "generation": 1,
        "max_payload": 16_777_216, "max_frame": 16_842_752, "max_envelopes": 16_384,
    }  # fmt: skip
    headers = {
        "id": "7",
        "datacontenttype": "application/json",
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    }
    deep = ".".join("a" * 16)
    return [
        _canonical("hello-full", [1, 1, manifest], "every entry of a manifest that the protocol names"),
        _canonical("hello-newer", [1, 9, {"x-new": True}], "a newer client offers its highest version; the broker answers with its own"),
        _canonical("welcome-full", [2, 1, "host-1", info], "every entry of info that the protocol names"),
        _canonical("welcome-guest", [2, 1, "guest-7", {**info, "boundary": "guest", "tenant": "acme", "unit": "vm-42", "generation": 3, "max_envelopes": 1024}],
                   "a tenant may send fewer envelopes in a frame"),
        _canonical("publish-headers", [3, "a.b", headers, b"{}"], "headers, and a payload in their encoding"),
        _canonical("publish-empty-payload", [3, "a.b", None, b""], "a payload may be empty"),
        _canonical("publish-empty-headers", [3, "a.b", {}, b"\xc0"], "an empty map is as good as nil"),
        _canonical("publish-256", [3, "a.b", None, b"p" * 256], "bin 16"),
        _canonical("publish-65536", [3, "a.b", None, b"p" * 65_536], "bin 32"),
        _canonical("publish-300000", [3, "a.b", None, b"p" * 300_000], "larger than any bound but that of the payload"),
        _canonical("publish-long-subject", [3, "s" * 255, None, b"\xc0"], "the longest subject"),
        _canonical("publish-deep-subject", [3, deep, None, b"\xc0"], "the deepest subject"),
        _canonical("publish-presence", [3, "$bus.endpoints.attached", None, pack({"endpoint": "host-1"})], "as the broker publishes it"),
        _canonical("publish-reserved", [3, "$bus.a", None, b"\xc0"], "decodes; from a client the broker refuses it with error 2003"),
        _canonical("publish-bad-subject", [3, "A..b", None, b"\xc0"], "decodes; the broker refuses it with error 2001"),
        _canonical("subscribe-latest", [4, 1, "telemetry.>", {"latest": True}], "the newest per subject"),
        _canonical("subscribe-x-option", [4, 1, "a.*", {"x-mine": 1}], "x- options are ignored"),
        _canonical("subscribe-unknown-option", [4, 1, "a.*", {"oldest": True}], "decodes; refused by a reply with error 2008"),
        _canonical("subscribe-id-max", [4, 2**32 - 1, "a", {}], "the highest id"),
        _canonical("unsubscribe", [5, 2, 1], "its own id, then the subscription's"),
        _canonical("serve-group", [6, 3, "cache.*", {"group": "cache"}], "calls are shared in the group"),
        _canonical("unserve", [7, 4, 3], "its own id, then the id of the serve"),
        _canonical("call-shortest", [8, 5, "cache.get", 1, None, b"\xc0"], "1 ms"),
        _canonical("call-on-behalf", [8, 5, "cache.get", 1000, None, b"\xc0", 65_540], "on behalf of a call that it holds"),
        _canonical("call-on-behalf-max", [8, 5, "cache.get", 1000, headers, b"\xc0", 2**32 - 1], "the highest id"),
        _canonical("call-longest", [8, 5, "cache.get", 86_400_000, headers, b"\xc0"], "24 h"),
        *(
            _canonical(f"reply-{name}", [9, 5, status, None, pack(BODY) if status > 1 else b"\xc0"], why)
            for status, name, why in STATUSES
        ),
        _canonical("cancel-id-max", [10, 2**32 - 1], "the highest id"),
        _canonical("ping-zero", [11, 0], "the lowest token"),
        _canonical("ping-max", [11, 2**32 - 1], "the highest token"),
        _canonical("pong-max", [12, 2**32 - 1], "the highest token"),
        _canonical("drain-now", [13, 0], "no grace"),
        _canonical("bye-error", [14, BODY], "the session ends because of this error"),
        _canonical("origin-full", [15, "cpu-agent-2", "guest", "acme", "vm-42", 3], "an endpoint of a guest"),
        _canonical("origin-on-behalf", [15, "host-2", "host", "node", "host", 1, ["guest-7", "guest", "acme", "vm-42", 3]], "it acts for the call of a guest, which it holds"),
        _canonical("origin-broker", [15, "$bus", "host", "node", "", 0], "the broker itself"),
        _canonical("gap-bytes", [16, 1, 4_294_967_296, "outbox-bytes"], "more than 32 bits may be lost"),
        _canonical("gap-messages", [16, 1, 1, "outbox-messages"], "one lost"),
        _canonical("error-no-ref", [17, None, BODY], "about something that had no id"),
        _canonical("error-ref", [17, 5, BODY], "about request 5"),
        _canonical("error-right-withdrawn", [17, 5, WITHDRAWN], "subscription 5 has ended: the policy was changed"),
    ]  # fmt: skip


STATUSES: Final = (
    (0, "ok", "the reply"), (1, "partial", "more follow"), (2, "error", "the responder's error"), (3, "no-responders", "nobody serves it"),
    (4, "timeout", "no final reply in time"), (5, "cancelled", "the caller cancelled"), (6, "denied", "policy"),
    (7, "overloaded", "a quota is used up"), (8, "unknown", "the responder left"),
)  # fmt: skip


def _other_forms() -> list[Json]:
    """Legal msgpack that an encoder of shortest forms does not write. Readers accept every form."""
    number_forms = {
        "uint8": b"\xcc\x05", "uint16": b"\xcd\x00\x05", "uint32": b"\xce\x00\x00\x00\x05", "uint64": b"\xcf" + bytes(7) + b"\x05",
        "int8": b"\xd0\x05", "int16": b"\xd1\x00\x05", "int32": b"\xd2\x00\x00\x00\x05", "int64": b"\xd3" + bytes(7) + b"\x05",
    }  # fmt: skip
    text_forms = {"str8": b"\xd9\x03a.b", "str16": b"\xda\x00\x03a.b", "str32": b"\xdb\x00\x00\x00\x03a.b"}
    payload_forms = {"bin16": b"\xc5\x00\x01\xc0", "bin32": b"\xc6\x00\x00\x00\x01\xc0"}
    rest = pack("a.b") + pack(1000) + pack(None) + pack(b"\xc0")
    call = [8, 5, "a.b", 1000, None, b"\xc0"]
    publish = [3, "a.b", None, b"\xc0"]
    origin = [15, "host-1", "host", "node", "host", 1]
    later = ["later", {"deep": [[[[1]]]]}, 1.5, None, b"x"]
    return [
        *(_valid(f"call-id-{form}", b"\x96\x08" + data + rest, call, f"id as {form}") for form, data in number_forms.items()),
        *(_valid(f"call-kind-{form}", b"\x96" + data.replace(b"\x05", b"\x08") + b"\x05" + rest, call, f"kind as {form}")
          for form, data in number_forms.items()),
        *(_valid(f"publish-subject-{form}", envelope(3, Raw(data), None, b"\xc0"), publish, f"subject as {form}")
          for form, data in text_forms.items()),
        *(_valid(f"publish-payload-{form}", envelope(3, "a.b", None, Raw(data)), publish, f"payload as {form}")
          for form, data in payload_forms.items()),
        _valid("call-array16", b"\xdc\x00\x06\x08\x05" + rest, call, "the envelope as array 16"),
        _valid("call-array32", b"\xdd\x00\x00\x00\x06\x08\x05" + rest, call, "the envelope as array 32"),
        _valid("subscribe-map16", envelope(4, 1, "a.b", Raw(b"\xde\x00\x00")), [4, 1, "a.b", {}], "options as map 16"),
        _valid("subscribe-map32", envelope(4, 1, "a.b", Raw(b"\xdf" + bytes(4))), [4, 1, "a.b", {}], "options as map 32"),
        _valid("header-float32", envelope(3, "a.b", mapping(("x", Raw(b"\xca\x3f\xc0\x00\x00"))), b"\xc0"), [3, "a.b", {"x": 1.5}, b"\xc0"],
               "a header as float 32"),
        *(_valid(f"{name}-appended", envelope(*good, "later"), [*good, "later"], "a field that a newer sender appended: ignored")
          for name, good in ((name, [kind, *(GOOD[type_] for _, type_ in fields), *[None] * OPTIONAL.get(kind, 0)])
                             for kind, (name, fields) in KINDS.items())),
        _valid("call-on-behalf-nil", envelope(*call, None), [*call, None], "nil: for itself"),
        _valid("origin-on-behalf-nil", envelope(*origin, None), [*origin, None], "nil: for itself"),
        *(_valid(f"call-on-behalf-{label}", envelope(*call, value), [*call, value], "decodes; a broker denies the call (identity.json)")
          for label, value in (("zero", 0), ("minus-1", -1), ("string", "x"), ("float", 1.5), ("list", [1]))),
        _valid("publish-appended-anything", envelope(*publish, *later), [*publish, *later], "appended fields may be of any type"),
        _valid("ping-15-fields", envelope(11, 7, *[None] * 13), [11, 7, *[None] * 13], "15 fields: the limit"),
    ]  # fmt: skip


def _headers() -> list[Json]:
    def good(name: str, headers: dict[str, Any], why: str) -> Json:
        return _canonical(f"headers-{name}", [3, "a.b", headers, b"\xc0"], why)

    return [
        good(
            "kinds",
            {"s": "text", "i": -7, "u": 2**64 - 1, "f": 1.5, "t": True, "n": False, "b": b"\x00\xff"},
            "every kind of value",
        ),
        good("names", {"a-b_c0": "", "-": "", "0": ""}, "every kind of character in a name"),
        good("unicode", {"x": "gr\u00fc\u00df \U0001f41d"}, "values are any UTF-8"),
        good("name-64", {"n" * 64: "x"}, "the longest name"),
        good("32", {f"h{n}": n for n in range(32)}, "as many as there may be"),
        good("value-4096", {"x": "v" * 4096}, "the longest value"),
        good("value-4096-binary", {"x": b"v" * 4096}, "the longest value"),
        good("8192", {"a": "v" * 4095, "b": "v" * 4095}, "8192 bytes of names and values"),
        _canonical("headers-on-call", [8, 5, "a.b", 1000, {"x": 1}, b"\xc0"], "calls carry headers"),
        _canonical("headers-on-reply", [9, 5, 0, {"x": 1}, b"\xc0"], "replies carry headers"),
    ]


def _shapes() -> list[Json]:
    """What is no envelope at all, and envelopes of a wrong length or kind."""
    whole = envelope(3, "a.b", None, b"\xc0")
    cut = [
        _invalid(f"publish-cut-at-{size}", whole[:size], MALFORMED, f"the first {size} of {len(whole)} bytes")
        for size in range(1, len(whole))
    ]
    return [
        *cut,
        _invalid("nil", b"\xc0", MALFORMED, "not an array"),
        _invalid("integer", b"\x03", MALFORMED, "not an array"),
        _invalid("string", pack("publish"), MALFORMED, "not an array"),
        _invalid("map", pack({"kind": 3}), MALFORMED, "not an array"),
        _invalid("text-protocol", b"PUB a.b\r\n", MALFORMED, "not msgpack: 'P' reads as the integer 80"),
        _invalid("json", b'[11, 7]', MALFORMED, "JSON is not msgpack"),
        _invalid("never-used", b"\xc1", MALFORMED, "C1 is no msgpack"),
        _invalid("never-used-inside", b"\x92\x0b\xc1", MALFORMED, "C1 is no msgpack"),
        _invalid("no-fields", b"\x90", MALFORMED, "an empty array has no kind"),
        _invalid("kind-nil", envelope(None, 7), MALFORMED, "the kind is an integer"),
        _invalid("kind-true", envelope(True, 7), MALFORMED, "true is not 1"),
        _invalid("kind-string", envelope("11", 7), MALFORMED, "the kind is an integer"),
        _invalid("kind-float", envelope(11.0, 7), MALFORMED, "the kind is an integer"),
        _invalid("kind-array", envelope([11], 7), MALFORMED, "the kind is an integer"),
        *(_invalid(f"kind-{kind}", envelope(kind, 7), FIELDS, "not a kind, and not one that may be skipped")
          for kind in (0, -1, 18, 63, 128, 2**32, 2**64 - 1)),
        *(_invalid(f"{name}-only-kind", envelope(kind), FIELDS, "no field after the kind") for kind, (name, _) in KINDS.items()),
        *(_invalid(f"{name}-one-short", envelope(kind, *(GOOD[type_] for _, type_ in fields[:-1])), FIELDS, "the last field is missing")
          for kind, (name, fields) in KINDS.items() if len(fields) > 1),
        _invalid("ping-16-fields", b"\xdc\x00\x10\x0b\x07" + b"\xc0" * 14, FIELDS, "at most 15 fields"),
        _invalid("skippable-16-fields", b"\xdc\x00\x10\x40" + b"\xc0" * 15, FIELDS, "the bound holds for kinds that may be skipped"),
    ]  # fmt: skip


def _wrong_fields() -> list[Json]:
    """Each field of each kind, with each value that is not of its type."""
    cases = []
    for kind, (name, fields) in KINDS.items():
        good = [GOOD[type_] for _, type_ in fields]
        for place, (field, type_) in enumerate(fields):
            for label, value in WRONG[type_]:
                data = envelope(kind, *good[:place], value, *good[place + 1 :])
                cases.append(_invalid(f"{name}-{field}-{label}", data, FIELDS, f"{field}: not {label}"))
    return cases


def _control(bound: int = 256) -> list[Json]:
    """Manifests, options and error bodies: how much, how deep, of what."""
    names = {f"k{n}": None for n in range(bound)}

    def values(count: int) -> dict[str, Any]:
        """A manifest that is ``count`` values: itself, and lists of numbers. A map's entry counts once."""
        full, rest = divmod(count - 1, bound)
        rows = {f"x-{n}": [0] * (bound - 1) for n in range(full)}
        return {**rows, "x-rest": [0] * (rest - 1)} if rest else rows

    def bad(name: str, manifest: object, why: str, error: int = FIELDS) -> Json:
        return _invalid(f"control-{name}", envelope(1, 1, manifest), error, why)

    return [
        _canonical("control-256-entries", [1, 1, names], "as many entries as there may be"),
        _canonical("control-256-in-list", [1, 1, {"serves": ["a"] * bound}], "as many entries as there may be"),
        _canonical("control-4-levels", [1, 1, {"a": {"b": {"c": {"d": 1}}}}], "as deep as it may be"),
        _canonical("control-1024-values", [1, 1, values(1024)], "as many values as there may be, all levels together"),
        bad("1025-values", values(1025), "at most 1024 values, all levels together"),
        _canonical("control-4096", [1, 1, {"purpose": "p" * 4096}], "the longest value"),
        bad("5-levels", {"a": {"b": {"c": {"d": {"e": 1}}}}}, "at most 4 levels"),
        bad("5-levels-lists", {"a": [[[[1]]]]}, "at most 4 levels"),
        bad("257-entries", {**names, "one-more": None}, "at most 256 entries", MALFORMED),
        bad("257-in-list", {"serves": ["a"] * (bound + 1)}, "at most 256 entries", MALFORMED),
        bad("4097-string", {"purpose": "p" * 4097}, "at most 4096 bytes a value", MALFORMED),
        bad("4097-binary", {"purpose": b"p" * 4097}, "at most 4096 bytes a value"),
        bad("4097-multibyte", {"purpose": "\u00fc" * 2049}, "bytes count, not characters", MALFORMED),
        bad("key-integer", mapping((1, 1)), "keys are strings", MALFORMED),
        bad("key-binary", mapping((b"a", 1)), "keys are strings"),
        bad("key-nil", mapping((None, 1)), "keys are strings", MALFORMED),
        bad("key-list", mapping(([1], 1)), "keys are strings", MALFORMED),
        bad("ext", mapping(("a", Raw(b"\xd4\x05\x00"))), "no ext types", MALFORMED),
        bad("ext-empty", mapping(("a", Raw(b"\xc7\x00\x05"))), "no ext types"),
        bad("timestamp", mapping(("a", Raw(b"\xd6\xff" + bytes(4)))), "a timestamp is an ext type", MALFORMED),
        bad("bad-utf8", mapping(("a", Raw(b"\xa2\xc3\x28"))), "strings are UTF-8", MALFORMED),
        bad("surrogate", mapping(("a", Raw(b"\xa3\xed\xa0\x80"))), "a lone surrogate is no UTF-8", MALFORMED),
        bad("key-bad-utf8", mapping((Raw(b"\xa2\xc3\x28"), 1)), "strings are UTF-8", MALFORMED),
        _invalid("subject-bad-utf8", envelope(3, Raw(b"\xa2\xc3\x28"), None, b"\xc0"), MALFORMED, "strings are UTF-8"),
        _invalid("payload-ext", envelope(3, "a.b", None, Raw(b"\xd4\x05\x00")), MALFORMED, "a payload is bin"),
        _invalid(
            "subscribe-deep-option", envelope(4, 1, "a", {"x-a": [[[[1]]]]}), FIELDS, "options have the same bounds"
        ),
        _invalid("serve-deep-option", envelope(6, 1, "a", {"x-a": [[[[1]]]]}), FIELDS, "options have the same bounds"),
        _invalid(
            "bye-deep-body", envelope(14, {"fields": {"a": [[[1]]]}}), FIELDS, "error bodies have the same bounds"
        ),
        _invalid(
            "error-deep-body",
            envelope(17, None, {"fields": {"a": [[[1]]]}}),
            FIELDS,
            "error bodies have the same bounds",
        ),
        _invalid("welcome-deep-info", envelope(2, 1, "host-1", {"a": [[[[1]]]]}), FIELDS, "info has the same bounds"),
    ]


def _bad_headers() -> list[Json]:
    def bad(name: str, headers: object, why: str, error: int = HEADERS) -> Json:
        return _invalid(f"headers-{name}", envelope(3, "a.b", headers, b"\xc0"), error, why)

    return [
        bad("33", {f"h{n}": n for n in range(33)}, "at most 32"),
        bad("257", {f"h{n}": n for n in range(257)}, "at most 32", MALFORMED),
        bad("name-65", {"n" * 65: "x"}, "a name has at most 64 bytes"),
        bad("name-empty", {"": "x"}, "a name has at least 1 byte"),
        bad("name-upper", {"Id": "x"}, "lower case"),
        bad("name-dot", {"a.b": "x"}, "no dots"),
        bad("name-space", {"a b": "x"}, "no spaces"),
        bad("name-newline", {"a\n": "x"}, "no line feeds"),
        bad("name-unicode", {"\u00e4": "x"}, "ASCII only"),
        bad("name-integer", mapping((1, "x")), "a name is a string", MALFORMED),
        bad("name-binary", mapping((b"a", "x")), "a name is a string"),
        bad("name-bad-utf8", mapping((Raw(b"\xa2\xc3\x28"), "x")), "strings are UTF-8", MALFORMED),
        bad("value-nil", {"x": None}, "a value is string, integer, float, boolean or binary"),
        bad("value-list", {"x": ["y"]}, "headers are flat"),
        bad("value-map", {"x": {}}, "headers are flat"),
        bad("value-4097", {"x": "v" * 4097}, "a value has at most 4096 bytes", MALFORMED),
        bad("value-4097-binary", {"x": b"v" * 4097}, "a value has at most 4096 bytes"),
        bad("8193", {"a": "v" * 4096, "b": "v" * 4095}, "names and values have at most 8192 bytes"),
        bad("8193-multibyte", {"a": "\u00fc" * 2048, "b": "\u00fc" * 2047, "c": "vv"}, "bytes count, not characters"),
        bad("value-ext", mapping(("x", Raw(b"\xd4\x05\x00"))), "no ext types", MALFORMED),
        bad("value-bad-utf8", mapping(("x", Raw(b"\xa2\xc3\x28"))), "strings are UTF-8", MALFORMED),
        _invalid("headers-bad-on-call", envelope(8, 5, "a.b", 1000, {"X": 1}, b"\xc0"), HEADERS, "the same on calls"),
        _invalid("headers-bad-on-reply", envelope(9, 5, 0, {"X": 1}, b"\xc0"), HEADERS, "the same on replies"),
    ]


def _bombs() -> list[Json]:
    """Small frames that declare or nest much: refused before memory is spent on what they claim."""
    huge = b"\xff\xff\xff\xff"
    return [
        _invalid("array32-declared", b"\xdd" + huge + b"\x0b\x07", MALFORMED, "an array of 2^32-1"),
        _invalid("map32-declared", b"\x93\x01\x01\xdf" + huge, MALFORMED, "a map of 2^32-1"),
        _invalid("list32-declared", envelope(1, 1, mapping(("a", Raw(b"\xdd" + huge)))), MALFORMED, "a list of 2^32-1"),
        _invalid("str32-declared", b"\x94\x03\xdb" + huge + b"a.b", MALFORMED, "a string of 2^32-1"),
        _invalid("bin32-declared", b"\x94\x03\xa3a.b\xc0\xc6" + huge + b"x", MALFORMED, "a payload of 2^32-1"),
        _invalid("ext32-declared", b"\x94\x03\xa3a.b\xc0\xc9" + huge + b"\x05x", MALFORMED, "an ext of 2^32-1"),
        _invalid("nested-1000", b"\x93\x01\x01" + b"\x91" * 1000 + b"\xc0", FIELDS, "1000 lists in one another"),
        _invalid("nested-60000", b"\x93\x01\x01" + b"\x91" * 60_000, MALFORMED, "60000 lists in one another"),
        _invalid("nested-60000-arrays", b"\x91" * 60_000, MALFORMED, "60000 arrays in one another"),
        _invalid(
            "nested-wide",
            b"\x93\x01\x01" + b"\xdc\x01\x00" * 20_000,
            MALFORMED,
            "20000 lists of 256, each in the first of another",
        ),
        _invalid(
            "nested-array32",
            b"\x93\x01\x01" + (b"\xdd\x00\xff\xff\xff") * 1000,
            MALFORMED,
            "1000 lists that declare 2^24-1",
        ),
        _invalid(
            "nested-maps", b"\x93\x01\x01" + b"\x81\xa1a" * 15_000 + b"\xc0", MALFORMED, "15000 maps in one another"
        ),
    ]
