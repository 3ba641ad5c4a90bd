"""Which bus a program means: addresses, right and wrong, and the one that is meant when none is given."""

from pathlib import Path

import pytest

from busclient import url
from busproto.errors import BusError, Code


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("unix:///run/busd/host.sock", "/run/busd/host.sock"),
        ("/tmp/x.sock", "/tmp/x.sock"),
        ("unix:///a b/ü.sock", "/a b/ü.sock"),
        ("unix:///" + "x" * 106, "/" + "x" * 106),
    ],
)
def test_addresses(address: str, path: str) -> None:
    assert url.socket_path(address) == path


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "not an absolute path"),
        ("host.sock", "not an absolute path"),
        ("unix://host.sock", "three slashes"),
        ("unix:/run/x", "not an absolute path"),
        ("tcp://127.0.0.1:5555", "tcp:// is not supported by this version"),
        ("vsock://2:5555", "vsock:// is not supported by this version"),
        ("serial:///dev/ttyS0", "serial:// is not supported by this version"),
        ("http://x", "http:// is not known"),
        ("unix:///" + "x" * 107, "at most 107 bytes"),
        ("unix:///" + "ü" * 54, "at most 107 bytes"),
        ("unix:///a\0b", "zero byte"),
    ],
)
def test_what_is_no_address_is_an_error_that_says_why(address: str, reason: str) -> None:
    with pytest.raises(BusError) as caught:
        url.socket_path(address)
    assert caught.value.code == Code.URL_INVALID
    assert reason in caught.value.text
    assert "unix:///path" in caught.value.cure


class Home:
    """A user's environment: what it sets, and which sockets are there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self._monkeypatch = monkeypatch
        self.runtime = directory / "runtime"
        self.system = directory / "system.sock"
        for name in ("BUS_URL", "XDG_RUNTIME_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(url, "SYSTEM_SOCKET", str(self.system))
        self.become(1234)

    def become(self, uid: int) -> None:
        self._monkeypatch.setattr("os.geteuid", lambda: uid)

    def set(self, name: str, value: str) -> None:
        self._monkeypatch.setenv(name, value)

    def own(self) -> Path:
        """The socket of this user's busd, made."""
        self.set("XDG_RUNTIME_DIR", str(self.runtime))
        path = self.runtime / "busd" / "host.sock"
        path.parent.mkdir(parents=True)
        path.touch()
        return path


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Home:
    return Home(monkeypatch, tmp_path)


def test_bus_url_comes_first(home: Home) -> None:
    home.own()
    home.set("BUS_URL", "unix:///elsewhere.sock")
    assert url.default_url() == "unix:///elsewhere.sock"


def test_an_empty_bus_url_is_none(home: Home) -> None:
    path = home.own()
    home.set("BUS_URL", "")
    assert url.default_url() == f"unix://{path}"


def test_the_users_own_bus_comes_before_the_systems(home: Home) -> None:
    path = home.own()
    home.system.touch()
    assert url.default_url() == f"unix://{path}"


def test_the_systems_bus_if_the_user_has_none(home: Home) -> None:
    home.set("XDG_RUNTIME_DIR", str(home.runtime))
    home.system.touch()
    assert url.default_url() == f"unix://{home.system}"


def test_the_users_own_if_there_is_none_at_all(home: Home) -> None:
    home.set("XDG_RUNTIME_DIR", str(home.runtime))
    assert url.default_url() == f"unix://{home.runtime}/busd/host.sock"
    home.set("XDG_RUNTIME_DIR", "not/absolute")
    assert url.default_url() == "unix:///tmp/busd-1234/host.sock"


def test_roots_bus_is_the_systems(home: Home) -> None:
    home.own()
    home.become(0)
    assert url.default_url() == f"unix://{home.system}"


def test_the_default_is_where_busd_listens(home: Home) -> None:
    from busd.ops.rundir import SOCKET_NAME, default_run_dir

    for environment in ({"XDG_RUNTIME_DIR": str(home.runtime)}, {}, {"XDG_RUNTIME_DIR": "relative"}):
        home.set("XDG_RUNTIME_DIR", environment.get("XDG_RUNTIME_DIR", ""))
        assert url.default_url() == f"unix://{default_run_dir(environment, 1234) / SOCKET_NAME}"
