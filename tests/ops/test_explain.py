"""What operators read of the configuration: in effect, explained, and as an example file."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from busd.ops import explain
from busd.ops.config import from_file, from_program, load, resolve
from busd.ops.keys import KEYS, Computed
from busproto.errors import BusError, Code

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "busd.toml"
CHANGED = {"node.name": "n1", "limits.endpoints": 5, "components": ["a", "b"], "http.listen": "unix:///x/y"}


def test_what_is_shown_can_be_loaded_again(tmp_path: Path) -> None:
    config = resolve(from_program(CHANGED))
    path = tmp_path / "shown.toml"
    for origin in (False, True):
        path.write_text(explain.show(config, origin=origin))
        again = load(config_file=path, environ={})
        assert {name: again.value(name) for name in KEYS} == {name: config.value(name) for name in KEYS}


def test_show_with_origin_says_where_each_value_came_from() -> None:
    config = resolve(from_program(CHANGED, "a test"))
    lines = explain.show(config, origin=True).splitlines()
    for key in KEYS.values():
        origin = "program a test" if key.name in CHANGED else "default"
        shown = f"{key.field} = {key.kind.show(config.value(key.name))}"
        assert any(re.fullmatch(rf"{re.escape(shown)} +# {origin}", line) for line in lines), key.name


def test_show_as_json_has_every_key() -> None:
    config = resolve(from_program(CHANGED, "a test"))
    assert set(json.loads(explain.show_json(config, origin=False))) == set(KEYS)
    shown = json.loads(explain.show_json(config, origin=True))
    assert shown["components"] == {"value": ["a", "b"], "origin": "program a test"}
    assert shown["http.listen"] == {"value": "unix:///x/y", "origin": "program a test"}
    assert shown["limits.max_payload"] == {"value": 16777216, "origin": "default"}
    assert shown["run_dir"]["value"] == str(config.run_dir)


@pytest.mark.parametrize("name", KEYS)
def test_every_key_is_explained(name: str) -> None:
    key = KEYS[name]
    text = explain.explain(key, resolve(from_program({"log.level": "debug"}, "a test")))
    words = " ".join(text.split())
    for part in (key.name, key.meaning, key.kind.takes, key.default_text, key.why, key.variable, key.flag):
        assert " ".join(part.split()) in words
    assert len(key.meaning) > 15
    assert len(key.why) > 15
    value = "(program a test)" if name == "log.level" else "(default)"
    assert value in text


@pytest.mark.parametrize("spelling", ["limits.endpoints", "BUSD_LIMITS_ENDPOINTS", "--limits-endpoints"])
def test_a_key_is_found_by_any_of_its_names(spelling: str) -> None:
    assert explain.find(spelling).name == "limits.endpoints"


def test_an_unknown_key_is_not_explained_but_the_nearest_named() -> None:
    with pytest.raises(BusError) as caught:
        explain.find("limits.endpoint")
    assert caught.value.code == Code.CONFIG_UNKNOWN_KEY
    assert caught.value.fields["nearest"] == "limits.endpoints"


def test_a_key_is_explained_when_the_configuration_is_broken() -> None:
    with pytest.raises(BusError) as caught:
        resolve(from_program({"limits.endpoints": 0}, "a test"))
    text = explain.explain(KEYS["limits.endpoints"], caught.value)
    assert "an integer from 1 to 1000000" in text
    assert "the configuration is not valid (BUS-7002" in text


def test_the_example_file_is_what_the_table_says() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == explain.example(), "write it anew: busd config example"


def test_the_example_file_changes_nothing_as_it_is() -> None:
    assert from_file(EXAMPLE) == []


def test_the_example_file_holds_every_key_with_its_default(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^#(\w+ = )", r"\1", EXAMPLE.read_text(encoding="utf-8"))
    path = tmp_path / "uncommented.toml"
    path.write_text(text, encoding="utf-8")
    settings = {setting.key: setting for setting in from_file(path)}
    assert list(settings) == list(KEYS)
    config = load(config_file=path, environ={})
    for name, key in KEYS.items():
        expected = key.default.example if isinstance(key.default, Computed) else key.default
        assert config.value(name) == expected


@pytest.mark.parametrize("text", ['quote " and \\ backslash', "bell \x07, line\nend", "ünïcödé", "\x7f\u202e"])
def test_strings_survive_being_written(text: str) -> None:
    from busd.ops.kinds import toml_string

    assert tomllib.loads(f"x = {toml_string(text)}") == {"x": text}


def test_only_what_was_changed_is_named_and_no_value_shown() -> None:
    changed = explain.changed(resolve(from_program({"node.name": "secret-name"}, "a test")))
    assert changed == {"node.name": "program a test"}
