"""``bus record``: keep what a subscription gets in a file."""

from argparse import Namespace

from buscli import values
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="record",
    help="keep what is published in a file, for bus replay",
    description="""\
Subscribes to each PATTERN and writes what comes to --output: subject, headers, payload, who sent it, and when. A
message that matches several patterns is written once; messages that were lost are written as gaps, where they are
missing. It takes the same rights as bus sub: what you may not receive you cannot record.

The file is made when the subscriptions stand, is readable for you alone (0600), and must not be there yet; --force
replaces one that is. Each record has a checksum, and the last one says that it is whole, so a torn or damaged file is
told from a good one. It ends at --count, --for, before --max-bytes is passed, or at Ctrl-C, which is a normal end (0)
unless --count was asked for. With --count it ends with 4 when --for passes first; what was recorded stays.""",
    arguments=(
        Argument("pattern", "what to record", arity="many", completes="subject"),
        Argument("--output", "the file to make", aliases=("-o",), metavar="FILE", completes="file"),
        Argument("--count", "end after this many messages", aliases=("-n",), metavar="N", convert=values.count),
        Argument("--for", "end after this time", metavar="TIME", convert=values.seconds),
        Argument("--max-bytes", "end before the file is larger", metavar="SIZE", convert=values.size),
        Argument("--force", "replace FILE if it is there", arity="flag"),
    ),
    examples=(
        Example("bus record 'telemetry.>' --output telemetry.rec --for 1m", "a minute of telemetry"),
        Example("bus record 'disk.>' 'net.>' -o incident.rec --max-bytes 500m", "until there is enough"),
        Example("bus record demo.tick -o tick.rec --count 1", "one message, whole"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from buscli.recordingrun import Recorder
    from busproto.subjects import check_pattern

    for pattern in args.pattern:
        check_pattern(pattern)
    if args.output is None:
        raise UsageError("bus record: --output says where to", "bus record 'telemetry.>' --output telemetry.rec")
    return run(Recorder(args).run(), ends_well=args.count is None)
