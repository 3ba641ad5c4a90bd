"""Finding a component's class, and making one with its configuration."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from busclient import BusError, Code
from busd.components.model import Component, Manifest, attach, configure, load, source_of
from busd.components.shipped import SHIPPED
from tests.components.model_support import Sample

HEAD = """
from busd.components.model import Component, Manifest, Request
MANIFEST = Manifest(component="found", version="1", owner="t", purpose="p", operations=(Request("work"),))
class Found(Component):
    manifest = MANIFEST
    async def work(self) -> int:
        return 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_what_is_shipped_is_found(name: str) -> None:
    component = load(name)
    assert component.manifest.component == name
    assert load(SHIPPED[name]) is component
    assert source_of(component) == SHIPPED[name]


def test_a_class_is_found(folder: Path) -> None:
    (folder / "found_here.py").write_text(HEAD)
    component = load("found_here:Found")
    assert issubclass(component, Component)
    assert source_of(component) == "found_here:Found"


def test_a_name_that_is_not_shipped() -> None:
    with pytest.raises(BusError) as caught:
        load("telemetri")
    assert caught.value.code == Code.COMPONENT_UNKNOWN
    assert caught.value.fields == {"component": "telemetri", "nearest": "telemetry"}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("found_here:", "a component is named module:Class"),
        (":Found", "a component is named module:Class"),
        ("found here:Found", "a component is named module:Class"),
        ("found_here:Found.inner", "a component is named module:Class"),
        (".found_here:Found", "a component is named module:Class"),
        ("found_nowhere:Found", "there is no module 'found_nowhere' on the path"),
        ("found_here.deeper:Found", "there is no module 'found_here.deeper' on the path"),
        ("found_here:Fuond", "module 'found_here' has no 'Fuond'; its components: Broken, Found"),
        ("found_here:MANIFEST", "'MANIFEST' is not a subclass of Component"),
        ("found_here:Component", "'Component' is not a subclass of Component"),
        ("found_here:Broken", "Broken.work has no annotation of what it returns"),
        ("found_broken:Found", "module 'found_broken' cannot be imported: ZeroDivisionError: division by zero"),
        ("found_needy:Found", "module 'found_needy' cannot be imported: No module named 'found_missing'"),
        ("found_garbled:Found", "module 'found_garbled' cannot be imported: SyntaxError"),
        ("found_exits:Found", "module 'found_exits' cannot be imported: SystemExit"),
    ],
)
def test_what_is_no_component(folder: Path, source: str, reason: str) -> None:
    broken = "class Broken(Component):\n    manifest = MANIFEST\n    async def work(self): ...\n"
    (folder / "found_here.py").write_text(HEAD + broken)
    (folder / "found_broken.py").write_text("1 / 0")
    (folder / "found_needy.py").write_text("import found_missing")
    (folder / "found_garbled.py").write_text("def :")
    (folder / "found_exits.py").write_text("raise SystemExit(3)")
    with pytest.raises(BusError) as caught:
        load(source)
    assert caught.value.code == Code.COMPONENT_INVALID
    assert caught.value.fields["source"] == source
    assert caught.value.fields["reason"].startswith(reason)


def test_attach_says_what_is_wrong_at_once() -> None:
    with pytest.raises(BusError, match="there is no component 'nothing'"):
        attach("nothing")
    with pytest.raises(BusError, match="there is no module"):
        attach("found_nowhere:Found")


MANIFEST = Manifest(component="configured", version="1", owner="t", purpose="p", operations=())


class Configured(Component):
    """A component with a configuration of several kinds."""

    manifest = MANIFEST

    def __init__(
        self,
        folder: Path,
        limit: Annotated[int, msgspec.Meta(ge=1)] = 10,
        *,
        names: list[str] = [],  # noqa: B006  (each gets a list of its own: that is what is tested)
        now: Callable[[], float] | None = None,
    ) -> None:
        if limit == 13:
            raise ValueError("limit must not be 13")
        if limit == 14:
            raise RuntimeError("a fault")
        self.folder = folder
        self.limit = limit
        self.names = names
        self.now = now


def test_configuration_is_read(tmp_path: Path) -> None:
    here = configure(Configured, {"folder": tmp_path})
    assert (here.folder, here.limit, here.names, here.now) == (tmp_path, 10, [], None)
    there = configure(Configured, {"folder": tmp_path, "limit": 3, "names": ["a"], "now": lambda: 7.0})
    assert (there.limit, there.names) == (3, ["a"])
    assert there.now is not None
    assert there.now() == 7.0
    assert isinstance(configure(Sample, {}), Sample)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "folder: missing"),
        ({"folder": Path(), "limit": 0}, "limit: expected int >= 1"),
        ({"folder": Path(), "limit": "3"}, "limit: expected int, got str"),
        ({"folder": Path(), "names": [1]}, "names[0]: expected str, got int"),
        ({"folder": Path(), "limits": 1}, "limits: there is no such field"),
        ({"folder": Path(), "limit": 13}, "limit must not be 13"),
    ],
)
def test_configuration_that_is_not_valid(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(BusError) as caught:
        configure(Configured, config)
    assert caught.value.code == Code.CONFIG_INVALID
    assert caught.value.fields == {"key": "config of component 'configured'", "where": "", "reason": reason}


def test_a_fault_of_the_constructor_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a fault"):
        configure(Configured, {"folder": tmp_path, "limit": 14})


def test_a_constructor_without_annotations_or_parameters() -> None:
    class Bare(Component):
        manifest = MANIFEST

        def __init__(self, limit=3):  # type: ignore[no-untyped-def]
            pass

    class Empty(Component):
        manifest = MANIFEST

    with pytest.raises(BusError, match=r"Bare\.__init__: parameter 'limit' has no annotation") as caught:
        configure(Bare, {})
    assert caught.value.code == Code.COMPONENT_INVALID
    assert isinstance(configure(Empty, {}), Empty)
    with pytest.raises(BusError, match="limit: there is no such field"):
        configure(Empty, {"limit": 3})
