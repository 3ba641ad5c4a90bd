"""A way from a handle to its component."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

from busd.components.model.codec import Codec
from busd.components.model.events import EventSubscription
from busd.components.model.manifest import Manifest
from busd.components.model.operation import Operation
from busd.components.model.statistics import OperationStatistics

__all__ = ["Parts", "Route"]


class Parts(Protocol):
    """The parts of a stream: iterate, at best inside of ``async with``. Leaving early cancels the operation."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Any: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def aclose(self) -> None: ...


class Route(Protocol):
    """What a handle asks: a component in this process, or one on a bus."""

    @property
    def where(self) -> str:
        """``here`` or ``on the bus``."""

    @property
    def manifest(self) -> Manifest:
        """The component's."""

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Its requests and streams by name."""

    @property
    def statistics(self) -> Mapping[str, OperationStatistics]:
        """What became of the calls made here, by operation."""

    async def request(self, operation: Operation, data: bytes, seconds: float, behalf: bool) -> Any:
        """The result of a request that is called with packed arguments, within ``seconds``.

        With ``behalf``, for the caller of the operation that is running. Raises what `attach` says.
        """

    def stream(self, operation: Operation, data: bytes, seconds: float, behalf: bool) -> Parts:
        """The parts of a stream, as `request`. It is called when iteration begins; ``seconds`` is for all of them."""

    def subscribe(self, subject: str, codec: Codec[Any], latest: bool, max_pending: int) -> EventSubscription[Any]:
        """The values of an event."""
