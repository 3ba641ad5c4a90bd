"""``bus replay``: publish what ``bus record`` kept, or show it."""

from argparse import Namespace

from buscli import values
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="replay",
    help="publish what bus record kept, or show it",
    description="""\
Publishes the messages of FILE again, with the spacing in time that they had. They are published as you: who receives
them sees you as their origin, and policy asks what you may publish. Headers and payloads are those of the recording.
What the broker itself had published (under $bus.) is left out, and said.

FILE is read to its end before anything is published; if it is damaged or torn, the record is named and nothing is
published, unless --partial is given. --show and --dry-run need no bus: --show prints all that was recorded, one JSON
object a line when piped; --dry-run prints what would be published, and when. --loop goes on until Ctrl-C, which is
then a normal end (0), and begins again every 100 ms at most, unless --fast is given.""",
    arguments=(
        Argument("file", "a recording", completes="file"),
        Argument("--speed", "so many times as fast (0.5: half as fast)", metavar="N", convert=values.factor),
        Argument("--fast", "without waiting between messages", arity="flag"),
        Argument(
            "--subject",
            "only what matches this, as it was recorded; repeat it for more",
            aliases=("-s",),
            metavar="PATTERN",
            arity="repeat",
            completes="subject",
        ),
        Argument("--prefix", "publish on PREFIX.SUBJECT instead of SUBJECT", metavar="PREFIX"),
        Argument("--loop", "begin again at the end", arity="flag"),
        Argument("--dry-run", "print what would be published, and when", arity="flag"),
        Argument("--show", "print the recording, and publish nothing", arity="flag"),
        Argument("--partial", "of a damaged file, take what is whole before the damage", arity="flag"),
    ),
    examples=(
        Example("bus replay telemetry.rec", "the same again, as it was"),
        Example("bus replay telemetry.rec --prefix replay --speed 10", "apart from the real ones, ten times as fast"),
        Example("bus replay incident.rec --show | jq -r .subject | sort | uniq -c", "what is in it"),
        Example("bus replay incident.rec --subject 'disk.>' --dry-run", "what would be published"),
    ),
    impact="rw",
)


def run(args: Namespace) -> int:
    from buscli.recordingreplay import Replay
    from busproto.subjects import check_pattern, check_subject

    for pattern in args.subject or ():
        check_pattern(pattern)
    if args.prefix is not None:
        check_subject(args.prefix)
    for one, other in (
        ("fast", "speed"),
        ("show", "dry_run"),
        ("loop", "show"),
        ("loop", "dry_run"),
        ("show", "speed"),
        ("show", "fast"),
        ("show", "prefix"),
    ):
        if getattr(args, one) and getattr(args, other):
            words = " and ".join(f"--{name.replace('_', '-')}" for name in (one, other))
            raise UsageError(f"bus replay: {words} do not go together", "bus replay --help")
    with Replay(args) as replay:
        if args.show:
            return replay.show()
        if args.dry_run:
            return replay.rehearse()
        from buscli.connection import run

        replay.check()
        return run(replay.run(), ends_well=args.loop)
