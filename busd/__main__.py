"""The command line of the daemon: ``busd [run]``, ``busd check-config``, ``busd config show | explain | example``, and
``busd component run``, which is one component as a process of its own."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from busd.ops import explain
from busd.ops.config import load, unknown_key
from busd.ops.eventloop import choose
from busd.ops.keys import KEYS, Config, Key
from busproto.errors import BusError, Code

__all__ = ["main"]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2

_EPILOG: Final = """\
Configuration, later over earlier: defaults, /etc/busd/busd.toml (root) or $XDG_CONFIG_HOME/busd/busd.toml (or --config
or $BUSD_CONFIG), conf.d/*.toml beside it, BUSD_* environment, flags. Every key has a variable and a flag: `busd config
explain KEY` names them, `busd run --help` lists the flags, `busd config show --origin` says what came from where.

exit status:
  0      stopped as asked: drained after SIGTERM, SIGINT or SIGHUP; or the command did its work
  1      the node could not start or failed (run directory in use or unusable, address taken)
  2      wrong usage or configuration
  128+N  ended at once by a second signal, of number N

examples:
  busd                                           run a node for this user; no configuration is needed
  busd run --run-dir /tmp/bus --http-listen off  ... somewhere else, without HTTP
  busd check-config --config busd.toml           would it start with this file?
  busd config explain limits.outbox_bytes        what is this key for?
  busd --components telemetry                    ... with a component, which the node keeps running
  busd component run telemetry --bus URL         that component by itself, on any bus (busd component run --help)
"""

_WRONG: Final = (Code.CONFIG_UNKNOWN_KEY, Code.CONFIG_INVALID, Code.COMPONENT_UNKNOWN)
"""Errors of the configuration."""

_COMMANDS: Final = ("run", "check-config", "config", "component")


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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status. A refusal is printed as code, reason and cure, never as a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["component"]:
            from busd.components.runner.command import main as component

            return component(arguments[1:])
        return _dispatch(_parse(arguments))
    except BusError as error:
        print(error, error.cure, sep="\n", file=sys.stderr)
        return USAGE if error.code in _WRONG else FAILED
    except KeyboardInterrupt:  # before the node runs; then it drains
        return 128 + 2
    except BrokenPipeError:  # `busd config show | head`: whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parse(arguments: list[str]) -> argparse.Namespace:
    if not arguments or (arguments[0] not in _COMMANDS and arguments[0] not in ("-h", "--help", "--version")):
        arguments = ["run", *arguments]
    options, rest = _parser().parse_known_args(arguments)
    flags = [key.flag for key in KEYS.values()]
    for word in rest:
        if word.startswith("--"):
            raise unknown_key(word.partition("=")[0], [*flags, "--config"], where=" on the command line")
    if rest:
        first = " (the command comes first, its flags after it)" if rest[0] in _COMMANDS else ""
        options.parser.error(f"unexpected argument: {rest[0]}{first}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="busd",
        usage="busd [run] [flags] | busd check-config | busd config show|explain|example | busd component run SOURCE",
        description="A ZeroMQ message bus for one node. Without a command it runs the node.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", nargs=0, action=_Version, help="versions of busd, protocol, Python, loop, libzmq")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", prog="busd", parser_class=_Parser)
    shared = _flags()

    def command(group: Any, name: str, text: str, usage: str = "%(prog)s [flags]") -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = group.add_parser(
            name, help=text, description=text, usage=usage, parents=[shared]
        )
        made.set_defaults(parser=made)
        return made

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
    return parser


def _flags() -> argparse.ArgumentParser:
    """The flags of every command: one for each key."""
    parser = _Parser(add_help=False)
    parser.add_argument("--config", metavar="FILE", type=Path, help="read this file; it must exist")
    groups: dict[str, Any] = {}
    for key in KEYS.values():
        if key.section not in groups:
            groups[key.section] = parser.add_argument_group(key.section or "node")
        groups[key.section].add_argument(key.flag, dest=key.name, metavar=key.kind.metavar, help=_help(key))
    return parser


def _help(key: Key) -> str:
    first = key.meaning.partition(". ")[0].rstrip(".")
    return f"{first} (default: {key.default_text})".replace("%", "%%")


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "config":
        return _config(options)
    config = _load(options)
    choose(config.loop)
    _check_components(config)
    if options.command == "check-config":
        return _check(config)
    from busd.node import Node
    from busd.ops.process import run

    return run(config, Node)


def _load(options: argparse.Namespace) -> Config:
    given = vars(options)
    return load(config_file=options.config, flags={name: given[name] for name in KEYS if given[name] is not None})


def _config(options: argparse.Namespace) -> int:
    if options.what == "example":
        print(explain.example(), end="")
    elif options.what == "explain":
        key = explain.find(options.key)
        print(explain.explain(key, _loaded_or_error(options)))
    elif options.json:
        print(explain.show_json(_load(options), origin=options.origin))
    else:
        print(explain.show(_load(options), origin=options.origin))
    return OK


def _loaded_or_error(options: argparse.Namespace) -> Config | BusError:
    """The configuration, or why there is none: what a key means must be told above all when the file is wrong."""
    try:
        return _load(options)
    except BusError as error:
        return error


def _check_components(config: Config) -> None:
    if config.components or "component.dir" in explain.changed(config):
        from busd.nodecomponents import check_components

        check_components(config)


def _check(config: Config) -> int:
    changed = explain.changed(config)
    print(f"the configuration is valid: {len(KEYS)} keys, {len(KEYS) - len(changed)} at their default")
    for name, origin in changed.items():
        print(f"  {name} = {KEYS[name].kind.show(config.value(name))}  # {origin}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
