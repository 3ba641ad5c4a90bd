"""A machine to install on: this one's files under an overlay, in namespaces of its own (mounts, network). What is done
there is gone when the block ends, so a guide's commands can be run as they are printed. What a `make run` as root has
kept on this machine is not there. There is no systemd that runs; what units ask for is done by `tests.deploy.sandbox`.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support import ROOT, needs

SECONDS = 100.0
"""For one command of a guide; installing takes longest."""

PREPARE = """
set -e
mount -t tmpfs -o mode=0755 tmpfs "$1"
cd "$1"
mkdir up work root
mount -t overlay overlay -o lowerdir=/,upperdir=up,workdir=work root
rm -rf root/var/lib/busd root/etc/busd
mount --rbind /proc root/proc
mount --rbind /sys root/sys
mount --rbind /dev root/dev
mount -t tmpfs -o mode=0755 tmpfs root/run
mount -t tmpfs -o mode=1777 tmpfs root/tmp
shift
n=0
for each; do
    n=$((n + 1))
    mkdir -p "up$n" "work$n" "root$each"
    mount -t overlay overlay -o "lowerdir=$each,upperdir=up$n,workdir=work$n" "root$each"
done
ip link set lo up
echo ready
exec cat
"""


def hidden() -> list[Path]:
    """What an overlay of ``/`` and the new /tmp and /run do not show of this tree, its Python and its packages."""
    wanted = (ROOT, Path(sys.base_prefix), Path(sys.prefix))
    under = [each for each in wanted if any(os.path.ismount(up) or up in _NEW for up in (each, *each.parents[:-1]))]
    return [each for each in under if not any(each != other and each.is_relative_to(other) for other in under)]


_NEW = (Path("/tmp"), Path("/run"))


class Machine:
    """The machine while it is there."""

    def __init__(self, base: Path, holder: "subprocess.Popen[str]") -> None:
        self._holder = holder
        self._root = base / "root"
        self.root = Path(f"/proc/{holder.pid}/root{self._root}")
        """Its file system, as seen from here."""
        self.python = Path(sys.base_prefix, "bin")
        self._let_others_pass(Path(sys.base_prefix), ROOT, Path(sysconfig.get_path("purelib")))

    def command(self, *words: str | Path, cwd: str | Path = ROOT) -> list[str]:
        """What runs ``words`` there."""
        inside = ["chroot", str(self._root), "sh", "-c", 'cd "$0" && exec "$@"', str(cwd), *map(str, words)]
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net", "--", *inside]

    def environment(self, **variables: str) -> dict[str, str]:
        """As a fresh login has it, and pip without an index: it takes what is here."""
        path = f"/usr/local/sbin:/usr/local/bin:{self.python}:/usr/sbin:/usr/bin:/sbin:/bin"
        pip = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", **pip, "PIP_ROOT_USER_ACTION": "ignore", **variables}

    def run(self, *words: str | Path, cwd: str | Path = ROOT, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return subprocess.run(
            self.command(*words, cwd=cwd),
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def shell(self, line: str, cwd: str | Path = ROOT, **variables: str) -> str:
        """Run a line of a guide, which must succeed; what it printed."""
        ended = self.run("bash", "-euc", line, cwd=cwd, **variables)
        assert ended.returncode == 0, f"$ {line}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def start(
        self,
        *words: str | Path,
        cwd: str | Path = "/",
        errors: int | IO[str] | None = subprocess.PIPE,
        **variables: str,
    ) -> "subprocess.Popen[str]":
        """Start a command. The caller ends it."""
        return subprocess.Popen(
            self.command(*words, cwd=cwd),
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )

    def lend_packages(self, venv: str) -> None:
        """Let ``venv`` there find the packages that are installed here, as an index would have them."""
        (folder,) = (self.root / venv.lstrip("/")).glob("lib/python3*/site-packages")
        (folder / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def unit(self, settings: Mapping[str, Any]) -> list[str]:
        """The command that runs a unit's ExecStart as its ``settings`` say (`tests.deploy.units`)."""
        sandbox = ROOT / "tests" / "deploy" / "sandbox.py"
        keep = [str(each) for each in hidden() if each.is_relative_to("/tmp")]
        return ["python3", str(sandbox), json.dumps({"keep": keep, **settings})]

    def _let_others_pass(self, *paths: Path) -> None:
        """Users there can reach what lies in this user's home: a Python, and packages."""
        for path in paths:
            for each in (path, *path.parents):
                inside = self.root / str(each).lstrip("/")
                if str(each) != "/" and inside.stat().st_mode & 0o005 != 0o005:
                    inside.chmod(inside.stat().st_mode | 0o055)


@contextmanager
def machine(base: Path) -> Iterator[Machine]:
    """A machine until the end of the block. Skips the test where this user may make none."""
    for program in ("unshare", "nsenter", "chroot", "setpriv", "ip"):
        needs(program)
    if os.geteuid() != 0:
        text = "only root can make mounts of its own"
        if os.environ.get("BUSD_REQUIRE_ALL") == "1":
            pytest.fail(text)
        pytest.skip(text)
    base.mkdir(parents=True)
    with subprocess.Popen(
        [
            "unshare",
            "--mount",
            "--net",
            "--propagation=private",
            "sh",
            "-c",
            PREPARE,
            "sh",
            str(base),
            *map(str, hidden()),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline() != "ready\n":
                pytest.fail(f"no overlay: {holder.stderr.read()}")
            yield Machine(base, holder)
        finally:
            holder.stdin.close()
            holder.wait(10)
    shutil.rmtree(base, ignore_errors=True)
