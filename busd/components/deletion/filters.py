"""Which files of a tree go and which stay: by age, name, size, owner and type.

What is asked is asked of the figures of a moment ago: the walker stats each file just before it removes it.
"""

import re
import stat
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Protocol, Self

import msgspec

from busd.components.deletion.glob import compiled
from busproto.errors import BusError, Code

__all__ = ["Facts", "FileType", "Filter"]

FileType = Literal["file", "link", "fifo", "socket", "device"]

USUAL: Final = frozenset({"file", "link", "fifo"})
"""What goes when no types are named. A socket may have somebody who listens, a device is not what takes the space."""

_KINDS: Final[Mapping[int, FileType]] = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}

_AMOUNT: Final = re.compile(r"\s*([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([A-Za-z]{0,3})\s*")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES: Final = {"": 1, "b": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for unit, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}

LONGEST_SECONDS: Final = 1e11
"""3,000 years: more is a mistake."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_SECONDS)]
Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Facts(Protocol):
    """What a filter looks at; the walker's ``Entry`` has it. Times in unix seconds, size in bytes."""

    @property
    def path(self) -> bytes:
        """Relative to the job's directory."""

    @property
    def mode(self) -> int: ...

    @property
    def uid(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def atime(self) -> float: ...

    @property
    def mtime(self) -> float: ...

    @property
    def ctime(self) -> float: ...


class Filter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What has to be true of a file for it to go. All that is given has to be; of the rest, what is safe goes.

    It never lets a directory go, nor a file with the sticky bit (its owner's way to say so: systemd-tmpfiles), nor a
    socket or a device unless ``types`` names it.

    Raises ValueError for what is invalid, or lets nothing go whatever there is; msgspec.ValidationError when decoded.
    """

    older_than: Seconds | None = None
    """Seconds since it was last read, written or changed in any way, the latest of these. One from the future stays.

    When it was made is not asked: the time of the last change begins with it, is set by the kernel only, and can lie
    before it only if the clock was set back. Asking costs a statx beside each stat, 2.9 us beside 1.9 us.
    """
    glob: bytes | None = None
    """On the path relative to the job's directory (`glob.Glob`)."""
    larger_than: Size | None = None
    """Bytes; exactly as many is not larger."""
    smaller_than: Size | None = None
    owner: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] | None = None
    """User id."""
    types: frozenset[FileType] | None = None
    """None: file, link and fifo."""

    def __post_init__(self) -> None:
        if self.older_than is not None and not 0 <= self.older_than <= LONGEST_SECONDS:
            raise ValueError(f"older_than: {self.older_than} is no number of seconds")
        for name, size in (("larger_than", self.larger_than), ("smaller_than", self.smaller_than)):
            if size is not None and not 0 <= size < 1 << 63:
                raise ValueError(f"{name}: {size} is no size")
        if (
            self.smaller_than is not None
            and self.smaller_than <= (-1 if self.larger_than is None else self.larger_than) + 1
        ):
            above = "" if self.larger_than is None else f" and larger than {self.larger_than}"
            raise ValueError(f"smaller_than: nothing is smaller than {self.smaller_than}{above}")
        if self.owner is not None and not 0 <= self.owner < 1 << 32:
            raise ValueError(f"owner: {self.owner} is no user id")
        if self.types is not None:
            unknown = sorted(str(each) for each in self.types if each not in _KINDS.values())
            if unknown or not self.types:
                named = ", ".join(unknown) or "nothing"
                raise ValueError(f"types: {named} is not among file, link, fifo, socket, device")
        if self.glob is not None:
            try:
                compiled(self.glob)
            except ValueError as error:
                raise ValueError(f"glob: {error}") from None

    def spares(self, entry: Facts, now: float) -> str | None:
        """Why ``entry`` stays, in one word; None: it goes. ``now`` in unix seconds.

        "directory", "type", "socket", "device", "sticky", "owner", "size", "young", "name".
        """
        mode = entry.mode
        kind = _KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            return "directory" if stat.S_ISDIR(mode) else "type"
        if self.types is None:
            if kind not in USUAL:
                return kind
        elif kind not in self.types:
            return "type"
        if mode & stat.S_ISVTX and kind != "link":  # a link's own mode says nothing
            return "sticky"
        if self.owner is not None and entry.uid != self.owner:
            return "owner"
        size = entry.size
        if self.larger_than is not None and size <= self.larger_than:
            return "size"
        if self.smaller_than is not None and size >= self.smaller_than:
            return "size"
        if self.older_than is not None:
            since = now - self.older_than
            if not (entry.atime < since and entry.mtime < since and entry.ctime < since):  # NaN is not
                return "young"
        if self.glob is not None and not compiled(self.glob).matches(entry.path):
            return "name"
        return None

    @classmethod
    def parse(cls, fields: Mapping[str, Any], *, subject: str = "deletion.submit") -> Self:
        """A filter from what people write; what is empty or None is left out.

        ``older_than``: seconds, or text with s, m, h, d or w ("36h"). ``larger_than``, ``smaller_than``: bytes, or text
        with k, M, G, T, P (1000) or Ki, Mi, ... (1024). ``owner``: number or name. ``types``: a list, or text with
        commas. ``glob``: bytes or text.

        Raises BusError REQUEST_INVALID (2008), whose reason begins with the field's name.
        """
        made: dict[str, Any] = {}
        name = "filter"
        try:
            for name, value in fields.items():
                read = _READERS.get(name)
                if read is None:
                    raise ValueError(f"there is no such field; there are {', '.join(_READERS)}")
                if value is not None and value != "" and value != b"":
                    made[name] = read(value)
        except ValueError as error:
            raise BusError(Code.REQUEST_INVALID, subject=subject, reason=f"{_shown(name)}: {error}") from None
        try:
            return cls(**made)
        except ValueError as error:
            raise BusError(Code.REQUEST_INVALID, subject=subject, reason=str(error)) from None


def _shown(name: object) -> str:
    return str(name)[:64] if str(name).isprintable() else repr(name)[:64]


def _amount(value: object, units: Mapping[str, int], what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    found = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    factor = units.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"{_shown(repr(value))} is no {what}")
    # Whole numbers stay whole: a float has 53 bits, a size 63.
    return int(found[1]) * factor if found[1].isdigit() else float(found[1]) * factor


def _age(value: object) -> float:
    amount = _amount(value, _SECONDS, "time; write seconds, or 90s, 15m, 36h, 30d, 2w")
    if not 0 <= amount <= LONGEST_SECONDS:
        raise ValueError(f"{_shown(amount)} is no number of seconds")
    return float(amount)


def _size(value: object) -> int:
    amount = _amount(value, _BYTES, "size; write bytes, or 64k, 10M, 1.5G, 4Ki, 2TiB")
    if not 0 <= amount < 1 << 63:  # NaN is neither
        raise ValueError(f"{_shown(amount)} is no size")
    return int(amount)


def _pattern(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")  # as Python reads names that are no UTF-8
    if isinstance(value, bytes):
        return value
    raise ValueError("a pattern is bytes or text")


def _user(value: object) -> int:
    if isinstance(value, str):
        if re.fullmatch("[0-9]{1,10}", value) is None:
            found = _user_id(value)
            if found is None:
                raise ValueError(f"this node has no user {_shown(repr(value))}")
            return found
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a user is a number or a name")
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{value} is no user id")
    return value


if sys.platform == "win32":

    def _user_id(name: str) -> int | None:
        return None  # owners there are no numbers
else:

    def _user_id(name: str) -> int | None:
        import pwd

        try:
            return pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError):  # ValueError: a NUL in the name
            return None


def _types(value: object) -> frozenset[str]:
    if isinstance(value, str):
        value = [each.strip() for each in value.split(",")]
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(each, str) for each in value):
        raise ValueError("types are a list, or names with commas between them")
    return frozenset(value)


_READERS: Final = {
    "older_than": _age,
    "glob": _pattern,
    "larger_than": _size,
    "smaller_than": _size,
    "owner": _user,
    "types": _types,
}
