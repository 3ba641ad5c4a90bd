"""A place that someone else may own: nothing on the way to it, and nothing at it, can be exchanged under the node."""

import os
import socket
import stat
from pathlib import Path

import pytest

from busd.edge.socketfile import SocketFile
from tests.edge.raw import descriptors

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to other users")


def refusal(path: Path | str, owner: int | None = None) -> str:
    before = descriptors()
    with pytest.raises(ValueError) as caught:
        SocketFile(str(path), owner)
    assert descriptors() == before
    return str(caught.value)


def test_symbolic_links_on_the_way_are_refused_and_the_plain_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    said = refusal(tmp_path / "link" / "v")
    assert said == f"{tmp_path}/link is a symbolic link; give the path with {tmp_path}/real"
    SocketFile(str(tmp_path / "real" / "v")).close()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_directory_that_others_can_write_is_refused_unless_it_is_sticky(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open" / "inner").mkdir(parents=True)
    (tmp_path / "open").chmod(mode)
    for path in (tmp_path / "open" / "v", tmp_path / "open" / "inner" / "v"):
        assert f"directory {tmp_path}/open can be written by others (mode {mode:04o})" in refusal(path)
    (tmp_path / "open").chmod(mode | stat.S_ISVTX)
    SocketFile(str(tmp_path / "open" / "v")).close()


@needs_root
def test_directories_belong_to_root_to_this_user_or_to_the_named_owner(tmp_path: Path) -> None:
    (tmp_path / "jail").mkdir(mode=0o700)
    os.chown(tmp_path / "jail", 4711, -1)
    assert "belongs to user 4711, and only user 0 is trusted here" in refusal(tmp_path / "jail" / "v")
    assert "only user 0 or 4712 is trusted" in refusal(tmp_path / "jail" / "v", 4712)
    SocketFile(str(tmp_path / "jail" / "v"), 4711).close()


def test_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refusal(tmp_path / "file" / "v")


def test_listening_socket_appears_with_its_permissions_and_goes(tmp_path: Path) -> None:
    file = SocketFile(str(tmp_path / "v"))
    with file.listen(0o600, None, 5):
        assert [path.name for path in tmp_path.iterdir()] == ["v"]
        assert stat.S_IMODE((tmp_path / "v").stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(tmp_path / "v"))
        assert file.is_reachable()
    file.unlink()
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_paths_longer_than_the_system_takes_are_no_hindrance(tmp_path: Path) -> None:
    """sun_path holds 107 bytes, and the jail of a VMM is easily deeper; the VMM itself sees a short one."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    file, other = SocketFile(str(deep / "v")), SocketFile(str(deep / "v"))
    with file.listen(0o600, None, 5) as listener, other.connect() as peer:
        accepted, _ = listener.accept()
        accepted.sendall(b"hi")
        peer.setblocking(True)
        assert peer.recv(2) == b"hi"
        accepted.close()
    file.close()
    other.close()


def test_somebody_elses_file_is_never_replaced_or_removed(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("mine")
    file = SocketFile(str(tmp_path / "v"))
    with pytest.raises(ValueError, match="exists and is not a socket"):
        file.listen(0o600, None, 5)
    with pytest.raises(ValueError, match="exists and is not a socket"):
        file.connect()
    file.unlink()
    assert (tmp_path / "v").read_text() == "mine"
    (tmp_path / "v").unlink()
    listener = file.listen(0o600, None, 5)
    (tmp_path / "v").unlink()
    (tmp_path / "v").write_text("mine again")  # in place of the socket
    assert not file.is_reachable()
    file.unlink()
    assert (tmp_path / "v").read_text() == "mine again"
    listener.close()
    file.close()


def test_link_at_the_name_is_not_followed(tmp_path: Path) -> None:
    target = socket.socket(socket.AF_UNIX)
    target.bind(str(tmp_path / "docker.sock"))
    target.listen()
    (tmp_path / "v").symlink_to(tmp_path / "docker.sock")
    file = SocketFile(str(tmp_path / "v"))
    for act in (file.connect, lambda: file.listen(0o600, None, 5), file.open):
        with pytest.raises(ValueError, match=f"is a symbolic link; give {tmp_path}/docker.sock"):
            act()
    target.setblocking(False)
    with pytest.raises(BlockingIOError):
        target.accept()
    target.close()
    file.close()


@needs_root
def test_socket_of_a_user_who_is_not_trusted_is_not_connected_to(tmp_path: Path) -> None:
    """In a sticky directory anyone may listen under the name first."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    squatter = socket.socket(socket.AF_UNIX)
    squatter.bind(str(tmp_path / "tmp" / "v"))
    squatter.listen()
    os.chown(tmp_path / "tmp" / "v", 4711, -1)
    file = SocketFile(str(tmp_path / "tmp" / "v"))
    with pytest.raises(ValueError, match="v belongs to user 4711, and only user 0 is trusted here"):
        file.connect()
    squatter.close()
    file.close()


def test_file_that_is_put_in_place_of_the_new_socket_keeps_its_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VMM that owns its jail may exchange the socket before chmod; root must not chmod what it put there."""
    victim = tmp_path / "victim"
    victim.write_text("secret")
    victim.chmod(0o640)
    file = SocketFile(str(tmp_path / "v"))
    opened = os.open

    def exchange(path: object, flags: int, *rest: object, **options: object) -> int:
        if isinstance(path, str) and path.startswith(".busd-"):
            monkeypatch.setattr(os, "open", opened)
            (tmp_path / path).unlink()
            os.link(victim, tmp_path / path)
        return opened(path, flags, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(ValueError, match="someone exchanged the socket while it was made"):
        file.listen(0o666, None, 5)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["victim"]
    file.close()


def test_datagram_socket_that_lives_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(tmp_path / "v"))
        file = SocketFile(str(tmp_path / "v"))
        with pytest.raises(ValueError, match="another process listens on it"):
            file.listen(0o600, None, 5)
        file.close()
