"""Asking the broker about itself, page by page where an answer has pages; and its figures of quotas for people."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from buscli.exits import Exit
from buscli.parser import UsageError
from buscli.units import binary_size, duration

if TYPE_CHECKING:
    from busclient import Bus

TIMEOUT: Final = 5.0
"""Seconds for one answer. The broker answers these itself, at once."""

OWNERSHIP: Final = ("component", "owner", "purpose")
"""Claims without which nobody can say whose an endpoint is and why it exists."""


MEANT: Final = 3
"""Endpoints that are named when a component's name was given instead."""


async def ask(bus: "Bus", service: str, request: Any = None) -> Any:
    """What the broker's own ``service`` answers. Raises as a call does, and Denied also where the service refuses."""
    from busclient.errors import Denied, ErrorReply
    from busproto.errors import Code

    try:
        reply = await bus.call(service, request, timeout=TIMEOUT)
    except ErrorReply as error:
        if error.code != Code.DENIED:
            raise
        raise Denied.from_body(error.body()) from None
    return reply.payload


async def find(bus: "Bus", name: str, command: str) -> dict[str, Any]:
    """All that is known of the endpoint ``name``.

    Raises UsageError, with cures for ``command``, if there is none. It offers the endpoints of a component of that
    name, and no name that is merely close to it: the broker numbers them, so that is somebody else's.
    """
    from busclient.errors import ErrorReply
    from busproto.errors import Code

    try:
        found: dict[str, Any] = await ask(bus, "$bus.inspect", {"endpoint": name})
    except ErrorReply as error:
        if error.code != Code.REQUEST_INVALID:
            raise
    else:
        return found
    meant = [row["endpoint"] async for row in endpoints(bus) if row["claims"].get("component") == name]
    cures = [f"{command} {each}" for each in meant[:MEANT]]
    said = f"{' '.join(command.split()[:2])}: no endpoint is called '{name}'"
    raise UsageError(said, *cures, "bus list", "bus list --departed", exit=Exit.FAILED)


async def endpoints(bus: "Bus") -> AsyncIterator[dict[str, Any]]:
    """Every attached endpoint, in order of arrival."""
    after = None
    while True:
        page = await ask(bus, "$bus.list", {"after": after} if after else {})
        for row in page["endpoints"]:
            yield row
        after = page.get("next")
        if after is None:
            return


async def departures(bus: "Bus") -> list[dict[str, Any]]:
    """The last endpoints that left, and the connections that never became endpoints, latest first."""
    page = await ask(bus, "$bus.list", {"departed": True, "limit": 1})
    rows: list[dict[str, Any]] = [*page["departed"], *page.get("refused", ())]
    return sorted(rows, key=lambda row: float(row.get("ago", 0)))


async def accounts(bus: "Bus") -> list[dict[str, Any]]:
    """Who pays for what: the node first, then by name."""
    page = await ask(bus, "$bus.list", {"accounts": True, "limit": 1})
    rows: list[dict[str, Any]] = page["accounts"]
    return sorted(rows, key=lambda row: (" " in row["account"], row["account"]))


async def traffic(bus: "Bus") -> dict[str, Any]:
    """Every endpoint and every flow from one to another, as one answer; ``at`` is when the first page was made."""
    found = await ask(bus, "$bus.map", {})
    page = found
    while (after := page.get("next")) is not None:
        page = await ask(bus, "$bus.map", {"after": after})
        found["endpoints"] += page["endpoints"]
        found["flows"] += page["flows"]
    return {key: found[key] for key in ("at", "endpoints", "flows")}


def unowned(row: Mapping[str, Any]) -> list[str]:
    """What a row's manifest does not say, so that nobody knows whose it is and what for."""
    return [key for key in OWNERSHIP if not row["claims"].get(key)]


def monitored(row: Mapping[str, Any]) -> list[str]:
    """What of the traffic an endpoint has itself shown, and since when: a sentence for each of its monitors."""
    found = []
    for tap in row.get("monitoring", ()):
        what = ["everything" if len(tap["kinds"]) == 4 else " and ".join(tap["kinds"])]
        what += [" ".join(tap["patterns"])] if tap["patterns"] else []
        what += [f"of {tap[key]}" for key in ("tenant", "endpoint") if tap[key] is not None]
        what += ["with payloads"] if tap["payload"] else []
        found.append(f"{' '.join(what)} for {duration(tap['seconds'])}")
    return found


def fullest(charges: Mapping[str, Mapping[str, int]]) -> str:
    """The quota that is used up most, such as ``calls 12/4096 (0 %)``; ``-`` if none is used."""
    name = max(charges, key=lambda name: _part(charges[name]), default=None)
    if name is None or not charges[name]["used"]:
        return "-"
    return f"{name} {charge(name, charges[name])}"


def charge(name: str, figures: Mapping[str, int] | None) -> str:
    """What is used of one quota: ``12/4096 (0 %)``, or ``1.5 MiB/32 MiB (4 %)`` if it is one of bytes."""
    if figures is None:
        return "-"
    used, limit = figures["used"], figures["limit"]
    said = f"{binary_size(used)}/{binary_size(limit)}" if name.endswith("_bytes") else f"{used}/{limit}"
    return f"{said} ({int(100 * _part(figures))} %)"


def _part(figures: Mapping[str, int]) -> float:
    """How much of it is used, from 0 to 1. What may not be had at all is used up."""
    return figures["used"] / figures["limit"] if figures["limit"] else 1.0
