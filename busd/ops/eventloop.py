"""Which event loop runs the node."""

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from busproto.errors import BusError, Code

if TYPE_CHECKING:  # asyncio takes 25 ms to import, and `busd --version` needs none of it
    from asyncio import AbstractEventLoop

__all__ = ["choose", "factory"]


def choose(wanted: str) -> str:
    """The loop that ``wanted`` (auto, uvloop or asyncio) means here: ``uvloop`` or ``asyncio``. Imports neither.

    Raises:
        BusError: CONFIG_INVALID, if uvloop was asked for and is not installed.
    """
    installed = importlib.util.find_spec("uvloop") is not None
    if wanted == "uvloop" and not installed:
        reason = "uvloop is not installed; install busd[node], or set loop to auto or asyncio"
        raise BusError(Code.CONFIG_INVALID, key="loop", where="", reason=reason)
    return "asyncio" if wanted == "asyncio" or not installed else "uvloop"


def factory(name: str) -> "Callable[[], AbstractEventLoop]":
    """What ``asyncio.Runner(loop_factory=...)`` takes for the loop ``name``, as ``choose`` gave it."""
    if name == "uvloop":
        import uvloop

        make: Callable[[], AbstractEventLoop] = uvloop.new_event_loop
        return make
    import asyncio

    return asyncio.new_event_loop
