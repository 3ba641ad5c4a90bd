"""Messages, replies and gaps as records for programs and as lines for people."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from buscli.jsonform import to_json
from buscli.output import Output, Style, json_text, printable

if TYPE_CHECKING:
    from busclient.errors import Gap
    from busclient.message import Content, Message

MSGPACK: Final = "application/msgpack"


def payload_record(content: "Content") -> dict[str, Any]:
    """The payload, decoded by its ``datacontenttype`` (msgpack, JSON or text), for a JSON record.

    Bytes of another type, or that are not what the header says, are ``{"$bytes": ...}``. A payload that is not msgpack
    though it should be adds ``error`` and is shown as bytes too: one bad message must not end the tool that shows it.
    """
    from busproto.errors import BusError

    kind = str(content.headers.get("datacontenttype", MSGPACK)).partition(";")[0].strip()
    if kind != MSGPACK:
        return {"payload": _decode(content.data, kind)}
    try:
        return {"payload": to_json(content.payload)}
    except BusError as error:
        return {"payload": to_json(content.data), "error": str(error)}
    except RecursionError:
        return {"payload": to_json(content.data), "error": "nested too deeply to be shown"}


def _decode(data: bytes, kind: str) -> Any:
    try:
        if kind == "application/json" or kind.endswith("+json"):
            return json.loads(data, parse_constant=_refuse)
        if kind.startswith("text/"):
            return data.decode("utf-8")
    except (ValueError, RecursionError):
        pass
    return to_json(data)


def _refuse(name: str) -> Any:
    raise ValueError(name)


def origin_record(content: "Content") -> dict[str, Any] | None:
    """Who sent it, as the broker proved it."""
    origin = content.origin
    if origin is None:
        return None
    record = origin._asdict()
    if origin.on_behalf_of is None:
        del record["on_behalf_of"]
    else:
        record["on_behalf_of"] = dict(zip(origin._fields, origin.on_behalf_of[:5], strict=False))
    return record


def headers_record(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers for a JSON record."""
    return {name: to_json(value) for name, value in headers.items()}


def full_record(content: "Content") -> dict[str, Any]:
    """Payload, headers and origin for a JSON record."""
    return {**payload_record(content), "headers": headers_record(content.headers), "origin": origin_record(content)}


def show_message(output: Output, message: "Message", received: str, *, headers: bool) -> None:
    """One message of a subscription: a record for programs, a line for people (headers below it, if wanted)."""
    if not output.human:
        output.record({"subject": message.subject, "received": received, **full_record(message)})
        return
    payload = payload_record(message)
    sender = f" <- {message.origin.endpoint}" if message.origin is not None else ""
    output.line(
        f"{output.styled(received[11:23], Style.DIM)} {output.styled(message.subject, Style.CYAN)} "
        f"{json_text(payload['payload'])}{output.styled(sender, Style.DIM)}"
    )
    if "error" in payload:
        output.line(f"  {output.styled(payload['error'], Style.RED)}")
    if headers:
        show_headers(output, message.headers)


def show_headers(output: Output, headers: Mapping[str, Any]) -> None:
    """Headers for people, one a line."""
    for name, value in headers_record(headers).items():
        text = printable(value) if isinstance(value, str) else json_text(value)
        output.line(f"  {output.styled(name, Style.DIM)}: {text}")


def show_gap(output: Output, gap: "Gap", pattern: str, *, records: bool) -> None:
    """Messages were lost here: always said on standard error, and to programs among the ``records`` as well."""
    if records and not output.human:
        output.record({"gap": {"pattern": pattern, "count": gap.count, "reason": gap.reason}})
    count = "an unknown number of" if gap.count is None else gap.count
    output.note(f"BUS-{gap.code} {gap.name}: {count} messages on '{pattern}' were lost here: {gap.reason}")
