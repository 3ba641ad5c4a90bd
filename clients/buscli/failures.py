"""From an exception to what the user reads on standard error, and to the exit code."""

from typing import Final

from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError
from busproto.errors import BusError, Code

HEADLINE_CHARACTERS: Final = 4000
"""What of an error's text is printed: a responder may reply with an error as long as any payload."""

_EXITS: Final[dict[int, Exit]] = {
    Code.NO_RESPONDERS: Exit.NO_RESPONDERS,
    Code.TIMEOUT: Exit.TIMEOUT,
    Code.DENIED: Exit.DENIED,
    Code.OVERLOADED: Exit.OVERLOADED,
    Code.QUOTA_EXCEEDED: Exit.OVERLOADED,
    Code.TOO_MANY_CONNECTIONS: Exit.OVERLOADED,
    Code.UNKNOWN: Exit.UNKNOWN,
    Code.NOT_CONNECTED: Exit.NOT_CONNECTED,
    Code.DRAINING: Exit.NOT_CONNECTED,
    Code.CLOSED: Exit.NOT_CONNECTED,
    Code.SUBJECT_INVALID: Exit.USAGE,
    Code.PATTERN_INVALID: Exit.USAGE,
    Code.SUBJECT_RESERVED: Exit.USAGE,
    Code.HEADERS_INVALID: Exit.USAGE,
    Code.PAYLOAD_TOO_LARGE: Exit.USAGE,
    Code.PAYLOAD_UNENCODABLE: Exit.USAGE,
    Code.URL_INVALID: Exit.USAGE,
    Code.KEY_UNUSABLE: Exit.USAGE,
    Code.KEY_REFUSED: Exit.NOT_CONNECTED,
    Code.SERVER_KEY_WRONG: Exit.NOT_CONNECTED,
}
"""Exit codes by error code. Every other error is a failure (1), and so is whatever a responder replied."""


def explain(error: Exception) -> int | None:
    """Print an expected error with its cure; its exit code. None, and nothing printed, for what is a bug."""
    output = Output.standard()
    if isinstance(error, UsageError):
        _show(output, str(error), *error.cures)
        return error.exit
    if isinstance(error, BusError):
        _show(output, str(error), *filter(None, (_cure(error),)))
        return exit_of(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        _show(output, f"bus: {where}{error.strerror or error}")
        return Exit.USAGE if where else Exit.FAILED
    return None


def _cure(error: BusError) -> str:
    """What to do about it: of the broker's own services, which policy keeps to the node's operators, who may."""
    if error.code == Code.DENIED and str(error.fields.get("subject", "")).startswith("$bus."):
        return "On the node's host, run it as root or as the user that busd runs as; its other users need a rule."
    return error.cure


def exit_of(error: BusError) -> Exit:
    """The exit code of an error that the bus or the SDK raised.

    It goes by the outcome: a responder may reply with an error of any code, one that it got from a call of its own too.
    """
    # By name: importing the SDK only to ask would double the time that a wrong command line takes.
    return Exit.FAILED if type(error).__name__ == "ErrorReply" else _EXITS.get(error.code, Exit.FAILED)


def _show(output: Output, headline: str, *cures: str) -> None:
    first, *rest = headline[:HEADLINE_CHARACTERS].split("\n")
    output.note(first)
    for line in rest:  # marked, so that nobody's text can pass for ours
        output.note(f"  | {line}")
    for cure in cures:
        output.note(f"  try: {cure}")
