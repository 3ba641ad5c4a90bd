"""``bus errors``: what an error code means and what to do about it, without a bus."""

from argparse import Namespace
from typing import TYPE_CHECKING

from buscli.exits import Exit
from buscli.output import Output, Style
from buscli.parser import UsageError, suggest
from buscli.table import Argument, Command, Example

if TYPE_CHECKING:
    from busproto.codes import Entry

COMMAND = Command(
    name="errors",
    help="say what an error code means and what to do about it",
    description="""\
Every error of busd, from the table that the code itself uses. Works without a bus. {braces} in a text stand for the
values that the error carries.""",
    arguments=(
        Argument(
            "code",
            "number (3001 or BUS-3001) or name (no-responders); all of them without it",
            arity="optional",
            completes="error",
        ),
    ),
    examples=(
        Example("bus errors 3001", "explain one error"),
        Example("bus errors --json | jq -r .name", "every name"),
    ),
    connects=False,
)


def run(args: Namespace) -> int:
    from busproto.codes import ENTRIES

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    entries = list(ENTRIES.values()) if args.code is None else [_find(args.code)]
    if not output.human:
        for entry in entries:
            output.record({"code": entry.number, **{k: v for k, v in entry._asdict().items() if k != "number"}})
    elif args.code is None:
        output.table(("code", "name", "blame", "text"), [(e.number, e.name, e.blame, e.text) for e in entries])
    else:
        entry = entries[0]
        output.line(output.styled(f"BUS-{entry.number} {entry.name}", Style.BOLD))
        output.line(f"  text: {entry.text}")
        output.line(f"  blame: {entry.blame}; {'retryable' if entry.retryable else 'not retryable'}")
        output.line(f"  try: {entry.cure}")
    return Exit.OK


def _find(wanted: str) -> "Entry":
    from busproto.codes import ENTRIES

    word = wanted.lower().removeprefix("bus-").replace("_", "-")
    for entry in ENTRIES.values():
        if word in (str(entry.number), entry.name):
            return entry
    nearest = suggest(word, [*(e.name for e in ENTRIES.values()), *map(str, ENTRIES)])
    raise UsageError(
        f"bus errors: no error has the code or name '{wanted}'",
        f"bus errors {nearest}" if nearest else "bus errors",
    )
