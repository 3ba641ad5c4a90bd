"""``bus delete PATH``: what is asked of the component, what is shown, and how it ends."""

import asyncio
import os
import signal
import sys
from typing import Any

import pytest

from buscli import asking, deletionhandle
from buscli.exits import Exit
from busd.components.deletion.tally import Failure, Stay
from busproto.errors import BusError, Code
from tests.clients import deletion_support
from tests.clients.deletion_support import JOB, Script, found, plan, progress, report

ran, script = deletion_support.ran, deletion_support.script

HOSTILE = b"\x1b[31m\xff\n\xe2\x80\xaename"


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_a_path_is_told_as_a_root_and_what_is_below_it(ran: Any, script: Script) -> None:
    assert ran("/srv/work/a/build", "--yes").code == Exit.OK
    assert script.given("submit") == {"root": "work", "path": b"a/build"}


def test_the_longest_root_is_taken(ran: Any, script: Script) -> None:
    script.roots += [{"id": "deep", "path": "/srv/work/a"}, {"id": "near", "path": "/srv/work/a/b"}]
    ran("/srv/work/a/bc/d", "--yes")
    assert script.given("submit") == {"root": "deep", "path": b"bc/d"}


def test_a_relative_path_is_one_from_here(ran: Any, script: Script, tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    script.roots = [{"id": "work", "path": str(tmp_path)}]
    ran("../x", "--yes")
    assert script.given("submit")["path"] == b"x"


def test_every_option_reaches_the_component(ran: Any, script: Script) -> None:
    words = ["--root", "work", "--path", "b", "--yes", "--rate", "0", "--byte-rate", "10M", "--max-entries", "7"]
    words += ["--max-bytes", "4Ki", "--in-place", "--filter", "older-than=30d", "--filter", "glob=*.l\udcff"]
    words += ["-f", "type=file,link", "-f", "owner=www"]
    assert ran(*words).code == Exit.OK
    assert script.given("submit") == {
        "root": "work",
        "path": b"b",
        "files_per_second": 0.0,
        "bytes_per_second": 1e7,
        "max_entries": 7,
        "max_bytes": 4096,
        "in_place": True,
        "filter": {"older_than": "30d", "glob": b"*.l\xff", "types": "file,link", "owner": "www"},
    }


def test_a_grace_is_seconds(ran: Any, script: Script) -> None:
    script.watches = [[progress("grace", until=2e9)]]
    script.answers["report"] = [report("grace", of={"until": 2e9})]
    assert ran("/srv/work/b", "--yes", "--grace", "2w").code == Exit.OK
    assert script.given("submit")["grace_seconds"] == 14 * 86400


def test_a_plan_stands_alone(ran: Any, script: Script) -> None:
    assert ran("--plan", "dry1", "--yes", "--slack", "5%").code == Exit.OK
    assert script.given("submit") == {"plan": "dry1", "slack_percent": 5.0}


def test_a_name_that_is_no_text_goes_through_whole(ran: Any, script: Script) -> None:
    ran("--root", "work", "--path", os.fsdecode(HOSTILE), "--yes")
    assert script.given("submit")["path"] == HOSTILE


# -- what is refused before anything is asked -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says", "cure"),
    [
        ([], "what is to be deleted?", "bus delete PATH"),
        (["--root", "work"], "--root and --path go together", "bus delete --root ROOT --path PATH"),
        (["/a", "--root", "work"], "two places", "bus delete --root ROOT --path PATH"),
        (["/a", "--plan", "x"], "PATH says it again", "bus delete --plan x"),
        (["--plan", "x", "--filter", "owner=1"], "--filter says it again", "bus delete --plan x"),
        (["--yes", "list"], "'list' is a command, too", "bus delete ./list"),
        (["--local", "--root", "a", "--path", "b"], "--local takes a PATH", "bus delete PATH --local"),
        (["/a", "--local", "--detach"], "nothing goes on without it", "bus delete PATH --detach"),
        (["/a", "--local", "--grace", "1h"], "--grace needs a node", "bus delete PATH --grace"),
        (["/a", "--grace", "1h", "--in-place"], "cannot be had back", "--help"),
        (["/a", "--grace", "1h", "--filter", "owner=1"], "cannot be had back", "--help"),
        (["/a", "--grace", "1h", "--dry-run"], "a dry run deletes nothing", "--help"),
        (["/a", "--yes", "--slack", "1"], "--slack is for a plan", "--plan ID"),
        (["/a"], "nobody can be asked here", "--yes"),
        (["", "--yes"], "it is no path", "bus delete PATH"),
        (["a/../b", "--yes"], "'..' behind a name", "without '..'"),
        (["/", "--yes", "--local"], "/ stays", "bus delete PATH"),
        (["/usr", "--yes", "--local"], "what lies directly in / stays", "bus delete PATH"),
        (["/a", "--yes", "--filter", "owner=1", "--filter", "owner=2"], "filter 'owner' is there twice", "--help"),
        (["/a", "--yes", "--filter", "age=1"], "there is no filter 'age'", "--help"),
        (["/a", "--yes", "--filter", "older=1d"], "did you mean older-than?", "--help"),
        (["/a", "--yes", "--filter", "glob"], "write KEY=VALUE", "--help"),
        (["/a", "--yes", "--rate", "fast"], "not a number per second", "--help"),
        (["/a", "--yes", "--byte-rate", "10X"], "bytes per second", "--help"),
        (["/a", "--yes", "--max-bytes", "0"], "not a size", "--help"),
        (["/a", "--yes", "--max-entries", "0"], "at least 1", "--help"),
        (["/a", "--yes", "--grace", "soon"], "not a span of time", "--help"),
        (["/a", "--yes", "--grace", "99w"], "not within 1s to 366d", "--help"),
        (["change", JOB], "what is to change?", "--rate 1000"),
        (["pause"], "required: JOB", "bus delete pause --help"),
        (["list", "--limit", "1001"], "not within 1 to 1000", "bus delete list --help"),
    ],
)
def test_a_wrong_command_line_is_refused_with_its_cure(
    ran: Any, script: Script, words: list[str], says: str, cure: str
) -> None:
    result = ran(*words)
    assert (result.code, result.out) == (Exit.USAGE, "")
    assert says in result.err
    assert any(cure in line for line in result.err.splitlines() if line.startswith("  try: "))
    assert script.asked == []


def test_a_path_of_this_machine_means_nothing_to_another(ran: Any, script: Script) -> None:
    result = ran("/srv/work/a", "--yes", "--bus", "vsock://host:5670")
    assert result.code == Exit.USAGE
    assert "this bus may be another's" in result.err
    assert ran("--root", "work", "--path", "a", "--yes", "--bus", "vsock://host:5670").code == Exit.OK


def test_a_slash_behind_a_link_is_refused(ran: Any, script: Script, tmp_path: Any) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    result = ran(f"{tmp_path}/link/", "--yes")
    assert result.code == Exit.USAGE
    assert f"try: bus delete {tmp_path}/link\n" in result.err


def test_a_path_below_no_root_is_refused_with_the_nearest_and_the_other_way(ran: Any, script: Script) -> None:
    script.roots += [{"id": "logs", "path": "/var/log"}]
    result = ran("/srv/wrok/a", "--yes")
    assert result.code == Exit.USAGE
    assert result.err.startswith(
        "bus delete: /srv/wrok/a is below no deletion root; the nearest: /srv/work (work), /var/log (logs)\n"
    )
    assert "--local" in result.err
    assert "submit" not in dict(script.asked)


def test_a_path_that_links_lead_below_a_root_is_offered_as_it_is(ran: Any, script: Script, tmp_path: Any) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to("real")
    script.roots = [{"id": "work", "path": str(tmp_path / "real")}]
    result = ran(f"{tmp_path}/way/x", "--yes")
    assert result.code == Exit.USAGE
    assert f"try: bus delete {tmp_path}/real/x  (where the links on the way lead)" in result.err


def test_a_mistyped_verb_is_no_silent_path(ran: Any, script: Script) -> None:
    assert "  try: bus delete list\n" in ran("lsit", "--yes").err


def test_a_root_itself_stays(ran: Any, script: Script) -> None:
    result = ran("/srv/work/", "--yes")
    assert result.code == Exit.USAGE
    assert "/srv/work is deletion root 'work' itself" in result.err


# -- how it ends ------------------------------------------------------------------------------------------------------

FAILED = {
    "removed": 5,
    "files": 4,
    "directories": 1,
    "failed": {13: 12, 30: 1},
    "finished": 1e9 + 10,
    "held": 2,
}
FAILURES = [Failure(HOSTILE, 13, "unlink"), *(Failure(b"f%d" % n, 13, "unlink") for n in range(11))]


@pytest.mark.parametrize(
    ("ended", "code", "says"),
    [
        (report("done"), Exit.OK, ""),
        (report("failed", of=FAILED, failures=FAILURES), Exit.STAYS, "permission denied: 12, read-only file system: 1"),
        (report("parked", of={"parked": {"busy": 2}}), Exit.PARKED, "somebody keeps writing into it: 2"),
        (report("cancelled"), Exit.CANCELLED, "cancelled"),
        (report("failed", code=9002, error="no"), Exit.REFUSED, "could not be deleted: no (BUS-9002)"),
        (report("failed", code=9003, error="grown"), Exit.CHANGED, "grown"),
        (report("failed", code=9004, error="too many"), Exit.LIMIT, "too many"),
        (report("failed", code=9008, error="I/O"), Exit.STAYS, "I/O"),
    ],
)
def test_the_exit_code_is_the_outcome(ran: Any, script: Script, ended: Any, code: Exit, says: str) -> None:
    script.watches = [[ended.progress]]
    script.answers["report"] = [ended]
    result = ran("/srv/work/build", "--yes")
    assert result.code == code
    assert says in result.err
    assert (result.err == "") == (code == Exit.OK)
    assert result.records[-1]["progress"]["state"] == ended.progress.state


@pytest.mark.parametrize(
    ("error", "code", "cure"),
    [
        (BusError(Code.DELETION_ROOT_UNKNOWN, root="x", nearest="work"), Exit.NO_SUCH, "bus delete roots"),
        (BusError(Code.DELETION_REFUSED, path="x", reason="no"), Exit.REFUSED, "Nothing was touched"),
        (BusError(Code.DELETION_CHANGED, path="x", reason="no"), Exit.CHANGED, "Look at it again"),
        (BusError(Code.DELETION_LIMIT, what="x", used=2, limit=1), Exit.LIMIT, "Delete less"),
        (BusError(Code.DELETION_JOB_UNKNOWN, job="x"), Exit.NO_SUCH, "bus delete list --all"),
        (BusError(Code.DELETION_JOB_STATE, verb="x", job="y", state="done"), Exit.FAILED, "report"),
        (BusError(Code.DELETION_BACKLOG, used=1, tenant="t", limit=1), Exit.OVERLOADED, "Wait"),
        (BusError(Code.DELETION_FAILED, path="x", reason="no"), Exit.STAYS, "report"),
        (BusError(Code.REQUEST_INVALID, subject="deletion.submit", reason="no"), Exit.USAGE, "try: "),
    ],
)
@pytest.mark.parametrize("local", [[], ["--local"]])
def test_what_the_component_refuses_has_its_exit_code(
    ran: Any, script: Script, error: BusError, code: Exit, cure: str, local: list[str]
) -> None:
    script.answers["submit"] = [error]
    result = ran("/srv/work/build", "--yes", *local)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"BUS-{error.code} ")
    assert cure in result.err


def test_without_the_component_it_says_so(ran: Any, script: Script) -> None:
    script.served = False
    result = ran("/srv/work/build", "--yes")
    assert result.code == Exit.NO_RESPONDERS
    assert "the node does not run component deletion" in result.err
    assert "--local" in result.err


def test_without_busd_beside_it_it_says_so(ran: Any, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "busd.components.model", None)
    result = ran("/srv/work/build", "--yes", "--local")
    assert result.code == Exit.FAILED
    assert "pip install 'busd[cli]'" in result.err


# -- progress ---------------------------------------------------------------------------------------------------------


def test_each_change_is_a_line_and_the_last_one_is_the_report(ran: Any, script: Script) -> None:
    one, two = progress("running", removed=3, path=HOSTILE), progress("done", removed=9, failed={13: 1})
    script.watches = [[progress("queued"), one, one, two]]
    result = ran("/srv/work/build", "--yes")
    *lines, last = result.records
    assert [(line["state"], line["removed"]) for line in lines] == [("queued", 0), ("running", 3), ("done", 9)]
    assert lines[1]["path"] == "\x1b[31m\\xff\n\u202ename"
    assert lines[1]["path_bytes"] == {"$bytes": "G1szMW3/CuKArm5hbWU="}
    assert "path_bytes" not in lines[0]
    assert lines[2]["failed"] == {"EACCES": 1}
    assert last["progress"]["job"] == JOB
    assert last["request"]["root"] == "work"
    assert "\x1b" not in result.out, "not even in JSON"


def test_failures_are_named_in_json(ran: Any, script: Script) -> None:
    script.watches = [[progress("failed")]]
    script.answers["report"] = [report("failed", failures=FAILURES, stays=[Stay(b"m", "mount")])]
    last = ran("/srv/work/build", "--yes").records[-1]
    assert last["failures"][1] == {"path": "f0", "errno": 13, "error": "EACCES", "step": "unlink"}
    assert last["stays"] == [{"path": "m", "reason": "mount"}]


def test_it_is_watched_again_when_the_component_is_replaced(ran: Any, script: Script) -> None:
    """Its stream ends, then there is nobody for a moment; the job goes on."""
    script.watches = [
        [progress("running", removed=1)],
        [BusError(Code.CANCELLED)],
        [progress("running", removed=2), BusError(Code.DRAINING, reason="replaced")],
        [progress("done", removed=3)],
    ]
    result = ran("/srv/work/build", "--yes")
    assert result.code == Exit.OK
    assert [line["removed"] for line in result.records[:-1]] == [0, 1, 2, 3]


def test_it_is_not_watched_for_ever_when_nobody_is_there(
    ran: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletionhandle, "PATIENCE", 0.2)
    script.watches = [[BusError(Code.DRAINING, reason="gone")]]
    result = ran("/srv/work/build", "--yes")
    assert result.code == Exit.FAILED
    assert "BUS-5001" in result.err
    assert f"job {JOB} may go on: it was lost sight of\n  try: bus delete watch {JOB}\n" in result.err


def test_a_job_that_is_forgotten_meanwhile_is_said(ran: Any, script: Script) -> None:
    script.watches = [[BusError(Code.DELETION_JOB_UNKNOWN, job=JOB)]]
    result = ran("/srv/work/build", "--yes")
    assert result.code == Exit.NO_SUCH
    assert "goes on" not in result.err
    assert "may go on" not in result.err


@pytest.mark.parametrize("local", [False, True])
def test_who_stops_it_while_it_is_submitted_is_told_that_it_may_have_begun(
    ran: Any, script: Script, local: bool
) -> None:
    async def stop() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(20)

    script.before["submit"] = stop
    result = ran("/srv/work/build", "--yes", *(["--local"] if local else []))
    assert result.code == Exit.INTERRUPTED
    where = " --local /srv/work" if local else ""
    assert result.err == f"it may have been begun already\n  try: bus delete list{where}\n"


def test_detached_it_returns_at_once(ran: Any, script: Script) -> None:
    result = ran("/srv/work/build", "--yes", "--detach")
    assert result.code == Exit.OK
    assert [line["job"] for line in result.records] == [JOB]
    assert [name for name, _ in script.asked] == ["submit"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)])
@pytest.mark.parametrize("local", [False, True])
def test_when_it_is_stopped_it_says_how_to_go_on(
    ran: Any, script: Script, number: signal.Signals, code: Exit, local: bool
) -> None:
    async def stop() -> None:
        os.kill(os.getpid(), number)
        await asyncio.sleep(20)

    script.watches = [[progress("running", removed=1234), stop]]
    result = ran("/srv/work/build", "--yes", *(["--local"] if local else []))
    assert result.code == code
    if local:
        assert "stopped after 1,234 entries" in result.err
        assert f"try: bus delete resume {JOB} --local /srv/work\n" in result.err
    else:
        assert f"job {JOB} goes on without you" in result.err
        assert f"try: bus delete watch {JOB}\n" in result.err


def test_what_was_stopped_in_place_goes_on_by_the_same_command(ran: Any, script: Script) -> None:
    async def stop() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(20)

    script.watches = [[progress("running", removed=1, mode="filter"), stop]]
    result = ran("/srv/work/build", "--yes", "--local", "--filter", "owner=1")
    assert result.code == Exit.INTERRUPTED
    assert "try: the same command again" in result.err
    assert "resume" not in result.err


# -- looking, and asking ----------------------------------------------------------------------------------------------


def test_a_dry_run_is_looked_at_and_carried_out_by_nobody(ran: Any, script: Script) -> None:
    script.watches = [[progress("counting", seen=7, mode=""), progress("done", mode="survey")]]
    script.answers["report"] = [report("done", of={"mode": "survey"}, plan=plan())]
    result = ran("/srv/work/build", "--dry-run", "--max-entries", "9")
    assert result.code == Exit.OK
    assert script.given("submit") == {"root": "work", "path": b"build", "dry_run": True, "max_entries": 9}
    assert result.records[-1]["plan"]["found"]["entries"] == 1204


def test_a_dry_run_that_fails_says_why(ran: Any, script: Script) -> None:
    script.watches = [[progress("failed")]]
    script.answers["report"] = [report("failed", code=9003, error="it is gone")]
    result = ran("/srv/work/build", "--dry-run")
    assert result.code == Exit.CHANGED
    assert "it is gone" in result.err


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Somebody at the terminal, who answers what they are told to."""

    def answers(line: str) -> None:
        async def typed() -> str:
            return line

        monkeypatch.setattr(asking, "_line", typed)
        for stream in (sys.stdin, sys.stderr):  # now: while a test is set up they are others
            monkeypatch.setattr(stream, "isatty", lambda: True)

    return answers


@pytest.mark.parametrize("answer", ["y\n", "Yes\n", " YES \n"])
def test_who_agrees_has_what_was_shown_deleted(ran: Any, script: Script, person: Any, answer: str) -> None:
    person(answer)
    script.answers["submit"] = [progress("queued", mode=""), progress("queued")]
    script.watches = [[progress("done", mode="survey")], [progress("done")]]
    script.answers["report"] = [report("done", of={"mode": "survey", "job": "dry1"}, plan=plan()), report("done")]
    result = ran("/srv/work/build", "--rate", "10")
    assert result.code == Exit.OK
    assert "Delete 1,205 entries (3.2 GB) in /srv/work/build? [y/N] " in result.err
    submitted = [given for name, given in script.asked if name == "submit"]
    assert submitted == [
        {"root": "work", "path": b"build", "dry_run": True},
        {"plan": "dry1", "files_per_second": 10.0, "count": True},
    ]


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yep\n", "no\n"])
def test_who_does_not_agree_keeps_everything(ran: Any, script: Script, person: Any, answer: str) -> None:
    person(answer)
    script.watches = [[progress("done", mode="survey")]]
    script.answers["report"] = [report("done", of={"mode": "survey", "job": "dry1"}, plan=plan())]
    result = ran("/srv/work/build")
    assert result.code == Exit.CANCELLED
    assert result.err.endswith("nothing was deleted\n")
    assert [given.get("dry_run") for name, given in script.asked if name == "submit"] == [True]


def test_what_was_found_is_told_in_words(ran: Any, script: Script, person: Any) -> None:
    person("n\n")
    there = found(links=1, linked=3, linked_bytes=9000, mounts=7, mount_paths=[HOSTILE, b"m2"], unreadable={13: 2})
    script.watches = [[progress("done", mode="survey")]]
    script.answers["report"] = [report("done", plan=plan(found=there, path=HOSTILE))]
    result = ran("/srv/work/build")
    assert "1,204 entries below it: 1,100 files, 104 directories, 1 link; 3.2 GB on the disk" in result.err
    assert "3 names of files that have others, too: 9 kB more" in result.err
    assert "7 things are mounted below it and would stay: \\u001b[31m\\xff\\u000a\\u202ename, m2, ..." in result.err
    assert "could not be looked into: permission denied: 2" in result.err
    assert "written between 2001-09-0" in result.err
    assert "\x1b[3" not in result.err


def test_nothing_to_delete_is_not_asked_about(ran: Any, script: Script, person: Any) -> None:
    person("y\n")
    empty = found(entries=0, files=0, directories=0, bytes=0, spared={"young": 4})
    script.watches = [[progress("done", mode="survey")]]
    chosen: dict[str, Any] = {"older_than": 5.0}
    from busd.components.deletion.filters import Filter

    script.answers["report"] = [report("done", plan=plan(found=empty, filter=Filter(**chosen)))]
    result = ran("/srv/work/build", "--filter", "older-than=5")
    assert result.code == Exit.OK
    assert "would stay as the filter says: too young: 4" in result.err
    assert "the filter lets nothing go" in result.err
    assert "[y/N]" not in result.err


def test_a_plan_is_shown_before_it_is_agreed_to(ran: Any, script: Script, person: Any) -> None:
    person("y\n")
    script.answers["report"] = [report("done", of={"mode": "survey"}, plan=plan()), report("done")]
    result = ran("--plan", "dry1")
    assert result.code == Exit.OK
    assert "1,204 entries below it" in result.err
    assert script.given("submit") == {"plan": "dry1", "count": True}


def test_a_job_that_is_no_dry_run_is_no_plan(ran: Any, script: Script, person: Any) -> None:
    person("y\n")
    result = ran("--plan", JOB)
    assert result.code == Exit.USAGE
    assert "is no dry run that has ended" in result.err


def test_who_watches_has_it_counted_first(ran: Any, script: Script, person: Any) -> None:
    person("")
    ran("/srv/work/build", "--yes")
    assert script.given("submit")["count"] is True


# -- in this process --------------------------------------------------------------------------------------------------


def test_local_is_the_directory_above_as_the_only_root(ran: Any, script: Script) -> None:
    assert ran("/srv/work/a/b", "--yes", "--local").code == Exit.OK
    assert script.config == {"roots": [{"id": "local", "path": "/srv/work/a"}], "state": None, "recover": False}
    assert script.given("submit") == {"root": "local", "path": b"b"}


def test_what_local_leaves_is_named_with_its_directory(ran: Any, script: Script) -> None:
    script.watches = [[progress("failed", failed={13: 1})]]
    script.answers["report"] = [report("failed", of={"failed": {13: 1}}, left_at=b".busd-tombstones/node/x")]
    result = ran("/srv/my work/b", "--yes", "--local")
    assert result.code == Exit.STAYS
    assert f"try: bus delete resume {JOB} --local '/srv/my work'\n" in result.err
