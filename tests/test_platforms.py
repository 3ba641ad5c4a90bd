"""What agents import runs on Linux, macOS and Windows: nothing that only some systems have is imported unguarded.

`make check` has the other half: mypy for each of these systems over the same rooms.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support import ROOT, environment
from tests.test_layers import modules

PORTABLE: Final = ("busproto", "busclient", "buscli", "busd.components")

SOME_ONLY: Final = frozenset(
    {
        "fcntl",
        "resource",
        "pwd",
        "grp",
        "spwd",
        "termios",
        "tty",
        "pty",
        "syslog",
        "posix",
        "uvloop",
        "winreg",
        "msvcrt",
    }
)
"""Modules that not every system has."""

NOT_ON_WINDOWS: Final = frozenset({"busclient.serialtransport"})
"""Modules of ours that say at once that they are not for Windows. Whoever imports one guards that import."""


def portable() -> list[tuple[str, Path]]:
    return [
        (name, path)
        for name, path in modules()
        if any(name == room or name.startswith(f"{room}.") for room in PORTABLE)
    ]


def _asks_for_the_platform(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "sys.platform" in ast.unparse(node.test)


def _leaves(node: ast.stmt) -> bool:
    """Whether an ``if`` about the platform ends what follows: it raises, returns, or calls what does."""
    return (
        isinstance(node, ast.If)
        and _asks_for_the_platform(node)
        and isinstance(node.body[-1], ast.Raise | ast.Return | ast.Expr)
    )


def unguarded(body: list[ast.stmt], place: str) -> Iterator[str]:
    """Each import of what only some systems have, unless the platform was asked for or ImportError is expected."""
    for node in body:
        if _leaves(node):
            return
        if _asks_for_the_platform(node):
            continue
        if isinstance(node, ast.Try) and any("ImportError" in ast.unparse(each) for each in node.handlers):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if name.partition(".")[0] in SOME_ONLY or name in NOT_ON_WINDOWS:
                    yield f"{place}:{node.lineno}: {name} is not on every system: ask for sys.platform first"
        for inner in ("body", "orelse", "finalbody"):
            yield from unguarded(getattr(node, inner, []), place)
        for handler in getattr(node, "handlers", []):
            yield from unguarded(handler.body, place)


def test_what_only_some_systems_have_is_imported_behind_a_guard() -> None:
    found = portable()
    assert {name.partition(".")[0] for name, _ in found} == {"busproto", "busclient", "buscli", "busd"}
    places = [
        text
        for _, path in found
        for text in unguarded(ast.parse(path.read_text(encoding="utf-8")).body, str(path.relative_to(ROOT)))
    ]
    assert not places, "\n".join(places)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import fcntl", [1]),
        ("import os, resource", [1]),
        ("from pwd import getpwuid", [1]),
        ("def f():\n    import termios", [2]),
        ("class C:\n    def f(self):\n        with x:\n            import grp", [4]),
        ("from busclient.serialtransport import SerialTransport", [1]),
        ("try:\n    import fcntl\nexcept OSError:\n    import pty", [2, 4]),
        ("try:\n    import resource\nexcept ImportError:\n    resource = None", []),
        ("import sys\nif sys.platform != 'win32':\n    import resource", []),
        ("import sys\nif sys.platform == 'win32':\n    raise ImportError('no')\nimport fcntl", []),
        ("def f():\n    if sys.platform == 'win32':\n        return 0\n    import pwd", []),
        ("def f():\n    if sys.platform == 'win32':\n        x = 0\n    import pwd", [4]),
        ("import os, select, socket, signal", []),
    ],
)
def test_an_unguarded_import_is_found(source: str, lines: list[int]) -> None:
    assert [int(text.split(":")[1]) for text in unguarded(ast.parse(source).body, "p.py")] == lines


PRETEND: Final = """
import builtins, importlib, sys
platform, absent, refusing, names = sys.argv[1], *(set(each.split(",")) for each in sys.argv[2:5])
for name in names:
    importlib.import_module(name)
ours = {name for name in sys.modules if name.partition(".")[0] in ("busproto", "busclient", "buscli", "busd")}
for name in ours:
    del sys.modules[name]
sys.platform = platform
real = builtins.__import__
def guarded(name, values=None, locals=None, fromlist=(), level=0):
    importer = (values or {}).get("__name__", "")
    if importer in ours and name.partition(".")[0] in absent:
        raise ModuleNotFoundError(f"{importer} imports {name}")
    return real(name, values, locals, fromlist, level)
builtins.__import__ = guarded
for name in sorted(names):
    try:
        importlib.import_module(name)
    except ImportError as error:
        if name not in refusing:
            raise
        refusing.discard(name)
        print(name, "refuses:", error)
if refusing - {""}:
    sys.exit(f"these did not refuse: {refusing}")
"""
"""Imports every module as on another system: Python's own are there already, and ours find none that it lacks."""


@pytest.mark.parametrize(
    ("platform", "absent", "refusing"),
    [
        ("win32", SOME_ONLY - {"winreg", "msvcrt"}, NOT_ON_WINDOWS),
        ("darwin", frozenset({"uvloop", "winreg", "msvcrt"}), frozenset[str]()),
    ],
)
def test_every_module_can_be_imported_on(platform: str, absent: frozenset[str], refusing: frozenset[str]) -> None:
    names = [name for name, _ in portable() if not name.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", PRETEND, platform, ",".join(absent), ",".join(refusing), ",".join(names)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
