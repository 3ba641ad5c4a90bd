"""Who an operation runs for."""

import contextvars
from typing import Final, NamedTuple

from busclient import Call, Origin

__all__ = ["LOCAL", "Caller", "call_on_behalf", "caller_of", "current_caller", "outside", "running_for"]


class Caller(NamedTuple):
    """Who called, as the broker proved it; or this process itself."""

    endpoint: str
    """The name that the broker gave the caller; ``local`` for a direct call."""
    boundary: str
    """``guest``, ``host`` or ``soc``."""
    tenant: str
    unit: str
    generation: int
    on_behalf_of: "Caller | None" = None
    """Who is behind it, if the caller acts for someone else. Check the rights of that one."""
    local: bool = False
    """It is this process: the call did not come over a bus. What is behind it may have."""


LOCAL: Final = Caller("local", "host", "node", "host", 0, local=True)
"""The caller of an operation that is called directly."""

_Running = tuple[Caller, Call | None]

running_for: Final[contextvars.ContextVar[_Running | None]] = contextvars.ContextVar("busd-caller")
"""Set by ``invoke`` while an operation runs: its caller, and the call if it came over a bus."""


def current_caller() -> Caller:
    """Who the operation that is running was called by. Tasks that it starts see the same.

    Raises LookupError outside of an operation: nobody's rights are nobody's to use.
    """
    running = running_for.get(None)
    if running is None:
        raise LookupError("there is no caller: this is not part of an operation")
    return running[0]


def call_on_behalf() -> Call | None:
    """The call that the running operation answers, for ``bus.call(..., on_behalf_of=)``; None if it was not called so.

    Whoever is called then sees both, and policy asks for the rights of both.
    """
    running = running_for.get(None)
    return None if running is None else running[1]


def caller_of(call: Call) -> Caller:
    """The caller of ``call``, with whoever is behind it."""
    origin = call.origin
    if origin is None:
        return LOCAL
    global _latest
    latest = _latest
    if latest[0] is not origin:  # calls that came together share it
        latest = _latest = origin, _caller(origin)
    return latest[1]


_latest: tuple[Origin | None, Caller] = (None, LOCAL)
"""The origin that was read last, and the caller that it is. Replaced whole."""


def _caller(origin: Origin) -> Caller:
    behind = None if origin.on_behalf_of is None else _caller(origin.on_behalf_of)
    return Caller(origin.endpoint, origin.boundary, origin.tenant, origin.unit, origin.generation, behind)


def outside() -> contextvars.Context:
    """A context in which no operation runs: for tasks that outlive the operation in which they are started."""
    context = contextvars.copy_context()
    context.run(running_for.set, None)
    return context
