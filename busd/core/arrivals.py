"""What has begun to come and is not complete: handshakes and frames, each with its deadline and its charge."""

from collections.abc import Iterator
from typing import Final

from busd.core.account import Accounts
from busd.core.counters import Counters
from busd.core.deadlines import Alarm, Deadlines
from busd.core.quotas import Quotas
from busd.core.reasons import Departure
from busd.core.session import Session
from busproto.errors import BusError, Code

LATE_AT_ONCE: Final = 8
"""Connections that are cut off in one go because they said nothing; the next ones follow in the next turn of the loop.
A flood of them comes at once, and leaves at once."""


class Arrivals:
    """Sessions that have not said hello, and those that have sent a part of something."""

    __slots__ = ("_accounts", "_counters", "_frames", "_handshakes", "_quotas")

    def __init__(self, accounts: Accounts, counters: Counters, quotas: Quotas, alarm: Alarm) -> None:
        self._accounts = accounts
        self._counters = counters
        self._quotas = quotas
        self._handshakes: Deadlines[Session] = Deadlines(alarm)
        self._frames: Deadlines[Session] = Deadlines(alarm)

    def expect_hello(self, session: Session, now: float) -> None:
        """``session`` has connected: its hello must follow in time."""
        session.handshake_slot = self._handshakes.add(session, now + self._quotas.handshake_seconds)
        self._counters.handshaking[session.principal.boundary] += 1

    def greet(self, session: Session) -> None:
        """Its hello has come, or is not waited for any more."""
        if session.handshake_slot is not None:
            self._handshakes.remove(session, session.handshake_slot)
            self._no_hello(session)

    def hold(self, session: Session, size: int, now: float) -> None:
        """``session`` has sent ``size`` bytes of a frame that is not complete (0: it has none).

        They are charged to who pays for the session: a frame that never ends pins memory like a message that nobody
        reads (dbus-broker charges both), and it must end in time. Raises BusError 4001.
        """
        if not size:
            self._charge(session, -session.held_bytes, now)
            self._note_held(session, 0)
            if session.frame_slot is not None:
                self._frames.remove(session, session.frame_slot)
                session.frame_slot = None
            return
        if session.frame_slot is None:
            self._expect_frame(session, now)
        self._charge(session, size - session.held_bytes, now)
        self._note_held(session, size)

    def keep(self, session: Session, size: int, now: float) -> None:
        """``size`` bytes that ``session`` sent wait for its turn (0: none), charged alike. Raises BusError 4001."""
        self._charge(session, size - session.kept_bytes, now)
        session.kept_bytes = size

    def next(self) -> list[float | None]:
        """When something of this is due."""
        return [self._handshakes.next(), self._frames.next()]

    def expire(self, now: float) -> Iterator[tuple[Session, BusError, Departure]]:
        """Who is late at ``now``, and what with."""
        for session in self._handshakes.expire(now, LATE_AT_ONCE):
            self._no_hello(session)
            stage = str(getattr(session.link, "stage", "connected"))
            error = BusError(Code.HANDSHAKE_TIMEOUT, seconds=self._quotas.handshake_seconds, stage=stage)
            yield session, error, Departure.HANDSHAKE_TIMEOUT
        for session in self._frames.expire(now):
            if session.received_messages != session.frame_mark:
                # That frame has come; the one that is held now began later.
                self._expect_frame(session, now)
                continue
            session.frame_slot = None
            error = BusError(Code.FRAME_TIMEOUT, held=session.held_bytes, seconds=self._quotas.frame_seconds)
            yield session, error, Departure.PROTOCOL_ERROR

    def _no_hello(self, session: Session) -> None:
        session.handshake_slot = None
        self._counters.handshaking[session.principal.boundary] -= 1

    def _note_held(self, session: Session, size: int) -> None:
        self._counters.held_bytes[session.principal.boundary] += size - session.held_bytes
        session.held_bytes = size

    def _expect_frame(self, session: Session, now: float) -> None:
        session.frame_mark = session.received_messages
        session.frame_slot = self._frames.add(session, now + self._quotas.frame_seconds)

    def _charge(self, session: Session, more: int, now: float) -> None:
        if more < 0:
            self._accounts.release(session.account, "held_bytes", -more)
        elif more:
            self._accounts.charge(session.account, "held_bytes", more, now)
