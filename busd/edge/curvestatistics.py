"""The figures of the SoC boundary's listener."""

from dataclasses import dataclass

from busd.edge.zap import ZapStatistics


@dataclass(frozen=True, slots=True)
class CurveStatistics:
    """The listener of the SoC boundary."""

    boundary: str
    """``soc``."""
    address: str
    """Where it listens."""
    state: str
    """``listening``, ``stopped``, or why it closed."""
    accepted: int
    """TCP connections accepted."""
    attached: int
    """Sessions that began."""
    refused: dict[str, int]
    """Connections and peers that did not become sessions, by reason."""
    unproven: int
    """Connections that ended by themselves without a session: not CURVE, a wrong server key, a key that is not
    enrolled, or nothing at all."""
    open: int
    """TCP connections now."""
    handshaking: int
    """Those of them without an endpoint."""
    held_bytes: int
    """Bytes of messages of which only a part has come."""
    lease_expiries: int
    """Sessions that ended because nothing came any more."""
    discarded: int
    """Messages, and parts of messages, that were dropped: of peers that are cut off, or beyond a message's one part."""
    late_wakeups: int
    """Times that a message waited and libzmq had not said so; the next look found it."""
    zap: ZapStatistics
    """The ZAP handler."""
