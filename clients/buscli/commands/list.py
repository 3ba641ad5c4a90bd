"""``bus list``: the census: who is attached, who owns it and what it is for, and what it takes."""

from argparse import Namespace
from typing import Any, Final

from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example
from buscli.units import duration, user_name

COMMAND = Command(
    name="list",
    help="list the endpoints that are attached, or that left, or who pays for what",
    description="""\
Who is attached. Endpoint, boundary, tenant, unit, user and process are what the broker proved; component, owner and
purpose are what the endpoint says of itself. fullest is the quota of its own that it has used up most. Remarks say who
is unowned (its manifest does not say whose it is and what for), throttled (held up, for its account is too fast), and
who monitors the others (bus monitor), and what of them.

Accounts pay for what is used of the node: a tenant, a user of the host, or the node itself. Of each resource that all
share, --accounts shows what an account uses and the most that it may have now; that is less while more want it.
A narrow terminal shows fewer columns; --json always has all.""",
    arguments=(
        Argument("--departed", "those that left: the last 200, latest first, and why", aliases=("-d",), arity="flag"),
        Argument("--accounts", "who pays, and what each uses of what all share", arity="flag"),
        Argument("--tenant", "only endpoints of this tenant (node: the node's own)", metavar="NAME"),
        Argument("--unit", "only endpoints of this unit", metavar="NAME"),
        Argument(
            "--boundary", "only endpoints of this boundary", choices=("guest", "host", "soc"), completes="choices"
        ),
        Argument("--unowned", "only those that do not say component, owner and purpose", arity="flag"),
    ),
    examples=(
        Example("bus list", "who is there"),
        Example("bus list --tenant acme --unowned", "what of acme's nobody owns up to"),
        Example("bus list --accounts", "who uses how much of the node"),
        Example("bus list --departed", "who left, and why"),
        Example("bus list | jq -r 'select(.throttled != []).endpoint'", "who is held up"),
    ),
)

SERVED: Final = 3
"""Patterns of one endpoint that the table shows; bus inspect and --json show all."""

_FILTERS = ("tenant", "unit", "boundary")


def run(args: Namespace) -> int:
    from buscli.connection import run

    chosen = [f"--{name}" for name in ("departed", *_FILTERS, "unowned") if getattr(args, name)]
    if args.accounts and chosen:
        raise UsageError(
            f"bus list: --accounts is about who pays, so {' and '.join(chosen)} does not go with it",
            "bus list --accounts",
            f"bus list {' '.join(chosen)}",
        )
    return run(_list(args))


async def _list(args: Namespace) -> int:
    from buscli.census import accounts, departures, endpoints
    from buscli.connection import attached
    from buscli.jsonform import to_json

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with attached(args, output) as bus:
        if args.accounts:
            rows = await accounts(bus)
        elif args.departed:
            rows = [row for row in await departures(bus) if _is_wanted(args, row)]
        else:
            rows = [row async for row in endpoints(bus) if _is_wanted(args, row)]
    if not output.human:
        for row in rows:
            output.record(to_json(row))
    elif args.accounts:
        _show_accounts(output, rows)
    elif args.departed:
        output.table(
            ("endpoint", "component", "owner", "reason", "ago", "stayed", "lost"), [_departure(row) for row in rows]
        )
    else:
        _show_endpoints(output, rows)
    return Exit.OK


def _is_wanted(args: Namespace, row: dict[str, Any]) -> bool:
    from buscli.census import unowned

    if args.unowned and not unowned(row):
        return False
    return all(getattr(args, name) in (None, row["principal"][name]) for name in _FILTERS)


def _show_endpoints(output: Output, rows: list[dict[str, Any]]) -> None:
    columns = ["endpoint", "component", "owner", "purpose", "tenant/unit", "user:pid", "age", "fullest", "serves"]
    cells = [_endpoint(row) for row in rows]
    remarks = [_remarks(row) for row in rows]
    if any(remarks):
        columns.append("remarks")
        cells = [(*row, remark or "-") for row, remark in zip(cells, remarks, strict=True)]
    output.table(columns, cells, spare=("age", "fullest", "user:pid"))


def _endpoint(row: dict[str, Any]) -> tuple[object, ...]:
    from buscli.census import fullest

    principal, claims = row["principal"], row["claims"]
    return (
        row["endpoint"],
        claims.get("component", "-"),
        claims.get("owner", "-"),
        claims.get("purpose", "-"),
        f"{principal['tenant']}/{principal['unit']}",
        "-" if principal["uid"] is None else f"{user_name(principal['uid'])}:{principal['pid']}",
        duration(row["seconds"]),
        fullest(row["charges"]),
        _served([pattern for pattern in row["serves"] if not _is_control(pattern)]),
    )


def _served(patterns: list[str]) -> str:
    """The first few of what an endpoint serves, and how many more there are."""
    more = len(patterns) - SERVED
    return " ".join([*patterns[:SERVED], *([f"+{more}"] if more > 0 else [])]) or "-"


def _is_control(pattern: str) -> bool:
    """Whether ``pattern`` is where a component's runner takes orders: nothing that others would call."""
    return pattern.startswith("component.")


def _remarks(row: dict[str, Any]) -> str:
    from buscli.census import monitored, unowned

    remarks = {"unowned: no": unowned(row), "throttled:": row["throttled"], "monitors:": monitored(row)}
    return "; ".join(f"{what} {', '.join(found)}" for what, found in remarks.items() if found)


def _departure(row: dict[str, Any]) -> tuple[object, ...]:
    claims = row["claims"]
    error = row.get("error") or {}
    return (
        row["endpoint"] or "(no hello)",
        claims.get("component", "-"),
        claims.get("owner", "-"),
        f"{row['reason']}: {error['text']}" if "text" in error else row["reason"],
        duration(row["ago"]),
        duration(row["seconds"]),
        row["lost_messages"],
    )


def _show_accounts(output: Output, rows: list[dict[str, Any]]) -> None:
    from buscli.census import charge

    resources = list(dict.fromkeys(resource for row in rows for resource in row["charges"]))
    output.table(
        ("account", "age", "connections", "throttled", *resources),
        [
            (
                row["account"],
                duration(row["seconds"]),
                row["connections"],
                ", ".join(row["throttled"]) or "-",
                *(charge(resource, row["charges"].get(resource)) for resource in resources),
            )
            for row in rows
        ],
        spare=("age", "connections", "held_bytes", "subscriptions"),
    )
