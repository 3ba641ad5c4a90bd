"""The guests of a node on disk, so that a broker that was restarted brings them back by itself.

One JSON document, replaced as a whole: a temporary file is written, synced and renamed over it. It lies in the run
directory, which on most systems goes with the machine, as its VMs do; where it does not, the boot id in the document
says that its VMs are gone. What it holds decides whom a connection belongs to, so it is never believed in part: a
document that is damaged is put aside, and the node starts without guests.
"""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Final

from busd.ops.logs import event

__all__ = ["FILE_NAME", "UnitsFile"]

FILE_NAME: Final = "units.json"
VERSION: Final = 1
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_log = logging.getLogger("busd.guests")


class UnitsFile:
    """The document: ``generation`` (the last one given out), ``units`` (a list of maps), ``last`` (generation by name).

    What the maps say is for the registry of guests to judge; here it is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._boot = _boot_id()

    def load(self) -> dict[str, Any]:
        """The document; of a node that has had no guests if there is no file, or none that can be believed.

        A damaged one is renamed to ``units.json.damaged``. Generations then go on from the time of day in seconds:
        above every one that was given out, as long as it were fewer than one a second.
        """
        try:
            document = json.loads(self.path.read_bytes())
            _check(document)
        except FileNotFoundError:
            return {"generation": 0, "units": [], "last": {}}
        except (OSError, ValueError, RecursionError) as error:
            aside = self._put_aside()
            event(_log, logging.ERROR, "units-file-damaged", path=str(self.path), kept_as=aside, error=str(error))
            return {"generation": int(time.time()), "units": [], "last": {}}
        if document["boot"] != self._boot:
            event(_log, logging.WARNING, "units-gone", units=len(document["units"]), reason="the machine was restarted")
            document["units"] = []
        return {key: document[key] for key in ("generation", "units", "last")}

    def save(self, document: dict[str, Any]) -> None:
        """Replace the document, so that after a crash there is the old or the new one, whole. May run in a thread.

        Raises:
            OSError: it cannot be written; the old one stands.
        """
        data = json.dumps({"version": VERSION, "boot": self._boot, **document}, indent=1).encode() + b"\n"
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, self.path)
            _sync_directory(self.path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _put_aside(self) -> str:
        aside = self.path.with_name(self.path.name + ".damaged")
        try:
            os.replace(self.path, aside)
        except OSError as error:
            return f"(not kept: {error.strerror or error})"
        return str(aside)


def _check(document: Any) -> None:
    """Raise ValueError unless ``document`` has the form of one; the reason."""
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError(f"it is not a document of version {VERSION}")
    if not isinstance(document.get("boot"), str):
        raise ValueError("boot must be a string")
    if not _is_count(document.get("generation")):
        raise ValueError("generation must be a number from 0")
    units = document.get("units")
    if not isinstance(units, list) or not all(isinstance(unit, dict) for unit in units):
        raise ValueError("units must be a list of maps")
    last = document.get("last")
    if not isinstance(last, dict) or not all(_is_count(generation) for generation in last.values()):
        raise ValueError("last must be a map of generations")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _boot_id() -> str:
    """The kernel's name for this boot; empty where it tells none, which is then every boot's."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
