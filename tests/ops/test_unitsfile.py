"""What is kept of the guests: whole or not at all, of this boot or not at all."""

import json
import logging
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from busd.ops import unitsfile
from busd.ops.unitsfile import UnitsFile

DOCUMENT: dict[str, Any] = {"generation": 7, "units": [{"generation": 7}], "last": {"vm-1": 6}}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = UnitsFile(tmp_path / "units.json")
    assert file.load() == {"generation": 0, "units": [], "last": {}}
    file.save(DOCUMENT)
    assert UnitsFile(tmp_path / "units.json").load() == DOCUMENT
    file.save({**DOCUMENT, "generation": 8})
    assert file.load()["generation"] == 8
    assert stat.S_IMODE((tmp_path / "units.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["units.json"]


def test_crash_while_saving_leaves_the_old_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = UnitsFile(tmp_path / "units.json")
    file.save(DOCUMENT)
    for call in ("fsync", "replace"):
        with monkeypatch.context() as broken:
            broken.setattr(os, call, fail)
            with pytest.raises(OSError, match="No space left"):
                file.save({**DOCUMENT, "generation": 8})
        assert UnitsFile(tmp_path / "units.json").load() == DOCUMENT
        assert [path.name for path in tmp_path.iterdir()] == ["units.json"]
    (tmp_path / "units.json.new").write_text("half a docu")  # of a broker that was killed
    file.save({**DOCUMENT, "generation": 9})
    assert file.load()["generation"] == 9


def test_half_written_file_is_not_followed_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "units.json.new").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        UnitsFile(tmp_path / "units.json").save(DOCUMENT)
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"version": 2}',
        b'{"version": 1, "boot": 1}',
        b'{"version": 1, "boot": "", "generation": -1}',
        b'{"version": 1, "boot": "", "generation": true}',
        b'{"version": 1, "boot": "", "generation": 1, "units": [1]}',
        b'{"version": 1, "boot": "", "generation": 1, "units": {}, "last": {}}',
        b'{"version": 1, "boot": "", "generation": 1, "units": [], "last": {"a": "1"}}',
    ],
)
def test_damaged_document_is_put_aside_and_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "units.json").write_bytes(content)
    before = int(time.time())
    with caplog.at_level(logging.ERROR):
        found = UnitsFile(tmp_path / "units.json").load()
    assert (found["units"], found["last"]) == ([], {})
    assert found["generation"] >= before
    assert (tmp_path / "units.json.damaged").read_bytes() == content
    assert not (tmp_path / "units.json").exists()
    assert caplog.records[0].getMessage() == "units-file-damaged"


def test_guests_of_an_earlier_boot_are_gone_and_their_generations_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    UnitsFile(tmp_path / "units.json").save(DOCUMENT)
    (tmp_path / "boot").write_text("another\n")
    monkeypatch.setattr(unitsfile, "_BOOT_ID", tmp_path / "boot")
    assert UnitsFile(tmp_path / "units.json").load() == {**DOCUMENT, "units": []}
    assert caplog.records[0].getMessage() == "units-gone"
    assert json.loads((tmp_path / "units.json").read_text())["units"] == DOCUMENT["units"]


def fail(*arguments: object, **options: object) -> None:
    raise OSError(28, "No space left on device")
