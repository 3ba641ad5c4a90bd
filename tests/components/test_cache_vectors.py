"""Published vectors through the record layer, and every single bit of a record and its associated data flipped."""

import inspect
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from busd.components.cache.datakey import ALGORITHMS, VERSION
from busd.components.cache.keyring import Keyring
from busd.components.cache.record import OVERHEAD, Failure, failure_of, open_, open_into, seal
from busd.components.cache.rootkey import RootKey
from busd.components.cache.scratch import Scratch
from tests.components.cache_keys_support import CIPHERS, FixedKeys, Spy, fields, fixed_key

VECTORS = json.loads((Path(__file__).parent / "vectors" / "aead.json").read_text(encoding="utf-8"))["vectors"]
BLINDED = bytes(range(16))


def of(vector: dict[str, str], name: str) -> bytes:
    return bytes.fromhex(vector[name])


def keys_for(vector: dict[str, str]) -> FixedKeys:
    """Keys that seal the next value as the vector does: its key, its nonce, its associated data."""
    spy = Spy(CIPHERS[vector["algorithm"]](of(vector, "key")), of(vector, "aad"))
    return FixedKeys(fixed_key(spy, of(vector, "nonce")))


def test_there_are_vectors_for_each_algorithm() -> None:
    assert {vector["algorithm"] for vector in VECTORS} == set(ALGORITHMS)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_vector(vector: dict[str, str]) -> None:
    keys = keys_for(vector)
    record = seal(keys, BLINDED, 3, 0, 1.5, of(vector, "plaintext"))
    head = bytes([VERSION]) + (7).to_bytes(4, "big") + of(vector, "nonce")[4:]
    assert record == head + of(vector, "sealed")
    assert len(record) == OVERHEAD + len(of(vector, "plaintext"))
    assert open_(keys, record, BLINDED, 3, 0, 1.5) == of(vector, "plaintext")
    with Scratch() as scratch:
        view = open_into(keys, record, BLINDED, 3, 0, 1.5, scratch)
        assert view is not None
        assert bytes(view) == of(vector, "plaintext")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_every_flipped_bit_of_a_vector_is_a_miss(vector: dict[str, str]) -> None:
    keys = keys_for(vector)
    record = seal(keys, BLINDED, 3, 0, 1.5, of(vector, "plaintext"))
    for at in range(8 * len(record)):
        flipped = flip(record, at)
        assert open_(keys, flipped, BLINDED, 3, 0, 1.5) is None
        wanted = Failure.VERSION if at < 8 else Failure.EPOCH if at < 40 else Failure.TAG
        assert failure_of(keys, flipped, BLINDED, 3, 0, 1.5) is wanted
    with Scratch() as scratch:
        for at in range(40, 8 * len(record)):
            assert open_into(keys, flip(record, at), BLINDED, 3, 0, 1.5, scratch) is None
            assert scratch.blank


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_flipped_bit_of_what_the_tag_covers_is_a_miss(algorithm: str) -> None:
    """Each field of the associated data, the record being as it was: so what the index says is bound as well."""
    aead = CIPHERS[algorithm](bytes(range(32)))
    keys = FixedKeys(fixed_key(aead))
    value = b"canary" * 7
    generation, flags, expiry = 0x0102030405060708, 0x00C0FFEE, 1234.5
    record = seal(keys, BLINDED, generation, flags, expiry, value)
    assert open_(keys, record, BLINDED, generation, flags, expiry) == value

    def refused(keys: FixedKeys, *, blinded: bytes, generation: int, flags: int, expiry: float) -> None:
        assert open_(keys, record, blinded, generation, flags, expiry) is None
        assert failure_of(keys, record, blinded, generation, flags, expiry) is Failure.TAG

    whole: dict[str, Any] = {"blinded": BLINDED, "generation": generation, "flags": flags, "expiry": expiry}
    for bit in range(128):
        refused(keys, **{**whole, "blinded": flip(BLINDED, bit)})
    for bit in range(64):
        refused(keys, **{**whole, "generation": generation ^ 1 << bit})
        (other,) = struct.unpack(">d", flip(struct.pack(">d", expiry), bit))
        refused(keys, **{**whole, "expiry": other})
    for bit in range(32):
        refused(keys, **{**whole, "flags": flags ^ 1 << bit})
    for bit in range(8 * len(b"acme")):
        refused(FixedKeys(fixed_key(aead, tenant=flip(b"acme", bit))), **whole)
    for bit in range(32):  # the epoch in the record is changed with the key's, as one who writes to both could do
        moved = FixedKeys(fixed_key(aead, epoch=7 ^ 1 << bit))
        assert open_(moved, moved.key.head + record[5:], **whole) is None
    for bit in range(8):  # the version of the prefix alone: no key can be looked up with another
        key = fixed_key(aead)
        key.prefix = key.prefix[:2] + flip(key.prefix[2:3], bit) + key.prefix[3:]
        refused(FixedKeys(key), **whole)


def test_what_the_tag_covers_is_what_the_format_says() -> None:
    spy = Spy(CIPHERS["aes-256-gcm"](bytes(32)))
    keys = FixedKeys(fixed_key(spy, bytes(range(12)), tenant="Bärn".encode(), epoch=0xFFFFFFFE))
    record = seal(keys, BLINDED, 2**64 - 1, 2**32 - 1, float("inf"), b"v")
    open_(keys, record, BLINDED, 2**64 - 1, 2**32 - 1, float("inf"))
    with Scratch() as scratch:
        open_into(keys, record, BLINDED, 2**64 - 1, 2**32 - 1, float("inf"), scratch)
    infinite = bytes.fromhex("7ff0000000000000")
    aad = fields("Bärn".encode(), 0xFFFFFFFE, 2**64 - 1, BLINDED, 2**32 - 1, infinite)
    assert spy.seen == [(what, bytes(range(12)), aad) for what in ("encrypt", "decrypt", "decrypt_into")]


def test_names_of_tenants_do_not_run_together_with_what_follows() -> None:
    prefixes = {
        fixed_key(CIPHERS["aes-256-gcm"](bytes(32)), tenant=name).prefix for name in (b"a", b"a\x00", b"a\x00\x04")
    }
    assert len(prefixes) == 3
    assert not any(one != other and other.startswith(one) for one in prefixes for other in prefixes)


def test_configuration_cannot_set_a_data_key_or_a_nonce() -> None:
    """The seam of these tests is the constructor of DataKey. What a keyring takes and calls draws all of it itself."""
    assert set(inspect.signature(Keyring).parameters) == {
        "root",
        "algorithm",
        "rotate_seconds",
        "rotate_messages",
        "rotate_bytes",
        "keep_epochs",
        "shared",
        "clock",
        "clones",
    }
    with Keyring(RootKey.generated(quiet=True)) as ring:
        keys = ring.tenant("acme")
        made = {(key.instance, key.commitment) for key in (keys.replace(keys.current()) for _ in range(20))}
        assert len(made) == len({instance for instance, _ in made}) == len({commit for _, commit in made}) == 20
