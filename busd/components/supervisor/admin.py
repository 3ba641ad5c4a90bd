"""What operators do with components: ``$bus.admin.component.start``, ``.stop``, ``.replace``, ``.move``, ..."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final, Protocol

import msgspec

from busclient import Bus
from busd.components.supervisor.charge import Charge
from busd.components.supervisor.handover import DRAIN_SECONDS, Lost, Taken
from busd.components.supervisor.logs import RING_LINES
from busd.components.supervisor.party import ask
from busd.components.supervisor.reading import read_request
from busd.components.supervisor.runners import Board, Runner
from busd.components.supervisor.settings import Settings, nearest, with_source
from busd.components.supervisor.watch import ANSWER_SECONDS
from busproto.errors import BusError, Code
from busproto.subjects import check_name

__all__ = ["ComponentAdmin", "Service"]

START_WAIT_SECONDS: Final = 30.0
"""``start`` answers when the component serves or has failed to; after this time, with what there is."""

LONGEST_DRAIN: Final = 600.0
"""Seconds: calls on the component wait as long as that, and whoever asked for the hand-over."""

LOG_LINES: Final = 100

PREFIX: Final = "$bus.admin.component."

Service = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Answers a request. Raises BusError for what cannot be done."""


class _Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    component: str


class _Replace(_Named, frozen=True, forbid_unknown_fields=True):
    source: str | None = None
    seconds: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_DRAIN)] = DRAIN_SECONDS


class _Move(_Named, frozen=True, forbid_unknown_fields=True):
    to: str
    seconds: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_DRAIN)] = DRAIN_SECONDS


class _Logs(_Named, frozen=True, forbid_unknown_fields=True):
    after: Annotated[int, msgspec.Meta(ge=0)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=RING_LINES)] = LOG_LINES


class Supervised(Protocol):
    """What the services need of the supervisor."""

    bus: Bus
    board: Board
    charges: dict[str, Charge]

    def read(self, name: str) -> Settings:
        """The settings of ``name`` as they are now. Raises BusError."""
        ...

    def take_charge(self, settings: Settings) -> Charge:
        """Have one more component in charge."""
        ...

    def row(self, name: str) -> dict[str, Any]:
        """Component ``name`` as ``$bus.components`` shows it."""
        ...


class ComponentAdmin:
    """The services. Each takes a map with ``component``; policy has decided by then whether the caller may."""

    def __init__(self, supervisor: Supervised) -> None:
        self._supervisor = supervisor

    def services(self) -> dict[str, Service]:
        """What answers each subject."""
        verbs = (self.start, self.stop, self.replace, self.move, self.health, self.logs)
        return {PREFIX + verb.__name__: verb for verb in verbs}

    async def start(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Start ``component`` anew, with its settings as they are now. Returns its row when it serves or has failed.

        Raises BusError 2008; 8001, 7002 for what has no settings; 8003.
        """
        name = self._read("start", fields, _Named).component
        charge = self._supervisor.charges.get(name)
        if charge is None and self._supervisor.board.of(name):
            raise self._by_hand("start")
        settings = self._supervisor.read(name)
        if charge is None:
            charge = self._supervisor.take_charge(settings)
        await charge.start(settings)
        await charge.come_up(START_WAIT_SECONDS)
        return self._supervisor.row(name)

    async def stop(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Stop ``component`` until it is started again. Returns its row. Raises BusError 2008, 8001, 8003."""
        name = self._read("stop", fields, _Named).component
        await self._charge("stop", name).stop()
        return self._supervisor.row(name)

    async def replace(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Have a new process of ``component`` take over, made as its settings say now, or from ``source``.

        ``seconds`` is what the old one gets to answer what it holds. Returns how it went. Raises BusError 2008, 8001,
        8003, 8006, 7002, and 8005, which says who serves.
        """
        request = self._read("replace", fields, _Replace)
        charge = self._charge("replace", request.component)
        settings = self._supervisor.read(request.component)
        if request.source is not None:
            settings = with_source(settings, request.source)
        return self._receipt(charge, charge.placement, await charge.replace(settings, request.seconds))

    async def move(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Have a runner that stands by at ``to`` take ``component`` over: ``host``, ``soc`` or ``guest:UNIT``.

        On the host one is started if there is none. Returns how it went. Raises BusError 2008, 8001, 8003; 3004 for a
        place where it may not be; 8002 when none stands by there; 8005.
        """
        request = self._read("move", fields, _Move)
        charge = self._charge("move", request.component)
        place = request.to
        boundary, _, unit = place.partition(":")
        if place not in ("host", "soc") and (boundary != "guest" or check_name(unit) is not None):
            raise self._error("move", f"to: {place[:80]!a} is not host, soc or guest:UNIT")
        charge.check_serving("move")
        origin = charge.placement
        if origin == place:
            raise BusError(Code.COMPONENT_STATE, verb="move", state=f"at {place} already")
        runner = charge.runner
        if runner is not None and boundary not in runner.status.placements:
            may = ", ".join(runner.status.placements) or "nowhere else"
            raise self._denied(charge, place, f"its manifest says where it may be: {may}")
        standing = [each for each in self._supervisor.board.of(charge.name) if each.status.state == "standby"]
        there: Runner | None = next((each for each in standing if each.placement == place), None)
        if there is None and place != "host":
            if boundary == "guest":
                await self._check_unit(charge, place, unit)
            raise BusError(
                Code.COMPONENT_NOT_THERE, component=charge.name, source=charge.settings.source, placement=place
            )
        return self._receipt(charge, origin, await charge.move(there, request.seconds))

    async def health(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """How ``component`` is, asked now: state, reason and health. Raises BusError 2008, 8001, 8003."""
        charge = self._charge("health", self._read("health", fields, _Named).component)
        runner = charge.runner
        state, reason = charge.state
        health: Any = {"ok": False, "detail": reason or f"it is {state}"}
        if runner is not None:
            try:
                status = await ask(self._supervisor.bus, runner, "status", ANSWER_SECONDS)
            except (Lost, TimeoutError, BusError) as error:
                health["detail"] = f"it does not answer: {error}"
            else:
                state, reason, health = str(status.get("state")), str(status.get("reason")), status.get("health")
        return {"component": charge.name, "state": state, "reason": reason, "health": health}

    async def logs(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What ``component`` wrote: at most ``limit`` lines behind number ``after``, or the last ones.

        Returns ``lines``, ``next`` (to be given as ``after``) and ``lost``. Raises BusError 2008, 8001, 8003.
        """
        request = self._read("logs", fields, _Logs)
        return self._charge("logs", request.component).output.ring.read(request.after, request.limit)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _read(self, verb: str, fields: Mapping[str, Any], wanted: type[Any]) -> Any:
        return read_request(PREFIX + verb, fields, wanted)

    def _charge(self, verb: str, name: str) -> Charge:
        charge = self._supervisor.charges.get(name)
        if charge is not None:
            return charge
        board = self._supervisor.board
        if board.of(name):
            raise self._by_hand(verb)
        names = {*self._supervisor.charges, *board.components()}
        raise BusError(Code.COMPONENT_UNKNOWN, component=name[:80], nearest=nearest(name[:80], names))

    def _by_hand(self, verb: str) -> BusError:
        return BusError(Code.COMPONENT_STATE, verb=verb, state="run by hand: whoever started it ends it")

    def _error(self, verb: str, reason: str) -> BusError:
        return BusError(Code.REQUEST_INVALID, subject=PREFIX + verb, reason=reason)

    def _denied(self, charge: Charge, place: str, reason: str) -> BusError:
        return BusError(Code.DENIED, action=f"moving to {place}", subject=charge.name, reason=reason)

    async def _check_unit(self, charge: Charge, place: str, unit: str) -> None:
        """Raises BusError 3004 when ``unit`` is not the node's own: a component serves in the space of where it is."""
        try:
            guests = (await self._supervisor.bus.call("$bus.admin.guest.list", timeout=2.0)).payload["guests"]
            tenant = next((guest["tenant"] for guest in guests if guest["name"] == unit), None)
        except (BusError, KeyError, TypeError):
            return  # then it is only not there
        if tenant is None:
            raise self._error("move", f"to: there is no guest '{unit}'; bus guest list shows those that there are")
        if tenant != "node":
            raise self._denied(charge, place, f"the unit is of tenant {tenant}, and the component is the node's")

    def _receipt(self, charge: Charge, origin: str, taken: Taken) -> dict[str, Any]:
        return {
            "component": charge.name,
            "from": origin,
            "to": charge.placement,
            "instance": charge.instance,
            "source": charge.settings.source,
            **asdict(taken),
        }
