"""The grammar of subjects and patterns, and which pattern matches which subject."""

from vectors.case import Json

LONG_TOKEN = "a" * 255
DEEP = ".".join("a" * 16)

# (text, is a subject, is a pattern, why)
GRAMMAR: tuple[tuple[str, bool, bool, str], ...] = (
    ("a", True, True, "one token"),
    ("telemetry.cpu", True, True, "two tokens"),
    ("a-b_c.0.9-_", True, True, "every kind of character"),
    ("0", True, True, "a token may begin with a digit"),
    ("-", True, True, "a token may be one hyphen"),
    (DEEP, True, True, "16 tokens: the limit"),
    (DEEP + ".a", False, False, "17 tokens"),
    (LONG_TOKEN, True, True, "255 bytes: the limit"),
    (LONG_TOKEN + "a", False, False, "256 bytes"),
    (LONG_TOKEN[:126] + "." + LONG_TOKEN[:128], True, True, "255 bytes in two tokens"),
    (LONG_TOKEN[:127] + "." + LONG_TOKEN[:128], False, False, "256 bytes in two tokens"),
    ("$bus.ping", True, True, "the broker's own: valid, and reserved"),
    ("$bus.endpoints.attached", True, True, "the broker's own"),
    ("$bus", True, True, "the first token may be all there is"),
    ("$bus.>", False, True, "everything of the broker's"),
    ("$bus.*", False, True, "the broker's, one token"),
    ("$bus.*.attached", False, True, "the broker's, with a wildcard inside"),
    ("$busy.a", False, False, "$ stands only in the token $bus"),
    ("$sys.a", False, False, "no other token begins with $"),
    ("a.$bus", False, False, "$bus only in first place"),
    ("a.$bus.b", False, False, "$bus only in first place"),
    ("", False, False, "empty"),
    (".", False, False, "two empty tokens"),
    ("a.", False, False, "last token empty"),
    (".a", False, False, "first token empty"),
    ("a..b", False, False, "token in the middle empty"),
    ("A", False, False, "upper case"),
    ("a.Bc", False, False, "upper case"),
    ("a b", False, False, "space"),
    ("a/b", False, False, "slash"),
    ("a\n", False, False, "a final line feed"),
    ("a\x00b", False, False, "NUL"),
    ("\u00e4", False, False, "not ASCII"),
    ("\uff41", False, False, "a look-alike of a (U+FF41)"),
    ("\u0663", False, False, "a digit that is not 0 to 9 (U+0663)"),
    ("*", False, True, "any one token"),
    (">", False, True, "everything (but the broker's)"),
    ("a.*", False, True, "* as last token"),
    ("*.b", False, True, "* as first token"),
    ("*.*.*", False, True, "only *"),
    ("a.>", False, True, "> as last token"),
    ("*.>", False, True, "two tokens or more"),
    (">.a", False, False, "> only as last token"),
    ("a.>.b", False, False, "> only as last token"),
    (">.>", False, False, "> only as last token"),
    ("a*", False, False, "* is a whole token"),
    ("a.*b", False, False, "* is a whole token"),
    ("a>", False, False, "> is a whole token"),
    ("**", False, False, "* is one token"),
    ("a.#", False, False, "# is no wildcard here"),
    (DEEP[:-1] + ">", False, True, "16 tokens, the last one >"),
    (DEEP + ".>", False, False, "17 tokens, the last one >"),
)

# (pattern, subjects it matches, subjects it does not)
MATCHES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("a", ("a",), ("b", "a.a", "aa")),
    ("a.b", ("a.b",), ("a", "b", "a.b.c", "a.c")),
    ("*", ("a", "b", "-"), ("a.b", "$bus.ping")),
    ("*.b", ("a.b", "b.b"), ("a", "b", "a.b.b", "a.a", "$bus.b")),
    ("a.*", ("a.b", "a.a"), ("a", "a.b.c", "b.a")),
    ("a.*.c", ("a.b.c", "a.c.c"), ("a.c", "a.b.b.c", "a.b.d")),
    ("*.*", ("a.b",), ("a", "a.b.c", "$bus.ping")),
    (">", ("a", "a.b", DEEP), ("$bus.ping", "$bus.endpoints.attached")),
    ("a.>", ("a.b", "a.b.c", DEEP), ("a", "b.a", "b")),
    ("*.>", ("a.b", "a.b.c"), ("a", "$bus.ping")),
    ("a.*.>", ("a.b.c", "a.b.c.d"), ("a", "a.b", "b.b.c")),
    ("$bus.>", ("$bus.ping", "$bus.endpoints.attached"), ("a", "bus.ping")),
    ("$bus.*", ("$bus.ping",), ("$bus.endpoints.attached", "a.ping")),
    ("$bus.ping", ("$bus.ping",), ("$bus.list", "ping")),
    ("$bus.*.attached", ("$bus.endpoints.attached",), ("$bus.endpoints.departed", "$bus.attached")),
)


def document() -> Json:
    """subjects.json."""
    return {
        "about": "grammar: is the text a subject (else error 2001), is it a pattern (else 2002). "
        "matches: which subjects a pattern matches.",
        "grammar": [
            {"text": text, "subject": subject, "pattern": pattern, "why": why}
            for text, subject, pattern, why in GRAMMAR
        ],
        "matches": [{"pattern": pattern, "yes": list(yes), "no": list(no)} for pattern, yes, no in MATCHES],
    }
