"""All endpoints, to be gone through in slices."""

from collections.abc import Iterator
from typing import Final

from busd.core.bus import Bus
from busd.core.session import Session
from busd.core.states import State

__all__ = ["attached"]

NAMES: Final = 256
"""In one text."""


def attached(bus: Bus) -> Iterator[Session]:
    """The endpoints of ``bus``, in order of arrival. Others may work in between: who leaves is left out, and so is who
    comes.

    What is held meanwhile are names, some hundreds in each text: Python's garbage collector would look at each object
    of a list.
    """
    for text in _texts(bus.census.names()):
        for name in text.split(" "):
            session = bus.census.find(name)
            if session is not None and session.state is not State.CLOSING:
                yield session


def _texts(names: list[str]) -> list[str]:
    return [" ".join(names[first : first + NAMES]) for first in range(0, len(names), NAMES)]
