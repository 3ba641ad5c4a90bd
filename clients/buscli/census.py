"""Asking the broker about itself, page by page where an answer has pages."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from busclient import Bus

TIMEOUT: Final = 5.0
"""Seconds for one answer. The broker answers these itself, at once."""


async def ask(bus: "Bus", service: str, request: Any = None) -> Any:
    """What the broker's own ``service`` answers. Raises as a call does."""
    reply = await bus.call(service, request, timeout=TIMEOUT)
    return reply.payload


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
