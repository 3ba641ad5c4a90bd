"""Which bus a program means: addresses, right and wrong, and the one that is meant when none is given."""

from pathlib import Path

import pytest

from busclient import url
from busproto.errors import BusError, Code


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("unix:///run/busd/host.sock", {"scheme": "unix", "path": "/run/busd/host.sock"}),
        ("/tmp/x.sock", {"scheme": "unix", "path": "/tmp/x.sock"}),
        ("/tmp/100%/x.sock", {"scheme": "unix", "path": "/tmp/100%/x.sock"}),
        ("unix:///a b/ü.sock", {"scheme": "unix", "path": "/a b/ü.sock"}),
        ("unix:///" + "x" * 106, {"scheme": "unix", "path": "/" + "x" * 106}),
        ("vsock://host:5555", {"scheme": "vsock", "cid": 2, "port": 5555}),
        ("vsock://local:1", {"scheme": "vsock", "cid": 1, "port": 1}),
        ("vsock://0:4294967294", {"scheme": "vsock", "cid": 0, "port": 4294967294}),
        ("vsock://4294967294:7", {"scheme": "vsock", "cid": 4294967294, "port": 7}),
        ("serial:///dev/virtio-ports/busd.0", {"scheme": "serial", "path": "/dev/virtio-ports/busd.0"}),
        ("serial:///dev/" + "x" * 200, {"scheme": "serial", "path": "/dev/" + "x" * 200}),
        ("tcp://127.0.0.1:5555", {"scheme": "tcp", "host": "127.0.0.1", "port": 5555}),
        ("tcp://node-1.example.org:65535", {"scheme": "tcp", "host": "node-1.example.org", "port": 65535}),
        ("tcp://[0:0::1]:1", {"scheme": "tcp", "host": "::1", "port": 1}),
    ],
)
def test_addresses(address: str, parts: dict[str, str | int]) -> None:
    assert url.parse(address) == url.Address(address, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "not an absolute path"),
        ("host.sock", "not an absolute path"),
        ("unix://host.sock", "three slashes"),
        ("unix:/run/x", "not an absolute path"),
        ("http://x", "http:// is not known"),
        ("UNIX:///x", "UNIX:// is not known"),
        ("ipc:///run/busd/host.sock", "write unix:// and the same path"),
        ("unix:///" + "x" * 107, "at most 107 bytes"),
        ("unix:///" + "ü" * 54, "at most 107 bytes"),
        ("unix:///a\0b", "zero byte"),
        ("unix:///a%20b", "percent signs are not decoded"),
        ("vsock://host", "the port is missing"),
        ("vsock://:5", "the CID '' is not a number from 0 to 4294967294 or the word host or local"),
        ("vsock://guest:5", "the CID 'guest' is not a number"),
        ("vsock://4294967295:5", "the CID '4294967295' is not a number from 0 to 4294967294"),
        ("vsock://-1:5", "the CID '-1' is not"),
        ("vsock://\u0663:5", "is not a number"),
        ("vsock://3:0", "the port '0' is not a number from 1 to 4294967294"),
        ("vsock://3:4294967295", "the port '4294967295' is not"),
        ("vsock://3:5/x", "the port '5/x' is not"),
        ("vsock://3:" + "9" * 5000, "is not a number"),
        ("serial://ttyS0", "three slashes: serial:///dev/PORT"),
        ("serial:///dev/a%2Fb", "percent signs are not decoded"),
        ("serial:///dev/a\0", "zero byte"),
        ("serial:///" + "x" * 4095, "at most 4095 bytes"),
        ("tcp://", "the host is missing"),
        ("tcp://:5", "the host is missing"),
        ("tcp://h", "the port is missing"),
        ("tcp://[::1]", "the port is missing"),
        ("tcp://[::1]5", "the port is missing"),
        ("tcp://[::1:5", "bracket of the IPv6 address is not closed"),
        ("tcp://[h]:5", "'h' is no IPv6 address"),
        ("tcp://[fe80::1%eth0]:5", "an IPv6 address has no zone here"),
        ("tcp://::1:5", "an IPv6 address stands in brackets"),
        ("tcp://h:0", "the port '0' is not a number from 1 to 65535"),
        ("tcp://h:65536", "the port '65536' is not"),
        ("tcp://h:5/", "the port '5/' is not"),
        ("tcp://user@h:5", "'user@h' is no host name"),
        ("tcp://*:5", "'*' is no host name"),
        ("tcp://a..b:5", "'a..b' is no host name"),
    ],
)
def test_what_is_no_address_is_an_error_that_says_why(address: str, reason: str) -> None:
    with pytest.raises(BusError) as caught:
        url.parse(address)
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
