"""Hand-over: one instance of a component takes over from another while calls wait in the broker, and none fails.

    new.prepare -> pin -> old.drain -> new.serve(state) -> unpin -> old.stop

Whatever fails on the way, the pin is released, at most one of the two serves at the end, and if it can be the old one
it is. This page knows nothing of processes: it drives two parties and a broker.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from busproto.errors import BusError, Code

__all__ = ["DEADLINE_SECONDS", "DRAIN_SECONDS", "Lost", "Party", "Pins", "Taken", "hand_over"]

DEADLINE_SECONDS: Final = 30.0
"""For all of a hand-over that ends well. Undoing one that does not comes on top, with a bound of its own."""

DRAIN_SECONDS: Final = 10.0
"""For the old one to answer the calls that it holds, unless the request says otherwise."""

UNDO_SECONDS: Final = 5.0
"""For each step back; and for the new one to serve, even if the steps before it took all of the time."""

DRAIN_SLACK_SECONDS: Final = 2.0
"""The old one keeps the time of its drain itself. One that says nothing for so long after it has been asked in vain."""

Step = Literal["prepare", "drain", "serve"]

OLD_SERVES: Final = "the old one serves"
NOBODY_SERVES: Final = "nobody serves"


class Lost(Exception):  # noqa: N818  (it says what has become of the party)
    """The party is gone: its process has ended, or its connection."""


class Party(Protocol):
    """One instance of the component. Each verb raises `Lost`, or BusError for what the instance answered."""

    @property
    def serves(self) -> Sequence[str]:
        """The subjects that it serves, once it is ready."""
        ...

    @property
    def offered(self) -> Sequence[str] | None:
        """What the broker knows that it serves at this moment; None if it is not attached."""
        ...

    @property
    def stateful(self) -> bool:
        """Whether it has a state to hand over."""
        ...

    async def prepare(self) -> None:
        """Get ready, without serving."""
        ...

    async def serve(self, state: bytes | None) -> None:
        """Take ``state`` over, if there is one, and serve."""
        ...

    async def drain(self, seconds: float) -> bytes | None:
        """Answer what it holds within ``seconds``, take no more, and return its state."""
        ...

    async def resume(self) -> None:
        """Serve again after a drain, whether that ended or not."""
        ...

    async def stop(self) -> None:
        """End it. When this returns it serves nothing any more, whatever it does itself. Raises nothing."""
        ...


class Pins(Protocol):
    """The part of the broker that a hand-over needs."""

    def pin(self, subjects: Sequence[str]) -> Callable[[], None]:
        """Have calls on ``subjects`` wait until what is returned is called; calling that again does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """A hand-over that ended well."""

    seconds: float
    """From its beginning until the new one served."""
    pinned_seconds: float
    """For which calls waited."""
    state_bytes: int
    """What was handed over."""
    trouble: str = ""
    """What went wrong with the old one on the way; its state, if it had one, is lost then."""
    state_lost: bool = False


async def hand_over(component: str, old: Party, new: Party, broker: Pins, *, seconds: float = DRAIN_SECONDS) -> Taken:
    """Have ``new`` take over from ``old``, which gets ``seconds`` to answer what it holds.

    Raises BusError 8005, which says at which step it failed, why, and who serves now. When it is cancelled the pin is
    released; both parties are the caller's to end then.
    """
    return await _HandOver(component, old, new, broker, seconds).run()


class _HandOver:
    def __init__(self, component: str, old: Party, new: Party, broker: Pins, seconds: float) -> None:
        self._component = component
        self._old = old
        self._new = new
        self._broker = broker
        self._drain_seconds = seconds
        self._stateful = old.stateful  # once it is lost it cannot be asked
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._deadline = self._began + DEADLINE_SECONDS + max(0.0, seconds - DRAIN_SECONDS)

    async def run(self) -> Taken:
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._new.prepare()
        except Exception as error:
            await self._new.stop()
            raise self._failed("prepare", error, OLD_SERVES) from error
        pinned = self._loop.time()
        unpin = self._broker.pin([*dict.fromkeys((*self._old.serves, *self._new.serves))])
        try:
            taken = await self._exchange(pinned)
        finally:
            unpin()
        await self._old.stop()
        return taken

    async def _exchange(self, pinned: float) -> Taken:
        """Both steps for which calls wait."""
        state, trouble = await self._drain()
        try:
            async with asyncio.timeout_at(max(self._deadline, self._loop.time() + UNDO_SECONDS)):
                await self._new.serve(state)
            self._check_offers()
        except Exception as error:
            await self._new.stop()
            consequence = await self._resume(lost=bool(trouble))
            raise self._failed("serve", error, consequence) from error
        now = self._loop.time()
        return Taken(
            seconds=now - self._began,
            pinned_seconds=now - pinned,
            state_bytes=len(state or b""),
            trouble=trouble,
            state_lost=bool(trouble) and self._stateful,
        )

    async def _drain(self) -> tuple[bytes | None, str]:
        """The old one's state, and what went wrong if it is gone. Raises BusError 8005 if it goes on instead."""
        try:
            async with asyncio.timeout(self._drain_seconds + DRAIN_SLACK_SECONDS):
                return await self._old.drain(self._drain_seconds), ""
        except Lost as error:
            return None, f"the old one was lost while it drained: {_reason(error)}"
        except Exception as error:
            try:
                async with asyncio.timeout(UNDO_SECONDS):
                    await self._old.resume()
            except Exception as again:
                # It neither drains nor serves: what it holds is lost, and the new one is ready. Go on.
                await self._old.stop()
                return None, f"the old one did not drain ({_reason(error)}) and did not resume ({_reason(again)})"
            await self._new.stop()
            raise self._failed("drain", error, OLD_SERVES) from error

    async def _resume(self, *, lost: bool) -> str:
        """Have the old one serve again, unless it is ``lost``. Returns what has become of the component."""
        if lost:
            return NOBODY_SERVES
        try:
            async with asyncio.timeout(UNDO_SECONDS):
                await self._old.resume()
        except Exception as error:
            await self._old.stop()  # it must not come back by itself beside one that is started in its place
            return f"{NOBODY_SERVES}: the old one did not resume ({_reason(error)})"
        return OLD_SERVES

    def _check_offers(self) -> None:
        """What counts is what the broker knows, not what the new one says."""
        offered = self._new.offered
        if offered is None:
            raise Lost("it is not attached any more")
        if missing := sorted(set(self._new.serves) - set(offered)):
            raise Lost(f"it says that it serves, but does not offer {', '.join(missing[:3])}")

    def _failed(self, step: Step, error: Exception, consequence: str) -> BusError:
        return BusError(
            Code.HANDOVER_FAILED,
            component=self._component,
            step=step,
            reason=_reason(error),
            consequence=consequence,
        )


def _reason(error: Exception) -> str:
    if isinstance(error, BusError):
        return error.text
    if isinstance(error, TimeoutError):
        return "it did not end in time"
    return str(error) if isinstance(error, Lost) else f"{type(error).__name__}: {error}"
