"""One component in the supervisor's charge: started, started again, handed over, cut off; and what is known of it."""

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from typing import Any, Final, Literal, TypeVar

from busd.components.runner.status import Status
from busd.components.supervisor.backoff import Restarts
from busd.components.supervisor.broker import Surroundings
from busd.components.supervisor.handover import DRAIN_SECONDS, Taken, hand_over
from busd.components.supervisor.output import Output
from busd.components.supervisor.ownmetrics import OwnMetrics
from busd.components.supervisor.party import Instance, ending
from busd.components.supervisor.runners import Runner
from busd.components.supervisor.settings import Settings
from busd.components.supervisor.statistics import Totals
from busd.components.supervisor.watch import READY_SECONDS, SILENT_SECONDS, START_SECONDS, Budget, Usage
from busd.components.supervisor.worker import Launch, Worker, launch
from busproto.errors import BusError, Code

__all__ = ["Charge", "Condition"]

MISUSE: Final = 2
"""Exit status of a runner that another start would meet again: options, configuration, no such component."""

CEILING: Final = 2
"""Times its budget: what the system lets a process allocate. Between two looks it must not take the whole machine."""

LEAST_CEILING: Final = 64 << 20
"""Python and the SDK alone need a third of this."""

UNDO_PATIENCE: Final = 2.0
"""Seconds to end by itself for a new instance that has not taken over: calls may be waiting for the old one."""

Condition = Literal["starting", "running", "restarting", "stopped", "failed"]
"""What the supervisor has in mind with it. While it is running, its state is the runner's own."""

_log = logging.getLogger("busd.components")

Result = TypeVar("Result")


class Charge:
    """Keeps one component running. Its verbs raise BusError 8003 while another one is under way."""

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        self.name = settings.name
        self.settings = settings
        self.condition: Condition = "stopped"
        self.reason = ""
        self.instance = ""
        """The one that serves, or is being started to."""
        self.cut_off = 0
        """Times that it was."""
        self.busy = ""
        """The verb that is under way."""
        self.output = Output(settings.name)
        self.totals = Totals()
        self.metrics = OwnMetrics()
        self.usage = Usage()
        self._around = around
        self._restarts = Restarts(settings.max_restarts)
        self._workers: dict[str, Worker] = {}
        """Processes of ours, by instance: the one that serves, one that is to take over, one that is ending."""
        self._last: Status | None = None
        self._heard = 0.0
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()
        self._closing = False

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def runner(self) -> Runner | None:
        """The runner that serves, if it is attached."""
        return self._around.board.instance(self.name, self.instance) if self.instance else None

    @property
    def worker(self) -> Worker | None:
        """Its process, if that is ours."""
        return self._workers.get(self.instance)

    @property
    def placement(self) -> str:
        """Where it is; empty while nothing of it runs."""
        runner = self.runner
        if runner is not None:
            return runner.placement
        return "host" if self.worker is not None else ""

    @property
    def state(self) -> tuple[str, str]:
        """Its state and why it is in that: the runner's own as long as it runs."""
        runner = self.runner
        if self.condition == "running" and runner is not None:
            return runner.status.state, runner.status.reason
        return ("starting" if self.condition == "running" else self.condition), self.reason

    @property
    def restarts(self) -> int:
        """Times that it was started again by itself."""
        return self._restarts.count

    @property
    def budget(self) -> Budget | None:
        """What it may use: as its settings say, or else its manifest. None while nothing is known of it."""
        said = self._last.budget if self._last is not None else None
        memory, cpu = self.settings.memory_bytes, self.settings.cpu_percent
        if said is None and (memory is None or cpu is None):
            return None
        return Budget(
            memory if memory is not None else said.memory_bytes if said is not None else 0,
            cpu if cpu is not None else said.cpu_percent if said is not None else 0.0,
        )

    @property
    def last(self) -> Status | None:
        """What the one that serves, or did, said last."""
        return self._last

    # -- verbs --------------------------------------------------------------------------------------------------------

    async def start(self, settings: Settings | None = None) -> None:
        """Start it anew, as ``settings`` say; if it runs already, nothing happens. Returns when its process runs."""
        if self.condition in ("starting", "running") and not self.busy:
            return

        async def work() -> None:
            self._cancel_timer()
            if settings is not None:
                self.settings = settings
            self._restarts.limit(self.settings.max_restarts)
            self._restarts.forget()
            await self._start()

        await self._alone("start", work())

    async def stop(self) -> None:
        """Stop it until it is started again; if it waits for a restart, it waits no more."""

        async def work() -> None:
            self._cancel_timer()
            instance = self._instance(self.instance)
            self._rest("stopped", "")
            await instance.stop()
            self.output.note("stopped")

        await self._alone("stop", work())

    async def replace(self, settings: Settings, seconds: float = DRAIN_SECONDS) -> Taken:
        """Have a new process take over, made as ``settings`` say. Raises BusError 8003, 8005."""
        self.check_serving("replace")
        if self.placement != "host":
            raise BusError(Code.COMPONENT_STATE, verb="replace", state=f"at {self.placement}: move it to host first")
        before = self.settings

        async def work() -> Taken:
            self.settings = settings
            try:
                taken = await self._hand_over(await self._standby(), seconds)
            except BaseException:
                self.settings = before
                raise
            self._restarts.limit(settings.max_restarts)
            self._restarts.forget()
            return taken

        return await self._alone("replace", work())

    async def move(self, to: Runner | None, seconds: float = DRAIN_SECONDS) -> Taken:
        """Have runner ``to``, which stands by, take over; if that is None, a new process here. Raises as `replace`."""
        self.check_serving("move")

        async def work() -> Taken:
            new = await self._standby() if to is None else self._instance(to.instance, UNDO_PATIENCE)
            return await self._hand_over(new, seconds)

        return await self._alone("move", work())

    async def close(self) -> None:
        """End every process of it, and whatever is under way, for good."""
        self._closing = True
        self._cancel_timer()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._rest("stopped", "")
        await asyncio.gather(*(worker.stop() for worker in list(self._workers.values())))

    # -- what happens to it -------------------------------------------------------------------------------------------

    def hear(self, runner: Runner, now: float) -> None:
        """``runner``, which is of this component, has said how it is."""
        status = runner.status
        if runner.instance == self.instance or runner.instance in self._workers:
            self.totals.hear(runner.instance, runner.operations)
            self.metrics.hear(runner.instance, *runner.metrics)
        self._wake()
        if runner.instance == self.instance:
            self._last, self._heard = status, now
            if self.condition == "starting" and status.state == "ready":
                self.condition, self.reason = "running", ""
        elif status.state == "ready" and status.standby and not self.busy and self.instance:
            # It was moved to once, and comes back while another serves: there is one that serves.
            self._spawn(self._send_home(runner))

    def left(self, runner: Runner) -> None:
        """``runner``, which is of this component, is not attached any more."""
        self._wake()
        self.totals.leave(runner.instance)
        self.metrics.leave(runner.instance)
        if runner.instance == self.instance and self.worker is None and not self.busy:
            self._around.report("component-lost", component=self.name, placement=runner.placement)
            self._down(f"it was lost at {runner.placement}", 0.0)

    def look(self, now: float) -> None:
        """Measure it, and cut it off if it is over its budget or does not come to serve."""
        runner, worker = self.runner, self.worker
        if worker is not None:
            if (used := worker.measure()) is not None:
                self.usage.look(*used, now)
        elif runner is not None:
            self.usage.said(runner.status.memory_bytes, runner.status.cpu_percent)
        if self.busy or not self.instance:
            return
        budget = self.budget
        if budget is not None and (worker is not None or runner is not None) and (why := self.usage.over(budget)):
            self.cut(why, again=False)
        elif worker is not None and (why := self._not_serving(worker, runner, now)):
            self.cut(why, again=True)

    def _not_serving(self, worker: Worker, runner: Runner | None, now: float) -> str | None:
        if not worker.alive:
            return None  # what comes of that is under way
        if self._heard == 0.0:
            late = worker.seconds >= START_SECONDS
            return f"no status came from it within {START_SECONDS:g} s of its start" if late else None
        if runner is None and (silent := now - self._heard) >= SILENT_SECONDS:
            return f"no status came from it for {silent:.1f} s"
        late = self.condition == "starting" and worker.seconds >= READY_SECONDS
        return f"it was not ready within {READY_SECONDS:g} s of its start" if late else None

    def mistaken(self, instance: str, component: str) -> None:
        """The process that was started as ``instance`` says that it is another ``component``."""
        why = f"{self.settings.source} is component '{component}', and was started as '{self.name}'"
        if instance == self.instance:
            self.cut(why, again=False)
        else:
            worker = self._workers[instance]
            worker.why = why
            worker.kill()

    def owns(self, instance: str) -> bool:
        """Whether ``instance`` is a process of ours."""
        return instance in self._workers

    async def come_up(self, seconds: float) -> None:
        """Wait until it serves or has failed to, at most ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                while self.condition == "starting":
                    await self._changed.wait()
        except TimeoutError:
            pass

    def excuse(self, seconds: float) -> None:
        """Nobody could be heard for ``seconds``."""
        if self._heard:
            self._heard += seconds

    def cut(self, reason: str, *, again: bool) -> None:
        """Cut off what serves because of ``reason``, and start it ``again`` or leave it stopped."""
        if self.worker is not None and self.worker.why:
            return  # it is on its way out
        self.cut_off += 1
        runner, worker, placement = self.runner, self.worker, self.placement
        pid = worker.pid if worker is not None else None
        self._around.report("component-cut-off", component=self.name, pid=pid, placement=placement, reason=reason)
        self.output.note(f"cut off: {reason}")
        if runner is not None:
            self._around.broker.cut_off(runner.endpoint, reason)
        ran = worker.seconds if worker is not None else 0.0
        if not again:
            self._rest("stopped", reason)
        elif worker is None:
            self._down(reason, ran)
        if worker is not None:
            worker.why = reason
            worker.kill()
        self._around.news()

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Start a process that is to serve."""
        instance = secrets.token_hex(6)
        self.instance, self.condition, self.reason = instance, "starting", ""
        self._heard = 0.0
        self.usage = Usage()
        try:
            await self._launch(instance)
        except OSError as error:
            if self.instance == instance:
                self._down(f"no process can be started: {error.strerror or error}", 0.0)
        self._around.news()

    async def _standby(self) -> Instance:
        """Start a process that stands by."""
        instance = secrets.token_hex(6)
        try:
            await self._launch(instance, "--standby")
        except OSError as error:
            raise BusError(
                Code.HANDOVER_FAILED,
                component=self.name,
                step="prepare",
                reason=f"no process can be started: {error.strerror or error}",
                consequence="the old one serves",
            ) from None
        return self._instance(instance, UNDO_PATIENCE)

    async def _launch(self, instance: str, *flags: str) -> None:
        settings, budget = self.settings, self.budget
        arguments = [settings.source, "--bus", self._around.url, "--instance", instance, "--until-eof", *flags]
        if settings.file is not None:
            arguments += ["--config", str(settings.file)]
        if budget is not None:
            arguments += ["--memory-bytes", str(max(LEAST_CEILING, CEILING * budget.memory_bytes))]
        pid = 0

        def lines(stream: str, lines: list[bytes]) -> None:
            self.output.add(stream, pid, lines)

        what = Launch(component=self.name, arguments=arguments, path=settings.path)
        worker = await launch(what, lines)
        pid = worker.pid
        self._workers[instance] = worker
        worker.ended.add_done_callback(lambda _: self._process_ended(instance, worker))
        if self._closing or (instance != self.instance and not self.busy):
            worker.kill()  # it was stopped before it ran

    def _process_ended(self, instance: str, worker: Worker) -> None:
        self.totals.leave(instance)
        self.metrics.leave(instance)
        if (runner := self._around.board.instance(self.name, instance)) is not None:
            self._around.board.leave(runner.endpoint)
        self._wake()
        self.output.note(f"process {worker.pid} ended with {ending(worker.ended.result())}")
        if not self.busy:
            self._gone(instance, worker)
        self._around.news()

    def _gone(self, instance: str, worker: Worker) -> None:
        """The process of ``instance`` has ended, and nobody is at work on it."""
        self._workers.pop(instance, None)
        if instance != self.instance:
            return
        last = self._last if self._last is not None and self._last.instance == instance else None
        why = worker.why or (last.reason if last is not None and last.state == "failed" else "")
        status = worker.ended.result()
        self._down(
            why or f"its process ended with {ending(status)}{self.output.complaint() if status > 0 else ''}",
            worker.seconds,
            misuse=status == MISUSE,
        )

    def _down(self, reason: str, ran: float, *, misuse: bool = False) -> None:
        """What served is gone because of ``reason``: start it again, unless that would be in vain."""
        if self._closing:
            return
        self.instance = ""
        pause = None if misuse else self._restarts.after(ran, self._loop.time())
        if pause is None:
            tried = "another start would meet it again" if misuse else self._restarts.reason()
            self._rest("failed", f"{reason}; {tried}")
            cure = f"put it right, then: bus component start {self.name}"
            self._around.report("component-failed", component=self.name, reason=self.reason, cure=cure)
            return
        self.condition, self.reason = "restarting", reason
        self.usage = Usage()
        self._around.report("component-ended", component=self.name, reason=reason, restart_seconds=pause)
        self._timer = self._loop.call_later(pause, self._restart)
        self._wake()
        self._around.news()

    def _restart(self) -> None:
        self._timer = None
        self._spawn(self._start_again())

    async def _start_again(self) -> None:
        if self.condition == "restarting" and not self.busy:
            await self._start()

    def _rest(self, condition: Condition, reason: str) -> None:
        """Nothing of it is to serve from now on."""
        self.condition, self.reason, self.instance = condition, reason, ""
        self.usage = Usage()
        self._wake()
        self._around.news()

    async def _hand_over(self, new: Instance, seconds: float) -> Taken:
        """Hand over to ``new``, and have it be the one that serves."""
        old = self._instance(self.instance)
        taken = await hand_over(self.name, old, new, self._around.broker, seconds=seconds)
        runner = new.runner
        self.instance = new.instance
        self._last, self._heard = runner.status, self._loop.time()
        self.condition, self.reason = "running", ""
        self.usage = Usage()
        self.output.note(f"{new.instance} took over from {old.instance} within {taken.pinned_seconds * 1000:.0f} ms")
        if taken.trouble:
            lost = "its state is lost" if taken.state_lost else None
            self._around.report("component-handover", component=self.name, reason=taken.trouble, lost=lost)
        return taken

    def check_serving(self, verb: str) -> None:
        """Raises BusError 8003 unless it serves, and no other verb is under way."""
        state, reason = self.state
        if self.busy:
            self._refuse(verb)
        if self.condition != "running" or self.runner is None:
            raise BusError(Code.COMPONENT_STATE, verb=verb, state=f"{state} ({reason})" if reason else state)

    def _refuse(self, verb: str) -> None:
        raise BusError(Code.COMPONENT_STATE, verb=verb, state=f"busy: {self.busy} is under way")

    async def _alone(self, verb: str, work: Coroutine[Any, Any, Result]) -> Result:
        """Do ``work``, to its end even if nobody waits for it any more, and nothing else beside it."""
        if self.busy:
            work.close()
            self._refuse(verb)
        self.busy = verb
        return await asyncio.shield(self._spawn(self._to_the_end(work)))

    async def _to_the_end(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            return await work
        finally:
            self.busy = ""
            self._settle()
            self._around.news()

    def _settle(self) -> None:
        """See what has ended while it was not looked at."""
        for instance, worker in list(self._workers.items()):
            if worker.ended.done():
                self._gone(instance, worker)
            elif instance != self.instance:
                worker.kill()  # of a hand-over that was broken off
        if self.instance and self.condition == "running" and self.worker is None and self.runner is None:
            self._down("it was lost in the hand-over", 0.0)

    async def _send_home(self, runner: Runner) -> None:
        self._around.report("component-twice", component=self.name, placement=runner.placement, reason="another serves")
        await self._instance(runner.instance).stop()

    def _instance(self, instance: str, patience: float | None = None) -> Instance:
        around = self._around
        known = {} if patience is None else {"patience": patience}
        return Instance(
            around.bus,
            around.broker,
            around.board,
            self.name,
            instance,
            changed=lambda: self._changed,
            worker=self._workers.get(instance),
            complaint=self.output.complaint,
            **known,
        )

    def _wake(self) -> None:
        """Have those look again who wait for something to change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _spawn(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, BusError):
            _log.error("the supervision of %s failed", self.name, exc_info=error)
