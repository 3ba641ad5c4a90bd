"""Checking a log of the audit: what was altered, removed, moved, copied, inserted or cut off, and where."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from busd.core.auditchain import GENESIS, Key, Sealed, unseal

PROBLEMS: Final = 100
"""Problems that are told one by one; a log with more is not worth reading line by line."""

_REMEMBERED: Final = 1024
"""Records behind the present one whose hashes are known, to tell a copy from a forgery."""


class Flaw(StrEnum):
    """What is wrong at a place of a log."""

    ALTERED = "altered"
    """The line is not what was written, or is not the record that the next one was written behind."""
    REMOVED = "removed"
    """Records are missing before this one."""
    REORDERED = "reordered"
    """The record stands in another's place."""
    DUPLICATED = "duplicated"
    """The same record stood here before."""
    INSERTED = "inserted"
    """The record does not belong to the chain: another one has its number, or nothing leads to it."""
    TORN = "torn"
    """The last line has no end: a crash while it was written, or a cut."""
    TRUNCATED = "truncated"
    """The log ends before a record that is known to have been there."""
    KEY = "key"
    """Made with a key that was not given, or without the one that it should have."""


class Problem(NamedTuple):
    """One thing that is wrong."""

    place: str
    """File and line."""
    seq: int | None
    """Number of the record that stands there, or should."""
    what: Flaw
    text: str
    """For people: what is wrong there, and what it means."""


class Anchor(NamedTuple):
    """A record that somebody noted elsewhere, where whoever can rewrite the log cannot reach it."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What checking a log found."""

    records: int
    """Lines that are records as they were written."""
    first: int | None
    """Number of the first record."""
    last: Anchor | None
    """The last record: what to note elsewhere."""
    problems: tuple[Problem, ...]
    """In the order of the log; at most ``PROBLEMS``."""
    more: int
    """Problems beyond those."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class _Found(NamedTuple):
    """A record and where it stands."""

    line: int
    place: str
    seq: int
    prev: str
    hash: str


class _Gap(NamedTuple):
    """Records that should stand before ``at`` and do not."""

    first: int
    last: int
    broken: int
    """Lines there that cannot be read, and may be some of them."""
    at: _Found

    def __contains__(self, seq: object) -> bool:
        return isinstance(seq, int) and self.first <= seq <= self.last


_ORIGIN: Final = _Found(0, "", 0, "", GENESIS)
"""What the first record of a log follows."""


def verify(
    lines: Iterable[tuple[str, bytes]], *, keys: Sequence[Key] = (), anchor: Anchor | None = None
) -> Verification:
    """Check a whole log, given as its lines (each with its newline) and their places, from the first to the last.

    Args:
        lines: of all files, in order.
        keys: those that records were made with, oldest first; none for a log without.
        anchor: a record that must be there as it was noted.

    Raises nothing, whatever the lines are.
    """
    verifier = Verifier(keys=keys, anchor=anchor)
    for place, line in lines:
        verifier.feed(place, line)
    return verifier.finish()


class Verifier:
    """Checks a log line by line in bounded memory: ``feed`` each line, then ``finish``.

    It goes on behind a problem: the records after it are measured by each other, so that each problem is placed once.
    """

    def __init__(self, *, keys: Sequence[Key] = (), anchor: Anchor | None = None) -> None:
        self._keys = {key.id: key for key in keys}
        self._ranks: dict[str | None, int] = {None: 0, **{name: rank for rank, name in enumerate(self._keys, 1)}}
        self._anchor = anchor
        self._anchored = False
        self._lines = 0
        self._records = 0
        self._first: _Found | None = None
        self._last = _ORIGIN
        self._before = _ORIGIN  # what a jump in the numbers went away from
        self._jump: _Gap | None = None
        self._broken = 0
        self._gaps: list[_Gap] = []
        self._early: dict[int, _Found] = {}
        self._rival: _Found | None = None
        self._late: tuple[int, int] | None = None  # line and number of the last record that came too late
        self._recent: OrderedDict[int, str] = OrderedDict()
        self._rank = 0
        self._unknown_key: str | None = None
        self._deleted: Anchor | None = None
        self._unended: tuple[str, int] | None = None
        self._problems: list[tuple[int, Problem]] = []
        self._more = 0
        self._ended = False

    @property
    def problems(self) -> int:
        """Problems found so far; what is missing shows at the end."""
        return len(self._problems) + self._more

    # -- reading ------------------------------------------------------------------------------------------------------

    def feed(self, place: str, line: bytes) -> None:
        """The next line, with its newline if it has one, and where it stands."""
        if self._unended is not None:
            self._unreadable(self._unended[0], "it has no end")
            self._unended = None
        self._lines += 1
        if not line.endswith(b"\n"):
            self._unended = (place, len(line))
            return
        try:
            sealed = unseal(line[:-1], self._keys)
        except ValueError as error:
            self._unreadable(place, str(error))
            return
        found = _Found(self._lines, place, sealed.seq, sealed.prev, sealed.hash)
        self._records += 1
        self._check_key(found, sealed)
        self._note(found, sealed)
        self._put(found)
        self._recent[found.seq] = found.hash
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    def finish(self) -> Verification:
        """What was found, when every line was fed."""
        self._ended = True
        if self._unended is not None:
            place, size = self._unended
            text = (
                f"the last line ends after {size} bytes: busd was killed or the machine stopped while writing it, or "
                "it was cut; the next start of busd moves it into a .torn file and records that"
            )
            self._problem(self._lines, place, self._expected(), Flaw.TORN, text)
        self._settle_rival()
        for found in self._early.values():
            text = f"record {found.seq} does not belong here, and no other record leads to it"
            self._replace(found.line, Problem(found.place, found.seq, Flaw.INSERTED, text))
        for gap in self._gaps:
            self._report_gap(gap)
        self._check_end()
        self._problems.sort(key=lambda item: item[0])
        self._more += len(self._problems[PROBLEMS:])
        last = None if self._last is _ORIGIN else Anchor(self._last.seq, self._last.hash)
        first = None if self._first is None else self._first.seq
        problems = tuple(problem for _, problem in self._problems[:PROBLEMS])
        return Verification(self._records, first, last, problems, self._more)

    # -- placing a record ---------------------------------------------------------------------------------------------

    def _expected(self) -> int | None:
        """The number that the next line should have; None before the first, for older ones may have been deleted."""
        return None if self._first is None else self._last.seq + self._broken + 1

    def _put(self, found: _Found) -> None:
        """Find ``found``'s place in the chain."""
        if self._first is None:
            self._first = found
        expected = self._last.seq + 1
        if found.seq >= expected:
            missing = found.seq - expected
            if missing > self._broken:
                self._leap(found, expected)
            else:
                if not missing:
                    # With lines between that cannot be read, what it follows decides whether they were anything.
                    self._check_link(found, lenient=self._broken > 0)
                self._jump = None
            self._accept(found)
        elif self._jump is not None and found.seq in self._jump:
            self._step_back(found)
        elif any(found.seq in gap for gap in self._gaps):
            self._too_late(found)
        else:
            self._seen_before(found)

    def _accept(self, found: _Found) -> None:
        """``found`` is the next record of the chain, and so are those that came before their time and follow it."""
        self._last = found
        self._broken = 0
        while (following := self._early.get(self._last.seq + 1)) is not None and following.prev == self._last.hash:
            del self._early[following.seq]
            self._last = following
            self._jump = None

    def _leap(self, found: _Found, expected: int) -> None:
        """Records between the last one and ``found`` are missing, or ``found`` is out of place: the next one tells."""
        self._settle_rival()
        gap = _Gap(expected, found.seq - 1, self._broken, found)
        self._before, self._jump = self._last, gap if not self._broken else None
        self._gaps.append(gap)
        if len(self._gaps) > PROBLEMS:
            self._report_gap(self._gaps.pop(0))

    def _step_back(self, found: _Found) -> None:
        """The record before ``found`` stands too early: go on from where it should not have led away."""
        early, gap = self._last, self._jump
        assert gap is not None
        self._gaps.remove(gap)
        if len(self._early) < PROBLEMS:
            self._early[early.seq] = early
        text = f"record {early.seq} stands where record {gap.first} belongs"
        self._problem(early.line, early.place, early.seq, Flaw.REORDERED, text)
        self._last, self._jump = self._before, None
        self._put(found)

    def _too_late(self, found: _Found) -> None:
        """A record that was missing stands further down."""
        index, gap = next((i, gap) for i, gap in enumerate(self._gaps) if found.seq in gap)
        parts = (gap._replace(last=found.seq - 1), gap._replace(first=found.seq + 1))
        self._gaps[index : index + 1] = [part for part in parts if part.first <= part.last]
        if self._late != (found.line - 1, found.seq - 1):
            text = f"record {found.seq}, and those of the lines below that follow it, belong before {gap.at.place}"
            self._problem(found.line, found.place, found.seq, Flaw.REORDERED, text)
        self._late = (found.line, found.seq)

    def _seen_before(self, found: _Found) -> None:
        known = self._recent.get(found.seq)
        if known == found.hash:
            text = f"record {found.seq} stands here a second time"
            self._problem(found.line, found.place, found.seq, Flaw.DUPLICATED, text)
        elif found.seq == self._last.seq and self._rival is None:
            self._rival = found
        else:
            text = f"there is a record {found.seq} above already; this is a copy or a forgery"
            self._problem(found.line, found.place, found.seq, Flaw.INSERTED, text)

    def _check_link(self, found: _Found, *, lenient: bool) -> None:
        """Whether ``found`` was written behind the last record, as its number says."""
        last, rival = self._last, self._rival
        if found.prev == last.hash:
            self._settle_rival()
            return
        self._rival = None
        if rival is not None:
            forged, genuine = (last, rival) if found.prev == rival.hash else (rival, last)
            text = f"another record {forged.seq}, at {genuine.place}, is the one that record {found.seq} follows"
            self._problem(forged.line, forged.place, forged.seq, Flaw.INSERTED, text)
            if found.prev == rival.hash:
                return
        if lenient:
            return
        if last is _ORIGIN:
            text = "this is not how the first record of a log begins: it names another one before it"
            self._problem(found.line, found.place, found.seq, Flaw.ALTERED, text)
            return
        text = (
            f"this is not the record that record {found.seq} was written behind: it was replaced and its hash made anew"
        )
        self._problem(last.line, last.place, last.seq, Flaw.ALTERED, text)

    def _settle_rival(self) -> None:
        """Nothing says any more that the second of two records with one number is the genuine one."""
        if self._rival is not None:
            text = f"there is another record {self._rival.seq} before it, and this one leads nowhere"
            self._problem(self._rival.line, self._rival.place, self._rival.seq, Flaw.INSERTED, text)
            self._rival = None

    def _unreadable(self, place: str, reason: str) -> None:
        self._problem(self._lines, place, self._expected(), Flaw.ALTERED, f"this line was altered: {reason}")
        self._broken += 1
        self._jump = None

    # -- the whole ----------------------------------------------------------------------------------------------------

    def _check_key(self, found: _Found, sealed: Sealed) -> None:
        if not sealed.checked:
            if sealed.key != self._unknown_key:
                self._unknown_key = sealed.key
                text = f"from here on records are made with key {sealed.key}, which was not given: unchecked"
                self._problem(found.line, found.place, found.seq, Flaw.KEY, text)
            return
        self._unknown_key = None
        rank = self._ranks[sealed.key]
        if rank < self._rank:
            made = "without a key" if sealed.key is None else f"with the older key {sealed.key}"
            text = f"this record is made {made}, and one above with a newer one: a forgery, or busd was set back"
            self._problem(found.line, found.place, found.seq, Flaw.KEY, text)
        self._rank = rank

    def _note(self, found: _Found, sealed: Sealed) -> None:
        """What a record says of the log itself, and whether it is the one that was noted elsewhere."""
        record, anchor = sealed.record, self._anchor
        if record["event"] == "audit-deleted":
            last, head = record.get("last"), record.get("head")
            if type(last) is int and type(head) is str and (self._deleted is None or last > self._deleted.seq):
                self._deleted = Anchor(last, head)
        if anchor is not None and found.seq == anchor.seq and not self._anchored:
            self._anchored = True
            if found.hash != anchor.hash:
                text = f"this is not record {anchor.seq} as it was noted elsewhere: the log was rewritten"
                self._problem(found.line, found.place, found.seq, Flaw.ALTERED, text)

    def _report_gap(self, gap: _Gap) -> None:
        """Records that never came."""
        first, deleted = gap.first, self._deleted
        if first == 1 and deleted is not None:
            if deleted.seq == gap.last == gap.at.seq - 1 and deleted.hash != gap.at.prev:
                text = f"this record does not follow record {deleted.seq} as it was when it was deleted"
                self._problem(gap.at.line, gap.at.place, gap.at.seq, Flaw.ALTERED, text)
            first = deleted.seq + 1
            if gap.last - first < gap.broken:
                return
        which = f"record {first} is" if first == gap.last else f"records {first} to {gap.last} are"
        text = f"{which} missing before record {gap.at.seq}"
        if first == 1:
            text += ", and no record says that they were deleted"
        if gap.broken:
            text += f"; unreadable lines above, {gap.broken}, may be some of them"
        self._problem(gap.at.line, gap.at.place, first, Flaw.REMOVED, text)

    def _check_end(self) -> None:
        """The key and the anchor that the whole log must come up to."""
        place = self._last.place or "the log"
        if self._records and self._unknown_key is None and self._rank != len(self._keys):
            text = "the log does not end with records made with the (newest) key that was given: the wrong key or log"
            self._problem(self._last.line, place, self._last.seq, Flaw.KEY, text)
        anchor = self._anchor
        if anchor is None or self._anchored:
            return
        if anchor.seq > self._last.seq:
            text = f"the log ends with record {self._last.seq}; record {anchor.seq}, noted elsewhere, was cut off"
            self._problem(self._lines + 1, place, anchor.seq, Flaw.TRUNCATED, text)
        elif self._first is not None and anchor.seq < self._first.seq:
            if anchor.seq == self._first.seq - 1 and anchor.hash == self._first.prev:
                return
            text = f"record {anchor.seq}, noted elsewhere, is older than the first one that is left: note a newer one"
            self._problem(self._first.line, self._first.place, anchor.seq, Flaw.REMOVED, text)
        elif not self._problems:
            text = f"record {anchor.seq}, noted elsewhere, is not in the log"
            self._problem(self._lines, place, anchor.seq, Flaw.REMOVED, text)

    def _problem(self, line: int, place: str, seq: int | None, what: Flaw, text: str) -> None:
        # What is missing shows at the end only, and may be what comes first: there are at most twice PROBLEMS of it.
        if len(self._problems) < PROBLEMS or self._ended:
            self._problems.append((line, Problem(place, seq, what, text)))
        else:
            self._more += 1

    def _replace(self, line: int, problem: Problem) -> None:
        """Say something better of the record at ``line`` than was said when it came."""
        for index, (at, _) in enumerate(self._problems):
            if at == line:
                self._problems[index] = (line, problem)
                return
