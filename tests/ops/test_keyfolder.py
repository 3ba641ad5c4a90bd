"""Keys on disk: whole, for one user, and never taken at less than their word."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from busd.core.enrolment import Enrolment
from busd.ops.keyfolder import KeyFolder
from busproto.errors import BusError, Code
from busproto.z85 import encode_key


def new_key() -> str:
    return zmq.curve_keypair()[0].decode()


def enrolment(name: str = "dpu0", generation: int = 1) -> Enrolment:
    return Enrolment(name, "acme", generation, new_key(), 1000.5, "host node/host uid 0")


def refusal(work: Any, *arguments: Any) -> BusError:
    with pytest.raises(BusError) as caught:
        work(*arguments)
    assert caught.value.code == Code.KEY_FOLDER_UNUSABLE
    return caught.value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_brokers_pair_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "state" / "keys")
    assert folder.load() == ([], [])
    assert not folder.path.exists()
    secret = folder.secret()
    assert KeyFolder(folder.path).secret() == secret
    assert zmq.curve_public(encode_key(secret).encode()).decode() == folder.public()
    assert (folder.path / "broker.pub").read_text() == folder.public() + "\n"
    assert [mode(folder.path), mode(folder.path / "broker.key"), mode(folder.path / "enrolled")] == [
        0o700,
        0o600,
        0o700,
    ]
    assert not list(folder.path.glob(".*"))


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    first, second = enrolment(), enrolment("dpu1")
    folder.save(first)
    folder.save(second)
    assert KeyFolder(folder.path).load() == ([first, second], [])
    revoked = replace(first, revoked_at=2000.0)
    folder.save(revoked)
    assert KeyFolder(folder.path).load() == ([second], [revoked])
    again = enrolment(generation=2)
    folder.save(again)
    assert KeyFolder(folder.path).load() == ([again, second], [revoked])
    assert all(mode(path) == 0o600 for path in folder.path.rglob("*.json"))


def test_a_crash_in_the_middle_of_a_revocation_revokes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = KeyFolder(tmp_path / "keys")
    first = enrolment()
    folder.save(first)

    def crash(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".json":
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "unlink", crash)
    refusal(folder.save, replace(first, revoked_at=2000.0))
    monkeypatch.undo()
    enrolled, revoked = folder.load()
    assert (enrolled, [each.name for each in revoked]) == ([], ["dpu0"])


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = KeyFolder(tmp_path / "keys")
    first = enrolment()
    folder.save(first)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in refusal(folder.save, replace(first, tenant="other")).text
    monkeypatch.undo()
    assert folder.load() == ([first], [])
    assert not list(folder.path.rglob(".*"))


@pytest.mark.parametrize("bits", [0o604, 0o640, 0o660, 0o602])
def test_a_secret_that_others_may_use_is_refused(tmp_path: Path, bits: int) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.secret()
    path = folder.path / "broker.key"
    content = path.read_text().strip()
    path.chmod(bits)
    error = refusal(folder.secret)
    assert f"others may use it (mode {bits:04o}); chmod go= {path}" in error.text
    assert content not in str(error)


def test_a_folder_that_others_may_look_into_is_refused(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.save(enrolment())
    (folder.path / "enrolled").chmod(0o755)
    assert "mode 0755" in refusal(folder.load).text
    (folder.path / "enrolled").chmod(0o700)
    folder.path.chmod(0o750)
    assert "mode 0750" in refusal(folder.secret).text


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.secret()
    (folder.path / "broker.key").rename(tmp_path / "elsewhere")
    (folder.path / "broker.key").symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in refusal(folder.secret).text


def test_a_file_of_someone_else_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    folder = KeyFolder(tmp_path / "keys")
    folder.secret()
    os.chown(folder.path / "broker.key", 4242, -1)
    assert "belongs to user 4242" in refusal(folder.secret).text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"key": "x"}, "40 characters"),
        ({"name": "a/b"}, "name"),
        ({"tenant": "*"}, "tenant"),
        ({"generation": 0}, "generation"),
        ({"generation": True}, "generation"),
        ({"enrolled_at": "today"}, "enrolled_at"),
        ({"enrolled_at": float("nan")}, "enrolled_at"),
        ({"enrolled_by": None}, "enrolled_by"),
        ({"revoked_at": 1.0}, "not of a key that is enrolled"),
        ({"name": "dpu1"}, "it is of dpu1"),
        ({"more": 1}, "unknown fields: more"),
    ],
)
def test_a_file_that_does_not_say_what_it_should_stops_the_node(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    folder = KeyFolder(tmp_path / "keys")
    first = enrolment()
    folder.save(first)
    path = folder.path / "enrolled" / "dpu0.json"
    path.write_text(json.dumps({**first.describe(), **change}))
    error = refusal(folder.load)
    assert reason in error.text
    assert str(path) in error.text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"{}", b" " * 5000])
def test_a_damaged_file_stops_the_node(tmp_path: Path, content: bytes) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.save(replace(enrolment(), revoked_at=3.0))
    (folder.path / "revoked" / "dpu0-1.json").write_bytes(content)
    refusal(folder.load)


def test_a_damaged_secret_is_refused_and_not_shown(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.secret()
    path = folder.path / "broker.key"
    path.write_text(path.read_text()[:30])
    error = refusal(folder.secret)
    assert path.read_text().strip() not in str(error)
    assert "40 characters" in error.text
