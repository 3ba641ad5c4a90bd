"""A runner: one component on a bus, and the way it takes from standing by to serving and back.

    standby --prepare--> starting -> prepared --serve--> ready --drain--> draining -> drained --stop--> stopped
                                                           ^                 |           |
                                                           +----- resume ----+-----------+

``stop`` is possible from everywhere, and what fails goes to ``failed`` from wherever it was. A verb that cannot be
carried out where the runner is raises BusError COMPONENT_STATE and changes nothing.

A verb that has begun goes on when nobody waits for it any more: half a drain would be of no use. ``stop`` ends whatever
is under way, and ``resume`` ends a drain.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, TypeVar

from busclient import Bus, BusError, Code, NotConnected, Service
from busclient.clock import Clock
from busd.components.model import (
    Component,
    Context,
    Offers,
    compile_operations,
    configure,
    offer,
    source_of,
)
from busd.components.model.metric import snapshot
from busd.components.runner.handed import pack_state, read_state
from busd.components.runner.limits import Usage
from busd.components.runner.status import Budget, Health, State, Status, control_subject

__all__ = ["ANSWER_SECONDS", "DRAIN_SECONDS", "STOP_SECONDS", "Runner", "Verb"]

DRAIN_SECONDS: Final = 10.0
"""Within which calls in flight are to end in a hand-over, unless told otherwise."""

ANSWER_SECONDS: Final = 5.0
"""Within which calls in flight are to end when the runner is stopped; then they are cancelled."""

STOP_SECONDS: Final = 2.0
"""Within which ``Component.stop`` is to end; then it is cancelled. The node waits 8 s in all before it kills."""

CANCEL_SECONDS: Final = 0.5
"""Within which what was cancelled is to end; then it is left behind."""

REASON_LENGTH: Final = 512
"""Characters of a reason: what a component raises may be of any length, a status may not."""

Verb = Literal["prepare", "serve", "drain", "resume", "stop"]

_FROM: Final[Mapping[Verb, frozenset[State]]] = {
    "prepare": frozenset({"standby"}),
    "serve": frozenset({"prepared"}),
    "drain": frozenset({"ready", "draining"}),  # draining: again, after one that took too long
    "resume": frozenset({"draining", "drained"}),
    "stop": frozenset({"standby", "starting", "prepared", "ready", "draining", "drained"}),
}
"""Where a runner may be for each verb."""

_ENDS: Final[Mapping[Verb, frozenset[Verb]]] = {
    "prepare": frozenset(),
    "serve": frozenset(),
    "drain": frozenset(),
    "resume": frozenset({"drain"}),
    "stop": frozenset({"prepare", "serve", "drain", "resume"}),
}
"""What each verb ends if it is under way. Anything else that is under way is in the way of it."""

_log = logging.getLogger("busd.components.runner")

Result = TypeVar("Result")


class Runner:
    """One component attached to ``bus``. Whoever opened the bus closes it.

    Args:
        component: the class.
        config: its configuration: what its constructor takes.
        bus: an open connection.
        instance: 12 hex digits that tell this runner from others of the component.
        standby: start anew after `stop` instead of ending.
        clock: what bounds go by; by default the system's. The same as the bus's.
        usage: measures this process.
        own_process: as of `Context`.
    """

    def __init__(
        self,
        component: type[Component],
        config: Mapping[str, Any],
        bus: Bus,
        instance: str,
        *,
        standby: bool = False,
        clock: Clock | None = None,
        usage: Usage | None = None,
        own_process: bool = False,
    ) -> None:
        self.manifest = component.manifest
        self.instance = instance
        self.standby = standby
        """Whether it was started to wait until it is told to serve."""
        self.state: State = "standby"
        self.reason = ""
        """Why it is in this state, where that is worth a word."""
        self.failure: BusError | None = None
        """What ended it, once it has failed."""
        self.ended = asyncio.Event()
        """It has stopped for good, or failed."""
        self.changed: Callable[[], object] = lambda: None
        """Called after each change of `state`."""
        self.usage = usage or Usage()
        self._kind = component
        self._config = config
        self._bus = bus
        self.context = Context(component, bus, clock=clock, own_process=own_process)
        """What each of its components gets: figures of operations go on from one to the next."""
        self._since = self.context.time()
        self._component: Component | None = None
        self._offers: Offers | None = None
        self._leaving: dict[asyncio.Task[None], Offers] = {}
        self._background: asyncio.Task[None] | None = None
        self._run_ends = False
        self._watches: set[asyncio.Task[None]] = set()
        self._verb: Verb | None = None
        self._under_way: asyncio.Task[Any] | None = None
        self._for_good = not standby
        self._metrics_failed = False

    # -- the verbs ----------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Make the component and have it get ready.

        Raises BusError: COMPONENT_STATE; or why it cannot, and then the runner has failed.
        """
        await self._do("prepare", self._prepare)

    async def serve(self, state: bytes | None = None) -> None:
        """Have the component take over ``state``, if there is one, offer its operations and begin its ``run``.

        Raises BusError: COMPONENT_STATE; REQUEST_INVALID for a state that is none of this component, which is still
        prepared then; or why it cannot, and then the runner has failed.
        """
        await self._do("serve", lambda: self._serve(state))

    async def drain(self, seconds: float = DRAIN_SECONDS) -> bytes | None:
        """Take the offers back, have the calls that are here answered, end ``run``; what the component hands over.

        Raises BusError: COMPONENT_STATE; HANDLER_FAILED when that takes more than ``seconds`` or the component hands
        over nothing useful, and COMPONENT_STATE_TOO_LARGE. After these the runner is still draining: calls in flight
        go on, and `resume`, `stop` and another drain are possible.
        """
        return await self._do("drain", lambda: self._drain(seconds))

    async def resume(self) -> None:
        """Serve again, as if there had been no drain.

        Raises BusError: COMPONENT_STATE; or why it cannot, and then the runner has failed.
        """
        await self._do("resume", self._resume)

    async def stop(self) -> None:
        """End whatever is under way, and the component; calls in flight have 5 s. Then end, or stand by anew.

        Raises BusError COMPONENT_STATE once it has ended.
        """
        await self._do("stop", self._stop)

    async def end(self) -> None:
        """Stop for good, from wherever it is, and return when that is so. Raises nothing."""
        self._for_good = True
        if not self.ended.is_set():
            with suppress(BusError):  # it has failed meanwhile, or a stop is under way
                await self.stop()
        await self.ended.wait()
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.wait([self._under_way])
        await self._end_component()  # what failed is still there

    def fail(self, step: str, error: BaseException) -> BusError:
        """The component has failed: the runner ends. Returns what to tell whoever waits for ``step``."""
        failure = error if isinstance(error, BusError) else _failed(f"{step}: {_text(error)}")
        if not isinstance(error, BusError):
            _log.error("%s of component %s failed", step, self.manifest.component, exc_info=error)
        if not self.ended.is_set():
            self.failure = failure
            self._become("failed", f"{step}: {_text(error)}")
            self.ended.set()
        return failure

    # -- one at a time ------------------------------------------------------------------------------------------------

    async def _do(self, verb: Verb, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        before = self._under_way
        if self.state not in _FROM[verb] or (self._verb is not None and self._verb not in _ENDS[verb]):
            where = self.state if self._verb is None else f"{self.state} ({self._verb} is under way)"
            raise BusError(Code.COMPONENT_STATE, verb=verb, state=where)
        task = asyncio.create_task(self._after(before, work))
        self._verb, self._under_way = verb, task
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # whoever asked has gone; the work goes on
            other = self._doing()
            if other is None and not self.ended.is_set():
                raise self.fail(verb, RuntimeError("it was cancelled, and not by the runner")) from None
            where = self.state if other is None else f"{self.state} ({other} has ended it)"
            raise BusError(Code.COMPONENT_STATE, verb=verb, state=where) from None

    async def _after(
        self, before: "asyncio.Task[Any] | None", work: Callable[[], Coroutine[Any, Any, Result]]
    ) -> Result:
        if before is not None:
            before.cancel()
            await asyncio.wait([before])
        return await work()

    def _doing(self) -> Verb | None:
        return self._verb

    def _done(self, task: "asyncio.Task[Any]") -> None:
        if task is self._under_way:
            self._verb = self._under_way = None
        if not task.cancelled():
            task.exception()  # whoever waited for it may be gone, and what went wrong is in the state

    def _become(self, state: State, reason: str = "") -> None:
        if self.failure is not None and state != "failed":
            return
        self.state = state
        self.reason = reason[:REASON_LENGTH]
        self.changed()

    # -- what they do -------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        self._become("starting")
        try:
            component = configure(self._kind, self._config)
            component.context = self.context
            await component.start()
        except Exception as error:
            raise self.fail("start", error) from error
        self._component = component
        self._become("prepared")

    async def _serve(self, data: bytes | None) -> None:
        component = self._started()
        if data is not None:
            subject = control_subject(self.manifest.component, self.instance)
            state = read_state(self.manifest, data, subject)
            try:
                await component.take_over(state)
            except Exception as error:
                raise self.fail("take_over", error) from error
        await self._begin(component)

    async def _drain(self, seconds: float) -> bytes | None:
        component = self._started()
        self._become("draining")
        missing = ""

        async def empty() -> bytes | None:
            nonlocal missing
            self._tell_draining(component)
            await self._leave()
            missing = "run() did not end"
            await self._end_background()
            if self.failure is not None:
                raise self.failure
            if self.manifest.state is None:
                return None
            missing = "hand_over() did not end"
            return pack_state(self.manifest, await self._handed_over(component))

        data = await self._within(seconds, empty(), lambda: missing or self._in_flight())
        self._become("drained")
        return data

    async def _resume(self) -> None:
        for offers in list(self._leaving.values()):
            for service in offers.services:
                with suppress(BusError):
                    await service.wait()  # the broker has the offer no longer: it can be made again
        await self._end_background()
        await self._begin(self._started())

    async def _stop(self) -> None:
        if self.state == "ready":
            self._become("draining")
        await self._end_component()
        self._become("stopped")
        if self._for_good:
            self.ended.set()
        else:
            self._become("standby")

    # -- what these are made of ----------------------------------------------------------------------------------------

    def _started(self) -> Component:
        assert self._component is not None, self.state
        return self._component

    async def _begin(self, component: Component) -> None:
        """Offer every operation, then run."""
        await self._offer(component)
        self._run_ends = False
        self._background = asyncio.create_task(component.run())
        self._background.add_done_callback(self._ran)
        self._become("ready")

    async def _offer(self, component: Component) -> None:
        while True:
            offers = offer(self._bus, component, compile_operations(self._kind).values())
            try:
                await offers.open()
            except BusError as error:
                if not isinstance(error, NotConnected) or self._bus.state == "closed":
                    raise self.fail("serving", error) from error
                with suppress(BusError):
                    await self._bus.connected()
            else:
                break
        self._offers = offers
        for service in offers.services:
            watch = asyncio.create_task(self._watch(service))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)

    async def _watch(self, service: Service) -> None:
        try:
            await service.wait()
        except BusError as error:
            self.fail(f"serving {service.pattern}", error)

    def _ran(self, task: "asyncio.Task[None]") -> None:
        """``run`` has ended. Without an exception that is its own affair."""
        if task.cancelled():
            if not self._run_ends:
                self.fail("run", RuntimeError("it was cancelled, and not by the runner"))
        elif (error := task.exception()) is not None:
            self.fail("run", error)

    def _tell_draining(self, component: Component) -> None:
        try:
            component.draining()
        except Exception:
            _log.exception("leave of component %s failed", self.manifest.component)

    async def _leave(self) -> None:
        """Take the offers back; return when the calls that are here have been answered."""
        offers, self._offers = self._offers, None
        if offers is not None:
            task = asyncio.create_task(offers.close())
            self._leaving[task] = offers
            task.add_done_callback(self._left)
        while self._leaving:
            await asyncio.wait(self._leaving)

    def _left(self, task: "asyncio.Task[None]") -> None:
        self._leaving.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("an offer of %s was not taken back in order", self.manifest.component, exc_info=error)

    async def _end_background(self) -> None:
        if self._background is not None:
            if not self._run_ends:
                self._run_ends = True
                self._background.cancel()
            await asyncio.wait([self._background])
            self._background = None

    async def _end_component(self) -> None:
        """No offers, no ``run``, no component. Raises nothing."""
        component, self._component = self._component, None
        if component is not None:
            self._tell_draining(component)
        if not await self._try(ANSWER_SECONDS, self._leave(), self._in_flight):
            for offers in list(self._leaving.values()):
                await self._try(CANCEL_SECONDS, offers.close(cancel=True), self._in_flight)
        await self._try(CANCEL_SECONDS, self._end_background(), lambda: "run() did not end")
        if component is not None:
            await self._try(STOP_SECONDS, component.stop(), lambda: "stop() did not end")

    async def _try(self, seconds: float, work: Coroutine[Any, Any, object], what: Callable[[], str]) -> bool:
        try:
            await self._within(seconds, work, what)
        except Exception as error:
            unexpected = None if isinstance(error, BusError) else error
            _log.warning("stopping component %s: %s", self.manifest.component, _text(error), exc_info=unexpected)
            return False
        return True

    async def _within(self, seconds: float, work: Coroutine[Any, Any, Result], what: Callable[[], str]) -> Result:
        """What ``work`` returns. Raises BusError HANDLER_FAILED, with ``what`` has not happened, if it takes longer."""

        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work), asyncio.create_task(self.context.sleep(seconds))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                raise _failed(f"{what()} within {seconds:g} s")
            result: Result = tasks[0].result()
            return result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)

    def _in_flight(self) -> str:
        """Which calls have not been answered."""
        counts: Counter[str] = Counter()
        for offers in self._leaving.values():
            for service in offers.services:
                figures = service.statistics()
                counts[service.pattern] += figures.queued_calls + figures.running_calls
        calls = ", ".join(f"{count} of {subject}" for subject, count in counts.items() if count)
        return f"{counts.total()} calls were not answered ({calls})"

    async def _handed_over(self, component: Component) -> object:
        try:
            return await component.hand_over()
        except BusError:
            raise
        except Exception as error:
            _log.exception("hand_over of component %s failed", self.manifest.component)
            raise _failed(f"hand_over: {_text(error)}") from error

    # -- what is said of it -------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Where it is, how it is, and what it has done."""
        manifest = self.manifest
        budget = manifest.budget
        return Status(
            instance=self.instance,
            component=manifest.component,
            version=manifest.version,
            owner=manifest.owner,
            purpose=manifest.purpose,
            source=source_of(self._kind),
            state=self.state,
            reason=self.reason,
            stateful=manifest.state is not None,
            standby=self.standby,
            health=self._health(),
            pid=os.getpid(),
            seconds=round(self.context.time() - self._since, 3),
            memory_bytes=self.usage.memory_bytes,
            cpu_percent=self.usage.cpu_percent,
            budget=Budget(memory_bytes=budget.memory_bytes, cpu_percent=budget.cpu_percent),
            placements=list(manifest.placements),
            serves=list(manifest.serves),
            publishes=list(manifest.publishes),
            operations=self._operations(),
            metrics=self._metrics(),
        )

    def _health(self) -> Health:
        if self.failure is not None:
            return Health(ok=False, detail=self.reason)
        if self._component is None:
            return Health(ok=True)
        try:
            health = self._component.health()
            return Health(ok=health.ok, detail=health.detail[:REASON_LENGTH])
        except Exception as error:
            return Health(ok=False, detail=f"health(): {_text(error)}"[:REASON_LENGTH])

    def _metrics(self) -> list[dict[str, Any]]:
        component = self._component
        if component is None or not component.metrics:
            return []
        try:
            return snapshot(component.metrics, component.figures())
        except Exception as error:
            if not self._metrics_failed:  # it will fail again in a second
                self._metrics_failed = True
                _log.warning("the metrics of component %s cannot be read: %s", self.manifest.component, _text(error))
            return []

    def _operations(self) -> dict[str, dict[str, Any]]:
        return {name: figures.snapshot() for name, figures in self.context.statistics.items()}


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, BusError) else f"{type(error).__name__}: {error}".removesuffix(": ")


def _failed(reason: str) -> BusError:
    return BusError(Code.HANDLER_FAILED, reason=reason[:REASON_LENGTH])
