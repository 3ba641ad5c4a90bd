"""Who attacks a deletion: a process of its own that owns the tree and plays with it while it is being removed.

Run as a script: ``deletion_attacker.py SEED BASE KIND...``. In BASE lie ``tree`` (being removed) or ``root`` (where
jobs are done), ``outside`` (what a walk must never be led to; it has the same names as the tree), ``attic`` and
``aside`` (where the attacker puts things; the first may be emptied meanwhile) and ``plant`` (directories of the
deletion itself that it gets its hands into). It ends when its standard input is closed, and says how often it got its
way with each kind.
"""

import ctypes
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100
_MOST_HELD: Final = 24

libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: str, two: str) -> None:
    """Let two names change places in one step. Raises OSError; ENOSYS where the C library cannot."""
    if not hasattr(libc, "renameat2"):
        raise OSError("no renameat2")
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(two), _EXCHANGE):
        raise OSError(ctypes.get_errno(), one)


class Attacker:
    """One attacker with its luck.

    Attributes:
        done: how often each kind of attack succeeded.
    """

    def __init__(self, seed: int, base: Path) -> None:
        self.done: Counter[str] = Counter()
        self._luck = random.Random(seed)
        self._base = base
        self._tree = f"{base}/tree"
        self._number = 0
        self._held: list[int] = []

    def attack(self, kind: str) -> None:
        """Try once."""
        attacks: dict[str, Callable[[], None]] = {
            "leaves": self._leaf,
            "directories": self._directory,
            "moves": self._move,
            "climbs": self._climb,
            "feeds": self._feed,
            "digs": self._dig,
            "floods": self._flood,
            "plants": self._plant,
            "root": self._root,
        }
        with suppress(OSError):
            attacks[kind]()
            self.done[kind] += 1

    def _new(self, what: str, where: str = "attic") -> str:
        self._number += 1
        return f"{self._base}/{where}/{what}{self._number}-{os.getpid()}"

    def _entries(self, path: str) -> list[os.DirEntry[str]]:
        with os.scandir(path) as found:
            return list(found)

    def _some(self, *, directory: bool) -> tuple[str, str]:
        """A path in the tree, and the same path outside of it."""
        path = ""
        for _ in range(self._luck.randint(1, 6)):
            found = self._entries(self._tree + path)
            below = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
            files = [entry.name for entry in found if not entry.is_dir(follow_symlinks=False)]
            if not directory and files and (not below or self._luck.random() < 0.3):
                return f"{self._tree}{path}/{self._luck.choice(files)}", f"{self._base}/outside{path}"
            if not below:
                break
            path += "/" + self._luck.choice(below)
        if not path:
            raise FileNotFoundError
        return self._tree + path, f"{self._base}/outside{path}"

    def _swap(self, path: str, outside: str) -> None:
        """Put a link to what is outside in the place of ``path``, and most times undo it."""
        link = self._new("link")
        os.symlink(self._luck.choice([outside, f"{self._base}/outside"]), link)
        if self._luck.random() < 0.5:
            exchange(link, path)
            if self._luck.random() < 0.7:
                exchange(link, path)
        else:
            aside = self._new("aside")
            os.rename(path, aside)
            os.rename(link, path)
            if self._luck.random() < 0.7:
                os.rename(path, link)
                os.rename(aside, path)

    def _leaf(self) -> None:
        self._swap(*self._some(directory=False))

    def _directory(self) -> None:
        self._swap(*self._some(directory=True))

    def _move(self) -> None:
        """A subtree out of the tree and back again, there or elsewhere."""
        path, _ = self._some(directory=True)
        aside = self._new("moved")
        os.rename(path, aside)
        for _ in range(self._luck.randint(0, 50)):
            pass
        back = path if self._luck.random() < 0.7 else f"{self._tree}/back{self._number}"
        if self._luck.random() < 0.9:
            os.rename(aside, back)

    def _climb(self) -> None:
        """A directory up, to the top of the tree or beside it: who goes by ".." is outside then."""
        path, _ = self._some(directory=True)
        os.rename(path, self._new("up") if self._luck.random() < 0.5 else f"{self._tree}/up{self._number}")

    @contextmanager
    def _hold(self) -> Iterator[int]:
        """A descriptor in the tree that is kept, wherever its directory is moved, until that is removed."""
        if len(self._held) < _MOST_HELD or self._luck.random() < 0.05:
            path = self._tree if self._luck.random() < 0.2 else self._some(directory=True)[0]
            self._held.append(os.open(path, FLAGS))
        if len(self._held) > _MOST_HELD:
            os.close(self._held.pop(self._luck.randrange(len(self._held))))
        held = self._luck.choice(self._held)
        try:
            yield held
        except OSError:
            self._held.remove(held)
            os.close(held)
            raise

    def _feed(self) -> None:
        """Files, directories and links through what is held."""
        with self._hold() as held:
            self._number += 1
            for number in range(self._luck.randint(1, 20)):
                name = f"fed{self._number}-{number}"
                kind = self._luck.random()
                if kind < 0.2:
                    os.mkdir(name, dir_fd=held)
                elif kind < 0.4:
                    os.symlink(f"{self._base}/outside", name, dir_fd=held)
                else:
                    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=held))

    def _flood(self) -> None:
        """One directory, as fast as it goes."""
        with self._hold() as held:
            for _ in range(100):
                self._number += 1
                os.close(os.open(f"flood{self._number}", os.O_CREAT | os.O_WRONLY, dir_fd=held))

    def _dig(self) -> None:
        """Deeper and deeper, without ever going back."""
        with self._hold() as held:
            at = os.dup(held)
            try:
                for _ in range(self._luck.randint(1, 40)):
                    os.mkdir("deeper", dir_fd=at)
                    below = os.open("deeper", FLAGS, dir_fd=at)
                    os.close(at)
                    at = below
            except FileExistsError:
                pass  # dug before
            finally:
                os.close(at)

    def _plant(self) -> None:
        """Into the directories that belong to the deletion."""
        place = self._luck.choice(self._entries(f"{self._base}/plant")).path
        names = os.listdir(place)
        self._number += 1
        kind = self._luck.random()
        if kind < 0.3:
            Path(place, f"{self._number}").touch()
        elif kind < 0.5:
            Path(place, f"{self._number}").symlink_to(self._base / "outside")
        elif kind < 0.7:
            Path(place, f"{self._number}", "planted").mkdir(parents=True)
        elif names:  # what the walk itself put there
            name = self._luck.choice(names)
            link = self._new("link")
            os.symlink(f"{self._base}/outside", link)
            exchange(link, f"{place}/{name}")

    def _root(self) -> None:
        """What lies directly in a deletion root, and the way to a target: ``root/jobs/old``. A job takes a hundred
        times as long as this, so it is left alone for a while now and then.
        """
        time.sleep(self._luck.choice([0, 0.001, 0.02]))
        root = f"{self._base}/root"
        place = self._luck.choice(["jobs", "jobs/old", "jobs/old", ".busd-tombstones", "other"])
        outside = self._luck.choice([f"{root}/beside", f"{self._base}/outside", f"{self._base}/outside/jobs"])
        aside = self._new("root", "aside") if self._luck.random() < 0.5 else f"{root}/aside{self._number}"
        path = f"{root}/{place}"
        link = self._new("link", "aside")
        os.symlink(outside, link)
        if self._luck.random() < 0.5:
            exchange(link, path)
            self._pause()
            exchange(link, path)
        else:
            os.rename(path, aside)
            try:
                if self._luck.random() < 0.5:
                    os.rename(link, path)
                    self._pause()
                    os.rename(path, link)
                elif place == "jobs/old":
                    os.makedirs(f"{path}/d0/d0")
                    self._pause()
                    os.rename(path, self._new("decoy", "aside"))
                else:
                    self._pause()
            finally:
                os.rename(aside, path)

    def _pause(self) -> None:
        time.sleep(self._luck.choice([0, 0.0003, 0.001, 0.005]))


def _closed(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _kinds(kinds: list[str]) -> Iterator[str]:
    while True:
        yield from kinds


if __name__ == "__main__":
    over = threading.Event()
    threading.Thread(target=_closed, args=(over,), daemon=True).start()
    attacker = Attacker(int(sys.argv[1]), Path(sys.argv[2]))
    print("ready", flush=True)
    for one in _kinds(sys.argv[3:]):
        attacker.attack(one)
        if over.is_set():
            break
    print(json.dumps(attacker.done), flush=True)
