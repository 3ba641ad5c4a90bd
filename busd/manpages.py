"""The manual pages of the daemon: busd(1) from its command line, busd.toml(5) from the configuration keys."""

import argparse
from collections.abc import Iterator
from typing import Final

from buscli.roff import Page, bold, italic, kept_together
from busd import __version__
from busd.commandline import DESCRIPTION, EXAMPLES, STATUSES, below, flags, meaning, parser
from busd.ops.explain import by_section
from busd.ops.keys import KEYS, Computed, Key
from busd.ops.kinds import Place, PlaceOrOff

__all__ = ["pages"]

_SOURCE: Final = f"busd {__version__}"

_BUS: Final = """\
Agents on this machine, in its guests and on its offload cards attach to it and exchange messages and calls, as far as \
the policy lets them. Who is attached is known from the kernel, the hypervisor or a key, and bus(1) shows it.

Without any configuration it is a safe node for the user who starts it: a unix socket, HTTP on loopback, and nothing \
on the network."""

_ORDER: Final = """\
Each key is set in busd.toml(5), by a variable of the environment, or by a flag. Later ones win: the defaults; the \
file that --config or BUSD_CONFIG names, or else the user's; the files in conf.d beside it, in the order of their \
names; variables; flags. A key, variable or flag that does not exist is an error, and so is a value out of its range."""

_SIGNALS: Final = (
    (
        "SIGTERM, SIGINT, SIGHUP",
        "Drain and end: listeners close, clients are told, calls in flight have drain.grace_seconds to finish. A "
        "second one ends it at once. To read the policy anew is bus policy reload, and no signal.",
    ),
)

_VARIABLES: Final = (
    ("BUSD_CONFIG", "The configuration file, where --config does not name one."),
    (
        "XDG_CONFIG_HOME",
        "Of a user other than root: configuration, policy and settings of components are in busd below.",
    ),
    ("XDG_RUNTIME_DIR", "Of the same: the run directory is busd below it, or /tmp/busd-UID if it is unset."),
    (
        "XDG_STATE_HOME",
        "Of the same: audit log, keys and the state of components are in busd below it (~/.local/state).",
    ),
    ("HOME", "Where the folders of configuration and state are if the variables above are unset."),
    ("LOCALAPPDATA", "On Windows: where a component keeps its state, in busd below it."),
    ("STATE_DIRECTORY", "Of a service of systemd: where components keep their state."),
    ("CREDENTIALS_DIRECTORY", "Of the same: where secrets are that it was given, such as the cache's root key."),
    ("NOTIFY_SOCKET", "Of the same: whom to tell that the node is ready, how it is, and that it stops."),
    ("WATCHDOG_USEC, WATCHDOG_PID", "Of the same: how often to show that the routing loop turns."),
    ("PYTHONPATH", "Where components that do not ship with busd are looked for, beside what is installed."),
    ("NO_COLOR", "If it is not empty, no colour in the log on a terminal."),
    ("BUS_URL, BUS_KEY, BUS_SERVER_KEY", "Of busd component run: the bus and the keys; see bus(1)."),
    ("SOURCE_DATE_EPOCH", "Of busd man: the date of the pages, in seconds since 1970."),
)

_FILES: Final = (
    ("/etc/busd/busd.toml", "Root's configuration; $XDG_CONFIG_HOME/busd/busd.toml (~/.config) of another user."),
    ("conf.d/*.toml", "Beside the configuration file: parts of it, read in the order of their names."),
)

_ABOUT_FILE: Final = """\
A file in TOML: keys with a value each, in the tables that are named in brackets. Every key has a default; without the \
file the node starts with these. busd check-config says whether a file is valid, busd config show --origin what is in \
effect and where it came from, and busd config example prints a file of every key.

The files conf.d/*.toml beside it are read after it. A key that does not exist is an error, and so is a value out of \
its range. What is changed takes effect when busd starts."""


def pages() -> dict[str, str]:
    """Both pages: the name of the file to its source."""
    return {"busd.1": _busd(), "busd.toml.5": _toml()}


def _busd() -> str:
    page = Page("busd", 1, "message bus of one node", source=_SOURCE)
    commands = dict(_commands(parser()))
    page.heading("SYNOPSIS")
    page.synopsis(_synopsis(name, command) for name, command in commands.items())
    page.heading("DESCRIPTION")
    page.text(f"{DESCRIPTION}\n\n{_BUS}")
    page.heading("COMMANDS")
    for name, command in commands.items():
        page.subheading(name)
        about = (command.description or "").strip().removesuffix(".")
        page.text(f"{about[:1].upper()}{about[1:]}.")
        page.items(map(_item, _own(command)))
    page.heading("OPTIONS")
    page.items([(bold("--version"), "show versions, for bug reports"), (bold("--help"), "show help and end")])
    page.text("Those commands that read the configuration take these as well; busd.toml(5) says what each means.")
    page.items(map(_item, _actions(flags())))
    page.heading("CONFIGURATION")
    page.text(_ORDER)
    page.heading("EXIT STATUS")
    page.items((bold(status), says) for status, says in STATUSES)
    page.heading("SIGNALS")
    page.items((bold(name), says) for name, says in _SIGNALS)
    page.heading("ENVIRONMENT")
    page.text("Each configuration key has a variable, which busd.toml(5) names. Besides:")
    page.items((bold(name), says) for name, says in _VARIABLES)
    page.heading("FILES")
    page.items((italic(name), says) for name, says in (*_FILES, *_places()))
    page.heading("EXAMPLES")
    page.examples((line, says.removeprefix("... ")) for line, says in EXAMPLES)
    page.see_also(["bus(1)", "busd.toml(5)", "systemd.unit(5)"])
    return page.source()


def _toml() -> str:
    page = Page("busd.toml", 5, "configuration of the message bus", source=_SOURCE)
    page.heading("SYNOPSIS")
    page.synopsis(map(italic, ("/etc/busd/busd.toml", "$XDG_CONFIG_HOME/busd/busd.toml")))
    page.heading("DESCRIPTION")
    page.text(_ABOUT_FILE)
    for section, keys in by_section().items():
        page.heading(f"[{section}]" if section else "KEYS OUTSIDE A TABLE")
        page.items((bold(key.field), _key(key)) for key in keys)
    page.heading("FILES")
    page.items((italic(name), says) for name, says in _FILES)
    page.heading("EXAMPLES")
    page.text("A node with another name that cards may attach to:")
    page.code('[node]\nname = "node-7"\n\n[soc]\nlisten = "10.0.0.1:5670"')
    page.see_also(["busd(1)", "bus(1)"])
    return page.source()


def _key(key: Key) -> str:
    return (
        f"{key.meaning}\n\nTakes {key.kind.takes}. Default: {key.default_text}.\n\nWhy: {key.why}\n\n"
        f"Variable {key.variable}, flag {key.flag}."
    )


def _places() -> Iterator[tuple[str, str]]:
    """The folders that are keys."""
    for key in KEYS.values():
        if isinstance(key.kind, Place | PlaceOrOff) and isinstance(key.default, Computed):
            yield str(key.default.example), f"{key.name}: {key.meaning} Default: {key.default_text}."


def _commands(of: argparse.ArgumentParser, name: str = "busd") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command below ``of`` that can be run, by what is typed for it."""
    groups = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    for word, command in ((word, each) for group in groups for word, each in group.choices.items()):
        yield from _commands(below(word, command), f"{name} {word}")
    if not groups:
        yield name, of


def _own(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """What ``command`` takes beside the flags that all commands share which read the configuration."""
    shared = {(*action.option_strings, action.help) for action in _actions(flags())}
    return [action for action in _actions(command) if (*action.option_strings, action.help) not in shared]


def _actions(of: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in of._actions if action.dest != "help"]


def _synopsis(name: str, command: argparse.ArgumentParser) -> str:
    """How ``command`` is written, marked up."""
    own = _own(command)
    words = [bold(name)]
    if len(own) < len(_actions(command)):
        words.append(f"[{italic('flags')}]")
    words += [f"[{_term(action, only_first=True)}]" for action in own if action.option_strings]
    places = [action for action in own if not action.option_strings]
    return " ".join([*words, *(f"[{_term(each)}]" if each.nargs == "?" else _term(each) for each in places)])


def _item(action: argparse.Action) -> tuple[str, str]:
    """An argument and its help."""
    return _term(action), meaning(action)


def _term(action: argparse.Action, *, only_first: bool = False) -> str:
    value = [] if action.nargs == 0 else [italic(str(action.metavar))]
    if not action.option_strings:
        return value[0]
    names = ", ".join(map(bold, action.option_strings[: 1 if only_first else None]))
    return kept_together(names, *value)
