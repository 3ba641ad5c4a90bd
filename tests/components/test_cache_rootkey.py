"""Where the root key comes from, what is refused, and that a wrong one is noticed."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busd.components.cache.rootkey import RootKey, RootKeyWarning, _decode
from busd.components.cache.secret import Secret
from busproto.errors import BusError, Code
from tests.support import no_collection

ROOT = Path(__file__).parents[2]
KEY = bytes(range(100, 132))


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def reason(error: pytest.ExceptionInfo[BusError]) -> str:
    assert error.value.code == Code.CACHE_KEY_MISSING
    assert KEY.hex() not in str(error.value)
    return str(error.value.fields["reason"])


def holds_key(root: RootKey) -> bool:
    with Secret() as same:
        same.view()[:] = KEY
        expected = same.derive_public("check", 8)
    return root.check == expected.hex()


FORMS = [
    KEY,
    KEY.hex().encode(),
    KEY.hex().upper().encode() + b"\n",
    b" \t" + base64.b64encode(KEY) + b"\r\n",
    base64.b64encode(KEY).rstrip(b"="),
    base64.urlsafe_b64encode(KEY),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_file_holds_the_key_in_each_form(tmp_path: Path, form: bytes, mode: int) -> None:
    with RootKey.from_file(write(tmp_path / "key", form, mode)) as root:
        assert holds_key(root)
        assert str(tmp_path) in repr(root)


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"\n",
        KEY[:31],
        KEY + b"\n",
        KEY.hex().encode()[:-1],
        KEY.hex().encode() + b"0",
        b"g" * 64,
        b"!" * 43,
        base64.b64encode(KEY) + b"=",
        b"A" * 42 + b"B",
        b" " * 300 + KEY.hex().encode(),
        KEY * 9,
    ],
)
def test_a_file_that_holds_no_key_is_refused_and_its_contents_are_not_shown(tmp_path: Path, form: bytes) -> None:
    with no_collection():
        living = Secret.living()
        with pytest.raises(BusError) as caught:
            RootKey.from_file(write(tmp_path / "key", form))
        assert "32 raw bytes, 64 hex digits or base64" in reason(caught)
        assert Secret.living() == living


@pytest.mark.parametrize("form", [bytes(32), b"\xff" * 32, b"0" * 64])
def test_a_key_of_one_repeated_byte_is_none(tmp_path: Path, form: bytes) -> None:
    with pytest.raises(BusError) as caught:
        RootKey.from_file(write(tmp_path / "key", form))
    assert reason(caught) == "all its bytes are the same"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o700, 0o666, 0o4600])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(BusError) as caught:
        RootKey.from_file(write(tmp_path / "key", KEY, mode))
    assert reason(caught) == f"its mode is {mode:04o}; it may be 0400 or 0600"


def test_a_link_a_directory_a_pipe_and_nothing_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "key", KEY)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", ".", "pipe", "none", "nul\0"):
        with pytest.raises(BusError) as caught:
            RootKey.from_file(f"{tmp_path}/{name}")
        assert reason(caught)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "key", KEY)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        mine = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(BusError) as caught:
        RootKey.from_file(path)
    assert reason(caught).startswith("it belongs to user ")


def test_the_wrong_key_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "key", KEY)
    with RootKey.from_file(path) as root:
        check = root.check
    with RootKey.from_file(path, check=check.upper() + "\n"):
        pass
    write(path, KEY[::-1])
    with no_collection():
        living = Secret.living()
        with pytest.raises(BusError) as caught:
            RootKey.from_file(path, check=check)
        assert reason(caught).endswith(f"not {check}")
        assert Secret.living() == living


def test_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(BusError) as caught:
        RootKey.from_credential("cache")
    assert reason(caught) == "CREDENTIALS_DIRECTORY is not set"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    write(tmp_path / "cache", KEY, 0o440)  # the group's bit is the mask of systemd's ACL
    with RootKey.from_credential("cache") as root:
        assert holds_key(root)
    write(tmp_path / "cache", KEY, 0o444)
    for name in ("cache", "../cache", "", ".", "..", "a/b", "none"):
        with pytest.raises(BusError) as caught:
            RootKey.from_credential(name)
        assert reason(caught)


def test_the_environment_is_read_once_and_its_variable_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_KEY", base64.b64encode(KEY).decode())
    with RootKey.from_environment("CACHE_KEY") as root:
        assert holds_key(root)
    assert "CACHE_KEY" not in os.environ
    with pytest.raises(BusError) as caught:
        RootKey.from_environment("CACHE_KEY")
    assert reason(caught) == "it is not set"
    monkeypatch.setenv("CACHE_KEY", "x" * 32)  # not raw: an environment holds text
    with pytest.raises(BusError) as caught:
        RootKey.from_environment("CACHE_KEY")
    assert "not 64 hex digits or base64" in reason(caught)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="shown in /proc only")
def test_the_environment_that_the_process_began_with_shows_no_key() -> None:
    script = (
        "import os\nfrom busd.components.cache.rootkey import RootKey\n"
        "root = RootKey.from_environment('CACHE_KEY')\n"
        "print(root.check, os.environ['OTHER'], open('/proc/self/environ', 'rb').read().count(b'8485868788'))\n"
    )
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'schemas')]!r}\n{script}"
    environment = {"CACHE_KEY": bytes(range(0x80, 0xA0)).hex(), "OTHER": "stays"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=environment, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split()[1:] == ["stays", "0"]


def test_a_generated_key_is_loud() -> None:
    with pytest.warns(RootKeyWarning, match="anything but development"):
        one = RootKey.generated()
    other = RootKey.generated(quiet=True)
    assert one.check != other.check
    one.wipe()
    with pytest.raises(BusError) as caught:
        one.for_tenant(b"acme")
    assert reason(caught) == "it was wiped"
    other.wipe()


@given(st.binary(min_size=32, max_size=32))
def test_decoding_is_that_of_the_standard_library(key: bytes) -> None:
    for form in (key.hex().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key)):
        with _decode(bytearray(form), len(form), "here", raw=False) as secret:
            assert bytes(secret.view()) == key


@given(st.binary(max_size=70))
def test_whatever_is_read_is_a_key_or_refused(data: bytes) -> None:
    code = None
    try:
        _decode(bytearray(data), len(data), "here", raw=True).wipe()
    except BusError as error:
        code = error.code
    assert code in ({None} if len(data) == 32 else {None, Code.CACHE_KEY_MISSING})
