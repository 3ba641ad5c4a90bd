"""``bus explain``: where a subject would go, without sending anything."""

from argparse import Namespace
from typing import Any

from buscli.exits import Exit
from buscli.output import Output, Style, printable
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="explain",
    help="say where a subject would go, and why",
    description="""\
Whether policy lets whoever asks do it, and by which rule; who would receive a message published on SUBJECT, or with
--call who would answer a call to it, by which pattern, and why. Nothing is sent. bus policy explain says it of others,
and what would have to change.""",
    arguments=(
        Argument("subject", "what to explain", completes="subject"),
        Argument("--call", "explain a call instead of a publish", arity="flag"),
    ),
    examples=(
        Example("bus explain demo.tick", "who would get it?"),
        Example("bus explain demo.echo --call", "who would answer?"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from busproto.subjects import check_subject

    check_subject(args.subject)
    return run(_explain(args))


async def _explain(args: Namespace) -> int:
    from buscli.census import ask
    from buscli.connection import attached
    from buscli.jsonform import to_json

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    request = {"subject": args.subject, "verb": "call" if args.call else "publish"}
    async with attached(args, output, args.subject) as bus:
        found = to_json(await ask(bus, "$bus.explain", request))
    if output.human:
        _show(output, found)
    else:
        output.record(found)
    return Exit.OK


def _show(output: Output, found: dict[str, Any]) -> None:
    verb = "a call to" if found["verb"] == "call" else "a publish on"
    decided = output.styled("allowed", Style.GREEN) if found["allowed"] else output.styled("denied", Style.RED)
    output.line(f"{verb} {output.styled(found['subject'], Style.BOLD)} is {decided}, by {_rule(found['rule'])}")
    output.line(printable(found["reason"]))
    if not found["allowed"]:
        question = f"bus policy explain {found['verb']} {found['subject']}"
        output.line(f"what would have to change: {printable(question)} --endpoint NAME")
    if found["receivers"]:
        rows = [(each["endpoint"], each["pattern"], each["queued_messages"]) for each in found["receivers"]]
        output.table(("receiver", "pattern", "queued"), rows)
    if found["groups"]:
        members = [
            (group["pattern"], group["group"], member["endpoint"], member["outstanding"])
            for group in found["groups"]
            for member in group["members"]
        ]
        output.table(("pattern", "group", "responder", "outstanding"), members)


def _rule(where: str) -> str:
    """What decided: file and line, or that no rule did."""
    return "no rule" if where == "default" else printable(where)
