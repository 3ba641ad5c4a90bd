"""``bus guest``: the units of a node that are VMs: letting them in, looking at them, tearing them down."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from buscli import values
from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError, suggest
from buscli.table import Argument, Command, Example
from buscli.units import duration

if TYPE_CHECKING:
    from busclient import Bus

SERVICE: Final = "$bus.admin.guest."
"""What the subjects that answer begin with."""

_NAME: Final = Argument("name", "the unit's name, as bus guest list shows it", completes="guest")
_WAYS: Final = ("socket", "connect", "cid", "device")

COMMAND = Command(
    name="guest",
    help="let VMs on to the bus, look at them, tear them down",
    description="""\
A guest is a unit: a VM or container that may attach from its boundary, in its tenant's space, by one way in. What
proves that it is that unit is the way in, held by its VMM, and never anything the guest says. busd/edge/README.md shows
how Firecracker, Cloud Hypervisor and QEMU are wired.""",
    examples=(
        Example("bus guest add vm-42 --tenant acme --socket /srv/vm-42/v.sock", "before the VM is started"),
        Example("bus guest remove vm-42", "when it has ended, or must"),
    ),
    connects=False,
    records=False,
    impact="rw",
    actions=(
        Command(
            name="guest add",
            help="let a VM on to the bus",
            description="""\
Exactly one of --socket, --connect, --cid and --device says how it comes in. Paths are absolute, hold no symbolic link,
and only root, busd's user and --owner may be able to write the directories on the way. The first process that shows
itself is the VM's VMM, and no other is let in: a VMM that was restarted, or a clone, is another life. Guests that were
added stay when busd is restarted, and end with the machine.""",
            arguments=(
                Argument("name", "a name for the unit: a-z, 0-9, - and _"),
                Argument("--tenant", "who owns it; node: the node itself, a service VM", metavar="NAME"),
                Argument(
                    "--socket",
                    "the VMM's vsock file (Firecracker uds_path, Cloud Hypervisor socket=); busd listens at PATH_PORT, "
                    "where the VMM connects to when the guest connects to CID 2, PORT",
                    metavar="PATH",
                    completes="file",
                ),
                Argument(
                    "--connect",
                    "the VMM's vsock file too, but busd connects to PORT in the guest",
                    metavar="PATH",
                    completes="file",
                ),
                Argument("--port", "vsock port of --socket and --connect (default: 5670)", convert=values.count),
                Argument(
                    "--cid",
                    "AF_VSOCK context id, for QEMU (busd needs guests.vsock)",
                    convert=values.count,
                    metavar="N",
                ),
                Argument(
                    "--device",
                    "serial line: a character device, or the unix socket of a VMM's chardev",
                    metavar="PATH",
                    completes="file",
                ),
                Argument("--generation", "which life of this name it is (default: chosen)", convert=values.count),
                Argument("--pid", "the VMM's process (default: the first one that connects)", convert=values.count),
                Argument("--any-process", "the VM's connections come from several processes", arity="flag"),
                Argument(
                    "--owner",
                    "user id that the VMM runs as, if it is not busd's: it gets the socket, and only it may use it",
                    convert=values.user,
                    metavar="UID",
                ),
            ),
            examples=(
                Example("bus guest add vm-42 --tenant acme --socket /srv/vm-42/v.sock", "the guest connects"),
                Example("bus guest add vm-42 --tenant acme --connect /srv/vm-42/v.sock", "the host connects"),
                Example(
                    "bus guest add vm-42 --tenant acme --socket /srv/jailer/vm-42/root/v.sock --owner 10042",
                    "a VMM in its jail",
                ),
                Example("bus guest add vm-7 --tenant acme --cid 7", "QEMU with vhost-vsock"),
                Example("bus guest add vm-8 --tenant acme --device /run/vm-8/busd.sock", "virtio-serial"),
            ),
            impact="rw",
        ),
        Command(
            name="guest remove",
            help="tear a VM's part of the bus down",
            description="""\
Ends every endpoint, subscription, service and call of the unit at once, refuses what still waits to come in, and
prints the receipt of what that was. Nothing of it is left then; the same name can be added again, as another life.""",
            arguments=(_NAME,),
            examples=(Example("bus guest remove vm-42 --json | jq .endpoints", "how many endpoints it had"),),
            impact="rw",
        ),
        Command(
            name="guest list",
            help="list the VMs, how they come in, and what keeps them from it",
            description="The guests that stand, by name.",
            examples=(
                Example("bus guest list", "all of them"),
                Example("bus guest list | jq -r 'select(.endpoints == 0).name'", "those that nobody attached from"),
            ),
        ),
        Command(
            name="guest inspect",
            help="show everything about one VM",
            description="Its way in and state, its VMM, its endpoints, and what was refused and why.",
            arguments=(_NAME,),
            examples=(Example("bus guest inspect vm-42", "everything about vm-42"),),
        ),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    if args.action == "add":
        _check(args)
    return run(_ask(args))


def _check(args: Namespace) -> None:
    """Raise UsageError for what the broker would refuse too, but here with the words of the command line."""
    if args.tenant is None:
        raise UsageError(
            "bus guest add: whose is it? --tenant is missing", f"bus guest add {args.name} --tenant NAME ..."
        )
    given = [f"--{way}" for way in _WAYS if getattr(args, way) is not None]
    if len(given) != 1:
        ways = ", ".join(f"--{way}" for way in _WAYS)
        said = " and ".join(given) if given else "none"
        raise UsageError(f"bus guest add: exactly one of {ways} is needed; there is {said}", "bus guest add --help")


async def _ask(args: Namespace) -> int:
    from buscli.census import ask
    from buscli.connection import attached
    from buscli.jsonform import to_json
    from busclient.errors import ErrorReply
    from busproto.errors import Code

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with attached(args, output) as bus:
        if args.action == "list":
            rows = await guests(bus)
        else:
            try:
                rows = [await ask(bus, SERVICE + args.action, _request(args))]
            except ErrorReply as error:
                if error.code != Code.UNIT_UNKNOWN or args.action == "add":
                    raise
                raise await _unknown(bus, args) from None
    if not output.human:
        for row in rows:
            output.record(to_json(row))
    else:
        _SHOW[args.action](output, [to_json(row) for row in rows])
    return Exit.OK


def _request(args: Namespace) -> dict[str, Any]:
    if args.action != "add":
        return {"name": args.name}
    fields = ("name", "tenant", "generation", "port", "pid", "owner", *_WAYS)
    given = {field: value for field in fields if (value := getattr(args, field)) is not None}
    return {**given, "any_process": True} if args.any_process else given


async def guests(bus: "Bus") -> list[dict[str, Any]]:
    """Every guest, page by page."""
    from buscli.census import ask

    rows: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = await ask(bus, SERVICE + "list", {"after": after} if after else {})
        rows += page["guests"]
        after = page.get("next")
        if after is None:
            return rows


async def _unknown(bus: "Bus", args: Namespace) -> UsageError:
    """The refusal of a name that no guest has, with the one that may have been meant."""
    nearest = suggest(args.name, [row["name"] for row in await guests(bus)])
    cures = [f"bus guest {args.action} {nearest}"] if nearest else []
    said = f"bus guest {args.action}: no guest is called '{args.name}'"
    return UsageError(said, *cures, "bus guest list", exit=Exit.FAILED)


def _show_list(output: Output, rows: list[dict[str, Any]]) -> None:
    output.table(
        ("guest", "tenant", "generation", "way in", "state", "age", "vmm", "endpoints", "refused"),
        [
            (
                row["name"],
                row["tenant"],
                row["generation"],
                f"{row['way']} {row['address']}" if row["way"] != "cid" else row["address"],
                _state(row),
                duration(row["seconds"]),
                "-" if row["vmm"] is None else row["vmm"]["pid"],
                row["endpoints"],
                ", ".join(f"{count} {reason}" for reason, count in row["refused"].items()) or "-",
            )
            for row in rows
        ],
    )


def _state(row: dict[str, Any]) -> str:
    state = str(row["state"])
    if "retry_seconds" in row:
        state += f" {duration(row['retry_seconds'])}"
    return f"{state}: {row['error']}" if "error" in row else state


def _show_outline(output: Output, rows: list[dict[str, Any]]) -> None:
    from buscli.outline import outline

    for row in rows:
        for line in outline(row):
            output.line(line)


_SHOW: Final = {"list": _show_list, "add": _show_list, "inspect": _show_outline, "remove": _show_outline}
"""How each action's answer looks to a person."""
