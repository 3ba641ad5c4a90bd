"""The command table: every command declares itself once, and parser, help and completion are made from that.

A command is one file of `buscli.commands` that holds ``COMMAND`` (a `Command`) and ``run(args)``, which returns the
exit code. To add one, write the file and add its name to `NAMES`. A file imports nothing heavy at its top (no SDK, no
asyncio): ``bus --help`` and completion load all of them.

A command that is a family (``bus policy lint``, ``bus policy show``) lists its members as ``actions``: commands of
their own, named in full; ``run`` finds the member's last word in ``args.action``. A family with arguments of its own
(``bus delete PATH``, ``bus delete list``) is a command as well: what its first word does not name a member is its own.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final, Literal, NamedTuple

from buscli.exits import MEANINGS, Exit

NAMES: Final[tuple[str, ...]] = (
    "pub",
    "sub",
    "call",
    "serve",
    "list",
    "inspect",
    "map",
    "top",
    "trace",
    "explain",
    "monitor",
    "record",
    "replay",
    "ping",
    "disconnect",
    "check",
    "stats",
    "bench",
    "relay",
    "delete",
    "cache",
    "guest",
    "keys",
    "component",
    "policy",
    "audit",
    "errors",
    "completion",
    "man",
    "help",
)
"""Every command, in the order that help shows them."""


class Argument(NamedTuple):
    """One argument of a command. A name that begins with ``--`` is an option, another one is positional."""

    name: str
    help: str
    aliases: tuple[str, ...] = ()
    """Other spellings of an option, the short one first."""
    metavar: str = ""
    convert: Callable[[str], Any] = str
    """From the text typed to the value; raises ValueError with the reason."""
    default: Any = None
    choices: tuple[str, ...] = ()
    arity: Literal["one", "optional", "many", "any", "flag", "repeat"] = "one"
    """Positional: one, optional, many (at least one), any number. Option: one value, flag, repeat (collects values)."""
    completes: Literal[
        "nothing",
        "choices",
        "file",
        "command",
        "subject",
        "endpoint",
        "component",
        "claim",
        "place",
        "error",
        "job",
        "root",
        "tenant",
        "guest",
        "key",
    ] = "nothing"
    """What a shell offers here. component: one that the node knows as such; claim: one that an endpoint says it is.
    job, root: of deletion; tenant: that has a share of the cache; guest, key: the name of a unit that has been added,
    or whose key is enrolled."""

    @property
    def is_option(self) -> bool:
        return self.name.startswith("--")

    @property
    def takes_value(self) -> bool:
        return self.arity != "flag"

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every way to write an option, short ones first."""
        return tuple(sorted((self.name, *self.aliases), key=len))

    @property
    def placeholder(self) -> str:
        """What stands for its value in help."""
        return self.metavar or self.name.lstrip("-").upper()

    @property
    def explained(self) -> str:
        """Its help, with what it may be and what it is when it is not given."""
        text = f"{self.help}: {', '.join(self.choices)}" if self.choices and self.takes_value else self.help
        return text if self.default is None else f"{text} (default: {self.default})"


class Example(NamedTuple):
    """A command line that works as printed, and what it does."""

    line: str
    says: str


_BUS_EXITS: Final = (
    Exit.NO_RESPONDERS,
    Exit.TIMEOUT,
    Exit.DENIED,
    Exit.OVERLOADED,
    Exit.UNKNOWN,
    Exit.NOT_CONNECTED,
)


def meanings(*codes: Exit) -> tuple[tuple[int, str], ...]:
    """Exit codes with their meaning: ``codes``, and those that every command has."""
    every = (Exit.OK, Exit.FAILED, Exit.USAGE, Exit.INTERRUPTED, Exit.BROKEN_PIPE, Exit.TERMINATED)
    return tuple((int(code), MEANINGS[code]) for code in sorted((*every, *codes)))


def exits(*own: Exit) -> tuple[tuple[int, str], ...]:
    """What `Command.exits` is for a command that connects and has exit codes of its ``own`` besides."""
    return meanings(*_BUS_EXITS, *own)


class Command(NamedTuple):
    """One command: what it is called, takes, changes and returns."""

    name: str
    help: str
    """One line, for the list of commands."""
    description: str
    """What a user must know beyond the arguments: one or two paragraphs."""
    arguments: tuple[Argument, ...] = ()
    examples: tuple[Example, ...] = ()
    impact: Literal["ro", "rw"] = "ro"
    """``ro``: only looks. ``rw``: sends something that other endpoints act on."""
    connects: bool = True
    """Whether it attaches to a bus, and so takes ``--bus``."""
    records: bool = True
    """Whether it prints tables and JSON lines, and so takes ``--json`` and ``--no-color``."""
    exits: tuple[tuple[int, str], ...] = ()
    """Exit codes and their meaning where they differ from `Exit`; `exit_codes` adds the common ones."""
    usage_exit: int = Exit.USAGE
    actions: "tuple[Command, ...]" = ()
    """Members of a family, each named in full (``policy lint``)."""

    @property
    def runs(self) -> bool:
        """Whether it can be run itself: it is no family, or one with arguments of its own."""
        return not self.actions or bool(self.arguments)

    @property
    def word(self) -> str:
        """What is typed for it: the last word of its name."""
        return self.name.rpartition(" ")[2]

    def action(self, word: str) -> "Command | None":
        """The member that is typed as ``word``."""
        return next((action for action in self.actions if action.word == word), None)

    def all_arguments(self) -> tuple[Argument, ...]:
        """Its own arguments and those that every command (that connects) takes."""
        return (*self.arguments, *(CONNECTION if self.connects else ()), *(FORM if self.records else ()))

    @property
    def effect(self) -> str:
        """What its ``impact`` means."""
        return "it only looks" if self.impact == "ro" else "others act on what it sends"

    def exit_codes(self) -> tuple[tuple[int, str], ...]:
        """Every exit code that this command can end with, and its meaning."""
        if self.exits:
            return self.exits
        return meanings(*(_BUS_EXITS if self.connects else ()))


CONNECTION: Final = (
    Argument(
        "--bus",
        "address of the bus: unix:///path/host.sock or an absolute path, vsock://CID:PORT, serial:///dev/PORT or "
        "tcp://HOST:PORT "
        "(default: $BUS_URL, else the socket that busd makes for this user, else /run/busd/host.sock)",
        metavar="URL",
        completes="file",
    ),
    Argument("--key", "of tcp://: this client's secret key file (default: $BUS_KEY)", metavar="FILE", completes="file"),
    Argument(
        "--server-key",
        "of tcp://: the broker's public key, or its file (default: $BUS_SERVER_KEY)",
        metavar="KEY",
        completes="file",
    ),
)
"""What every command that attaches to a bus takes."""

FORM: Final = (
    Argument("--json", "one JSON object a line, on a terminal too (without it: when output is piped)", arity="flag"),
    Argument("--no-color", "no colour on a terminal; NO_COLOR in the environment does the same", arity="flag"),
)
"""What every command that prints results takes."""


def load(name: str) -> Command:
    """The command called ``name``. Raises KeyError for a name that is not in `NAMES`."""
    if name not in NAMES:
        raise KeyError(name)
    command: Command = import_module(f"buscli.commands.{name}").COMMAND
    return command


def commands() -> Iterator[Command]:
    """Every command, in the order of `NAMES`."""
    return map(load, NAMES)


def members() -> Iterator[Command]:
    """Every command that can be run: in place of a family, or behind it if it can be run itself, its members."""
    for command in commands():
        if command.runs:
            yield command
        yield from command.actions


def runner(name: str) -> Callable[[Any], int]:
    """The function that carries out the command called ``name``: parsed arguments to exit code."""
    run: Callable[[Any], int] = import_module(f"buscli.commands.{name}").run
    return run
