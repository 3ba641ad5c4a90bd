"""``bus inspect``: everything the broker knows of one endpoint."""

from argparse import Namespace
from typing import Any

from buscli.exits import Exit
from buscli.output import Output, Style, printable
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="inspect",
    help="show everything about one endpoint",
    description="""\
Identity, claims, quotas, subscriptions, services, calls in flight, counters. Proven is what the kernel, the hypervisor
or a key says of it (principal in the JSON form); all that is decided is decided by that. Claims are what the endpoint
says of itself.""",
    arguments=(Argument("endpoint", "its name, as bus list shows it", completes="endpoint"),),
    examples=(
        Example("bus inspect host-3", "everything about host-3"),
        Example("bus inspect host-3 | jq .charges", "what it holds, and its limits"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    return run(_inspect(args))


async def _inspect(args: Namespace) -> int:
    from buscli.census import find
    from buscli.connection import attached
    from buscli.jsonform import to_json

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with attached(args, output) as bus:
        found = await find(bus, args.endpoint, "bus inspect")
    if output.human:
        _show(output, to_json(found))
    else:
        output.record(to_json(found))
    return Exit.OK


def _show(output: Output, found: dict[str, Any]) -> None:
    from buscli.census import charge, monitored, unowned
    from buscli.outline import outline
    from buscli.proof import proofs
    from buscli.units import duration

    since = duration(found.pop("seconds"))
    name, state, account = (found.pop(key) for key in ("endpoint", "state", "account"))
    output.line(f"{output.styled(name, Style.BOLD)} is {printable(state)}, since {since}; {printable(account)} pays")
    throttled = found.pop("throttled")
    if throttled:
        warning = f"throttled: {account} is too fast in {', '.join(throttled)}, and is read more slowly"
        output.line(output.styled(warning, Style.YELLOW))
    for seen in monitored(found):
        output.line(output.styled(f"monitors {seen}", Style.YELLOW))
    output.line()
    output.table(("proven", "", "by"), list(proofs(found.pop("principal"))))
    output.line()
    claims, missing = found["claims"], unowned(found)
    said = [(key, ", ".join(value) if isinstance(value, list) else value) for key, value in claims.items()]
    output.table(("claims", "as it says of itself"), [*said, *((key, "(does not say)") for key in missing)])
    output.line()
    charges = found.pop("charges")
    output.table(("quota", "used"), [(quota, charge(quota, figures)) for quota, figures in charges.items()])
    output.line()
    del found["claims"], found["unowned"], found["statistics"]["charges"]
    for line in outline(found):
        output.line(line)
