"""``bus keys``: CURVE keys of cards and other peers of the network: made, let in, kept out."""

import re
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError, suggest
from buscli.table import Argument, Command, Example
from buscli.units import duration

if TYPE_CHECKING:
    from busclient import Bus

SERVICE: Final = "$bus.admin.keys."
"""What the subjects that answer begin with."""

_FILE_NAME: Final = re.compile(r"[a-z0-9_-]{1,64}")
_NAME: Final = Argument("name", "the unit's name, as bus keys list shows it", completes="key")

COMMAND = Command(
    name="keys",
    help="make keys for the network, let them in, keep them out",
    description="""\
A card (SoC, DPU) or another peer of the network attaches over TCP with CURVE, and is who its key says: a unit with a
name, in its tenant's space. The secret half is made where it is used and stays there; the node gets the public one.""",
    examples=(
        Example("bus keys new dpu0", "on the card: dpu0.key stays, dpu0.pub goes to the node"),
        Example("bus keys enroll dpu0 dpu0.pub", "on the node"),
        Example("bus keys broker > broker.pub", "on the node: what the card needs to know it by"),
        Example(
            "bus list --bus tcp://10.0.0.1:5670 --key dpu0.key --server-key broker.pub", "on the card: it is attached"
        ),
    ),
    connects=False,
    records=False,
    impact="rw",
    actions=(
        Command(
            name="keys new",
            help="make a key pair, on the machine that will use it",
            description="""\
Writes NAME.key, the secret half, which nobody but you can read and which is never shown, and NAME.pub. Needs no bus.
Nothing is overwritten: a key that is lost or stolen is revoked, and a new one made under another name of file.""",
            arguments=(
                Argument("name", "what the files are called; best the unit's name: a-z, 0-9, - and _"),
                Argument("--out", "directory to write them to (default: this one)", metavar="DIR", completes="file"),
            ),
            examples=(Example("bus keys new dpu0 --out /etc/busd", "/etc/busd/dpu0.key and /etc/busd/dpu0.pub"),),
            connects=False,
            impact="rw",
        ),
        Command(
            name="keys enroll",
            help="let a public key attach",
            description="""\
From now on whoever has the secret half may attach, as unit NAME of the tenant. One key is one unit. A key that was
revoked cannot come back.""",
            arguments=(
                Argument("name", "a name for the unit: a-z, 0-9, - and _"),
                Argument("public-key", "its .pub file, or the key itself (40 characters, Z85)", completes="file"),
                Argument("--tenant", "who owns it; its subject space (default: the node itself)", metavar="NAME"),
            ),
            examples=(
                Example("bus keys enroll dpu0 dpu0.pub", "a card of the node's own"),
                Example("bus keys enroll edge7 edge7.pub --tenant acme", "a tenant's machine"),
            ),
            impact="rw",
        ),
        Command(
            name="keys revoke",
            help="keep a key out for ever, and end what is attached with it",
            description="""\
Ends every endpoint of the unit at once and prints the receipt of what that was. The key cannot be enrolled again.""",
            arguments=(_NAME,),
            examples=(Example("bus keys revoke dpu0 --json | jq .endpoints", "how many endpoints it had"),),
            impact="rw",
        ),
        Command(
            name="keys list",
            help="list the enrolled keys, and who is attached with them",
            description="The keys that may attach, by the name of their unit.",
            examples=(Example("bus keys list | jq -r 'select(.endpoints == []).name'", "those that nobody uses now"),),
        ),
        Command(
            name="keys broker",
            help="print the broker's public key, which clients need",
            description="""\
Clients compare it: with another key the connection fails. On a terminal it comes with the address that the node listens
at; piped, it is the key alone, as a .pub file has it.""",
            examples=(Example("bus keys broker > broker.pub", "into a file for --server-key or BUS_SERVER_KEY"),),
        ),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    if args.action == "new":
        return _new(args)
    return run(_ask(args))


def _new(args: Namespace) -> int:
    from busclient.keys import make_pair

    if not _FILE_NAME.fullmatch(args.name):
        raise UsageError(f"bus keys new: '{args.name}' is not a name of a-z, 0-9, - and _", "bus keys new dpu0")
    output = Output.standard(force_json=args.json, no_color=args.no_color)
    try:
        secret, public, key = make_pair(Path(args.out or "."), args.name)
    except FileExistsError as error:
        said = f"bus keys new: {error.filename} is there already; a key is never overwritten"
        raise UsageError(said, f"bus keys new {args.name}-2", exit=Exit.FAILED) from None
    if output.human:
        output.line(f"{secret}  the secret half: it stays here, and BUS_KEY or --key names it")
        output.line(f"{public}  the public half: bus keys enroll {args.name} {public.name}, on the node")
    else:
        output.record({"name": args.name, "secret": str(secret), "public": str(public), "key": key})
    return Exit.OK


async def _ask(args: Namespace) -> int:
    from buscli.census import ask
    from buscli.connection import attached
    from buscli.jsonform import to_json
    from busclient.errors import ErrorReply
    from busproto.errors import Code

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    request = _request(args)
    service = "list" if args.action == "broker" else args.action
    async with attached(args, output) as bus:
        try:
            found = to_json(await ask(bus, SERVICE + service, request))
        except ErrorReply as error:
            if error.code != Code.REQUEST_INVALID or args.action != "revoke":
                raise
            if (unknown := await _unknown(bus, args.name)) is None:
                raise
            raise unknown from None
    _SHOW[args.action](output, found)
    return Exit.OK


def _request(args: Namespace) -> dict[str, Any]:
    """What is asked of the broker. A key that is none is refused here, before anything is sent."""
    if args.action == "revoke":
        return {"name": args.name}
    if args.action != "enroll":
        return {}
    from busclient.keys import read_public

    request = {"name": args.name, "key": read_public(args.public_key, "the key to enroll")}
    return {**request, "tenant": args.tenant} if args.tenant else request


async def _unknown(bus: "Bus", name: str) -> UsageError | None:
    """The refusal of a name under which no key is enrolled, with the one that may have been meant."""
    from buscli.census import ask

    names = [row["name"] for row in (await ask(bus, SERVICE + "list"))["keys"]]
    if name in names:
        return None
    nearest = suggest(name, names)
    cures = [f"bus keys revoke {nearest}"] if nearest else []
    return UsageError(f"bus keys revoke: no key is enrolled as '{name}'", *cures, "bus keys list", exit=Exit.FAILED)


def _show_list(output: Output, found: dict[str, Any]) -> None:
    if not output.human:
        for row in found["keys"]:
            output.record(row)
        return
    output.table(
        ("name", "tenant", "generation", "key", "enrolled by", "endpoints", "last seen"),
        [
            (
                row["name"],
                row["tenant"],
                row["generation"],
                row["key"],
                row["enrolled_by"],
                " ".join(row["endpoints"]) or "-",
                "-" if row["last_seen_seconds"] is None else f"{duration(row['last_seen_seconds'])} ago",
            )
            for row in found["keys"]
        ],
    )


def _show_broker(output: Output, found: dict[str, Any]) -> None:
    broker = found["broker"]
    if not output.human:
        output.raw(f"{broker['key']}\n".encode())
        return
    output.line(broker["key"])
    if broker["address"] is None:
        output.note("nothing listens on the network: set soc.listen")
    else:
        output.note(f"{broker['address']} ({broker['state']})")


def _show_record(output: Output, found: dict[str, Any]) -> None:
    from buscli.outline import outline

    if output.human:
        for line in outline(found):
            output.line(line)
    else:
        output.record(found)


_SHOW: Final = {"enroll": _show_record, "revoke": _show_record, "list": _show_list, "broker": _show_broker}
