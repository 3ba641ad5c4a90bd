"""CURVE keys as text: Z85 (ZeroMQ RFC 32), read strictly.

A key that was mistyped must be refused where it is typed, so nothing is skipped, padded or guessed at. What is refused
is never repeated in the reason: it may be someone's private key.
"""

from typing import Final

__all__ = ["KEY_BYTES", "KEY_CHARACTERS", "decode_key", "encode_key", "is_key"]

KEY_BYTES: Final = 32
"""A Curve25519 key, public or secret."""

KEY_CHARACTERS: Final = 40
"""The same in Z85: five characters for four bytes."""

_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}


def decode_key(text: str) -> bytes:
    """The 32 bytes that ``text`` stands for. Raises ValueError with the reason when it is not a key."""
    if len(text) != KEY_CHARACTERS:
        raise ValueError(f"a key has {KEY_CHARACTERS} characters (Z85), this has {len(text)}")
    key = bytearray()
    for start in range(0, KEY_CHARACTERS, 5):
        number = 0
        for place in range(start, start + 5):
            value = _VALUES.get(text[place])
            if value is None:
                raise ValueError(f"character {place + 1} of it is none of Z85's")
            number = number * 85 + value
        if number >> 32:
            raise ValueError(f"characters {start + 1} to {start + 5} of it stand for no four bytes")
        key += number.to_bytes(4, "big")
    return bytes(key)


def is_key(text: str) -> bool:
    """Whether ``text`` is a key."""
    try:
        decode_key(text)
    except ValueError:
        return False
    return True


def encode_key(key: bytes) -> str:
    """``key``, 32 bytes, as text."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, this has {len(key)}")
    text = ""
    for start in range(0, KEY_BYTES, 4):
        number = int.from_bytes(key[start : start + 4], "big")
        text += "".join(_ALPHABET[number // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return text
