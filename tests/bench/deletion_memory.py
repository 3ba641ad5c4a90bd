"""How much memory a walk takes when there is very much to remove, and whether twice as much takes twice as long."""

from pathlib import Path
from typing import Any

from tests.bench.deletion_peers import TREE, clear, remove
from tests.bench.deletion_trees import make

BAR_MIB = 32.0
TARGET_MIB = 16.0

BAR_TWICE = 2.6
"""Times as long for twice as many: a sort and a larger directory are allowed for."""

LINKS = 1000
"""Names of one file: the walk does not see the difference, and making two million files takes minutes."""

MIB = 1 << 20


def memory(where: Path, entries: int, shapes: tuple[str, ...] = ("flat", "tree")) -> list[dict[str, Any]]:
    """For each shape: removal of ``entries`` / 2 and of ``entries`` files. Raises NotMeasured, OSError."""
    found = []
    for shape in shapes:
        row: dict[str, Any] = {"shape": shape, "entries": entries}
        for key, files in (("half", entries // 2), ("whole", entries)):
            make(where / TREE, shape, files, links=LINKS)
            outcome = remove("busd", where)
            clear(where)
            row[key] = {"files": outcome.files, "seconds": outcome.seconds, "grown": outcome.grown}
        row["twice"] = row["whole"]["seconds"] / row["half"]["seconds"]
        row["met"] = row["whole"]["grown"] <= BAR_MIB * MIB and row["twice"] < BAR_TWICE
        found.append(row)
    return found


def memory_table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For people."""
    table: list[tuple[str, ...]] = [
        ("shape", "entries", "RSS grew, MiB", "bar (aim)", "n/2 s", "n s", "ratio", "bar", "")
    ]
    table += [
        (
            row["shape"],
            f"{row['entries']:,}",
            f"{row['whole']['grown'] / MIB:.1f}",
            f"{BAR_MIB:g} ({TARGET_MIB:g})",
            f"{row['half']['seconds']:.2f}",
            f"{row['whole']['seconds']:.2f}",
            f"{row['twice']:.2f}",
            f"< {BAR_TWICE:g}",
            "" if row["met"] else "MISSED",
        )
        for row in rows
    ]
    return table
