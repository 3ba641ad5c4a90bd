"""The image that deploy/container/Containerfile makes, made by hand on a machine: there is no engine here."""

import io
import shlex
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dockerfile_parse import DockerfileParser

from tests.deploy.machine import Machine, machine
from tests.support import ROOT

FOLDER = ROOT / "deploy" / "container"
FILE = FOLDER / "Containerfile"


class Step(NamedTuple):
    word: str
    value: str


def stages() -> list[list[Step]]:
    """The steps of each stage."""
    found: list[list[Step]] = []
    parser = DockerfileParser(fileobj=io.StringIO(FILE.read_text()))
    for each in parser.structure:
        step = Step(each["instruction"], each["value"])
        if step.word == "FROM":
            found.append([])
        if step.word != "COMMENT":
            found[-1].append(step)
    return found


def values(stage: list[Step], word: str) -> list[str]:
    return [step.value for step in stage if step.word == word]


def allowed() -> list[str]:
    """What the ignore file lets through."""
    lines = (FOLDER / ".containerignore").read_text().splitlines()
    assert lines[1] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


@contextmanager
def built_image(folder: Path) -> Iterator[Machine]:
    """A machine on which the steps of both stages were done, with nothing of the context but what is let through."""
    context = folder / "context"
    for name in allowed():
        target = context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target)
    with machine(folder / "m") as made:
        if not (made.root / str(made.python / "python").lstrip("/")).exists():  # the image it is built on has that name
            (made.root / "usr/local/bin/python").symlink_to(made.python / "python3")
        for stage in stages():
            _build(made, stage, context)
        yield made


def _build(on: Machine, stage: list[Step], context: Path) -> None:
    cwd = "/"
    for step in stage:
        words = shlex.split(step.value)
        if step.word == "WORKDIR":
            cwd = step.value
            on.shell(f"mkdir -p {cwd}", cwd="/")
        elif step.word == "COPY" and not step.value.startswith("--from"):
            *sources, target = words
            for source in sources:
                place = on.root / str(Path("/", cwd, target)).lstrip("/")
                if (context / source).is_dir():
                    shutil.copytree(context / source, place)
                else:
                    place = place / Path(source).name if target.endswith("/") else place
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(context / source, place)
        elif step.word == "RUN":
            on.shell(step.value, cwd=cwd, PYTHONPATH=sysconfig.get_path("purelib"))
            if "-m venv" in step.value:
                on.lend_packages("/opt/busd")


def inside(*words: str) -> list[str]:
    """A command as the engine runs it: its user, no capability, only the two volumes writable, processes of its own."""
    mounts = "mount --make-rprivate /; for d in /run/busd /var/lib/busd; do mount --bind $d $d; done;"
    mounts += "mount -o remount,bind,ro /; mount -o remount,bind,ro /run; mount -o remount,bind,ro /tmp;"
    mounts += "for d in /run/busd /var/lib/busd; do mount -o remount,bind,rw $d; done; mount -t proc proc /proc;"
    (user,) = values(stages()[1], "USER")
    uid, gid = user.split(":")
    privileges = f"--reuid={uid} --regid={gid} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
    line = f'{mounts} exec setpriv {privileges} "$@"'
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "sh", "-euc", line, "sh", *words]


def variables() -> dict[str, str]:
    (line,) = values(stages()[1], "ENV")
    return dict(word.split("=", 1) for word in line.split())
