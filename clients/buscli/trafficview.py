"""The map of who talks to whom, as text for people and as a graph for Graphviz."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from buscli.output import Output, Style, printable
from buscli.policygraph import COLOURS, quoted
from buscli.traffic import Link, Party, TrafficMap, rate_text, split, total

__all__ = ["dot", "show"]

LINKS: Final = 8
"""Of one component that are shown; with ``--component`` as many as components otherwise."""

_COLUMN: Final = 40
"""Characters to which names are set in columns; a longer one pushes its own line."""
_TEXT: Final = 200
"""Characters of an owner or purpose: an endpoint may claim a page."""

_OUT: Final = {"publish": "publishes to", "call": "calls"}
_IN: Final = {"publish": "gets from", "call": "is called by"}


def show(output: Output, traffic: TrafficMap, top: int, component: str | None = None) -> None:
    """Write the map for a person: the busiest ``top`` components, and how many were left out."""
    parties, links = traffic.parties()
    sent: dict[int, list[Link]] = {}
    got: dict[int, list[Link]] = {}
    for link in links:
        sent.setdefault(id(link.sender), []).append(link)
        got.setdefault(id(link.receiver), []).append(link)
    if component is not None:  # first what was asked about
        parties.sort(key=lambda party: party.component != component)
    shown, hidden = split(parties, top)
    columns = (
        _width(party.label for party in parties if id(party) in sent or id(party) in got),
        _width(link.subject for link in links),
    )
    output.line(_summary(output, traffic, parties, links))
    for party in shown:
        asked = party.component == component and component is not None
        rows = [(_OUT, link, link.receiver) for link in sent.get(id(party), ())]
        if asked:
            rows += [(_IN, link, link.sender) for link in got.get(id(party), ())]
        output.line()
        output.line(_head(output, party))
        output.line(f"  {_facts(party)}")
        visible, rest = split(rows, top if asked else LINKS)
        for verbs, link, other in visible:
            output.line(_row(verbs[link.kind], other, link, columns))
        if rest:
            rate = rate_text(total(link for _, link, _ in rest))
            output.line(f"  and {len(rest):,} more, together {rate}" + ("" if asked else _cure(party)))
    if hidden:
        output.line()
        output.line(_left_out(hidden))


def _summary(output: Output, traffic: TrafficMap, parties: Sequence[Party], links: Sequence[Link]) -> str:
    endpoints = len(traffic.endpoints)
    components = sum(bool(party.component and party.endpoints) for party in parties)
    text = f"{_number(components, 'component')}, {_number(endpoints, 'endpoint')}"
    text += f"; {rate_text(total(links)).replace('-', '0/s')} in all, over {traffic.seconds:.1f} s"
    if traffic.silent:
        missing = f"{_number(traffic.silent, 'endpoint')} {'do' if traffic.silent > 1 else 'does'} not say who"
        text += "; " + output.styled(f"{missing} {'they are' if traffic.silent > 1 else 'it is'}", Style.YELLOW)
    return text


def _head(output: Output, party: Party) -> str:
    name = output.styled(party.label, Style.BOLD)
    if not party.component:
        return f"{name}: {output.styled('does not say what it is, whose it is, or why', Style.YELLOW)}"
    purpose = party.purpose
    return f"{name}: " + (
        printable(purpose[:_TEXT]) if purpose else output.styled("does not say what it is for", Style.YELLOW)
    )


def _facts(party: Party) -> str:
    owner = f"owner {printable(party.owner[:_TEXT])}" if party.owner else "owner not said"
    facts = [owner] if party.component else []
    facts += [printable(party.where), f"sends {_rate(party.sent)}, receives {_rate(party.received)}"]
    if party.component and party.missing and party.owner and party.purpose:
        facts.append(f"some do not say {' and '.join(party.missing)}")
    return "; ".join(facts)


def _rate(rate: float) -> str:
    return rate_text(rate) if rate > 0 else "nothing"


def _width(texts: Iterable[str]) -> int:
    """Of the column that holds ``texts``."""
    return min(max(map(len, texts), default=0), _COLUMN)


def _row(verb: str, other: Party, link: Link, columns: tuple[int, int]) -> str:
    label, subject = printable(other.label), printable(link.subject)
    rate = rate_text(link.per_second)
    seen = rate if link.per_second > 0 else f"-  ({link.messages:,} before)"
    return f"    {verb:<13} {label:<{columns[0]}}  {subject:<{columns[1]}}  {seen:>9}"


def _cure(party: Party) -> str:
    return f" (bus map --component {printable(party.component)})" if party.component else ""


def _left_out(hidden: Sequence[Party]) -> str:
    endpoints = sum(len(party.endpoints) for party in hidden)
    silent = sum(len(party.endpoints) for party in hidden if not party.component)
    rate = _rate(sum(party.sent for party in hidden))
    text = f"and {len(hidden):,} more rows of {_number(endpoints, 'endpoint')}"
    text += f", {silent:,} of which do not say who they are" if silent else ""
    return f"{text}; they send {rate} (--top N shows more, --json all)"


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# -- Graphviz ---------------------------------------------------------------------------------------------------------


def dot(traffic: TrafficMap, top: int) -> str:
    """The map in the language of Graphviz: ``bus map --dot | dot -Tsvg``.

    A box for each of the busiest ``top`` components, by tenant; those that do not say who they are are dashed. A line
    for each pair, kind and subject among them, wider for more.
    """
    parties, links = traffic.parties()
    shown, hidden = split(parties, top)
    names = {id(party): f"n{number}" for number, party in enumerate(shown)}
    title = f"{_number(len(traffic.endpoints), 'endpoint')}, over {traffic.seconds:.1f} s"
    title += f"; {_left_out(hidden)}" if hidden else ""
    return "\n".join(
        (
            "digraph bus {",
            f"  label={_label(title)}; labelloc=t; rankdir=LR; node [shape=box, fontname=monospace];",
            *_boxes(shown, names),
            *_lines(links, names),
            "}",
            "",
        )
    )


def _boxes(shown: Sequence[Party], names: dict[int, str]) -> Iterator[str]:
    """The boxes, those of one tenant in one frame."""
    for number, tenant in enumerate(dict.fromkeys(party.tenant for party in shown)):
        yield f"  subgraph cluster_{number} {{ label={_label(tenant or 'left')};"
        for party in shown:
            if party.tenant == tenant:
                lines = [party.label, f"owner {party.owner or 'not said'}", party.purpose or "purpose not said"]
                if not party.component:
                    lines[1:] = ["does not say who it is"]
                style = ', style=dashed, color="#b3261e"' if party.missing or not party.component else ""
                yield f"    {names[id(party)]} [label={_label(*lines, party.where)}{style}];"
        yield "  }"


def _lines(links: Sequence[Link], names: dict[int, str]) -> Iterator[str]:
    most = max((link.per_second for link in links), default=0.0) or 1.0
    for link in links:
        if id(link.sender) in names and id(link.receiver) in names:
            width = 1 + 4 * link.per_second / most
            yield (
                f"  {names[id(link.sender)]} -> {names[id(link.receiver)]} "
                f"[label={_label(link.subject, rate_text(link.per_second))}, color={quoted(COLOURS[link.kind])}, "
                f"penwidth={width:.1f}];"
            )


def _label(*lines: str) -> str:
    """Lines of foreign text as one string of Graphviz, in which ``\\n`` parts them."""
    return '"' + "\\n".join(quoted(printable(line[:_TEXT]))[1:-1] for line in lines) + '"'
