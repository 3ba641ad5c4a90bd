"""``bus top``: who does how much, live or once."""

from argparse import Namespace

from buscli import values
from buscli.table import Argument, Command, Example
from buscli.topcolumns import BY, SORTED_BY

COMMAND = Command(
    name="top",
    help="show who sends, gets, loses and holds how much, live",
    description="""\
A table of the endpoints, the busiest first: messages and bytes a second that each sends and gets, calls that it makes,
what is lost for it and denied to it, what is queued for it, and the quota that it has used up most. Component and owner
are what it says of itself; where it is and who pays for it is proven. The first line is the node as a whole: lag is how
late its routing loop runs, throttled how many accounts are too fast and are held up.

Live, it is drawn again in place once a second, less often on a node with thousands of endpoints, where looking has a
price. Left and right or the letters below choose what it is sorted by, r turns that round, b sums up by component,
tenant or unit, space holds it, q ends it. Letters: n name, p component, o owner, s sends, g gets, c calls, l lost, d
denied, u queued, f fullest, a who pays, w where, t throttled; S, G and U are bytes.

Piped, or with --once, it looks twice and prints what came in between; piped as one JSON object for each row, and last
one with the totals. Whoever belongs to a tenant sees that tenant's endpoints.""",
    arguments=(
        Argument("--once", "print it once and end, as when piped", arity="flag"),
        Argument(
            "--sort",
            "by which column",
            aliases=("-s",),
            metavar="COLUMN",
            default="sends",
            choices=tuple(SORTED_BY),
            completes="choices",
        ),
        Argument("--reverse", "the least first", aliases=("-r",), arity="flag"),
        Argument(
            "--by",
            "one row for each",
            metavar="WHAT",
            default="endpoint",
            choices=BY,
            completes="choices",
        ),
        Argument("--filter", "only rows with this text in a name, owner, purpose or place", metavar="TEXT", default=""),
        Argument("--seconds", "between two looks", metavar="TIME", convert=values.seconds, default=1.0),
        Argument(
            "--limit", "with --once: print this many rows at most", aliases=("-n",), metavar="N", convert=values.count
        ),
        Argument("--text", "with --once: the table also where it is piped, for a report", arity="flag"),
    ),
    examples=(
        Example("bus top", "who is busy now"),
        Example("bus top --once --limit 5", "the five busiest"),
        Example("bus top --by tenant --sort denied", "which tenant is turned away most"),
        Example("bus top --once --text > report.txt", "for a bug report"),
        Example("bus top --once | jq -r 'select(.lost_per_second > 0).name'", "who loses messages"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from buscli.top import top

    return run(top(args))
