"""``bus component``: the components of a node: looked at, started, replaced, moved; and a new one begun."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from buscli import values
from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

if TYPE_CHECKING:
    from busclient import Bus

SERVICE: Final = "$bus.admin.component."
"""What the subjects that act begin with."""

PATIENCE: Final = 60.0
"""Seconds for the node to start, stop or hand over: more than it gives itself, so that the answer is always its own."""

LOG_LINES: Final = 100
"""Lines of ``logs`` without ``--lines``."""

_NAME: Final = Argument("name", "the component's name, as bus component list shows it", completes="component")
_SECONDS: Final = Argument(
    "--seconds",
    "how long the one that serves now may take to answer what it holds (default: 10)",
    metavar="TIME",
    convert=values.seconds,
)

COMMAND = Command(
    name="component",
    help="look at components, start, replace and move them; begin a new one",
    description="""\
A component is a part of the node's software with a manifest (owner, purpose, operations, budget), in a process of its
own. The node starts those that its components key names, watches them, starts them again when they fail and cuts them
off when they use more than their budget. NAME.toml in its component folder says what a component is made of.""",
    examples=(
        Example("bus component list", "what runs, where, and whether it is well"),
        Example("bus component replace telemetry", "a new process in place of the old one; no call fails"),
        Example("bus component new thermometer", "a component of your own, with its tests"),
    ),
    connects=False,
    records=False,
    impact="rw",
    actions=(
        Command(
            name="component list",
            help="list the components, where they run and how they are",
            description="""\
Every component that the node starts, and those that somebody runs by hand. Memory and cpu (percent of one core) are
shown with their budget; calls and errors are counted since the node started.""",
            examples=(
                Example("bus component list", "all of them"),
                Example(
                    "bus component list | jq -r 'select(.state != \"ready\") | [.component, .reason] | @tsv'", "ill"
                ),
            ),
        ),
        Command(
            name="component inspect",
            help="show everything about one component",
            description="Its manifest, process, budget, operations with their figures, and who stands by for it.",
            arguments=(_NAME,),
            examples=(
                Example("bus component inspect telemetry", "everything about telemetry"),
                Example("bus component inspect telemetry | jq .operations", "how its operations do"),
            ),
        ),
        Command(
            name="component health",
            help="say whether components are well; ends with 1 if one is not",
            description="""\
A component is well when it is ready and says that it is. With NAME it is asked now; without, what each said last is
shown.""",
            arguments=(Argument("name", "only this component", arity="optional", completes="component"),),
            examples=(Example("bus component health", "all of them"), Example("bus component health cache", "one")),
        ),
        Command(
            name="component logs",
            help="show what a component wrote to its standard output and error",
            description="""\
The node keeps the last 1000 lines of each component that it started, over its restarts. The stream is stdout, stderr,
or busd for what the node noted in between. Lines that were lost are reported where they are missing. --follow runs
until Ctrl-C, which is its normal end (0).""",
            arguments=(
                _NAME,
                Argument("--follow", "go on with what is added", aliases=("-f",), arity="flag"),
                Argument(
                    "--lines",
                    "how many of the last lines to begin with",
                    aliases=("-n",),
                    metavar="N",
                    convert=values.count,
                    default=LOG_LINES,
                ),
            ),
            examples=(
                Example("bus component logs telemetry --follow", "watch it"),
                Example("bus component logs cache | jq -r 'select(.stream == \"stderr\").text'", "its complaints"),
            ),
        ),
        Command(
            name="component start",
            help="start a component that was stopped or has failed",
            description="""\
Begins anew: restarts are counted from zero. A component that the node does not know is looked for in component.dir
(NAME.toml) and among those that come with busd. Ends with 1 if it does not come to serve, and says why.""",
            arguments=(_NAME,),
            examples=(Example("bus component start telemetry", "after it failed and was put right"),),
            impact="rw",
        ),
        Command(
            name="component stop",
            help="stop a component until it is started again",
            description="It answers the calls that it holds first. Later calls to it end as no-responders.",
            arguments=(_NAME,),
            examples=(Example("bus component stop telemetry", "until bus component start telemetry"),),
            impact="rw",
        ),
        Command(
            name="component replace",
            help="put a new process in a component's place, without a failed call",
            description="""\
Reads NAME.toml again and starts a new process; when it is ready, calls wait in the broker while the old one answers
what it holds and hands its state over. If anything fails on the way the old one goes on, and the error says where.""",
            arguments=(
                _NAME,
                Argument("--source", "run this class instead (until the node restarts)", metavar="MODULE:CLASS"),
                _SECONDS,
            ),
            examples=(
                Example("bus component replace cache", "after an upgrade of its package, or a change in cache.toml"),
                Example("bus component replace cache --source cache2.component:Cache", "another implementation"),
            ),
            impact="rw",
        ),
        Command(
            name="component move",
            help="move a component to the host, the card or a guest, without a failed call",
            description="""\
Hands over, as replace does, to a runner that stands by at PLACE: start one there with busd component run SOURCE
--standby. Back on the host none is needed. Callers notice nothing and change nothing. A place that the component's
manifest does not list is refused, and so is a guest of another tenant.""",
            arguments=(
                _NAME,
                Argument("--to", "host, soc or guest:UNIT", metavar="PLACE", convert=values.place, completes="place"),
                _SECONDS,
            ),
            examples=(
                Example("bus component move telemetry --to soc", "to the card"),
                Example("bus component move telemetry --to host", "and back"),
            ),
            impact="rw",
        ),
        Command(
            name="component new",
            help="write a new component of your own, with its tests",
            description="""\
Makes a folder NAME with a component that works: component.py with one request, one stream, one event, a setting and a
state that can be handed over; test_component.py, which tests it in process and over the bus; NAME.toml for the node's
component folder; and README.md. Needs no bus. Nothing is overwritten.""",
            arguments=(
                Argument("name", "of the component, its package and its subjects: a-z, 0-9 and _"),
                Argument(
                    "--in", "directory to make the folder in (default: this one)", metavar="DIR", completes="file"
                ),
            ),
            examples=(
                Example("bus component new thermometer && python -m pytest thermometer", "its tests pass at once"),
            ),
            connects=False,
            impact="rw",
        ),
    ),
)


def run(args: Namespace) -> int:
    if args.action == "new":
        return _new(args)
    from buscli.connection import run

    if args.action == "move" and args.to is None:
        raise UsageError("bus component move: where to? --to is missing", f"bus component move {args.name} --to host")
    return run(_ask(args), ends_well=args.action == "logs" and args.follow)


def _new(args: Namespace) -> int:
    from buscli.connection import owner
    from buscli.scaffold import write_component

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    written = write_component(args.name, getattr(args, "in") or ".", owner())
    if not output.human:
        output.record(written)
        return Exit.OK
    for path in written["files"]:
        output.line(path)
    output.line()
    output.line(f"in {written['directory']}: python -m pytest {args.name}")
    output.line(f"on a bus: {written['run']}")
    return Exit.OK


async def _ask(args: Namespace) -> int:
    from buscli import connection

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with connection.attached(args, output, getattr(args, "name", None) or "") as bus:
        if args.action == "logs":
            from buscli.componentlog import ComponentLog

            return await ComponentLog(bus, output, args.name).show(args.lines, follow=args.follow)
        if args.action in ("list", "inspect", "health"):
            return await _look(bus, args, output)
        return await _act(bus, args, output)


async def _look(bus: "Bus", args: Namespace, output: Output) -> int:
    """The verbs that only look."""
    from buscli import components
    from buscli.jsonform import to_json

    if args.action == "list" or args.name is None:
        rows = await components.components(bus)
    else:
        rows = [await components.component(bus, args.name, args.action)]
    if args.action == "health" and args.name is not None and rows[0].get("supervised"):
        rows = [{**rows[0], **await _admin(bus, "health", {"component": args.name})}]
    rows = [to_json(row) for row in rows]
    ill = args.action == "health" and any(components.unhealthy(row) for row in rows)
    if not output.human:
        for row in rows:
            output.record(_health_record(row) if args.action == "health" else row)
    elif args.action == "inspect":
        components.show_one(output, rows[0])
    else:
        (components.show_health if args.action == "health" else components.show_list)(output, rows)
    return Exit.FAILED if ill else Exit.OK


def _health_record(row: dict[str, Any]) -> dict[str, Any]:
    from buscli.components import unhealthy

    said = {key: row.get(key) for key in ("component", "state", "reason", "health")}
    return {"ok": not unhealthy(row), **said}


async def _act(bus: "Bus", args: Namespace, output: Output) -> int:
    """The verbs that change something."""
    from buscli.components import show_list, show_receipt
    from buscli.jsonform import to_json

    request: dict[str, Any] = {"component": args.name}
    request |= {key: value for key in ("source", "to", "seconds") if (value := getattr(args, key, None)) is not None}
    output.progress(f"{args.name}: waiting for the node")
    try:
        found = to_json(await _admin(bus, args.action, request))
    finally:
        output.progress("")
    is_receipt = args.action in ("replace", "move")
    if not output.human:
        output.record(found)
    elif is_receipt:
        show_receipt(output, found)
    else:
        show_list(output, [found])
    if is_receipt and found.get("trouble"):
        lost = "; its state is lost" if found.get("state_lost") else ""
        output.note(f"{args.name} was handed over, but {found['trouble']}{lost}")
    if args.action == "start" and found["state"] != "ready":
        reason = found.get("reason") or f"it is {found['state']}"
        raise UsageError(
            f"bus component start: {args.name} does not serve: {reason}",
            f"bus component logs {args.name}",
            exit=Exit.FAILED,
        )
    return Exit.OK


async def _admin(bus: "Bus", verb: str, request: dict[str, Any]) -> dict[str, Any]:
    """What the node answers. Raises UsageError, with the nearest name, if it knows no such component."""
    from buscli.components import unknown
    from busclient.errors import ErrorReply
    from busproto.errors import Code

    try:
        reply = await bus.call(SERVICE + verb, request, timeout=PATIENCE + float(request.get("seconds", 0)))
    except ErrorReply as error:
        if error.code != Code.COMPONENT_UNKNOWN:
            raise
        raise unknown(request["component"], verb, [str(error.fields.get("nearest", ""))]) from None
    found: dict[str, Any] = reply.payload
    return found
