"""Whatever is done to a log is found, placed at the first line that is wrong, and called what it is."""

import itertools
import json
from hashlib import sha256
from typing import Any

import pytest

from busd.core.auditchain import GENESIS, LINE_BYTES, Chain, Key, encode, unseal
from busd.core.auditcheck import PROBLEMS, Anchor, Flaw, Problem, Verification, verify

KEY = Key(b"0123456789abcdef0123456789abcdef\n")
OTHER = Key(b"fedcba9876543210fedcba9876543210")


def log(count: int, key: Key | None = None, *, seq: int = 0, head: str = GENESIS, node: str = "n1") -> list[bytes]:
    """``count`` sealed lines."""
    chain = Chain(node, key, seq=seq, head=head)
    return [
        chain.seal({"event": "denied", "subject": f"a.b{number}"}, f"2026-01-31T12:00:{number:02d}.000000Z")
        for number in range(count)
    ]


def check(lines: list[bytes], *keys: Key, anchor: Anchor | None = None) -> Verification:
    return verify([(f"f:{number}", line) for number, line in enumerate(lines, 1)], keys=keys, anchor=anchor)


def first(lines: list[bytes], *keys: Key, anchor: Anchor | None = None) -> Problem:
    found = check(lines, *keys, anchor=anchor)
    assert not found.ok
    return found.problems[0]


def anchor_of(line: bytes) -> Anchor:
    record = json.loads(line)
    return Anchor(record["seq"], record["hash"])


def forge(line: bytes, **changes: Any) -> bytes:
    """The record with changes and a fresh hash, as whoever can write the file but has no key would make it."""
    record = {**json.loads(line), **changes}
    del record["hash"]
    record["hash"] = sha256(encode(record)).hexdigest()
    return encode(record) + b"\n"


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["unkeyed", "keyed"])
def test_a_log_that_nobody_touched_is_whole(keys: tuple[Key, ...]) -> None:
    lines = log(20, *keys)
    found = check(lines, *keys, anchor=anchor_of(lines[7]))
    assert (found.ok, found.records, found.first, found.last) == (True, 20, 1, anchor_of(lines[-1]))
    assert check([]).ok
    assert check([]).last is None


def test_a_line_is_one_canonical_object_and_its_hash_can_be_computed_with_nothing_but_sha256() -> None:
    [line, second] = log(2)
    assert line.isascii()
    record = json.loads(line)
    assert list(record) == sorted(record)
    assert b" " not in line
    claimed = record.pop("hash")
    assert sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest() == claimed
    assert (record["seq"], record["prev"], record["node"]) == (1, GENESIS, "n1")
    assert json.loads(second)["prev"] == claimed


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["unkeyed", "keyed"])
def test_every_flipped_bit_is_found_at_its_record(keys: tuple[Key, ...]) -> None:
    lines = log(4, *keys)
    for number, line in enumerate(lines):
        for position, bit in itertools.product(range(len(line)), (0, 2, 5, 7)):
            changed = line[:position] + bytes([line[position] ^ 1 << bit]) + line[position + 1 :]
            data = b"".join([*lines[:number], changed, *lines[number + 1 :]])
            problem = first(data.splitlines(keepends=True), *keys)
            assert problem.place == f"f:{number + 1}", (position, bit, problem)
            assert problem.what in (Flaw.ALTERED, Flaw.TORN, Flaw.KEY), problem
            assert problem.seq in (number + 1, None), problem


def test_a_byte_that_is_written_otherwise_and_means_the_same_is_found() -> None:
    line = log(3)[1]
    for old, new in ((b'"event"', b'"\\u0065vent"'), (b",", b", "), (b"{", b"{ "), (b"}", b"}\r")):
        changed = line.replace(old, new, 1)
        assert json.loads(changed) == json.loads(line)
        assert first([log(3)[0], changed, log(3)[2]]).place == "f:2"


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["unkeyed", "keyed"])
def test_each_removed_record_is_named_where_it_is_missing(keys: tuple[Key, ...]) -> None:
    lines = log(8, *keys)
    for number in range(7):
        found = check(lines[:number] + lines[number + 1 :], *keys)
        [problem] = found.problems
        assert (problem.place, problem.seq, problem.what) == (f"f:{number + 1}", number + 1, Flaw.REMOVED)
        assert f"record {number + 1} is missing before record {number + 2}" in problem.text
    last = first(lines[:7], *keys, anchor=anchor_of(lines[7]))
    assert (last.what, last.seq) == (Flaw.TRUNCATED, 8)


def test_several_removed_records_are_one_problem_each_run() -> None:
    lines = log(20)
    found = check([*lines[:3], *lines[6:10], *lines[15:]])
    assert [(p.place, p.seq, p.what) for p in found.problems] == [
        ("f:4", 4, Flaw.REMOVED),
        ("f:8", 11, Flaw.REMOVED),
    ]
    assert "records 4 to 6 are missing before record 7" in found.problems[0].text


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["unkeyed", "keyed"])
def test_each_swapped_pair_is_found_at_the_first_of_both(keys: tuple[Key, ...]) -> None:
    lines = log(9, *keys)
    for one, two in itertools.combinations(range(9), 2):
        swapped = lines.copy()
        swapped[one], swapped[two] = lines[two], lines[one]
        found = check(swapped, *keys)
        problem = found.problems[0]
        assert (problem.place, problem.seq, problem.what) == (f"f:{one + 1}", two + 1, Flaw.REORDERED), (one, two)
        assert {p.what for p in found.problems} == {Flaw.REORDERED}
        assert len(found.problems) <= 2


def test_a_moved_run_is_one_problem() -> None:
    lines = log(20)
    back = check([*lines[:4], *lines[9:15], *lines[4:9], *lines[15:]])
    assert [(p.place, p.what) for p in back.problems] == [("f:11", Flaw.REORDERED)]
    reverse = check(lines[::-1])
    assert {p.what for p in reverse.problems} == {Flaw.REORDERED}


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["unkeyed", "keyed"])
def test_each_copy_of_a_record_is_found_wherever_it_stands(keys: tuple[Key, ...]) -> None:
    lines = log(6, *keys)
    for source, target in itertools.product(range(6), range(1, 7)):
        if source >= target:
            continue
        found = check([*lines[:target], lines[source], *lines[target:]], *keys)
        [problem] = found.problems
        assert (problem.place, problem.seq, problem.what) == (f"f:{target + 1}", source + 1, Flaw.DUPLICATED)


def test_an_inserted_forgery_is_found_though_its_own_hash_is_right() -> None:
    lines = log(6)
    head = json.loads(lines[2])["hash"]
    takes_the_number = forge(lines[3], subject="forged", prev=head)
    for forged in (takes_the_number, forge(lines[3], seq=99), forge(lines[1], subject="other"), forge(lines[3], seq=5)):
        found = check([*lines[:3], forged, *lines[3:]])
        [problem] = found.problems
        assert (problem.place, problem.what) == ("f:4", Flaw.INSERTED), forged
    behind = check([*lines[:4], forge(lines[3], subject="forged"), *lines[4:]])
    assert [(p.place, p.what) for p in behind.problems] == [("f:5", Flaw.INSERTED)]
    at_the_end = check([*lines, forge(lines[5], subject="forged")])
    assert [(p.place, p.what) for p in at_the_end.problems] == [("f:7", Flaw.INSERTED)]


def test_lines_that_are_no_records_are_found_and_the_rest_is_still_checked() -> None:
    lines = log(6)
    found = check([*lines[:2], b"hello\n", b"\n", *lines[2:4], b"x" * 2 * LINE_BYTES + b"\n", *lines[5:]])
    assert [(p.place, p.what) for p in found.problems] == [
        ("f:3", Flaw.ALTERED),
        ("f:4", Flaw.ALTERED),
        ("f:7", Flaw.ALTERED),
    ]
    assert found.records == 5


def test_a_replaced_record_with_a_fresh_hash_is_found_by_the_one_behind_it() -> None:
    lines = log(6)
    for number in range(5):
        changed = forge(lines[number], subject="nothing.to.see")
        problem = first([*lines[:number], changed, *lines[number + 1 :]])
        assert (problem.place, problem.seq, problem.what) == (f"f:{number + 1}", number + 1, Flaw.ALTERED)


def recomputed(lines: list[bytes], number: int) -> list[bytes]:
    """The log with one record changed and everything behind it made to fit, without the key."""
    made = lines[:number]
    for line in lines[number:]:
        prev = json.loads(made[-1])["hash"] if made else GENESIS
        made.append(forge(line, prev=prev, subject="forged"))
    return made


def test_a_log_recomputed_from_some_point_fits_without_a_key_and_is_found_with_one() -> None:
    unkeyed = recomputed(log(6), 2)
    assert check(unkeyed).ok, "what the README says an unkeyed chain cannot tell"
    assert first(unkeyed, anchor=anchor_of(log(6)[4])).place == "f:5", "unless somebody noted a later record"
    for number in range(6):
        problem = first(recomputed(log(6, KEY), number), KEY)
        assert (problem.place, problem.what) == (f"f:{number + 1}", Flaw.ALTERED)


def test_a_keyed_log_made_anew_without_or_with_another_key_is_found() -> None:
    assert first(log(5), KEY).what == Flaw.KEY
    assert first(log(5, OTHER), KEY).what == Flaw.KEY
    stripped = [*log(3, KEY), *recomputed(log(6), 0)[3:]]
    assert first(stripped, KEY).place in ("f:3", "f:4")


def test_a_keyed_log_without_its_key_says_which_key_is_needed_and_still_checks_the_order() -> None:
    lines = log(6, KEY)
    [problem] = check(lines).problems
    assert (problem.place, problem.what) == ("f:1", Flaw.KEY)
    assert KEY.id in problem.text
    assert [p.what for p in check([*lines[:2], *lines[3:]]).problems] == [Flaw.KEY, Flaw.REMOVED]


def test_a_key_may_be_introduced_and_changed_but_never_go_back() -> None:
    def continued(lines: list[bytes], key: Key | None) -> list[bytes]:
        last = anchor_of(lines[-1])
        return [*lines, *log(3, key, seq=last.seq, head=last.hash)]

    lines = continued(continued(log(3), KEY), OTHER)
    assert check(lines, KEY, OTHER).ok
    assert first(lines, KEY).what == Flaw.KEY
    assert first(continued(lines, KEY), KEY, OTHER).place == "f:10", "whoever got the old key makes records with it"
    assert first(continued(lines, None), KEY, OTHER).place == "f:10"
    assert first(lines[:6], KEY, OTHER).what == Flaw.KEY, "cut back to where the old key was in use"


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["unkeyed", "keyed"])
def test_truncation_at_every_byte(keys: tuple[Key, ...]) -> None:
    lines = log(4, *keys)
    data = b"".join(lines)
    ends = set(itertools.accumulate(map(len, lines)))
    for size in range(len(data)):
        cut = data[:size].splitlines(keepends=True)
        whole = sum(end <= size for end in ends)
        noted = check(cut, *keys, anchor=anchor_of(lines[3]))
        assert noted.problems[-1].what == Flaw.TRUNCATED
        alone = check(cut, *keys)
        if size in ends or not size:
            assert alone.ok, "at the end of a record only an anchor can tell"
        else:
            assert [(p.place, p.what) for p in alone.problems] == [(f"f:{whole + 1}", Flaw.TORN)]


def test_a_file_in_the_middle_that_lost_its_end_is_found() -> None:
    lines = log(5)
    lines[2] = lines[2][:-1]
    [problem] = check(lines).problems
    assert (problem.place, problem.what, problem.text) == ("f:3", Flaw.ALTERED, "this line was altered: it has no end")


def test_an_anchor_is_the_record_that_was_noted() -> None:
    lines = log(8)
    assert check(lines, anchor=anchor_of(lines[3])).ok
    wrong = first(lines, anchor=Anchor(4, "f" * 64))
    assert (wrong.place, wrong.seq, wrong.what) == ("f:4", 4, Flaw.ALTERED)
    assert str(Anchor(4, "ab")) == "4:ab"


def rotated(first_seq: int, deletion: dict[str, Any] | None) -> tuple[list[bytes], Anchor]:
    """A log of which the records before ``first_seq`` were deleted, and the last of those."""
    whole = log(first_seq - 1)
    last = anchor_of(whole[-1])
    chain = Chain("n1", seq=last.seq, head=last.hash)
    lines = [chain.seal({"event": "denied"}, "t") for _ in range(3)]
    if deletion is not None:
        lines.append(chain.seal({"event": "audit-deleted", "last": last.seq, "head": last.hash, **deletion}, "t"))
    return [*lines, chain.seal({"event": "denied"}, "t")], last


def test_a_beginning_that_was_deleted_as_configured_is_no_problem_and_one_that_was_not_is() -> None:
    recorded, last = rotated(6, {})
    found = check(recorded)
    assert (found.ok, found.first) == (True, 6)
    assert check(recorded, anchor=last).ok
    silent = first(rotated(6, None)[0])
    assert (silent.place, silent.seq, silent.what) == ("f:1", 1, Flaw.REMOVED)
    assert "records 1 to 5 are missing before record 6, and no record says that they were deleted" in silent.text
    more = first(recorded[2:])
    assert (more.place, more.seq, more.what) == ("f:1", 6, Flaw.REMOVED)
    other = first(rotated(6, {"head": "f" * 64})[0])
    assert (other.place, other.what) == ("f:1", Flaw.ALTERED)
    older = first(recorded, anchor=Anchor(2, "f" * 64))
    assert "is older than the first one that is left" in older.text
    assert check([recorded[1], recorded[0], *recorded[2:]]).problems[0].what == Flaw.REORDERED


def test_a_log_whose_first_record_names_one_before_it_is_altered() -> None:
    lines = [Chain("n1", head="f" * 64).seal({"event": "denied"}, "t")]
    [problem] = check(lines).problems
    assert (problem.place, problem.what) == ("f:1", Flaw.ALTERED)


def test_problems_are_told_up_to_a_number_in_the_order_of_the_log_and_then_counted() -> None:
    lines = log(3)
    found = check([*lines[:1], *[b"x\n"] * 400, lines[2]])
    assert (len(found.problems), found.more) == (PROBLEMS, 300)
    holes = check([line for number, line in enumerate(log(600)) if number % 2])
    assert (len(holes.problems), holes.more) == (PROBLEMS, 200)
    assert [p.seq for p in holes.problems] == list(range(1, 2 * PROBLEMS, 2))


def test_a_record_cannot_say_what_the_chain_says_of_it_and_one_that_is_no_line_is_named() -> None:
    chain = Chain("n1", KEY)
    lying = {"event": "act", "seq": 99, "hash": "0", "prev": "x", "node": "other", "time": "never", "key": "mine"}
    lines = [
        chain.seal(lying, "2026-01-31T12:00:00.000000Z"),
        chain.seal({"event": "act", "facts": "x" * LINE_BYTES}, "t"),
        chain.seal({"event": "act", "facts": {1, 2}}, "t"),
        chain.seal({"event": "act", "facts": float("nan")}, "t"),
    ]
    assert check(lines, KEY).ok
    assert all(len(line) <= LINE_BYTES for line in lines)
    records = [unseal(line[:-1], {KEY.id: KEY}).record for line in lines]
    assert (records[0]["seq"], records[0]["node"], records[0]["key"]) == (1, "n1", KEY.id)
    assert [record.get("cut", None) for record in records][2:] == [0, 0]
    assert records[1]["cut"] > LINE_BYTES


def test_the_longest_line_that_is_written_can_be_read() -> None:
    for size in range(LINE_BYTES - 400, LINE_BYTES - 100):
        line = Chain("n1").seal({"event": "act", "facts": "x" * size}, "2026-01-31T12:00:00.000000Z")
        assert check([line]).ok


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 15 + b"\n\n", b"x" * 1025])
def test_a_key_that_is_too_short_or_too_long_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="a key has 16 to 1024 bytes"):
        Key(content)


def test_a_key_does_not_show_in_its_name_and_a_newline_does_not_count() -> None:
    assert Key(b"x" * 16 + b"\r\n").id == Key(b"x" * 16).id
    assert "0123456789abcdef" not in f"{KEY!r} {KEY.id}"
