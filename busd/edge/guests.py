"""The guests of a node: added and removed while it runs, under ``$bus.admin.guest.``.

What was added is kept on disk, so that a broker that was restarted lets the same guests in again, in the same
generation. README.md beside this file says what proves identity on each way in.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, Protocol

from busd.core.bus import Bus
from busd.core.introspection import PAGE, Request
from busd.core.principal import Principal
from busd.core.tokenbucket import TokenBucket
from busd.edge import guestrequest
from busd.edge.admission import AdmissionStatistics, Arrived, Report
from busd.edge.connection import LINGER_SECONDS
from busd.edge.guest import BOUNDARY, Guest, Surroundings
from busd.edge.guestrequest import GuestRequest
from busd.edge.latch import Process
from busd.edge.pump import Pump, clock
from busd.edge.vsock import VsockListener
from busproto.errors import BusError, Code

SERVICE: Final = "$bus.admin.guest."
"""What the subjects of these services begin with."""

REMEMBERED: Final = 1024
"""Names of removed units whose last generation is kept. One that is forgotten could come back under an old generation
if someone asked for that; nothing of its earlier lives is left that could be mistaken for it."""


class Store(Protocol):
    """Where the guests are kept (`busd.ops.unitsfile`)."""

    def load(self) -> dict[str, Any]:
        """The document: ``generation``, ``units``, ``last``."""

    def save(self, document: dict[str, Any]) -> None:
        """Keep ``document`` in place of the one before. Raises OSError. Called in a thread."""


class Guests:
    """Every guest that stands, by name."""

    def __init__(
        self,
        bus: Bus,
        pump: Pump,
        store: Store,
        *,
        report: Report,
        connections: int,
        connects: Callable[[], TokenBucket | None] = lambda: None,
        vsock: VsockListener | None = None,
    ) -> None:
        """``connections`` and ``connects``: what one guest may have, and how fast; ``vsock`` for guests with a CID."""
        self._bus = bus
        self._pump = pump
        self._store = store
        self._report = report
        self._vsock = vsock
        self._arrived = Arrived()
        self._surroundings = Surroundings(pump, report, connections, connects, vsock, self._arrived)
        self._guests: dict[str, Guest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._generation = 0
        self._last: dict[str, int] = {}
        self._saving = asyncio.Lock()

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the guests in that stood when the broker last ran, and listen on AF_VSOCK if the node does."""
        if self._vsock is not None:
            self._vsock.start()
        document = self._store.load()
        self._generation = document["generation"]
        self._last = dict(document["last"])
        for record in document["units"]:
            self._restore(record)

    def stop(self) -> None:
        """Let nobody in any more; connections stay, and so does what is kept."""
        if self._vsock is not None:
            self._vsock.stop()
        for guest in self._guests.values():
            guest.way.stop()

    async def close(self, seconds: float) -> None:
        """Wait until every connection is gone; those that are left after ``seconds`` are cut."""
        self.stop()
        # The guests stay where they are: what is kept of them is for the next broker.
        await asyncio.gather(*(self._leave(guest, seconds) for guest in self._guests.values()), *self._tasks)

    def services(self) -> dict[str, Callable[[Request, Principal], Awaitable[dict[str, Any]]]]:
        """What answers each subject."""
        return {
            SERVICE + "add": self.add,
            SERVICE + "remove": self.remove,
            SERVICE + "list": self.list,
            SERVICE + "inspect": self.inspect,
        }

    # -- services -----------------------------------------------------------------------------------------------------

    async def add(self, request: Request, caller: Principal) -> dict[str, Any]:
        """Let a unit in from now on; returns its row of the list. The fields are `GuestRequest`'s.

        Raises:
            BusError: 2008 a field is not acceptable, 3011 the unit stands or has stood, or its way in is taken, 5001
                the node is going away, 7030 it cannot be kept.
        """
        wanted = guestrequest.read(request)
        if self._bus.draining:
            raise BusError(Code.DRAINING, what="guests")
        self._check_free(wanted)
        generation = self._choose_generation(wanted)
        process = None
        if wanted.pid is not None:
            try:
                process = Process.of(wanted.pid)
            except OSError:
                raise request.error(f"pid: there is no process {wanted.pid}") from None
        try:
            guest = self._open(wanted, generation, clock(), process)
        except ValueError as error:
            raise request.error(f"{wanted.way}: {error}") from None
        await self._to_the_end(self._keep_added(guest))
        self._report("guest-added", caller=_who(caller), **_facts(guest))
        return guest.describe(clock())

    async def remove(self, request: Request, caller: Principal) -> dict[str, Any]:
        """End everything that a unit holds, now; returns the receipt of what that was.

        Raises:
            BusError: 3009 there is no such guest.
        """
        request.only("name")
        guest = self._find(request.text("name"))
        receipt = self._close(guest)
        self._report("guest-removed", caller=_who(caller), **_facts(guest))
        try:
            await self._to_the_end(self._save())
        except OSError as error:
            # What is torn down stays so. The file would bring it back, which whoever asked must know.
            raise _unwritable(error, **receipt) from None
        return receipt

    async def list(self, request: Request, caller: Principal) -> dict[str, Any]:
        """A page of the guests, by name."""
        request.only("after", "limit")
        after = request.optional_text("after") or ""
        limit = request.count("limit", PAGE)
        names = sorted(name for name in self._guests if name > after)
        now = clock()
        page = names[:limit]
        return {
            "guests": [self._guests[name].describe(now) for name in page],
            "next": page[-1] if len(names) > limit else None,
        }

    async def inspect(self, request: Request, caller: Principal) -> dict[str, Any]:
        """Everything about one guest.

        Raises:
            BusError: 3009 there is no such guest.
        """
        request.only("name")
        guest = self._find(request.text("name"))
        attached = [
            session.name
            for session in self._bus.census
            if session.principal.boundary == BOUNDARY and session.principal.unit == guest.unit.name
        ]
        return {**guest.inspect(clock()), "attached": attached}

    def statistics(self) -> AdmissionStatistics:
        """Figures of all guests together, those that were removed included."""
        figures = self._arrived.statistics(BOUNDARY)
        if self._vsock is None:
            return figures
        return replace(figures, refused=dict(Counter(figures.refused) + Counter(self._vsock.statistics().refused)))

    def __len__(self) -> int:
        return len(self._guests)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> Guest:
        guest = self._guests.get(name)
        if guest is None:
            raise BusError(Code.UNIT_UNKNOWN, unit=name[:80], reason="no guest of this name stands on this node")
        return guest

    def _check_free(self, wanted: GuestRequest) -> None:
        """Raise BusError 3011 if the name, or the way in, is another guest's."""
        for guest in self._guests.values():
            reason = ""
            if guest.unit.name == wanted.name:
                age = clock() - guest.added_at
                reason = f"it stands in generation {guest.unit.generation}, since {age:.0f} s; remove it first"
            elif wanted.cid is not None and guest.request.cid == wanted.cid:
                reason = f"cid {wanted.cid} is that of unit '{guest.unit.name}'"
            elif wanted.path is not None and guest.request.path == wanted.path:
                # Whatever the ports: behind one file there is one VM, and it must not be two units.
                reason = f"{wanted.path} is the way in of unit '{guest.unit.name}'"
            if reason:
                raise BusError(Code.UNIT_REFUSED, unit=wanted.name, reason=reason)

    def _choose_generation(self, wanted: GuestRequest) -> int:
        last = self._last.get(wanted.name, 0)
        if wanted.generation is None:
            return self._generation + 1
        if wanted.generation <= last:
            reason = f"generation {wanted.generation} is not later than {last}, which has been"
            raise BusError(Code.UNIT_REFUSED, unit=wanted.name, reason=reason)
        return wanted.generation

    def _open(self, wanted: GuestRequest, generation: int, added_at: float, process: Process | None) -> Guest:
        """The guest, registered and with its way in open. Raises ValueError or BusError, and then nothing is left."""
        guest = Guest(wanted, generation, added_at, self._surroundings, process=process, latched=self._keep_later)
        try:
            guest.way.start()  # nobody comes in before this turn of the loop ends
            self._bus.add_unit(guest.unit)
        except (BusError, ValueError):
            guest.way.stop()
            raise
        self._guests[wanted.name] = guest
        self._generation = max(self._generation, generation)
        return guest

    def _close(self, guest: Guest) -> dict[str, Any]:
        """Tear ``guest`` down in one turn of the loop, so that nothing can come in between; the receipt."""
        now = clock()
        waiting = guest.way.stop()
        receipt = self._bus.remove_unit(guest.unit.name, now)
        self._pump.wake()
        del self._guests[guest.unit.name]
        self._remember(guest)
        self._spawn(self._leave(guest, 2 * LINGER_SECONDS))
        return {**receipt.describe(), "seconds": max(0.0, now - guest.added_at), "refused_waiting": waiting}

    def _remember(self, guest: Guest) -> None:
        name = guest.unit.name
        self._last.pop(name, None)
        self._last[name] = guest.unit.generation
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]

    async def _leave(self, guest: Guest, seconds: float) -> None:
        """See the connections of ``guest`` to their end, and let go of it."""
        await guest.admission.close(seconds)
        await guest.way.close()
        # They hold each other, and would wait for a full collection of garbage, which is seldom.
        del guest.admission, guest.way

    def _restore(self, record: dict[str, Any]) -> None:
        """Let a guest in as it stood. One that cannot be is reported and left out: its VM has gone with its way in."""
        name = "?"
        try:
            wanted = guestrequest.read(Request("units.json", record["request"]))
            name = wanted.name
            process = None if record["vmm"] is None else Process(*record["vmm"])
            self._check_free(wanted)
            self._open(wanted, int(record["generation"]), float(record["added_at"]), process)
        except (BusError, ValueError, KeyError, TypeError) as error:
            self._report("guest-not-restored", unit=name, error=str(error))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _to_the_end(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
        """``coroutine``, which is finished even if the caller goes away in the middle of it."""
        return asyncio.shield(self._spawn(coroutine))

    # -- what is kept -------------------------------------------------------------------------------------------------

    async def _save(self) -> None:
        """Keep what stands now. Raises OSError."""
        async with self._saving:
            document = {
                "generation": self._generation,
                "units": [guest.record() for guest in self._guests.values()],
                "last": dict(self._last),
            }
            # In a thread: a slow disk must not hold up messages.
            await asyncio.to_thread(self._store.save, document)

    async def _keep_added(self, guest: Guest) -> None:
        try:
            await self._save()
        except OSError as error:
            # A restart would lose it and nobody would know; so it does not stand at all.
            if self._guests.get(guest.unit.name) is guest:
                self._close(guest)
            raise _unwritable(error) from None

    def _keep_later(self) -> None:
        """A guest's VMM is known now."""
        self._spawn(self._keep())

    async def _keep(self) -> None:
        try:
            await self._save()
        except OSError as error:
            self._report("guests-not-kept", error=error.strerror or str(error))


def _unwritable(error: OSError, **receipt: Any) -> BusError:
    path = str(error.filename or "the run directory")
    return BusError(Code.UNITS_FILE_UNWRITABLE, path=path, reason=error.strerror or str(error), **receipt)


def _who(caller: Principal) -> str:
    """Who asked, for the log."""
    return f"{caller.tenant}/{caller.unit} uid {caller.uid} pid {caller.pid}"


def _facts(guest: Guest) -> dict[str, Any]:
    return {
        "unit": guest.unit.name,
        "tenant": guest.unit.tenant,
        "generation": guest.unit.generation,
        "way": guest.request.way,
        "address": guest.request.address,
    }
