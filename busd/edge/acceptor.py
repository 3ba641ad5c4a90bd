"""Takes connections in from a listening socket: eagerly, within bounds, and standing up when there is no room."""

import asyncio
import errno
import os
import socket
from typing import Any, Final, Protocol

from busd.core.tokenbucket import TokenBucket
from busd.edge.admission import Refusal
from busd.edge.pump import clock

BACKLOG: Final = 4096
"""Connections that may wait in the kernel. A VMM that meets a full backlog stalls its guest (Firecracker PR 6208)."""

BURST: Final = 64
"""Connections accepted in one turn of the loop: a storm of them must not hold up messages."""

BURST_PACED: Final = 1
"""The same where their rate is bounded: many units may storm at once, and each connection takes 0.06 ms."""

PAUSE_SECONDS: Final = 0.1
"""How long accepting rests when the process has no descriptor left, not even by giving up its spare one."""

_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PEER_GONE: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR})


class Gate(Protocol):
    """What the acceptor needs of an admission, or of whatever finds the right one for each connection."""

    @property
    def connects(self) -> TokenBucket | None:
        """How fast connections may come."""

    def admit(self, peer: socket.socket) -> bool:
        """Give ``peer`` a session; close it and return False if it may have none."""

    def refuse(self, reason: Refusal, **fields: Any) -> None:
        """Count and report a connection that did not come as far as ``admit``."""


class Acceptor:
    """One listening stream socket; who comes through it is for its admission to judge."""

    def __init__(self, listener: socket.socket, admission: Gate) -> None:
        """``listener`` listens and does not block."""
        self._listener = listener
        self._admission = admission
        self._loop = asyncio.get_running_loop()
        self._spare: int | None = _open_spare()
        self._listening = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._listening = True
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept no more; connections stay."""
        if self._listening:
            self._listening = False
            self._rest()
            self._listener.close()
            self._give_spare()

    def refuse_waiting(self) -> int:
        """Accept and close what waits in the kernel, so that it can never be taken for someone who comes later."""
        refused = 0
        # No more than may wait: a peer that keeps connecting must not keep the loop here.
        while self._listening and refused < BACKLOG:
            try:
                self._listener.accept()[0].close()
            except OSError:
                break
            refused += 1
        return refused

    # -- inside -------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        connects = self._admission.connects
        for _ in range(BURST if connects is None else BURST_PACED):
            if connects is not None and (wait := connects.ready_at - clock()) > 0:
                # What comes too fast waits in the kernel's queue, then in its own connect(): nothing is spent on it.
                self._rest(wait)
                return
            try:
                peer, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._shed(error)
                    return
                if error.errno in _PEER_GONE:
                    continue
                raise
            if connects is not None:
                connects.spend(1, clock())
            peer.setblocking(False)
            self._admission.admit(peer)

    def _shed(self, error: OSError) -> None:
        """No descriptors: give up the spare one to accept and close a connection, so that its peer is not left waiting.

        Without this the listener stays readable and the loop spins; closing tells the peer at once (libev's advice).
        """
        self._admission.refuse(Refusal.DESCRIPTORS, error=error.strerror)
        self._give_spare()
        try:
            self._listener.accept()[0].close()
        except OSError:
            pass
        self._rest(PAUSE_SECONDS)

    def _give_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _rest(self, seconds: float | None = None) -> None:
        """Look at the listener no more, for ``seconds`` or for good."""
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        if not self._listening:
            return
        if self._spare is None:
            try:
                self._spare = _open_spare()
            except OSError:
                # Someone else took it in between. Rest, and hope for a descriptor to come back.
                self._rest(PAUSE_SECONDS)
                return
        self._loop.add_reader(self._listener, self._accept)


def _open_spare() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
