"""A stock DEALER: pyzmq and msgpack, and nothing of ours. What any Python script could do with schemas/README.md."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack
import zmq

WAIT_MS = 10_000

HELLO, WELCOME, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, SERVE, UNSERVE, CALL, REPLY, CANCEL, PING, PONG, DRAIN, BYE = range(
    1, 15
)
ORIGIN, GAP, ERROR = 15, 16, 17


class Got(NamedTuple):
    """One envelope, and the endpoint that the origin before it names."""

    fields: list[Any]
    origin: str | None

    @property
    def kind(self) -> int:
        return int(self.fields[0])


class Dealer:
    """One connection. A context manager; says hello and waits for welcome unless ``hello`` is False."""

    def __init__(
        self, url: str, *, hello: bool = True, options: Mapping[zmq.SocketOption, int] | None = None, **manifest: Any
    ) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        for option, value in (options or {}).items():
            self.socket.setsockopt(option, value)
        self.socket.connect(url.replace("unix://", "ipc://"))
        self._waiting: list[Got] = []
        self.name = ""
        if hello:
            self.send([HELLO, 1, manifest])
            self.name = self.expect(WELCOME).fields[2]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        self._context.term()

    def send(self, *envelopes: list[Any]) -> None:
        """Send ``envelopes`` in one frame."""
        self.socket.send(b"".join(map(msgpack.packb, envelopes)))

    def receive(self) -> Got:
        """The next envelope that is no origin. Raises zmq.Again when none comes within ``WAIT_MS``."""
        while not self._waiting:
            frame = self.socket.recv()
            assert not self.socket.getsockopt(zmq.RCVMORE), "one frame a message"
            origin: str | None = None
            unpacker = msgpack.Unpacker()
            unpacker.feed(frame)
            for fields in unpacker:
                if fields[0] == ORIGIN:
                    origin = fields[1]
                else:
                    self._waiting.append(Got(fields, origin))
        return self._waiting.pop(0)

    def expect(self, kind: int, wanted: Callable[[list[Any]], bool] = lambda fields: True) -> Got:
        """The next envelope, which must be of ``kind`` and ``wanted``."""
        got = self.receive()
        assert got.kind == kind, got
        assert wanted(got.fields), got
        return got

    def call(self, id: int, subject: str, payload: Any = None, milliseconds: int = 5000) -> Any:
        """Call and return the decoded payload of the final reply, which must be ok and come next."""
        self.send([CALL, id, subject, milliseconds, None, msgpack.packb(payload)])
        got = self.expect(REPLY, lambda fields: fields[1] == id and fields[2] == 0)
        return msgpack.unpackb(got.fields[4])
