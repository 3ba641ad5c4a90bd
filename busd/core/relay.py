"""Calls and replies on their way from one session to another: the same bytes under another id."""

from struct import Struct
from typing import Final

from busd.core.outbox import Outbox
from busproto.envelope import head_with_id
from busproto.limits import LARGE_FRAME_BYTES

_write_id: Final = Struct(">I").pack_into


class Relay:
    """Forwards envelopes with their ids replaced.

    Envelopes in a row of one frame that go to the same outbox are one run: copied once, with the new ids written in
    place, and queued as one entry. What is in hand is queued by ``flush``, which must come before anything else is put
    into an outbox, or the order would be lost.
    """

    __slots__ = ("_end", "_frame", "_ids", "_origin", "_outbox", "_start")

    def __init__(self) -> None:
        self._outbox: Outbox | None = None
        self._origin = b""
        self._frame = b""
        self._start = self._end = 0
        self._ids: list[tuple[int, int]] = []

    def forward(self, outbox: Outbox, origin: bytes, frame: bytes, start: int, end: int, id: int) -> bool:
        """Send the envelope ``frame[start:end]`` on under ``id``; False, and nothing sent, if ``outbox`` is full."""
        if frame[start + 2] != 0xCE or frame[start] > 0x9F or end - start > LARGE_FRAME_BYTES:
            return self._forward_alone(outbox, origin, frame, start, end, id)
        if outbox is self._outbox and start == self._end and frame is self._frame and origin is self._origin:
            if not outbox.has_room(end - self._start, len(self._ids) + 1):
                return False
        else:
            self.flush()
            if not outbox.has_room(end - start, 1):
                return False
            self._outbox = outbox
            self._origin = origin
            self._frame = frame
            self._start = start
        # The array's header and the kind take a byte each, and the id's own header says that four follow.
        self._ids.append((start + 3, id))
        self._end = end
        return True

    def flush(self) -> None:
        """Queue what is in hand."""
        outbox = self._outbox
        if outbox is None:
            return
        start = self._start
        data = bytearray(memoryview(self._frame)[start : self._end])
        for place, id in self._ids:
            _write_id(data, place - start, id)
        outbox.append(self._origin, data, len(self._ids))
        self._outbox = None
        self._frame = b""
        self._ids = []

    def _forward_alone(self, outbox: Outbox, origin: bytes, frame: bytes, start: int, end: int, id: int) -> bool:
        """Forward an envelope whose id is written narrowly, or one too large to be copied."""
        self.flush()
        if not outbox.has_room(end - start, 1):
            return False
        head, rest = head_with_id(frame, start, id)
        if end - start > LARGE_FRAME_BYTES:
            outbox.append(origin, head, 1, memoryview(frame)[rest:end])
        else:
            outbox.append(origin, head + frame[rest:end], 1)
        return True
