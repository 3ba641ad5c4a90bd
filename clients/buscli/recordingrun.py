"""Messages on their way into a file: what ``bus record`` does."""

import asyncio
from argparse import Namespace
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import busclient
from buscli import recording
from buscli.connection import attached, first_of
from buscli.exits import Exit
from buscli.output import Output, printable
from buscli.parser import UsageError
from buscli.recordingfile import check_new, create, sync_directory
from buscli.units import binary_size, duration, rfc3339
from busproto.subjects import matches

TICK_SECONDS: Final = 0.5
"""Between two looks at how far it is. As much is lost at most if this process is killed."""


class Recorder:
    """One run of ``bus record``."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._path = Path(args.output)
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        self._patterns: list[str] = list(dict.fromkeys(args.pattern))
        self._left: int | None = args.count
        self._full = False
        self._lost: int | None = 0
        """None once nobody knows how many."""
        self._start = 0.0
        self._file: BinaryIO
        self._writer: recording.Writer

    async def run(self) -> int:
        args = self._args
        check_new(self._path, force=args.force)
        about = " ".join(self._patterns)
        async with attached(args, self._output, about, reconnect=True) as bus, AsyncExitStack() as stack:
            wanted = [bus.subscribe(pattern, gaps="yield") for pattern in self._patterns]
            subscriptions = [await stack.enter_async_context(each) for each in wanted]
            self._open(bus)
            try:
                work = [self._follow(each, place) for place, each in enumerate(subscriptions)]
                await first_of(*work, self._tick(), seconds=vars(args)["for"])
            finally:  # also at Ctrl-C: what was recorded is whole
                self._close()
                self._report()
        return Exit.TIMEOUT if self._left and not self._full else Exit.OK

    def _open(self, bus: busclient.Bus) -> None:
        self._file = create(self._path, force=self._args.force)
        node, broker = (str(bus.welcome.get(name, "")) for name in ("node", "broker"))
        header = recording.Header(node, broker, rfc3339(datetime.now(UTC)), tuple(self._patterns))
        self._start = asyncio.get_running_loop().time()
        try:
            self._writer = recording.Writer(self._file, header)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from None

    def _close(self) -> None:
        try:
            self._writer.end(self._at())
            sync_directory(self._path)
        except (OSError, ValueError) as error:  # ValueError: it is closed, for writing to it failed
            if isinstance(error, OSError):
                raise self._failed(error) from None
        finally:
            with suppress(OSError):
                self._file.close()
            self._output.progress("")

    def _at(self) -> float:
        return asyncio.get_running_loop().time() - self._start

    async def _follow(self, subscription: Any, place: int) -> None:
        """Write down what one pattern brings, until there is as much as was asked for."""
        pattern = self._patterns[place]
        async for item in subscription:
            try:
                if isinstance(item, busclient.Gap):
                    self._writer.gap(recording.Gap(self._at(), pattern, item.count, item.reason))
                    self._lost = None if self._lost is None or item.count is None else self._lost + item.count
                # What matches several patterns comes once for each of them: the first one writes it.
                elif not any(matches(earlier, item.subject) for earlier in self._patterns[:place]):
                    self._write(item)
            except OSError as error:
                raise self._failed(error) from None
            if self._full or self._left == 0:
                return

    def _write(self, item: busclient.Message) -> None:
        if self._left == 0:
            return  # another pattern brought the last one
        by = item.origin
        origin = None if by is None else (by.endpoint, by.boundary, by.tenant, by.unit, by.generation)
        message = recording.Message(self._at(), item.subject, item.headers or None, item.data, origin)
        limit = self._args.max_bytes
        if limit is not None and self._writer.size + recording.Writer.size_of(message) > limit:
            self._full = True
            return
        self._writer.message(message)
        if self._left is not None:
            self._left -= 1

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._file.flush()
            except OSError as error:
                raise self._failed(error) from None
            if self._output.interactive:
                self._output.progress(f"recording to {self._path}: {self._so_far()}; Ctrl-C ends it")

    def _so_far(self) -> str:
        writer = self._writer
        gaps = f"{writer.gaps} gap{'' if writer.gaps == 1 else 's'}"
        count = "an unknown number" if self._lost is None else self._lost
        lost = f", {count} lost in {gaps}" if writer.gaps else ""
        return f"{writer.messages} messages, {binary_size(writer.size)} in {duration(self._at())}{lost}"

    def _report(self) -> None:
        """Say what there is now. On standard error for people: the result is the file."""
        writer = self._writer
        if self._output.human:
            why = f"; the next message would be beyond --max-bytes {self._args.max_bytes}" if self._full else ""
            self._output.line(printable(f"{self._path}: {self._so_far()}{why}"))
        else:
            counts = {"messages": writer.messages, "bytes": writer.size, "gaps": writer.gaps, "lost": self._lost}
            self._output.record({"recording": str(self._path), **counts, "full": self._full})
        self._output.flush()

    def _failed(self, error: OSError) -> UsageError:
        """The refusal when the file cannot be written any further."""
        return UsageError(
            f"bus record: {self._path}: {error.strerror or error}; what was written until then stays",
            f"bus replay {self._path} --show, which prints it",
            exit=Exit.FAILED,
        )
