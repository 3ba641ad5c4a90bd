"""Logs of the daemon.

The contract, as dbus-broker's: **one line at start, one at stop, otherwise only on someone's fault.** On a node where
every peer behaves and nothing is short, nothing else is ever written at level info, so every line is worth reading.

Every line has an *event*, a stable lower-case name that alerts can rely on, and fields. On a terminal it is text, in
colour unless NO_COLOR is set; elsewhere it is one JSON object. What a peer chose (names, subjects) is quoted and cut,
so that no peer can forge a line or colour a terminal.

Whoever logs because of a peer goes through a ``LogLimiter``: the first time at once, and then counted.
"""

import asyncio
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Final, TextIO

__all__ = ["JsonFormatter", "LogLimiter", "TextFormatter", "configure", "event"]

VALUE_CHARACTERS: Final = 512
"""One value in a line. Longer ones are cut: a subject has at most 255 bytes, a reason is a sentence."""

OFFENDER: Final = ("boundary", "unit", "uid", "reason", "code")
"""Fields that tell one offender's fault from another's. A peer can choose none of them, as it could a component's name
to make every line a new offender's."""

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_PLAIN: Final = re.compile(r"[\w./:@%+,*>$\[\]-]+", re.ASCII)
_COLOURS: Final = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m", "DEBUG": "\x1b[2m"}
_RESERVED: Final = frozenset({"time", "level", "event", "logger", "message", "exception"})


def event(logger: logging.Logger, level: int, name: str, /, **fields: object) -> None:
    """Log the event ``name`` with ``fields``. Fields that are None are left out."""
    if logger.isEnabledFor(level):
        kept = {key: value for key, value in fields.items() if value is not None}
        logger.log(level, name, extra={"event": name, "fields": kept})


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send all logging of this process to ``stream`` (standard error).

    Args:
        level: least severity: debug, info, warning or error.
        form: ``text``, ``json``, or ``auto``: text if the stream is a terminal.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    handler = logging.StreamHandler(stream)
    if form == "text" or (form == "auto" and terminal):
        handler.setFormatter(TextFormatter(colour=terminal and not os.environ.get("NO_COLOR")))
    else:
        handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    logging.captureWarnings(True)
    # Libraries log what is normal to them (a client that hung up); here that is nobody's fault.
    for name in ("asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.WARNING))


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z WARNING event key=value key="quoted value"``."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        words = [_event_of(record)]
        words += [f"{key}={_quoted(value)}" for key, value in _fields_of(record).items()]
        line = f"{_time_of(record)} {record.levelname:<7} {' '.join(words)}"
        if self._colour and (colour := _COLOURS.get(record.levelname)):
            line = f"{colour}{line}\x1b[0m"
        if trace := _trace_of(self, record):
            line += "\n" + trace
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object: ``time``, ``level``, ``event``, ``logger``, the fields, and ``exception`` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "event": _event_of(record),
            "logger": record.name,
        }
        for key, value in _fields_of(record).items():
            line[key + "_" if key in _RESERVED else key] = _json_value(value)
        if trace := _trace_of(self, record):
            line["exception"] = trace
        return json.dumps(line, ensure_ascii=True, separators=(",", ":"))


def _event_of(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", "message"))


def _fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    """The record's fields; of a record that some library made, its message."""
    if hasattr(record, "event"):
        fields: Mapping[str, object] = getattr(record, "fields", {})
        return fields
    return {"text": record.getMessage(), "from": record.name}


def _trace_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""


def _time_of(record: logging.LogRecord) -> str:
    """RFC 3339, UTC, milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.created * 1000) % 1000:03d}Z"


def _quoted(value: object) -> str:
    """``value`` as one word of a text line: nothing in it can end the line, start another or move the cursor."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _cut(str(value))
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _json_value(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS else f"{text[:VALUE_CHARACTERS]}...(+{len(text) - VALUE_CHARACTERS})"


@dataclass(slots=True)
class _Held:
    """What is held back of one event of one offender."""

    level: int
    name: str
    fields: Mapping[str, object]
    until: float
    count: int = 0


class LogLimiter:
    """Keeps one offender from flooding the log.

    The first event of an offender is logged at once. Those of the next ``interval`` seconds are counted, and when it
    ends one line says how many there were (``repeated``) with the fields of the last one. At most ``offenders`` are
    told apart; what goes beyond is counted together, by event.

    On a running loop the summaries come by themselves; ``flush`` writes them when the node stops.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        interval: float = 60.0,
        offenders: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval = interval
        self._offenders = offenders
        self._clock = clock
        self._held: dict[tuple[str, Hashable], _Held] = {}
        self._timer: asyncio.TimerHandle | None = None

    def event(self, level: int, name: str, /, *, by: Hashable, **fields: object) -> None:
        """Log the event ``name`` caused by ``by``, or count it."""
        now = self._clock()
        self.expire(now)
        key: tuple[str, Hashable] = (name, by)
        if key not in self._held and len(self._held) >= self._offenders:
            key = (name, None)
        held = self._held.get(key)
        if held is None:
            event(self._logger, level, name, **fields)
            self._held[key] = _Held(level, name, fields, now + self._interval)
        else:
            held.count += 1
            held.fields = fields
            self._arm(now)

    def fault(self, name: str, /, **fields: object) -> None:
        """Log at level warning the event ``name`` that a peer caused: the user or unit that ``fields`` name."""
        self.event(logging.WARNING, name, by=tuple(fields.get(name) for name in OFFENDER), **fields)

    def expire(self, now: float) -> None:
        """Write the summaries that are due at ``now`` and forget who has been quiet since."""
        due = [key for key, held in self._held.items() if held.until <= now]
        for key in due:
            self._summarise(self._held.pop(key))

    def flush(self) -> None:
        """Write every summary now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._held:
            self._summarise(self._held.pop(next(iter(self._held))))

    def _summarise(self, held: _Held) -> None:
        if held.count:
            event(self._logger, held.level, held.name, **held.fields, repeated=held.count, seconds=self._interval)

    def _arm(self, now: float) -> None:
        """Have the loop, if one runs, write the next summary when it is due."""
        if self._timer is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        due = min((held.until for held in self._held.values() if held.count), default=now)
        self._timer = loop.call_later(max(0.0, due - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock()
        self.expire(now)
        if any(held.count for held in self._held.values()):
            self._arm(now)
