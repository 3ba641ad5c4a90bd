"""The keys of the SoC boundary on disk: the broker's own pair, and the public keys that are or were enrolled.

* ``broker.key``: the broker's secret key, one line of Z85, mode 0600; ``broker.pub``: its public half, for clients.
* ``enrolled/NAME.json``: a key that may attach. ``revoked/NAME-GENERATION.json``: one that may never again.

Every file is written beside its place, synchronised and renamed, so a crash leaves the old one or the new one. A file
that cannot be read or does not say what it should stops the node: a revocation that was overlooked would let someone
in. The folder holds who may attach, so nobody but its owner may even look into it.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zmq

from busd.core.enrolment import Enrolment
from busproto.errors import BusError, Code
from busproto.z85 import decode_key, encode_key

__all__ = ["KeyFolder"]

FILE_BYTES: Final = 4096
"""The largest file that is read: an enrolment has some 300 bytes."""


class KeyFolder:
    """The folder at ``path``, made when something is first put into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def secret(self) -> bytes:
        """The broker's secret key, 32 bytes. Makes the pair at the first call. Raises BusError 7020."""
        path = self.path / "broker.key"
        self._open()
        if not path.exists():
            public, secret = zmq.curve_keypair()
            self._write(self.path / "broker.pub", public + b"\n", 0o600)
            self._write(path, secret + b"\n", 0o600)
        self._check(path)
        try:
            return decode_key(self._read(path).strip())
        except ValueError as error:
            raise _unusable(path, str(error)) from None

    def public(self) -> str:
        """The broker's public key in Z85; it follows from the secret one. Raises BusError 7020."""
        return zmq.curve_public(encode_key(self.secret()).encode()).decode()

    def load(self) -> tuple[list[Enrolment], list[Enrolment]]:
        """The enrolled keys and the revoked ones. Raises BusError 7020 when a file cannot be taken at its word."""
        if not self.path.exists():
            return [], []
        self._open()
        revoked = list(self._enrolments("revoked"))
        gone = {enrolment.user_id for enrolment in revoked}
        # A crash between the two steps of a revocation leaves both files. The revocation counts.
        enrolled = [each for each in self._enrolments("enrolled") if each.user_id not in gone]
        return enrolled, revoked

    def save(self, enrolment: Enrolment) -> None:
        """Keep ``enrolment``: as enrolled, or as revoked if it is. Raises BusError 7020."""
        self._open()
        standing = self.path / "enrolled" / f"{enrolment.name}.json"
        text = json.dumps(enrolment.describe(), indent=2).encode() + b"\n"
        if enrolment.revoked_at is None:
            self._write(standing, text, 0o600)
            return
        self._write(self.path / "revoked" / f"{enrolment.name}-{enrolment.generation}.json", text, 0o600)
        try:
            standing.unlink(missing_ok=True)
            _sync(standing.parent)
        except OSError as error:
            raise _unusable(standing, error.strerror or str(error)) from None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _enrolments(self, kind: str) -> Iterator[Enrolment]:
        for path in sorted((self.path / kind).glob("*.json")):
            self._check(path)
            try:
                enrolment = Enrolment.read(json.loads(self._read(path)))
                if (enrolment.revoked_at is None) != (kind == "enrolled"):
                    raise ValueError(f"it is not of a key that is {kind}")
                expected = enrolment.name if kind == "enrolled" else f"{enrolment.name}-{enrolment.generation}"
                if path.stem != expected:
                    raise ValueError(f"it is of {expected}: a key file is not renamed by hand")
            except ValueError as error:
                raise _unusable(path, str(error)) from None
            yield enrolment

    def _open(self) -> None:
        """Make the folder if it is not there; refuse one that others can look into."""
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            for directory in (self.path, self.path / "enrolled", self.path / "revoked"):
                directory.mkdir(mode=0o700, exist_ok=True)
                self._check(directory)
        except OSError as error:
            raise _unusable(self.path, error.strerror or str(error)) from None

    def _check(self, path: Path) -> None:
        """Raise BusError 7020 unless ``path`` belongs to this user and nobody else may use it."""
        try:
            found = os.lstat(path)
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from None
        reason = ""
        if stat.S_ISLNK(found.st_mode):
            reason = "it is a symbolic link"
        elif found.st_uid != os.geteuid():
            reason = f"it belongs to user {found.st_uid}, this is user {os.geteuid()}"
        elif found.st_mode & 0o077:
            reason = f"others may use it (mode {stat.S_IMODE(found.st_mode):04o}); chmod go= {path}"
        if reason:
            raise _unusable(path, reason)

    def _read(self, path: Path) -> str:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                data = file.read(FILE_BYTES + 1)
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from None
        if len(data) > FILE_BYTES:
            raise _unusable(path, f"it has more than {FILE_BYTES} bytes")
        # What is no UTF-8 is refused by what it does not say; none of it is repeated.
        return data.decode("utf-8", "replace")

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        """Put ``content`` at ``path``: all of it or nothing, also when the power fails."""
        temporary = path.parent / f".{path.name}.{os.getpid()}"
        try:
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, path)
            _sync(path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _unusable(path, error.strerror or str(error)) from None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, reason: str) -> BusError:
    return BusError(Code.KEY_FOLDER_UNUSABLE, path=str(path), reason=reason)
