"""What a component is: a plain class with a manifest, typed operations and four moments in its life."""

import asyncio
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from busclient import Bus
from busclient.clock import Clock, LoopClock
from busd.components.model.codec import PLAIN, explain
from busd.components.model.events import LocalEvents
from busd.components.model.manifest import Manifest
from busd.components.model.metric import Figures, Metric
from busd.components.model.operation import (
    Event,
    codec_of,
    compile_operations,
    hints_of,
    parameters_of,
)
from busd.components.model.statistics import OperationStatistics
from busproto.errors import BusError, Code

__all__ = ["Component", "Context", "Health", "configuration", "configure"]

T = TypeVar("T")
C = TypeVar("C", bound="Component")


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a component can do what it is there for."""

    ok: bool
    detail: str = ""
    """What is wrong, or worth knowing, in a few words."""


class Context:
    """What a component may use of the world around it. Whoever runs it sets ``component.context`` before `start`.

    Args:
        component: its class.
        bus: the connection it has, if there is one.
        clock: what `time` and `sleep` go by; by default the system's monotonic clock. With a bus: the same as its.
        events: where events go when they are not published on ``bus``.
        own_process: the process is there for this component alone, which may change what holds for all of it.
    """

    def __init__(
        self,
        component: "type[Component]",
        bus: Bus | None = None,
        *,
        clock: Clock | None = None,
        events: LocalEvents | None = None,
        own_process: bool = False,
    ) -> None:
        self.bus: Final = bus
        """The bus, for calls and subscriptions of its own; None when it runs without one."""
        self.own_process: Final = own_process
        """Whether the process is there for this component alone."""
        self.statistics: Final = {name: OperationStatistics() for name in compile_operations(component)}
        """Of each request and stream, by name."""
        self._clock: Final = LoopClock() if clock is None else clock
        self._manifest: Final = component.manifest
        self._events: Final = events

    async def publish(self, event: Event[T], value: T) -> None:
        """Publish ``value`` to those who subscribe to ``event``; waits while the bus takes no more.

        Raises:
            LookupError: the manifest has no such event.
            BusError: 6003, it is no value of the event's type; else as ``Bus.publish``.
        """
        if event not in self._manifest.operations:
            there = ", ".join(each.name for each in self._manifest.events()) or "none"
            raise LookupError(f"{self._manifest.component} has no event '{event.name}' of that type; it has {there}")
        codec = codec_of(event.type)
        try:
            data = codec.encode(value)
            codec.decode(data)
        except (TypeError, ValueError, OverflowError) as error:
            raise BusError(Code.PAYLOAD_UNENCODABLE, reason=f"event '{event.name}': {explain(error)}") from None
        subject = self._manifest.subject(event)
        if self._events is not None:
            self._events.publish(subject, data)
        elif self.bus is not None:
            await self.bus.publish(subject, data=data)

    def time(self) -> float:
        """Seconds since some start; never goes back."""
        return self._clock.time()

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds of `time`."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_at(self._clock.time() + seconds, partial(_wake, over))
        try:
            await over
        finally:
            timer.cancel()


def _wake(over: "asyncio.Future[None]") -> None:
    if not over.done():
        over.set_result(None)


class Component:
    """The base of every component: a subclass has a manifest, and a method for each request and stream in it.

    Operations are ordinary ``async def`` methods (a `Stream`: async generators) with annotations and docstrings. The
    parameters of the constructor, with annotations and defaults, are the component's configuration.

    ``start`` is called once, then ``run`` beside the operations, then ``stop`` once; who cannot start raises. A
    component with ``manifest.state`` is asked for it by ``hand_over`` after its last call, and its successor gets it by
    ``take_over`` after ``start`` and before its first.
    """

    manifest: ClassVar[Manifest]
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """Metrics of its own, beside those of its operations: the node's /metrics shows them."""
    context: Context

    async def start(self) -> None:
        """Get ready to serve. Raises what keeps it from it."""

    async def run(self) -> None:
        """Work in the background while it serves, until cancelled. An exception is a failure of the component."""

    def draining(self) -> None:
        """It is to take no more calls: end what would keep those that are here from ending, above all streams that
        last. Must not block. Callers see such a stream end early, and call again. ``run`` may be begun anew after it.
        """

    async def stop(self) -> None:
        """Let go of what `start` took."""

    def health(self) -> Health:
        """How it is. Asked every second; must not block."""
        return Health(True)

    def figures(self) -> Figures:
        """The values of its `metrics` since it was made, by name. Asked every second; must not block."""
        return {}

    async def hand_over(self) -> Any:
        """What a successor needs: an instance of ``manifest.state``."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to hand over")

    async def take_over(self, state: Any) -> None:
        """Go on from where a predecessor stopped."""
        raise NotImplementedError(f"{type(self).__name__} takes nothing over")


def configure(component: type[C], config: Mapping[str, Any]) -> C:
    """An instance of ``component`` with ``config``, a map of what its constructor takes. Its types are checked.

    Raises:
        BusError: 7002, naming the key, for what is missing, unknown, of the wrong type or refused by the constructor
            (ValueError); 8006 when the constructor itself has no annotations.
    """
    try:
        kind = configuration(component)
    except TypeError as error:
        raise BusError(Code.COMPONENT_INVALID, source=component.__name__, reason=str(error)) from None
    key = f"config of component '{component.manifest.component}'"
    try:
        return component(**msgspec.structs.asdict(msgspec.convert(dict(config), kind, builtin_types=PLAIN)))
    except msgspec.ValidationError as error:
        raise BusError(Code.CONFIG_INVALID, key=key, where="", reason=explain(error)) from None
    except ValueError as error:
        raise BusError(Code.CONFIG_INVALID, key=key, where="", reason=str(error)) from error


def configuration(component: type[Component]) -> type[msgspec.Struct]:
    """A Struct of the constructor's parameters. Raises TypeError."""
    constructor: Any = inspect.getattr_static(component, "__init__")
    if constructor is object.__init__:
        return msgspec.defstruct("Configuration", [], forbid_unknown_fields=True)
    where = f"{component.__name__}.__init__"
    fields = parameters_of(constructor, where, hints_of(constructor, where), foreign=True)
    return msgspec.defstruct(
        f"{component.__name__}Configuration", fields, kw_only=True, forbid_unknown_fields=True, frozen=True
    )
