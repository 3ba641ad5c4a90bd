"""``bus monitor``: everything that passes, as the broker sees it, for the node's administrators."""

from argparse import Namespace
from typing import Final

from buscli import values
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

KINDS: Final = ("publish", "call", "reply", "denied", "all")

PAYLOAD_BYTES: Final = 64 * 1024
"""The most of a payload that the broker shows."""

COMMAND = Command(
    name="monitor",
    help="show everything that passes, with leave of the node's administrators",
    description="""\
A read-only tap: each publish, call, outcome of a call and denial on this node, of all tenants, as the broker handles
it. PATTERN is of subjects as their senders call them, in whatever tenant's space; > alone leaves out the broker's own
($bus.>), no PATTERN leaves out nothing. Headers are always shown, payloads with --payload only. A line for people on a
terminal, one JSON object a line when piped. Who comes and goes is not here: bus sub '$bus.endpoints.>'.

It takes the right to call $bus.admin.monitor, which tenants never have. While it runs, bus list and bus inspect say so
to everybody, and the audit log has who began and ended it. It slows nobody: it is told of at most 5,000 messages a
second, and what it misses is counted and said where it is missing, on standard error and, when piped, as
{"kind": "missed"}: missed were wanted; unseen nobody compared with the filter. When the bus is started again it goes
on there; what passed meanwhile nobody counted: both are null then.

It runs until --count, --for, Ctrl-C or until nobody reads its output; Ctrl-C is a normal end (0) unless --count was
asked for. With --count it ends with 4 when --for passes first.""",
    arguments=(
        Argument("pattern", "subjects to show", arity="any", completes="subject"),
        Argument("--tenant", "only what is said in this tenant's space (node: the node's own)", metavar="NAME"),
        Argument("--endpoint", "only what this endpoint sends or is to get", metavar="NAME", completes="endpoint"),
        Argument(
            "--kind",
            "only this kind; repeat it for more",
            aliases=("-k",),
            choices=KINDS,
            arity="repeat",
            completes="choices",
        ),
        Argument("--payload", "show this much of each payload, at most 64k", metavar="SIZE", convert=values.size),
        Argument("--count", "end after this many messages", aliases=("-n",), metavar="N", convert=values.count),
        Argument("--for", "end after this time", metavar="TIME", convert=values.seconds),
    ),
    examples=(
        Example("bus monitor", "everything, live"),
        Example("bus monitor --kind denied", "who tries what policy does not allow"),
        Example("bus monitor 'cache.>' --tenant acme --payload 200", "what acme says to the cache"),
        Example("bus monitor --endpoint guest-7 --for 10s | jq -r .subject | sort | uniq -c", "what one of them does"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from buscli.monitoring import Monitor
    from busproto.subjects import check_pattern

    for pattern in args.pattern:
        check_pattern(pattern)
    if args.payload is not None and args.payload > PAYLOAD_BYTES:
        raise UsageError(
            f"bus monitor: --payload {args.payload} is more than is shown of one, which is {PAYLOAD_BYTES}",
            f"bus monitor --payload {PAYLOAD_BYTES}",
            "bus record PATTERN --output FILE, which keeps whole payloads",
        )
    return run(Monitor(args).run(), ends_well=args.count is None)
