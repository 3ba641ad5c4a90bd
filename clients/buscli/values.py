"""What arguments mean: durations, counts, sizes and headers as text. Each raises ValueError with the reason."""

from buscli.units import rfc3339

_SECONDS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20}


def _split(text: str) -> tuple[str, str]:
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return number, text[len(number) :]


def seconds(text: str) -> float:
    """A positive duration: ``1.5``, ``500ms``, ``30s``, ``2m``, ``1h``, ``7d``. Bare numbers are seconds."""
    number, unit = _split(text)
    try:
        value = float(number) * _SECONDS[unit]
    except (KeyError, ValueError):
        raise ValueError(f"'{text}' is not a duration: write 1.5, 500ms, 30s, 2m, 1h or 7d") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"'{text}' must be more than zero")
    return value


def timeout(text: str) -> float:
    """A duration that a call may wait: 1 ms to 24 h (schemas/README.md, "Bounds")."""
    value = seconds(text)
    if not 0.001 <= value <= 86400:
        raise ValueError(f"'{text}' is not within 1ms to 24h")
    return value


def count(text: str) -> int:
    """A whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a whole number") from None
    if value < 1:
        raise ValueError(f"'{text}' must be at least 1")
    return value


def user(text: str) -> int:
    """A user id."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"'{text}' is not a user id: write its number (id -u NAME)")
    return int(text)


def rate(text: str) -> float:
    """A positive number per second."""
    return _positive(text, "a number per second")


def factor(text: str) -> float:
    """How many times as much: a positive number."""
    return _positive(text, "a number")


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not {what}") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"'{text}' must be more than zero")
    return value


def size(text: str) -> int:
    """Bytes: ``100``, ``4k``, ``1MiB``. Units are powers of 1024."""
    number, unit = _split(text)
    try:
        value = int(number) * _BYTES[unit.lower()]
    except (KeyError, ValueError):
        raise ValueError(f"'{text}' is not a size: write 100, 4k or 1MiB") from None
    if value < 0:
        raise ValueError(f"'{text}' must not be negative")
    return value


def header(text: str) -> tuple[str, str]:
    """``name:value``; blanks after the colon are dropped, as in HTTP. The name is checked where the message is made."""
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise ValueError(f"'{text}' is not a header: write name:value")
    return name, value.lstrip()


def since(text: str) -> str:
    """A moment as RFC 3339 in UTC with microseconds, from a date, a time, or how long ago it was (``2h``, ``7d``)."""
    from datetime import UTC, datetime, timedelta

    try:
        number, unit = _split(text)
        ago = float(number) * _SECONDS[unit]
        moment = datetime.now(UTC) - timedelta(seconds=ago)
    except (KeyError, ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(text)
            moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            raise ValueError(f"'{text}' is neither a time (2026-01-31T12:00:00Z, UTC) nor how long ago (2h)") from None
    return rfc3339(moment)


def place(text: str) -> str:
    """Where a component runs: ``host``, ``soc`` or ``guest:UNIT``."""
    boundary, _, unit = text.partition(":")
    if text in ("host", "soc") or (boundary == "guest" and unit):
        return text
    raise ValueError(f"'{text}' is not a place: write host, soc or guest:UNIT")


def anchor(text: str) -> tuple[int, str]:
    """``SEQ:HASH``: a record's number and the 64 hexadecimal digits of its hash."""
    number, _, digest = text.partition(":")
    if not number.isdecimal() or not number.isascii() or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"'{text:.100}' is not SEQ:HASH, as the last line of bus audit verify says it")
    return int(number), digest


def mode(text: str) -> int:
    """A file's permissions in octal: ``0660``."""
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise ValueError(f"'{text}' is not a mode: write 0660")
    return value
