"""The command table as an argument parser, and its help."""

import argparse
import os
import sys
from typing import Any, Final, NoReturn

from buscli.exits import Exit
from buscli.table import NAMES, Argument, Command, commands
from busproto.z85 import is_key

_KINDS: dict[str, dict[str, Any]] = {
    "one": {},
    "optional": {"nargs": "?"},
    "many": {"nargs": "+"},
    "any": {"nargs": "*"},
    "flag": {"action": "store_true"},
    "repeat": {"action": "append"},
}


class UsageError(Exception):
    """A command line that is not valid, with what to do about it.

    Attributes:
        cures: lines that say what to do.
        exit: the exit code.
    """

    def __init__(self, text: str, *cures: str, exit: int = Exit.USAGE) -> None:
        super().__init__(text)
        self.cures = cures
        self.exit = exit


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of exiting, so that one place prints every refusal."""

    command: Command

    def error(self, message: str) -> NoReturn:
        cure = f"bus {self.command.name} --help"
        unknown, _, options = message.partition(": ")
        if unknown == "unrecognized arguments":
            known = [name for argument in self.command.all_arguments() for name in argument.spellings]
            option = options.split()[0].partition("=")[0]
            if option.startswith("-") and (nearest := suggest(option, known)):
                cure = f"{nearest} ({cure})"
        raise UsageError(f"bus {self.command.name}: {message}", cure, exit=self.command.usage_exit)

    def _parse_optional(self, arg_string: str) -> Any:
        # One key in 85 begins with a dash. argparse knows such words too, negative numbers, and only here.
        if is_key(arg_string):
            options = tuple(name for argument in self.command.all_arguments() for name in argument.spellings)
            if not arg_string.startswith(options):
                return None
        return super()._parse_optional(arg_string)


def suggest(word: str, known: "list[str] | tuple[str, ...]") -> str:
    """The known word nearest to ``word``, or an empty string when none is near."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, known, n=1, cutoff=0.6)), "")


def _converter(argument: Argument) -> Any:
    def convert(text: str) -> Any:
        try:
            return argument.convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _add(parser: argparse.ArgumentParser, argument: Argument) -> None:
    settings: dict[str, Any] = {"help": argument.explained.replace("%", "%%"), "default": argument.default}
    settings |= _KINDS[argument.arity]
    if argument.arity == "flag":
        settings["default"] = False
    else:
        settings["type"] = _converter(argument)
        settings["metavar"] = argument.placeholder
        if argument.choices:
            settings["choices"] = argument.choices
    names = argument.spellings if argument.is_option else (argument.name.replace("-", "_"),)
    if argument.is_option:
        settings["dest"] = argument.name.lstrip("-").replace("-", "_")
    parser.add_argument(*names, **settings)


def _help_width() -> int:
    """Columns for help: the terminal's, but no wider than reads well.

    Not by shutil, which imports every compression library for it.
    """
    try:
        columns = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size().columns
    except (ValueError, OSError):
        columns = 80
    return max(40, min(columns - 2, 100))


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=_help_width())


def _filled(text: str) -> str:
    """Paragraphs, wrapped to the terminal."""
    from textwrap import fill

    width = _help_width()
    return "\n\n".join(
        fill(paragraph, width, break_long_words=False, break_on_hyphens=False) for paragraph in text.split("\n\n")
    )


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of one command."""
    parser = _Parser(
        prog=f"bus {command.name}" + ("" if command.runs else " COMMAND ..."),
        description=_filled(command.description),
        epilog=epilog_of(command),
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    parser.command = command
    for argument in command.all_arguments():
        _add(parser, argument)
    return parser


def epilog_of(command: Command) -> str:
    """The end of a command's help: examples, exit codes, impact."""
    lines = []
    if command.actions:
        width = max(len(action.word) for action in command.actions)
        lines += ["commands:", *(f"  {action.word:<{width}}  {action.help}" for action in command.actions)]
        lines += ["", f"bus {command.name} COMMAND --help shows its arguments, examples and exit codes.", ""]
    if command.examples:
        lines.append("examples:")
        for example in command.examples:
            lines += [f"  {example.line}", f"      {example.says}"]
        lines.append("")
    lines.append("exit codes:")
    lines += [f"  {code:<4}{meaning}" for code, meaning in command.exit_codes()]
    return "\n".join([*lines, "", f"impact: {command.impact}: {command.effect}"])


def overview() -> str:
    """What ``bus --help`` prints: the list of commands."""
    width = max(map(len, NAMES))
    rows = [f"  {command.name:<{width}}  {command.help}" for command in commands()]
    return "\n".join(
        (
            "usage: bus [--bus URL] [--key FILE] [--server-key KEY] [--json] [--no-color] COMMAND ...",
            "",
            "Talk to the message bus of this node.",
            "",
            "commands:",
            *rows,
            "",
            "bus COMMAND --help shows arguments, examples and exit codes; bus --version shows versions.",
        )
    )


_GLOBAL: Final = {"--bus": "unix:///run/busd/host.sock", "--key": "dpu0.key", "--server-key": "broker.pub"}
"""Options with a value that may stand before the command, and a value to show."""


class Line:
    """A command line, taken apart: the global options, the command's name and the words after it."""

    def __init__(self, words: list[str]) -> None:
        self.options: list[tuple[str, ...]] = []
        """``--bus URL``, ``--json`` and the like as written before the command; they mean the same after it."""
        self.command = ""
        self.rest: list[str] = []
        self.wants = ""
        """``help`` or ``version`` when that was asked for before any command."""
        pending = iter(words)
        for word in pending:
            if word in ("-h", "--help"):
                self.wants = self.wants or "help"
            elif word in ("-V", "--version"):
                self.wants = self.wants or "version"
            elif word in _GLOBAL:
                self.options.append((word, next(pending, "")))
                if not self.options[-1][1]:
                    raise UsageError(f"bus: {word} needs a value", f"bus {word} {_GLOBAL[word]} list")
            elif word in ("--json", "--no-color") or word.partition("=")[0] in _GLOBAL:
                self.options.append((word,))
            elif word.startswith("-"):
                nearest = suggest(word, [*_GLOBAL, "--json", "--no-color", "--help", "--version"])
                raise UsageError(
                    f"bus: unknown option '{word}'", f"{nearest} (bus --help)" if nearest else "bus --help"
                )
            else:
                self.command, self.rest = word, list(pending)
                break


def parse(command: Command, line: Line) -> argparse.Namespace:
    """The arguments of ``command``, or of the member of it that ``line`` names; its full name as ``command_name`` and
    the last word of that as ``action``.

    A global option that means nothing to this command (``bus --bus URL errors``) is ignored: it may stand in an alias.
    Raises UsageError; prints help and raises SystemExit for ``--help``.
    """
    if command.actions and not _is_own(command, line.rest):
        return _parse_action(command, line)
    takes = {argument.name for argument in command.all_arguments()}
    options = [word for option in line.options if option[0].partition("=")[0] in takes for word in option]
    # Intermixed, because argparse otherwise refuses an optional body after an option (bpo-15112, fixed in 3.13 only).
    args = parser_of(command).parse_intermixed_args([*options, *line.rest])
    args.command_name, args.action = command.name, command.word
    return args


def _is_own(command: Command, words: list[str]) -> bool:
    """Whether ``words`` are for the family itself: it can be run, and its first word names no member."""
    pending = iter(words if command.runs else ())
    for word in pending:
        if word in _GLOBAL:
            next(pending, None)
        elif word not in ("--json", "--no-color") and word.partition("=")[0] not in _GLOBAL:
            return command.action(word) is None
    return command.runs


def _parse_action(command: Command, line: Line) -> argparse.Namespace:
    inner = Line(line.rest)
    inner.options = [*line.options, *inner.options]
    action = command.action(inner.command)
    if action is not None:
        return parse(action, inner)
    if inner.wants:
        write_help(parser_of(command).format_help())
        raise SystemExit(Exit.OK)
    words = [each.word for each in command.actions]
    if not inner.command:
        raise UsageError(f"bus {command.name}: which of {', '.join(words)}?", f"bus {command.name} --help")
    nearest = suggest(inner.command, words)
    raise UsageError(
        f"bus {command.name}: unknown command '{inner.command}'",
        f"bus {command.name} {nearest}" if nearest else f"bus {command.name} --help",
    )


def unknown_command(name: str) -> UsageError:
    """The refusal of a command that is not in the table."""
    nearest = suggest(name, NAMES)
    return UsageError(f"bus: unknown command '{name}'", f"bus {nearest}" if nearest else "bus --help")


def write_help(text: str) -> None:
    """Help goes to standard output, as text, also when piped: it is what was asked for."""
    sys.stdout.write(text.rstrip("\n") + "\n")
