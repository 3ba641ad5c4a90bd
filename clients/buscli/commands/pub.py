"""``bus pub``: publish one message, several, or one for each line."""

from argparse import Namespace
from collections.abc import AsyncIterator
from typing import Any

from buscli import body, values
from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="pub",
    help="publish messages",
    description="Publishes on SUBJECT. Without BODY and --file it reads standard input to its end, and sends that.\n\n"
    + body.HOW_BODIES_READ
    + """

It ends when the broker has handled everything sent, so a refusal is always reported. Publishing is at most once: 0
means that the broker has it, not that anybody subscribes.""",
    arguments=(
        Argument("subject", "what the message is about", completes="subject"),
        Argument("body", "the message; - is standard input", arity="optional"),
        *body.ARGUMENTS,
        Argument("--lines", "a message from each line of --file or standard input, as it comes", arity="flag"),
        Argument("--count", "send it this many times", aliases=("-n",), metavar="N", convert=values.count, default=1),
        Argument("--rate", "at most this many messages a second", metavar="N", convert=values.rate),
    ),
    examples=(
        Example("bus pub demo.tick '{\"n\": 1}'", "publish a map"),
        Example(
            "bus pub demo.tick hello -H traceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a header"
        ),
        Example("tail -f /var/log/syslog | bus pub demo.log --lines --raw", "a message from each line, as bytes"),
        Example("bus pub demo.load 1 --count 1000 --rate 100", "a load of 100 a second for 10 seconds"),
    ),
    impact="rw",
    records=False,
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from busproto.errors import BusError, Code
    from busproto.subjects import check_subject, is_reserved

    check_subject(args.subject)
    if is_reserved(args.subject):
        raise BusError(Code.SUBJECT_RESERVED, subject=args.subject)
    headers = body.headers_of(args)
    if args.lines:
        body.check_lines(args)
        if args.count != 1:
            raise UsageError("bus pub: --lines sends each line once, so takes no --count", "bus pub --help")
        return run(_publish(args, headers, body.following(args)))
    return run(_publish(args, headers, _repeated(body.read(args, otherwise_stdin=True), args.count)))


async def _repeated(content: bytes, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield content


async def _publish(args: Namespace, headers: dict[str, Any], bodies: AsyncIterator[bytes]) -> int:
    from buscli.connection import attached
    from buscli.pace import Pace

    output = Output.standard()
    async with attached(args, output, args.subject) as bus:
        pace = Pace(args.rate, catch_up=0.1)
        try:
            async for content in bodies:
                await pace.wait()
                await bus.publish(args.subject, data=content, headers=headers or None)
        finally:  # also before a line that cannot be read, and at Ctrl-C: what was read is sent
            await bus.flush()
    return Exit.OK
