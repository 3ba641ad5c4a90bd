"""The house stands: imports run downwards only, the pure rooms stay pure, and no module grows beyond reading.

design: schemas <- core <- edge, ops <- node;  schemas <- clients <- components. Who may import whom is the table below.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS_ON_DISK = ("schemas", "clients", "busd")
LONGEST_MODULE = 800

# A room is a prefix of a module's name; the longest that fits is the module's room. Beside itself a room may import
# the rooms named here, and anything that is not ours. What is directly in busd/ (node.py, __main__.py) is the roof.
BESIDE: Final = frozenset({"busd.ops.configdir", "busd.ops.policyfolder", "busd.ops.statedir"})
"""Parts of ops that commands use without a node; rooms of their own, so that nothing else of ops comes along."""

SHOWN: Final = frozenset({"buscli.roff", "buscli.shells"})
"""What both programs' command lines are shown with: manual pages, and completion."""

ROOMS: dict[str, frozenset[str]] = {
    "busproto": frozenset(),
    "busd.core": frozenset({"busproto"}),
    "busd.edge": frozenset({"busproto", "busd.core"}),
    "busd.ops": frozenset({"busproto", "busd.core", *BESIDE}),
    **dict.fromkeys(BESIDE, frozenset({"busproto", "busd.core", *BESIDE})),
    "busclient": frozenset({"busproto"}),
    "busclient.testing": frozenset({"busproto", "busclient", "busd.core"}),
    "buscli": frozenset({"busproto", "busclient", *SHOWN, "buscli.offline", "buscli.componenthandle"}),
    **dict.fromkeys(SHOWN, frozenset()),
    "buscli.componenthandle": frozenset({"busproto", "busclient", "buscli", "busd.components"}),
    "buscli.offline": frozenset({"busproto", "busd.core", *BESIDE}),
    "busd.components": frozenset({"busproto", "busclient"}),
    "busd.components.model.testing": frozenset({"busproto", "busclient", "busclient.testing", "busd.components"}),
    "busd": frozenset(
        {"busproto", "busd.core", "busd.edge", "busd.ops", *BESIDE, "busd.components", "busclient", *SHOWN}
    ),
}
PURE = ("busproto", "busd.core")
IMPURE_MODULES = frozenset({"socket", "asyncio", "zmq", "time", "os", "random", "secrets", "threading", "selectors"})


class Import(NamedTuple):
    importer: str
    imported: str
    place: str


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the house by its dotted name."""
    for top, base in (("busproto", "schemas"), ("busclient", "clients"), ("buscli", "clients"), ("busd", ".")):
        for path in sorted((ROOT / base / top).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT / base).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports(name: str, source: str, place: str, *, package: bool = False) -> Iterator[Import]:
    """Every import statement of a module, wherever in it; for ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(source, place)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif not isinstance(node, ast.ImportFrom):
            continue
        else:
            base = node.module or ""
            if node.level:
                parents = name.split(".") if package else name.split(".")[:-1]
                base = ".".join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
            targets = [f"{base}.{alias.name}" for alias in node.names]
        for target in targets:
            yield Import(name, target, f"{place}:{node.lineno}")


def room_of(name: str) -> str | None:
    """The room that a module belongs to; None if it is not ours."""
    rooms = [room for room in ROOMS if name == room or name.startswith(room + ".")]
    return max(rooms, key=len, default=None)


def known_modules() -> frozenset[str]:
    return frozenset(name for name, _ in modules())


def objection(found: Import, known: frozenset[str]) -> str | None:
    """Why an import may not stand, or None."""
    importer = room_of(found.importer)
    assert importer is not None
    top = found.imported.partition(".")[0]
    if importer in PURE and top in IMPURE_MODULES:
        return (
            f"{found.place}: {found.importer} imports {top}; {importer} has no I/O, clock or randomness: pass them in"
        )
    # `from busd.core import Bus` names a thing in a module: take the longest prefix that is a module.
    module = found.imported
    while "." in module and module not in known:
        module = module.rpartition(".")[0]
    imported = room_of(module)
    own_version = module == "busd" and importer.startswith("busd.")  # the package itself holds nothing else
    if imported is None or imported == importer or own_version or imported in ROOMS[importer]:
        return None
    return f"{found.place}: {found.importer} ({importer}) imports {module} ({imported}), which is not below it"


def test_imports_run_downwards_only() -> None:
    known = known_modules()
    assert {room_of(name) for name in known} >= {
        "busproto",
        "busd.core",
        "busd.edge",
        "busd.ops",
        "busclient",
        "buscli",
    }
    objections = [
        text
        for name, path in modules()
        for found in imports(name, path.read_text(), str(path.relative_to(ROOT)), package=path.name == "__init__.py")
        if (text := objection(found, known))
    ]
    assert not objections, "imports that run up:\n" + "\n".join(objections)


KNOWN = frozenset(
    {
        "busproto",
        "busproto.errors",
        "busd",
        "busd.core",
        "busd.core.bus",
        "busd.core.policy",
        "busd.edge.acceptor",
        "busd.ops.config",
        "busd.node",
        "busd.components.telemetry",
        "busclient",
        "busclient.testing",
        "buscli",
        "buscli.offline",
        "buscli.componenthandle",
        "busd.ops.policyfolder",
    }
)


@pytest.mark.parametrize(
    ("importer", "source", "wrong"),
    [
        ("busproto.envelope", "import time", "busproto has no I/O"),
        ("busproto.envelope", "def f():\n    from os import path", "p.py:2"),
        ("busd.core.bus", "import asyncio.streams", "imports asyncio"),
        ("busd.core.bus", "from busd.edge.acceptor import Acceptor", "imports busd.edge.acceptor (busd.edge)"),
        ("busd.core.bus", "from ..edge import acceptor", "imports busd.edge.acceptor"),
        ("busd.core.bus", "from busd import node", "imports busd.node"),
        ("busd.core.bus", "import busclient", "imports busclient"),
        ("busd.edge.acceptor", "from busd.ops.config import Config", "busd.ops.config"),
        ("busd.ops.http", "import busd.edge.acceptor", "busd.edge.acceptor"),
        ("busd.components.telemetry", "from busd.core.bus import Bus", "busd.core.bus"),
        ("busd.components.telemetry", "from busclient.testing import Bus", "busclient.testing"),
        ("busclient", "from busd.core.bus import Bus", "busd.core.bus"),
        ("busclient", "import buscli", "buscli"),
        ("buscli", "import busd.node", "busd.node"),
        ("buscli", "from busd.core.policy import Policy", "busd.core.policy"),
        ("buscli.offline", "from busd.ops.config import Config", "busd.ops.config"),
        ("buscli", "import busd.components.telemetry", "busd.components.telemetry"),
        ("buscli.componenthandle", "from busd.core.bus import Bus", "busd.core.bus"),
        ("busd.components.telemetry", "import buscli.componenthandle", "buscli.componenthandle"),
        ("busd.ops.policyfolder", "from busd.ops.config import Config", "busd.ops.config"),
        ("buscli", "from busd import __version__", "imports busd (busd)"),
        ("busproto.errors", "import busclient", "busclient"),
    ],
)
def test_an_import_that_runs_up_is_found(importer: str, source: str, wrong: str) -> None:
    found = [text for each in imports(importer, source, "p.py") if (text := objection(each, KNOWN))]
    assert len(found) == 1
    assert wrong in found[0]
    assert found[0].startswith("p.py:")


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("busd.core.bus", "from busproto.errors import BusError\nimport json\nfrom . import outbox"),
        ("busd.edge.acceptor", "import asyncio, socket\nfrom busd.core.bus import Bus"),
        ("busd.node", "from busd.ops.config import Config\nfrom busd.edge.acceptor import A\nimport busd.components"),
        ("busclient.testing", "from busd.core.bus import Bus\nimport busclient"),
        ("buscli", "from busclient import connect"),
        ("buscli", "from buscli.offline import lint"),
        ("buscli", "from buscli.componenthandle import Called"),
        ("buscli.componenthandle", "from busd.components.telemetry import component\nfrom buscli.exits import Exit"),
        ("buscli.offline", "from busd.core.policy import Policy\nfrom busd.ops.policyfolder import load_policy"),
        ("busd.ops.policyadmin", "from busd.ops.policyfolder import load_policy"),
        ("busd.components.telemetry", "import busclient\nimport psutil\nfrom busd import __version__"),
    ],
)
def test_an_import_that_runs_down_stands(importer: str, source: str) -> None:
    assert [objection(each, KNOWN) for each in imports(importer, source, "p.py") if objection(each, KNOWN)] == []


def test_no_module_is_longer_than_a_reader_can_hold(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = sorted(
        (
            (len(path.read_text().splitlines()), str(path.relative_to(ROOT)))
            for room in (*ROOMS_ON_DISK, "tests")
            for path in (ROOT / room).rglob("*.py")
        ),
        reverse=True,
    )
    with capsys.disabled():
        print("\nlongest modules: " + ", ".join(f"{name} {lines}" for lines, name in sizes[:5]))
    too_long = [f"{name}: {lines} lines; at most {LONGEST_MODULE}" for lines, name in sizes if lines > LONGEST_MODULE]
    assert not too_long, "\n".join(too_long)
