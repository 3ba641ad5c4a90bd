"""Payloads as JSON and back, without loss.

msgpack holds more than JSON. What JSON cannot say is written as an object with one key, and read back from it:

- ``{"$bytes": "aGk="}``: binary, in base64
- ``{"$float": "NaN"}``: also ``Infinity`` and ``-Infinity``
- ``{"$map": [[1, "a"], ...]}``: a map whose keys are not all strings, or that would itself read as one of these forms
- ``{"$ext": [5, "aGk="]}``: a msgpack extension value: its type (-1 is a timestamp) and its data
"""

import base64
import binascii
import json
from math import isfinite, isnan
from typing import Any, Final

_FORMS: Final = frozenset({"$bytes", "$float", "$map", "$ext"})
_FLOATS: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def to_json(value: Any) -> Any:
    """A payload value (what `busproto.envelope.unpack` returns) as a value that ``json.dumps`` writes without loss."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is dict:
        if all(type(key) is str for key in value) and not (len(value) == 1 and _FORMS.issuperset(value)):
            return {key: to_json(item) for key, item in value.items()}
        return {"$map": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if kind is list:
        return [to_json(item) for item in value]
    if kind is float:
        return value if isfinite(value) else {"$float": _float_name(value)}
    if kind is bytes or kind is memoryview or kind is bytearray:
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    return _ext_to_json(value)


def _float_name(value: float) -> str:
    if isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _ext_to_json(value: Any) -> Any:
    """ExtType and Timestamp, the only other values that msgpack makes."""
    import msgpack

    code, data = (-1, value.to_bytes()) if type(value) is msgpack.Timestamp else value
    return {"$ext": [code, base64.b64encode(data).decode("ascii")]}


def from_json(value: Any) -> Any:
    """A payload value from what ``json.loads`` returned. Raises ValueError for a form that is not complete."""
    if type(value) is list:
        return [from_json(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1 and _FORMS.issuperset(value):
        ((form, content),) = value.items()
        return _READERS[form](content)
    return {key: from_json(item) for key, item in value.items()}


def _read_bytes(content: Any) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError('{"$bytes": ...} takes base64 text') from None


def _read_float(content: Any) -> float:
    if not isinstance(content, str) or content not in _FLOATS:
        raise ValueError('{"$float": ...} takes "NaN", "Infinity" or "-Infinity"')
    return _FLOATS[content]


def _read_map(content: Any) -> dict[Any, Any]:
    try:
        pairs = [(from_json(key), from_json(item)) for key, item in map(_pair, content)]
        return dict(pairs)
    except TypeError:
        raise ValueError('{"$map": ...} takes a list of [key, value] whose keys are no lists or maps') from None


def _pair(content: Any) -> Any:
    if type(content) is not list or len(content) != 2:
        raise TypeError
    return content


def _read_ext(content: Any) -> Any:
    import msgpack

    if type(content) is list and len(content) == 2 and type(content[0]) is int and -1 <= content[0] <= 127:
        code, data = content[0], _read_bytes(content[1])
        return msgpack.ExtType(code, data) if code >= 0 else msgpack.Timestamp.from_bytes(data)
    raise ValueError('{"$ext": ...} takes [type from -1 to 127, base64 text]')


_READERS: Final = {"$bytes": _read_bytes, "$float": _read_float, "$map": _read_map, "$ext": _read_ext}


def _not_json(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse(text: str) -> Any:
    """The payload that someone typed.

    JSON text is that value. Other text is a string, unless it begins like a JSON object, list or string: a missing
    bracket must not turn a map into text. Empty text is None.

    Raises:
        ValueError: it begins like JSON and is not, or is one of the forms above and not complete.
    """
    stripped = text.strip()
    if not stripped:
        return None
    try:
        value = json.loads(stripped, parse_constant=_not_json)
    except ValueError as error:
        if stripped[0] in '{["':
            raise ValueError(f"it begins like JSON and is not: {error}") from None
        return text.removesuffix("\n")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return from_json(value)
