"""``bus map``: who talks to whom on this node, at what rate, and why."""

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from buscli import values
from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError, suggest
from buscli.table import Argument, Command, Example

if TYPE_CHECKING:
    from buscli.traffic import TrafficMap

TOP: Final = 20
"""Components that are shown as text. A page of a terminal or two."""

TOP_OF_GRAPH: Final = 100
"""Components that are drawn: with more no picture can be read."""

COMMAND = Command(
    name="map",
    help="show who talks to whom, how much, whose it is and what for",
    description=f"""\
Looks twice at what the broker counted, --seconds apart, and shows each component: what it says it is for and who owns
it, where its endpoints are, and what it publishes to whom and calls of whom, a second, the busiest first. The subject
is the pattern by which the receiver gets it; $bus is the broker itself. Where nothing passed meanwhile, what came
before is shown. Endpoints that do not say who they are are marked.

Endpoints of one component and tenant count as one, and so do those of one unit that say nothing. {TOP} components are
shown ({TOP_OF_GRAPH} with --dot), and how many were left out. When piped and with --json it is one JSON object: every
endpoint, and every flow with messages (since its sender came) and per_second.""",
    arguments=(
        Argument("--seconds", "how long to look", aliases=("-s",), metavar="TIME", convert=values.seconds, default=1.0),
        Argument(
            "--component", "only this one, and whom it talks with", aliases=("-c",), metavar="NAME", completes="claim"
        ),
        Argument("--top", "how many components to show", metavar="N", convert=values.count),
        Argument("--dot", "as text for Graphviz", arity="flag"),
    ),
    examples=(
        Example("bus map", "the components of this node, the busiest first"),
        Example("bus map --component telemetry --seconds 10s", "who uses telemetry, over ten seconds"),
        Example("bus map --dot | dot -Tsvg > map.svg", "a picture"),
        Example("bus map | jq -r '.endpoints[] | select(.owner == null).endpoint'", "those that nobody owns up to"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    if args.dot and args.json:
        raise UsageError("bus map: --dot and --json are two forms", "leave one of them out")
    return run(_map(args))


async def _map(args: Namespace) -> int:
    from buscli.jsonform import to_json

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    traffic = await _look(args, output)
    if args.component is not None:
        _check_component(args.component, traffic)
        traffic = traffic.only(args.component)
    if args.dot:
        from buscli.trafficview import dot

        output.raw(dot(traffic, args.top or TOP_OF_GRAPH).encode())
    elif not output.human:
        output.record(to_json(traffic.describe()))
    else:
        from buscli.trafficview import show

        show(output, traffic, args.top or TOP, args.component)
    return Exit.OK


async def _look(args: Namespace, output: Output) -> "TrafficMap":
    """What the broker counted, and what was added to it in the time that was asked for."""
    import asyncio

    from buscli import connection
    from buscli.census import traffic
    from buscli.traffic import TrafficMap

    async with connection.attached(args, output) as bus:
        before = await traffic(bus)
        output.progress(f"looking for {args.seconds:g} s")
        try:
            await asyncio.sleep(args.seconds)
            return TrafficMap(before, await traffic(bus))
        finally:
            output.progress("")


def _check_component(component: str, traffic: "TrafficMap") -> None:
    """Raise UsageError for a name that no endpoint claims, with the one that may have been meant."""
    if component in traffic.components:
        return
    nearest = suggest(component, traffic.components)
    cures = [f"bus map --component {nearest}"] if nearest else []
    raise UsageError(f"bus map: no endpoint is of component '{component}'", *cures, "bus map", exit=Exit.FAILED)
