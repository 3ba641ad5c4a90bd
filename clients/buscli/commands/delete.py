"""``bus delete``: large trees deleted by the node, or in this process; and the jobs that do it."""

from argparse import Namespace
from typing import Final

from buscli import deletionvalues, values
from buscli.exits import Exit
from buscli.table import Argument, Command, Example, exits

LIST_JOBS: Final = 100
"""Jobs that ``list`` shows without ``--limit``."""

_JOB: Final = Argument("job", "the job's id, as bus delete list shows it", completes="job")
_LOCAL_DIRECTORY: Final = Argument(
    "--local",
    "of a deletion with --local: the directory that what is deleted was in; in this process, without the node",
    metavar="DIR",
    completes="file",
)
_RATE: Final = Argument("--rate", "most files a second; 0 pauses", metavar="FILES/S", convert=deletionvalues.rate)
_BYTE_RATE: Final = Argument(
    "--byte-rate",
    "most bytes a second: 10M, 1.5Gi; 0 pauses",
    metavar="BYTES/S",
    convert=deletionvalues.byte_rate,
)


_ENDS: Final = (
    Exit.STAYS,
    Exit.PARKED,
    Exit.CANCELLED,
    Exit.REFUSED,
    Exit.CHANGED,
    Exit.LIMIT,
    Exit.NO_SUCH,
)
"""How a command can end that sees a job's end."""


COMMAND = Command(
    name="delete",
    help="delete large trees: fast, in bounds, without disturbing others, and told exactly what stays",
    description="""\
Has the node delete what is at PATH: the name is free at once where the file system allows it, what was there is removed
in the background within the limits given, nothing outside is ever touched, and links are not followed. PATH must be
below one of the node's deletion roots (bus delete roots); --root and --path say the same without a path of this
machine. A PATH that is also a command's name is written ./list.

Without --yes it looks first (a dry run), says what it has found, asks, and deletes what it has shown: if something else
is there by then it does not. Ctrl-C leaves the job to the node and says how to find it again. With --local this process
deletes, with your rights and without a node, and Ctrl-C stops it at the next batch.

On a terminal there is one line of progress, and a summary at the end. Piped, or with --json, each change is a line of
JSON, and the last line is the report (it has "progress" in it). A path that is no UTF-8 is shown with \\xff for what is
not, and whole in a second field, path_bytes.""",
    arguments=(
        # In capitals: in lower case it would be the value of --path.
        Argument(
            "PATH", "what to delete: a file, a link, or a directory with all in it", arity="optional", completes="file"
        ),
        Argument("--root", "with --path: the id of a deletion root", metavar="ROOT", completes="root"),
        Argument("--path", "path below --root", metavar="PATH"),
        Argument("--dry-run", "look only, and say what would be deleted", aliases=("-n",), arity="flag"),
        Argument(
            "--plan",
            "delete what the dry run with this id has found, if it is still that",
            metavar="ID",
            completes="job",
        ),
        Argument(
            "--slack",
            "of --plan, and of what is asked first: percent by which it may have grown meanwhile (default: 0)",
            metavar="PERCENT",
            convert=deletionvalues.percent,
        ),
        Argument(
            "--filter",
            "delete only files for which this is so, and leave directories: older-than=30d, glob='*.log', "
            "larger-than=10M, smaller-than=4Ki, owner=www, type=file,link (also fifo, socket, device); "
            "several must all be so",
            aliases=("-f",),
            metavar="KEY=VALUE",
            arity="repeat",
            convert=deletionvalues.pair,
        ),
        _RATE,
        _BYTE_RATE,
        Argument(
            "--max-entries", "delete nothing if there is more, and stop if more came", metavar="N", convert=values.count
        ),
        Argument("--max-bytes", "the same for bytes: 500M, 2Ti", metavar="SIZE", convert=deletionvalues.size),
        Argument(
            "--grace",
            "keep it for so long, its name being free: bus delete undelete JOB has it back (12h, 7d)",
            metavar="TIME",
            convert=deletionvalues.span,
        ),
        Argument("--in-place", "do not rename it first; nothing can be had back then", arity="flag"),
        Argument("--yes", "do not ask", aliases=("-y",), arity="flag"),
        Argument("--detach", "return once the node has taken the job", aliases=("-d",), arity="flag"),
        Argument("--local", "delete in this process, with your own rights and without a node", arity="flag"),
    ),
    examples=(
        Example("bus delete /srv/work/build-71", "look, ask, delete, and watch it"),
        Example("bus delete /srv/work/build-71 --yes --detach | jq -r .job", "have the node do it"),
        Example("bus delete /srv/logs --filter older-than=30d --filter glob='**.log' --dry-run", "what would go"),
        Example("bus delete --root work --path acme/old --yes --rate 5000", "of a root, at most 5,000 files a second"),
        Example("bus delete /srv/work/build-71 --yes --grace 7d", "with a week to think better of it"),
        Example("bus delete ./node_modules --local --yes", "without a node"),
    ),
    impact="rw",
    exits=exits(*_ENDS),
    actions=(
        Command(
            name="delete list",
            help="list the deletion jobs",
            description="Those that are not over; with --all also those that are, newest first. A tenant sees its own.",
            arguments=(
                Argument("--all", "also those that have ended", aliases=("-a",), arity="flag"),
                Argument(
                    "--limit",
                    "at most so many",
                    aliases=("-n",),
                    metavar="N",
                    convert=deletionvalues.jobs,
                    default=LIST_JOBS,
                ),
                _LOCAL_DIRECTORY,
            ),
            examples=(
                Example("bus delete list", "what is being deleted, how far it is, and what holds it back"),
                Example("bus delete list --all | jq -r 'select(.state == \"failed\").job'", "what has failed"),
                Example("bus delete list --local /srv/work", "what --local left there"),
            ),
        ),
        Command(
            name="delete watch",
            help="watch a job until it ends",
            description="""\
As bus delete PATH does, with the same exit codes. It ends, too, when the job waits for something: for a file that is in
use, or for the end of its grace. Ctrl-C leaves the job alone.""",
            arguments=(_JOB,),
            examples=(Example("bus delete watch 9f2c41d07b", "how far it is"),),
            exits=exits(*_ENDS),
        ),
        Command(
            name="delete report",
            help="show what a job has come to: what was deleted, what stays, why, and where",
            description="The first 100 failures of each kind, and of what stays for each reason. 0 whatever it says.",
            arguments=(_JOB, _LOCAL_DIRECTORY),
            examples=(
                Example("bus delete report 9f2c41d07b", "all about it"),
                Example("bus delete report 9f2c41d07b | jq -r '.failures[] | [.error, .path] | @tsv'", "what failed"),
            ),
            exits=exits(Exit.NO_SUCH),
        ),
        Command(
            name="delete pause",
            help="pause a job at the end of its batch",
            description="It keeps its place, holds nobody up, and goes on with bus delete resume.",
            arguments=(_JOB,),
            examples=(Example("bus delete pause 9f2c41d07b", "for now"),),
            impact="rw",
            exits=exits(Exit.NO_SUCH),
        ),
        Command(
            name="delete resume",
            help="go on with a job that was paused, cancelled with keep, or has failed",
            description="""\
A job that is parked is tried at once, and what is set aside by --grace goes at once. With --local this process does it
and shows how far it is, with the exit codes of bus delete PATH.""",
            arguments=(_JOB, _LOCAL_DIRECTORY),
            examples=(
                Example("bus delete resume 9f2c41d07b", "go on"),
                Example("bus delete resume 9f2c41d07b --local /srv/work", "with what Ctrl-C has left"),
            ),
            impact="rw",
            exits=exits(*_ENDS),
        ),
        Command(
            name="delete change",
            help="change how fast a job may go, at once",
            description="What is not given stays as it is.",
            arguments=(
                _JOB,
                _RATE,
                _BYTE_RATE,
                Argument("--unlimited", "what is not given has no limit any more", arity="flag"),
            ),
            examples=(
                Example("bus delete change 9f2c41d07b --rate 20000", "faster, at night"),
                Example("bus delete change 9f2c41d07b --unlimited", "as fast as the neighbours bear"),
            ),
            impact="rw",
            exits=exits(Exit.NO_SUCH),
        ),
        Command(
            name="delete cancel",
            help="stop a job for good, or until it is resumed",
            description="""\
keep: what is left stays set aside, and bus delete resume goes on with it. restore: what is left is put back to its
place, if that is still free. abandon: what is left stays where it is, and the report says where that is.""",
            arguments=(
                _JOB,
                Argument(
                    "--how",
                    "what becomes of what is left",
                    choices=("keep", "restore", "abandon"),
                    default="keep",
                    completes="choices",
                ),
                _LOCAL_DIRECTORY,
            ),
            examples=(
                Example("bus delete cancel 9f2c41d07b", "stop"),
                Example("bus delete cancel 9f2c41d07b --how restore", "and put back what is left"),
            ),
            impact="rw",
            exits=exits(Exit.NO_SUCH),
        ),
        Command(
            name="delete undelete",
            help="have back what is set aside by --grace",
            description="Puts it back to its place, if that is still free, as long as the grace lasts.",
            arguments=(_JOB, _LOCAL_DIRECTORY),
            examples=(Example("bus delete undelete 9f2c41d07b", "that was a mistake"),),
            impact="rw",
            exits=exits(Exit.NO_SUCH),
        ),
        Command(
            name="delete roots",
            help="list the directories below which you may delete",
            description="Their ids and limits. Only the node itself is told their paths.",
            examples=(Example("bus delete roots", "where one may delete"),),
        ),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    if args.action != "delete":
        from buscli.deletionjobs import Jobs

        return run(Jobs(args).run())
    from buscli.deletionrun import Deletion

    return run(Deletion(args).run())
