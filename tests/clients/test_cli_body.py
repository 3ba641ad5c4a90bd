"""Bodies: what is typed becomes msgpack and back without loss, and nothing is sent that was not meant."""

import io
import json
import math
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buscli import body, jsonform
from buscli.output import json_text
from buscli.parser import UsageError
from busproto.envelope import pack, unpack
from busproto.errors import BusError, Code
from busproto.limits import PAYLOAD_BYTES

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary())
    | st.just(msgpack.Timestamp(1_700_000_000, 5))
)
KEYS = (
    st.text() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.sampled_from(["$bytes", "$map", "$ext", "$float"])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)


@given(VALUES)
def test_every_msgpack_value_survives_json(value: Any) -> None:
    text = json_text(jsonform.to_json(value))
    assert jsonform.from_json(json.loads(text)) == value


@given(VALUES)
def test_what_comes_off_the_wire_survives_the_shell(value: Any) -> None:
    """`bus sub` piped into `bus pub --lines` sends the same bytes on, strings that look like JSON apart."""
    wire = pack(value)
    text = json_text(jsonform.to_json(unpack(wire)))
    assert pack(jsonform.parse(text)) == wire


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_floats_that_json_cannot_write(name: str) -> None:
    value = jsonform.parse(json.dumps({"$float": name}))
    assert jsonform.to_json(value) == {"$float": name}
    assert not math.isfinite(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"n": 1}', {"n": 1}),
        ("[1, 2]", [1, 2]),
        ("12", 12),
        ("-1.5e3", -1500.0),
        ("true", True),
        ("null", None),
        ("", None),
        (" \n", None),
        ("hello", "hello"),
        ('"hello"', "hello"),
        ("hello world\n", "hello world"),
        ("two\nlines\n", "two\nlines"),
        ("NaN", "NaN"),
        ("nul", "nul"),
        ("12 apples", "12 apples"),
        ("grüße 🚌", "grüße 🚌"),
        ('{"$bytes": "aGk="}', b"hi"),
        ('{"$map": [[1, "a"], [{"$bytes": ""}, 2]]}', {1: "a", b"": 2}),
        ('{"$ref": "x"}', {"$ref": "x"}),
        ('{"$bytes": "aGk=", "more": 1}', {"$bytes": "aGk=", "more": 1}),
    ],
)
def test_what_a_body_means(text: str, value: Any) -> None:
    assert jsonform.parse(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"n": 1', "begins like JSON"),
        ("{n: 1}", "begins like JSON"),
        ("[1, NaN]", "NaN is not JSON"),
        ('"open', "begins like JSON"),
        ('{"a": 1} {"b": 2}', "Extra data"),
        ('{"$bytes": "!"}', "base64"),
        ('{"$bytes": 5}', "base64"),
        ('{"$float": 1.5}', "NaN"),
        ('{"$float": ["NaN"]}', "NaN"),
        ('{"$map": {"a": 1}}', r"\[key, value\]"),
        ('{"$map": [1]}', r"\[key, value\]"),
        ('{"$map": [[[1], 2]]}', "no lists"),
        ('{"$ext": [128, "aGk="]}', "127"),
        ('{"$ext": "aGk="}', "type"),
        ('{"$ext": [-1, "aGk="]}', "Timestamp"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "digits"),
    ],
)
def test_what_is_no_body(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        jsonform.parse(text)


def arguments(**given: Any) -> Namespace:
    return Namespace(**{"body": None, "file": None, "raw": False, "header": None, "command_name": "pub"} | given)


Stdin = Callable[[bytes], None]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stdin]:
    """Gives standard input a content: a real file, as the code reads its descriptor."""
    with ExitStack() as stack:

        def give(content: bytes) -> None:
            stream = stack.enter_context(tempfile.TemporaryFile("w+b"))
            stream.write(content)
            stream.seek(0)
            monkeypatch.setattr(sys, "stdin", stack.enter_context(io.TextIOWrapper(stream)))

        yield give


def test_the_body_is_the_argument() -> None:
    assert body.read(arguments(body='{"n":1}'), otherwise_stdin=True) == pack({"n": 1})


def test_a_raw_argument_keeps_bytes_that_are_no_text() -> None:
    typed = b"\xff\x00".replace(b"\x00", b"\x01").decode("utf-8", "surrogateescape")  # as the shell hands it over
    assert body.read(arguments(body=typed, raw=True), otherwise_stdin=True) == b"\xff\x01"


def test_the_body_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(bytes(range(256)))
    assert body.read(arguments(file=str(path), raw=True), otherwise_stdin=False) == bytes(range(256))


@pytest.mark.parametrize("given", [{"body": "-"}, {"file": "-"}, {}])
def test_the_body_is_standard_input(stdin: Stdin, given: dict[str, Any]) -> None:
    stdin(b"[1]\n")
    assert body.read(arguments(**given), otherwise_stdin=True) == pack([1])


def test_standard_input_is_left_alone_where_no_body_is_usual(stdin: Stdin) -> None:
    stdin(b"[1]\n")
    assert body.read(arguments(), otherwise_stdin=False) == pack(None)
    assert sys.stdin.read() == "[1]\n"


def test_two_bodies_are_refused() -> None:
    with pytest.raises(UsageError, match="two bodies"):
        body.read(arguments(body="1", file="x"), otherwise_stdin=True)
    with pytest.raises(UsageError, match="two bodies"):
        body.check_lines(arguments(body="1"))
    with pytest.raises(UsageError, match="two bodies"):
        body.check_lines(arguments(body="-", file="x"))


def test_bytes_that_are_no_text_need_raw(stdin: Stdin) -> None:
    stdin(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8") as refusal:
        body.read(arguments(), otherwise_stdin=True)
    assert "--raw" in refusal.value.cures[0]


def test_lines_are_bodies(stdin: Stdin) -> None:
    stdin(b'{"n":1}\nhello\n\n"last without newline"')
    assert [unpack(each) for each in body.read_lines(arguments())] == [{"n": 1}, "hello", None, "last without newline"]


def test_raw_lines_keep_everything_but_their_newline(stdin: Stdin) -> None:
    stdin(b"\xff\r\n\n x ")
    assert list(body.read_lines(arguments(raw=True))) == [b"\xff\r", b"", b" x "]


def test_a_bad_line_is_named_and_those_before_it_were_read(stdin: Stdin) -> None:
    stdin(b'1\n{"n":\n3\n')
    lines = body.read_lines(arguments())
    assert next(lines) == pack(1)
    with pytest.raises(UsageError, match="line 2 of standard input"):
        next(lines)


@pytest.mark.parametrize("reader", [lambda a: body.read(a, otherwise_stdin=True), lambda a: next(body.read_lines(a))])
def test_a_body_longer_than_any_payload_is_refused_without_reading_all_of_it(stdin: Stdin, reader: Any) -> None:
    stdin(b"x" * (PAYLOAD_BYTES + 100))
    with pytest.raises(BusError) as refusal:
        reader(arguments(raw=True))
    assert refusal.value.code == Code.PAYLOAD_TOO_LARGE
    assert str(PAYLOAD_BYTES) in refusal.value.text


def test_a_payload_of_exactly_the_limit_is_read(stdin: Stdin) -> None:
    stdin(b"x" * PAYLOAD_BYTES)
    assert len(body.read(arguments(raw=True), otherwise_stdin=True)) == PAYLOAD_BYTES


def test_headers_are_collected_and_raw_says_what_it_is() -> None:
    assert body.headers_of(arguments(header=[("a", "1"), ("b", "x:y")])) == {"a": "1", "b": "x:y"}
    assert body.headers_of(arguments(raw=True)) == {"datacontenttype": "application/octet-stream"}
    own = arguments(raw=True, header=[("datacontenttype", "image/png")])
    assert body.headers_of(own) == {"datacontenttype": "image/png"}


def test_headers_are_checked_before_anything_is_sent() -> None:
    with pytest.raises(UsageError, match="twice"):
        body.headers_of(arguments(header=[("a", "1"), ("a", "2")]))
    with pytest.raises(BusError, match="a-z") as refusal:
        body.headers_of(arguments(header=[("Trace-Parent", "1")]))
    assert refusal.value.code == Code.HEADERS_INVALID
