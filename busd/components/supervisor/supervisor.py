"""The supervisor: keeps the node's components running, and says what there is of them.

It is a client of the node's own bus. What a runner is, it takes from what the broker proved of its endpoint; what it
says is believed as far as it is borne out.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import busclient
from busclient import Bus, Gap, Message
from busd.components.supervisor.admin import ComponentAdmin, Service
from busd.components.supervisor.broker import Broker
from busd.components.supervisor.charge import Charge
from busd.components.supervisor.party import ask
from busd.components.supervisor.rows import figures, row_by_hand, row_in_charge
from busd.components.supervisor.runners import Board, Runner
from busd.components.supervisor.settings import Settings
from busd.components.supervisor.statistics import ComponentStatistics
from busd.components.supervisor.watch import ANSWER_SECONDS, SILENT_SECONDS, Liveness
from busproto.errors import BusError, Code

__all__ = ["Supervisor"]

LOOK_SECONDS: Final = 1.0
"""Between two looks at every component: what it uses, and whether it is what it says."""

LATE_SECONDS: Final = 1.0
"""A look that comes so much later than it should finds everybody silent: this process was busy; they are excused."""

STATUSES: Final = "component.*.*.status"
DEPARTURES: Final = "$bus.endpoints.departed"

IDLE: Final = ("standby", "starting", "prepared")
"""States of those who wait to take over."""

_log = logging.getLogger("busd.components")


class Supervisor:
    """Starts the components that are configured, watches every runner, and answers for them.

    Args:
        url: the node's own socket.
        broker: what it may do with the bus.
        settings: reads the settings of a component by its name; raises BusError.
        names: the components to keep running.
        report: takes an event's name and its fields.
    """

    def __init__(
        self,
        url: str,
        broker: Broker,
        settings: Callable[[str], Settings],
        names: Sequence[str],
        *,
        report: Callable[..., None],
    ) -> None:
        self.url = url
        self.broker = broker
        self.read = settings
        self.report = report
        self.board = Board()
        self.charges: dict[str, Charge] = {}
        self.bus = self._bus()
        self._names = list(dict.fromkeys(names))
        self._admin = ComponentAdmin(self)
        self._liveness: dict[str, Liveness] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaf: dict[str, str] = {}
        """What it is not subscribed to at the moment, and why."""
        self._looked = 0.0
        self._showing = False
        self._running = False

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Attach, and start every component; returns when their processes run, not when they serve.

        Raises BusError: settings that are wrong, before any process runs; or there is no bus.
        """
        settings = [self.read(name) for name in self._names]
        await self.bus.open()
        self._running = True
        try:
            for pattern, take in ((STATUSES, self._hear), (DEPARTURES, self._departed)):
                begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._spawn(self._listen(pattern, take, begun))
                await begun
            self._looked = self._now()
            self._spawn(self._look_again_and_again())
            for each in settings:
                await self.take_charge(each).start()
        except BaseException:
            await self.stop()
            raise
        self.show()

    async def stop(self) -> None:
        """End every process and leave the bus. Runners elsewhere go on; they come back to the next supervisor."""
        self._running = False
        await asyncio.gather(*(charge.close() for charge in self.charges.values()))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self.bus.close()
        except BusError as error:
            _log.debug("the supervisor's connection: %s", error)  # the node is going away; nothing is unsent
        self.broker.show({})

    def _bus(self) -> Bus:
        return busclient.connect(
            self.url, component="supervisor", owner="node", purpose="keeps the node's components running"
        )

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def unheard(self) -> str:
        """Why components cannot be heard at the moment; empty if they can."""
        return next(iter(self._deaf.values()), "")

    def services(self) -> Mapping[str, Service]:
        """What answers ``$bus.admin.component.start`` and the others, by subject."""
        return {subject: self._while_running(service) for subject, service in self._admin.services().items()}

    def statistics(self) -> tuple[ComponentStatistics, ...]:
        """The figures of the components in charge."""
        return tuple(figures(charge) for charge in self.charges.values())

    def row(self, name: str) -> dict[str, Any]:
        """Component ``name`` as ``$bus.components`` shows it; those that are run by hand as well."""
        runners = self.board.of(name)
        charge = self.charges.get(name)
        serving = charge.runner if charge is not None else _serving(runners)
        others = [runner for runner in runners if runner is not serving]
        return {
            **(row_in_charge(charge) if charge is not None else row_by_hand(name, serving)),
            "standby": [runner.short() for runner in others if runner.status.state in IDLE],
            "others": [runner.short() for runner in others if runner.status.state not in IDLE],
        }

    def show(self) -> None:
        """Have the broker answer with what there is now."""
        self._showing = False
        names = sorted({*self.charges, *self.board.components()})
        self.broker.show({name: self.row(name) for name in names})

    # -- for the components in charge ---------------------------------------------------------------------------------

    def take_charge(self, settings: Settings) -> Charge:
        """Have one more component in charge; it is not started yet."""
        charge = self.charges[settings.name] = Charge(settings, self)
        return charge

    def news(self) -> None:
        """Something has changed in what ``$bus.components`` shows."""
        if not self._showing and self._running:
            self._showing = True
            asyncio.get_running_loop().call_soon(self._show)

    def _show(self) -> None:
        if self._running:
            self.show()

    # -- what is heard ------------------------------------------------------------------------------------------------

    async def _listen(self, pattern: str, take: Callable[[Message], None], begun: "asyncio.Future[None]") -> None:
        """Hand ``take`` what is published on ``pattern``. When that is impossible for a while, nobody is to pay."""
        while True:
            bus = self.bus
            try:
                async with bus.subscribe(pattern, latest=pattern == STATUSES, gaps="yield") as messages:
                    if not begun.done():
                        begun.set_result(None)
                    self._deaf.pop(pattern, None)
                    self._excuse(SILENT_SECONDS)  # the next statuses are on their way
                    async for message in messages:
                        if isinstance(message, Gap):
                            self._excuse(LOOK_SECONDS)  # some were lost
                        else:
                            take(message)
            except BusError as error:
                if not begun.done():
                    begun.set_exception(error)
                    return
                if pattern not in self._deaf:
                    self.report("components-not-heard", pattern=pattern, reason=error.text)
                self._deaf[pattern] = error.text
            if not self._running:
                return
            await asyncio.sleep(LOOK_SECONDS)
            if bus.state == "closed" and bus is self.bus:
                await self._come_back()

    async def _come_back(self) -> None:
        """Attach as someone new: the broker has ended the session for good. If that fails, it is tried again later."""
        self.bus = self._bus()
        try:
            await self.bus.open()
        except BusError as error:
            _log.debug("the supervisor cannot attach: %s", error)

    def _hear(self, message: Message) -> None:
        origin = message.origin
        if origin is None:
            return
        _, name, instance, *_ = message.subject.split(".")
        gone = self.broker.principal(origin.endpoint) is None
        if gone:
            self._left(origin.endpoint)  # the broker knows that it left before it has told us
        if (counted := self.board.last_words(message.subject, message.data, origin.endpoint)) is not None:
            if name in self.charges:
                self.charges[name].totals.hear_last(instance, counted)
                self.news()
            return
        if gone:
            return
        owner = next((charge for charge in self.charges.values() if charge.owns(instance)), None)
        if owner is not None and origin.boundary != "host":
            self.board.refused += 1  # only a process on this host can be one of ours, whatever it says
            return
        if owner is not None and owner.name != name:
            owner.mistaken(instance, name)
            return
        now = self._now()
        try:
            runner = self.board.hear(
                message.subject, message.data, origin.endpoint, origin.boundary, origin.tenant, origin.unit, now
            )
        except BusError as error:
            self.report(
                "component-status-refused", boundary=origin.boundary, unit=origin.unit, reason=error.fields["reason"]
            )
            return
        self._liveness.setdefault(runner.endpoint, Liveness(now))
        if (charge := self.charges.get(name)) is not None:
            charge.hear(runner, now)
        self.news()

    def _departed(self, message: Message) -> None:
        row = message.payload
        if message.origin is not None and message.origin.endpoint == "$bus" and isinstance(row, dict):
            self._left(str(row.get("endpoint")))

    def _left(self, endpoint: str) -> None:
        runner = self.board.leave(endpoint)
        self._liveness.pop(endpoint, None)
        if runner is not None:
            if (charge := self.charges.get(runner.component)) is not None:
                charge.left(runner)
            self.news()

    # -- looks --------------------------------------------------------------------------------------------------------

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self._look(self._now())
            except Exception:
                _log.exception("a look at the components failed")

    def _look(self, now: float) -> None:
        late = now - self._looked - LOOK_SECONDS
        self._looked = now
        if self.bus.state != "connected" or self._deaf:
            self._excuse(late + LOOK_SECONDS)
            return
        if late > LATE_SECONDS:
            self._excuse(late)
        for runner in self.board:
            self._judge(runner, now)
        for charge in self.charges.values():
            charge.look(now)
        self.show()

    def _judge(self, runner: Runner, now: float) -> None:
        offered = self.broker.offers(runner.endpoint)
        if offered is None:
            self._left(runner.endpoint)
            return
        charge = self.charges.get(runner.component)
        if charge is not None and charge.busy:
            return  # a hand-over has its own deadlines
        liveness = self._liveness[runner.endpoint]
        reason = liveness.lie(runner, offered, now)
        if reason is None:
            if liveness.ask(now):
                self._spawn(self._ask(runner, liveness))
        elif charge is not None and charge.instance == runner.instance:
            charge.cut(reason, again=True)
        else:
            if charge is not None:
                charge.cut_off += 1
            self.report(
                "component-cut-off",
                component=runner.component,
                boundary=runner.boundary,
                unit=runner.unit,
                placement=runner.placement,
                reason=reason,
            )
            self.broker.cut_off(runner.endpoint, reason)
            self._left(runner.endpoint)

    async def _ask(self, runner: Runner, liveness: Liveness) -> None:
        """Ask ``runner`` for its status; an answer in time is all that is wanted."""
        try:
            await ask(self.bus, runner, "status", ANSWER_SECONDS)
        except Exception as error:
            if isinstance(error, BusError) and error.code in (Code.DRAINING, Code.DENIED, Code.QUOTA_EXCEEDED):
                liveness.answered()  # the question was not given to the runner: that says nothing about it
                return
            # No answer stays no answer: the next look cuts it off.
            _log.debug("%s at %s does not answer: %s", runner.component, runner.endpoint, error)
        else:
            liveness.answered()

    def _excuse(self, seconds: float) -> None:
        self.board.excuse(seconds)
        for liveness in self._liveness.values():
            liveness.excuse(seconds)
        for charge in self.charges.values():
            charge.excuse(seconds)

    def _while_running(self, service: Service) -> Service:
        async def serve(fields: Mapping[str, Any]) -> dict[str, Any]:
            if not self._running:
                raise BusError(Code.COMPONENT_STATE, verb="this", state="not supervised: the node starts or stops")
            return await service(fields)

        return serve

    # -- inside -------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._running:
            _log.error("the supervisor of components failed", exc_info=error)


def _serving(runners: Sequence[Runner]) -> Runner | None:
    """Of those that were started by hand, the one to show: it is ready, or at least not standing by."""
    ready = [runner for runner in runners if runner.status.state == "ready"]
    busy = [runner for runner in runners if runner.status.state not in IDLE]
    return next(iter(ready or busy), None)
