"""Shell completion of the daemon's command line: the walk over its parser. The scripts are those of ``bus``."""

import argparse
from collections.abc import Iterable, Iterator
from typing import Final

from buscli.shells import FILE, Offer, assigned, matching
from busd.commandline import below, meaning, parser
from busd.components.shipped import SHIPPED
from busd.ops.keys import KEYS

__all__ = ["complete"]

_PLACES: Final = frozenset({"DIR", "FILE", "FILE.toml", "FOLDER", "PATH"})
"""What stands in help for the path of something."""


def complete(words: list[str]) -> Iterator[Offer]:
    """Candidates for the last of ``words`` (the words after ``busd``; the last may be empty)."""
    *before, typed = words or [""]
    place = _Place(parser())
    for word in before:
        place.take(word)
    if place.expects is not None:
        return matching(typed, _values(place.expects))
    option, equals, value = typed.partition("=")
    if equals and (action := place.options.get(option)) is not None:
        return assigned(option, value, _values(action))
    if typed.startswith("-"):
        return matching(typed, [Offer(name, _says(action)) for name, action in place.options.items()])
    return matching(typed, place.next())


class _Place:
    """Where in the command line the next word would be."""

    def __init__(self, top: argparse.ArgumentParser) -> None:
        self.expects: argparse.Action | None = None
        """The option whose value comes next."""
        self._commands: dict[str, argparse.ArgumentParser] = {}
        self._enter(top)
        # Without a command it is `run`, whose flags may stand at once.
        self.options |= {name: action for name, action in _options(self._commands["run"]) if name not in self.options}

    def _enter(self, command: argparse.ArgumentParser) -> None:
        self.options = dict(_options(command))
        groups = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
        self._places = [each for each in command._actions if not each.option_strings and each not in groups]
        self._commands = dict(groups[0].choices) if groups else {}
        self._helps = {each.dest: meaning(each) for group in groups for each in group._choices_actions}

    def take(self, word: str) -> None:
        """Go past a ``word`` that stands before the one being typed."""
        if self.expects is not None:
            self.expects = None
        elif word.startswith("-"):
            action = self.options.get(word)
            self.expects = action if action is not None and action.nargs != 0 else None
            self._commands = {}  # a command comes first, its flags after it
        elif word in self._commands:
            self._enter(below(word, self._commands[word]))
        else:
            self._commands = {}
            self._places = self._places[1:]

    def next(self) -> Iterable[Offer]:
        """What the next word may be, if it is no option."""
        if self._commands:
            return [Offer(name, self._helps.get(name, "")) for name in self._commands]
        return _values(self._places[0]) if self._places else []


def _options(command: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Every option by its long name."""
    for action in command._actions:
        for name in action.option_strings:
            if name.startswith("--"):
                yield name, action


def _values(action: argparse.Action) -> Iterable[Offer]:
    """What ``action`` may be."""
    if action.choices is not None:
        return [Offer(str(choice)) for choice in action.choices]
    metavar = str(action.metavar)
    if metavar in _PLACES:
        return [Offer(FILE)]
    if metavar == "KEY" and not action.option_strings:
        return [Offer(key.name, key.meaning.partition(". ")[0]) for key in KEYS.values()]
    if metavar == "COMPONENT" or action.dest == "components":
        return [Offer(name) for name in SHIPPED]
    if metavar.startswith("{"):
        return [Offer(word) for word in metavar.strip("{}").split(",")]
    return []


def _says(action: argparse.Action) -> str:
    """What an option is for, without its default: a line at a prompt is short."""
    return meaning(action).partition(" (default: ")[0]
