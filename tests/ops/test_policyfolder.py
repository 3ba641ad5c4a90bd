"""The policy folder on disk: what is read, what is not believed, and the set that comes with busd."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from busd.core.expectations import check, parse_expectations
from busd.core.lint import lint
from busd.core.policy import Policy, parse
from busd.core.principal import Principal
from busd.core.rules import FILE_BYTES
from busd.ops.policyfolder import (
    BUILT_IN,
    FILES,
    default_files,
    default_policy_dir,
    default_tests,
    load_policy,
    read_folder,
    read_tests,
)
from busproto.errors import BusError, Code

GUEST = Principal("guest", "acme", "vm-1", 1)
RULE = "allow call a from guest\n"


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a short path: problems name whole paths only up to a length."""
    return tmp_path_factory.mktemp("p")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "policy.d"
    path.mkdir()
    path.chmod(0o755)
    return path


def write(folder: Path, name: str, text: str = RULE) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return path


def policy_of(folder: Path) -> Policy:
    return parse(read_folder(folder), self_uid=os.geteuid(), source=str(folder))


def allows(folder: Path) -> bool:
    return policy_of(folder).rights(GUEST).decide("call", "a").allowed


def problems(folder: Path) -> list[str]:
    return [str(error) for error in policy_of(folder).errors]


def test_files_are_read_in_the_order_of_their_names(folder: Path) -> None:
    for name in ("30-c.policy", "10-b.policy", "10-a.policy"):
        write(folder, name, f"# {name}\n")
    found = read_folder(folder)
    assert [(file.name, file.text, file.problem) for file in found] == [
        (name, f"# {name}\n", "") for name in ("10-a.policy", "10-b.policy", "30-c.policy")
    ]


def test_dot_files_and_expectations_are_left_out(folder: Path) -> None:
    write(folder, "10-a.policy")
    write(folder, ".10-a.policy.swp", "not a rule")
    (folder / "..data").mkdir()
    write(folder, "policy.tests", "allow call a from guest tenant=acme\n")
    assert allows(folder)
    assert problems(folder) == []


@pytest.mark.parametrize("name", ["10-foo.polcy", "10-a.policy~", "20-b.policy.rpmsave", "README", "policy.test"])
def test_any_other_name_denies_everything(folder: Path, name: str) -> None:
    write(folder, "10-a.policy")
    write(folder, name)
    assert not allows(folder)
    (problem,) = problems(folder)
    assert problem.startswith(f"{name}: the name gives it no place")


def test_a_name_that_is_no_text_denies_everything(folder: Path) -> None:
    write(folder, "10-a.policy")
    with open(os.fsencode(folder) + b"/20-\xff.policy", "w") as stream:
        stream.write(RULE)
    assert not allows(folder)
    assert "20-\\udcff.policy: the name gives it no place" in problems(folder)[0]


def test_an_empty_folder_denies_everything_and_says_so(folder: Path) -> None:
    files, source = load_policy(folder)
    policy = parse(files, self_uid=0, source=source)
    assert not policy.rights(Principal("host", "node", "host", 0, uid=0)).decide("call", "a").allowed
    assert problems(folder) == [f"{folder}: there is no policy file, so nothing is allowed"]


def test_a_folder_that_is_none_denies_everything(tmp_path: Path) -> None:
    path = write(tmp_path, "policy.d")
    assert not allows(path)
    assert problems(path) == [f"{path}: it cannot be read: Not a directory"]


def test_a_file_that_is_not_one_denies_from_its_place_on(folder: Path) -> None:
    write(folder, "10-a.policy")
    os.mkfifo(folder / "20-fifo.policy", 0o644)
    (folder / "30-dir.policy").mkdir()
    (folder / "40-gone.policy").symlink_to("nowhere")
    (folder / "50-loop.policy").symlink_to("50-loop.policy")
    (folder / "60-device.policy").symlink_to("/dev/zero")
    assert allows(folder), "the rules before it hold"
    assert problems(folder) == [
        "20-fifo.policy: it is not a regular file",
        "30-dir.policy: it is not a regular file",
        "40-gone.policy: it cannot be read: No such file or directory",
        "50-loop.policy: it cannot be read: Too many levels of symbolic links",
        "60-device.policy: it is not a regular file",
    ]


def test_a_link_to_a_file_is_followed_as_kubernetes_mounts_them(folder: Path) -> None:
    data = folder / "..2026_01_01"
    data.mkdir()
    write(data, "10-a.policy")
    (folder / "..data").symlink_to("..2026_01_01")
    (folder / "10-a.policy").symlink_to("..data/10-a.policy")
    assert allows(folder)


@pytest.mark.parametrize("mode", [0o646, 0o666, 0o777])
def test_a_file_that_everybody_can_write_is_not_believed(folder: Path, mode: int) -> None:
    write(folder, "10-a.policy").chmod(mode)
    assert not allows(folder)
    assert problems(folder) == [f"10-a.policy: everybody can write it (mode {mode:04o}); remove that: chmod o-w"]


def test_a_folder_that_everybody_can_write_is_not_believed(folder: Path) -> None:
    write(folder, "10-a.policy")
    folder.chmod(0o1777)
    assert not allows(folder)
    assert problems(folder) == [f"{folder}: everybody can write it (mode 1777); remove that: chmod o-w"]
    folder.chmod(0o775)
    assert allows(folder), "a group is chosen"


def test_somebody_else_s_file_or_folder_is_not_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, "10-a.policy")
    owner = path.stat().st_uid
    if owner == 0:
        os.chown(path, 4242, -1)
        assert problems(folder) == ["10-a.policy: it belongs to user 4242; it must belong to root or to user 0"]
        os.chown(folder, 4242, -1)
        assert problems(folder) == [f"{folder}: it belongs to user 4242; it must belong to root or to user 0"]
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        assert problems(folder) == [f"{folder}: it belongs to user {owner}; it must belong to root or to user 4242"]
    assert not allows(folder)


def test_a_file_that_is_not_utf_8_or_too_large_says_where(folder: Path) -> None:
    (folder / "10-a.policy").write_bytes(b"# fine\n# caf\xe9\n")
    (folder / "20-b.policy").write_bytes(b"#" * FILE_BYTES + b"\n")
    assert problems(folder) == [
        "10-a.policy: byte 0xe9 in line 2 is not UTF-8",
        f"20-b.policy: it has more than {FILE_BYTES} bytes, which is the limit",
    ]


def test_too_many_files_deny_everything(folder: Path) -> None:
    for number in range(FILES + 1):
        write(folder, f"10-a{number}.policy")
    assert not allows(folder)
    assert problems(folder) == [f"{folder}: it holds {FILES + 1} files; at most {FILES} are allowed"]


@pytest.fixture
def no_descriptors() -> Iterator[None]:
    """As many as are open now may be open, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open("/dev/null", os.O_RDONLY)]
    lowest_free = os.dup(taken[0])
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken[0])


def test_without_descriptors_nothing_is_said_about_the_policy(folder: Path, no_descriptors: None) -> None:
    """CVE-2017-7652: reading the policy when no file can be opened must not end in another policy."""
    with pytest.raises(OSError, match="Too many open files") as refusal:
        load_policy(folder)
    assert refusal.value.errno == errno.EMFILE


def test_descriptors_that_run_out_between_two_files_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "10-a.policy")
    write(folder, "20-b.policy")
    really = os.open

    def scarce(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "20-b.policy":
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        return really(path, flags, mode, dir_fd=dir_fd)

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "open", scarce)
    with pytest.raises(OSError, match="Too many open files in system"):
        load_policy(folder)
    monkeypatch.undo()
    assert set(os.listdir("/proc/self/fd")) == before


# -- the built-in set -------------------------------------------------------------------------------------------------


def test_without_a_folder_the_built_in_set_holds_unless_one_was_named(tmp_path: Path) -> None:
    missing = tmp_path / "policy.d"
    assert load_policy(missing) == (default_files(), BUILT_IN)
    files, source = load_policy(missing, named=True)
    assert source == str(missing)
    assert [str(error) for error in parse(files, self_uid=0).errors] == [
        f"{missing}: it cannot be read: No such file or directory"
    ]


def test_a_dangling_link_in_place_of_the_folder_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "policy.d").symlink_to("nowhere")
    files, source = load_policy(tmp_path / "policy.d")
    assert source != BUILT_IN
    assert parse(files, self_uid=0).errors


def test_the_built_in_set_is_clean_and_does_what_its_expectations_say() -> None:
    policy = parse(default_files(), self_uid=990, source=BUILT_IN)
    assert lint(policy) == []
    assert [file.name for file in policy.files] == [
        "10-node.policy",
        "20-host.policy",
        "30-guests.policy",
        "40-soc.policy",
        "50-exports.policy",
    ]
    expectations, errors = parse_expectations("policy.tests", default_tests(), self_uid=990)
    assert errors == []
    assert len(expectations) > 25
    assert {each.verb for each in expectations} == {"publish", "subscribe", "call", "serve", "delegate"}
    assert [verdict.describe() for verdict in check(policy, expectations) if not verdict.met] == []


@pytest.mark.parametrize("index", range(9))
def test_each_rule_of_the_built_in_set_is_expected_by_something(index: int) -> None:
    """Without any one of its rules an expectation is not met: none is there that nobody asked for."""
    policy = parse(default_files(), self_uid=990)
    assert len(policy.rules) == 9
    gone = policy.rules[index]
    files = [
        file._replace(text=(file.text or "").replace(f"\n{gone.text}\n", "\n")) if file.name == gone.file else file
        for file in default_files()
    ]
    less = parse(files, self_uid=990)
    assert len(less.rules) == 8
    expectations, _ = parse_expectations("policy.tests", default_tests(), self_uid=990)
    assert any(not verdict.met for verdict in check(less, expectations))


def test_examples_in_the_comments_of_the_built_in_set_are_rules() -> None:
    examples = [
        line.removeprefix("#   ")
        for file in default_files()
        for line in (file.text or "").split("\n")
        if line.startswith(("#   allow", "#   deny", "#   export"))
    ]
    assert len(examples) >= 5
    assert parse([default_files()[0]._replace(text="\n".join([*examples, ""]))], self_uid=0).errors == ()


def test_the_built_in_set_exports_nothing_and_lets_no_guest_administer() -> None:
    policy = parse(default_files(), self_uid=990)
    assert policy.exports == ()
    for principal in (GUEST, Principal("soc", "node", "card", 1), Principal("host", "node", "host", 0, uid=1000)):
        rights = policy.rights(principal)
        for verb in ("call", "subscribe", "delegate"):
            for subject in ("$bus.admin.guest.add", "$bus.admin.policy.reload", "$bus.stats"):
                assert not rights.decide(verb, subject).allowed


@pytest.mark.parametrize(
    ("uid", "environ", "path"),
    [
        (0, {"XDG_CONFIG_HOME": "/ignored"}, "/etc/busd/policy.d"),
        (1, {"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/busd/policy.d"),
        (1, {"HOME": "/h"}, "/h/.config/busd/policy.d"),
        (1, {}, "/etc/busd/policy.d"),
    ],
)
def test_the_default_folder(uid: int, environ: dict[str, str], path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert default_policy_dir(environ) == Path(path)


def test_expectations_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"# caf\xe9\n")
    (tmp_path / "large").write_bytes(b"#" * FILE_BYTES + b"\n")
    for name, reason in (
        ("none", "it cannot be read: No such file"),
        ("latin", "it is not UTF-8: byte 5"),
        ("large", f"it has more than {FILE_BYTES} bytes"),
    ):
        with pytest.raises(BusError) as refusal:
            read_tests(tmp_path / name)
        assert refusal.value.code == Code.POLICY_INVALID
        assert reason in refusal.value.text
    (tmp_path / "fine").write_text("# fine\n")
    assert read_tests(tmp_path / "fine") == "# fine\n"
