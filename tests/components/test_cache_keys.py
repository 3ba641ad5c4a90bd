"""Data keys and the keyring: rotation, shredding, blinding, limits, shared keys."""

import threading
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busd.components.cache import datakey as module
from busd.components.cache.datakey import ALGORITHMS, HEADER_SIZE, Algorithm, DataKey, Terms, head_of, keeps_own_copy
from busd.components.cache.fork import CloneWatch
from busd.components.cache.keyring import Keyring, TenantKeys
from busd.components.cache.record import Failure, epoch_of, failure_of, open_, seal
from busd.components.cache.rootkey import RootKey
from busd.components.cache.secret import Secret
from busproto.errors import BusError, Code
from tests.components.cache_keys_support import CIPHERS, fixed_key
from tests.support import no_collection

NAME = bytes(16)


class Clock:
    """A clock that a test turns."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """A machine whose boot id and clocks a test changes."""

    boot = "one"
    ahead = 0.0

    def watch(self) -> CloneWatch:
        return CloneWatch(boot=lambda: self.boot, offsets=lambda: (self.ahead,))


def root(key: int = 1) -> RootKey:
    secret = Secret()
    secret.view()[:] = bytes(range(key, key + 32))
    return RootKey(secret, "test")


def put(keys: TenantKeys, value: bytes = b"value") -> bytes:
    return seal(keys, NAME, 1, 0, 0.0, value)


def get(keys: TenantKeys, record: bytes) -> bytes | None:
    return open_(keys, record, NAME, 1, 0, 0.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_sealed_opens(algorithm: Algorithm) -> None:
    with Keyring(root(), algorithm=algorithm) as ring:
        keys = ring.tenant("acme")
        assert ring.tenant("acme") is keys
        assert ring.algorithm == algorithm
        assert get(keys, put(keys)) == b"value"
        assert (keys.messages, keys.current().used_bytes) == (1, 5)


def test_it_rotates_by_age_and_what_was_there_still_opens() -> None:
    clock = Clock()
    with Keyring(root(), rotate_seconds=60.0, clock=clock) as ring:
        keys = ring.tenant("acme")
        first = put(keys)
        clock.now += 59.9
        assert epoch_of(put(keys)) == epoch_of(first) == keys.newest
        assert keys.age == pytest.approx(59.9)
        clock.now += 0.1
        second = put(keys)
        assert epoch_of(second) == epoch_of(first) + 1 == keys.newest
        assert (get(keys, first), get(keys, second)) == (b"value", b"value")
        assert keys.age == 0


def test_it_rotates_by_count_at_the_very_number() -> None:
    with Keyring(root(), rotate_messages=3) as ring:
        keys = ring.tenant("acme")
        assert [epoch_of(put(keys)) for _ in range(7)] == [1, 1, 1, 2, 2, 2, 3]


def test_it_rotates_after_the_value_that_reaches_the_bytes() -> None:
    with Keyring(root(), rotate_bytes=10) as ring:
        keys = ring.tenant("acme")
        assert [epoch_of(put(keys, bytes(size))) for size in (4, 6, 1, 10, 0, 11, 0)] == [1, 1, 2, 2, 3, 3, 4]


def test_a_counter_near_the_end_of_a_key_is_not_exceeded() -> None:
    terms = Terms(max_messages=2)
    key = fixed_key(CIPHERS["aes-256-gcm"](bytes(32)), bytes(4) + (2**64 - 3).to_bytes(8, "big"), terms=terms)
    assert not key.spent
    assert [key.take(1) for _ in range(4)] == [2**64 - 3, 2**64 - 2, -1, -1]
    assert key.spent


def test_old_keys_are_retired_by_number_and_by_command() -> None:
    with Keyring(root(), keep_epochs=3) as ring:
        keys = ring.tenant("acme")
        records = []
        for _ in range(5):
            records.append(put(keys))
            keys.rotate()
        assert list(keys.epochs) == [4, 5, 6]
        assert keys.min_epoch == 4
        assert [get(keys, record) for record in records] == [None, None, None, b"value", b"value"]
        assert failure_of(keys, records[0], NAME, 1, 0, 0.0) is Failure.EPOCH
        assert keys.retire(6) == 2
        assert list(keys.epochs) == [6]


def test_shredding_an_epoch_destroys_that_and_it_is_never_there_again() -> None:
    with Keyring(root()) as ring:
        keys = ring.tenant("acme")
        first = put(keys)
        keys.rotate()
        second = put(keys)
        assert keys.shred_epoch(1)
        assert not keys.shred_epoch(1)
        assert (get(keys, first), get(keys, second)) == (None, b"value")
        assert keys.shred_epoch(2), "the one that seals"
        assert epoch_of(put(keys)) == 3
        assert get(keys, second) is None


def test_shredding_a_tenant_leaves_nothing_and_others_alone() -> None:
    with Keyring(root()) as ring:
        keys, other = ring.tenant("acme"), ring.tenant("other")
        mine, theirs = put(keys), put(other)
        before = keys.blind(b"name")
        assert ring.shred("acme")
        assert not ring.shred("acme")
        assert (get(keys, mine), get(other, theirs)) == (None, b"value")
        for attempt in (lambda: put(keys), lambda: keys.blind(b"name"), keys.rotate, keys.current):
            with pytest.raises(BusError) as caught:
                attempt()
            assert caught.value.code == Code.CACHE_KEYS_GONE
            assert caught.value.fields == {"tenant": "acme"}
        anew = ring.tenant("acme")
        assert anew is not keys
        assert keys.gone
        assert not anew.gone
        assert anew.blind(b"name") == before, "what index there is elsewhere is found, and opens nothing"
        put(anew)
        assert get(anew, mine) is None
        assert failure_of(anew, mine, NAME, 1, 0, 0.0) is Failure.EPOCH
        assert ring.tenants == ("other", "acme")


def test_closing_shreds_all_and_wipes_the_root() -> None:
    with no_collection():
        living = Secret.living()
        ring = Keyring(root(), shared=True)
        keys = ring.tenant("acme")
        put(keys)
        assert Secret.living() > living
        ring.close()
        assert Secret.living() == living
    assert keys.gone
    with pytest.raises(BusError) as caught:
        ring.tenant("acme")
    assert caught.value.code == Code.CACHE_KEY_MISSING


def test_no_tenant_opens_what_another_sealed() -> None:
    with Keyring(root()) as ring:
        tenants = [ring.tenant(f"tenant-{number}") for number in range(50)]
        records = [put(keys, keys.name.encode()) for keys in tenants]
        for keys in tenants:
            opened = [value for record in records if (value := get(keys, record)) is not None]
            assert opened == [keys.name.encode()]


def test_names_are_blinded_by_keyed_blake2b_and_not_linked_between_tenants() -> None:
    with Keyring(root()) as ring, Keyring(root()) as same, Keyring(root(2)) as different:
        blinded = {ring.tenant(f"tenant-{number}").blind(b"session") for number in range(1000)}
        assert len(blinded) == 1000
        with ring.root.for_tenant(b"acme") as kek, kek.derive("blind") as key:
            wanted = blake2b(b"session", key=bytes(key.view()), digest_size=16).digest()
        assert ring.tenant("acme").blind(b"session") == wanted == same.tenant("acme").blind(b"session")
        assert different.tenant("acme").blind(b"session") != wanted


@pytest.mark.parametrize("name", ["", "x" * 256, "ä" * 128, "\udc80"])
def test_what_is_no_name_of_a_tenant_is_refused(name: str) -> None:
    with Keyring(root()) as ring, pytest.raises(BusError) as caught:
        ring.tenant(name)
    assert caught.value.code == Code.CACHE_TENANT_UNKNOWN


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "rot13"},
        {"rotate_seconds": 0.0},
        {"rotate_seconds": float("nan")},
        {"rotate_messages": 0},
        {"rotate_messages": 2**32 + 1},
        {"rotate_bytes": 0},
        {"rotate_bytes": 2**36 + 1},
        {"keep_epochs": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with root() as key, pytest.raises(ValueError, match=r"."):
        Keyring(key, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("sign", ["boot", "clock"])
def test_a_sign_of_a_clone_rotates_every_tenant(sign: str) -> None:
    clock, machine = Clock(), Machine()
    with Keyring(root(), clock=clock, clones=machine.watch()) as ring:
        keys, other = ring.tenant("acme"), ring.tenant("other")
        first = put(keys)
        put(other)
        clock.now += 5
        assert epoch_of(put(keys)) == 1
        if sign == "boot":
            machine.boot = "two"
        else:
            machine.ahead += 3.0
        clock.now += 1.0
        assert (epoch_of(put(keys)), epoch_of(put(other))) == (2, 2)
        assert get(keys, first) == b"value", "nothing is lost by it"
        clock.now += 5
        assert (epoch_of(put(keys)), epoch_of(put(other))) == (2, 2)


def test_clocks_that_are_adjusted_are_no_sign() -> None:
    machine = Machine()
    watch = machine.watch()
    for _ in range(10):
        machine.ahead += 1.9
        assert not watch.moved()
    assert not CloneWatch().moved()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_cipher_that_keeps_the_buffer_of_its_key_gets_one_that_stays(
    algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With some builds of OpenSSL the cipher reads the key at each call: wiping it would mean a key of zeros."""

    class Lazy:
        def __init__(self, key: memoryview) -> None:
            self.key = key

        def encrypt(self, *given: bytes) -> bytes:
            return bytes(CIPHERS[algorithm](bytes(self.key)).encrypt(*given))

        def decrypt(self, *given: bytes) -> bytes:
            return bytes(CIPHERS[algorithm](bytes(self.key)).decrypt(*given))

        def decrypt_into(self, *given: bytes) -> int:
            return int(CIPHERS[algorithm](bytes(self.key)).decrypt_into(*given))

    assert keeps_own_copy(algorithm) in (True, False)
    monkeypatch.setattr(module, "_owning", {})
    monkeypatch.setattr(module, "_MADE", {algorithm: Lazy})
    assert not keeps_own_copy(algorithm)
    with no_collection():
        living = Secret.living()
        key = DataKey.random(b"acme", 1, Terms(algorithm), mark=bytearray(b"\x01"))
        assert Secret.living() == living + 1
        assert key.decrypt(bytes(12), key.encrypt(bytes(12), b"value", b""), b"") == b"value"
        zeros = CIPHERS[algorithm](bytes(32)).encrypt(bytes(12), b"value", b"")
        assert key.encrypt(bytes(12), b"value", b"") != zeros
        del key
        assert Secret.living() == living


def test_shared_keys_open_with_the_header_and_only_for_the_same_tenant() -> None:
    with (
        Keyring(root(), shared=True) as one,
        Keyring(root(), shared=True) as other,
        Keyring(root(2), shared=True) as no,
    ):
        writer, reader = one.tenant("acme"), other.tenant("acme")
        record = put(writer)
        (header,) = writer.headers()
        assert len(header) == HEADER_SIZE
        assert get(reader, record) is None
        assert reader.admit(header) == epoch_of(record)
        assert get(reader, record) == b"value"
        assert reader.admit(header) is None, "it is there"
        assert other.tenant("other").admit(header) is None
        assert no.tenant("acme").admit(header) is None
        assert epoch_of(put(reader)) != epoch_of(record), "what was admitted does not seal"
        for bit in range(8 * HEADER_SIZE):
            changed = bytearray(header)
            changed[bit // 8] ^= 1 << bit % 8
            assert other.tenant("third").admit(bytes(changed)) is None
        assert other.tenant("third").admit(header[:-1]) is None
    with Keyring(root()) as sealed:
        assert sealed.tenant("acme").admit(header) is None
        sealed.tenant("acme").current()
        assert sealed.tenant("acme").headers() == []


@given(st.integers(0, 2**32 - 1))
def test_the_head_of_an_epoch_is_read_back(epoch: int) -> None:
    assert epoch_of(head_of(epoch) + bytes(24)) == epoch


def test_two_threads_that_find_a_key_spent_make_one_new_key() -> None:
    with Keyring(root()) as ring:
        keys = ring.tenant("acme")
        old = keys.current()
        got: list[DataKey] = []
        threads = [threading.Thread(target=lambda: got.append(keys.replace(old))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(got) == 8
        assert len(set(map(id, got))) == 1
        assert keys.newest == old.epoch + 1
