"""What `import busclient` gives: exactly what is listed, lean, and typed."""

import ast
import importlib
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import busclient
from busclient import errors
from busproto.codes import ENTRIES
from busproto.envelope import STATUS_CODES, Status
from busproto.errors import BusError, Code
from tests.support import ROOT, environment

PACKAGE = ROOT / "clients" / "busclient"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_everything_listed_is_there_once_and_nothing_else_is_public() -> None:
    assert len(set(busclient.__all__)) == len(busclient.__all__)
    for name in busclient.__all__:
        assert getattr(busclient, name) is not None
    imported = {
        alias.asname or alias.name
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == set(busclient.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_lists_what_it_gives(name: str) -> None:
    module = importlib.import_module(f"busclient.{name}")
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public)


def test_every_exception_of_the_sdk_is_exported_and_documented() -> None:
    for name in errors.__all__:
        thing = getattr(errors, name)
        if isinstance(thing, type) and issubclass(thing, BusError):
            assert getattr(busclient, name) is thing
            assert thing.__doc__
            assert thing is BusError or name in (errors.__doc__ or "")


def test_every_outcome_has_an_exception_of_its_own() -> None:
    raised = {status: type(errors.from_reply(status, b"")) for status in (Status.ERROR, *STATUS_CODES)}
    assert len(set(raised.values())) == len(raised) == 7
    for status, code in STATUS_CODES.items():
        error = errors.from_reply(status, b"")
        assert error.code == code
        assert error.retryable == ENTRIES[code].retryable


@pytest.mark.parametrize(
    "error",
    [
        errors.NotConnected("unix:///x", "gone"),
        errors.ConnectionLost("unix:///x", "gone"),
        errors.Closed("bus"),
        errors.CallTimeout("a.b", 1.5),
        errors.UnknownOutcome("a.b", "gone"),
        errors.PayloadTooLarge(5, 4),
        errors.Gap(7, "outbox-bytes", "a.>"),
        errors.Gap(None, "reconnected"),
        errors.ErrorReply.from_body(BusError(10001, text="broken", part="x").body()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_a_pickle(error: BusError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.body(), str(copy)) == (error.body(), str(error))
    if isinstance(error, errors.Gap) and isinstance(copy, errors.Gap):
        assert (copy.count, copy.reason) == (error.count, error.reason)


def test_an_error_body_becomes_the_exception_of_its_code() -> None:
    for code, kind in (
        (Code.DENIED, errors.Denied),
        (Code.QUOTA_EXCEEDED, errors.Overloaded),
        (Code.GROUP_CONFLICT, BusError),
        (4711, BusError),
    ):
        assert type(errors.from_body({"code": code, "text": "x"})) is kind
    assert type(errors.from_body({"code": "text"})) is BusError


def test_the_package_is_typed() -> None:
    for room in ("clients/busclient", "clients/buscli", "schemas/busproto", "busd"):
        assert (ROOT / room / "py.typed").exists(), room


def test_public_functions_and_methods_are_documented() -> None:
    for name in busclient.__all__:
        thing = getattr(busclient, name)
        if isinstance(thing, type) and thing.__module__.startswith("busclient"):
            for method, value in vars(thing).items():
                if not method.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                    assert value.__doc__, f"{name}.{method}"


def test_importing_it_is_lean(tmp_path: Path) -> None:
    script = "import sys, busclient; print(*sorted(m for m in sys.modules if '.' not in m))"
    command = [sys.executable, "-c", script]
    loaded = set(subprocess.check_output(command, env=environment(), cwd=tmp_path, text=True).split())
    assert not loaded & {"zmq", "uvloop", "busd", "psutil", "prometheus_client", "aiohttp", "rich", "cryptography"}
