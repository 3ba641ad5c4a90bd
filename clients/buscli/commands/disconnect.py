"""``bus disconnect``: cut an endpoint off, and keep it out for a while."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from buscli import values
from buscli.exits import Exit
from buscli.output import Output, printable
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example, exits
from buscli.units import duration, user_name

if TYPE_CHECKING:
    from busclient import Bus

SERVICE: Final = "$bus.admin.endpoint."

REASON_BYTES: Final = 256

COMMAND = Command(
    name="disconnect",
    help="cut an endpoint off, and keep it out for a while",
    description="""\
Ends the connection of ENDPOINT. It is told --reason, and so are bus list --departed and the audit log. A program on
busclient does not come back by itself after that; another may, at once.

--block keeps it out for a time, 24 hours at most. On the host that is the same process: uid, pid and when it started,
by the kernel's word, so that a later process is let in, and a restarted agent with it. Of a guest or a card it is the
whole unit, of which everything is cut off, because within it nothing proves which program it is. Blocks are kept in
memory: a busd that is started again knows of none. For good, change the policy, bus guest remove or bus keys revoke.

It is for the node only, and for whom policy lets call $bus.admin.endpoint.disconnect. What belongs to busd itself is
not cut off: its components would be left to themselves.""",
    arguments=(
        Argument("endpoint", "its name, as bus list or bus top shows it", arity="optional", completes="endpoint"),
        Argument("--block", "keep it out for this long", metavar="TIME", convert=values.seconds),
        Argument("--reason", "why: a sentence, told to who is cut off", metavar="TEXT"),
        Argument("--list", "what is kept out, and for how long", arity="flag"),
        Argument("--unblock", "let in again what was blocked under this name", metavar="ENDPOINT"),
        Argument("--yes", "do not ask", aliases=("-y",), arity="flag"),
    ),
    examples=(
        Example("bus disconnect host-3 --reason 'floods metrics.>'", "cut host-3 off"),
        Example("bus disconnect host-3 --block 1h --yes", "and keep its process out for an hour"),
        Example("bus disconnect --list", "what is kept out"),
        Example("bus disconnect --unblock host-3", "let it in again"),
    ),
    impact="rw",
    exits=exits(Exit.CANCELLED),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    _check(args)
    return run(_run(args))


def _check(args: Namespace) -> None:
    """Raise UsageError unless it is said what is to be done, once."""
    asked = [bool(args.endpoint), args.list, args.unblock is not None]
    if sum(asked) != 1:
        said = "which endpoint?" if not any(asked) else "ENDPOINT, --list and --unblock are three different things"
        raise UsageError(
            f"bus disconnect: {said}", "bus disconnect ENDPOINT", "bus disconnect --list", "bus top --once"
        )
    if not args.endpoint and (args.block is not None or args.reason is not None):
        raise UsageError("bus disconnect: --block and --reason are about an ENDPOINT", "bus disconnect --help")
    if args.block is not None and not 1 <= args.block <= 24 * 3600:
        said = f"--block is from 1s to 24h, and this is {duration(args.block)}"
        raise UsageError(f"bus disconnect: {said}", "for good, change the policy: bus policy explain --help")
    if args.reason is not None and len(args.reason.encode(errors="replace")) > REASON_BYTES:
        raise UsageError(f"bus disconnect: --reason has at most {REASON_BYTES} bytes", "bus disconnect --help")


async def _run(args: Namespace) -> int:
    from buscli.census import ask
    from buscli.connection import attached

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with attached(args, output) as bus:
        if args.list:
            _show_blocks(output, (await ask(bus, SERVICE + "blocks"))["blocks"])
        elif args.unblock is not None:
            _show_unblocked(output, await _unblock(bus, args.unblock))
        else:
            return await _disconnect(args, output, bus)
    return Exit.OK


async def _disconnect(args: Namespace, output: Output, bus: "Bus") -> int:
    from buscli.asking import agreed, somebody_there
    from buscli.census import ask, find
    from buscli.jsonform import to_json
    from busclient.errors import ErrorReply
    from busproto.errors import Code

    seconds = None if args.block is None else max(1, round(args.block))
    found = await find(bus, args.endpoint, "bus disconnect")
    if not args.yes:
        if not somebody_there():
            raise UsageError(
                "bus disconnect: nobody can be asked here: standard input or error is no terminal",
                "--yes, to do it without being asked",
                f"bus inspect {args.endpoint}, to see who that is",
            )
        if not await agreed(output, _question(found, seconds)):
            return Exit.CANCELLED
    request = {"endpoint": args.endpoint, "reason": args.reason, "block_seconds": seconds}
    try:
        answer = to_json(await ask(bus, SERVICE + "disconnect", request))
    except ErrorReply as error:
        if error.code != Code.REQUEST_INVALID:
            raise
        said = f"bus disconnect: {error.fields.get('reason', error.text)}"
        raise UsageError(said, f"bus inspect {args.endpoint}", exit=Exit.FAILED) from None
    if not output.human:
        output.record(answer)
        return Exit.OK
    output.line(f"cut off: {printable(', '.join(answer['ended']))}")
    if answer["block"] is not None:
        block = answer["block"]
        output.line(f"{printable(_barred(block))} is kept out for {duration(block['seconds'])}")
        output.line(f"to let it in before: bus disconnect --unblock {printable(block['endpoint'])}")
    return Exit.OK


def _question(found: dict[str, Any], seconds: int | None) -> str:
    """What is about to be done, and to whom."""
    claims, principal = found["claims"], found["principal"]
    who = claims.get("component") or "which does not say what it is"
    owner = claims.get("owner") or "nobody, as far as it says"
    text = f"cut off {found['endpoint']} ({who}, owned by {owner}; {_proven(principal)})"
    if seconds is not None:
        what = "this process" if principal["boundary"] == "host" else f"all of unit {principal['unit']}"
        text += f" and keep {what} out for {duration(seconds)}"
    return f"{text}? [y/N] "


def _proven(principal: dict[str, Any]) -> str:
    if principal["boundary"] == "host" and principal["uid"] is not None:
        return f"user {user_name(principal['uid'])}, process {principal['pid']}"
    return f"{principal['boundary']} unit {principal['unit']} of {principal['tenant']}"


async def _unblock(bus: "Bus", name: str) -> dict[str, Any]:
    """The block that stood under ``name`` and does not any more. Raises UsageError if there was none."""
    from buscli.census import ask
    from buscli.jsonform import to_json
    from busclient.errors import ErrorReply
    from busproto.errors import Code

    try:
        block: dict[str, Any] = to_json(await ask(bus, SERVICE + "unblock", {"endpoint": name}))
    except ErrorReply as error:
        if error.code != Code.REQUEST_INVALID:
            raise
        said = f"bus disconnect: nothing is blocked under the name '{name}'"
        raise UsageError(said, "bus disconnect --list", exit=Exit.FAILED) from None
    return block


def _show_unblocked(output: Output, block: dict[str, Any]) -> None:
    if output.human:
        output.line(f"{printable(_barred(block))} is let in again")
    else:
        output.record(block)


def _show_blocks(output: Output, blocks: list[dict[str, Any]]) -> None:
    if not output.human:
        for block in blocks:
            output.record(block)
        return
    if not blocks:
        output.line("nothing is kept out")
        return
    columns = ("endpoint", "component", "kept out", "for another", "reason", "by")
    output.table(
        columns,
        [
            (
                block["endpoint"],
                block["component"] or "-",
                _barred(block),
                duration(block["seconds"]),
                block["reason"],
                block["by"],
            )
            for block in blocks
        ],
    )


def _barred(block: dict[str, Any]) -> str:
    """Who a block is about."""
    if block["pid"] is not None:
        return f"process {block['pid']} of user {user_name(block['uid'])}"
    return f"{block['boundary']} unit {block['unit']}"
