"""What the configuration says of components: where their settings are, and what is not believed."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from busd.core.introspection import Request
from busd.core.principal import Principal
from busd.nodecomponents import check_components, components_folder, read_component, with_principal
from busd.ops.config import from_program, load, resolve
from busd.ops.keys import Config
from busproto.errors import BusError, Code


def config(**values: object) -> Config:
    return resolve(from_program({name.replace("__", "."): value for name, value in values.items()}, "a test"), {})


def refusal(**values: object) -> BusError:
    with pytest.raises(BusError) as caught:
        check_components(config(**values))
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "components.d"
    made.mkdir(mode=0o755)
    return made


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / f"{name}.toml"
    file.write_text(text)
    return file


def test_the_default_folder_need_not_be_there_and_one_that_was_set_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    absent = load(environ={"XDG_CONFIG_HOME": str(tmp_path)})
    assert absent.component.dir == tmp_path / "busd" / "components.d"
    assert components_folder(absent) is None
    assert read_component(absent, "telemetry").name == "telemetry"
    error = refusal(component__dir=str(tmp_path / "elsewhere"))
    assert error.code == Code.CONFIG_INVALID
    assert error.text == f"component.dir: {tmp_path}/elsewhere: it cannot be read: No such file or directory"


def test_a_file_beats_what_ships_and_is_read_each_time(folder: Path) -> None:
    made = config(component__dir=str(folder), components=["telemetry"])
    shipped = read_component(made, "telemetry").source
    file = write(folder, "telemetry", 'source = "house.parts:Gauge"\nconfig.interval = 0.5\n')
    assert read_component(made, "telemetry").source == "house.parts:Gauge" != shipped
    assert read_component(made, "telemetry").config == {"interval": 0.5}
    file.unlink()
    assert read_component(made, "telemetry").source == shipped


def test_a_name_that_nothing_has_is_refused_with_the_nearest(folder: Path) -> None:
    write(folder, "gauge", 'source = "house.parts:Gauge"\n')
    error = refusal(component__dir=str(folder), components=["gouge"])
    assert error.code == Code.COMPONENT_UNKNOWN
    assert error.text == "there is no component 'gouge'; the nearest is 'gauge'"


def test_a_file_that_is_wrong_is_refused_with_file_and_key(folder: Path) -> None:
    file = write(folder, "gauge", 'source = "house.parts:Gauge"\n[budget]\nmemory_bytes = "much"\n')
    error = refusal(component__dir=str(folder), components=["gauge"])
    assert error.code == Code.CONFIG_INVALID
    assert "memory_bytes" in error.text
    assert str(file) in error.text


def test_what_everybody_can_write_does_not_say_what_the_node_runs(folder: Path) -> None:
    file = write(folder, "gauge", 'source = "house.parts:Gauge"\n')
    file.chmod(0o646)
    error = refusal(component__dir=str(folder), components=["gauge"])
    assert error.text.startswith(f"component.dir: {file}: everybody can write it (mode 0646)")
    file.chmod(0o644)
    folder.chmod(0o777)
    error = refusal(component__dir=str(folder))
    assert error.text.startswith(f"component.dir: {folder}: everybody can write it (mode 0777)")


def test_a_folder_that_is_none_and_a_file_that_is_none(folder: Path) -> None:
    file = write(folder, "gauge", "")
    assert refusal(component__dir=str(file)).text == f"component.dir: {file}: it is no folder"
    (folder / "pipe.toml").mkdir()
    error = refusal(component__dir=str(folder), components=["pipe"])
    assert error.text == f"component.dir: {folder}/pipe.toml: it is no regular file"


@pytest.mark.parametrize("name", ["../gauge", "", "a/b", "x" * 200, "A"])
def test_a_name_that_is_none_reaches_no_file(name: str, folder: Path) -> None:
    write(folder.parent, "gauge", 'source = "house.parts:Gauge"\n')
    with pytest.raises(BusError):
        read_component(config(component__dir=str(folder)), name)


def test_services_of_plain_maps_are_called_with_what_the_caller_sent() -> None:
    async def start(request: Any) -> dict[str, Any]:
        return {"asked": dict(request)}

    (serve,) = with_principal({"$bus.admin.component.start": start}).values()
    request = Request("$bus.admin.component.start", {"component": "cache"})
    caller = Principal("host", "node", "host", 0)
    assert asyncio.run(_call(serve, request, caller)) == {"asked": {"component": "cache"}}


async def _call(serve: Any, request: Request, caller: Principal) -> Any:
    return await serve(request, caller)
