"""What operators do with endpoints: cut one off, and keep it out for a while, under ``$bus.admin.endpoint.``."""

import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from busd.core.blocks import LONGEST_SECONDS, Barred, Block
from busd.core.bus import Bus
from busd.core.introspection import Request
from busd.core.principal import Principal
from busd.edge.pump import Pump, clock
from busproto.errors import BusError, Code

SERVICE: Final = "$bus.admin.endpoint."
"""What the subjects of these services begin with."""

REASON_BYTES: Final = 256
"""The longest reason: a sentence, which is told to who is cut off, and kept with the departure."""

UNSAID: Final = "no reason was given"


class EndpointAdministration:
    """Cuts endpoints off. Each request is written into the audit log by whoever hands it in (`busd.edge.inside`)."""

    def __init__(self, bus: Bus, pump: Pump) -> None:
        self._bus = bus
        self._pump = pump

    def services(self) -> dict[str, Callable[[Request, Principal], Awaitable[dict[str, Any]]]]:
        """What answers each subject."""
        return {
            SERVICE + "disconnect": self.disconnect,
            SERVICE + "unblock": self.unblock,
            SERVICE + "blocks": self.blocks,
        }

    async def disconnect(self, request: Request, caller: Principal) -> dict[str, Any]:
        """End the session of ``endpoint``, which is told ``reason``; returns who was cut off.

        With ``block_seconds`` the process that it belongs to is refused for so long, or on a boundary where nothing
        tells processes apart its whole unit, and whatever else of that is attached ends with it.

        Raises:
            BusError: 2008 a field is not acceptable, nobody is called so, it is busd's own, or it cannot be blocked;
                4001 too many are blocked.
        """
        request.only("endpoint", "reason", "block_seconds")
        name = request.text("endpoint")
        seconds = request.optional_number("block_seconds", 1, LONGEST_SECONDS)
        reason = request.optional_text("reason") or UNSAID
        if len(reason.encode()) > REASON_BYTES:
            raise request.error(f"reason must have at most {REASON_BYTES} bytes")
        session = self._bus.census.find(name)
        if session is None:
            raise request.error(f"no endpoint is called {name[:80]!a}")
        if session.principal.boundary == "host" and session.principal.pid == os.getpid():
            raise request.error(
                f"{name} belongs to busd itself, and its components would be left to themselves; bus component stop "
                "ends one of them"
            )
        now = clock()
        names, block = [name], None
        if seconds is not None:
            barred = self._barred(request, session.principal, caller)
            block = Block(barred, name, session.claims.get("component"), reason, _who(caller), now + seconds)
            self._bus.blocks.add(block, now)
            names += [each.name for each in self._bus.census if each.name != name and _is(each.principal, barred)]
        error = BusError(Code.DISCONNECTED, reason=reason)
        ended = [each for each in names if self._bus.cut_off(each, error, now)]
        self._pump.wake()
        return {"endpoint": name, "ended": ended, "block": None if block is None else block.describe(now)}

    async def unblock(self, request: Request, caller: Principal) -> dict[str, Any]:
        """Let in again what was blocked when ``endpoint`` was cut off; returns the block that stood.

        Raises:
            BusError: 2008 there is no such block.
        """
        request.only("endpoint")
        name = request.text("endpoint")
        now = clock()
        block = self._bus.blocks.lift(name, now)
        if block is None:
            raise request.error(f"nothing is blocked under the name {name[:80]!a}")
        return block.describe(now)

    async def blocks(self, request: Request, caller: Principal) -> dict[str, Any]:
        """Everything that is kept out now, and for how long."""
        request.only()
        now = clock()
        return {"blocks": [block.describe(now) for block in self._bus.blocks.list(now)]}

    def _barred(self, request: Request, principal: Principal, caller: Principal) -> Barred:
        """What to keep out with ``principal``. Raises BusError 2008 where that would hit the wrong one, or nobody."""
        barred = Barred.of(principal)
        if barred is None:
            raise request.error(
                "block_seconds: the kernel does not say which process it is (it has ended, or is in another pid "
                "namespace), so it can be cut off but not kept out; a rule of the policy can"
            )
        if barred == Barred.of(caller):
            raise request.error("block_seconds: that is who asks")
        return barred


def _is(principal: Principal, barred: Barred) -> bool:
    return principal.unit == barred.unit and Barred.of(principal) == barred


def _who(caller: Principal) -> str:
    return f"{caller.boundary} {caller.unit}" + ("" if caller.uid is None else f" uid {caller.uid} pid {caller.pid}")
