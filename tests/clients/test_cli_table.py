"""The command table: parser, help and machine-readable help are made from it, and say the same."""

import io
import json
import re
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from buscli import values
from buscli.__main__ import main
from buscli.exits import MEANINGS, Exit
from buscli.failures import exit_of
from buscli.parser import Line, UsageError, parse, parser_of, suggest
from buscli.table import NAMES, Argument, Command, commands, load, members, runner
from busclient.errors import ErrorReply
from busproto.errors import BusError, Code
from busproto.z85 import KEY_CHARACTERS, encode_key, is_key


def parsed(name: str, *words: str, before: tuple[str, ...] = ()) -> Namespace:
    return parse(load(name), Line([*before, name, *words]))


def test_every_command_is_complete() -> None:
    for command in (*commands(), *members()):
        assert callable(runner(command.name.split()[0]))
        assert command.help
        assert command.description
        assert command.examples, f"{command.name} shows no example"
        assert all(example.line.split()[0] in ("bus", "source", "echo", "tail") for example in command.examples)
        codes = [code for code, _ in command.exit_codes()]
        assert Exit.OK in codes
        assert len(codes) == len(set(codes))


def test_every_exit_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Exit)
    assert len(set(MEANINGS.values())) == len(MEANINGS)


@pytest.mark.parametrize("command", [*commands(), *members()], ids=lambda command: command.name)
def test_help_of_a_command_shows_all_of_its_declaration(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.name.split(), "--help"]) == Exit.OK
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {each.word} +{re.escape(each.help)}$", shown, re.M) for each in command.actions)
    for argument in command.all_arguments():
        for spelling in argument.spellings if argument.is_option else (argument.name.upper(),):
            assert spelling in shown
    assert all(example.line in shown for example in command.examples)
    assert all(re.search(rf"^  {code} +{re.escape(meaning)}$", shown, re.M) for code, meaning in command.exit_codes())
    assert f"impact: {command.impact}" in shown


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_the_overview_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == Exit.OK
    shown = capsys.readouterr().out
    for command in commands():
        assert re.search(rf"^  {command.name} +{re.escape(command.help)}$", shown, re.M)


def test_without_a_command_the_overview_is_shown_and_it_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == Exit.USAGE
    assert "commands:" in capsys.readouterr().out


def test_help_as_data_says_what_the_parser_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "--json"]) == Exit.OK
    described = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["name"] for each in described] == list(NAMES)
    for each in described:
        taken = {name for action in parser_of(load(each["name"]))._actions for name in action.option_strings}
        said = {n for a in each["arguments"] if a["name"].startswith("-") for n in (a["name"], *a["aliases"])}
        assert said == taken - {"-h", "--help"}
        assert each["exit_codes"][0]["code"] == 0
        assert each["impact"] in ("ro", "rw")


def test_help_of_one_command_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "call", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["name"] == "call"


def test_only_commands_that_others_notice_are_rw() -> None:
    named = {"pub", "call", "serve", "bench", "relay", "replay", "guest add", "guest remove", "policy reload"}
    named |= {"keys new", "keys enroll", "keys revoke", "disconnect", "trace", "explain"}
    named |= {f"component {verb}" for verb in ("start", "stop", "replace", "move", "new")}
    named |= {"delete", *(f"delete {verb}" for verb in ("pause", "resume", "change", "cancel", "undelete"))}
    named |= {f"cache {verb}" for verb in ("set", "del", "touch", "rotate", "shred", "clear", "bench")}
    assert {command.name for command in members() if command.impact == "rw"} == named


def test_an_optional_body_may_follow_options() -> None:
    """argparse before 3.13 refuses this unless told otherwise (bpo-15112)."""
    args = parsed("pub", "demo.x", "--count", "2", "hello", "-H", "a:b")
    assert (args.subject, args.body, args.count, args.header) == ("demo.x", "hello", 2, [("a", "b")])


@pytest.mark.parametrize("body", ["-5", "-", '{"a": 1}', ""])
def test_bodies_that_look_unusual_are_bodies(body: str) -> None:
    assert parsed("pub", "demo.x", body).body == body


def test_global_options_may_stand_on_either_side() -> None:
    assert parsed("list", before=("--bus", "/a/b.sock", "--json")).bus == "/a/b.sock"
    assert parsed("list", before=("--bus=/a/b.sock",)).bus == "/a/b.sock"
    assert parsed("list", "--bus", "/c.sock", before=("--bus", "/a.sock")).bus == "/c.sock"


def test_a_global_option_in_an_alias_does_not_break_offline_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bus", "/nowhere.sock", "errors", "3001"]) == Exit.OK
    assert "no-responders" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says", "cure"),
    [
        (["pbu", "x"], "unknown command 'pbu'", "bus pub"),
        (["frobnicate"], "unknown command", "bus --help"),
        (["help", "lst"], "unknown command 'lst'", "bus list"),
        (["--bsu", "x", "list"], "unknown option '--bsu'", "--bus"),
        (["--key"], "--key needs a value", "--key dpu0.key"),
        (["--bus"], "--bus needs a value", "--bus unix:///run/busd/host.sock"),
        (["call"], "required: SUBJECT", "bus call --help"),
        (["call", "x", "--tiemout", "3"], "unrecognized arguments: --tiemout", "--timeout"),
        (["call", "x", "--time", "3"], "unrecognized arguments: --time", "--timeout"),
        (["call", "x", "1", "2"], "unrecognized arguments: 2", "bus call --help"),
        (["call", "x", "--timeout", "soon"], "'soon' is not a duration", "bus call --help"),
        (["pub", "x", "1", "--count", "0"], "at least 1", "bus pub --help"),
        (["pub", "x", "1", "-H", "nocolon"], "not a header", "bus pub --help"),
        (["completion", "tcsh"], "invalid choice: 'tcsh'", "bus completion --help"),
        (["errors", "no-responder"], "'no-responder'", "bus errors no-responders"),
    ],
)
def test_a_wrong_command_line_is_named_with_its_cure(
    words: list[str], says: str, cure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert re.search(rf"^  try: .*{re.escape(cure)}", err, re.M)
    assert "Traceback" not in err


def test_usage_of_check_is_unknown_to_nagios(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--format", "xml"]) == 3
    assert "xml" in capsys.readouterr().err


def test_hostile_words_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["\x1b[31mred\x9b"]) == Exit.USAGE
    assert "\\u001b[31mred\\u009b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5", 1.5), ("500ms", 0.5), ("250us", 0.00025), ("2s", 2), ("2m", 120), ("1h", 3600)],
)
def test_durations(text: str, expected: float) -> None:
    assert values.seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("100", 100), ("4k", 4096), ("2KiB", 2048), ("1MiB", 1 << 20)]
)
def test_sizes(text: str, expected: int) -> None:
    assert values.size(text) == expected


@pytest.mark.parametrize(
    ("convert", "text"),
    [(values.seconds, text) for text in ("", "0", "-1", "1w", "nan", "inf", "1e999", "ms")]
    + [(values.count, text) for text in ("", "0", "-1", "1.5", "x")]
    + [(values.rate, text) for text in ("", "0", "-1", "nan", "inf", "x")]
    + [(values.size, text) for text in ("", "-1", "1.5k", "1x", "k")]
    + [(values.header, text) for text in ("", "a", ":b")],
)
def test_values_that_make_no_sense(convert: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"'{text}'")):
        convert(text)


def test_headers_are_read_as_in_http() -> None:
    assert values.header("a:b") == ("a", "b")
    assert values.header("a: b: c ") == ("a", "b: c ")
    assert values.header("a:") == ("a", "")


def test_suggest_finds_the_nearest_or_nothing() -> None:
    assert suggest("inspct", NAMES) == "inspect"
    assert suggest("qqqq", NAMES) == ""


@pytest.mark.parametrize("start", ["-!O", "--O", "-hO", "-tO", "-=O"])
def test_a_key_that_begins_with_a_dash_is_no_option(start: str) -> None:
    key = start + encode_key(bytes(range(32)))[len(start) :]
    enroll = parsed("keys", "enroll", "dpu0", key, "--tenant", "acme", "--server-key", key)
    assert (enroll.name, enroll.public_key, enroll.tenant, enroll.server_key) == ("dpu0", key, "acme", key)
    assert parsed("list", "--server-key", key).server_key == key
    assert parsed("list", before=("--server-key", key)).server_key == key


def test_an_option_as_long_as_a_key_stays_one() -> None:
    folder = "a" * (KEY_CHARACTERS - len("--server-key="))
    assert is_key(f"--server-key={folder}")
    assert parsed("list", f"--server-key={folder}").server_key == folder
    file = "a" * (KEY_CHARACTERS - len("-o"))
    assert is_key(f"-o{file}")
    assert parsed("record", "telemetry.>", f"-o{file}").output == file


def test_a_command_added_to_the_table_gets_everything() -> None:
    argument = Argument("--depth", "how deep", aliases=("-d",), convert=values.count, default=3)
    command = Command(name="dig", help="dig", description="Digs.", arguments=(argument,), connects=False)
    parser = parser_of(command)
    assert parser.parse_args(["-d", "7"]).depth == 7
    assert parser.parse_args([]).depth == 3
    text = io.StringIO()
    parser.print_help(text)
    assert "how deep (default: 3)" in text.getvalue()
    with pytest.raises(UsageError) as refusal:
        parser.parse_args(["--dpeth", "1"])
    assert "--depth" in refusal.value.cures[0]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["pub", "Not.A.Subject", "1"], "BUS-2001 subject-invalid"),
        (["pub", "a.*", "1"], "BUS-2001 subject-invalid"),
        (["pub", "$bus.x", "1"], "BUS-2003 subject-reserved"),
        (["call", "a..b"], "BUS-2001 subject-invalid"),
        (["sub", "a.>.b"], "BUS-2002 pattern-invalid"),
        (["sub", "a", "--exclude", "b.*c"], "BUS-2002 pattern-invalid"),
        (["serve", "$bus.mine", "--echo"], "BUS-2003 subject-reserved"),
        (["serve", "A", "--echo"], "BUS-2002 pattern-invalid"),
        (["explain", "a.*"], "BUS-2001 subject-invalid"),
        (["pub", "a", "1", "-H", "UPPER:1"], "BUS-1013 headers-invalid"),
        (["pub", "a", "1", "-H", "x:" + "y" * 5000], "BUS-1013 headers-invalid"),
        (["pub", "a", '{"$map": [[1, 99999999999999999999]]}'], "BUS-6003 payload-unencodable"),
        (["pub", "a", '{"n": 1'], "bus: BODY is not a body"),
        (["pub", "a", "1", "--lines"], "bus: BODY and --lines are two bodies"),
        (["pub", "a", "--lines", "--count", "2"], "bus pub: --lines sends each line once"),
        (["sub", "a", "--lines"], "bus sub: --lines goes with --raw"),
        (["serve", "a"], "bus serve: give one of"),
        (["serve", "a", "--echo", "--reply", "1"], "bus serve: give one of"),
        (["serve", "a", "--reply", "{"], "bus: --reply is not a body"),
        (["call", "a", "--timeout", "25h"], "bus call: argument -t/--timeout: '25h' is not within 1ms to 24h"),
        (["bench", "pubsub", "--size", "8"], "bus bench: pubsub stamps"),
        (["bench", "pubsub", "--subject", "a"], "bus bench: --subject names a service"),
        (["bench", "--size", "17m"], "bus bench: --size"),
        (["list", "--bus", "tcp://127.0.0.1:1"], "BUS-6010 key-unusable"),
        (["list", "--bus", "tcp://127.0.0.1"], "BUS-6005 url-invalid"),
        (["list", "--bus", "relative/path"], "BUS-6005 url-invalid"),
    ],
)
def test_what_is_not_valid_is_refused_before_a_bus_is_looked_for(
    words: list[str], name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_URL", "/nowhere/host.sock")
    assert main(words) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(name)
    assert "\n  try: " in err


def test_a_payload_above_the_limit_is_refused_with_both_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "large"
    path.write_bytes(b'"' + b"x" * (16 << 20) + b'"')
    assert main(["pub", "a", "--file", str(path)]) == Exit.USAGE
    assert f"payload of {(16 << 20) + 5} bytes exceeds the limit of {16 << 20}" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pub", "a", "--file", "/nowhere/body"]) == Exit.USAGE
    assert capsys.readouterr().err == "bus: /nowhere/body: No such file or directory\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Code.NO_RESPONDERS, 3),
        (Code.TIMEOUT, 4),
        (Code.DENIED, 5),
        (Code.OVERLOADED, 6),
        (Code.QUOTA_EXCEEDED, 6),
        (Code.TOO_MANY_CONNECTIONS, 6),
        (Code.UNKNOWN, 7),
        (Code.NOT_CONNECTED, 8),
        (Code.DRAINING, 8),
        (Code.SUBJECT_INVALID, 2),
        (Code.PAYLOAD_TOO_LARGE, 2),
        (Code.HANDLER_FAILED, 1),
        (Code.GROUP_CONFLICT, 1),
        (Code.VERSION_UNSUPPORTED, 1),
        (12345, 1),
    ],
)
def test_exit_codes_go_by_the_outcome(code: int, expected: int) -> None:
    assert exit_of(BusError(code)) == expected
    assert exit_of(ErrorReply(code)) == Exit.FAILED, "a responder passes on an error of its own call"


EXAMPLES = [example.line for command in (*commands(), *members()) for example in command.examples]


@pytest.mark.parametrize("line", [line for line in EXAMPLES if "(bus completion" not in line])
def test_every_example_is_a_command_line_that_is_taken(line: str) -> None:
    words = shlex.split(re.sub(r"^.*\| (?=bus )", "", line), posix=True)
    end = next((place for place, word in enumerate(words) if word in ("|", ">", ">>", "&&")), len(words))
    assert words[0] == "bus"
    name, *rest = words[1:end]
    assert parsed(name, *rest).command_name.split()[0] == name
