"""What the broker shows a monitor, printed as it comes: what ``bus monitor`` does."""

from argparse import Namespace
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from buscli.census import find
from buscli.connection import attached, first_of, reader_gone
from buscli.exits import Exit
from buscli.jsonform import to_json
from buscli.messages import headers_record, payload_record, show_headers
from buscli.output import Output, Style, json_text, printable
from buscli.units import binary_size, rfc3339, short
from busclient import Bus
from busclient.errors import CallTimeout, Denied, NotConnected, UnknownOutcome
from busclient.message import NO_ORIGIN, Content
from busproto.errors import BusError
from busproto.limits import TIMEOUT_MS_MAX

SERVICE: Final = "$bus.admin.monitor"

_STYLES: Final = {"publish": Style.DIM, "call": Style.BOLD, "reply": Style.GREEN, "denied": Style.RED}


class Monitor:
    """One run of ``bus monitor``."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        self._left: int | None = args.count
        self._began = datetime.now(UTC)
        self._began_at = 0.0
        """The same moment on the broker's clock."""

    async def run(self) -> int:
        args = self._args
        async with attached(args, self._output, " ".join(args.pattern), reconnect=True) as bus:
            try:
                await self._check_endpoint(bus)
                ended = await first_of(self._follow(bus), reader_gone(), seconds=vars(args)["for"])
            finally:
                self._output.flush()
        return Exit.OK if ended or args.count is None else Exit.TIMEOUT

    def _request(self) -> dict[str, Any]:
        args = self._args
        kinds = [kind for kind in args.kind or () if "all" not in args.kind]
        request = {"patterns": args.pattern, "tenant": args.tenant, "endpoint": args.endpoint, "kinds": kinds}
        return {**request, "payload": args.payload or 0}

    async def _follow(self, bus: Bus) -> None:
        while True:
            try:
                async with bus.stream(SERVICE, self._request(), timeout=TIMEOUT_MS_MAX / 1000) as stream:
                    async for part in stream:
                        self._take(part.payload)
                        if self._left == 0:
                            return
            except CallTimeout:
                continue  # no call lasts longer than a day; the next one goes on
            except (NotConnected, UnknownOutcome) as error:
                self._show_lost(error)
                await bus.connected()

    async def _check_endpoint(self, bus: Bus) -> None:
        """Raise UsageError if nobody is called what ``--endpoint`` says: nothing would ever be shown."""
        if self._args.endpoint is not None:
            with suppress(Denied):  # the right to monitor is not the right to see the census
                await find(bus, self._args.endpoint, "bus monitor --endpoint")

    def _show_lost(self, error: BusError) -> None:
        """The connection has ended; it goes on with the next one."""
        if not self._output.human:
            self._output.record({"time": rfc3339(datetime.now(UTC)), "kind": "missed", "missed": None, "unseen": None})
        reason = error.fields.get("reason", error.text)
        self._output.note(f"bus monitor: what passes from here on is missing until the bus is back: {reason}")

    def _take(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == "began":
            self._began, self._began_at = datetime.now(UTC), record["at"]
            return
        time = rfc3339(self._began + timedelta(seconds=record.pop("at") - self._began_at))
        if kind == "missed":
            self._show_missed(record, time)
        else:
            self._show(record, time)
            if self._left is not None:
                self._left -= 1
        self._output.flush()

    def _show_missed(self, record: dict[str, Any], time: str) -> None:
        if not self._output.human:
            self._output.record({"time": time, **record})
        self._output.note(
            f"bus monitor: missed {record['missed']} messages here, and {record['unseen']} more passed unseen: "
            "narrow it down (a PATTERN, --tenant, --endpoint, --kind)"
        )

    def _show(self, record: dict[str, Any], time: str) -> None:
        payload, shown = record.pop("payload", None), {}
        headers = record.get("headers") or {}
        if payload is not None:
            shown = _payload(payload, record["bytes"], headers)
        if not self._output.human:
            if "headers" in record:
                record["headers"] = headers_record(headers)
            self._output.record({"time": time, **to_json(record), **shown})
            return
        self._output.line(self._line(record, time, shown))
        show_headers(self._output, headers)

    def _line(self, record: dict[str, Any], time: str, shown: dict[str, Any]) -> str:
        styled, kind = self._output.styled, record["kind"]
        words = [styled(time[11:23], Style.DIM), styled(f"{kind:<7}", _STYLES[kind])]
        if record["tenant"] != "node":
            words.append(styled(f"[{record['tenant']}]", Style.YELLOW))
        words += [styled(record["subject"], Style.CYAN), _way(record)]
        if "verb" in record:
            words.append(f"may not {record['verb']}")
        if kind == "reply":
            words.append(styled(record["status"], Style.GREEN if record["status"] in ("reply", "part") else Style.RED))
        if "seconds" in record:
            words.append(f"after {short(record['seconds'])}")
        if "bytes" in record:
            words.append(binary_size(record["bytes"]))
        if record.get("count", 1) > 1:
            words.append(f"{record['count']} times")
        if "reason" in record:
            words.append(styled(record["reason"], Style.DIM))
        if shown:
            words.append(json_text(shown["payload"]) + (" ..." if "cut" in shown else ""))
        return " ".join(words)


def _way(record: dict[str, Any]) -> str:
    """From whom to whom."""
    origin, to = record["origin"], record.get("to")
    behalf = f" for {record['on_behalf_of']}" if "on_behalf_of" in record else ""
    if "receivers" in record:
        to = "?" if record["receivers"] is None else _counted(record["receivers"], "receiver")
    return printable(f"{origin['endpoint']}{behalf}" + (f" -> {to}" if to is not None else ""))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _payload(data: bytes, size: int, headers: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a payload: decoded if all of it is there."""
    if len(data) < size:
        return {"payload": to_json(data), "cut": True}
    return payload_record(Content(data, headers or None, NO_ORIGIN))
