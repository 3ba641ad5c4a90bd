"""The record: what is swapped, replayed, truncated or sealed elsewhere is a miss, and says why."""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from busd.components.cache.datakey import ALGORITHMS, Algorithm
from busd.components.cache.keyring import Keyring, TenantKeys
from busd.components.cache.padding import MAX_PADDED
from busd.components.cache.record import OVERHEAD, Failure, epoch_of, failure_of, open_, open_into, seal
from busd.components.cache.rootkey import RootKey
from busd.components.cache.scratch import Scratch
from busproto.errors import BusError, Code
from tests.components.cache_keys_support import FixedKeys, Spy, fixed_key

NAME = bytes(range(16))
OTHER = bytes(range(1, 17))


@pytest.fixture(scope="module", params=ALGORITHMS)
def ring(request: pytest.FixtureRequest) -> Keyring:
    algorithm: Algorithm = request.param
    return Keyring(RootKey.generated(quiet=True), algorithm=algorithm)


@pytest.fixture
def keys(ring: Keyring) -> TenantKeys:
    return ring.tenant("acme")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1024, (16 << 10) - 29, (16 << 10) - 28, 1 << 20])
def test_it_is_29_bytes_longer_than_its_value(keys: TenantKeys, size: int) -> None:
    value = bytes(size)
    record = seal(keys, NAME, 1, 2, 3.0, value)
    assert type(record) is bytes
    assert len(record) == size + OVERHEAD == size + 29
    assert open_(keys, record, NAME, 1, 2, 3.0) == value
    assert seal(keys, NAME, 1, 2, 3.0, memoryview(value))[13:] != record[13:], "the same value, another nonce"
    with Scratch() as scratch:
        view = open_into(keys, record, NAME, 1, 2, 3.0, scratch)
        assert view is not None
        assert view.readonly
        assert view == value


def test_the_largest_value_is_taken_and_a_larger_one_refused_with_the_number(keys: TenantKeys) -> None:
    value = bytes(MAX_PADDED)
    record = seal(keys, NAME, 1, 0, 0.0, value)
    assert open_(keys, record, NAME, 1, 0, 0.0) == value
    with pytest.raises(BusError) as caught:
        seal(keys, NAME, 1, 0, 0.0, bytes(MAX_PADDED + 1))
    assert caught.value.code == Code.CACHE_VALUE_SIZE
    assert caught.value.fields == {"size": MAX_PADDED + 1, "limit": MAX_PADDED}
    assert open_(keys, record + b"\0", NAME, 1, 0, 0.0) is None
    assert failure_of(keys, record + b"\0", NAME, 1, 0, 0.0) is Failure.TRUNCATED


def test_truncated_and_extended_records(keys: TenantKeys) -> None:
    record = seal(keys, NAME, 1, 0, 0.0, b"canary")
    with Scratch() as scratch:
        for end in range(len(record)):
            wanted = Failure.TRUNCATED if end < OVERHEAD else Failure.TAG
            assert open_(keys, record[:end], NAME, 1, 0, 0.0) is None
            assert open_into(keys, record[:end], NAME, 1, 0, 0.0, scratch) is None
            assert failure_of(keys, record[:end], NAME, 1, 0, 0.0) is wanted
            assert epoch_of(record[:end]) == (keys.newest if end >= OVERHEAD else -1)
    for more in (b"\0", record, bytes(100)):
        assert failure_of(keys, record + more, NAME, 1, 0, 0.0) is Failure.TAG
    for start in range(1, 20):
        assert open_(keys, record[start:], NAME, 1, 0, 0.0) is None


def test_swapped_replayed_and_revived_records(ring: Keyring, keys: TenantKeys) -> None:
    record = seal(keys, NAME, 5, 1, 9.0, b"canary")
    other = ring.tenant("other")
    other.current()
    while other.newest < keys.newest:
        other.rotate()
    for owner, arguments in (
        (keys, (OTHER, 5, 1, 9.0)),  # put under another name
        (keys, (NAME, 6, 1, 9.0)),  # put back after it was replaced
        (keys, (NAME, 4, 1, 9.0)),
        (keys, (NAME, 5, 0, 9.0)),  # said to be without a flag that it had
        (keys, (NAME, 5, 1, 10.0)),  # lives longer than it should
        (keys, (NAME, 5, 1, float("inf"))),
        (other, (NAME, 5, 1, 9.0)),  # given to another tenant
    ):
        assert open_(owner, record, *arguments) is None
        assert failure_of(owner, record, *arguments) is Failure.TAG
    assert failure_of(keys, record, NAME, 5, 1, 9.0) is None


def test_a_record_of_another_epoch_says_so_and_with_its_number_changed_fails_its_tag(keys: TenantKeys) -> None:
    record = seal(keys, NAME, 1, 0, 0.0, b"canary")
    keys.rotate()
    moved = record[:1] + keys.newest.to_bytes(4, "big") + record[5:]
    assert failure_of(keys, moved, NAME, 1, 0, 0.0) is Failure.TAG
    unknown = record[:1] + (keys.newest + 1).to_bytes(4, "big") + record[5:]
    assert failure_of(keys, unknown, NAME, 1, 0, 0.0) is Failure.EPOCH
    assert failure_of(keys, b"\x02" + record[1:], NAME, 1, 0, 0.0) is Failure.VERSION
    assert open_(keys, record, NAME, 1, 0, 0.0) == b"canary"


def test_the_wrong_commitment_is_noticed_before_anything_is_decrypted() -> None:
    spy = Spy(AESGCM(bytes(32)))
    keys = FixedKeys(fixed_key(spy, commitment=b"c" * 16))
    record = seal(keys, NAME, 1, 0, 0.0, b"canary")
    keys.slots = {keys.key.head: (b"d" * 16, keys.key)}
    spy.seen.clear()
    with Scratch() as scratch:
        assert open_(keys, record, NAME, 1, 0, 0.0) is None
        assert open_into(keys, record, NAME, 1, 0, 0.0, scratch) is None
        assert failure_of(keys, record, NAME, 1, 0, 0.0) is Failure.COMMITMENT
    assert spy.seen == []


def test_another_key_in_the_place_of_an_epoch_is_noticed_by_its_commitment(ring: Keyring, keys: TenantKeys) -> None:
    record = seal(keys, NAME, 1, 0, 0.0, b"canary")
    stranger = ring.tenant("stranger").current()
    head = record[:5]
    before = keys.slots
    keys.slots = {**before, head: (before[head][0], stranger)}
    try:
        assert open_(keys, record, NAME, 1, 0, 0.0) is None
        assert failure_of(keys, record, NAME, 1, 0, 0.0) is Failure.COMMITMENT
    finally:
        keys.slots = before


@pytest.mark.parametrize("cipher", [AESGCM, ChaCha20Poly1305])
def test_the_cipher_leaves_plaintext_in_the_buffer_and_we_do_not(cipher: type[AESGCM]) -> None:
    """decrypt_into writes before it knows: the reason why a scratch is zeroed. Should it stop doing so, no harm."""
    aead = cipher(bytes(32))
    value = b"canary" * 100
    sealed = bytearray(aead.encrypt(bytes(12), value, b""))
    sealed[-1] ^= 1
    left = bytearray(len(value))
    with pytest.raises(InvalidTag):
        aead.decrypt_into(bytes(12), bytes(sealed), b"", left)
    keys = FixedKeys(fixed_key(aead))
    record = bytearray(seal(keys, NAME, 1, 0, 0.0, value))
    record[-1] ^= 1
    with Scratch() as scratch:
        assert open_into(keys, bytes(record), NAME, 1, 0, 0.0, scratch) is None
        assert scratch.blank


def test_a_scratch_is_blank_after_failure_and_after_use(keys: TenantKeys) -> None:
    scratch = Scratch()
    record = seal(keys, NAME, 1, 0, 0.0, b"canary" * 1000)
    for _ in range(3):
        view = open_into(keys, record, NAME, 1, 0, 0.0, scratch)
        assert view is not None
        assert not scratch.blank
        assert open_into(keys, record, NAME, 2, 0, 0.0, scratch) is None
        assert scratch.blank
        with pytest.raises(ValueError, match="released"):
            bytes(view)
    open_into(keys, record, NAME, 1, 0, 0.0, scratch)
    scratch.release()
    assert scratch.blank


@pytest.mark.parametrize("name", [b"", b"short", NAME + b"x"])
def test_a_name_that_is_not_blinded_is_refused(keys: TenantKeys, name: bytes) -> None:
    record = seal(keys, NAME, 1, 0, 0.0, b"canary")
    with pytest.raises(ValueError, match="16 bytes"):
        seal(keys, name, 1, 0, 0.0, b"")
    with Scratch() as scratch:
        assert open_(keys, record, name, 1, 0, 0.0) is None
        assert open_into(keys, record, name, 1, 0, 0.0, scratch) is None


@given(st.binary(max_size=80))
def test_no_bytes_of_a_stranger_open(data: bytes) -> None:
    with Keyring(RootKey.generated(quiet=True)) as ring:
        keys = ring.tenant("acme")
        head = seal(keys, NAME, 1, 0, 0.0, b"")[:5]
        for record in (data, head + data):
            assert open_(keys, record, NAME, 1, 0, 0.0) is None
            assert failure_of(keys, record, NAME, 1, 0, 0.0) is not None


@given(
    st.binary(max_size=200),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.floats(allow_nan=False),
    st.binary(min_size=16, max_size=16),
)
def test_whatever_is_sealed_opens_with_the_same_arguments(
    value: bytes, generation: int, flags: int, expiry: float, blinded: bytes
) -> None:
    keys = FixedKeys(fixed_key(AESGCM(bytes(32))))
    record = seal(keys, blinded, generation, flags, expiry, value)
    assert open_(keys, record, blinded, generation, flags, expiry) == value
