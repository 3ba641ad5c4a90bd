"""The parameters of a request, read one by one: what is not known, twice there, or out of its bounds is refused."""

from collections.abc import Collection, Iterable
from typing import Final

from busd.ops.console.text import shown

__all__ = ["Query"]

CHARACTERS: Final = 256
"""Of one value: as long as a subject may be."""

FLAGS: Final = {"": False, "0": False, "false": False, "1": True, "true": True}


class Query:
    """What stands behind the ``?``. Every method raises ValueError, with the reason. An empty value is none."""

    def __init__(self, items: Iterable[tuple[str, str]], known: Collection[str]) -> None:
        self._values: dict[str, str] = {}
        for name, value in items:
            if name not in known:
                there_are = f"there are {', '.join(known)}" if known else "this page takes none"
                raise ValueError(f"there is no parameter {shown(name, 40)!a}; {there_are}")
            if name in self._values:
                raise ValueError(f"{name} is there twice")
            if len(value) > CHARACTERS:
                raise ValueError(f"{name} has {len(value)} characters; the limit is {CHARACTERS}")
            self._values[name] = value

    def text(self, name: str) -> str:
        """The value; empty if it is not there."""
        return self._values.get(name, "")

    def required(self, name: str) -> str:
        """The value, which must be there."""
        if not (value := self.text(name)):
            raise ValueError(f"{name} is missing")
        return value

    def flag(self, name: str) -> bool:
        """True for ``1`` and ``true``."""
        if (flag := FLAGS.get(self.text(name))) is None:
            raise ValueError(f"{name} must be 0 or 1")
        return flag

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """The whole number, from ``least`` to ``most``."""
        text = self.text(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
            raise ValueError(f"{name} must be a whole number from {least} to {most}")
        return int(text)

    def choice(self, name: str, choices: Collection[str]) -> str:
        """One of ``choices``; empty if it is not there."""
        if (value := self.text(name)) and value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}")
        return value
