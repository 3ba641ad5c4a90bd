"""Settings of components: every mistake names the file and the key."""

from pathlib import Path

import pytest

from busd.components.supervisor.settings import MAX_RESTARTS, known, nearest, read_settings, source_of, with_source
from busproto.errors import BusError, Code


def test_everything_that_a_file_can_say(tmp_path: Path) -> None:
    (tmp_path / "gauge.toml").write_text(
        'source = "acme.parts:Gauge"\n'
        'path = ["python", "/opt/acme"]\n'
        "[config]\ninterval = 0.5\nnames = [1, 2]\n"
        "[budget]\nmemory_bytes = 104857600\ncpu_percent = 50\n"
        "[restarts]\nlimit = 0\n"
    )
    settings = read_settings("gauge", tmp_path)
    assert (settings.name, settings.source) == ("gauge", "acme.parts:Gauge")
    assert settings.path == (str(tmp_path / "python"), "/opt/acme")
    assert settings.config == {"interval": 0.5, "names": [1, 2]}
    assert (settings.memory_bytes, settings.cpu_percent, settings.max_restarts) == (104857600, 50.0, 0)
    assert settings.file == tmp_path / "gauge.toml"


def test_an_empty_file_and_no_file_are_what_is_shipped(tmp_path: Path) -> None:
    shipped = read_settings("telemetry", None)
    assert shipped.source == "busd.components.telemetry.component:Telemetry"
    assert (shipped.config, shipped.memory_bytes, shipped.max_restarts) == ({}, None, MAX_RESTARTS)
    assert read_settings("telemetry", tmp_path) == shipped
    (tmp_path / "telemetry.toml").write_text("")
    assert read_settings("telemetry", tmp_path).source == shipped.source
    (tmp_path / "second.toml").write_text('source = "telemetry"')
    assert read_settings("second", tmp_path).source == shipped.source


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("sauce = 1", "sauce", "there is no such field"),
        ("source = 1", "source", "expected 'str | null', got 'int'"),
        ('source = "a b"', "source", "'a b' is neither module:Class nor a component's name"),
        ("", "source", "is missing, and no component 'toy' is shipped"),
        ('source = "a:B"\npath = "x"', "path", "expected 'array', got 'str'"),
        ('source = "a:B"\npath = ["x", 1]', "path[1]", "expected 'str', got 'int'"),
        ('source = "a:B"\npath = [""]', "path[0]", "'' is not one directory"),
        ('source = "a:B"\n[budget]\nmemory = 1', "budget.memory", "there is no such field"),
        ('source = "a:B"\n[budget]\nmemory_bytes = 5', "budget.memory_bytes", "expected 'int' >= 1048576"),
        ('source = "a:B"\n[budget]\ncpu_percent = 0', "budget.cpu_percent", "expected 'float' > 0"),
        ('source = "a:B"\n[restarts]\nlimit = -1', "restarts.limit", "expected 'int' >= 0"),
        ('source = "a:B"\nconfig = 3', "config", "expected 'object', got 'int'"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, text: str, key: str, reason: str) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(text)
    with pytest.raises(BusError) as caught:
        read_settings("toy", tmp_path)
    error = caught.value
    assert error.code == Code.CONFIG_INVALID
    assert error.text.startswith(f"{key} in {file}: ")
    assert reason in error.text


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"[", "this is not TOML"), (b"\xff", "this is not TOML"), (b"#" * (1 << 20) + b"#", "it is longer than 1048576")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "toy.toml"
    file.write_bytes(data)
    with pytest.raises(BusError) as caught:
        read_settings("toy", tmp_path)
    assert caught.value.code == Code.CONFIG_INVALID
    assert caught.value.text.startswith(f"toy.toml ({file}): {reason}")


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "toy.toml").mkdir()
    with pytest.raises(BusError, match=r"toy\.toml"):
        read_settings("toy", tmp_path)


@pytest.mark.parametrize("name", ["", "../telemetry", "A", "a b", "a.b", "x" * 65])
def test_a_name_that_is_none_is_refused_before_a_file_is_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(BusError) as caught:
        read_settings(name, tmp_path)
    assert caught.value.code == Code.CONFIG_INVALID


def test_a_name_without_settings_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "gauge.toml").write_text('source = "a:B"')
    for name, near in (("telemetri", "telemetry"), ("gage", "gauge")):
        with pytest.raises(BusError) as caught:
            read_settings(name, tmp_path)
        assert caught.value.code == Code.COMPONENT_UNKNOWN
        assert caught.value.text == f"there is no component '{name}'; the nearest is '{near}'"


def test_what_there_is(tmp_path: Path) -> None:
    for name in ("gauge.toml", "Not A Name.toml", "notes.txt"):
        (tmp_path / name).write_text("")
    assert {"gauge", "telemetry"} <= set(known(tmp_path))
    assert not {"notes", "Not A Name"} & set(known(tmp_path))
    assert "telemetry" in known(None)
    assert nearest("a", []) == ""


def test_a_source_is_a_class_or_what_is_shipped() -> None:
    assert source_of("a.b:C") == "a.b:C"
    assert source_of("telemetry") == "busd.components.telemetry.component:Telemetry"
    for text in ("", "a", "a:", ":B", "a:B:C", "--help", "a b:C", "a:B.c" * 100):
        assert source_of(text) is None
    settings = with_source(read_settings("telemetry", None), "a:B")
    assert (settings.name, settings.source) == ("telemetry", "a:B")
    with pytest.raises(BusError) as caught:
        with_source(settings, "--help")
    assert caught.value.code == Code.COMPONENT_INVALID
