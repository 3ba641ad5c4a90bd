"""A serial line for tests: a pseudo-terminal whose far end is a broker's, with sessions that lead to a unix socket."""

import os
import pty
import select
import socket
import threading
from collections.abc import Callable

from busproto.serial import SerialLine


class Line:
    """The far end, in a thread of its own. Each session on the line is a connection to the socket ``upstream``.

    Attributes:
        device: what a client opens.
        spoil: what the line makes of the bytes that go to the client.
        deaf: the broker is not there: what comes is thrown away.
        frozen: nothing is read from the line.
        sessions: how many began.
        tokens: of every start that came.
        session: whether one stands.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._far, self._near = pty.openpty()  # the near side stays open, else the far one ends with each client
        os.set_blocking(self._far, False)
        self.device = os.ttyname(self._near)
        self.spoil: Callable[[bytes], bytes] = lambda data: data
        self.deaf = False
        self.frozen = False
        self.sessions = 0
        self.tokens: list[bytes] = []
        self._line = SerialLine("broker")
        self._peer: socket.socket | None = None
        self._out = b""
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()
        self._drop()
        os.close(self._far)
        os.close(self._near)

    @property
    def session(self) -> bool:
        return self._peer is not None

    def replace_broker(self) -> None:
        """As after ``kill -9``: the next one knows of no session."""
        self._line = SerialLine("broker")
        self._drop()

    def type(self, data: bytes) -> None:
        """Put ``data`` on the line as it is."""
        with self._lock:
            self._out += data

    def _run(self) -> None:
        while not self._stopped:
            readers: list[int | socket.socket] = [] if self.frozen else [self._far]
            if self._peer is not None and not self._out:
                readers.append(self._peer)
            ready, writable, _ = select.select(readers, [self._far] if self._out else [], [], 0.01)
            with self._lock:
                if self._far in ready:
                    self._from_line(os.read(self._far, 65536))
                if self._peer in ready and self._peer is not None:
                    data = self._peer.recv(65536)
                    self._out += self.spoil(self._line.data(data)) if data else self._line.end()
                    if not data:
                        self._drop()
                if writable:
                    try:
                        self._out = self._out[os.write(self._far, self._out) :]
                    except BlockingIOError:
                        pass

    def _from_line(self, data: bytes) -> None:
        if self.deaf:
            return
        for kind, body in self._line.receive(data):
            if kind == "start":
                self._drop()
                self._peer = socket.socket(socket.AF_UNIX)
                self._peer.connect(self._upstream)
                self.sessions += 1
                self.tokens.append(body)
                self._out += self._line.accept(body)
            elif kind == "data" and self._peer is not None:
                try:
                    self._peer.sendall(body)
                except OSError:
                    self._drop()
            elif kind in ("reset", "end"):
                self._drop()
                if kind == "reset":
                    self._out += self._line.reset(body)

    def _drop(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None
