"""Shell completion: the walk over the words typed so far. The scripts that ask for it are in `buscli.shells`."""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from buscli.output import printable
from buscli.shells import FILE, Offer, assigned, matching
from buscli.table import CONNECTION, FORM, NAMES, Argument, Command, commands, load

if TYPE_CHECKING:
    from busclient import Bus

_LIVE_SECONDS: Final = 0.5
_PLAIN_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]+")
"""What of the bus is offered to a shell: guests choose names there, so nothing that a shell could act on passes."""


class _Typed:
    """What was typed after a command's name: which argument the next word belongs to."""

    def __init__(self, arguments: tuple[Argument, ...], words: Iterable[str]) -> None:
        self.bus: str | None = None
        self.expects: Argument | None = None
        """The option whose value comes next."""
        self._options = {name: argument for argument in arguments for name in argument.spellings if argument.is_option}
        self._places = [argument for argument in arguments if not argument.is_option]
        self._taken = 0
        for word in words:
            self._take(word)

    def _take(self, word: str) -> None:
        if self.expects is not None:
            if self.expects.name == "--bus":
                self.bus = word
            self.expects = None
        elif word.startswith("-") and word != "-":
            option = self._options.get(word)
            if option is not None and option.takes_value:
                self.expects = option
            elif word.startswith("--bus="):
                self.bus = word.removeprefix("--bus=")
        else:
            self._taken += 1

    @property
    def place(self) -> Argument | None:
        """The positional argument that the next word would be."""
        if self._taken < len(self._places):
            return self._places[self._taken]
        last = self._places[-1] if self._places else None
        return last if last is not None and last.arity in ("many", "any") else None

    def option(self, name: str) -> Argument | None:
        return self._options.get(name)


def complete(words: list[str]) -> Iterator[Offer]:
    """Candidates for the last of ``words`` (the words after ``bus``; the last may be empty)."""
    *before, typed = words or [""]
    globals_ = _Typed((*CONNECTION, *FORM), ())
    for index, word in enumerate(before):
        if globals_.expects is None and not word.startswith("-"):
            return _complete_command(word, before[index + 1 :], typed, globals_.bus)
        globals_ = _Typed((*CONNECTION, *FORM), before[: index + 1])
    if globals_.expects is not None:
        return matching(typed, _values(globals_.expects, None))
    if typed.startswith("-"):
        names = [Offer(argument.name, argument.help) for argument in (*CONNECTION, *FORM)]
        return matching(typed, [*names, Offer("--help", "show help"), Offer("--version", "show versions")])
    return matching(typed, [Offer(command.name, command.help) for command in commands()])


def _complete_command(name: str, words: list[str], typed: str, bus: str | None) -> Iterator[Offer]:
    if name not in NAMES:
        return iter(())
    return _complete_arguments(load(name), words, typed, bus)


def _complete_arguments(command: Command, words: list[str], typed: str, bus: str | None) -> Iterator[Offer]:
    for index, word in enumerate(words if command.actions else ()):
        if (action := command.action(word)) is not None:
            return _complete_arguments(action, [*words[:index], *words[index + 1 :]], typed, bus)
    actions = [Offer(action.word, action.help) for action in command.actions]
    if not command.runs:
        return matching(typed, actions)
    arguments = command.all_arguments()
    state = _Typed(arguments, words)
    bus = state.bus or bus
    if state.expects is not None:
        return matching(typed, _values(state.expects, bus))
    option, equals, value = typed.partition("=")
    if equals and (argument := state.option(option)) is not None:
        return assigned(option, value, _values(argument, bus))
    if typed.startswith("-"):
        return matching(typed, _option_names(command))
    if state.place is None:
        return iter(())
    # A path first: what bash is told to complete as one takes the place of what was offered before it.
    return matching(typed, [*_values(state.place, bus), *actions])


def _option_names(command: Command) -> list[Offer]:
    offers = [Offer(argument.name, argument.help) for argument in command.all_arguments() if argument.is_option]
    return [*offers, Offer("--help", "show help")]


def _values(argument: Argument, bus: str | None) -> Iterable[Offer]:
    """What ``argument`` may be."""
    match argument.completes:
        case "choices":
            return [Offer(choice) for choice in argument.choices]
        case "file":
            return [Offer(FILE)]
        case "command":
            return [Offer(command.name, command.help) for command in commands()]
        case "error":
            from busproto.codes import ENTRIES

            return [Offer(entry.name, str(entry.number)) for entry in ENTRIES.values()]
        case "subject" | "endpoint" | "claim" | "component" | "place" | "job" | "root" | "tenant" | "guest" | "key":
            return [offer for offer in _live(argument.completes, bus) if _PLAIN_WORD.fullmatch(offer.word)]
        case "nothing":
            return []


def _live(what: str, bus: str | None) -> list[Offer]:
    """Names from the bus itself; none when it does not answer in time: a prompt must never hang or show an error."""
    import asyncio

    from busproto.errors import BusError

    async def ask() -> list[Offer]:
        import busclient
        from buscli.connection import COMPONENT

        async with asyncio.timeout(_LIVE_SECONDS):
            async with busclient.connect(
                bus, component=COMPONENT, purpose="shell completion", reconnect=False
            ) as attached:
                return await _SOURCES.get(what, _census)(attached, what)

    try:
        return asyncio.run(ask())
    except (BusError, OSError, TimeoutError):
        return []


async def _census(bus: "Bus", what: str) -> list[Offer]:
    """Endpoints, subjects, or the components that endpoints claim to be."""
    from buscli.census import endpoints

    rows = [row async for row in endpoints(bus) if row["endpoint"] != bus.endpoint]
    if what == "endpoint":
        return [Offer(row["endpoint"], row["claims"].get("component", "")) for row in rows]
    if what == "claim":
        claims = [row["claims"] for row in rows if row["claims"].get("component")]
        said = {claim["component"]: claim.get("purpose", "") for claim in claims}
        return [Offer(component, said[component]) for component in sorted(said)]
    subjects = {name for row in rows for name in (*row["serves"], *row["claims"].get("publishes", ()))}
    return [Offer(subject) for subject in sorted(subjects)]


async def _components(bus: "Bus", what: str) -> list[Offer]:
    """The node's components, or the places where one could go."""
    from buscli.components import components

    rows = await components(bus)
    if what == "component":
        return [Offer(row["component"], row.get("purpose") or "") for row in rows]
    places = {"host": "the node itself"}
    for row in rows:
        places |= {each["placement"]: f"{row['component']} stands by there" for each in row.get("standby", ())}
    return [Offer(place, says) for place, says in places.items()]


async def _deletion(bus: "Bus", what: str) -> list[Offer]:
    """The jobs of the component that deletes, or its roots."""
    if what == "job":
        jobs = (await bus.call("deletion.list", {"all": True}, timeout=_LIVE_SECONDS)).payload
        return [Offer(row["job"], f"{row['state']}: {row['path'].decode('utf-8', 'replace')}") for row in jobs]
    roots = (await bus.call("deletion.roots", {}, timeout=_LIVE_SECONDS)).payload
    return [Offer(row["id"], row.get("path", "")) for row in roots]


async def _cache(bus: "Bus", what: str) -> list[Offer]:
    """The tenants of the cache."""
    shares = (await bus.call("cache.tenants", {}, timeout=_LIVE_SECONDS)).payload
    return [Offer(row["tenant"], f"{row['entries']} entries") for row in shares]


async def _units(bus: "Bus", what: str) -> list[Offer]:
    """Guests, or the units whose keys are enrolled."""
    from buscli.commands import guest, keys

    if what == "guest":
        return [Offer(row["name"], f"{row['tenant']}, {row['state']}") for row in await guest.guests(bus)]
    listed = (await bus.call(f"{keys.SERVICE}list", {}, timeout=_LIVE_SECONDS)).payload
    return [Offer(row["name"], row["tenant"]) for row in listed["keys"]]


_SOURCES: Final = {
    "component": _components,
    "place": _components,
    "job": _deletion,
    "root": _deletion,
    "tenant": _cache,
    "guest": _units,
    "key": _units,
}
"""Who knows the names; `_census` does of all others."""


def serve_request(words: list[str]) -> None:
    """Print the candidates for ``bus __complete WORD...``."""
    for offer in complete(words):
        print(Offer(offer.word, printable(offer.says)).line)
