"""What one instance of a component hands over to the next, as bytes."""

from typing import Any, Final

from busclient import BusError, Code
from busd.components.model import Manifest, codec_of, explain

__all__ = ["STATE_BYTES", "pack_state", "read_state"]

STATE_BYTES: Final = 1 << 20
"""What can be handed over: it travels as one reply and one request while calls wait."""


def pack_state(manifest: Manifest, state: object) -> bytes:
    """``state``, of a component whose manifest has one, as it travels.

    Raises BusError HANDLER_FAILED when it is not what the manifest says, and COMPONENT_STATE_TOO_LARGE.
    """
    kind: Any = manifest.state
    if not isinstance(state, kind):
        reason = f"hand_over() returned {type(state).__name__}, and the manifest says {kind.__name__}"
        raise BusError(Code.HANDLER_FAILED, reason=reason)
    try:
        data = codec_of(kind).encode(state)
    except (TypeError, ValueError, OverflowError) as error:
        reason = f"what hand_over() returned cannot travel: {explain(error)}"
        raise BusError(Code.HANDLER_FAILED, reason=reason) from error
    _check_size(manifest, data)
    return data


def read_state(manifest: Manifest, data: bytes, subject: str) -> object:
    """The state in ``data``, which came in a request on ``subject``.

    Raises BusError REQUEST_INVALID when it is none of this component, and COMPONENT_STATE_TOO_LARGE.
    """
    _check_size(manifest, data)
    kind: Any = manifest.state
    if kind is None:
        raise BusError(Code.REQUEST_INVALID, subject=subject, reason="state: this component takes none over")
    try:
        state: object = codec_of(kind).decode(data)
    except ValueError as error:  # of the wrong type, or no msgpack at all
        raise BusError(Code.REQUEST_INVALID, subject=subject, reason=f"state: {explain(error)}") from None
    return state


def _check_size(manifest: Manifest, data: bytes) -> None:
    if len(data) > STATE_BYTES:
        raise BusError(Code.COMPONENT_STATE_TOO_LARGE, component=manifest.component, size=len(data), limit=STATE_BYTES)
