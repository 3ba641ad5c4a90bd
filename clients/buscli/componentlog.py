"""What a component wrote: the lines that the node keeps of it, and those that are added."""

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from buscli.census import ask
from buscli.components import unknown
from buscli.connection import first_of, reader_gone
from buscli.exits import Exit
from buscli.jsonform import to_json
from buscli.output import Output, Style, printable
from busclient.errors import ErrorReply
from busproto.errors import Code

if TYPE_CHECKING:
    from busclient import Bus

SERVICE: Final = "$bus.admin.component.logs"
"""What answers."""

POLL_SECONDS: Final = 0.5
"""Between two questions while nothing is added: about what a person takes for at once."""

PAGE: Final = 1000
"""Lines asked for at a time: as many as the node keeps."""

_STREAMS: Final = {"stderr": Style.YELLOW, "busd": Style.CYAN}


class ComponentLog:
    """The log of one component, written to ``output``."""

    def __init__(self, bus: "Bus", output: Output, component: str) -> None:
        self._bus = bus
        self._output = output
        self._component = component
        self._next = 0

    async def show(self, lines: int, *, follow: bool) -> int:
        """Write the last ``lines`` lines; with ``follow`` also what is added, until nobody reads it."""
        await self._page({"limit": min(lines, PAGE)})
        if follow:
            await first_of(self._follow(), reader_gone())
        return Exit.OK

    async def _follow(self) -> None:
        while True:
            self._output.flush()
            if not await self._page({"after": self._next, "limit": PAGE}):
                await asyncio.sleep(POLL_SECONDS)

    async def _page(self, request: dict[str, Any]) -> int:
        """Ask for lines and write them; how many there were."""
        try:
            page = await ask(self._bus, SERVICE, {"component": self._component, **request})
        except ErrorReply as error:
            if error.code != Code.COMPONENT_UNKNOWN:
                raise
            raise unknown(self._component, "logs", [str(error.fields.get("nearest", ""))]) from None
        if page["lost"]:
            self._lost(page["lost"])
        for line in page["lines"]:
            self._line(line)
        self._next = page["next"]
        return len(page["lines"])

    def _line(self, line: dict[str, Any]) -> None:
        if not self._output.human:
            self._output.record(to_json({"component": self._component, **line}))
            return
        at = datetime.fromtimestamp(line["at"]).strftime("%H:%M:%S.%f")[:-3]
        stream = self._output.styled(f"{line['stream']:<6}", _STREAMS.get(line["stream"], Style.DIM))
        self._output.line(f"{self._output.styled(at, Style.DIM)} {stream} {printable(line['text'])}")

    def _lost(self, count: int) -> None:
        """Say on both streams that lines fell out of what the node keeps before they were asked for."""
        self._output.note(f"{count} lines were lost here: more came than the node keeps")
        if not self._output.human:
            self._output.record({"component": self._component, "lost": count})
