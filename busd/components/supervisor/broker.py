"""What the supervisor is given: the broker by its node, and its own company by the supervisor to its parts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from busclient import Bus
from busd.components.supervisor.runners import Board

__all__ = ["Broker", "Surroundings"]


class Broker(Protocol):
    """What the node gives its supervisor. Every method is for the loop of the node."""

    def pin(self, subjects: Sequence[str]) -> Callable[[], None]:
        """Have calls on ``subjects`` wait; the function that is returned lets them go, and does nothing again."""
        ...

    def offers(self, endpoint: str) -> list[str] | None:
        """Patterns that ``endpoint`` serves; None if it is not attached."""
        ...

    def principal(self, endpoint: str) -> tuple[str, str, str] | None:
        """Boundary, tenant and unit that were proven of ``endpoint``; None if it is not attached."""
        ...

    def cut_off(self, endpoint: str, reason: str) -> None:
        """End the session of ``endpoint``; the census names the reason."""
        ...

    def show(self, components: Mapping[str, Mapping[str, Any]]) -> None:
        """What ``$bus.components`` answers from now on."""
        ...


class Surroundings(Protocol):
    """What a component in charge needs of its supervisor."""

    bus: Bus
    broker: Broker
    board: Board
    url: str

    def report(self, name: str, /, **fields: Any) -> None:
        """Tell the node's log."""
        ...

    def news(self) -> None:
        """Something has changed in what ``$bus.components`` shows."""
        ...
