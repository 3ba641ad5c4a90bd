"""Configuration: precedence, origins, and every way to be refused."""

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busd.ops.address import OFF, TcpAddress, UnixAddress
from busd.ops.config import Setting, default_config_file, from_environment, from_program, load, resolve
from busd.ops.keys import KEYS, Computed, Config, Origin
from busd.ops.statedir import default_audit_dir
from busproto.errors import BusError, Code
from tests.support import ROOT

NO_FILE = {"HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(**sources: object) -> BusError:
    with pytest.raises(BusError) as caught:
        load(**{"environ": {}, **sources})  # type: ignore[arg-type]
    return caught.value


@pytest.fixture
def no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As a user who is not root, with a configuration home of their own."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    return tmp_path


def test_without_any_source_every_key_has_its_default(no_system_file: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(no_system_file), "XDG_RUNTIME_DIR": "/run/user/4242"}
    config = load(environ=environ)
    for key in KEYS.values():
        assert config.value(key.name) == key.default_value(environ)
        assert str(config.origin(key.name)) == "default"
    assert config.run_dir == Path("/run/user/4242/busd")
    assert config.limits.endpoints == 16384
    assert config.http.listen == TcpAddress("127.0.0.1", 9850)
    assert config.components == ()


def test_a_node_with_a_run_directory_of_its_own_keeps_its_audit_there_unless_told_otherwise(
    no_system_file: Path,
) -> None:
    environ = {"XDG_STATE_HOME": "/state", "XDG_CONFIG_HOME": str(no_system_file), "XDG_RUNTIME_DIR": "/run/user/4242"}

    def audit_dir(**flags: str) -> Path | None:
        return load(environ=environ, flags={name.replace("__", "."): text for name, text in flags.items()}).audit.dir

    assert audit_dir() == Path("/state/busd/audit")
    assert audit_dir(run_dir="/run/user/4242/busd") == Path("/state/busd/audit")
    assert audit_dir(run_dir="/somewhere") == Path("/somewhere/audit")
    assert audit_dir(run_dir="/somewhere", audit__dir="/log") == Path("/log")
    assert audit_dir(run_dir="/somewhere", audit__dir="off") is None


@pytest.mark.parametrize(
    ("uid", "environ", "path"),
    [
        (0, {"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/var/lib/busd/audit"),
        (1, {"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/busd/audit"),
        (1, {"XDG_STATE_HOME": "x", "HOME": "/h"}, "/h/.local/state/busd/audit"),
        (7, {}, "/tmp/busd-7/audit"),
    ],
)
def test_the_default_place_of_the_audit(
    uid: int, environ: dict[str, str], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert default_audit_dir(environ) == Path(path)


def test_precedence_is_default_file_directory_environment_flag(tmp_path: Path) -> None:
    main = write(
        tmp_path / "busd.toml",
        "[limits]\nendpoints = 11\nservices = 11\nsubscriptions = 11\ncalls_in_flight = 11\n",
    )
    write(tmp_path / "conf.d" / "10-first.toml", "[limits]\nservices = 12\nsubscriptions = 12\ncalls_in_flight = 12\n")
    write(tmp_path / "conf.d" / "20-second.toml", "[limits]\nsubscriptions = 13\ncalls_in_flight = 13\n")
    config = load(
        config_file=main,
        environ={"BUSD_LIMITS_SUBSCRIPTIONS": "14", "BUSD_LIMITS_CALLS_IN_FLIGHT": "14"},
        flags={"limits.calls_in_flight": "15"},
    )
    found = {
        name: (config.value(f"limits.{name}"), str(config.origin(f"limits.{name}")))
        for name in ("connections_per_uid", "endpoints", "services", "subscriptions", "calls_in_flight")
    }
    assert found == {
        "connections_per_uid": (12288, "default"),
        "endpoints": (11, f"file {main}:2"),
        "services": (12, f"file {tmp_path}/conf.d/10-first.toml:2"),
        "subscriptions": (14, "environment BUSD_LIMITS_SUBSCRIPTIONS"),
        "calls_in_flight": (15, "flag --limits-calls-in-flight"),
    }


def test_a_user_s_file_is_found_in_the_configuration_home(no_system_file: Path) -> None:
    write(no_system_file / "busd" / "busd.toml", 'loop = "asyncio"\n')
    write(no_system_file / "busd" / "conf.d" / "a.toml", "[drain]\ngrace_seconds = 1\n")
    config = load(environ={"XDG_CONFIG_HOME": str(no_system_file)})
    assert config.loop == "asyncio"
    assert config.drain.grace_seconds == 1.0
    home = load(environ={"HOME": str(no_system_file / "elsewhere")})
    assert home.loop == "auto"


@pytest.mark.parametrize(
    ("uid", "environ", "path"),
    [
        (0, {"XDG_CONFIG_HOME": "/ignored"}, "/etc/busd/busd.toml"),
        (1, {"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/busd/busd.toml"),
        (1, {"HOME": "/h"}, "/h/.config/busd/busd.toml"),
        (1, {"XDG_CONFIG_HOME": "relative", "HOME": "/h"}, "/h/.config/busd/busd.toml"),
        (1, {}, None),
    ],
)
def test_the_default_file(uid: int, environ: dict[str, str], path: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert default_config_file(environ) == (None if path is None else Path(path))


def test_the_file_can_be_named_by_the_environment_and_the_flag_wins(tmp_path: Path) -> None:
    one = write(tmp_path / "one.toml", '[node]\nname = "one"\n')
    two = write(tmp_path / "two.toml", '[node]\nname = "two"\n')
    assert load(environ={"BUSD_CONFIG": str(one)}).node.name == "one"
    assert load(environ={"BUSD_CONFIG": str(one)}, config_file=two).node.name == "two"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[limits]\n# a comment\n  endpoints=5\n", 3),
        ("limits.endpoints = 5\n", 1),
        ('[node]\nname = "x"\n\n[ limits ]\nendpoints = 5 # five\n', 5),
    ],
)
def test_the_origin_names_the_line(text: str, line: int, tmp_path: Path) -> None:
    path = write(tmp_path / "f.toml", text)
    assert str(load(config_file=path, environ={}).origin("limits.endpoints")) == f"file {path}:{line}"


@pytest.mark.parametrize(
    ("text", "key", "nearest", "line"),
    [
        ("[limits]\nendpoint = 5\n", "limits.endpoint", "limits.endpoints", 2),
        ("run-dir = '/x'\n", "run-dir", "run_dir", 1),
        ("[limit]\nendpoints = 5\n", "limit.endpoints", "limits.endpoints", 2),
        ("[limits.outbox]\nbytes = 5\n", "limits.outbox", "limits.outbox_bytes", None),
        ("[drainage]\n", "drainage", "drain.grace_seconds", 1),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(
    text: str, key: str, nearest: str, line: int | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "f.toml", text)
    error = refusal(config_file=path)
    assert error.code == Code.CONFIG_UNKNOWN_KEY
    place = f"{path}:{line}" if line else f"{path}"
    assert error.text == f"unknown key '{key}' in {place}; did you mean '{nearest}'?"


def test_an_unknown_variable_is_refused_with_the_nearest() -> None:
    error = refusal(environ={"BUSD_LIMITS_ENDPOINT": "5"})
    assert str(error) == (
        "BUS-7001 config-unknown-key: unknown key 'BUSD_LIMITS_ENDPOINT' in the environment; "
        "did you mean 'BUSD_LIMITS_ENDPOINTS'?"
    )


def test_an_unknown_key_of_a_program_is_refused() -> None:
    with pytest.raises(BusError) as caught:
        resolve(from_program({"limits.endpoint": 5}, "a test"))
    assert caught.value.text == "unknown key 'limits.endpoint' from a test; did you mean 'limits.endpoints'?"


def test_variables_of_the_projects_own_tests_are_not_taken_for_keys() -> None:
    used = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"environ[^\n]*\"(BUSD_[A-Z_]+)\"", path.read_text())
        if name.startswith(("BUSD_MODEL", "BUSD_FUZZ", "BUSD_REQUIRE"))
    }
    assert len(used) == 5
    assert from_environment(dict.fromkeys(used, "1")) == []


@pytest.mark.parametrize(
    "variable",
    [
        "BUSD_SERVICE_HOST",
        "BUSD_SERVICE_PORT",
        "BUSD_SERVICE_PORT_METRICS",
        "BUSD_PORT",
        "BUSD_PORT_9850_TCP",
        "BUSD_PORT_9850_TCP_ADDR",
        "BUSD_METRICS_SERVICE_HOST",
        "BUSD_METRICS_PORT_9850_TCP_PROTO",
    ],
)
def test_what_kubernetes_injects_for_a_service_called_busd_is_not_taken_for_a_key(variable: str) -> None:
    assert from_environment({variable: "10.0.0.1"}) == []


def test_no_key_s_variable_looks_like_one_of_kubernetes() -> None:
    environ = {key.variable: "x" for key in KEYS.values()}
    assert {setting.key for setting in from_environment(environ)} == set(KEYS)


SIZE = 'takes bytes from 64KiB to 4GiB: an integer or a string such as "16MiB"'
LOOPBACK = "is not a loopback address; metrics and health are served to this machine only"
NAME = "is not a name of 1 to 64 lower-case letters, digits, - and _"

WRONG = [
    # key, TOML, reason
    ("limits.endpoints", "0", "0 is outside the range; takes an integer from 1 to 1000000"),
    ("limits.endpoints", "1000001", "1000001 is outside the range"),
    ("limits.endpoints", '"5"', "takes an integer from 1 to 1000000, not a string ('5')"),
    ("limits.endpoints", "true", "takes an integer from 1 to 1000000, not a boolean (True)"),
    ("limits.endpoints", "5.0", "takes an integer from 1 to 1000000, not a number (5.0)"),
    ("limits.endpoints", "[5]", "takes an integer from 1 to 1000000, not a list"),
    ("limits.endpoints", "2020-01-01", "takes an integer from 1 to 1000000, not date"),
    ("limits.outbox_bytes", '"1XB"', "unknown unit 'XB'; units are B, KiB, MiB and GiB"),
    ("limits.outbox_bytes", '"16MB"', "unknown unit 'MB'; units are B, KiB, MiB and GiB"),
    ("limits.outbox_bytes", '"MiB"', f"{SIZE}, not a string ('MiB')"),
    ("limits.outbox_bytes", "1.5", f"{SIZE}, not a number (1.5)"),
    ("limits.outbox_bytes", '"5GiB"', "5GiB is outside the range"),
    ("limits.outbox_bytes", "false", f"{SIZE}, not a boolean (False)"),
    ("limits.max_payload", '"17MiB"', "17MiB is outside the range; takes bytes from 1KiB to 16MiB"),
    ("limits.handshake_seconds", "0", "0 is outside the range; takes seconds from 0.1 to 60"),
    ("limits.handshake_seconds", "nan", "nan is outside the range"),
    ("limits.handshake_seconds", '"2s"', "takes seconds from 0.1 to 60, not a string ('2s')"),
    ("limits.handshake_seconds", "true", "takes seconds from 0.1 to 60, not a boolean"),
    ("busy_poll_us", "-1", "-1 is outside the range; takes"),
    ("limits.frame_seconds", "0", "0 is outside the range; takes seconds from 1 to 3600"),
    ("limits.held_bytes", '"1MiB"', "1MiB is outside the range"),
    ("limits.queued_bytes", '"1MiB"', "1MiB is outside the range"),
    ("manifest", '"maybe"', "'maybe' is unknown; takes one of require, allow"),
    ("tenants.connections", "0", "0 is outside the range; takes an integer from 1 to 100000"),
    ("tenants.connects_per_second", "-1", "-1 is outside the range"),
    ("tenants.messages_per_second", "-1", "-1 is outside the range"),
    ("tenants.bytes_per_second", '"2TiB"', "unknown unit 'TiB'"),
    ("tenants.calls_per_second", "-1", "-1 is outside the range"),
    ("tenants.denials_per_second", "1.5", "takes an integer from 0"),
    ("tenants.loop_percent", "0", "0 is outside the range; takes an integer from 1 to 100"),
    ("drain.grace_seconds", "-1", "-1 is outside the range; takes seconds from 0 to 600"),
    ("log.level", '"loud"', "'loud' is unknown; takes one of debug, info, warning, error"),
    ("log.level", "3", "takes one of debug, info, warning, error, not an integer (3)"),
    ("log.format", '"xml"', "'xml' is unknown; takes one of auto, text, json"),
    ("loop", '"trio"', "'trio' is unknown; takes one of auto, uvloop, asyncio"),
    ("node.name", '"Upper"', f"'Upper' {NAME}"),
    ("node.name", '""', f"'' {NAME}"),
    ("node.name", f'"{"x" * 65}"', NAME),
    ("node.name", '"a\\nb"', NAME),
    ("components", '"telemetry"', "takes a list of names (lower-case letters, digits, - and _), not a string"),
    ("components", '["a", "a"]', "names one of its entries twice"),
    ("metrics.tenants", '["node"]', "'node' cannot be one of them"),
    ("metrics.tenants", str([f"t{n}" for n in range(65)]), "names 65; takes a list of at most 64 names"),
    ("metrics.tenants", '["acme", "Evil Corp"]', "'Evil Corp' is not a name of 1 to 64 lower-case letters"),
    ("components", '["a b"]', f"'a b' {NAME}"),
    ("components", "[1]", "not an integer (1)"),
    ("run_dir", '"relative"', "'relative' is not an absolute path"),
    ("run_dir", '"/a\\u0000b"', "is not an absolute path"),
    ("run_dir", "{}", "takes an absolute path, not a table"),
    ("policy.dir", '"policy.d"', "'policy.d' is not an absolute path"),
    ("component.dir", '"components.d"', "'components.d' is not an absolute path"),
    ("audit.dir", '"audit"', "'audit' is not an absolute path, or \"off\""),
    ("audit.dir", "false", 'takes an absolute path, or "off", not a boolean (False)'),
    ("audit.key_file", '"key"', "'key' is not an absolute path, or \"off\""),
    ("audit.max_bytes", '"1KiB"', "1KiB is outside the range; takes bytes from 1MiB to 16GiB"),
    ("audit.keep", "1", "1 is outside the range; takes an integer from 2 to 10000"),
    (
        "soc.listen",
        '"dpu.local:5670"',
        "'dpu.local' is not an address of this machine; a name could come to mean another one",
    ),
    ("soc.listen", '"192.0.2.1"', "'192.0.2.1' has no port from 0 to 65535; write 192.0.2.1:5670, [::1]:5670 or off"),
    ("soc.listen", '"::1:5670"', "'::1:5670': write an IPv6 address, and no other, in brackets, as in [::1]:5670"),
    ("soc.keys_dir", '"keys"', "'keys' is not an absolute path"),
    ("guests.vsock", "4294967295", "4294967295 is outside the range; takes an integer from 0 to 4294967294"),
    ("audit.on_failure", '"ignore"', "'ignore' is unknown; takes one of continue, stop"),
    ("http.listen", '"0.0.0.0:9850"', f"'0.0.0.0' {LOOPBACK}"),
    ("http.listen", '":9850"', f"'' {LOOPBACK}"),
    ("http.listen", '"[::]:9850"', f"'::' {LOOPBACK}"),
    ("http.listen", '"example.org:9850"', f"'example.org' {LOOPBACK}"),
    ("http.listen", '"192.168.0.1:80"', f"'192.168.0.1' {LOOPBACK}"),
    ("http.listen", '"127.0.0.1"', "'127.0.0.1' has no port from 0 to 65535"),
    ("http.listen", '"127.0.0.1:65536"', "'127.0.0.1:65536' has no port from 0 to 65535"),
    ("http.listen", '"127.0.0.1:http"', "has no port from 0 to 65535"),
    ("http.listen", '"::1:9850"', "'::1:9850': write an IPv6 address in brackets, as in [::1]:9850"),
    ("http.listen", '"unix://relative"', "'unix://relative' has no absolute path; write unix:///path/to/http.sock"),
    ("http.listen", "9850", "not an integer (9850)"),
]


@pytest.mark.parametrize(("name", "toml", "reason"), WRONG)
def test_a_wrong_value_is_refused_with_key_place_and_reason(name: str, toml: str, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "f.toml", f"{name} = {toml}\n")
    error = refusal(config_file=path)
    assert error.code == Code.CONFIG_INVALID
    assert error.text.startswith(f"{name} in {path}:1: ")
    assert reason in error.text


def test_every_key_refuses_something() -> None:
    assert {name for name, _, _ in WRONG} == {name for name in KEYS if name not in SAME_KIND}, (
        "add a wrong value for the new key to WRONG"
    )


SAME_KIND = {  # kind and range as a key that WRONG has
    "limits.connections_per_uid",
    "limits.outbox_messages",
    "limits.subscriptions",
    "limits.services",
    "limits.calls_in_flight",
}


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ({"environ": {"BUSD_LIMITS_ENDPOINTS": "many"}}, "from BUSD_LIMITS_ENDPOINTS"),
        ({"flags": {"limits.endpoints": "many"}}, "from --limits-endpoints"),
    ],
)
def test_text_that_is_no_number_is_refused_from_environment_and_flag(source: dict[str, object], where: str) -> None:
    error = refusal(**source)
    assert error.code == Code.CONFIG_INVALID
    assert error.text == f"limits.endpoints {where}: takes an integer from 1 to 1000000, not a string ('many')"


def test_an_overridden_wrong_value_is_still_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "f.toml", "[limits]\nendpoints = 0\n")
    assert refusal(config_file=path, flags={"limits.endpoints": "5"}).code == Code.CONFIG_INVALID


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = \n", "is not TOML: Invalid value (at line 1, column 5)"),
        (b"a = 1\na = 2\n", "is not TOML: Cannot overwrite a value (at line 2"),
        (b"\xff\xfe", "is not TOML: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_is_not_toml_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(content)
    error = refusal(config_file=path)
    assert error.code == Code.CONFIG_INVALID
    assert error.text.startswith(f"configuration file {path}: {reason}")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    for source in ({"config_file": path}, {"environ": {"BUSD_CONFIG": str(path)}}):
        assert refusal(**source).text == f"configuration file {path}: cannot be read: No such file or directory"
    assert refusal(config_file=tmp_path).text.endswith("cannot be read: Is a directory")


@pytest.mark.parametrize("text", ["limits = 5\n", "[[limits]]\nendpoints = 5\n"])
def test_a_table_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "f.toml", text)
    error = refusal(config_file=path)
    assert error.code == Code.CONFIG_INVALID
    assert error.text.startswith(f"limits in {path}")
    assert error.text.endswith("is a table of keys: write [limits] on a line of its own")


@pytest.mark.parametrize(
    ("values", "blamed"),
    [
        ({"limits.outbox_bytes": "16MiB"}, "limits.outbox_bytes"),
        ({"limits.outbox_bytes": "1MiB", "limits.max_payload": "1MiB"}, "limits.outbox_bytes"),
    ],
)
def test_an_outbox_that_cannot_hold_the_largest_message_is_refused(values: dict[str, object], blamed: str) -> None:
    with pytest.raises(BusError) as caught:
        resolve(from_program(values, "a test"))
    assert caught.value.code == Code.CONFIG_INVALID
    assert caught.value.text.startswith(f"{blamed} from a test: an outbox of ")
    smallest = resolve(from_program({"limits.outbox_bytes": 16 * 2**20 + 65536}))
    assert smallest.limits.outbox_bytes > smallest.limits.max_payload


@pytest.mark.parametrize(
    ("raw", "size"),
    [("16MiB", 16 << 20), ("16 MiB", 16 << 20), ("1GiB", 1 << 30), ("65536KiB", 64 << 20), ("33554432", 32 << 20)],
)
def test_sizes_take_units_everywhere(raw: str, size: int, tmp_path: Path) -> None:
    small = {"limits.max_payload": "1MiB"}
    path = write(tmp_path / "f.toml", f'limits.outbox_bytes = "{raw}"\n')
    assert load(config_file=path, environ={}, flags=small).limits.outbox_bytes == size
    assert load(environ={**NO_FILE, "BUSD_LIMITS_OUTBOX_BYTES": raw}, flags=small).limits.outbox_bytes == size


@pytest.mark.parametrize(
    ("raw", "listen", "url"),
    [
        ("off", OFF, "off"),
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0), "http://127.0.0.1:0"),
        ("127.8.8.8:80", TcpAddress("127.8.8.8", 80), "http://127.8.8.8:80"),
        ("[::1]:9850", TcpAddress("::1", 9850), "http://[::1]:9850"),
        ("localhost:9850", TcpAddress("127.0.0.1", 9850), "http://127.0.0.1:9850"),
        ("unix:///run/busd/http.sock", UnixAddress("/run/busd/http.sock"), "unix:///run/busd/http.sock"),
    ],
)
def test_http_addresses(raw: str, listen: object, url: str) -> None:
    found = load(environ=NO_FILE, flags={"http.listen": raw}).http.listen
    assert found == listen
    assert found.url == url


def test_lists_are_separated_by_commas_in_text() -> None:
    assert load(environ={**NO_FILE, "BUSD_COMPONENTS": "telemetry, cache"}).components == ("telemetry", "cache")
    assert load(environ={**NO_FILE, "BUSD_COMPONENTS": ""}).components == ()


def test_the_node_s_name_is_made_from_the_host_s(monkeypatch: pytest.MonkeyPatch) -> None:
    for host, name in (("Edge-7.example.org", "edge-7"), ("ünder_score", "-nder_score"), ("", "node")):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        assert load(environ=NO_FILE).node.name == name


def test_every_key_is_typed_as_its_kind_reads_it() -> None:
    """The dataclass's annotation and the kind beside it agree, for defaults and for what the text form gives."""
    config = resolve([])
    for key in KEYS.values():
        default = key.default.example if isinstance(key.default, Computed) else key.default
        shown = key.kind.show(default)
        text = re.sub(r'^"|"$|[\[\]]', "", shown)
        assert key.kind.read(text, text=True) == default
        assert type(config.value(key.name)) is type(default)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80) | st.dates()
VALUES = SCALARS | st.lists(SCALARS | st.lists(SCALARS), max_size=3) | st.dictionaries(st.text(), SCALARS, max_size=3)
PIECES = ["[limits]", "[[log]]", "endpoints", "level", "run_dir", "=", "5", '"', "'", "#", "\n", ".", "{", "}", "x"]


def outcome(attempt: Callable[[], Config]) -> Config | int:
    """What comes out of loading: a configuration, or the code of a refusal. Anything else fails the test."""
    try:
        return attempt()
    except BusError as error:
        return error.code


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from([*KEYS, "limits", "x", ""]) | st.text(max_size=20),
    value=VALUES,
    source=st.sampled_from(["file", "environment", "flag", "program"]),
)
def test_any_value_of_any_key_is_taken_or_refused(name: str, value: object, source: str) -> None:
    """What is taken can be shown, and taken again as it is shown."""
    found = outcome(lambda: resolve([Setting(name, value, Origin(source, "somewhere"))], {}))
    if isinstance(found, int):
        assert found in (Code.CONFIG_UNKNOWN_KEY, Code.CONFIG_INVALID)
    else:
        shown = tomllib.loads(f"x = {KEYS[name].kind.show(found.value(name))}")["x"]
        assert resolve([Setting(name, shown, Origin("file"))], {}).value(name) == found.value(name)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200) | st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_as_a_file_is_taken_or_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = outcome(lambda: load(config_file=path, environ={}))
    assert isinstance(found, Config) or found in (Code.CONFIG_UNKNOWN_KEY, Code.CONFIG_INVALID)


def test_configuration_cannot_be_changed() -> None:
    config: Config = resolve([])
    with pytest.raises(AttributeError):
        config.limits.endpoints = 5  # type: ignore[misc]
