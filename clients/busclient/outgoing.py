"""What waits to be sent, in frames: natural batching (schemas/README.md, "Bounds")."""

from typing import Final

from busclient.errors import PayloadTooLarge
from busproto.limits import BATCH_BYTES

__all__ = ["Outgoing"]

BIN8: Final = tuple(b"\xc4" + bytes((size,)) for size in range(256))
"""msgpack's header of each binary of up to 255 bytes."""


class Outgoing:
    """Envelopes on their way into frames of up to BATCH_BYTES, or of one envelope that is longer than that."""

    __slots__ = ("_frames", "_size", "full", "parts", "sent_frames")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        """What the frame holds that is still growing."""
        self.full = False
        """More than one frame waits: it is time for `take`."""
        self.sent_frames = 0
        self._frames: list[list[bytes]] = []
        self._size = 0

    def push(self, envelope: bytes) -> None:
        """Add one envelope."""
        size = self._size + len(envelope)
        if size > BATCH_BYTES and self._size:
            self._end_frame()
            size = len(envelope)
        self.parts.append(envelope)
        self._size = size

    def push_short(self, head: bytes, payload: bytes) -> None:
        """Add the envelope that begins with ``head`` and ends with ``payload``, of less than 64 KiB."""
        size = len(payload)
        length = BIN8[size] if size < 256 else b"\xc5" + size.to_bytes(2, "big")
        size = self._size + size + len(head) + 3
        if size > BATCH_BYTES:
            size -= self._size
            self._end_frame()
        self.parts += (head, length, payload)
        self._size = size

    def push_large(self, empty: bytes, payload: bytes, limit: int) -> None:
        """Add the envelope ``empty``, whose last field is an empty payload, with ``payload`` in its place, uncopied."""
        if len(payload) > limit:
            raise PayloadTooLarge(len(payload), limit)
        head = empty[:-2] + b"\xc6" + len(payload).to_bytes(4, "big")
        if self._size and self._size + len(head) + len(payload) > BATCH_BYTES:
            self._end_frame()
        self.parts += (head, payload)
        self._size += len(head) + len(payload)
        if self._size >= BATCH_BYTES:
            self._end_frame()

    def take(self) -> list[list[bytes]]:
        """The frames to send, each as its pieces."""
        frames = self._frames
        if self.parts:
            frames.append(self.parts)
            self.parts = []
            self._size = 0
        self._frames = []
        self.full = False
        self.sent_frames += len(frames)
        return frames

    def _end_frame(self) -> None:
        if self.parts:
            self._frames.append(self.parts)
            self.parts = []
            self._size = 0
        self.full = True
