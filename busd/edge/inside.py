"""The broker's own endpoint: services under ``$bus.admin.`` that need more than the core, as tasks on the loop."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from busd.core.audit import AuditTrail
from busd.core.bus import Bus
from busd.core.introspection import Request
from busd.core.principal import Principal
from busd.core.requests import REQUEST_ITEMS
from busd.edge.admission import Report
from busd.edge.pump import Pump, clock
from busproto import envelope
from busproto.envelope import Decoder, Kind, Status
from busproto.errors import BusError, Code
from busproto.limits import BATCH_BYTES

ADMIN: Final = "$bus.admin.>"
"""What it serves."""

REQUEST_BYTES: Final = BATCH_BYTES
"""A request to it. Policy text is the longest thing in one."""

Service = Callable[[Request, Principal], Awaitable[dict[str, Any]]]
"""Answers a request of a caller. Raises BusError for what cannot be done."""


class Inside:
    """Answers calls by the services in a table, and has each written down: who asked for what, and what came of it."""

    def __init__(self, bus: Bus, pump: Pump, services: Mapping[str, Service], report: Report) -> None:
        self._bus = bus
        self._report = report
        self._pump = pump
        self._services = services
        self._decoder = Decoder()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._session = bus.attach_inside(ADMIN, clock(), self)

    def flush(self) -> None:
        """Begin the calls that wait, and end those that nobody waits for any more."""
        while parts := self._bus.take(self._session):
            caller = ""
            for message in self._decoder.decode(b"".join(parts)).envelopes:
                if message[0] == Kind.ORIGIN:
                    caller = message[1]
                elif message[0] == Kind.CALL:
                    self._begin(caller, message)
                elif message[0] == Kind.CANCEL and (task := self._tasks.get(message[1])) is not None:
                    task.cancel()

    async def close(self) -> None:
        """End what is still being done."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, caller: str, call: list[Any]) -> None:
        id, subject, payload = call[1], call[2], bytes(call[5])
        task = asyncio.get_running_loop().create_task(self._run(id, subject, payload, caller))
        self._tasks[id] = task
        task.add_done_callback(lambda _: self._tasks.pop(id, None))

    async def _run(self, id: int, subject: str, payload: bytes, caller: str) -> None:
        principal = self._bus.find(caller)
        facts: dict[str, Any] = {}
        outcome = "cancelled"
        try:
            if principal is None:
                return
            facts = _facts(payload)
            answer = await self._serve(subject, facts, principal)
            reply = envelope.reply(id, Status.OK, None, envelope.pack(answer))
            outcome = "ok"
        except BusError as error:
            reply = envelope.reply(id, Status.ERROR, None, envelope.pack(error.body()))
            outcome = error.name
        finally:
            self._write_down(principal, caller, subject, facts, outcome)
        self._pump.receive(self._session, [reply])

    async def _serve(self, subject: str, facts: dict[str, Any], principal: Principal) -> dict[str, Any]:
        if not principal.is_node:  # whatever the policy says: a rule for $bus.> must not hand a tenant the node
            raise BusError(Code.DENIED, action="call", subject=subject, reason="it is for the node only")
        service = self._services.get(subject)
        if service is None:
            raise BusError(Code.REQUEST_INVALID, subject=subject, reason="the broker has no such service")
        try:
            return await service(Request(subject, facts), principal)
        except BusError:
            raise
        except Exception as error:
            # A bug, or a disk that failed: whoever asked must hear of it as a failure, not as silence.
            self._report("admin-failed", subject=subject, error=f"{type(error).__name__}: {error}")
            raise BusError(Code.INTERNAL, reason=f"{subject}: {error}") from error

    def _write_down(
        self, principal: Principal | None, caller: str, subject: str, facts: dict[str, Any], outcome: str
    ) -> None:
        trail: AuditTrail = self._bus.audit
        if principal is not None:
            trail.act(principal, caller, subject, facts, outcome, clock())


def _facts(payload: bytes) -> dict[str, Any]:
    """What is asked for. Raises BusError 2007, 2008, 6002."""
    if len(payload) > REQUEST_BYTES:
        raise BusError(Code.PAYLOAD_TOO_LARGE, size=len(payload), limit=REQUEST_BYTES)
    value = envelope.unpack(payload, REQUEST_ITEMS) if payload else None
    if value is not None and not isinstance(value, dict):
        raise BusError(Code.REQUEST_INVALID, subject="$bus.admin.", reason="the request must be a map")
    return value or {}
