"""Reading schemas/vectors/ as a client in another language would: JSON in, bytes and values out."""

import json
from functools import cache
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[2] / "schemas" / "vectors"


@cache
def load(name: str) -> dict[str, Any]:
    """One vector file."""
    document: dict[str, Any] = json.loads((VECTORS / name).read_text(encoding="ascii"))
    return document


def data_of(case: dict[str, Any]) -> bytes:
    """The bytes of a case, written as ``hex`` or as ``runs``."""
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    return b"".join(bytes.fromhex(piece) * times for piece, times in case["runs"])


def value_of(plain: Any) -> Any:
    """A decoded value from its JSON form: ``{"$hex"}`` and ``{"$runs"}`` are binary."""
    if isinstance(plain, list):
        return [value_of(entry) for entry in plain]
    if isinstance(plain, dict):
        if plain.keys() <= {"$hex", "$runs"} and len(plain) == 1:
            return data_of({key[1:]: entry for key, entry in plain.items()})
        return {key: value_of(entry) for key, entry in plain.items()}
    return plain
