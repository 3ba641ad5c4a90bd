"""``bus delete list``, ``watch``, ``report`` and the other verbs; and what people are shown of jobs."""

import asyncio
import io
import os
import re
import signal
import sys
from typing import Any

import pytest

from buscli import deletionvalues, deletionwatch
from buscli.completion import complete
from buscli.deletionreport import Outcome
from buscli.deletionwatch import Following, progress_bar
from buscli.exits import Exit
from buscli.output import Output
from buscli.progressbar import ProgressBar, bar, terminal_width
from busd.components.deletion.found import Found
from busd.components.deletion.tally import Failure, Stay
from busd.components.deletion.tombstone import Proof
from busproto.errors import BusError, Code
from tests.clients import deletion_support
from tests.clients.deletion_support import JOB, Script, plan, progress, report

ran, script = deletion_support.ran, deletion_support.script

HOSTILE = b"\x1b[31m\xff\nname"


@pytest.fixture
def for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are drawn, as on a terminal."""

    def standard(**_: object) -> Output:
        return Output(sys.stdout.buffer, sys.stderr, human=True, colour=False)

    monkeypatch.setattr(Output, "standard", standard)
    monkeypatch.setenv("COLUMNS", "240")


# -- verbs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["pause", JOB], ("pause", {"job": JOB})),
        (["resume", JOB], ("resume", {"job": JOB})),
        (["cancel", JOB], ("cancel", {"job": JOB, "how": "keep"})),
        (["cancel", JOB, "--how", "restore"], ("cancel", {"job": JOB, "how": "restore"})),
        (["undelete", JOB], ("undelete", {"job": JOB})),
        (["change", JOB, "--rate", "0"], ("change", {"job": JOB, "files": 0.0, "bytes": None, "unlimited": False})),
        (
            ["change", JOB, "--byte-rate", "1k", "--unlimited"],
            ("change", {"job": JOB, "files": None, "bytes": 1000.0, "unlimited": True}),
        ),
    ],
)
def test_each_verb_asks_for_itself(ran: Any, script: Script, words: list[str], asked: Any) -> None:
    result = ran(*words)
    assert result.code == Exit.OK
    assert [line["job"] for line in result.records] == [JOB]
    assert script.asked == [asked]


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "undelete", "report", "watch"])
def test_a_job_that_is_not_there_is_refused(ran: Any, script: Script, verb: str) -> None:
    error = BusError(Code.DELETION_JOB_UNKNOWN, job="x")
    script.answers |= {name: [error] for name in ("pause", "resume", "cancel", "undelete", "report")}
    result = ran(verb, "x")
    assert (result.code, result.out) == (Exit.NO_SUCH, "")
    assert "there is no deletion job 'x'" in result.err
    assert "  try: bus delete list --all\n" in result.err


def test_verbs_say_what_they_did_to_people(ran: Any, script: Script, for_people: None) -> None:
    result = ran("pause", JOB)
    assert result.out == f"job {JOB} (/srv/work/build) is paused\n  try: bus delete resume {JOB}\n"
    assert ran("cancel", JOB, "--how", "abandon").out.endswith(f"  try: bus delete report {JOB}\n")
    assert "is back at its place" in ran("undelete", JOB).out
    assert "goes at the new rate" in ran("change", JOB, "--rate", "5").out
    assert ran("resume", JOB).out.endswith(f"  try: bus delete watch {JOB}\n")


def test_list_is_one_object_a_job(ran: Any, script: Script) -> None:
    script.answers["list"] = [progress("running"), progress("done", path=HOSTILE)]
    result = ran("list", "--all", "--limit", "7")
    assert [line["state"] for line in result.records] == ["running", "done"]
    assert script.given("list") == {"all": True, "limit": 7}


def test_list_for_people_says_how_far_and_why(
    ran: Any, script: Script, for_people: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1e9)
    parked = {"parked": {"busy": 2}, "next_try": 1e9 + 65, "failed": {13: 1}, "tenant": "acme", "root": "theirs"}
    script.answers["list"] = [
        progress("running", removed=1000, expected=4000, rate=500.0, eta_seconds=6.0, held_back_by="job: limit"),
        progress("parked", path=HOSTILE, **parked),
        progress("grace", until=1e9),
    ]
    shown = ran("list").out
    assert re.search(
        rf"{JOB} +node +/srv/work/build +running +1,000 +4,000 +500/s +6s .* held back by job: limit", shown
    )
    assert "theirs:\\u001b[31m\\xff\\u000aname" in shown
    assert "somebody keeps writing into it: 2; permission denied: 1; tried again in 1m 5s" in shown
    assert "can be had back until 2001" in shown
    script.answers["list"] = []
    assert ran("list").out == "there are no jobs that are not over; --all shows the others\n"
    assert ran("list", "--all").out == "there are no jobs\n"


def test_roots_say_where_and_how_much(ran: Any, script: Script, for_people: None) -> None:
    shown = ran("roots").out
    assert re.search(r"work +/srv/work +acme +1 +at most 1,000 +at most 5 MB", shown)
    script.roots = [{"id": "mine"}]
    assert re.search(r"mine +- +- +1 +- +-", ran("roots").out)
    script.roots = []
    assert "there are no deletion roots for you" in ran("roots").out


def test_roots_as_data(ran: Any, script: Script) -> None:
    assert [line["id"] for line in ran("roots").records] == ["work"]


def test_report_is_all_of_it_and_no_verdict(ran: Any, script: Script) -> None:
    script.answers["report"] = [report("failed", failures=[Failure(b"f", 13, "unlink")])]
    result = ran("report", JOB)
    assert result.code == Exit.OK
    assert [each["error"] for each in result.records[0]["failures"]] == ["EACCES"]


def test_report_of_a_dry_run_for_people(ran: Any, script: Script, for_people: None) -> None:
    script.answers["report"] = [report("done", of={"mode": "survey"}, plan=plan())]
    shown = ran("report", JOB).out
    assert shown.startswith("/srv/work/build was looked at: nothing was touched\n  1,204 entries below it")
    assert "to delete just that: bus delete --plan dry1" in shown
    assert f"job {JOB} of node, asked for 2001-09-09" in shown


def test_watch_ends_as_the_job_does(ran: Any, script: Script) -> None:
    parked = report("parked", of={"parked": {"nfs": 1}})
    script.answers["report"] = [report("running"), parked]
    script.watches = [[progress("running", removed=1), parked.progress]]
    result = ran("watch", JOB)
    assert result.code == Exit.PARKED
    assert [line.get("state") for line in result.records] == ["running", "running", "parked", None]


def test_watch_of_what_has_ended_tells_it_at_once(ran: Any, script: Script) -> None:
    result = ran("watch", JOB)
    assert result.code == Exit.OK
    assert script.asked == [("report", {"job": JOB})] * 2


def test_who_stops_watching_leaves_the_job_alone(ran: Any, script: Script) -> None:
    async def stop() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(20)

    script.answers["report"] = [report("running")]
    script.watches = [[progress("running"), stop]]
    result = ran("watch", JOB)
    assert result.code == Exit.INTERRUPTED
    assert f"job {JOB} goes on without you\n  try: bus delete watch {JOB}\n" in result.err
    assert "cancel" not in dict(script.asked)


def test_local_verbs_need_no_bus_and_touch_nothing_by_themselves(ran: Any, script: Script) -> None:
    script.served = False
    assert ran("list", "--local", "/srv/my work").code == Exit.OK
    assert script.config == {"roots": [{"id": "local", "path": "/srv/my work"}], "state": None, "recover": False}
    assert ran("cancel", JOB, "--how", "restore", "--local", "/srv/work").code == Exit.OK
    assert ran("undelete", JOB, "--local", "/srv/work").code == Exit.OK


def test_a_local_resume_is_followed_to_its_end(ran: Any, script: Script) -> None:
    ended = report("failed", of={"failed": {1: 1}}, left_at=b".busd-tombstones/node/x")
    script.answers["resume"] = [progress("queued")]
    script.watches = [[ended.progress]]
    script.answers["report"] = [ended]
    result = ran("resume", JOB, "--local", "/srv/my work")
    assert result.code == Exit.STAYS
    assert f"try: bus delete resume {JOB} --local '/srv/my work'\n" in result.err


# -- a person's summary -----------------------------------------------------------------------------------------------


def told(ended: Any, local: str = "") -> str:
    """What a person is told of a report, without the cures."""
    outcome = Outcome(ended, "/srv/work/build", local)
    return "\n".join([outcome.headline(), *outcome.lines()])


def test_what_is_gone_is_told_with_its_proof() -> None:
    done = {"removed": 1205, "files": 1100, "directories": 105, "bytes": 3_200_000_000, "finished": 1e9 + 12}
    proof = Proof(gone=True, basis="descriptor", links=0)
    assert told(report("done", of=done, proof=proof, found=Found(linked_bytes=9000))).splitlines() == [
        "/srv/work/build is gone",
        "deleted 1,205 entries (1,100 files and 105 directories, 3.2 GB) in 12s, 100 a second",
        "proven: the system says that the very thing that was there has no name left",
        "9 kB of it had other names as well, and may still take room under those",
    ]
    assert "its name is gone" in told(report("done", proof=Proof(gone=True, basis="name", links=None)))
    assert "has 2 other names and still takes room" in told(
        report("done", proof=Proof(gone=True, basis="descriptor", links=2))
    )
    assert "not proven" in told(report("done", proof=Proof(gone=False, basis="descriptor", links=1)))


def test_what_stays_is_told_with_paths_reasons_and_place() -> None:
    failures = [Failure(b"", 30, "rmdir"), *(Failure(b"f%d" % number, 13, "unlink") for number in range(11))]
    failed = {"failed": {13: 500, 30: 1}, "parked": {"mount": 1}, "held": 2, "mode": "tombstone"}
    ended = report("failed", of=failed, failures=failures, stays=[Stay(b"m", "mount")], left_at=b".t/x", recovered=b"r")
    lines = told(ended).splitlines()
    assert lines[0] == (
        "/srv/work/build could not be deleted: permission denied: 500, read-only file system: 1; "
        "a file system is mounted there: 1"
    )
    assert "2 directories stay for what is left in them" in lines
    assert lines[lines.index("permission denied: 500") + 1] == "    f0 (unlink)"
    assert "    and 490 more" in lines
    assert lines[lines.index("read-only file system: 1") + 1] == "    (itself) (rmdir)"
    assert "    m" in lines
    assert "what is left lies in .t/x, below the root" in lines
    assert "what nobody knows the place of any more is in r" in lines


def test_other_ends_are_told() -> None:
    assert "all that the filter lets go is gone\nstays as the filter says: too young: 3" in told(
        report("done", of={"mode": "filter", "spared": {"young": 3}})
    )
    assert "is set aside until 20" in told(report("grace", of={"until": 2e9}))
    assert "the node tries again at 20" in told(report("parked", of={"next_try": 2e9, "parked": {"busy": 1}}))
    assert "tries again" not in told(report("parked", of={"next_try": 2e9, "parked": {"busy": 1}}), "/srv")
    assert told(report("cancelled", of={"reason": "put back"})) == "/srv/work/build: cancelled, put back"
    assert told(report("running")) == "/srv/work/build: running"
    assert told(report("failed")).endswith("it does not say why")


def test_a_hostile_name_cannot_drive_the_terminal(ran: Any, script: Script, for_people: None) -> None:
    failed = {"failed": {13: 1}, "path": HOSTILE}
    ended = report("failed", of=failed, failures=[Failure(HOSTILE, 13, "unlink")], error="\x1b[2J")
    script.answers["report"] = [ended]
    script.watches = [[ended.progress]]
    result = ran("--root", "work", "--path", "x", "--yes")
    assert "\\u001b[31m\\xff\\u000aname (unlink)" in result.out
    assert "\x1b" not in result.out + result.err


# -- the line of progress ---------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A standard error that somebody reads."""

    def isatty(self) -> bool:
        return True


def test_the_line_says_how_far_it_is() -> None:
    now = progress("running", removed=300, seen=310, expected=1204, bytes=5_000_000, rate=1234.5, eta_seconds=75.0)
    assert progress_bar(now).line(200) == (
        "deleting  25 % [######------------------]  300/1,204 entries  5 MB  1,234/s  1m 15s left"
    )
    held = progress("running", removed=3, held_back_by="file system: canary", failed={13: 2})
    assert progress_bar(held).line(200) == "deleting  3 entries  held back by file system: canary  2 cannot be deleted"
    assert progress_bar(progress("queued")).line(80) == "waiting for its turn"
    assert progress_bar(progress("counting", seen=7, mode="")).line(80) == "counting  7 entries"
    assert progress_bar(progress("paused", reason="by a rate of 0")).line(80) == "paused  0 entries  by a rate of 0"
    assert progress_bar(progress("running", removed=0, expected=0)).part == 1.0


@pytest.mark.parametrize("width", range(20, 130))
def test_the_line_fits_whatever_the_width(width: int) -> None:
    now = progress("running", removed=300, seen=310, expected=1204, bytes=5_000_000, rate=1234.5, eta_seconds=75.0)
    line = progress_bar(now).line(width)
    assert len(line) < width
    assert line.startswith("deleting  25 %"[: width - 1])
    assert ProgressBar("x" * 300, None, ()).line(width) == "x" * (width - 1)


def test_a_bar_is_full_only_when_all_is_done() -> None:
    assert bar(0.0, 4) == "[----]"
    assert bar(0.999, 4) == "[###-]"
    assert bar(1.0, 4) == "[####]"
    assert bar(7.0, 4) == "[####]"
    assert ProgressBar("a", 0.9999, ()).line(40).startswith("a  99 %")


def test_the_width_is_the_terminals_or_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, expected in (("100", 100), ("5", 20), ("9999", 240), ("x", 80)):
        monkeypatch.setenv("COLUMNS", columns)
        assert terminal_width() == expected


def test_it_is_redrawn_often_enough_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    terminal, now = Terminal(), [0.0]
    output = Output(io.BytesIO(), terminal, human=True, colour=False)
    monkeypatch.setattr(deletionwatch, "within", lambda handle, _: handle)
    following = Following(None, output, records=False, clock=lambda: now[0])
    for removed, at in ((1, 0.0), (2, 0.05), (3, 0.11), (4, 0.15)):
        now[0] = at
        following._show(progress("running", removed=removed))
    following._show(progress("done", removed=5))
    drawn = re.findall(r"\r(.*?)\x1b\[K", terminal.getvalue())
    assert drawn == ["deleting  1 entry", "deleting  3 entries", "done  5 entries"]


# -- values, completion -----------------------------------------------------------------------------------------------


def test_sizes_are_shown_as_they_are_typed() -> None:
    for size, text in (
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_960, "1 MB"),
        (3.2e9, "3.2 GB"),
        (2e18, "2000 PB"),
    ):
        assert deletionvalues.shown_size(size) == text
    assert deletionvalues.size("1.5Gi") == 3 << 29
    assert deletionvalues.byte_rate("10M/s") == 1e7
    assert deletionvalues.span("36h") == 36 * 3600


def test_it_is_completed(script: Script) -> None:
    offered = [offer.word for offer in complete(["delete", ""])]
    assert offered[:2] == [":file", "list"]
    assert [offer.word for offer in complete(["delete", "--gr"])] == ["--grace"]
    assert [offer.word for offer in complete(["delete", "cancel", "--ho"])] == ["--how"]
    assert [offer.word for offer in complete(["delete", "cancel", "--how", ""])] == ["keep", "restore", "abandon"]
    assert [offer.word for offer in complete(["delete", "list", "--local", ""])] == [":file"]
