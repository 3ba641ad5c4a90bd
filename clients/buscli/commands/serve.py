"""``bus serve``: answer calls with a command, an echo or a fixed reply."""

from argparse import Namespace

from buscli import body, values
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="serve",
    help="answer calls with a command, an echo or a fixed reply",
    description="""\
Answers calls to SUBJECT (a pattern: * is one token, > the rest) until Ctrl-C, which is its normal end (0). Each
call is shown: on a terminal as a line, when piped as a JSON object.

--exec runs CMD with /bin/sh for each call. The body comes on its standard input, as JSON (with --raw as it is), and
what it prints is the reply, read as a BODY is. BUS_SUBJECT is the subject, BUS_CALLER the caller's endpoint,
BUS_HEADER_NAME each header (quote them: callers choose what they hold). An exit status other than 0 is an error
reply with that status and the end of its standard error. When --timeout passes or the caller stops waiting, CMD's
process group is ended.

"""
    + body.HOW_BODIES_READ,
    arguments=(
        Argument("subject", "what to serve", completes="subject"),
        Argument("--exec", "a shell command that answers each call", aliases=("-e",), metavar="CMD"),
        Argument("--echo", "reply with the body and headers of the call", arity="flag"),
        Argument("--reply", "always reply with this", metavar="BODY"),
        Argument("--raw", "with --exec and --reply: bytes as they are, not JSON", arity="flag"),
        Argument(
            "--timeout",
            "with --exec: how long CMD may take",
            aliases=("-t",),
            metavar="TIME",
            convert=values.seconds,
            default=30.0,
        ),
        Argument("--group", "share the calls with others of this group", metavar="NAME", default="default"),
        Argument("--concurrency", "calls answered at a time", metavar="N", convert=values.count, default=8),
        Argument("--count", "end after this many calls", aliases=("-n",), metavar="N", convert=values.count),
        Argument("--quiet", "do not show calls", aliases=("-q",), arity="flag"),
    ),
    examples=(
        Example("bus serve demo.echo --echo", "try bus call demo.echo hi"),
        Example("bus serve demo.upper --raw --exec 'tr a-z A-Z'", "a filter as a service"),
        Example("bus serve demo.disk --exec 'df --output=avail / | tail -1'", "a number as the reply"),
        Example(
            "bus serve 'demo.unit.*' --exec 'systemctl is-active \"${BUS_SUBJECT##*.}\"'", "the subject says which"
        ),
    ),
    impact="rw",
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from buscli.responder import Responder
    from busproto.errors import BusError, Code
    from busproto.subjects import check_pattern, is_reserved

    check_pattern(args.subject)
    if is_reserved(args.subject):
        raise BusError(Code.SUBJECT_RESERVED, subject=args.subject)
    if (args.exec is not None) + args.echo + (args.reply is not None) != 1:
        raise UsageError("bus serve: give one of --exec, --echo and --reply", "bus serve --help")
    return run(Responder(args).run(), ends_well=args.count is None)
