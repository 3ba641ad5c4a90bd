"""Secrets: pages of their own, wiped; scratch buffers; padding; hardening."""

import copy
import gc
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from busd.components.cache import secret as module
from busd.components.cache.padding import MAX_PADDED, MAX_VALUE, PADDINGS, Padding, pad, padded_size, unpad
from busd.components.cache.scratch import KEPT, Scratch
from busd.components.cache.secret import SIZE, Secret, expand
from busproto.errors import BusError, Code

ROOT = Path(__file__).parents[2]


def test_a_secret_is_random_and_has_its_page() -> None:
    with Secret.random() as one, Secret.random() as other:
        assert len(one.view()) == SIZE
        assert not one.same(other)
        assert one.same(one)
        if sys.platform == "linux":
            assert "not-dumped" in one.protections
        assert "wiped-on-fork" not in one.protections


def test_a_wiped_secret_is_zero_and_says_so() -> None:
    secret = Secret.random()
    view = secret.view()
    secret.wipe()
    secret.wipe()
    assert bytes(view) == bytes(SIZE)
    assert repr(secret) == "<Secret, wiped>"
    with pytest.raises(ValueError, match="wiped"):
        secret.view()


def test_a_secret_is_wiped_when_nobody_has_it() -> None:
    gc.collect()
    before = Secret.living()
    secret = Secret.random()
    assert Secret.living() == before + 1
    view = secret.view()
    del secret
    gc.collect()
    assert Secret.living() == before
    assert bytes(view) == bytes(SIZE)


def test_a_secret_is_not_shown_copied_or_pickled() -> None:
    with Secret.random() as secret:
        assert bytes(secret.view()).hex() not in repr(secret)
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="neither pickled nor copied"):
                attempt(secret)


def test_it_works_where_the_system_grants_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    monkeypatch.setattr(module, "_libc", Nothing)
    with Secret.random() as secret:
        assert not secret.locked
        assert any(secret.view())
        assert repr(secret) == "<Secret, not locked>"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_MEMLOCK is counted so on Linux")
def test_without_room_to_lock_it_says_that_it_is_not_locked() -> None:
    script = (
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "from busd.components.cache.secret import Secret\n"
        "secret = Secret.random(); print(secret.locked, any(secret.view()))\n"
    )
    paths = [str(ROOT), str(ROOT / "schemas")]
    code = f"import sys; sys.path[:0] = {paths!r}\nimport busd.components.cache.secret\n{script}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("False True\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_MEMLOCK is counted so on Linux")
def test_a_cache_works_where_only_one_page_may_be_locked() -> None:
    """Keys beyond the limit lie in pages that are not locked: less safe, and nobody is refused."""
    script = (
        "import os, resource\n"
        "from busd.components.cache import Cache\n"
        "cache = Cache.generated(quiet=True)\n"  # all is imported before the user changes
        "cache.tenant('warm').set('k', b'v')\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "cache = Cache.generated(quiet=True)\n"
        "for number in range(20):\n"
        "    mine = cache.tenant(f'tenant-{number}')\n"
        "    mine.set('k', b'v'); mine.rotate(); mine.set('l', b'w')\n"
        "    assert (mine.get('k'), mine.get('l')) == (b'v', b'w')\n"
        "    cache.shred(mine.name)\n"
        "cache.close(); print('well')\n"
    )
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'schemas')]!r}\n{script}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("well\n", "")


def test_derivation_is_hkdf_expand_with_its_label_and_lengths() -> None:
    with Secret() as secret:
        secret.view()[:] = bytes(range(32))
        info = b"busd/cache/v1/\x00\x06tenant\x00\x04acme"
        assert secret.derive_public("tenant", 48, b"acme") == HKDFExpand(SHA256(), 48, info).derive(bytes(range(32)))
        with secret.derive("tenant", b"acme") as made:
            assert bytes(made.view()) == secret.derive_public("tenant", 32, b"acme")


@given(st.lists(st.binary(max_size=6), max_size=3), st.lists(st.binary(max_size=6), max_size=3))
def test_different_contexts_derive_different_bytes(one: list[bytes], other: list[bytes]) -> None:
    key = memoryview(bytes(32))
    made = [bytearray(16), bytearray(16)]
    for context, into in zip((one, other), made, strict=True):
        expand(key, "label", tuple(context), into)
    assert (made[0] == made[1]) == (one == other)


def test_a_scratch_is_zeroed_on_release_and_when_taken_again() -> None:
    scratch = Scratch()
    view = scratch.take(100)
    view[:] = b"x" * 100
    second = scratch.take(50)
    assert bytes(second) == bytes(50)
    assert scratch.blank
    with pytest.raises(ValueError, match="released"):
        view[0]
    second[:] = b"y" * 50
    seen = second[10:20]
    scratch.release()
    scratch.release()
    assert scratch.blank
    third = scratch.take(50)
    third[:] = b"z" * 50
    assert bytes(seen) == bytes(10), "who still looks sees zeros, and nothing of what comes later"
    shown = scratch.show()
    assert shown.readonly
    assert shown == third
    scratch.release()
    for gone in (third, shown):
        with pytest.raises(ValueError, match="released"):
            gone[0]
    with pytest.raises(ValueError, match="nothing was taken"):
        scratch.show()


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 16 << 10, (16 << 10) + 1, KEPT, KEPT + 1])
def test_a_scratch_grows_and_does_not_keep_what_is_rare(size: int) -> None:
    with Scratch() as scratch:
        view = scratch.take(size)
        assert len(view) == size
        view[:] = b"z" * size
    assert scratch.blank
    assert scratch.capacity <= KEPT


@given(st.binary(max_size=3000), st.sampled_from(PADDINGS))
def test_padding_gives_back_the_value(value: bytes, padding: Padding) -> None:
    padded = pad(value, padding)
    assert len(padded) == padded_size(len(value), padding)
    assert unpad(padded, padding) == value


@given(st.integers(0, MAX_VALUE))
def test_padding_hides_the_length_within_its_bounds(size: int) -> None:
    whole = size + 4
    double, padme = padded_size(size, "power-of-two"), padded_size(size, "padme")
    assert whole <= double <= min(2 * whole, MAX_PADDED)
    assert double in (MAX_PADDED, 1 << double.bit_length() - 1)
    assert whole <= padme <= min(whole * 1.12 + 1, MAX_PADDED)
    assert padded_size(padme - 4, "padme") == padme, "it is a step of its own"


def test_padme_is_that_of_the_paper() -> None:
    """PURBs section 4: L=9 -> 10, and 1,000,000 goes up to a multiple of 2^14 (E=19, S=5, so 14 bits are hidden)."""
    assert padded_size(9 - 4, "padme") == 10
    assert padded_size(1_000_000 - 4, "padme") == 1_015_808


@pytest.mark.parametrize("padding", PADDINGS)
def test_no_value_above_the_limit_is_padded(padding: Padding) -> None:
    assert padded_size(MAX_VALUE, padding) <= MAX_PADDED
    with pytest.raises(BusError) as caught:
        padded_size(MAX_VALUE + 1, padding)
    assert caught.value.code == Code.CACHE_VALUE_SIZE
    assert caught.value.fields == {"size": MAX_VALUE + 1, "limit": MAX_VALUE}


@pytest.mark.parametrize(
    "padded",
    [b"", b"\0\0\0", b"\0\0\0\x05abcd", b"\xff\xff\xff\xffabcd", b"\0\0\0\x01ab", b"\0\0\0\x04abcd\0\0\0\0\0\0\0\0"],
)
@pytest.mark.parametrize("padding", ["power-of-two", "padme"])
def test_what_padding_did_not_make_is_not_unpadded(padded: bytes, padding: Padding) -> None:
    assert unpad(padded, padding) is None


HARDEN = """
import os, resource, sys
from busd.components.cache.harden import harden
took = harden(lock_all=True)
print(took.no_core, took.not_dumpable, resource.getrlimit(resource.RLIMIT_CORE), took.locked or took.missing)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="all of it is there on Linux only")
def test_a_hardened_process_dumps_no_core() -> None:
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'schemas')]!r}\n{HARDEN}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("True True (0, 0) ")
    import resource  # not on Windows

    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    assert ("RLIMIT_MEMLOCK is" in done.stdout) == (hard != resource.RLIM_INFINITY)
