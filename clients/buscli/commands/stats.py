"""``bus stats``: the counters of the whole broker."""

from argparse import Namespace

from buscli.exits import Exit
from buscli.output import Output
from buscli.table import Command, Example

COMMAND = Command(
    name="stats",
    help="show the counters of the whole broker",
    description="""\
What the broker counted since it started: messages, bytes, drops and refusals by reason, calls by outcome. They are
the figures that /metrics serves.""",
    examples=(
        Example("bus stats", "all of them"),
        Example("bus stats | jq .dropped_messages", "what was lost, by boundary and reason"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    return run(_stats(args))


async def _stats(args: Namespace) -> int:
    from buscli.census import ask
    from buscli.connection import attached
    from buscli.jsonform import to_json
    from buscli.outline import outline

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with attached(args, output) as bus:
        found = to_json(await ask(bus, "$bus.stats"))
    if output.human:
        for line in outline(found):
            output.line(line)
    else:
        output.record(found)
    return Exit.OK
