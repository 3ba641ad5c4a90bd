"""One instance of a component, asked over the bus: how a hand-over reaches a runner, wherever that is."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from busclient import Bus
from busclient.errors import CallTimeout, ErrorReply, NoResponders, UnknownOutcome
from busd.components.supervisor.broker import Broker
from busd.components.supervisor.handover import Lost
from busd.components.supervisor.runners import Board, Runner
from busd.components.supervisor.watch import START_SECONDS
from busd.components.supervisor.worker import Worker
from busproto.errors import BusError, Code

__all__ = ["Instance", "ask", "ending"]

VERB_SECONDS: Final = 60.0
"""For a verb whose end somebody else bounds: a hand-over has a deadline of its own."""

STOP_SECONDS: Final = 8.0
"""For a runner elsewhere to stop: it gives the calls that it holds 5 s, and then stops its component."""


async def ask(bus: Bus, runner: Runner, verb: str, within: float, **fields: Any) -> dict[str, Any]:
    """Have ``runner`` do ``verb``, ``within`` so many seconds. Returns its status.

    Raises `Lost` when it is gone, TimeoutError, or BusError: what it answered, or why it could not be asked.
    """
    try:
        reply = await bus.call(runner.control, {"do": verb, **fields}, timeout=within)
    except (NoResponders, UnknownOutcome) as error:
        raise Lost(error.text) from None
    except CallTimeout as error:
        raise TimeoutError(error.text) from None
    except ErrorReply as error:
        raise BusError.from_body(error.body()) from None
    if reply.origin is None or reply.origin.endpoint != runner.endpoint:
        who = "somebody" if reply.origin is None else reply.origin.endpoint
        raise Lost(f"{who} answered in place of {runner.endpoint}")
    if not isinstance(reply.payload, dict):
        raise BusError(Code.HANDLER_FAILED, reason=f"its answer to {verb} is no map")
    return reply.payload


class Instance:
    """One instance: a `Party` of a hand-over.

    Args:
        changed: gives an event that is set at the next status of the component, whoever sends it.
        worker: its process, if it is one of ours.
        patience: seconds that `stop` gives it before it is killed or cut off.
        complaint: what its process wrote last, to be put behind the way in which it ended.
    """

    def __init__(
        self,
        bus: Bus,
        broker: Broker,
        board: Board,
        component: str,
        instance: str,
        *,
        changed: Callable[[], asyncio.Event],
        worker: Worker | None = None,
        patience: float = STOP_SECONDS,
        complaint: Callable[[], str] = str,
    ) -> None:
        self.instance = instance
        self.worker = worker
        self._bus = bus
        self._broker = broker
        self._board = board
        self._component = component
        self._changed = changed
        self._patience = patience
        self._complaint = complaint

    @property
    def runner(self) -> Runner:
        """Its runner. Raises `Lost` when it is not attached."""
        runner = self._board.instance(self._component, self.instance)
        if runner is not None:
            return runner
        if self.worker is not None and self.worker.ended.done():
            status = self.worker.ended.result()
            said = self._complaint() if status > 0 else ""
            raise Lost(self.worker.why or f"its process ended with {ending(status)}{said}")
        raise Lost("it is not attached")

    @property
    def serves(self) -> Sequence[str]:
        """The subjects that it serves, as it says."""
        try:
            return self.runner.status.serves
        except Lost:
            return ()

    @property
    def offered(self) -> Sequence[str] | None:
        """What the broker knows that it serves."""
        try:
            return self._broker.offers(self.runner.endpoint)
        except Lost:
            return None

    @property
    def stateful(self) -> bool:
        """Whether it has a state to hand over, as it says."""
        try:
            return self.runner.status.stateful
        except Lost:
            return False

    async def appear(self) -> Runner:
        """Wait until it is attached. Raises `Lost` if its process ends first, or it takes too long."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    event = self._changed()
                    try:
                        return self.runner
                    except Lost:
                        if self.worker is None or self.worker.ended.done():
                            raise
                    waiting = asyncio.ensure_future(event.wait())
                    futures: list[asyncio.Future[Any]] = [waiting, self.worker.ended]
                    try:
                        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        waiting.cancel()
        except TimeoutError:
            raise Lost(f"it did not attach within {START_SECONDS:g} s of its start") from None

    async def prepare(self) -> None:
        """Get ready, without serving."""
        runner = await self.appear()
        if runner.status.state != "prepared":
            await ask(self._bus, runner, "prepare", VERB_SECONDS)

    async def serve(self, state: bytes | None) -> None:
        """Take ``state`` over, if there is one, and serve."""
        await ask(self._bus, self.runner, "serve", VERB_SECONDS, state=state)

    async def drain(self, seconds: float) -> bytes | None:
        """Answer what it holds within ``seconds``, take no more, and return its state."""
        status = await ask(self._bus, self.runner, "drain", seconds + VERB_SECONDS, seconds=seconds)
        state = status.get("state")
        return state if isinstance(state, bytes) else None

    async def resume(self) -> None:
        """Serve again after a drain."""
        await ask(self._bus, self.runner, "resume", VERB_SECONDS)

    async def stop(self) -> None:
        """End it. When this returns it serves nothing any more."""
        if self.worker is not None:
            await self.worker.stop(self._patience)
            return  # and with it its session
        try:
            runner = self.runner
        except Lost:
            return
        try:
            async with asyncio.timeout(self._patience):
                await ask(self._bus, runner, "stop", self._patience)
        except Lost:
            return
        except (TimeoutError, BusError) as error:
            self._broker.cut_off(runner.endpoint, f"it was told to stop and did not: {error}")


def ending(status: int) -> str:
    """How a process ended, in words: its exit status, or the signal."""
    return f"signal {-status}" if status < 0 else f"status {status}"
