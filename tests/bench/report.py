"""What a benchmark run found: as a table for people and as JSON for machines."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.bench.works import Figure, Work

OURS = "busd"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar and whether it is met."""

    against: str | None
    """The peer that the figure is divided by; None for a bar on busd's own figure."""
    bar: float
    value: float
    better: str

    @property
    def met(self) -> bool:
        return self.value <= self.bar if self.better == "lower" else self.value >= self.bar


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one work with every peer's rounds."""

    work: Work
    figure: Figure
    rounds: dict[str, list[float]]
    """By peer, in the order in which they were measured."""

    def medians(self) -> dict[str, float]:
        return {peer: median(values) for peer, values in self.rounds.items() if values}

    def ratios(self) -> dict[str, float]:
        """busd's median divided by each other peer's."""
        medians = self.medians()
        ours = medians.pop(OURS, None)
        return {} if ours is None else {peer: ours / theirs for peer, theirs in medians.items() if theirs}

    def verdicts(self) -> list[Verdict]:
        ratios = self.ratios()
        found = [
            Verdict(peer, bar, ratios[peer], self.figure.better)
            for peer, bar in self.figure.bars.items()
            if peer in ratios
        ]
        ours = self.medians().get(OURS)
        if self.figure.ceiling is not None and ours is not None:
            found.append(Verdict(None, self.figure.ceiling, ours, "lower"))
        return found

    def as_json(self) -> dict[str, Any]:
        medians = self.medians()
        return {
            "work": self.work.name,
            "figure": self.figure.key,
            "name": self.figure.name,
            "unit": self.figure.unit,
            "better": self.figure.better,
            "values": {peer: {"median": medians[peer], "rounds": self.rounds[peer]} for peer in medians},
            "ratios": self.ratios(),
            "bars": [{"against": v.against, "bar": v.bar, "value": v.value, "met": v.met} for v in self.verdicts()],
        }


HEADINGS = ("figure", "unit", "busd", "peer", "its figure", "ratio", "bar", "")


def table(rows: list[Row]) -> str:
    """The rows as aligned text: one line for each figure and peer."""
    lines: list[tuple[str, ...]] = [HEADINGS]
    for row in rows:
        lines += _lines(row)
    return aligned_table(lines, left=(0, 1, 3, len(HEADINGS) - 1))


def aligned_table(lines: list[tuple[str, ...]], left: tuple[int, ...]) -> str:
    """``lines`` with the first as headings, in columns: those in ``left`` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def aligned(line: tuple[str, ...]) -> str:
        cells = enumerate(zip(line, widths, strict=True))
        return "  ".join(
            f"{cell:<{width}}" if column in left else f"{cell:>{width}}" for column, (cell, width) in cells
        ).rstrip()

    rule = "-" * len(aligned(tuple("x" * width for width in widths)))
    return "\n".join([aligned(lines[0]), rule, *(aligned(line) for line in lines[1:])])


def _lines(row: Row) -> list[tuple[str, ...]]:
    medians = row.medians()
    ours = medians.get(OURS)
    verdicts = {verdict.against: verdict for verdict in row.verdicts()}
    ratios = row.ratios()
    names = [peer for peer in medians if peer != OURS]
    lines: list[tuple[str, ...]] = []
    first = (row.figure.name, row.figure.unit, _number(ours))
    own = verdicts.get(None)
    for peer in names or [""]:
        verdict = own or verdicts.get(peer)
        theirs, ratio = medians.get(peer), ratios.get(peer)
        lines.append((*first, peer, _number(theirs), f"{ratio:.2f}x" if ratio is not None else "-", *_judged(verdict)))
        first, own = ("", "", ""), None
    return lines


def _judged(verdict: Verdict | None) -> tuple[str, str]:
    if verdict is None:
        return "-", ""
    sign = "<=" if verdict.better == "lower" else ">="
    unit = "x" if verdict.against else ""
    return f"{sign} {verdict.bar:g}{unit}", "met" if verdict.met else "MISSED"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
