"""``bus list``: the census: who is attached, who owns it and what it is for."""

from argparse import Namespace
from typing import Any

from buscli.exits import Exit
from buscli.output import Output
from buscli.table import Argument, Command, Example
from buscli.units import duration, user_name

COMMAND = Command(
    name="list",
    help="list the endpoints that are attached, or that left",
    description="""\
Who is attached. Endpoint, boundary, tenant, unit, user and process are what the broker proved; component, owner and
purpose are what the endpoint says of itself.""",
    arguments=(
        Argument("--departed", "those that left: the last 200, latest first, and why", aliases=("-d",), arity="flag"),
    ),
    examples=(
        Example("bus list", "who is there"),
        Example("bus list --departed", "who left, and why"),
        Example("bus list | jq -r 'select(.claims.owner == null).endpoint'", "those that nobody owns up to"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    return run(_list(args))


async def _list(args: Namespace) -> int:
    from buscli.census import departures, endpoints
    from buscli.connection import attached
    from buscli.jsonform import to_json

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with attached(args, output) as bus:
        rows = await departures(bus) if args.departed else [row async for row in endpoints(bus)]
    if not output.human:
        for row in rows:
            output.record(to_json(row))
    elif args.departed:
        output.table(
            ("endpoint", "component", "owner", "reason", "ago", "stayed", "lost"), [_departure(row) for row in rows]
        )
    else:
        output.table(
            ("endpoint", "component", "owner", "purpose", "tenant/unit", "user:pid", "age", "serves"),
            [_endpoint(row) for row in rows],
        )
    return Exit.OK


def _endpoint(row: dict[str, Any]) -> tuple[object, ...]:
    principal, claims = row["principal"], row["claims"]
    return (
        row["endpoint"],
        claims.get("component", "-"),
        claims.get("owner", "-"),
        claims.get("purpose", "-"),
        f"{principal['tenant']}/{principal['unit']}",
        "-" if principal["uid"] is None else f"{user_name(principal['uid'])}:{principal['pid']}",
        duration(row["seconds"]),
        " ".join(row["serves"]) or "-",
    )


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
