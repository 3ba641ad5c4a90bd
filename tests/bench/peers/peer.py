"""What the benchmark asks of a message bus: a broker to start, and a connection that does the works' steps.

A link does each step the way its library's own documentation does it, and does it in a loop of its own where that
saves every peer the same call: the figures are of the library, not of this page.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

Seen = Callable[[bytes], None]
"""Called with the payload of every message that arrived; must not block."""


class Link(ABC):
    """One connection of a client process."""

    def __init__(self) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Completed with the first error that no step could raise: a message lost, a callback that failed."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def fail(self, error: BaseException) -> None:
        """Record ``error`` as the reason why this link's figures are worth nothing."""
        if not self.failure.done():
            self.failure.set_exception(error)

    def spawn(self, coroutine: Any) -> None:
        """Run ``coroutine`` beside the work; its failure is the link's."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    @abstractmethod
    async def publish(self, subject: str, payload: bytes, count: int) -> None:
        """Publish ``payload`` ``count`` times, one message each."""

    @abstractmethod
    async def subscribe(self, subject: str, seen: Seen) -> None:
        """Have ``seen`` called for every message on ``subject``; in force when this returns."""

    @abstractmethod
    def post(self, subject: str, payload: bytes) -> None:
        """Publish one message from inside ``seen``."""

    async def serve_echo(self, subject: str) -> None:
        """Answer every call on ``subject`` with its payload; in force when this returns."""
        raise NotImplementedError

    async def call(self, subject: str, payload: bytes) -> bytes:
        """Call ``subject`` and return the reply's payload."""
        raise NotImplementedError

    async def close(self) -> None:
        """End the connection."""
        for task in list(self._tasks):
            task.cancel()


class Handshake(ABC):
    """The bytes by which one bare connection attaches: no library, no task, for attaching very many."""

    @abstractmethod
    def opening(self) -> bytes:
        """What the client may send as soon as the connection stands."""

    @abstractmethod
    def attached(self, received: bytearray) -> bool:
        """Whether ``received``, all bytes that came so far, contains the broker's welcome.

        Raises ConnectionError with the broker's words when it refused.
        """


class Peer(ABC):
    """One message bus: its broker and its Python library."""

    name: str
    required = False
    """Whether a complete run needs this peer (``BUSD_REQUIRE_ALL=1``)."""

    @abstractmethod
    def missing(self) -> str | None:
        """Why this peer cannot run here, or None."""

    @abstractmethod
    def version(self) -> str:
        """Versions of the broker and the library."""

    @abstractmethod
    def command(self, directory: Path) -> list[str]:
        """The command line of a broker that keeps everything in ``directory`` and is otherwise in its defaults."""

    @abstractmethod
    def address(self, directory: Path) -> str | None:
        """Where the broker started with ``directory`` accepts connections, or None while it does not."""

    @abstractmethod
    async def connect(self, url: str) -> Link:
        """Open one connection to the broker at ``url``."""

    def handshake(self) -> Handshake:
        """How a bare connection attaches."""
        raise NotImplementedError


def unix_listening(path: Path) -> bool:
    """Whether somebody accepts connections at the unix socket ``path``."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
