"""The daemon as a program: what each command of ``busd`` does, and its exit status. `busd.commandline` says what is
taken; ``busd component run``, which is one component as a process of its own, has a command line of its own as well.
"""

import argparse
import os
import sys
from typing import Final

from busd.commandline import COMMANDS, FAILED, OK, USAGE, parser
from busd.ops import explain
from busd.ops.config import load, unknown_key
from busd.ops.eventloop import choose
from busd.ops.keys import KEYS, Config
from busproto.errors import BusError, Code

__all__ = ["FAILED", "OK", "USAGE", "main"]

_WRONG: Final = (Code.CONFIG_UNKNOWN_KEY, Code.CONFIG_INVALID, Code.COMPONENT_UNKNOWN)
"""Errors of the configuration."""

_OURS: Final = frozenset({"busd", "busproto", "busclient", "buscli"})


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status. A refusal is printed as code, reason and cure, never as a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["component"]:
            from busd.components.runner.command import main as component

            return component(arguments[1:])
        if arguments[:1] == ["__complete"]:
            from busd.completion import complete

            for offer in complete(arguments[1:]):
                print(offer.line)
            return OK
        return _dispatch(_parse(arguments))
    except BusError as error:
        print(error, error.cure, sep="\n", file=sys.stderr)
        return USAGE if error.code in _WRONG else FAILED
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        print(
            f"busd: this needs what a node needs; there is no module '{error.name}'",
            "pip install 'busd[node]'",
            sep="\n",
            file=sys.stderr,
        )
        return USAGE
    except KeyboardInterrupt:  # before the node runs; then it drains
        return 128 + 2
    except BrokenPipeError:  # `busd config show | head`: whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parse(arguments: list[str]) -> argparse.Namespace:
    if not arguments or (arguments[0] not in COMMANDS and arguments[0] not in ("-h", "--help", "--version")):
        arguments = ["run", *arguments]
    options, rest = parser().parse_known_args(arguments)
    flags = [key.flag for key in KEYS.values()]
    for word in rest:
        if word.startswith("--"):
            raise unknown_key(word.partition("=")[0], [*flags, "--config"], where=" on the command line")
    if rest:
        first = " (the command comes first, its flags after it)" if rest[0] in COMMANDS else ""
        options.parser.error(f"unexpected argument: {rest[0]}{first}")
    return options


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "config":
        return _config(options)
    if options.command == "completion":
        from buscli.shells import script

        print(script(options.shell, "busd"), end="")
        return OK
    if options.command == "man":
        return _man(options)
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


def _man(options: argparse.Namespace) -> int:
    from buscli.roff import show, write_pages
    from busd.manpages import pages

    made = pages()
    if options.dir is None:
        name = next(name for name in made if name.rpartition(".")[0] == options.page)
        return show(name, made[name])
    try:
        print(*write_pages(options.dir, made), sep="\n")
    except OSError as error:
        print(f"busd man: {error.filename}: {error.strerror}", file=sys.stderr)
        return FAILED
    return OK


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
