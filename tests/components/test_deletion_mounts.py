"""What is mounted in a tree stays, with all that is in it; the rest goes."""

from pathlib import Path

import pytest

from tests.components.deletion_world import with_mounts

WALK = '''
import threading
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.options import WalkOptions
from busd.components.deletion.walk import Removal

def write(*places):
    for place in places:
        (here / place).parent.mkdir(parents=True, exist_ok=True)
        (here / place).write_text("x")

def mounts():
    """Where something is mounted, below the test's directory: what holds it may have been renamed up."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4] for line in lines]
    return [place for place in places if place.startswith(f"{here}/")]

def files(place):
    return sorted(str(path.relative_to(here / place)) for path in (here / place).rglob("*"))

def walk(tree="tree", gate=None, meanwhile=None, **options):
    fd = os.open(here / tree, os.O_RDONLY | os.O_DIRECTORY)
    hoist = None
    if hoisting:
        (here / "hoist").mkdir(mode=0o700, exist_ok=True)
        hoist = os.open(here / "hoist", os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    try:
        options = WalkOptions(depth=1, backoff=0.001, **options)
        counts = Removal(fd, hoist=hoist, gate=gate or OpenGate(), options=options).run().snapshot()
    finally:
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(fd)
        if hoist is not None:
            os.close(hoist)
    sums = [*counts.failed.values(), *counts.parked.values(), *counts.spared.values()]
    assert counts.seen == counts.files + counts.directories + counts.held + sum(sums), counts
    return counts
'''


@pytest.fixture(params=[False, True], ids=["in place", "hoist"])
def prelude(request: pytest.FixtureRequest) -> str:
    return f"hoisting = {request.param}\n" + WALK


def test_a_mount_of_the_same_file_system_stays_with_its_contents(tmp_path: Path, prelude: str) -> None:
    script = """
write("tree/a/b/c/file", "tree/a/b/gone", "outside/deep/precious", "outside/file")
(here / "tree/a/b/c/mounted").mkdir()
mount("--bind", "outside", "tree/a/b/c/mounted")
counts = walk()
assert counts.parked == {"mount": 1} and counts.failed == {}, counts
assert [(stay.path, stay.reason) for stay in counts.stays] == [(b"a/b/c/mounted", "mount")], counts
assert counts.files == 2 and counts.directories + counts.held == 3, counts
assert hoisting or counts.held == 3, counts  # what hung above it is free of it where it was renamed up
assert files("outside") == ["deep", "deep/precious", "file"]
[place] = mounts()
assert place.endswith("/mounted") and files(place) == files("outside"), place
subprocess.run(["umount", place], check=True)
assert walk().directories == counts.held + 1 and files("tree") == []
print("done")
"""
    assert with_mounts(prelude + script, tmp_path) == "done\n"


def test_another_file_system_stays_with_its_contents(tmp_path: Path, prelude: str) -> None:
    script = """
write("tree/a/b/file", "tree/z/file")
for place in ("tree/mounted", "tree/a/b/mounted"):
    (here / place).mkdir()
    mount("-t", "tmpfs", "none", place)
    write(place + "/sub/precious")
counts = walk()
assert (counts.parked, counts.failed) == ({"mount": 2}, {}), counts
assert [files(place) for place in mounts()] == [["sub", "sub/precious"]] * 2
assert not (here / "tree/z").exists() and not (here / "tree/a/b/file").exists()
print("done")
"""
    assert with_mounts(prelude + script, tmp_path) == "done\n"


def test_a_file_that_is_a_mount_stays(tmp_path: Path, prelude: str) -> None:
    script = """
write("tree/a/file", "tree/a/other", "precious")
mount("--bind", "precious", "tree/a/file")
counts = walk()
assert (counts.parked, counts.files, counts.held) == ({"mount": 1}, 1, 1), counts
assert (here / "precious").read_text() == "x"
print("done")
"""
    assert with_mounts(prelude + script, tmp_path) == "done\n"


def test_a_directory_that_is_mounted_on_itself_is_the_tree_s_own(tmp_path: Path, prelude: str) -> None:
    """What is in it is reached without the mount just the same, so it goes; the mount point stays."""
    script = """
write("tree/a/self/file")
mount("--bind", "tree/a/self", "tree/a/self")
counts = walk()
assert (counts.parked, counts.held) == ({"mount": 1}, 1), counts
assert (here / "tree/a/self").is_dir()
print("done")
"""
    assert with_mounts(prelude + script, tmp_path) == "done\n"


@pytest.mark.parametrize("source", ["outside", "staged"])
def test_a_mount_that_appears_during_the_walk_stays_with_its_contents(
    tmp_path: Path, prelude: str, source: str
) -> None:
    """At each of the first twenty questions at the gate, on each of the directories: wherever the walk just is."""
    script = f"""
source = "{source}"
class Mounting(OpenGate):
    def __init__(self, after, place):
        super().__init__()
        self.left_to_go, self.place, self.mounted, self.lock = after, place, False, threading.Lock()
    def enter(self, files, size):
        with self.lock:
            self.left_to_go -= 1
            if self.left_to_go == 0 and (here / self.place).is_dir():
                if source == "staged":  # filled first: by then, the other worker may have renamed up what it is in
                    mount("-t", "tmpfs", "none", "staged")
                    write("staged/deep/precious", "staged/file")
                try:
                    mount("--bind" if source == "outside" else "--move", source, self.place)
                    self.mounted = True
                except subprocess.CalledProcessError:  # the other worker has removed it meanwhile
                    if source == "staged":
                        subprocess.run(["umount", "staged"], check=True)

write("outside/deep/precious", "outside/b/c/precious", "outside/file")
(here / "staged").mkdir()
before = files("outside")
mounted = 0
for after in range(1, 20):
    for place in ("tree/a", "tree/a/b", "tree/a/b/c", "tree/e/f"):
        write("tree/a/b/c/file", "tree/a/b/file", "tree/a/file", "tree/e/f/g/file", "tree/file")
        gate = Mounting(after, place)
        counts = walk(gate=gate, batch=1)
        assert counts.failed == {{}} and set(counts.parked) <= {{"mount", "changed", "busy"}}, counts
        if gate.mounted:
            mounted += 1
            expected = before if source == "outside" else ["deep", "deep/precious", "file"]
            [found] = mounts()
            assert files(found) == expected, (after, place, counts, files(found))
            assert counts.parked, (after, place, counts)
            subprocess.run(["umount", found], check=True)
        assert files("outside") == before
        rest = walk()
        assert rest.parked == rest.failed == {{}} and files("tree") == [], rest
assert mounted > 3, mounted
print("done")
"""
    assert with_mounts(prelude + script, tmp_path) == "done\n"


def test_a_closed_mount_is_not_opened_up(tmp_path: Path) -> None:
    """Root is denied nothing, so another user walks; what is mounted is theirs, and keeps its mode."""
    script = """
hoisting = False
write("tree/a/file", "outside/precious")
(here / "tree/a/mounted").mkdir()
for path in [here, *here.rglob("*")]:
    os.chown(path, 65534, 65534)
mount("--bind", "outside", "tree/a/mounted")
os.chmod("outside", 0)
pid = os.fork()
if pid == 0:
    try:
        os.chdir(here)
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
        fd = os.open("tree", os.O_RDONLY | os.O_DIRECTORY)
        counts = Removal(fd, hoist=None, gate=OpenGate(), options=WalkOptions(chmod=True)).run().snapshot()
        assert counts.parked == {"mount": 1} and counts.failed == {}, counts
        assert os.stat("tree/a/mounted").st_mode & 0o7777 == 0
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
assert files("outside") == ["precious"]
print("done")
"""
    for path in [tmp_path, *tmp_path.parents][:-2]:  # the other user has to come here
        path.chmod(path.stat().st_mode | 0o011)
    assert with_mounts(WALK + script, tmp_path) == "done\n"
