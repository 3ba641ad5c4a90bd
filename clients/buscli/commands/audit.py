"""``bus audit``: read and check the log of what was allowed, denied and administered, with or without a node."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from buscli import values
from buscli.exits import MEANINGS, Exit
from buscli.output import Output, Style, printable
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

if TYPE_CHECKING:
    from buscli.auditlog import AuditLog
    from buscli.offline import Key, Verification

SHOWN: Final = 100
"""Records that ``show`` shows on a terminal without ``--last``."""

PROGRESS_LINES: Final = 5_000
"""Between two looks at the progress of a check: some tenths of a second."""

DIRECTORY: Final = Argument(
    "--dir",
    "folder of the log (default: audit beside BUS_URL's socket, else this user's, else /var/lib/busd/audit)",
    metavar="DIR",
    completes="file",
)

FILTERS: Final = (
    DIRECTORY,
    Argument(
        "--event",
        "only this kind, such as denied or 'audit-*'; repeat it for more",
        aliases=("-e",),
        metavar="PATTERN",
        arity="repeat",
    ),
    Argument("--tenant", "only what this tenant did", metavar="NAME"),
    Argument("--principal", "only what this unit, user, CID or public key did", metavar="NAME"),
    Argument("--endpoint", "only what this endpoint did", metavar="NAME"),
    Argument("--subject", "only what is about this subject; * stands for any text", metavar="PATTERN"),
    Argument(
        "--since",
        "only what is newer: a time (2026-01-31, 2026-01-31T12:00:00Z) or how long ago (90s, 2h)",
        metavar="TIME",
        convert=values.since,
    ),
)

EXITS: Final = tuple(
    (int(code), meaning)
    for code, meaning in (
        (Exit.OK, MEANINGS[Exit.OK]),
        (Exit.FAILED, "the folder holds no log"),
        (Exit.USAGE, "the command line is not valid, or the folder is not there or cannot be read"),
        (Exit.INTERRUPTED, MEANINGS[Exit.INTERRUPTED]),
        (Exit.BROKEN_PIPE, MEANINGS[Exit.BROKEN_PIPE]),
        (Exit.TERMINATED, MEANINGS[Exit.TERMINATED]),
    )
)

SHOW: Final = Command(
    name="audit show",
    help="show what is in the log",
    description=f"""\
Records of the log, oldest first: a table on a terminal (the last {SHOWN} unless --last says otherwise), the records
themselves when piped. It does not check them: bus audit verify does.""",
    arguments=(*FILTERS, Argument("--last", "at most so many, the latest", aliases=("-n",), convert=values.count)),
    examples=(
        Example("bus audit show --event 'denied*' --since 1h", "what was refused in the last hour"),
        Example(
            "bus audit show --event act | jq -c '[.time, .principal.uid, .what, .outcome]'", "who administered what"
        ),
        Example("bus audit show --principal vm-42 --last 20", "the last 20 things that a guest did"),
    ),
    connects=False,
    exits=EXITS,
)

FOLLOW: Final = Command(
    name="audit follow",
    help="show what is added to the log, as it comes",
    description="""\
Prints each new record until Ctrl-C, which is its normal end (0), also when busd begins a new file or is restarted.""",
    arguments=FILTERS,
    examples=(Example("bus audit follow --event denied", "watch what is refused"),),
    connects=False,
    exits=EXITS,
)

VERIFY: Final = Command(
    name="audit verify",
    help="check that nothing in the log was altered, removed, moved or inserted",
    description="""\
Reads the whole log and checks that each record is as it was written and follows the one before. What is wrong is named
with file, line and number of the record; it goes on behind it. The last line says how many records there are and what
the last one is: SEQ:HASH.

That the end was cut off, the log alone cannot tell: note SEQ:HASH elsewhere (the node's log and /statusz say it too)
and give it with --last. And without a key whoever can write the log can make all of it anew: see audit.key_file.""",
    arguments=(
        DIRECTORY,
        Argument(
            "--key-file",
            "file with the key that records are sealed with; repeat it, oldest first, if the key was changed",
            metavar="FILE",
            arity="repeat",
            completes="file",
        ),
        Argument(
            "--last",
            "a record that was noted elsewhere and must be there as it was",
            metavar="SEQ:HASH",
            convert=values.anchor,
        ),
    ),
    examples=(
        Example("bus audit verify", "is the log whole?"),
        Example("bus audit verify --dir /mnt/evidence/audit --key-file audit.key", "a copy of a keyed log"),
        Example(
            "bus audit verify | tail -1 | jq -r 'select(.ok).last' >> /mnt/elsewhere/anchors",
            "note the end, if all is well",
        ),
    ),
    connects=False,
    exits=(
        (int(Exit.OK), "nothing is wrong"),
        (int(Exit.FAILED), "something is wrong with the log, or there is none in the folder"),
        *EXITS[2:],
    ),
)

COMMAND = Command(
    name="audit",
    help="read and check the log of what was allowed, denied and done",
    description="""\
busd writes who was let across a boundary, who was refused, and every administrative act into a log whose records are
chained by their hashes. These commands read its files, as root or the user that busd runs as; they need no bus.""",
    actions=(SHOW, FOLLOW, VERIFY),
    examples=(Example("bus audit verify", "is the log whole?"),),
    connects=False,
)


def run(args: Namespace) -> int:
    from buscli.auditlog import AuditLog, directory_of

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    log = AuditLog(directory_of(args))
    log.files()
    if output.interactive:
        output.note(f"-> {log.directory}")
    if args.action == "verify":
        return _verify(args, log, output)
    if args.action == "follow":
        from buscli.connection import run

        return run(_follow(args, log, output), ends_well=True)
    return _show(args, log, output)


# -- show and follow --------------------------------------------------------------------------------------------------


def _show(args: Namespace, log: "AuditLog", output: Output) -> int:
    from collections import deque

    from buscli.auditlog import Selection, parse_line, row

    wanted = Selection(args)
    limit = args.last or (SHOWN if output.human else None)
    kept: deque[dict[str, Any]] = deque(maxlen=limit)
    matching = unreadable = 0
    for _, line in log.lines(wanted.since):
        record = parse_line(line)
        if record is None:
            unreadable += 1
        elif record in wanted:
            matching += 1
            if limit is None:
                output.record(record)
            else:
                kept.append(record)
    if output.human:
        output.table(("number", "time", "event", "who", "what"), [row(record) for record in kept])
        if matching > len(kept) and not args.last:
            output.note(f"the last {len(kept)} of {matching}; --last N shows more")
    else:
        for record in kept:
            output.record(record)
    if unreadable:
        output.note(f"bus audit: {unreadable} lines cannot be read")
        output.note("  try: bus audit verify")
    return Exit.OK


async def _follow(args: Namespace, log: "AuditLog", output: Output) -> int:
    from buscli.connection import first_of, reader_gone

    await first_of(_print_new(args, log, output), reader_gone())
    return Exit.OK


async def _print_new(args: Namespace, log: "AuditLog", output: Output) -> None:
    from buscli.auditlog import Selection, parse_line, printable_row

    wanted = Selection(args)
    async for place, line in log.follow():
        record = parse_line(line)
        if record is None:
            output.note(f"bus audit: a line of {place} cannot be read")
        elif record in wanted:
            if output.human:
                output.line(printable_row(record))
            else:
                output.record(record)
            output.flush()


# -- verify -----------------------------------------------------------------------------------------------------------


def _verify(args: Namespace, log: "AuditLog", output: Output) -> int:
    keys = [_key(path) for path in args.key_file or ()]
    while True:
        try:
            found = _check(log, keys, args.last, output)
            break
        except FileNotFoundError:  # busd removed its oldest file meanwhile: begin again with those that are left
            log.files()
    for problem in found.problems:
        if output.human:
            number = "" if problem.seq is None else f" record {problem.seq}"
            what = output.styled(problem.what, Style.RED)
            output.line(f"{printable(problem.place)}:{number} {what}: {printable(problem.text)}")
        else:
            output.record({"place": problem.place, "seq": problem.seq, "problem": problem.what, "text": problem.text})
    _conclude(found, output)
    return Exit.OK if found.ok else Exit.FAILED


def _conclude(found: "Verification", output: Output) -> None:
    problems = len(found.problems) + found.more
    last = None if found.last is None else str(found.last)
    if not output.human:
        output.record(
            {"ok": found.ok, "records": found.records, "first": found.first, "last": last, "problems": problems}
        )
        return
    if found.more:
        output.line(f"and {found.more} more problems")
    verdict = (
        output.styled("nothing is wrong", Style.GREEN) if found.ok else output.styled(f"{problems} problems", Style.RED)
    )
    output.line(f"{found.records} records, from {found.first}, last {last}: {verdict}")


def _check(log: "AuditLog", keys: "list[Key]", last: tuple[int, str] | None, output: Output) -> "Verification":
    from buscli.offline import Anchor, Verifier

    verifier = Verifier(keys=keys, anchor=None if last is None else Anchor(*last))
    total, done = log.size(), 0
    for count, (place, line) in enumerate(log.lines(), 1):
        verifier.feed(place, line)
        done += len(line)
        if count % PROGRESS_LINES == 0:
            output.progress(f"{min(done / max(total, 1), 1):.0%} checked, {verifier.problems} problems so far")
    output.progress("")
    return verifier.finish()


def _key(path: str) -> "Key":
    from pathlib import Path

    from buscli.offline import Key

    content = Path(path).read_bytes()
    try:
        return Key(content)
    except ValueError as error:
        raise UsageError(f"bus audit verify: {path}: {error}", "openssl rand -hex 32 makes one") from None
