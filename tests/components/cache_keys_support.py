"""Keys of which a test sets every part. Nothing but a test puts a data key together: a keyring only makes new ones."""

from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV, ChaCha20Poly1305

from busd.components.cache.datakey import Aead, DataKey, Terms, head_of
from busd.components.cache.fork import Mark
from busd.components.cache.keyring import Slot

CIPHERS: dict[str, Any] = {
    "aes-256-gcm": AESGCM,
    "chacha20-poly1305": ChaCha20Poly1305,
    "aes-256-gcm-siv": AESGCMSIV,
}


class FixedKeys:
    """The keys of a tenant, with one data key of the test's choice."""

    def __init__(self, key: DataKey) -> None:
        self.key = key
        self.slots: dict[bytes, Slot] = {key.head: (key.commitment, key)}

    def current(self) -> DataKey:
        return self.key

    def replace(self, key: DataKey | None, /) -> DataKey:
        raise AssertionError("the key was spent")


class Spy:
    """A cipher that notes what it is given, and can put other associated data in the place of ours."""

    def __init__(self, aead: Any, aad: bytes | None = None) -> None:
        self.aead, self.aad = aead, aad
        self.seen: list[tuple[str, bytes, bytes]] = []

    def encrypt(self, nonce: bytes, data: Any, associated_data: bytes) -> bytes:
        self.seen.append(("encrypt", nonce, associated_data))
        return bytes(self.aead.encrypt(nonce, data, associated_data if self.aad is None else self.aad))

    def decrypt(self, nonce: bytes, data: Any, associated_data: bytes) -> bytes:
        self.seen.append(("decrypt", nonce, associated_data))
        return bytes(self.aead.decrypt(nonce, data, associated_data if self.aad is None else self.aad))

    def decrypt_into(self, nonce: bytes, data: Any, associated_data: bytes, buf: memoryview) -> int:
        self.seen.append(("decrypt_into", nonce, associated_data))
        return int(self.aead.decrypt_into(nonce, data, associated_data if self.aad is None else self.aad, buf))


def fixed_key(
    aead: Aead,
    nonce: bytes = bytes(12),
    *,
    tenant: bytes = b"acme",
    epoch: int = 7,
    commitment: bytes = bytes(16),
    terms: Terms | None = None,
) -> DataKey:
    """A data key whose next nonce is ``nonce``."""
    mark: Mark = bytearray(b"\x01")
    return DataKey(
        tenant,
        epoch,
        aead,
        terms if terms is not None else Terms(),
        instance=nonce[:4],
        commitment=commitment,
        mark=mark,
        first=int.from_bytes(nonce[4:], "big"),
    )


def fields(tenant: bytes, epoch: int, generation: int, blinded: bytes, flags: int, expiry: bytes) -> bytes:
    """The associated data as the format's description has it, made without our code."""
    parts = (
        b"\x01",
        tenant,
        epoch.to_bytes(4, "big"),
        generation.to_bytes(8, "big"),
        blinded,
        flags.to_bytes(4, "big"),
        expiry,
    )
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


__all__ = ["CIPHERS", "FixedKeys", "Spy", "fields", "fixed_key", "head_of"]
