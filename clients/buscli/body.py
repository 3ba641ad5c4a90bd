"""Where a message's body comes from: the command line, a file or standard input, as JSON text or as raw bytes."""

import os
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final

from buscli import jsonform, values
from buscli.parser import UsageError
from buscli.table import Argument

RAW_TYPE: Final = "application/octet-stream"
"""``datacontenttype`` of a raw body where the user names no other: without it a receiver would decode msgpack."""

LINES_AHEAD: Final = 1000
"""Lines that are read before they are sent."""

TEXT_BYTES: Final = 64 << 20
"""The longest JSON text that is read for one body. Base64 and spaces make it longer than the payload it stands for."""

ARGUMENTS: Final = (
    Argument(
        "--file",
        "read the body from this file; - is standard input",
        aliases=("-f",),
        metavar="PATH",
        completes="file",
    ),
    Argument("--raw", "bytes as they are, not JSON", arity="flag"),
    Argument(
        "--header",
        "a header to send, such as -H traceparent:00-4bf9...; repeat it for more",
        aliases=("-H", "--headers"),
        metavar="K:V",
        convert=values.header,
        arity="repeat",
    ),
)
"""The options of every command that sends a body."""

HOW_BODIES_READ: Final = """\
BODY is JSON text. Text that is not JSON and does not begin like it is a string, so hello and '"hello"' are the same.
What JSON cannot say is written {"$bytes": "base64"}, {"$float": "NaN"}, {"$map": [[key, value]]} or
{"$ext": [type, "base64"]}; output uses the same forms. With --raw a body is bytes as they are."""


def of_text(text: str, *, where: str = "BODY") -> bytes:
    """The payload that JSON text stands for, as msgpack. Raises UsageError, BusError 6003 and 2007."""
    try:
        value = jsonform.parse(text)
    except ValueError as error:
        raw = "" if where == "--deliver" else ", or --raw to send it as it is"
        raise UsageError(f"bus: {where} is not a body: {error}", f"bus help pub{raw}") from None
    from busproto.envelope import pack

    return _bounded(pack(value), raw=True)


def of_argument(typed: str, *, raw: bool, where: str = "BODY") -> bytes:
    """The payload that stands on the command line. Raises as `of_text`."""
    return os.fsencode(typed) if raw else of_text(typed, where=where)


def of_bytes(content: bytes, *, raw: bool, where: str) -> bytes:
    """The payload in what was read: raw, or JSON text in UTF-8. Raises as `of_text`."""
    if raw:
        return content
    try:
        return of_text(content.decode("utf-8"), where=where)
    except UnicodeDecodeError:
        raise UsageError(f"bus: {where} is not UTF-8 text", "--raw to send its bytes as they are") from None


def headers_of(args: Namespace) -> dict[str, Any]:
    """The headers to send. Raises UsageError for a name given twice, BusError 1013 for what the protocol refuses."""
    headers: dict[str, Any] = {}
    for name, value in args.header or ():
        if name in headers:
            raise UsageError(f"bus: header {name} is given twice", f"bus {args.command_name} --help")
        headers[name] = value
    if headers:
        _check(headers)
    if args.raw:
        headers.setdefault("datacontenttype", RAW_TYPE)
    return headers


def _check(headers: dict[str, Any]) -> None:
    from busproto.envelope import check_headers
    from busproto.errors import BusError, Code

    if (reason := check_headers(headers)) is not None:
        raise BusError(Code.HEADERS_INVALID, reason=reason)


def read(args: Namespace, *, otherwise_stdin: bool) -> bytes:
    """The one payload of this command line; without BODY and ``--file`` it is standard input, or else None.

    Raises:
        UsageError: two bodies, or one that cannot be read.
        BusError: 2007, it is longer than any payload may be; 6003, msgpack cannot hold it.
        OSError: the file cannot be read.
    """
    if args.body is not None and args.file is not None:
        raise UsageError("bus: BODY and --file are two bodies", f"bus {args.command_name} --help")
    if args.body is not None and args.body != "-":
        return of_argument(args.body, raw=args.raw)
    if args.body is None and args.file is None and not otherwise_stdin:
        return b"" if args.raw else of_text("")
    with _opened(args) as (stream, where):
        return of_bytes(_bounded(stream.read(_limit(raw=args.raw) + 1), raw=args.raw), raw=args.raw, where=where)


def check_lines(args: Namespace) -> None:
    """Raises UsageError unless ``--lines`` can be read with these arguments."""
    if args.body not in (None, "-"):
        raise UsageError("bus: BODY and --lines are two bodies", f"bus {args.command_name} --help")
    if args.body is not None and args.file is not None:
        raise UsageError("bus: - and --file are two bodies", f"bus {args.command_name} --help")


def read_lines(args: Namespace) -> Iterator[bytes]:
    """A payload from each line of ``--file`` or standard input, as soon as the line is there; its newline is left off.

    Raises as `read`, naming the line. `check_lines` comes first.
    """
    limit = _limit(raw=args.raw)
    with _opened(args) as (stream, where):
        for number, line in enumerate(iter(lambda: stream.readline(limit + 2), b""), start=1):
            content = _bounded(line.removesuffix(b"\n"), raw=args.raw)
            yield of_bytes(content, raw=args.raw, where=f"line {number} of {where}")


@contextmanager
def _opened(args: Namespace) -> Iterator[tuple[BinaryIO, str]]:
    """The stream that ``--file`` or standard input is, and what to call it in errors. Leaves standard input open."""
    if args.file not in (None, "-"):
        with open(args.file, "rb") as stream:
            yield stream, args.file
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write("reading the body from this terminal; Ctrl-D ends it\n")
    # A reader of its own: a thread that still waits in sys.stdin's would make the interpreter's exit fatal.
    with open(sys.stdin.fileno(), "rb", closefd=False) as stream:
        yield stream, "standard input"


def _limit(*, raw: bool) -> int:
    from busproto.limits import PAYLOAD_BYTES

    return PAYLOAD_BYTES if raw else TEXT_BYTES


def _bounded(content: bytes, *, raw: bool) -> bytes:
    """``content``, unless it is longer than is read for one body: the rest of it has not been read."""
    limit = _limit(raw=raw)
    if len(content) > limit:
        from busproto.errors import BusError, Code

        raise BusError(Code.PAYLOAD_TOO_LARGE, size=len(content), limit=limit)
    return content


async def following(args: Namespace) -> AsyncIterator[bytes]:
    """`read_lines` without holding up the event loop: a thread reads ahead, at most `LINES_AHEAD` lines."""
    import asyncio
    import threading

    loop = asyncio.get_running_loop()
    read_ahead: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(LINES_AHEAD)

    def pump() -> None:
        end: Exception | None = None
        try:
            for line in read_lines(args):
                room.acquire()
                loop.call_soon_threadsafe(read_ahead.put_nowait, line)
        except Exception as error:
            end = error
        with suppress(RuntimeError):  # the loop was closed: nobody reads any more
            loop.call_soon_threadsafe(read_ahead.put_nowait, end)

    # A daemon: it may wait for a line for ever, and the program must be able to end all the same.
    threading.Thread(target=pump, name="lines", daemon=True).start()
    while (item := await read_ahead.get()) is not None:
        if isinstance(item, Exception):
            raise item
        room.release()
        yield item
