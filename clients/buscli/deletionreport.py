"""What a deletion has come to: its exit code, and the words for it."""

from collections.abc import Sequence
from typing import Any, Final

from buscli.deletionhandle import exit_of
from buscli.deletionpath import text_of
from buscli.deletionvalues import shown_size
from buscli.deletionwords import count, entries, error, errors, moment, reasons, stays_because
from buscli.exits import Exit
from buscli.output import Output, Style, printable
from buscli.units import duration
from busproto.codes import ENTRIES, Code

__all__ = ["Outcome"]

SHOWN: Final = 10
"""Failures, and things that stay, that a summary names: the report has the first 100 of each kind."""


class Outcome:
    """A report, told to a person.

    Attributes:
        exit: the exit code of a command that followed the job to this.
        cures: command lines that go on from here.
    """

    def __init__(self, report: Any, where: str, local: str = "") -> None:
        """``where``: what it was about, in words. ``local``: the directory of a deletion in this process, if it is."""
        self._report = report
        self._progress = report.progress
        self._where = where
        self._local = local
        self.exit = self._exit()
        self.cures = self._cures()

    def _exit(self) -> Exit:
        state = self._progress.state
        if state == "parked":
            return Exit.PARKED
        if state == "cancelled":
            return Exit.CANCELLED
        if state == "failed":
            return exit_of(self._report.code) if self._report.code else Exit.STAYS
        return Exit.OK

    def headline(self) -> str:
        """One line: what became of it."""
        progress = self._progress
        match progress.state:
            case "done" if progress.mode == "survey":
                return f"{self._where} was looked at: nothing was touched"
            case "done" if progress.mode == "filter":
                return f"{self._where}: all that the filter lets go is gone"
            case "done":
                return f"{self._where} is gone"
            case "grace":
                return f"{self._where} is set aside until {moment(progress.until)}, and can be had back until then"
            case "parked":
                return f"{self._where} is not all gone: {self._why()}"
            case "cancelled":
                return f"{self._where}: cancelled" + (f", {progress.reason}" if progress.reason else "")
            case "failed":
                return f"{self._where} could not be deleted: {self._why()}"
            case state:
                return f"{self._where}: {state}" + (f", {progress.reason}" if progress.reason else "")

    def _why(self) -> str:
        report, progress = self._report, self._progress
        parts = [errors(progress.failed), reasons(progress.parked)]
        said = report.error or progress.reason
        if self._has_cure():
            return f"{said} (BUS-{report.code})"
        return "; ".join(filter(None, parts)) or said or "it does not say why"

    def _has_cure(self) -> bool:
        """Whether it failed for a reason of its own, not for what could not be removed."""
        return self._progress.state == "failed" and self._report.code not in (0, Code.DELETION_FAILED)

    def lines(self) -> list[str]:
        """The rest: what was removed, how long it took, what stays and why, and where that is."""
        report, progress = self._report, self._progress
        lines = []
        if progress.removed:
            lines.append(self._removed())
        if report.proof is not None and progress.state == "done":
            lines.append(_proof(report.proof))
        if progress.spared:
            lines.append(f"stays as the filter says: {reasons(progress.spared)}")
        if progress.held:
            directories = count(progress.held, "directory", "directories")
            lines.append(f"{directories} {'stays' if progress.held == 1 else 'stay'} for what is left in them")
        for number in sorted(progress.failed):
            there = [each for each in report.failures if each.errno == number]
            named = [f"{_name(each.path)} ({each.step})" for each in there[:SHOWN]]
            lines += _some(f"{error(number)}: {progress.failed[number]:,}", named, progress.failed[number])
        for reason in sorted(progress.parked):
            there = [each for each in report.stays if each.reason == reason]
            named = [_name(each.path) for each in there[:SHOWN]]
            lines += _some(f"{stays_because(reason)}: {progress.parked[reason]:,}", named, progress.parked[reason])
        if report.left_at:
            lines.append(f"what is left lies in {text_of(report.left_at)}, below the root")
        if report.recovered:
            lines.append(f"what nobody knows the place of any more is in {text_of(report.recovered)}")
        if report.found is not None and report.found.linked_bytes and progress.mode != "survey":
            size = shown_size(report.found.linked_bytes)
            lines.append(f"{size} of it had other names as well, and may still take room under those")
        if progress.state == "parked" and progress.next_try and not self._local:
            lines.append(f"the node tries again at {moment(progress.next_try)}")
        return lines

    def _removed(self) -> str:
        progress = self._progress
        what = f"{count(progress.files, 'file')} and {count(progress.directories, 'directory', 'directories')}"
        size = f", {shown_size(progress.bytes)}" if progress.bytes else ""
        said = f"deleted {entries(progress.removed)} ({what}{size})"
        seconds = progress.finished - progress.started if progress.started and progress.finished else 0.0
        if seconds <= 0:
            return said
        return f"{said} in {duration(seconds)}, {progress.removed / seconds:,.0f} a second"

    def _cures(self) -> list[str]:
        progress, job = self._progress, self._progress.job
        place = f" --local {self._local}" if self._local else ""
        buried = bool(self._report.left_at) or progress.mode == "tombstone"
        if self._has_cure() and not self._report.left_at:
            return [ENTRIES[self._report.code].cure] if self._report.code in ENTRIES else []
        match progress.state:
            case "grace":
                return [f"bus delete undelete {job}{place}"]
            case "parked" if not self._local:
                return [f"bus delete watch {job}", f"bus delete cancel {job} --how restore  (puts back what is left)"]
            case "failed" | "cancelled" | "parked" if self._local:
                return [f"bus delete resume {job}{place}"] if buried else ["the same command again"]
            case "failed" | "cancelled" if self._report.left_at or progress.failed:
                return [f"bus delete resume {job}", f"bus delete report {job}"]
            case "failed":
                return [f"bus delete report {job}"]
        return []

    def show(self, output: Output) -> None:
        """Write it for a person."""
        style = Style.GREEN if self.exit == Exit.OK else Style.RED
        output.line(output.styled(self.headline(), style))
        for line in self.lines():
            output.line(f"  {printable(line)}")
        for cure in self.cures:
            output.line(f"  try: {printable(cure)}")

    def note(self, output: Output) -> None:
        """Say on standard error what a program's reader must know: that it did not end well, and what to do."""
        if self.exit != Exit.OK:
            output.note(f"bus delete: {self.headline()}")
            for cure in self.cures:
                output.note(f"  try: {cure}")


def _name(path: bytes) -> str:
    return text_of(path) or "(itself)"


def _some(head: str, named: Sequence[str], number: int) -> list[str]:
    more = [f"    and {number - len(named):,} more"] if named and number > len(named) else []
    return [head, *(f"    {name}" for name in named), *more]


def _proof(proof: Any) -> str:
    if not proof.gone:
        return "it is not proven to be gone"
    if proof.links:
        return f"its content has {count(proof.links, 'other name')} and still takes room"
    if proof.basis == "descriptor":
        return "proven: the system says that the very thing that was there has no name left"
    return "its name is gone"
