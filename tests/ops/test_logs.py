"""Logs: their two forms, what a peer cannot do to them, and the limiter."""

import asyncio
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

from busd.ops.logs import JsonFormatter, LogLimiter, TextFormatter, configure, event

LOGGER = logging.getLogger("busd.test")


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """What ``configure`` changes is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "aiohttp")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name, each in levels.items():
        logging.getLogger(name).setLevel(each)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


class Recorder(logging.Handler):
    """Keeps ``(event, fields)`` of every record."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, dict[str, object]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append((record.event, dict(record.fields)))  # type: ignore[attr-defined]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    handler = Recorder()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    yield handler
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(logging.NOTSET)


TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_text_is_time_level_event_and_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    configure("info", "text", stream)
    event(LOGGER, logging.INFO, "started", socket="/run/busd/host.sock", pid=7, seconds=0.25, absent=None, what="a b")
    (line,) = lines_of(stream)
    assert re.fullmatch(TIME + r' INFO    started socket=/run/busd/host\.sock pid=7 seconds=0\.25 what="a b"', line)


def test_json_is_one_object_a_line() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    event(LOGGER, logging.WARNING, "peer-cut", reason="it\nlied", uid=7, seconds=0.25, open=True, absent=None)
    (line,) = lines_of(stream)
    found = json.loads(line)
    assert re.fullmatch(TIME, found.pop("time"))
    assert found == {
        "level": "warning",
        "event": "peer-cut",
        "logger": "busd.test",
        "reason": "it\nlied",
        "uid": 7,
        "seconds": 0.25,
        "open": True,
    }


def test_auto_is_text_on_a_terminal_and_json_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, start in ((Terminal(), "\x1b[33m20"), (io.StringIO(), '{"time":')):
        configure("info", "auto", stream)
        event(LOGGER, logging.WARNING, "x")
        assert stream.getvalue().startswith(start)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure("info", "auto", stream)
    event(LOGGER, logging.ERROR, "x")
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_the_least_that_is_logged(level: str, count: int) -> None:
    stream = io.StringIO()
    configure(level, "json", stream)
    for severity in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        event(LOGGER, severity, "x")
    assert len(lines_of(stream)) == count


HOSTILE = ["two\nlines level=ERROR", "\x1b[2Jcleared", "\x9b2J", "\u202ereversed", 'quote " end', "", "a=b c"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_peer_s_text_stays_one_word_of_one_line(value: str) -> None:
    stream = io.StringIO()
    for form in ("text", "json"):
        configure("info", form, stream)
        event(LOGGER, logging.INFO, "x", name=value, after=1)
    text, line = lines_of(stream)
    assert text.isprintable()
    quoted = text.removesuffix(" after=1").partition("x name=")[2]
    assert json.loads(quoted) == value
    assert json.loads(line)["name"] == value
    assert line.isascii()


def test_long_values_are_cut_and_say_so() -> None:
    stream = io.StringIO()
    for form in ("text", "json"):
        configure("info", form, stream)
        event(LOGGER, logging.INFO, "x", name="y" * 10_000)
    for line in lines_of(stream):
        assert "y" * 512 + "...(+9488)" in line
        assert len(line) < 700


def test_fields_cannot_replace_the_line_s_own() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    event(LOGGER, logging.INFO, "x", level="forged", time="never", event="other", logger="y")
    found = json.loads(stream.getvalue())
    assert (found["level"], found["event"], found["logger"]) == ("info", "x", "busd.test")
    assert (found["level_"], found["time_"], found["event_"], found["logger_"]) == ("forged", "never", "other", "y")


@pytest.mark.parametrize("form", ["text", "json"])
def test_other_libraries_and_tracebacks_fit_in(form: str) -> None:
    stream = io.StringIO()
    configure("info", form, stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("some.library").exception("it %s", "failed")
    if form == "json":
        found = json.loads(stream.getvalue())
        assert (found["event"], found["text"], found["from"]) == ("message", "it failed", "some.library")
        assert found["exception"].endswith("RuntimeError: broken")
    else:
        lines = lines_of(stream)
        assert lines[0].endswith('ERROR   message text="it failed" from=some.library')
        assert lines[-1] == "RuntimeError: broken"


def test_warnings_are_logged() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "DeprecationWarning: old" in json.loads(stream.getvalue())["text"]


def test_what_is_normal_to_the_http_library_is_not_logged() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("aiohttp.access").info("GET / 200")
    logging.getLogger("asyncio").info("poll took 1 ms")
    assert stream.getvalue() == ""


# -- the limiter ------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limiter(clock: Clock, **options: int) -> LogLimiter:
    return LogLimiter(LOGGER, interval=60.0, clock=clock, **options)


def test_the_first_is_logged_at_once_and_the_rest_counted(recorder: Recorder) -> None:
    clock = Clock()
    limited = limiter(clock)
    for number in range(1000):
        limited.event(logging.WARNING, "peer-cut", by=("uid", 7), number=number)
        clock.now += 0.05
    assert recorder.events == [("peer-cut", {"number": 0})]
    limited.expire(1060.0)
    assert recorder.events[1:] == [("peer-cut", {"number": 999, "repeated": 999, "seconds": 60.0})]


def test_after_the_summary_an_offender_starts_anew(recorder: Recorder) -> None:
    clock = Clock()
    limited = limiter(clock)
    for _ in range(3):
        limited.event(logging.WARNING, "x", by=1)
        limited.event(logging.WARNING, "x", by=1)
        clock.now += 61
    assert [fields for _, fields in recorder.events] == [
        {},
        {"repeated": 1, "seconds": 60.0},
        {},
        {"repeated": 1, "seconds": 60.0},
        {},
    ]


def test_who_was_quiet_gets_no_summary(recorder: Recorder) -> None:
    clock = Clock()
    limited = limiter(clock)
    limited.event(logging.WARNING, "x", by=1)
    limited.expire(clock.now + 61)
    limited.flush()
    assert recorder.events == [("x", {})]


def test_offenders_and_events_are_told_apart(recorder: Recorder) -> None:
    limited = limiter(Clock())
    for name in ("x", "y"):
        for by in (1, 2):
            limited.event(logging.WARNING, name, by=by, who=by)
    assert recorder.events == [("x", {"who": 1}), ("x", {"who": 2}), ("y", {"who": 1}), ("y", {"who": 2})]


def test_many_offenders_cannot_flood_the_log_either(recorder: Recorder) -> None:
    clock = Clock()
    limited = limiter(clock, offenders=10)
    for by in range(1000):
        limited.event(logging.WARNING, "x", by=by)
    assert len(recorder.events) == 11  # ten by name, and the first of all the others
    limited.expire(clock.now + 60)
    assert recorder.events[11:] == [("x", {"repeated": 989, "seconds": 60.0})]


def test_a_peer_cannot_make_itself_many_offenders(recorder: Recorder) -> None:
    limited = limiter(Clock())
    for number in range(100):
        limited.fault("cut-off", boundary="host", unit="host", uid=7, pid=number, component=f"c{number}", code=1001)
    limited.fault("cut-off", boundary="host", unit="host", uid=7, code=1002)
    limited.fault("cut-off", boundary="host", unit="host", uid=8, code=1001)
    assert [(fields["uid"], fields["code"]) for _, fields in recorder.events] == [(7, 1001), (7, 1002), (8, 1001)]
    limited.flush()
    assert recorder.events[3][1]["repeated"] == 99


def test_flush_tells_what_is_held_back(recorder: Recorder) -> None:
    limited = limiter(Clock())
    for _ in range(5):
        limited.event(logging.ERROR, "x", by=1)
    limited.flush()
    limited.flush()
    assert recorder.events == [("x", {}), ("x", {"repeated": 4, "seconds": 60.0})]


def test_on_a_running_loop_the_summary_comes_by_itself(recorder: Recorder) -> None:
    async def offend() -> None:
        limited = LogLimiter(LOGGER, interval=0.05)
        for _ in range(3):
            limited.event(logging.WARNING, "x", by=1)
        async with asyncio.timeout(5):
            while len(recorder.events) < 2:
                await asyncio.sleep(0.01)

    asyncio.run(offend())
    assert recorder.events == [("x", {}), ("x", {"repeated": 2, "seconds": 0.05})]


def test_formatters_take_records_of_any_maker() -> None:
    record = logging.LogRecord("n", logging.INFO, "f.py", 1, "%d items", (3,), None)
    assert json.loads(JsonFormatter().format(record))["text"] == "3 items"
    assert TextFormatter(colour=False).format(record).endswith('message text="3 items" from=n')
