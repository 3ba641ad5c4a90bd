"""The node's components: asking for them, and how they look to a person."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from buscli.census import ask
from buscli.outline import outline
from buscli.output import Output, Style, printable
from buscli.parser import UsageError, suggest
from buscli.units import binary_size, duration, short

if TYPE_CHECKING:
    from busclient import Bus

__all__ = ["complete", "component", "components", "show_health", "show_list", "show_one", "unhealthy", "unknown"]

SERVICE: Final = "$bus.components"
"""What answers."""

Row = Mapping[str, Any]

_COLOURS: Final = {"ready": Style.GREEN, "failed": Style.RED, "stopped": Style.YELLOW}
_SHOWN: Final = frozenset(
    {"component", "version", "owner", "purpose", "state", "reason", "placement", "endpoint", "instance", "pid"}
    | {"supervised", "source", "restarts", "cut_off", "seconds", "health", "memory_bytes", "cpu_percent", "budget"}
    | {"operations", "standby", "others", "log_lines"}
)
"""Parts of a row that `show_one` lays out itself."""


async def components(bus: "Bus") -> list[dict[str, Any]]:
    """Every component that the asker may know of, by name. A tenant is not told all of a row: `complete` adds it."""
    rows: list[dict[str, Any]] = (await ask(bus, SERVICE, {}))["components"]
    return sorted(rows, key=lambda row: str(row["component"]))


def complete(row: Row) -> dict[str, Any]:
    """``row`` with nothing in the place of what it does not say."""
    return {**dict.fromkeys(_SHOWN), "operations": {}, "standby": [], "others": [], "restarts": 0, "cut_off": 0, **row}


async def component(bus: "Bus", name: str, action: str) -> dict[str, Any]:
    """The component called ``name``. Raises UsageError, with the nearest name, if there is none."""
    rows = await components(bus)
    for row in rows:
        if row["component"] == name:
            return row
    raise unknown(name, action, [row["component"] for row in rows])


def unknown(name: str, action: str, names: Sequence[str]) -> UsageError:
    """The refusal of a name that no component has."""
    from buscli.exits import Exit

    nearest = suggest(name, list(names))
    cures = [f"bus component {action} {nearest}"] if nearest else []
    said = f"bus component {action}: no component is called '{name}'"
    return UsageError(said, *cures, "bus component list", exit=Exit.FAILED)


def unhealthy(row: Row) -> bool:
    """Whether a component does not serve, or says that it is not well."""
    return row["state"] != "ready" or not _health(row)[0]


def _health(row: Row) -> tuple[bool, str]:
    health = row.get("health") or {}
    return bool(health.get("ok", True)), str(health.get("detail") or "")


# -- tables -----------------------------------------------------------------------------------------------------------


def show_list(output: Output, rows: Sequence[Row]) -> None:
    """One line a component."""
    rows = [complete(row) for row in rows]
    if not rows:
        output.line("there are no components: busd --components NAME starts one, and so does busd component run")
        return
    heads = ("component", "version", "owner", "state", "where", "endpoint", "age", "calls", "errors", "memory", "cpu")
    output.table(
        (*heads, "restarts", "remarks"),
        [
            (
                row["component"],
                row["version"] or "-",
                row["owner"] or "-",
                row["state"],
                row["placement"] or "-",
                row["endpoint"] or "-",
                _age(row),
                sum(operation["calls"] for operation in row["operations"].values()),
                sum(sum(operation["errors"].values()) for operation in row["operations"].values()),
                _memory(row),
                _cpu(row),
                row["restarts"],
                _remarks(row) or "-",
            )
            for row in rows
        ],
        spare=("version", "age", "owner", "endpoint"),
    )


def show_health(output: Output, rows: Sequence[Row]) -> None:
    """One line a component: whether it is well, and what it says."""
    rows = [complete(row) for row in rows]
    output.table(
        ("component", "health", "state", "what it says"),
        [
            (
                row["component"],
                "not ok" if unhealthy(row) else "ok",
                row["state"],
                "; ".join(dict.fromkeys(filter(None, (row["reason"], _health(row)[1])))) or "-",
            )
            for row in rows
        ],
    )


def show_one(output: Output, row: Row) -> None:
    """Everything about one component."""
    row = complete(row)
    name = output.styled(f"{row['component']} {row['version'] or ''}".strip(), Style.BOLD)
    state = output.styled(row["state"], _COLOURS.get(row["state"], Style.YELLOW))
    reason = f": {printable(row['reason'])}" if row["reason"] else ""
    output.line(f"{name} is {state}{reason}")
    output.line(f"  {printable(row['purpose'] or 'does not say what it is for')}")
    output.line()
    output.table(("about", ""), _about(row))
    if row["operations"]:
        output.line()
        output.table(
            ("operation", "calls", "in flight", "errors", "mean", "99 % within"),
            [(operation, *_figures(figures)) for operation, figures in row["operations"].items()],
        )
    if row["standby"] or row["others"]:
        output.line()
        output.table(
            ("also there", "state", "endpoint", "version", "instance"),
            [
                (each["placement"], each["state"], each["endpoint"], each["version"], each["instance"])
                for each in (*row["standby"], *row["others"])
            ],
        )
    rest = {key: value for key, value in row.items() if key not in _SHOWN}
    if rest:
        output.line()
        for line in outline(rest):
            output.line(line)


def show_receipt(output: Output, receipt: Row) -> None:
    """How a hand-over went."""
    name, place = output.styled(receipt["component"], Style.BOLD), printable(receipt["to"])
    before = "" if receipt["from"] == receipt["to"] else f" (before: {printable(receipt['from'])})"
    output.line(f"{name} runs at {place}{before} now: instance {receipt['instance']} of {printable(receipt['source'])}")
    in_all, waited = (f"{receipt[key] * 1e3:.0f} ms" for key in ("seconds", "pinned_seconds"))
    state = f"{binary_size(receipt['state_bytes'])} of" if receipt["state_bytes"] else "no"
    output.line(f"  it took {in_all}, for {waited} of which calls waited; {state} state was handed over")


def _about(row: Row) -> list[tuple[str, object]]:
    ok, detail = _health(row)
    return [
        ("owner", row["owner"] or "(does not say)"),
        ("runs at", row["placement"] or "-"),
        ("endpoint", f"{row['endpoint']}, instance {row['instance']}" if row["endpoint"] else "-"),
        ("process", row["pid"] or "-"),
        ("started by", {True: "this node", False: "hand: the node does not restart it"}.get(row["supervised"], "-")),
        ("source", row["source"] or "-"),
        ("since", _age(row)),
        ("health", "; ".join(filter(None, ("ok" if ok else "not ok", detail)))),
        ("memory", _memory(row)),
        ("cpu", _cpu(row)),
        ("restarts", row["restarts"]),
        ("cut off", f"{row['cut_off']} times"),
        ("log", f"{row['log_lines']} lines: bus component logs {row['component']}" if row["log_lines"] else "-"),
    ]


def _age(row: Row) -> str:
    return duration(row["seconds"]) if row["endpoint"] else "-"


def _memory(row: Row) -> str:
    if not row["endpoint"]:
        return "-"
    limit = (row["budget"] or {}).get("memory_bytes")
    return binary_size(row["memory_bytes"]) + (f"/{binary_size(limit)}" if limit else "")


def _cpu(row: Row) -> str:
    if not row["endpoint"]:
        return "-"
    limit = (row["budget"] or {}).get("cpu_percent")
    return f"{row['cpu_percent']:.0f}/{limit:.0f} %" if limit else f"{row['cpu_percent']:.0f} %"


def _remarks(row: Row) -> str:
    ok, detail = _health(row)
    remarks = [row["reason"]] if row["reason"] else []
    if row["state"] == "ready" and not ok:
        remarks.append(f"not healthy: {detail or 'it does not say why'}")
    remarks += ["run by hand"] if row["supervised"] is False else []
    remarks += [f"cut off {row['cut_off']} times"] if row["cut_off"] else []
    remarks += [f"stands by: {', '.join(each['placement'] for each in row['standby'])}"] if row["standby"] else []
    remarks += [f"also there: {each['placement']} {each['state']}" for each in row["others"]]
    return "; ".join(remarks)


def _figures(figures: Mapping[str, Any]) -> tuple[object, ...]:
    errors = ", ".join(f"{count} BUS-{code}" for code, count in figures["errors"].items()) or "-"
    seconds = figures["seconds"]
    mean = short(seconds["sum"] / seconds["count"]) if seconds["count"] else "-"
    return figures["calls"], figures["in_flight"], errors, mean, _within(seconds, 0.99)


def _within(seconds: Mapping[str, Any], part: float) -> str:
    """The bound under which ``part`` of the calls stayed. ``buckets`` are (bound, how many up to it)."""
    if not seconds["count"]:
        return "-"
    for bound, count in seconds["buckets"]:
        if count >= part * seconds["count"]:
            return short(bound)
    return f"over {short(seconds['buckets'][-1][0])}" if seconds["buckets"] else "-"
