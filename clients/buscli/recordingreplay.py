"""A recording, published again or printed: what ``bus replay`` does."""

import asyncio
import os
import stat
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final, Self

from buscli.connection import attached
from buscli.exits import Exit
from buscli.jsonform import to_json
from buscli.messages import headers_record, payload_record, show_headers
from buscli.output import Output, Style, json_text, printable
from buscli.parser import UsageError
from buscli.recording import End, Gap, Header, Item, Message, Reader
from buscli.units import binary_size, duration, rfc3339
from busclient.message import NO_ORIGIN, Content
from busproto.errors import BusError, Code
from busproto.subjects import check_subject, is_reserved, matches

SLEEP_SECONDS: Final = 1e-3
"""A shorter wait is not worth one."""

FLUSH_SECONDS: Final = 1.0
"""As often it is asked whether the broker refused something."""

LOOP_SECONDS: Final = 0.1
"""The least time from one beginning to the next: a recording of one message would flood the bus."""

YIELD_MESSAGES: Final = 256
"""Published in one go before others on the loop have a turn: Ctrl-C, and what comes in."""

_ORIGIN: Final = ("endpoint", "boundary", "tenant", "unit", "generation")


class Replay:
    """One run of ``bus replay``. Enter it: it holds the file."""

    def __init__(self, args: Namespace) -> None:
        """Raises OSError if the file cannot be read, BusError 6020 and 6021 if it is not a recording."""
        self._args = args
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        if not stat.S_ISREG(os.stat(args.file).st_mode):
            raise UsageError(f"bus replay: {args.file} is no plain file", "bus replay FILE")
        self._file = open(args.file, "rb")  # noqa: SIM115  (held until __exit__)
        try:
            self._reader = Reader(self._file, args.file)
        except BaseException:
            self._file.close()
            raise
        self._messages = self._bytes = self._left_out = 0
        """Of the messages that are to be published; and those of the broker's own, which are not."""
        self._first = self._last = 0.0
        """When the first of them came, and when the recording ended."""
        self._told = False
        """Whether damage was told of that --partial passes over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    # -- without a bus ------------------------------------------------------------------------------------------------

    def show(self) -> int:
        """Print all that is in it."""
        output, header = self._output, self._reader.header
        if output.human:
            output.line(
                printable(f"{self._args.file}: {', '.join(header.patterns)} on {header.node}, {header.started}")
            )
        else:
            output.record({"recording": header._asdict()})
        for item in self._items():
            match item:
                case Message():
                    self._show_message(item, header)
                case Gap():
                    self._show_gap(item, records=True)
                case End() if output.human:
                    output.line(f"{item.messages} messages and {item.gaps} gaps in {duration(item.at)}; it is whole")
                case End():
                    output.record({"end": {"seconds": item.at, "messages": item.messages, "gaps": item.gaps}})
        output.flush()
        return Exit.OK

    def rehearse(self) -> int:
        """Print what would be published, and when."""
        self.check()
        output = self._output
        for message in self._wanted():
            after = (message.at - self._first) / self._speed
            subject = self._target(message)
            if output.human:
                size = binary_size(len(message.data))
                output.line(f"{after:>12.6f} s  {output.styled(subject, Style.CYAN)}  {size}")
            else:
                output.record({"seconds": round(after, 6), "subject": subject, "bytes": len(message.data)})
        output.note(f"{self._messages} messages, {binary_size(self._bytes)}; nothing was published")
        return Exit.OK

    # -- with one -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Read all of it before anything is published.

        Raises BusError 6021 for a damaged file, 2001 if a subject would be too long with the prefix, and UsageError if
        nothing is left to be published.
        """
        messages, first = 0, None
        for item in self._items():
            self._last = item.at
            if isinstance(item, Gap):
                self._show_gap(item, records=False)
            elif isinstance(item, Message):
                if is_reserved(item.subject):
                    self._left_out += 1
                    continue
                check_subject(self._target(item))
                first = item.at if first is None else first
                messages += 1
                self._bytes += len(item.data)
        self._messages, self._first = messages, first or 0.0
        if self._left_out:
            self._output.note(f"bus replay: {self._left_out} messages of the broker's own ($bus.) are left out")
        if not messages:
            wanted = " that --subject asks for" if self._args.subject else ""
            raise UsageError(
                f"bus replay: there is no message in {self._args.file}{wanted}",
                f"bus replay {self._args.file} --show",
                exit=Exit.FAILED,
            )

    async def run(self) -> int:
        """Publish all of it, as often as is asked for."""
        args, output = self._args, self._output
        loop = asyncio.get_running_loop()
        published, late = 0, 0.0
        async with attached(args, output, args.file) as bus:
            if output.interactive:
                output.note(f"{self._messages} messages, published as {bus.endpoint}; it is their origin now")
            began = start = flushed = loop.time()
            try:
                while True:
                    for message in self._wanted():
                        due = start + (message.at - self._first) / self._speed
                        now = loop.time()
                        if not args.fast and due - now > SLEEP_SECONDS:
                            await asyncio.sleep(due - now)
                        elif published % YIELD_MESSAGES == 0:
                            await asyncio.sleep(0)
                        if not args.fast:
                            late = max(late, loop.time() - due)
                        await bus.publish(self._target(message), data=message.data, headers=message.headers)
                        published += 1
                        if now - flushed > FLUSH_SECONDS:
                            flushed = now
                            await bus.flush()
                            output.progress(f"published {published} messages; Ctrl-C ends it")
                    if not args.loop:
                        break
                    await bus.flush()
                    start += max((self._last - self._first) / self._speed, 0.0 if args.fast else LOOP_SECONDS)
                    start = loop.time() if args.fast else max(start, loop.time() - FLUSH_SECONDS)
            finally:  # also at Ctrl-C: what was read is sent
                await bus.flush()
                output.progress("")
                self._report(published, loop.time() - began, late)
        return Exit.OK

    def _report(self, published: int, seconds: float, late: float) -> None:
        output = self._output
        if output.human:
            output.line(f"published {published} messages in {duration(seconds)}, at most {late * 1e3:.1f} ms late")
        else:
            facts = {"seconds": round(seconds, 3), "late_seconds": round(late, 6), "left_out": self._left_out}
            output.record({"replayed": published, **facts})
        output.flush()

    # -- what is in it ------------------------------------------------------------------------------------------------

    @property
    def _speed(self) -> float:
        return float("inf") if self._args.fast else self._args.speed or 1.0

    def _target(self, message: Message) -> str:
        """On which subject it is published."""
        prefix = self._args.prefix
        return message.subject if prefix is None else f"{prefix}.{message.subject}"

    def _items(self) -> Iterator[Item]:
        """What is in it and --subject asks for; with --partial, up to where it is damaged."""
        patterns = self._args.subject
        try:
            for item in self._reader.items():
                if not patterns or not isinstance(item, Message) or any(matches(p, item.subject) for p in patterns):
                    yield item
        except BusError as error:
            if error.code != Code.RECORDING_DAMAGED or not self._args.partial:
                raise
            if not self._told:
                self._told = True
                self._output.note(f"bus replay: {error.text}; this is what stands before it")

    def _wanted(self) -> Iterator[Message]:
        """The messages that are published."""
        for item in self._items():
            if isinstance(item, Message) and not is_reserved(item.subject):
                yield item

    # -- showing ------------------------------------------------------------------------------------------------------

    def _show_message(self, message: Message, header: Header) -> None:
        output = self._output
        headers = dict(message.headers or {})
        payload = payload_record(Content(message.data, headers or None, NO_ORIGIN))
        sender = None if message.origin is None else dict(zip(_ORIGIN, message.origin, strict=True))
        if not output.human:
            record: dict[str, Any] = {"seconds": message.at, "received": _moment(header, message.at)}
            record |= {"subject": message.subject, **payload, "headers": headers_record(headers), "origin": sender}
            output.record(record)
            return
        by = "" if sender is None else f" <- {sender['endpoint']}"
        output.line(
            f"{message.at:>12.6f} s  {output.styled(message.subject, Style.CYAN)} {json_text(payload['payload'])}"
            f"{output.styled(by, Style.DIM)}"
        )
        show_headers(output, headers)

    def _show_gap(self, gap: Gap, *, records: bool) -> None:
        if records and not self._output.human:
            told = {"seconds": gap.at, "pattern": gap.pattern, "count": gap.lost, "reason": gap.reason}
            self._output.record({"gap": to_json(told)})
            return
        count = "an unknown number of" if gap.lost is None else gap.lost
        self._output.note(f"{gap.at:.6f} s: {count} messages on '{gap.pattern}' were lost here: {gap.reason}")


def _moment(header: Header, at: float) -> str | None:
    """When that was; None if the recording does not say when it began."""
    try:
        return rfc3339(datetime.fromisoformat(header.started) + timedelta(seconds=at))
    except (ValueError, OverflowError, TypeError):
        return None
