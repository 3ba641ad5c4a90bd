"""What the tests of tombstones share: a root with something in it, and what a tree looks like."""

import hashlib
import os
import stat
from pathlib import Path

from busd.components.deletion.area import Area
from busd.components.deletion.manifest import Manifest, Option
from busd.components.deletion.roots import Root, RootSettings
from busd.components.deletion.target import TOMBSTONES, Target, resolve
from busd.components.deletion.tombstone import Sync, Tombstone, nowhere

TENANT = "acme"


def open_root(directory: Path) -> Root:
    """The root ``data`` at ``directory``, which is made."""
    directory.mkdir(exist_ok=True)
    return Root.open(RootSettings(id="data", path=directory, tenants=frozenset({TENANT})))


def plant(directory: Path) -> None:
    """A tree of two directories, two files and a link; and beside it what must stay; the link leads there."""
    (directory / "outside").mkdir()
    (directory / "outside" / "precious").write_bytes(b"!")
    for name in ("jobs", "beside"):
        (directory / name / "old" / "deep").mkdir(parents=True)
        (directory / name / "old" / "file").write_bytes(b"1234")
        (directory / name / "old" / "deep" / "file").write_bytes(b"5")
        (directory / name / "old" / "link").symlink_to("../../outside")
    (directory / "jobs" / "single").write_bytes(b"alone")


def picture(directory: Path) -> str:
    """A hash of what lies below ``directory``: names, kinds, modes, inodes, contents. Without tombstones."""
    found = hashlib.sha256()
    for here, names, files in os.walk(os.fsencode(directory)):
        names[:] = sorted(name for name in names if name != TOMBSTONES)
        for name in sorted(names + files):
            path = os.path.join(here, name)
            status = os.lstat(path)
            found.update(repr((os.path.relpath(path, os.fsencode(directory)), status.st_mode, status.st_ino)).encode())
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    found.update(file.read(65536))
    return found.hexdigest()


def manifest_of(target: Target, job: str = "job-1", **options: Option) -> Manifest:
    """The manifest that fits ``target``."""
    return Manifest(
        job=job,
        tenant=TENANT,
        root=target.root.id,
        path=target.path,
        device=target.device,
        inode=target.inode,
        directory=target.directory,
        created=1000.0,
        options=options,
    )


def bury(root: Root, path: bytes = b"jobs/old", job: str = "job-1", sync: Sync = nowhere) -> Tombstone:
    """Bury ``path``."""
    with resolve(root, path) as target:
        return Area.open(root, TENANT).bury(target, manifest_of(target, job), sync)


def empty(directory: int | None) -> None:
    """Remove what lies below the descriptor ``directory``, as a walker would; nothing for None."""
    if directory is None:
        return
    for name in os.listdir(directory):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                empty(below)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)


def grave_of(root: Root, job: str = "job-1") -> Path:
    """The path of a job's directory."""
    return root.settings.path / os.fsdecode(TOMBSTONES) / TENANT / job
