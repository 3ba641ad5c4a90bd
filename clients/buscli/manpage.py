"""The manual pages of the ``bus`` command, made from the command table: bus(1), and one for each command."""

from collections.abc import Iterator

from buscli.about import bus_version
from buscli.exits import MEANINGS
from buscli.roff import Page, bold, italic, kept_together
from buscli.surroundings import FILES, GIVEN, VARIABLES
from buscli.table import CONNECTION, FORM, NAMES, Argument, Command, load, members

_HELP = ("--help", "show help and end")

_DESCRIPTION = """\
Talks to the message bus of this node, whose broker is busd(1): sends and shows messages, makes and answers calls, \
says who is attached and why, and administers guests, keys, components, policy and the audit log.

The bus is the one that --bus or BUS_URL gives; without them the socket that busd makes for this user if it is there, \
else the machine's. On a terminal, results are tables and text; into a pipe or a file, and with --json, they are JSON, \
one object a line.

A refusal says on standard error what is wrong, with its code, and what to do about it; bus errors CODE says more."""


def pages() -> dict[str, str]:
    """Every page: the name of its file to its source."""
    return {"bus.1": overview_page()} | {f"bus-{name}.1": command_page(load(name)) for name in NAMES}


def overview_page() -> str:
    """bus(1)."""
    page = _page("bus", "talk to the message bus of a node")
    page.heading("SYNOPSIS")
    page.synopsis(
        [f"{bold('bus')} [{italic('options')}] {italic('COMMAND')} ...", f"{bold('bus')} {bold('--version')}"]
    )
    page.heading("DESCRIPTION")
    page.text(_DESCRIPTION)
    page.heading("COMMANDS")
    page.text("Each has a page of its own: bus-call(1) for bus call, bus-policy(1) for bus policy lint.")
    page.items((bold(f"bus {command.name}"), command.help) for command in members())
    page.heading("OPTIONS")
    page.text("They may stand before the command or after it.")
    page.items(_options((*CONNECTION, *FORM)))
    page.items([(bold("-h") + ", " + bold("--help"), "show the list of commands; after a command, its help")])
    page.items([(bold("-V") + ", " + bold("--version"), "show versions, for bug reports")])
    page.heading("EXIT STATUS")
    page.text("Each command's page says which of them it can end with; bus check has its own.")
    page.items((bold(str(int(code))), meaning) for code, meaning in MEANINGS.items())
    page.heading("ENVIRONMENT")
    page.items((bold(name), says) for name, says in (*VARIABLES, *GIVEN))
    page.heading("FILES")
    page.items((italic(name), says) for name, says in FILES)
    page.heading("EXAMPLES")
    page.examples(example for name in ("check", "list", "sub", "call") for example in load(name).examples[:1])
    page.see_also([*(f"bus-{name}(1)" for name in NAMES), "busd(1)", "busd.toml(5)"])
    return page.source()


def command_page(command: Command) -> str:
    """The page of ``command``, and of its members if it is a family."""
    runnable = ([command] if command.runs else []) + list(command.actions)
    page = _page(f"bus-{command.name}", command.help)
    page.heading("SYNOPSIS")
    page.synopsis(map(_synopsis, runnable))
    page.heading("DESCRIPTION")
    page.text(_described(command))
    if command.runs and command.arguments:
        page.heading("ARGUMENTS" if all(not each.is_option for each in command.arguments) else "OPTIONS")
        page.items(_options(command.arguments))
    if command.actions:
        page.heading("COMMANDS")
    for action in command.actions:
        page.subheading(f"bus {action.name}")
        page.text(f"{action.help[:1].upper()}{action.help[1:]}.\n\n{_described(action)}")
        page.items(_options(action.arguments))
        page.examples(action.examples)
    page.heading("COMMON OPTIONS")
    page.items(_options(_common(runnable)))
    page.items([(bold(_HELP[0]), _HELP[1])])
    page.heading("EXIT STATUS")
    codes = sorted({(int(code), meaning) for each in runnable for code, meaning in each.exit_codes()})
    page.items((bold(str(code)), meaning) for code, meaning in codes)
    page.heading("ENVIRONMENT")
    page.text("BUS_URL, NO_COLOR and others: see bus(1).")
    page.heading("EXAMPLES")
    page.examples(command.examples)
    page.see_also(["bus(1)", "busd(1)"])
    return page.source()


def _page(name: str, says: str) -> Page:
    return Page(name, 1, says, source=f"busd {bus_version()}")


def _described(command: Command) -> str:
    """What a user must know of ``command``, and, unless it is a family only, who notices it."""
    effect = command.effect
    return f"{command.description}\n\n{effect[:1].upper()}{effect[1:]}." if command.runs else command.description


def _common(commands: list[Command]) -> tuple[Argument, ...]:
    connects = any(command.connects for command in commands)
    records = any(command.records for command in commands)
    return (*(CONNECTION if connects else ()), *(FORM if records else ()))


def _synopsis(command: Command) -> str:
    """How ``command`` is written, marked up: options first, then what stands by its place."""
    words = [bold(f"bus {command.name}")]
    places = []
    for argument in command.arguments:
        if not argument.is_option:
            places.append(_place(argument))
        else:
            value = [italic(argument.placeholder)] if argument.takes_value else []
            option = f"[{kept_together(bold(argument.spellings[0]), *value)}]"
            words.append(kept_together(option, "...") if argument.arity == "repeat" else option)
    return " ".join([*words, *places])


def _place(argument: Argument) -> str:
    name = italic(argument.placeholder)
    return {"optional": f"[{name}]", "many": f"{name} ...", "any": f"[{name} ...]"}.get(argument.arity, name)


def _options(arguments: tuple[Argument, ...]) -> Iterator[tuple[str, str]]:
    """Each argument as a term and its explanation."""
    for argument in arguments:
        if not argument.is_option:
            yield italic(argument.placeholder), argument.explained
            continue
        names = ", ".join(map(bold, argument.spellings))
        yield f"{names} {italic(argument.placeholder)}" if argument.takes_value else names, argument.explained


__all__ = ["command_page", "overview_page", "pages"]
