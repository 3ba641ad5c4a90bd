"""A component with an operation of every kind, and how to play with it in both forms."""

import asyncio
import dataclasses
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from busclient import BusError
from busclient.testing import FakeClock, settle
from busd.components.model import Component, Event, Manifest, Request, Stream, current_caller
from busd.components.model.testing import Form, both_forms


class Colour(enum.Enum):
    """An enumeration."""

    RED = "red"
    BLUE = "blue"


class Row(msgspec.Struct, frozen=True):
    """A Struct."""

    pid: int
    name: str = ""


class Basket(msgspec.Struct, forbid_unknown_fields=True):
    """A Struct that can be changed, with others in it."""

    rows: list[Row] = []
    labels: dict[str, int] = {}


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: float
    y: float


@dataclasses.dataclass
class Everything:
    """One field of each kind that is not a kind of msgpack's."""

    at: datetime
    span: timedelta
    exact: Decimal
    id: UUID
    colours: set[Colour]
    pair: tuple[int, str]
    raw: bytes
    free: Any = None


Small = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

TICKED: Event[Row] = Event("ticked", Row)
POINTED: Event[Point] = Event("pointed", Point)

EVERYTHING = Everything(
    at=datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC),
    span=timedelta(seconds=90),
    exact=Decimal("1.10"),
    id=UUID(int=7),
    colours={Colour.RED},
    pair=(1, "a"),
    raw=b"\xff\x00",
    free={"at": [1, 2.5, None]},
)


class Sample(Component):
    """A component for tests."""

    manifest = Manifest(
        component="sample",
        version="1.0",
        owner="tests",
        purpose="shows every kind of operation",
        operations=(
            *map(Request, ("add", "rows", "basket", "point", "everything", "share", "raw", "keep", "kept", "whole")),
            *map(Request, ("fail", "lie", "wait", "waited", "stubborn", "emit", "who", "nothing", "break_down")),
            *map(Stream, ("count", "count_and_fail", "lying_parts", "hang")),
            TICKED,
            POINTED,
        ),
    )

    def __init__(self, start_at: int = 0, refuse_to_start: str = "") -> None:
        self.start_at = start_at
        self.refuse_to_start = refuse_to_start
        self.held: list[Basket] = []
        self.ends: list[str] = []
        self.broken = asyncio.Event()

    async def start(self) -> None:
        if self.refuse_to_start:
            raise RuntimeError(self.refuse_to_start)

    async def run(self) -> None:
        await self.broken.wait()
        raise RuntimeError("the background is broken")

    async def add(self, a: int, b: int = 1) -> int:
        """The sum.

        With the number that the component began with.
        """
        return self.start_at + a + b

    async def rows(
        self, limit: Small = 10, name: str | None = None, *, sort: Literal["pid", "name"] = "pid"
    ) -> list[Row]:
        return [Row(pid, name or sort) for pid in range(limit)]

    async def basket(self, basket: Basket) -> Basket:
        return basket

    async def point(self, point: Point) -> Point:
        return Point(point.y, point.x)

    async def everything(self, value: Everything) -> Everything:
        return value

    async def share(self, share: Share) -> float:
        return share

    async def raw(self, data: bytes) -> bytes:
        return data

    async def keep(self, basket: Basket) -> Basket:
        self.held.append(basket)
        basket.labels["kept"] = 1
        return basket

    async def kept(self) -> list[Basket]:
        return self.held

    async def whole(self, value: Any) -> Any:
        return value

    async def fail(self, how: str) -> None:
        if how == "own":
            raise BusError(10001, what="mine", numbers=3)
        if how == "known":
            raise BusError(3004, action="looking at", subject="it", reason="I say so")
        if how == "unsendable":
            raise BusError(10002, what=object())  # type: ignore[arg-type]
        if how == "cancelled":
            raise asyncio.CancelledError
        if how == "inner cancel":
            task = asyncio.create_task(asyncio.sleep(0))
            task.cancel()
            await task
        if how == "stop":
            raise StopIteration
        raise ValueError("a secret of the component")

    async def lie(self, how: str) -> Row:
        lies: dict[str, Any] = {"type": "text", "field": Row("x"), "huge": Row(2**70), "none": None, "odd": object()}  # type: ignore[arg-type]
        return lies[how]  # type: ignore[no-any-return]

    async def wait(self, seconds: float) -> str:
        try:
            await self.context.sleep(seconds)
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        self.ends.append("slept")
        return "slept"

    async def waited(self) -> list[str]:
        return self.ends

    async def stubborn(self, seconds: float) -> str:
        try:
            await self.context.sleep(seconds)
        except asyncio.CancelledError:
            return "not me"
        return "slept"

    async def emit(self, first: int, count: int = 1) -> None:
        for pid in range(first, first + count):
            await self.context.publish(TICKED, Row(pid, "tick"))

    async def who(self) -> tuple[bool, str, str]:
        caller = current_caller()
        return caller.local, caller.boundary, caller.tenant

    async def nothing(self) -> None:
        """Gives nothing back."""

    async def break_down(self) -> None:
        self.broken.set()

    async def count(self, to: int, pause: float = 0.0) -> AsyncIterator[Row]:
        """Count."""
        try:
            for pid in range(to):
                if pause:
                    await self.context.sleep(pause)
                yield Row(pid, current_caller().boundary)
        except (asyncio.CancelledError, GeneratorExit):
            self.ends.append("count cancelled")
            raise
        finally:
            self.ends.append("count over")

    async def count_and_fail(self, to: int, own: bool) -> AsyncIterator[int]:
        for number in range(to):
            yield number
        raise BusError(10003, at=to) if own else ValueError("no")

    async def lying_parts(self) -> AsyncIterator[int]:
        yield 1
        yield "two"  # type: ignore[misc]

    async def hang(self) -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ends.append("hang over")


Play = Callable[[Sample, FakeClock], Awaitable[None]]


def play(form: Form, test: Play, *, timeout: float = 5.0, **config: Any) -> None:
    """Run ``test`` with a handle of a `Sample`; nothing may be left running after it."""

    async def main() -> None:
        clock = FakeClock()
        async with both_forms(Sample, form, clock=clock, timeout=timeout, **config) as handle:
            await test(handle, clock)
        await settle()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main(), debug=True)


async def refusal(call: Awaitable[Any]) -> BusError:
    """The error that ``call`` ends in."""
    with pytest.raises(BusError) as caught:
        await call
    return caught.value
