"""The board of runners and the figures of their operations: what is proven counts, what is said is bounded."""

from typing import Any

import pytest

from busd.components.supervisor.runners import RUNNERS, STATUS_BYTES, Board, Operation, Runner, Seconds
from busd.components.supervisor.statistics import LAST_WORDS, NAMES, Totals
from busproto.errors import BusError
from tests.components.supervisor_support import INSTANCE, packed

SUBJECT = f"component.toy.{INSTANCE}.status"


def hear(board: Board, endpoint: str = "host-1", now: float = 0.0, **fields: Any) -> Runner:
    data = packed(**fields)
    subject = f"component.{fields.get('component', 'toy')}.{fields.get('instance', INSTANCE)}.status"
    return board.hear(subject, data, endpoint, "host", "node", "host", now)


def test_a_runner_is_known_by_its_endpoint() -> None:
    board = Board()
    runner = hear(board, state="starting")
    assert hear(board, state="ready", now=3.0) is runner
    assert (runner.status.state, runner.heard, runner.placement) == ("ready", 3.0, "host")
    assert runner.control == f"component.toy.{INSTANCE}"
    assert board.find("host-1") is board.instance("toy", INSTANCE) is runner
    assert board.of("toy") == [runner]
    assert board.components() == ["toy"]
    assert runner.short()["instance"] == INSTANCE


def test_where_it_is_is_what_is_proven() -> None:
    board = Board()
    for number, (boundary, placement) in enumerate((("soc", "soc"), ("guest", "guest:vm-1"), ("host", "host"))):
        instance = f"{number:012x}"
        subject = f"component.toy.{instance}.status"
        data = packed(instance=instance, placements=["moon"])
        assert board.hear(subject, data, f"e-{number}", boundary, "node", "vm-1", 0.0).placement == placement


def test_nobody_takes_the_place_of_another() -> None:
    board = Board()
    first = hear(board, "host-1")
    with pytest.raises(BusError, match="endpoint host-1 is toy 0123456789ab already"):
        hear(board, "soc-2", state="failed")
    with pytest.raises(BusError, match="endpoint host-1 is toy 0123456789ab already"):
        hear(board, "host-1", instance="ffffffffffff")
    assert board.refused == 2
    assert first.status.state == "ready"
    assert board.leave("host-1") is first
    assert hear(board, "soc-2").endpoint == "soc-2"


def test_the_last_status_of_one_that_left_does_not_bring_it_back() -> None:
    board = Board()
    hear(board)
    board.leave("host-1")
    with pytest.raises(BusError, match="endpoint host-1 has left"):
        hear(board)
    assert len(board) == 0
    assert board.leave("host-1") is None
    subject, data = "component.toy.0123456789ab.status", packed()
    assert board.last_words(subject, data, "host-1") == {}
    assert board.last_words(subject, data, "host-2") is None
    assert board.last_words(subject, b"", "host-1") is None


@pytest.mark.parametrize(
    ("subject", "data", "reason"),
    [
        (SUBJECT, b"\xc1", "MessagePack"),
        (SUBJECT, b"\x80", "missing required field"),
        (SUBJECT, b"\x00" * (STATUS_BYTES + 1), "is longer than"),
        (SUBJECT, packed(state="happy"), "Invalid enum value 'happy'"),
        (SUBJECT, packed(memory_bytes="much"), "memory_bytes"),
        (SUBJECT, packed(component="other"), "it is of 'other'"),
        (SUBJECT, packed(instance="ffffffffffff"), "'ffffffffffff'"),
        ("component.toy.zzz.status", packed(instance="zzz"), "12 hexadecimal digits"),
        (SUBJECT, packed(purpose="x" * 257), "purpose is longer than 256"),
        (SUBJECT, packed(reason="x" * 1025), "reason is longer than 1024"),
        (SUBJECT, packed(serves=["a.b"] * 65), "more than 64 subjects"),
        (SUBJECT, packed(operations={"add": {"calls": "many"}}), "calls"),
        (SUBJECT, packed(operations={"add": {"errors": {str(code): 1 for code in range(65)}}}), "more than 64 error"),
        (SUBJECT, packed(operations={"add": {"seconds": {"buckets": [[1.0, 1]] * 65}}}), "more than 64 error"),
    ],
)
def test_a_status_that_is_none_is_refused_and_counted(subject: str, data: bytes, reason: str) -> None:
    board = Board()
    with pytest.raises(BusError) as caught:
        board.hear(subject, data, "host-1", "host", "node", "host", 0.0)
    assert reason in caught.value.text
    assert (board.refused, len(board)) == (1, 0)


def test_there_are_only_so_many() -> None:
    board = Board()
    for number in range(RUNNERS):
        hear(board, f"host-{number}", instance=f"{number:012x}")
    with pytest.raises(BusError, match=f"there are {RUNNERS} runners already"):
        hear(board, "host-9999", instance="ffffffffffff")
    assert len(board) == RUNNERS


def test_time_in_which_nobody_could_be_heard_is_nobodys() -> None:
    board = Board()
    runner = hear(board, now=5.0)
    board.excuse(60.0)
    assert runner.heard == 65.0


# -- figures over instances -------------------------------------------------------------------------------------------


def counted(calls: int, in_flight: int = 0, **errors: int) -> Operation:
    buckets = [(0.001, calls // 2), (0.1, calls)]
    codes = {code.removeprefix("e"): count for code, count in errors.items()}
    return Operation(calls, in_flight, codes, Seconds(calls, calls * 0.5, buckets))


def test_what_an_instance_counted_stays_when_it_is_gone() -> None:
    totals = Totals()
    totals.hear("one", {"add": counted(4, 1, e2008=1)})
    totals.hear("one", {"add": counted(10, 2, e2008=3), "sub": counted(1)})
    totals.leave("one")
    totals.hear("two", {"add": counted(6, 1, e2008=1, e3007=2)})
    add = totals.totals()["add"]
    assert (add.calls, add.in_flight, add.count, add.seconds) == (16, 1, 16, 8.0)
    assert add.errors == {"2008": 4, "3007": 2}
    assert add.buckets == ((0.001, 8), (0.1, 16))
    assert totals.totals()["sub"].calls == 1
    assert add.row()["seconds"] == {"count": 16, "sum": 8.0, "buckets": [[0.001, 8], [0.1, 16]]}


def test_last_words_that_come_after_the_end_are_counted() -> None:
    totals = Totals()
    totals.hear("one", {"add": counted(4, 1)})
    totals.leave("one")
    totals.hear_last("one", {"add": counted(5)})
    assert (totals.totals()["add"].calls, totals.totals()["add"].in_flight) == (5, 0)
    totals.hear_last("one", {"add": counted(3)})
    totals.hear_last("one", {})
    totals.hear_last("nobody", {"add": counted(100)})
    assert totals.totals()["add"].calls == 5
    for number in range(LAST_WORDS + 1):
        totals.hear(f"{number}", {"add": counted(1)})
        totals.leave(f"{number}")
    assert totals.totals()["add"].calls == 5 + LAST_WORDS + 1


def test_one_that_comes_back_goes_on_where_it_was() -> None:
    totals = Totals()
    totals.hear("one", {"add": counted(4)})
    totals.leave("one")
    totals.hear("one", {"add": counted(6)})
    assert totals.totals()["add"].calls == 6


def test_two_instances_at_once_are_added() -> None:
    totals = Totals()
    totals.hear("old", {"add": counted(5, 1)})
    totals.hear("new", {"add": counted(2, 3)})
    assert (totals.totals()["add"].calls, totals.totals()["add"].in_flight) == (7, 4)


def test_one_that_stands_by_anew_counts_from_zero_and_nothing_goes_back() -> None:
    totals = Totals()
    totals.hear("one", {"add": counted(5)})
    totals.hear("one", {"add": counted(1)})
    assert totals.totals()["add"].calls == 6
    totals.hear("one", {})
    assert totals.totals()["add"].calls == 6
    totals.leave("one")
    totals.leave("one")
    assert totals.totals()["add"].calls == 6


def test_names_and_codes_that_never_end_are_bounded() -> None:
    totals = Totals()
    for number in range(NAMES + 100):
        codes, seconds = {str(code): 1 for code in range(NAMES + 50)}, Seconds(1, 1.0, [(float(number), 1)])
        totals.hear(f"{number}", {f"operation{number}": Operation(1, 0, codes), "same": Operation(1, 0, {}, seconds)})
        totals.leave(f"{number}")
    assert len(totals.totals()) <= NAMES + LAST_WORDS
    assert len(totals.totals()["operation0"].errors) == NAMES
    assert len(totals.totals()["same"].buckets) == NAMES
