"""A console whose node is made up: real HTTP and the real page, and documents that a test hands it."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from busd.ops.address import TcpAddress
from busd.ops.console.census import Search
from busd.ops.console.collector import Console, Looked, Viewer
from busd.ops.console.services import Services
from busd.ops.http import HttpServer
from busd.ops.listen import open_listener
from busd.ops.status import Observed

EXAMPLE = Path(__file__).parent / "example_state.json"

State = dict[str, Any]

ALLOWED: dict[str, Any] = {
    "principal": {},
    "allowed": True,
    "where": "30-guests.policy:4",
    "rule": "allow publish telemetry.> from guest",
    "reason": "",
    "considered": [
        {"where": "30-guests.policy:9", "rule": "deny publish > from soc", "why": "it comes after the one that decided"}
    ],
    "change": None,
    "advice": "to deny it, put before 30-guests.policy:4",
    "exports": ["10-exports.policy:2 shows it to the node"],
}  # fmt: skip
"""What the policy says of a question, but for the question."""


def example() -> State:
    """The example of the state document: 173 endpoints in 48 units, with troubles."""
    state: State = json.loads(EXAMPLE.read_text())
    return state


class ScriptedConsole(Console):
    """Says what it is told to. All of it but `say` is for the loop of its server."""

    def __init__(self, state: State) -> None:
        super().__init__(cast(Looked, None), cast(Callable[[], Services], None))
        self.state = state
        self.refuses = False
        self.asked: list[Search] = []
        self.explained: dict[str, Any] | None = None
        self.left: list[dict[str, Any]] = []

    def say(self, state: State) -> None:
        """This is the state now."""
        self.state = state
        body = json.dumps(state).encode()
        for viewer in list(self._viewers):
            viewer.put(body)

    def join(self) -> Viewer | None:
        if self.refuses:
            return None
        viewer = Viewer()
        self._viewers[viewer] = None
        viewer.put(json.dumps(self.state).encode())
        return viewer

    def cut(self) -> None:
        """End every stream."""
        for viewer in list(self._viewers):
            viewer.close()

    async def census(self, wanted: Search) -> dict[str, Any]:
        self.asked.append(wanted)
        everyone = census_rows(self.state)
        rows = [row for row in everyone if _matches(row, wanted)]
        key = wanted.sort or "endpoint"
        rows.sort(key=lambda row: (row[key] is not None, row[key] or 0) if key != "fullest" else (True, 0))
        if wanted.descending:
            rows.reverse()
        page = rows[wanted.offset : wanted.offset + wanted.limit]
        return {"total": len(everyone), "matching": len(rows), "rows": page}

    def departures(self) -> dict[str, Any]:
        return {"rows": self.left}

    async def endpoint(self, name: str) -> dict[str, Any] | None:
        row = next((row for row in census_rows(self.state) if row["endpoint"] == name), None)
        return None if row is None else inspected(row)

    def explain(self, verb: str, subject: str, endpoint: str) -> dict[str, Any]:
        if self.explained is None:
            raise ValueError(f"no endpoint is called {endpoint!a}")
        return {"verb": verb, "subject": subject, **self.explained}


def _matches(row: dict[str, Any], wanted: Search) -> bool:
    texts = " ".join(str(row[key] or "") for key in ("endpoint", "tenant", "unit", "component", "owner", "purpose"))
    return (
        wanted.text.casefold() in texts.casefold()
        and wanted.boundary in ("", row["boundary"])
        and wanted.tenant in ("", row["tenant"])
        and wanted.unit in ("", row["unit"])
        and wanted.component in ("", row["component"])
        and not (wanted.unowned and all(row[claim] for claim in ("component", "owner", "purpose")))
    )


def census_rows(state: State) -> list[dict[str, Any]]:
    """One row for each endpoint of the state's groups; the names are those that its problems use, where they do."""
    rows = []
    for group in state["groups"]:
        number = int(group["id"][1:])
        for index in range(group["endpoints"]):
            # The example's problems are about g41, g42 and g59, and call them guest-71, 72 and 93.
            known = {41: 71, 42: 72, 59: 93}.get(number, number + 1000 * (index + 1))
            rows.append(
                {
                    **{key: group[key] for key in ("boundary", "tenant", "unit", "component", "owner", "purpose")},
                    "endpoint": f"{group['boundary']}-{known}",
                    "generation": 2 if group["boundary"] == "guest" else 0,
                    "version": "1.4.2" if group["component"] else None,
                    "age_seconds": 93000.0 - 17 * number,
                    "user": 0 if group["boundary"] == "host" else None,
                    "pid": 4000 + number if group["boundary"] == "host" else None,
                    "received_messages": int((group["sends_per_second"] or 0) * 90),
                    "delivered_messages": int((group["receives_per_second"] or 0) * 90),
                    "dropped_messages": int((group["dropped_per_second"] or 0) * 90),
                    "denied": int((group["denied_per_second"] or 0) * 90),
                    "queued_messages": group["queued_bytes"] // 512,
                    "queued_bytes": group["queued_bytes"],
                    "fullest": {"resource": "outbox_bytes", "used": group["queued_bytes"], "limit": 33554432},
                    "serves": [],
                    "subscriptions": 2,
                }
            )
    return rows


def inspected(row: dict[str, Any]) -> dict[str, Any]:
    """All there is about the endpoint of a row of the census."""
    charges = {
        "subscriptions": {"used": row["subscriptions"], "limit": 1024},
        "services": {"used": 1, "limit": 256},
        "calls": {"used": 3, "limit": 4096},
        "held_calls": {"used": 0, "limit": 8192},
        "outbox_bytes": {"used": row["queued_bytes"], "limit": 33554432},
        "outbox_messages": {"used": row["queued_messages"], "limit": 65536},
    }
    principal = {key: row[key] for key in ("boundary", "tenant", "unit", "generation", "pid")}
    serves = [{"id": 3, "pattern": "backup.>", "group": "default", "outstanding": 0}]
    cache = {"component": "cache", "tenant": "node", "unit": "host"}
    collector = {"component": "collector", "tenant": "node", "unit": "host"}
    flows: list[dict[str, Any]] = [
        {"to": "host-2", "other": cache, "kind": "call", "subject": "cache.>", "messages": 2048, "per_second": 4.0},
        {"to": "host-3", "other": collector, "kind": "publish", "subject": "own.>", "messages": 12, "per_second": 0.0},
        {"to": "host-9", "other": None, "kind": "publish", "subject": "own.>", "messages": 1, "per_second": 0.0},
        {"to": "$bus", "other": None, "kind": "call", "subject": "$bus.ping", "messages": 7, "per_second": 0.0},
    ]
    return {
        "endpoint": row["endpoint"],
        "state": "ready",
        "principal": {**principal, "uid": row["user"], "gid": row["user"], "groups": [], "cid": None, "key": None},
        "claims": {claim: row[claim] for claim in ("component", "version", "owner", "purpose") if row[claim]},
        "unowned": [claim for claim in ("component", "owner", "purpose") if not row[claim]],
        "account": row["tenant"],
        "throttled": ["messages"] if row["received_messages"] > 1_000_000 else [],
        "charges": charges,
        "quotas": {**charges, "node_queued_bytes": {"used": row["queued_bytes"], "limit": 268435456}},
        "seconds": row["age_seconds"],
        "subscriptions": [
            {"id": 1, "pattern": "prices.>", "latest": False, "lost_unreported": row["dropped_messages"]},
            {"id": 2, "pattern": "telemetry.cpu", "latest": True, "lost_unreported": 0},
        ],
        "serves": serves,
        "services": serves,
        "calls": [{"id": 9, "subject": "cache.get", "responder": "host-2", "seconds": 0.004}],
        "held_calls": [],
        "queued_messages": row["queued_messages"],
        "queued_bytes": row["queued_bytes"],
        "lost_messages": row["dropped_messages"],
        "flows": [{"from": row["endpoint"], **flow} for flow in flows],
    }


def empty(state: State) -> State:
    """The same node with nobody on it."""
    totals = dict.fromkeys(state["totals"], 0) | {"endpoints_limit": 16384, "loop_lag_seconds": 0.0002}
    lists: State = {key: [] for key in ("problems", "groups", "flows", "components", "jobs", "caches")}
    return {**state, **lists, "totals": totals, "notes": ["the deletion component is not running"]}


def crowded(groups: int, flows: int) -> State:
    """What the node says with ten thousand endpoints: the most groups and flows that a document may have."""
    state = example()
    made = [
        {
            "id": f"g{number}",
            "boundary": "host" if number < 40 else "soc" if number < 50 else "guest",
            "tenant": "node" if number < 50 else f"tenant-{number % 40}",
            "unit": "host" if number < 40 else f"dpu-{number % 2}" if number < 50 else f"vm-{number // 2}",
            "component": f"agent-{number}",
            "owner": "somebody",
            "purpose": "is one of many",
            "endpoints": 25,
            "sends_per_second": float(number),
            "receives_per_second": 12.5,
            "dropped_per_second": 3.0 if number % 50 == 0 else 0.0,
            "denied_per_second": 1.0 if number % 60 == 0 else 0.0,
            "throttled": number % 45 == 0,
            "queued_bytes": 0,
        }
        for number in range(groups)
    ]
    between = [
        {
            "from": f"g{(number * 7) % groups}",
            "to": f"g{(number * 13 + 1) % (groups if number % 3 else 40)}",
            "kind": "call" if number % 2 else "publish",
            "subject": f"subject.{number}.>",
            "per_second": 10000.0 / (number + 1),
            "lost_per_second": 5.0 if number % 40 == 0 else 0.0,
        }
        for number in range(flows)
    ]
    state["totals"]["endpoints"] = 10_000
    return {**state, "groups": made, "flows": between, "left_out": {"groups": 9600, "flows": 41000}}


class Page:
    """Where the page is served, and what is told to it."""

    def __init__(self, url: str, console: ScriptedConsole, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self.console = console
        self._loop = loop

    def say(self, state: State) -> None:
        """Show this."""
        self.do(lambda: self.console.say(state))

    def do(self, act: Callable[[], None]) -> None:
        """Run ``act`` in the loop of the server, to its end."""

        async def run() -> None:
            act()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)


@contextmanager
def served(state: State) -> Iterator[Page]:
    """Serve the page on a free port of loopback until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(10)

    try:
        listener = open_listener(TcpAddress("127.0.0.1", 0), is_default=False, run_dir=Path("/nonexistent"))
        assert listener is not None
        console = ScriptedConsole(state)
        server = HttpServer(listener, cast(Observed, None), console)  # nobody asks for metrics or health
        wait(server.start())
        try:
            yield Page(server.url, console, loop)
        finally:
            wait(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
