"""Lines of components: cut, kept and let through, each within its bound."""

import pytest

from busd.components.supervisor.logs import ANSWER_BYTES, LINE_BYTES, RING_LINES, Ring, Sieve, Splitter
from busd.components.supervisor.output import Output


def test_lines_are_whole_wherever_the_stream_was_cut() -> None:
    text = b"one\ntwo\r\n\nfour"
    for cut in range(len(text) + 1):
        splitter = Splitter()
        lines = splitter.feed(text[:cut]) + splitter.feed(text[cut:]) + splitter.end()
        assert lines == [b"one", b"two", b"", b"four"]
        assert splitter.end() == []


@pytest.mark.parametrize("size", [LINE_BYTES + 1, LINE_BYTES + 50, 100_000, 10_000_000])
@pytest.mark.parametrize("chunk", [1000, 65536, 1 << 24])
def test_a_line_without_end_is_cut_and_says_by_how_much(size: int, chunk: int) -> None:
    splitter = Splitter()
    text = b"x" * size + b"\nnext\n"
    lines = [line for at in range(0, len(text), chunk) for line in splitter.feed(text[at : at + chunk])]
    assert len(lines) == 2
    assert len(lines[0]) <= LINE_BYTES
    kept, _, note = lines[0].partition(b" ...(+")
    assert len(kept) + int(note.removesuffix(b" bytes)")) == size
    assert lines[1] == b"next"


def test_a_line_that_just_fits_is_left_alone() -> None:
    splitter = Splitter()
    assert splitter.feed(b"y" * LINE_BYTES + b"\n") == [b"y" * LINE_BYTES]


def filled(count: int, text: bytes = b"line") -> Ring:
    ring = Ring()
    for number in range(count):
        ring.add("stdout", 7, [text + b" %d" % (number + 1)], float(number))
    return ring


def numbers(answer: dict[str, object]) -> list[int]:
    lines = answer["lines"]
    assert isinstance(lines, list)
    return [line["seq"] for line in lines]


def test_the_last_lines_come_without_a_number() -> None:
    answer = filled(10).read(None, 3)
    assert numbers(answer) == [8, 9, 10]
    assert answer["lines"][0] == {"seq": 8, "at": 7.0, "stream": "stdout", "pid": 7, "text": "line 8"}
    assert (answer["next"], answer["lost"]) == (10, 0)
    assert Ring().read(None, 3) == {"lines": [], "next": 0, "lost": 0}


def test_following_gives_every_line_once() -> None:
    ring = filled(10)
    first = ring.read(0, 4)
    assert (numbers(first), first["next"]) == ([1, 2, 3, 4], 4)
    second = ring.read(4, 100)
    assert (numbers(second), second["next"]) == ([5, 6, 7, 8, 9, 10], 10)
    assert ring.read(10, 100) == {"lines": [], "next": 10, "lost": 0}
    ring.add("stderr", 7, [b"more"], 1.0)
    assert numbers(ring.read(10, 100)) == [11]


def test_what_fell_out_is_counted_as_lost() -> None:
    ring = filled(RING_LINES + 500)
    answer = ring.read(100, RING_LINES)
    assert answer["lost"] == 400
    assert numbers(answer) == list(range(501, RING_LINES + 501))
    assert ring.read(501, 10)["lost"] == 0


def test_a_number_of_an_earlier_life_of_the_node_is_no_trap() -> None:
    assert filled(3).read(1_000_000, 10) == {"lines": [], "next": 3, "lost": 0}


def test_a_flood_in_one_piece_keeps_its_end_and_its_count() -> None:
    ring = Ring()
    ring.add("stdout", 7, [b"%d" % number for number in range(100_000)], 0.0)
    assert ring.count == 100_000
    assert numbers(ring.read(None, 2)) == [99_999, 100_000]
    assert ring.read(None, 1)["lines"][0]["text"] == "99999"


def test_an_answer_is_bounded_and_following_still_gets_everything() -> None:
    ring = filled(RING_LINES, b"z" * (LINE_BYTES - 10))
    seen, after = [], 0
    while after < RING_LINES:
        answer = ring.read(after, RING_LINES)
        assert sum(len(line["text"]) for line in answer["lines"]) <= ANSWER_BYTES
        seen += numbers(answer)
        after = answer["next"]
    assert seen == list(range(1, RING_LINES + 1))
    assert numbers(ring.read(None, RING_LINES))[-1] == RING_LINES


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    ring = Ring()
    ring.add("stdout", 7, [b"\xff\xfe ok"], 0.0)
    assert ring.read(None, 1)["lines"][0]["text"].endswith(" ok")


def test_a_hundred_lines_at_once_pass_and_then_twenty_a_second() -> None:
    sieve = Sieve()
    assert sieve.let(150, 0.0) == 100
    assert sieve.let(10, 0.0) == 0
    assert sieve.let(50, 1.0) == 20
    assert sieve.report() == 90
    assert sieve.report() == 0
    assert sieve.let(500, 1000.0) == 100, "it does not save up"


def test_what_it_complained_of_last_is_named() -> None:
    output = Output("toy")
    assert output.complaint() == ""
    output.add("stdout", 7, [b"all is well"])
    assert output.complaint() == ""
    output.add("stderr", 7, [b"BUS-7002 config-invalid: strat: there is no such key", b"busd config explain KEY"])
    output.note("process 7 ended with status 2")
    assert output.complaint() == ": BUS-7002 config-invalid: strat: there is no such key"
    output.add("stderr", 7, [b"x"] * 8)
    assert output.complaint() == ": x"
