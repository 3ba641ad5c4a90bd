"""Kinds of configuration values: what each accepts, how it says so, and how it is written back.

A kind reads two spellings of a value: what TOML holds (typed) and text (environment and flags). Refusals are
``ValueError`` with a reason that completes the sentence "KEY: ..."; the loader adds key, file and line.
"""

import re
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from busd.ops.address import Listen, Off, TcpAddress, parse_listen, parse_network

__all__ = [
    "Choice",
    "Count",
    "Kind",
    "ListenAddress",
    "Name",
    "Names",
    "NetworkAddress",
    "Place",
    "PlaceOrOff",
    "Seconds",
    "Size",
    "toml_string",
]

T_co = TypeVar("T_co", covariant=True)

_TYPES: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
}
_UNITS: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE: Final = re.compile(r"(\d{1,15})\s*([A-Za-z]*)")
_NAME: Final = re.compile(r"[a-z0-9_-]{1,64}")


class Kind(Protocol[T_co]):
    """One kind of value."""

    takes: str
    """What it accepts, as a noun phrase with range and unit: "an integer from 1 to 10"."""
    metavar: str
    """What stands for it in --help."""

    def read(self, raw: object, *, text: bool) -> T_co:
        """The value that ``raw`` stands for; ``text`` says that it comes from the environment or a flag.

        Raises:
            ValueError: the value has the wrong type or lies outside the range.
        """
        ...

    def show(self, value: Any) -> str:
        """``value`` as TOML, in the spelling that a person would choose."""
        ...


def toml_string(text: str) -> str:
    """``text`` as a TOML basic string."""
    escaped = "".join(
        "\\" + char if char in '\\"' else char if char.isprintable() else f"\\U{ord(char):08x}" for char in text
    )
    return f'"{escaped}"'


def _wrong_type(raw: object, takes: str) -> ValueError:
    shown = f" ({raw!r:.64})" if isinstance(raw, (bool, int, float, str)) else ""
    return ValueError(f"takes {takes}, not {_TYPES.get(type(raw), type(raw).__name__)}{shown}")


def _string(raw: object, takes: str) -> str:
    if not isinstance(raw, str):
        raise _wrong_type(raw, takes)
    return raw


class Count:
    """A whole number within bounds."""

    metavar = "N"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.takes = f"an integer from {low} to {high}"

    def read(self, raw: object, *, text: bool) -> int:
        if text and isinstance(raw, str) and re.fullmatch(r"\d{1,18}", raw.strip()):
            raw = int(raw)
        if type(raw) is not int:
            raise _wrong_type(raw, self.takes)
        if not self.low <= raw <= self.high:
            raise ValueError(f"{raw} is outside the range; takes {self.takes}")
        return raw

    def show(self, value: int) -> str:
        return str(value)


class Size:
    """A number of bytes within bounds: an integer, or a string with a unit such as ``16MiB``."""

    metavar = "SIZE"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.takes = f'bytes from {_size(low)} to {_size(high)}: an integer or a string such as "16MiB"'

    def read(self, raw: object, *, text: bool) -> int:
        if isinstance(raw, str):
            raw = self._parse(raw.strip())
        if type(raw) is not int:
            raise _wrong_type(raw, self.takes)
        if not self.low <= raw <= self.high:
            raise ValueError(f"{_size(raw)} is outside the range; takes {self.takes}")
        return raw

    def _parse(self, text: str) -> int:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise _wrong_type(text, self.takes)
        if match[2] not in _UNITS:
            raise ValueError(f"unknown unit '{match[2]}'; units are B, KiB, MiB and GiB")
        return int(match[1]) * _UNITS[match[2]]

    def show(self, value: int) -> str:
        text = _size(value)
        return text if text.isdigit() else toml_string(text)


def _size(value: int) -> str:
    """``value`` bytes in the largest unit that divides it."""
    for unit in ("GiB", "MiB", "KiB"):
        if value and value % _UNITS[unit] == 0:
            return f"{value // _UNITS[unit]}{unit}"
    return str(value)


class Seconds:
    """A duration within bounds, in seconds; fractions are allowed."""

    metavar = "SECONDS"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.takes = f"seconds from {low:g} to {high:g}"

    def read(self, raw: object, *, text: bool) -> float:
        if text and isinstance(raw, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", raw.strip()):
            raw = float(raw)
        if isinstance(raw, bool) or not isinstance(raw, (int, float)):
            raise _wrong_type(raw, self.takes)
        if not self.low <= raw <= self.high:  # also false for nan
            raise ValueError(f"{raw:g} is outside the range; takes {self.takes}")
        return float(raw)

    def show(self, value: float) -> str:
        return repr(value)


class Choice:
    """One word of a few."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.metavar = "{" + ",".join(words) + "}"
        self.takes = "one of " + ", ".join(words)

    def read(self, raw: object, *, text: bool) -> str:
        word = _string(raw, self.takes)
        if word not in self.words:
            raise ValueError(f"'{word:.64}' is unknown; takes {self.takes}")
        return word

    def show(self, value: str) -> str:
        return toml_string(value)


class Name:
    """A name as endpoints and components have them."""

    metavar = "NAME"
    takes = "a name of 1 to 64 lower-case letters, digits, - and _"

    def read(self, raw: object, *, text: bool) -> str:
        name = _string(raw, self.takes)
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name:.64}' is not {self.takes}")
        return name

    def show(self, value: str) -> str:
        return toml_string(value)


class Names:
    """A list of names; in the environment and in flags separated by commas."""

    metavar = "NAME,..."

    def __init__(self, most: int | None = None, never: str = "") -> None:
        """At most ``most`` of them, and ``never`` is none of them."""
        self.most, self.never = most, never
        bound = "" if most is None else f"at most {most} "
        self.takes = f"a list of {bound}names (lower-case letters, digits, - and _)"

    def read(self, raw: object, *, text: bool) -> tuple[str, ...]:
        if text and isinstance(raw, str):
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        if not isinstance(raw, list):
            raise _wrong_type(raw, self.takes)
        names = tuple(Name().read(item, text=text) for item in raw)
        if len(set(names)) != len(names):
            raise ValueError("names one of its entries twice")
        if self.most is not None and len(names) > self.most:
            raise ValueError(f"names {len(names)}; takes {self.takes}")
        if self.never and self.never in names:
            raise ValueError(f"'{self.never}' cannot be one of them")
        return names

    def show(self, value: tuple[str, ...]) -> str:
        return "[" + ", ".join(toml_string(name) for name in value) + "]"


class Place:
    """An absolute path."""

    metavar = "DIR"
    takes = "an absolute path"

    def read(self, raw: object, *, text: bool) -> Path:
        path = _string(raw, self.takes)
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f"'{path:.64}' is not {self.takes}")
        return Path(path)

    def show(self, value: Path) -> str:
        return toml_string(str(value))


class PlaceOrOff:
    """An absolute path, or none."""

    metavar = "PATH"
    takes = 'an absolute path, or "off"'

    def read(self, raw: object, *, text: bool) -> Path | None:
        if _string(raw, self.takes) == "off":
            return None
        try:
            return Place().read(raw, text=text)
        except ValueError:
            raise ValueError(f"'{raw!s:.64}' is not {self.takes}") from None

    def show(self, value: Path | None) -> str:
        return toml_string("off" if value is None else str(value))


class ListenAddress:
    """Where to listen, on this machine only."""

    metavar = "ADDRESS"
    takes = 'a loopback address with a port ("127.0.0.1:9850", "[::1]:0"), "unix:///absolute/path", or "off"'

    def read(self, raw: object, *, text: bool) -> Listen:
        return parse_listen(_string(raw, self.takes))

    def show(self, value: Listen) -> str:
        return toml_string(str(value))


class NetworkAddress:
    """Where to listen for peers of the network, who are known by their keys."""

    metavar = "ADDRESS"
    takes = 'an address of this machine with a port ("192.0.2.1:5670", "[::1]:0"), or "off"'

    def read(self, raw: object, *, text: bool) -> TcpAddress | Off:
        return parse_network(_string(raw, self.takes))

    def show(self, value: TcpAddress | Off) -> str:
        return toml_string(str(value))
