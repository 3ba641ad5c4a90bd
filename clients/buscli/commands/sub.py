"""``bus sub``: print what is published, as it comes."""

from argparse import Namespace

from buscli import values
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="sub",
    help="print messages as they are published",
    description="""\
Subscribes to each PATTERN (* is one token, > the rest) and prints what comes: a line for people on a terminal, one
JSON object a line when piped: subject, received (UTC), payload, headers, origin. A message that matches several
patterns is printed once. Messages that were lost are reported where they are missing, on standard error and, when
piped, as {"gap": {"pattern", "count", "reason"}}.

It runs until --count, --timeout, Ctrl-C or until nobody reads its output; Ctrl-C is a normal end (0) unless --count
was asked for. With --count it ends with 4 when --timeout passes first.""",
    arguments=(
        Argument("pattern", "what to subscribe to", arity="many", completes="subject"),
        Argument("--count", "end after this many messages", aliases=("-n",), metavar="N", convert=values.count),
        Argument("--timeout", "end after this time", aliases=("-t", "--for"), metavar="TIME", convert=values.seconds),
        Argument("--headers", "on a terminal, show headers too (JSON always has them)", arity="flag"),
        Argument("--raw", "payloads only, as the bytes that came, with nothing between them", arity="flag"),
        Argument("--lines", "with --raw: end each payload with a newline", arity="flag"),
        Argument("--latest", "when too slow, keep the newest message of each subject", arity="flag"),
        Argument(
            "--exclude",
            "leave out what matches this; repeat it for more",
            aliases=("-x",),
            metavar="PATTERN",
            arity="repeat",
            completes="subject",
        ),
    ),
    examples=(
        Example("bus sub 'telemetry.>'", "watch everything under telemetry"),
        Example("bus sub 'demo.*' --count 1 --timeout 5s | jq .payload", "wait for one message"),
        Example("bus sub demo.log --raw --lines >> log.txt", "write payloads to a file, a line each"),
        Example("bus sub '$bus.endpoints.>'", "who comes and goes"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from buscli.watch import Watch
    from busproto.subjects import check_pattern

    for pattern in (*args.pattern, *(args.exclude or ())):
        check_pattern(pattern)
    if args.lines and not args.raw:
        raise UsageError("bus sub: --lines goes with --raw; JSON is a line each anyway", "bus sub --help")
    return run(Watch(args).run(), ends_well=args.count is None)
