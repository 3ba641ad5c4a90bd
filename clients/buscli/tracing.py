"""``bus trace``: asking the broker for the way of a message or call, showing it, and if asked going it."""

import asyncio
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from buscli.census import ask, charge
from buscli.connection import attached
from buscli.exits import Exit
from buscli.jsonform import to_json
from buscli.output import Output, Style, printable
from buscli.parser import UsageError
from busclient.errors import Denied, ErrorReply
from busproto.errors import Code

if TYPE_CHECKING:
    from busclient import Bus

_COLOURS: Final = {
    "delivered": Style.GREEN,
    "denied": Style.RED,
    "lost": Style.RED,
    "overloaded": Style.RED,
    "nobody": Style.YELLOW,
    "waits": Style.YELLOW,
}
"""How each outcome looks."""


async def trace(args: Namespace, content: bytes | None, endpoint: str | None) -> int:
    """Ask, show, and with ``content`` send; the exit code."""
    output = Output.standard(force_json=args.json, no_color=args.no_color)
    verb = "call" if args.call else "publish"
    request = {"subject": args.subject, "verb": verb, "endpoint": endpoint, "size": len(content or b"")}
    async with attached(args, output, args.subject) as bus:
        found = to_json(await _ask(bus, request, endpoint, args.command_name))
        if output.human:
            for line in _lines(output, found):
                output.line(line)
            _show_table(output, found)
            output.line(_sentence(output, found))
        else:
            output.record(found)
        if content is not None:
            output.flush()
            await _deliver(args, output, bus, content)
    return Exit.OK


async def _ask(bus: "Bus", request: dict[str, Any], endpoint: str | None, command: str) -> Any:
    try:
        return await ask(bus, "$bus.explain", request)
    except Denied as error:
        if error.fields.get("action") != "trace":  # it may not ask at all
            raise
        cure = f"bus trace {request['subject']}, as oneself"
        raise UsageError(f"bus {command}: {error.text}", cure, exit=Exit.DENIED) from None
    except ErrorReply as error:
        if endpoint is None or error.code != Code.REQUEST_INVALID:
            raise
        said = f"bus {command}: no endpoint is called '{endpoint}'"
        raise UsageError(said, "bus list", "bus list --departed", exit=Exit.FAILED) from None


async def _deliver(args: Namespace, output: Output, bus: "Bus", content: bytes) -> None:
    """Send it, and say what came of it. Raises what a call raises, and Denied for a message that was turned away."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    told: dict[str, Any] = {"sent": args.subject}
    if args.call:
        reply = await bus.call(args.subject, data=content, timeout=args.timeout)
        told |= {"reply": to_json(reply.payload), "from": None if reply.origin is None else reply.origin.endpoint}
        said = f"sent: {told['from'] or 'the broker'} replied"
    else:
        await bus.publish(args.subject, data=content)
        await bus.flush()  # raises what the broker has refused
        said = "sent: the broker has taken it"
    told["seconds"] = round(loop.time() - begun, 6)
    if not output.human:
        output.record(told)
        return
    output.line(f"{printable(said)}, after {1e3 * told['seconds']:.1f} ms")
    if "reply" in told:
        output.pretty(told["reply"])


def _lines(output: Output, found: dict[str, Any]) -> Iterator[str]:
    """The steps before the receivers."""
    sender = found["sender"]
    verb = "a call to" if found["verb"] == "call" else "a publish on"
    who = f"{sender['endpoint']}, {sender['boundary']}, tenant {sender['tenant']}, unit {sender['unit']}"
    yield f"from      {printable(who)}, generation {sender['generation']}; {printable(sender['account'])} pays"
    decided = output.styled("allowed", Style.GREEN) if found["allowed"] else output.styled("denied", Style.RED)
    rule = "no rule" if found["rule"] == "default" else printable(found["rule"])
    yield f"policy    {verb} {output.styled(found['subject'], Style.BOLD)} is {decided}, by {rule}"
    if found["rule_text"]:
        yield f"          {printable(found['rule_text'])}"
    for export in found["exports"]:
        yield f"export    {printable(export)}"
    yield f"quotas    {printable(_quotas(sender))}"
    for name, rate in sender["rates"].items():
        left = f"{rate['left']:,.0f} left, {rate['per_second']:,.0f} more a second"
        if name in sender["throttled"]:
            left = output.styled(f"overdrawn by {-rate['left']:,.0f}: it is read more slowly", Style.YELLOW)
        yield f"rate      {name}: {left}"


def _quotas(sender: dict[str, Any]) -> str:
    charges = sender["charges"]
    return ", ".join(f"{name} {charge(name, charges[name])}" for name in ("calls", "outbox_messages", "outbox_bytes"))


def _show_table(output: Output, found: dict[str, Any]) -> None:
    """Who would receive it, or who would answer."""
    if found["receivers"]:
        rows = [
            (
                row["endpoint"],
                row["component"] or "-",
                row["pattern"] if row["as"] == found["subject"] else f"{row['pattern']} (as {row['as']})",
                charge("messages", {"used": row["queued_messages"], "limit": row["limit_messages"]}),
                charge("outbox_bytes", {"used": row["queued_bytes"], "limit": row["limit_bytes"]}),
                _then(row),
            )
            for row in found["receivers"]
        ]
        output.table(("receiver", "component", "pattern", "queued", "size", "then"), rows)
    if found["groups"]:
        members = [
            (
                group["pattern"],
                group["group"],
                member["endpoint"],
                member["component"] or "-",
                member["outstanding"],
                charge("held", member["held_calls"]),
                "gets it" if member["chosen"] else "-",
            )
            for group in found["groups"]
            for member in group["members"]
        ]
        output.table(("pattern", "group", "responder", "component", "outstanding", "holds", "then"), members)


def _then(row: dict[str, Any]) -> str:
    if row["would_lose"]:
        return f"lost: {row['would_lose']}"
    return "newest only" if row["latest"] else "queued"


def _sentence(output: Output, found: dict[str, Any]) -> str:
    """What becomes of it, in one line."""
    outcome = found["outcome"]
    receivers = {row["endpoint"] for row in found["receivers"] if row["would_lose"] is None}
    number = len(receivers) if found["verb"] == "publish" else 1
    verdict = {
        "delivered": f"would be delivered to {number} endpoint{'' if number == 1 else 's'}",
        "denied": "denied",
        "lost": "lost at everyone who would get it",
        "overloaded": "overloaded",
        "nobody": "would be delivered to nobody",
        "waits": "it would wait",
    }[outcome]
    said = output.styled(verdict, _COLOURS[outcome]) + f": {printable(found['reason'].removeprefix('denied: '))}"
    if outcome == "denied":
        question = f"bus policy explain {found['verb']} {found['subject']} --endpoint {found['sender']['endpoint']}"
        said += f"\nwhat would have to change: {printable(question)}"
    return said
