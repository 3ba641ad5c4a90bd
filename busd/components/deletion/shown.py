"""Paths as text for people: in errors, reports and logs."""

from typing import Final

__all__ = ["shown"]

_LIMIT: Final = 256  # characters: a line of a report; a path may have 64 KiB


def shown(path: bytes) -> str:
    """``path`` as one line of at most 256 characters: what is not printable UTF-8 as an escape, a long one cut in the
    middle. Not to be read back: two paths may look alike.
    """
    # Cut the bytes first: a path that is refused for its length is never turned into text whole.
    if len(path) <= _LIMIT:
        text = _printable(path)
        if len(text) <= _LIMIT:
            return text
    half = _LIMIT // 2 - 2
    return f"{_printable(path[:_LIMIT])[:half]}...{_printable(path[-_LIMIT:])[-half:]}"


def _printable(path: bytes) -> str:
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
