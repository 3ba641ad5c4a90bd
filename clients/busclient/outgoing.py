"""What waits to be sent, in frames: natural batching (schemas/README.md, "Bounds")."""

from typing import Final

from busclient.errors import PayloadTooLarge
from busproto.limits import BATCH_BYTES, ENVELOPES_PER_FRAME

__all__ = ["Outgoing"]

BIN8: Final = tuple(b"\xc4" + bytes((size,)) for size in range(256))
"""msgpack's header of each binary of up to 255 bytes."""

SHORTEST: Final = 3
"""Bytes of the shortest envelope: a ping."""


class Outgoing:
    """Envelopes on their way into frames of up to BATCH_BYTES, or of one envelope that is longer than that.

    How many may be in one is not counted, which would cost each of them: each takes so much more of BATCH_BYTES than it
    is long that the frame is full in time.
    """

    __slots__ = ("_extra", "_extra_short", "_frames", "_size", "full", "parts", "sent_frames")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        """What the frame holds that is still growing."""
        self.full = False
        """More than one frame waits: it is time for `take`."""
        self.sent_frames = 0
        self._frames: list[list[bytes]] = []
        self._size = 0
        self._extra = 0
        """What an envelope takes beyond its bytes."""
        self._extra_short = 0
        """The same, and the header of its payload."""
        self.limit_envelopes(ENVELOPES_PER_FRAME)

    def limit_envelopes(self, most: int) -> None:
        """Put no more than ``most`` envelopes into a frame from the next one on; at least 1."""
        if self.parts:
            self._end_frame()
        self._extra = max(0, -(-BATCH_BYTES // most) - SHORTEST)
        self._extra_short = self._extra + 3

    def push(self, envelope: bytes) -> None:
        """Add one envelope."""
        size = self._size + len(envelope) + self._extra
        if size > BATCH_BYTES and self._size:
            size -= self._size
            self._end_frame()
        self.parts.append(envelope)
        self._size = size

    def push_short(self, head: bytes, payload: bytes) -> None:
        """Add the envelope that begins with ``head`` and ends with ``payload``, of less than 64 KiB."""
        size = len(payload)
        length = BIN8[size] if size < 256 else b"\xc5" + size.to_bytes(2, "big")
        size = self._size + size + len(head) + self._extra_short
        if size > BATCH_BYTES:
            size -= self._size
            self._end_frame()
        self.parts += (head, length, payload)
        self._size = size

    def push_large(self, empty: bytes, payload: bytes, limit: int, after: bytes = b"") -> None:
        """Add the envelope ``empty`` with ``payload`` in place of its empty one, uncopied.

        The payload is its last field but for those whose bytes are ``after``.
        """
        if len(payload) > limit:
            raise PayloadTooLarge(len(payload), limit)
        head = empty[: -2 - len(after)] + b"\xc6" + len(payload).to_bytes(4, "big")
        size = len(head) + len(payload) + len(after) + self._extra
        if self._size and self._size + size > BATCH_BYTES:
            self._end_frame()
        self.parts += (head, payload, after) if after else (head, payload)
        self._size += size
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
