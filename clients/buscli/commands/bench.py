"""``bus bench``: what this bus does on this machine, said honestly."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from buscli import values
from buscli.exits import Exit
from buscli.output import Output, printable
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example
from buscli.units import short

if TYPE_CHECKING:
    from buscli.load import Result
    from busclient import Bus

WORKS: Final = ("call", "pubsub")

COMMAND = Command(
    name="bench",
    help="measure latency and throughput through the broker",
    description="""\
Sends --count calls, or messages to one subscriber, through the broker and prints throughput and percentiles. Both
ends are in this process, on connections of their own, unless --subject names a service that runs elsewhere (such as
bus serve demo.echo --echo in another terminal, or in a guest).

With --rate it is an open loop: requests go at that rate whatever comes back, and latency counts from the moment
each was due. That is a latency test. Without --rate it is a closed loop, which says what the bus can carry; its
times are labelled as what they are. Messages lost and calls that failed are counted and shown.""",
    arguments=(
        Argument("work", "call, pubsub, or both", arity="optional", choices=WORKS, completes="choices"),
        Argument("--count", "calls or messages", aliases=("-n",), metavar="N", convert=values.count, default=5000),
        Argument("--size", "payload bytes", aliases=("-s",), metavar="BYTES", convert=values.size, default=100),
        Argument("--in-flight", "closed loop: calls at a time", metavar="N", convert=values.count, default=1),
        Argument("--rate", "open loop: this many a second", aliases=("-r",), metavar="N", convert=values.rate),
        Argument("--subject", "call this service instead of one of our own", completes="subject"),
        Argument("--timeout", "for each call", aliases=("-t",), metavar="TIME", convert=values.timeout, default=5.0),
        Argument("--warm-up", "calls or messages before those that count", metavar="N", convert=int, default=200),
        Argument("--csv", "a heading and a line for each work", arity="flag"),
    ),
    examples=(
        Example("bus bench", "both works, closed loop"),
        Example("bus bench call --rate 500 --count 2000", "latency of calls at 500 a second"),
        Example("bus bench call --in-flight 64 --count 20000", "calls a second, 64 at a time"),
        Example("bus bench call --subject demo.echo --rate 100 --csv >> calls.csv", "a service elsewhere"),
    ),
    impact="rw",
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from buscli.load import STAMP_BYTES
    from busproto.limits import PAYLOAD_BYTES
    from busproto.subjects import check_subject

    if args.subject is not None:
        check_subject(args.subject)
        if args.work == "pubsub":
            raise UsageError("bus bench: --subject names a service to call, so goes with call", "bus bench --help")
        args.work = "call"
    if args.work != "call" and not args.size >= STAMP_BYTES:
        raise UsageError(f"bus bench: pubsub stamps its messages, so --size is at least {STAMP_BYTES}", "--size 16")
    if args.size > PAYLOAD_BYTES:
        raise UsageError(f"bus bench: --size {args.size} is more than a payload's {PAYLOAD_BYTES} bytes", "--size 1m")
    if args.warm_up < 0:
        raise UsageError("bus bench: --warm-up must not be negative", "--warm-up 0")
    return run(_bench(args))


async def _bench(args: Namespace) -> int:
    from contextlib import AsyncExitStack

    from buscli.connection import attached, version_line

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with AsyncExitStack() as stack:
        sender = await stack.enter_async_context(attached(args, output, "sender"))
        receiver = None
        if args.subject is None:
            receiver = await stack.enter_async_context(attached(args, output, "receiver", announce=False))
        results = [await _measure(args, work, sender, receiver) for work in ([args.work] if args.work else WORKS)]
        about = {"node": sender.welcome.get("node"), "broker": sender.welcome.get("broker"), "client": version_line()}
    _show(output, args, results, about)
    return Exit.OK if all(result.done == args.count for result in results) else Exit.FAILED


async def _measure(args: Namespace, work: str, sender: "Bus", receiver: "Bus | None") -> "Result":
    from dataclasses import replace

    from buscli.load import Plan, measure

    plan = Plan(
        work=work,
        subject=args.subject or f"bus-bench.{sender.endpoint}.{work}",
        count=args.count,
        size=args.size,
        in_flight=args.in_flight,
        rate=args.rate,
        timeout=args.timeout,
    )
    if args.warm_up:
        await measure(replace(plan, count=args.warm_up, rate=None), sender, receiver)
    return await measure(plan, sender, receiver)


def _show(output: Output, args: Namespace, results: "list[Result]", about: dict[str, Any]) -> None:
    records = [{**result.record(), **about} for result in results]
    if args.csv:
        _show_csv(output, records)
    elif output.human:
        _show_table(output, args, results, about)
    else:
        for result, record in zip(results, records, strict=True):
            output.record({**record, "errors": result.errors})


def _show_csv(output: Output, records: list[dict[str, Any]]) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    output.raw(text.getvalue().encode())


def _show_table(output: Output, args: Namespace, results: "list[Result]", about: dict[str, Any]) -> None:
    ends = "one process, two connections" if args.subject is None else f"a responder elsewhere: {args.subject}"
    output.line(f"{about['client']} -> {printable(str(about['broker']))} on {printable(str(about['node']))}; {ends}")
    rows = []
    for result in results:
        record = result.record()
        times = result.percentiles()
        shown = ["-"] * 4 if times is None else [short(seconds) for seconds in times.values()]
        cpu = "-" if record["cpu_us"] is None else f"{record['cpu_us']:.0f} us"
        failed = record["lost"] + record["errors"]
        rows.append((record["work"], record["loop"], f"{result.throughput:,.0f}/s", *shown, cpu, failed))
    output.table(("work", "loop", "throughput", "p50", "p90", "p99", "max", "client cpu", "failed"), rows)
    for result in results:
        output.line(f"{result.plan.work}: {result.remark}")
        for name, count in result.errors.items():
            output.line(f"{result.plan.work}: {count} calls ended with {printable(name)}")
        if result.lost:
            output.line(f"{result.plan.work}: {result.lost} of {result.plan.count} messages were lost")
