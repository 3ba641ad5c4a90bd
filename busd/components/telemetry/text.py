"""Names that the system gives, as text that every peer can read."""

from typing import Final

__all__ = ["NAME_CHARACTERS", "readable"]

NAME_CHARACTERS: Final = 128
"""Longest name of a process in a payload. Linux keeps 15 bytes, but psutil completes them from the command line, where
a process may put 128 KiB: a few hundred of those would not fit into one reply."""


def readable(name: str, characters: int = NAME_CHARACTERS) -> str:
    """``name`` as valid UTF-8 of a bounded length.

    Processes, mounts and interfaces may be named by any bytes, and psutil hands those that are no text on as lone
    surrogates, which no message can hold: one such process would keep the figures of all from being published.
    """
    name = name[:characters]
    return name if name.isascii() else name.encode(errors="replace").decode()
