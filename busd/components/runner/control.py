"""A runner on the bus: who may tell it what to do and how, and the status that it publishes."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final

import msgspec

from busclient import Bus, BusError, Call, Code, NotConnected
from busd.components.model import explain
from busd.components.runner.runner import DRAIN_SECONDS, Runner
from busd.components.runner.status import STATUS_SECONDS, control_subject, status_subject

__all__ = ["DRAIN_SECONDS_MAX", "Control"]

DRAIN_SECONDS_MAX: Final = 3600.0
"""The longest that calls in flight may be waited for: what takes longer than an hour is a job, not a call."""

_log = logging.getLogger("busd.components.runner")


class _Verb(msgspec.Struct, frozen=True, tag_field="do", forbid_unknown_fields=True):
    """A request: its verb in ``do``."""


class _Status(_Verb, frozen=True, tag="status"):
    pass


class _Prepare(_Verb, frozen=True, tag="prepare"):
    pass


class _Serve(_Verb, frozen=True, tag="serve"):
    state: bytes | None = None


class _Drain(_Verb, frozen=True, tag="drain"):
    seconds: Annotated[float, msgspec.Meta(ge=0.0, le=DRAIN_SECONDS_MAX)] = DRAIN_SECONDS


class _Resume(_Verb, frozen=True, tag="resume"):
    pass


class _Stop(_Verb, frozen=True, tag="stop"):
    pass


_Request = _Status | _Prepare | _Serve | _Drain | _Resume | _Stop


class Control:
    """Has ``runner`` run on ``bus``: serves its control subject and publishes its status.

    Args:
        runner: the runner.
        bus: the bus that it is on.
        changed: called after each change of the runner's state.
    """

    def __init__(self, runner: Runner, bus: Bus, *, changed: Callable[[], object] = lambda: None) -> None:
        self._runner = runner
        self._bus = bus
        component = runner.manifest.component
        self._subject = control_subject(component, runner.instance)
        self._status_subject = status_subject(component, runner.instance)
        self._changed = changed
        self._told: set[int] = set()

    async def run(self) -> None:
        """Run until the runner has ended, which `Runner.end` brings about; without ``standby`` it is to serve at once.

        Cancelling this ends the component in order, as `Runner.end` does. Raises BusError: why the runner has failed,
        or why the bus does not let it be controlled.
        """
        runner = self._runner
        runner.usage.look(self._bus.time())
        async with self._bus.serve(self._subject, self.answer) as service:
            runner.changed = self._note
            tasks = [asyncio.create_task(work) for work in (self._watch(service.wait()), self._tick())]
            if runner.standby:
                self._publish()
            else:
                tasks.append(asyncio.create_task(self._begin()))
            try:
                await runner.ended.wait()
            finally:
                await runner.end()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        if runner.failure is not None:
            raise runner.failure

    async def answer(self, call: Call) -> dict[str, Any]:
        """Carry out a control request. Its reply is the status, where ``state`` of a drain is what is handed over.

        Raises BusError: DENIED to all but the node's own programs on the host, REQUEST_INVALID, and what the verbs do.
        """
        _check_caller(call)
        try:
            request = msgspec.convert(call.payload, _Request, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise BusError(Code.REQUEST_INVALID, subject=call.subject, reason=explain(error)) from None
        runner = self._runner
        extra: dict[str, Any] = {}
        match request:
            case _Prepare():
                await runner.prepare()
            case _Serve(state=state):
                await runner.serve(state)
            case _Drain(seconds=seconds):
                extra["state"] = await runner.drain(seconds)
            case _Resume():
                await runner.resume()
            case _Stop():
                await runner.stop()
        status: dict[str, Any] = msgspec.to_builtins(runner.status())
        return status | extra

    async def _begin(self) -> None:
        try:
            await self._runner.prepare()
            await self._runner.serve()
        except BusError:
            pass  # it has failed, which ends it; or somebody else has told it something meanwhile

    async def _watch(self, service_ended: Coroutine[Any, Any, None]) -> None:
        """Without a bus, or without being controlled, there is no going on."""
        try:
            await service_ended
        except BusError as error:
            self._runner.fail("bus", error)

    async def _tick(self) -> None:
        """Publish each second, and as soon as the connection is back."""
        while True:
            await self._runner.context.sleep(STATUS_SECONDS)
            try:
                await self._bus.connected()
            except BusError:
                return  # for good
            self._runner.usage.look(self._bus.time())
            self._publish()

    def _note(self) -> None:
        self._publish()
        self._changed()

    def _publish(self) -> None:
        try:
            self._bus.publish_nowait(self._status_subject, msgspec.to_builtins(self._runner.status()))
        except NotConnected:
            pass  # published when the connection is back
        except BusError as error:
            if error.code not in self._told:  # it is likely to be refused again in a second
                self._told.add(error.code)
                _log.warning("the status of %s is not published: %s", self._runner.manifest.component, error)


def _check_caller(call: Call) -> None:
    """Raises BusError DENIED unless the call, and who is behind it, come from the host and the node's own space."""
    origin = call.origin
    if origin is None:
        raise BusError(Code.DENIED, action="controlling", subject=call.subject, reason="it is not known who calls")
    while origin is not None:
        if origin.boundary != "host" or origin.tenant != "node":
            reason = f"only programs of the node on its host may, and {origin.endpoint} is one of "
            reason += f"tenant {origin.tenant} on the {origin.boundary} boundary"
            raise BusError(Code.DENIED, action="controlling", subject=call.subject, reason=reason)
        origin = origin.on_behalf_of
