"""``bus ping``: how long a round trip to the broker takes."""

from argparse import Namespace

from buscli import values
from buscli.exits import Exit
from buscli.output import Output
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="ping",
    help="measure round trips to the broker",
    description="""\
Calls $bus.ping and prints how long each reply took, then a summary: lowest, median and highest.""",
    arguments=(
        Argument("--count", "how many", aliases=("-n",), metavar="N", convert=values.count, default=4),
        Argument(
            "--interval", "time between two", aliases=("-i",), metavar="TIME", convert=values.seconds, default=0.2
        ),
        Argument("--timeout", "for each", aliases=("-t",), metavar="TIME", convert=values.timeout, default=2.0),
    ),
    examples=(
        Example("bus ping", "four round trips"),
        Example("bus ping --count 1 --timeout 100ms && echo fast", "in a script"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    return run(_ping(args))


async def _ping(args: Namespace) -> int:
    import asyncio
    from time import perf_counter

    from buscli.connection import attached

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    trips: list[float] = []
    async with attached(args, output) as bus:
        for number in range(1, args.count + 1):
            if trips:
                await asyncio.sleep(args.interval)
            start = perf_counter()
            reply = await bus.call("$bus.ping", None, timeout=args.timeout)
            trips.append(perf_counter() - start)
            if output.human:
                output.line(f"{number}: {trips[-1] * 1e3:.3f} ms")
            else:
                output.record({"number": number, "seconds": trips[-1], "node": reply.payload["node"]})
            output.flush()
    _summarise(output, sorted(trips))
    return Exit.OK


def _summarise(output: Output, trips: list[float]) -> None:
    lowest, median, highest = trips[0], trips[len(trips) // 2], trips[-1]
    if output.human:
        figures = f"{lowest * 1e3:.3f} / {median * 1e3:.3f} / {highest * 1e3:.3f} ms"
        output.line(f"{len(trips)} round trips; lowest / median / highest: {figures}")
    else:
        output.record({"count": len(trips), "lowest": lowest, "median": median, "highest": highest})
