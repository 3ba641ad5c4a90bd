"""A bus that answers for the node's components, its supervisor and its map, as far as commands ask."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from buscli import connection
from busclient.errors import ErrorReply
from busproto.errors import BusError, Code


def row(component: str, **changed: Any) -> dict[str, Any]:
    """A component that is well, as ``$bus.components`` answers, with what ``changed`` says."""
    histogram = {"count": 100, "sum": 0.2, "buckets": [[0.001, 40], [0.01, 99], [0.1, 100]]}
    return {
        "component": component,
        "version": "0.1.0",
        "owner": "node",
        "purpose": f"is {component}",
        "state": "ready",
        "reason": "",
        "placement": "host",
        "endpoint": "host-2",
        "instance": "0123456789ab",
        "pid": 4711,
        "supervised": True,
        "source": f"acme.{component}:{component.title()}",
        "restarts": 0,
        "cut_off": 0,
        "seconds": 75.0,
        "health": {"ok": True, "detail": ""},
        "memory_bytes": 40 << 20,
        "cpu_percent": 1.4,
        "budget": {"memory_bytes": 256 << 20, "cpu_percent": 100.0},
        "serves": [f"{component}.get"],
        "publishes": [f"{component}.done"],
        "placements": ["host", "soc"],
        "stateful": True,
        "operations": {"get": {"calls": 100, "in_flight": 2, "errors": {"2008": 3}, "seconds": histogram}},
        "standby": [],
        "others": [],
        "log_lines": 7,
        **changed,
    }


class FakeNode:
    """What the broker and the supervisor answer. ``asked`` is what was asked, in order."""

    endpoint = "host-0"

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = list(rows)
        self.asked: list[tuple[str, Any, float]] = []
        self.answers: dict[str, Callable[[Any], Any]] = {"$bus.components": self._components}

    def _components(self, request: dict[str, Any]) -> dict[str, Any]:
        wanted = request.get("component")
        return {"components": [row for row in self.rows if wanted in (None, row["component"])]}

    def answer(self, subject: str, *payloads: Any) -> None:
        """Answer calls to ``subject`` with one after another of ``payloads``, the last one again and again."""
        waiting = list(payloads)

        def give(request: Any) -> Any:
            payload = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if isinstance(payload, BaseException):
                raise payload
            return payload

        self.answers[subject] = give

    async def call(self, subject: str, request: Any, *, timeout: float) -> Any:
        self.asked.append((subject, request, timeout))
        if subject not in self.answers:
            raise BusError(Code.NO_RESPONDERS, subject=subject)
        try:
            return SimpleNamespace(payload=self.answers[subject](request))
        except BusError as error:
            raise ErrorReply.from_body(error.body()) from None


def attach(monkeypatch: pytest.MonkeyPatch, node: FakeNode) -> FakeNode:
    """Have commands find ``node`` wherever they look for a bus."""

    @asynccontextmanager
    async def attached(*_: object, **__: object) -> AsyncIterator[FakeNode]:
        yield node

    monkeypatch.setattr(connection, "attached", attached)
    return node
