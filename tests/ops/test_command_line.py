"""``python -m busd``: commands, exit statuses, and errors that say what to do. Nothing here starts a node."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from busd import __version__
from busd.ops.keys import KEYS
from busproto.envelope import VERSION
from tests.ops.processes import busd, python, run
from tests.support import ROOT

NO_HOME = {"HOME": "/nonexistent"}


def test_help_names_the_commands_the_precedence_and_the_exit_statuses() -> None:
    for spelling in ("--help", "-h"):
        done = busd(spelling)
        assert (done.returncode, done.stderr) == (0, "")
        for part in ("run", "check-config", "config show|explain|example", "exit status:", "128+N", "conf.d", "BUSD_*"):
            assert part in done.stdout


def test_run_help_has_a_flag_for_every_key() -> None:
    for command in (["run"], ["check-config"], ["config", "show"]):
        done = busd(*command, "--help", COLUMNS="200")
        assert done.returncode == 0
        for key in KEYS.values():
            assert f"  {key.flag} " in done.stdout


def test_version_names_everything_that_a_bug_report_needs() -> None:
    done = busd("--version")
    assert (done.returncode, done.stderr) == (0, "")
    python = ".".join(map(str, sys.version_info[:3]))
    assert done.stdout.startswith(f"busd {__version__} (protocol {VERSION}, Python {python}, uvloop ")
    assert ", libzmq 4." in done.stdout


def test_show_prints_toml_with_and_without_origin(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('[node]\nname = "n1"\n')
    done = busd("config", "show", "--config", str(path), "--origin", "--log-level", "debug", BUSD_LOOP="asyncio")
    assert done.returncode == 0
    lines = {re.sub(" +#", " #", line) for line in done.stdout.splitlines()}
    assert f'name = "n1" # file {path}:2' in lines
    assert 'level = "debug" # flag --log-level' in lines
    assert 'loop = "asyncio" # environment BUSD_LOOP' in lines
    assert tomllib.loads(done.stdout)["limits"]["endpoints"] == 16384
    plain = busd("config", "show", "--config", str(path))
    assert tomllib.loads(plain.stdout)["node"] == {"name": "n1"}
    assert "#" not in plain.stdout


def test_show_as_json(tmp_path: Path) -> None:
    done = busd("config", "show", "--json", "--origin", "--limits-max-payload", "1MiB")
    assert json.loads(done.stdout)["limits.max_payload"] == {"value": 1 << 20, "origin": "flag --limits-max-payload"}
    assert json.loads(busd("config", "show", "--json").stdout)["limits.max_payload"] == 16 << 20


@pytest.mark.parametrize("name", KEYS)
def test_explain(name: str) -> None:
    from busd.__main__ import main

    assert main(["config", "explain", name]) == 0


def test_explain_prints_range_origin_and_works_with_a_broken_file(tmp_path: Path) -> None:
    done = busd("config", "explain", "limits.endpoints", BUSD_LIMITS_ENDPOINTS="7")
    assert (done.returncode, done.stderr) == (0, "")
    assert "takes         an integer from 1 to 1000000\n" in done.stdout
    assert "value         7 (environment BUSD_LIMITS_ENDPOINTS)\n" in done.stdout
    path = tmp_path / "broken.toml"
    path.write_text("limits.endpoints = 0\n")
    done = busd("config", "explain", "limits.endpoints", "--config", str(path))
    assert done.returncode == 0
    assert "the configuration is not valid (BUS-7002" in done.stdout


def test_example_is_the_file_that_ships() -> None:
    assert busd("config", "example").stdout == (ROOT / "deploy" / "busd.toml").read_text(encoding="utf-8")


def test_check_config_says_what_is_not_default() -> None:
    done = busd("check-config", "--node-name", "n1", BUSD_LIMITS_OUTBOX_BYTES="64MiB")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"the configuration is valid: {len(KEYS)} keys, {len(KEYS) - 2} at their default",
        '  node.name = "n1"  # flag --node-name',
        '  limits.outbox_bytes = "64MiB"  # environment BUSD_LIMITS_OUTBOX_BYTES',
    ]


def test_check_config_checks_what_ships() -> None:
    done = busd("check-config", "--config", str(ROOT / "deploy" / "busd.toml"))
    assert done.returncode == 0
    assert done.stdout == f"the configuration is valid: {len(KEYS)} keys, {len(KEYS)} at their default\n"


@pytest.mark.parametrize("command", [["check-config"], ["run"], [], ["config", "show"]])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--limits-endpoints", "0"],
            "BUS-7002 config-invalid: limits.endpoints from --limits-endpoints: 0 is outside the range; ",
        ),
        (
            ["--limits-endpoint=5"],
            "BUS-7001 config-unknown-key: unknown key '--limits-endpoint' on the command line; "
            "did you mean '--limits-endpoints'?\n",
        ),
        (
            ["--limits", "5"],
            "BUS-7001 config-unknown-key: unknown key '--limits' on the command line; did you mean '--limits-",
        ),
        (
            ["--http-listen", "0.0.0.0:9850"],
            "BUS-7002 config-invalid: http.listen from --http-listen: '0.0.0.0' is not a loopback address; ",
        ),
        (
            ["--config", "/nonexistent.toml"],
            "BUS-7002 config-invalid: configuration file /nonexistent.toml: cannot be read: No such file or dir",
        ),
    ],
)
def test_a_configuration_error_is_code_reason_and_cure_and_status_2(
    command: list[str], flags: list[str], message: str
) -> None:
    done = busd(*command, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.splitlines()[1:] in (
        ["busd config show lists every key."],
        ["busd config explain KEY says what it takes."],
    )


def test_an_unknown_variable_is_refused() -> None:
    done = busd("check-config", BUSD_LIMIT_ENDPOINTS="5")
    assert done.returncode == 2
    assert "did you mean 'BUSD_LIMITS_ENDPOINTS'?" in done.stderr


def test_an_unknown_component_is_refused_before_anything_starts() -> None:
    for command in ("check-config", "run"):
        done = busd(command, "--components", "telemetri")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("BUS-8001 component-unknown: there is no component 'telemetri'; the nearest is")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum"], "busd run: error: unexpected argument: rum\n"),
        (
            ["--loop", "asyncio", "check-config"],
            "busd run: error: unexpected argument: check-config (the command comes first, its flags after it)\n",
        ),
        (["config"], "busd config: error: the following arguments are required: WHAT\n"),
        (["config", "shaw"], "busd config: error: argument WHAT: invalid choice: 'shaw'"),
        (["config", "explain"], "busd config explain: error: the following arguments are required: KEY\n"),
        (["run", "--loop"], "busd run: error: argument --loop: expected one argument\n"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_right(arguments: list[str], message: str) -> None:
    done = busd(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: busd ")
    assert message in done.stderr


def test_an_unknown_key_is_not_explained() -> None:
    done = busd("config", "explain", "limits.endpoint")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'limits.endpoints'?" in done.stderr


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    busd_config = f"{sys.executable} -m busd config"
    done = run("sh", "-c", f"{busd_config} example | true; {busd_config} show | head -1")
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("run_dir = ")


def test_showing_the_configuration_imports_nothing_heavy() -> None:
    program = (
        "import sys; from busd.__main__ import main; main(['config', 'show']); "
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = python(program)
    assert done.returncode == 0
    for heavy in ("aiohttp", "uvloop", "asyncio", "prometheus_client", "zmq", "msgpack"):
        assert f"'{heavy}'" not in done.stderr


def test_missing_extra_is_named_with_what_to_install(tmp_path: Path) -> None:
    """`pip install busd` alone is the SDK: aiohttp comes with the extra."""
    program = f"""
import sys
sys.modules["aiohttp"] = None
from busd.__main__ import main
sys.exit(main(["run", "--run-dir", {str(tmp_path / "run")!r}, "--http-listen", "127.0.0.1:0"]))
"""
    result = python(program)
    assert result.returncode == 2
    assert "aiohttp is not installed; install 'busd[node]'" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "host.sock").exists()
