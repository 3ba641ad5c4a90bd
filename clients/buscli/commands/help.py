"""``bus help``: the command table, for people and for programs."""

from argparse import Namespace
from typing import Any

from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import overview, parser_of, unknown_command, write_help
from buscli.table import NAMES, Argument, Command, Example, commands, load

COMMAND = Command(
    name="help",
    help="show help; with --json the whole command table",
    description="""\
The help of a command, or the list of commands. With --json the same as data: arguments, examples, exit codes and
impact (ro: only looks, rw: others act on it), for documentation and for tools.""",
    arguments=(
        Argument("command", "the command to explain", arity="optional", completes="command"),
        Argument("--json", "the command table as data, one command a line", arity="flag"),
    ),
    records=False,
    examples=(
        Example("bus help call", "the same as bus call --help"),
        Example("bus help --json | jq -r 'select(.impact == \"rw\").name'", "commands that change something"),
    ),
    connects=False,
)


def run(args: Namespace) -> int:
    if args.command is not None and args.command not in NAMES:
        raise unknown_command(args.command)
    chosen = list(commands()) if args.command is None else [load(args.command)]
    if args.json:
        output = Output.standard(force_json=True)
        for command in chosen:
            output.record(describe(command))
    else:
        write_help(overview() if args.command is None else parser_of(chosen[0]).format_help())
    return Exit.OK


def describe(command: Command) -> dict[str, Any]:
    """One command as data."""
    return {
        "name": command.name,
        "help": command.help,
        "description": command.description,
        "impact": command.impact,
        "connects": command.connects,
        "arguments": [
            {
                "name": argument.name,
                "aliases": list(argument.aliases),
                "help": argument.help,
                "arity": argument.arity,
                "default": argument.default,
                "choices": list(argument.choices),
            }
            for argument in command.all_arguments()
        ],
        "examples": [example._asdict() for example in command.examples],
        "actions": [describe(action) for action in command.actions],
        "exit_codes": [{"code": code, "meaning": meaning} for code, meaning in command.exit_codes()],
    }
