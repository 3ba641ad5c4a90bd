"""``bus call``: ask whoever serves a subject, and print the reply."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from buscli import body, values
from buscli.exits import Exit
from buscli.output import Output
from buscli.table import Argument, Command, Example

if TYPE_CHECKING:
    from busclient.message import Reply

COMMAND = Command(
    name="call",
    help="call a service and print its reply",
    description="""\
Calls SUBJECT and prints the reply's payload as JSON, indented on a terminal and on one line when piped. Without
BODY and --file the body is null; standard input is read for - only.

"""
    + body.HOW_BODIES_READ
    + """

The exit code is the outcome: a reply is 0, an error reply 1, and 3 to 7 are what the bus says of a call that got
none.""",
    arguments=(
        Argument("subject", "what to call", completes="subject"),
        Argument("body", "the request; - is standard input", arity="optional"),
        *body.ARGUMENTS,
        Argument(
            "--timeout",
            "how long to wait: for the reply, or with --stream for all of it",
            aliases=("-t",),
            metavar="TIME",
            convert=values.timeout,
            default=5.0,
        ),
        Argument("--stream", "print each part of a streamed reply as it comes", arity="flag"),
        Argument("--full", "print payload, headers and origin of the reply", arity="flag"),
    ),
    examples=(
        Example("bus call '$bus.ping'", "does the broker answer?"),
        Example("bus call demo.echo '{\"n\": 1}' --timeout 500ms", "call with a body"),
        Example("bus call demo.image --raw --file in.png > out.png", "bytes in, bytes out"),
        Example("bus call demo.watch --stream | jq .", "follow a streamed reply"),
    ),
    impact="rw",
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from busproto.subjects import check_subject

    check_subject(args.subject)
    return run(_call(args, body.headers_of(args), body.read(args, otherwise_stdin=False)))


async def _call(args: Namespace, headers: dict[str, Any], content: bytes) -> int:
    from buscli.connection import attached

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    request: dict[str, Any] = {"data": content, "headers": headers or None, "timeout": args.timeout}
    async with attached(args, output, args.subject) as bus:
        if args.stream:
            async with bus.stream(args.subject, **request) as parts:
                async for part in parts:
                    _show(output, args, part)
                    output.flush()
        else:
            _show(output, args, await bus.call(args.subject, **request))
    return Exit.OK


def _show(output: Output, args: Namespace, reply: "Reply") -> None:
    from buscli.messages import full_record, payload_record

    if args.raw:
        output.raw(reply.data)
    elif args.full:
        output.pretty(full_record(reply))
    else:
        record = payload_record(reply)
        output.pretty(record["payload"])
        if "error" in record:
            output.note(record["error"])
