"""``bus inspect``: everything the broker knows of one endpoint."""

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError, suggest
from buscli.table import Argument, Command, Example

if TYPE_CHECKING:
    from busclient import Bus

MEANT: Final = 3
"""Endpoints that are named when a component's name was given instead."""

COMMAND = Command(
    name="inspect",
    help="show everything about one endpoint",
    description="""\
Identity, claims, subscriptions, services, calls in flight, what it holds of its quotas, counters. principal is what
the broker proved; claims are what the endpoint says of itself.""",
    arguments=(Argument("endpoint", "its name, as bus list shows it", completes="endpoint"),),
    examples=(
        Example("bus inspect host-3", "everything about host-3"),
        Example("bus inspect host-3 | jq .statistics.charges", "what it holds, and its limits"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    return run(_inspect(args))


async def _inspect(args: Namespace) -> int:
    from buscli.census import ask
    from buscli.connection import attached
    from buscli.jsonform import to_json
    from buscli.outline import outline
    from busclient.errors import ErrorReply
    from busproto.errors import Code

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with attached(args, output) as bus:
        try:
            found = await ask(bus, "$bus.inspect", {"endpoint": args.endpoint})
        except ErrorReply as error:
            if error.code != Code.REQUEST_INVALID:
                raise
            raise await _unknown(bus, args.endpoint) from None
    if output.human:
        for line in outline(to_json(found)):
            output.line(line)
    else:
        output.record(to_json(found))
    return Exit.OK


async def _unknown(bus: "Bus", name: str) -> UsageError:
    """The refusal of a name that no endpoint has. What it may have meant: a component's name, or one close to it."""
    from buscli.census import endpoints

    rows = [row async for row in endpoints(bus)]
    meant = [row["endpoint"] for row in rows if row["claims"].get("component") == name][:MEANT]
    nearest = meant or list(filter(None, [suggest(name, [row["endpoint"] for row in rows])]))
    cures = [f"bus inspect {endpoint}" for endpoint in nearest]
    return UsageError(
        f"bus inspect: no endpoint is called '{name}'", *cures, "bus list", "bus list --departed", exit=Exit.FAILED
    )
