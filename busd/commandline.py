"""The command line of the daemon, as its help and its manual page show it: commands, flags, exit statuses, examples."""

import argparse
from pathlib import Path
from typing import Any, Final, NoReturn

from buscli.shells import SHELLS
from busd.ops.keys import KEYS, Key

__all__ = [
    "COMMANDS",
    "DESCRIPTION",
    "EXAMPLES",
    "FAILED",
    "OK",
    "STATUSES",
    "USAGE",
    "below",
    "flags",
    "meaning",
    "parser",
]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2

DESCRIPTION: Final = "A ZeroMQ message bus for one node. Without a command it runs the node."

COMMANDS: Final = ("run", "check-config", "config", "component", "completion", "man")

STATUSES: Final = (
    (str(OK), "stopped as asked: drained after SIGTERM, SIGINT or SIGHUP; or the command did its work"),
    (str(FAILED), "the node could not start or failed (run directory in use or unusable, address taken)"),
    (str(USAGE), "wrong usage or configuration, or something is not installed"),
    ("128+N", "ended at once by a second signal, of number N"),
)
"""Exit statuses and what each means."""

EXAMPLES: Final = (
    ("busd", "run a node for this user; no configuration is needed"),
    ("busd run --run-dir /tmp/bus --http-listen off", "... somewhere else, without HTTP"),
    ("busd check-config --config busd.toml", "would it start with this file?"),
    ("busd config explain limits.outbox_bytes", "what is this key for?"),
    ("busd --components telemetry", "... with a component, which the node keeps running"),
    ("busd component run telemetry --bus URL", "that component by itself, on any bus (busd component run --help)"),
)
"""Command lines and what each does."""

_CONFIGURATION: Final = """\
Configuration, later over earlier: defaults, /etc/busd/busd.toml (root) or $XDG_CONFIG_HOME/busd/busd.toml (or --config
or $BUSD_CONFIG), conf.d/*.toml beside it, BUSD_* environment, flags. Every key has a variable and a flag: `busd config
explain KEY` names them, `busd run --help` lists the flags, `busd config show --origin` says what came from where.
"""


class _Parser(argparse.ArgumentParser):
    """Prefixes of flags are no flags: one that works today would turn ambiguous with the next key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(*args, **kwargs)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        from busd.ops.about import about

        print(about())
        parser.exit(OK)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line but ``component``, which has its own (`busd.components.runner.command`)."""
    made = _Parser(
        prog="busd",
        usage="busd [run] [flags] | busd check-config | busd config show|explain|example | busd component run SOURCE "
        "| busd completion SHELL | busd man",
        description=DESCRIPTION,
        epilog=_epilog(),
    )
    made.add_argument(
        "--version", nargs=0, action=_Version, help="versions of busd, protocol, Python, loop, libzmq, msgpack"
    )
    commands = made.add_subparsers(dest="command", metavar="COMMAND", prog="busd", parser_class=_Parser)
    shared = flags()

    def command(group: Any, name: str, text: str, usage: str = "%(prog)s [flags]") -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = group.add_parser(
            name, help=text, description=text, usage=usage, parents=[shared]
        )
        added.set_defaults(parser=added)
        return added

    command(commands, "run", "run the node until SIGTERM or SIGINT (the default command)")
    command(commands, "check-config", "check the configuration and say where it comes from")
    config = commands.add_parser("config", help="show and explain the configuration").add_subparsers(
        dest="what", metavar="WHAT", prog="busd config", required=True, parser_class=_Parser
    )
    show = command(config, "show", "print the configuration in effect, as TOML that busd would read")
    show.add_argument("--origin", action="store_true", help="and where each value came from")
    show.add_argument("--json", action="store_true", help="as one JSON object")
    about_one = "say all about one key: meaning, range, default, why, and its value now"
    one = command(config, "explain", about_one, "%(prog)s KEY [flags]")
    one.add_argument("key", metavar="KEY", help="such as limits.endpoints")
    command(config, "example", "print a configuration file of every key with its default, commented out")
    # Only listed here: it has its own command line, and `main` gives it what follows before anything is parsed.
    commands.add_parser("component", help="run one component as a process, attached to a bus: busd component run")
    about_completion = "print a script that teaches a shell these commands, flags and keys"
    completion = commands.add_parser("completion", help=about_completion, description=about_completion)
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    completion.set_defaults(parser=completion)
    about_man = "show the manual pages, busd(1) and busd.toml(5), or put them where man finds them"
    man = commands.add_parser("man", help=about_man, description=about_man)
    man.add_argument(
        "page", metavar="PAGE", nargs="?", default="busd", choices=("busd", "busd.toml"), help="busd or busd.toml"
    )
    man.add_argument("--dir", metavar="FOLDER", type=Path, help="write both below this folder instead (man1, man5)")
    man.set_defaults(parser=man)
    return made


def flags() -> argparse.ArgumentParser:
    """The flags of every command that reads the configuration: one for each key."""
    made = _Parser(add_help=False)
    made.add_argument("--config", metavar="FILE", type=Path, help="read this file; it must exist")
    groups: dict[str, Any] = {}
    for key in KEYS.values():
        if key.section not in groups:
            groups[key.section] = made.add_argument_group(key.section or "node")
        groups[key.section].add_argument(key.flag, dest=key.name, metavar=key.kind.metavar, help=_help(key))
    return made


def below(word: str, command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """What is typed after ``word``, which `parser` has as ``command``: ``component`` has a command line of its own."""
    if word != "component":
        return command
    from busd.components.runner.command import parser as component

    return component()


def meaning(action: argparse.Action) -> str:
    """The help of ``action``, as it is shown."""
    return (action.help or "").replace("%%", "%")


def _help(key: Key) -> str:
    first = key.meaning.partition(". ")[0].rstrip(".")
    return f"{first} (default: {key.default_text})".replace("%", "%%")


def _epilog() -> str:
    width = max(len(line) for line, _ in EXAMPLES)
    statuses = "\n".join(f"  {status:<7}{says}" for status, says in STATUSES)
    examples = "\n".join(f"  {line:<{width}}  {says}" for line, says in EXAMPLES)
    return f"{_CONFIGURATION}\nexit status:\n{statuses}\n\nexamples:\n{examples}\n"
