"""A policy's flows as a picture: text for Graphviz, or SVG drawn here.

Three columns: who sends, on which subjects in which space, who receives. All senders and receivers at a box in the
middle may use all of its subjects, so lines can be followed across it. The SVG needs no script, font or file of its
own, and all text in it is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final

__all__ = ["dot", "quoted", "svg"]

Flow = Mapping[str, Any]

COLOURS: Final = {"publish": "#1f5fa8", "call": "#2c7a3f", "delegate": "#b3611a"}
MEANINGS: Final = {"publish": "publish to subscribe", "call": "call to serve", "delegate": "call on behalf of"}

_FONT: Final = "12px 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_CHARACTER: Final = 7.4
"""Width of a character of that font in pixels, rounded up."""
_LONGEST: Final = 56
"""Characters of a label; the whole of it is in the tooltip."""
_ROW: Final = 28
_BOX: Final = 20
_GAP: Final = 150
"""Between columns: room for lines to part."""
_MARGIN: Final = 20
_HEAD: Final = 64
"""Title and legend."""
_LEGEND: Final = 720
"""The legend's width."""


@dataclass(slots=True)
class _Node:
    """One box."""

    label: str
    colour: str = "#333333"
    tip: dict[str, None] = field(default_factory=dict)
    """Places of the rules that it stands for, each once."""
    joined: list["_Node"] = field(default_factory=list)
    y: float = 0.0


@dataclass(slots=True)
class _Picture:
    """Boxes in columns, and lines between them."""

    senders: dict[str, _Node] = field(default_factory=dict)
    spaces: dict[str, dict[tuple[str, str], _Node]] = field(default_factory=dict)
    """The boxes in the middle, by space."""
    receivers: dict[str, _Node] = field(default_factory=dict)
    left: dict[tuple[int, int], tuple[_Node, _Node, str, bool]] = field(default_factory=dict)
    """Lines from senders: both ends, the verb, and whether an export is crossed."""
    right: dict[tuple[int, int], tuple[_Node, _Node, str, bool]] = field(default_factory=dict)


def _picture(flows: Iterable[Flow]) -> _Picture:
    picture = _Picture()
    for flow in flows:
        kind, crosses = flow["kind"], flow["export"] is not None
        sender = picture.senders.setdefault(flow["sender"], _Node(flow["sender"]))
        receiver = picture.receivers.setdefault(flow["receiver"], _Node(flow["receiver"]))
        boxes = picture.spaces.setdefault(flow["space"], {})
        key = (kind, flow["subject"])
        middle = boxes.setdefault(key, _Node(f"{kind} {flow['subject']}", COLOURS[kind]))
        for node, place in (
            (sender, flow["sender_rule"]),
            (middle, flow["export"]),
            (receiver, flow["receiver_rule"]),
        ):
            if place:
                node.tip[place] = None
        if (id(sender), id(middle)) not in picture.left:
            picture.left[id(sender), id(middle)] = (sender, middle, kind, crosses)
            sender.joined.append(middle)
        if (id(middle), id(receiver)) not in picture.right:
            picture.right[id(middle), id(receiver)] = (middle, receiver, kind, crosses)
            receiver.joined.append(middle)
    return picture


# -- Graphviz ---------------------------------------------------------------------------------------------------------


def dot(flows: Sequence[Flow], title: str) -> str:
    """The flows in the language of Graphviz: ``bus policy graph --dot | dot -Tsvg``."""
    picture = _picture(flows)
    names: dict[int, str] = {}
    lines = [
        "digraph policy {",
        f"  label={quoted(title)}; labelloc=t; rankdir=LR; node [shape=box, fontname=monospace];",
    ]

    def add(node: _Node, margin: str) -> None:
        names[id(node)] = f"n{len(names)}"
        tip = quoted(" ".join(node.tip))
        lines.append(
            f"{margin}{names[id(node)]} [label={quoted(node.label)}, tooltip={tip}, color={quoted(node.colour)}];"
        )

    for column in (picture.senders, picture.receivers):
        for node in column.values():
            add(node, "  ")
    for number, (space, boxes) in enumerate(picture.spaces.items()):
        lines.append(f"  subgraph cluster_{number} {{ label={quoted(space)};")
        for node in boxes.values():
            add(node, "    ")
        lines.append("  }")
    for start, end, kind, crosses in (*picture.left.values(), *picture.right.values()):
        style = ", style=dashed" if crosses else ""
        lines.append(f"  {names[id(start)]} -> {names[id(end)]} [color={quoted(COLOURS[kind])}{style}];")
    return "\n".join([*lines, "}", ""])


def quoted(text: str) -> str:
    """``text`` as a string of Graphviz, in which backslash sequences and entities of HTML mean something."""
    text = text.replace("\\", "\\\\").replace("&", "&amp;").replace('"', '\\"')
    return '"' + text.replace("\n", " ") + '"'


# -- SVG --------------------------------------------------------------------------------------------------------------


def svg(flows: Sequence[Flow], title: str) -> str:
    """The flows as an SVG document."""
    picture = _picture(flows)
    middle = [node for boxes in picture.spaces.values() for node in boxes.values()]
    widths = [_width(column) for column in (picture.senders.values(), middle, picture.receivers.values())]
    headings = max((len(space) for space in picture.spaces), default=0) * _CHARACTER + 16
    widths[1] = max(widths[1], headings)
    edges = [float(_MARGIN)]
    for width in widths:
        edges += [edges[-1] + width, edges[-1] + width + _GAP]
    del edges[-1]
    bands, bottom = _place_middle(picture)
    for outer in (picture.senders.values(), picture.receivers.values()):
        bottom = max(bottom, _place_beside(list(outer)))
    across = max(edges[-1] + _MARGIN, len(title) * _CHARACTER + 2 * _MARGIN, _LEGEND)
    parts = [_head(title, across, bottom + _MARGIN)]
    for space, top, end in bands:
        parts.append(
            f'<rect x="{edges[2] - 12:.0f}" y="{top:.0f}" width="{widths[1] + 24:.0f}" height="{end - top:.0f}" '
            f'rx="6" fill="#f2f2ee"/><text x="{edges[2]:.0f}" y="{top + 17:.0f}" class="space">{escape(space)}</text>'
        )
    for lines, start_x, end_x in ((picture.left, edges[1], edges[2]), (picture.right, edges[3], edges[4])):
        parts += [_line(start_x, start, end_x, end, kind, crosses) for start, end, kind, crosses in lines.values()]
    columns = (list(picture.senders.values()), middle, list(picture.receivers.values()))
    for nodes, x, width in zip(columns, edges[0::2], widths, strict=True):
        parts += [_box(node, x, width) for node in nodes]
    return "\n".join([*parts, "</svg>", ""])


def _width(nodes: Iterable[_Node]) -> float:
    """Of a column: its longest label."""
    return max((len(_clipped(node.label)) for node in nodes), default=0) * _CHARACTER + 16


def _place_middle(picture: _Picture) -> tuple[list[tuple[str, float, float]], float]:
    """Give the boxes in the middle their places, a band for each space; the bands, and where they end."""
    bands: list[tuple[str, float, float]] = []
    y = float(_HEAD)
    for space, boxes in picture.spaces.items():
        top = y
        y += 24
        for node in sorted(boxes.values(), key=lambda node: node.label):
            node.y = y
            y += _ROW
        bands.append((space, top, y))
        y += 14
    return bands, y


def _place_beside(nodes: list[_Node]) -> float:
    """Give the boxes of an outer column places near what they are joined to, without overlap; where they end."""
    for node in nodes:
        node.y = sum(other.y for other in node.joined) / len(node.joined)
    y = float(_HEAD + 24)
    for node in sorted(nodes, key=lambda node: (node.y, node.label)):
        node.y = y = max(y, node.y)
        y += _ROW
    return y


def _head(title: str, width: float, height: float) -> str:
    legend = []
    x = float(_MARGIN)
    for kind, meaning in MEANINGS.items():
        legend.append(
            f'<path d="M{x:.0f},44h22" stroke="{COLOURS[kind]}"/><text x="{x + 28:.0f}" y="48">{meaning}</text>'
        )
        x += 28 + len(meaning) * _CHARACTER + 24
    legend.append(f'<path d="M{x:.0f},44h22" class="crosses"/><text x="{x + 28:.0f}" y="48">through an export</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">\n<title>{escape(title)}</title>\n'
        f"<style>text{{font:{_FONT};fill:#222}}path{{fill:none;stroke-width:1.4;stroke-opacity:.75}}"
        ".space{font-weight:bold;fill:#666}.crosses{stroke-dasharray:6 4}path.crosses:not([stroke]){stroke:#222}"
        "</style>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n<text x="{_MARGIN}" y="24">{escape(title)}</text>\n'
        + "\n".join(legend)
    )


def _line(start_x: float, start: _Node, end_x: float, end: _Node, kind: str, crosses: bool) -> str:
    y1, y2 = start.y + _BOX / 2, end.y + _BOX / 2
    bend = (end_x - start_x) / 2
    dashed = ' class="crosses"' if crosses else ""
    return (
        f'<path d="M{start_x:.0f},{y1:.0f}C{start_x + bend:.0f},{y1:.0f} {end_x - bend:.0f},{y2:.0f} '
        f'{end_x:.0f},{y2:.0f}" stroke="{COLOURS[kind]}"{dashed}/>'
    )


def _box(node: _Node, x: float, width: float) -> str:
    tip = escape(f"{node.label} ({', '.join(node.tip)})" if node.tip else node.label)
    return (
        f'<g><title>{tip}</title><rect x="{x:.0f}" y="{node.y:.0f}" width="{width:.0f}" height="{_BOX}" rx="4" '
        f'fill="#ffffff" stroke="{node.colour}"/>'
        f'<text x="{x + 8:.0f}" y="{node.y + 14:.0f}">{escape(_clipped(node.label))}</text></g>'
    )


def _clipped(label: str) -> str:
    return label if len(label) <= _LONGEST else label[: _LONGEST - 3] + "..."
