"""The configuration shown to people: in effect, key by key, and as a commented example file."""

import json
import textwrap

from busd.ops.config import unknown_key
from busd.ops.keys import DEFAULT, KEYS, Computed, Config, Key
from busproto.errors import BusError

__all__ = ["by_section", "example", "explain", "find", "show", "show_json"]

_WIDTH = 110


def find(name: str) -> Key:
    """The key called ``name``; its variable and its flag are understood too.

    Raises:
        BusError: CONFIG_UNKNOWN_KEY.
    """
    for key in KEYS.values():
        if name in (key.name, key.variable, key.flag):
            return key
    raise unknown_key(name, KEYS, where="")


def explain(key: Key, current: Config | BusError) -> str:
    """All there is to know about ``key``; ``current`` is the configuration, or why there is none."""
    if isinstance(current, BusError):
        value = f"unknown: the configuration is not valid ({current})"
    else:
        value = f"{key.kind.show(current.value(key.name))} ({current.origin(key.name)})"
    rows = {
        "takes": key.kind.takes,
        "default": key.default_text,
        "why": key.why,
        "value": value,
        "file": f"[{key.section}] {key.field}" if key.section else key.field,
        "variable": key.variable,
        "flag": key.flag,
        "takes effect": "when busd starts",
    }
    width = max(map(len, rows)) + 2
    return "\n".join([key.name, *_wrapped(key.meaning, "  "), "", *(f"  {k:<{width}}{v}" for k, v in rows.items())])


def show(config: Config, *, origin: bool) -> str:
    """The configuration in effect as TOML that busd would read; with ``origin``, each value's source beside it."""
    lines: list[tuple[str, str]] = []
    for section, keys in by_section().items():
        if section:
            lines += [("", ""), (f"[{section}]", "")]
        lines += [
            (f"{key.field} = {key.kind.show(config.value(key.name))}", str(config.origin(key.name))) for key in keys
        ]
    width = max(len(text) for text, _ in lines)
    return "\n".join(f"{text:<{width}}  # {where}" if origin and where else text for text, where in lines)


def show_json(config: Config, *, origin: bool) -> str:
    """The configuration in effect as one JSON object: key to value, or to value and origin."""
    values = {name: _plain(config.value(name)) for name in KEYS}
    if not origin:
        return json.dumps(values, indent=2)
    return json.dumps(
        {name: {"value": value, "origin": str(config.origin(name))} for name, value in values.items()}, indent=2
    )


def changed(config: Config) -> dict[str, str]:
    """Where each value came from that is not the default. No values: a page that shows this can leak none."""
    return {name: str(origin) for name, origin in config.origins.items() if origin != DEFAULT}


def example() -> str:
    """A configuration file that names every key with its default, meaning and reason, all commented out."""
    blocks = [
        "# busd configuration: every key, with its default. Written by `busd config example`.\n#\n"
        "# Precedence: defaults < /etc/busd/busd.toml (root) or $XDG_CONFIG_HOME/busd/busd.toml < conf.d/*.toml\n"
        "# beside it < BUSD_* environment < flags. `busd check-config` tests a file, and\n"
        "# `busd config show --origin` says what came from where."
    ]
    for section, keys in by_section().items():
        if section:
            blocks.append(f"[{section}]")
        blocks += [_example_entry(key) for key in keys]
    return "\n\n".join(blocks) + "\n"


def _example_entry(key: Key) -> str:
    computed = isinstance(key.default, Computed)
    shown = key.kind.show(key.default.example if computed else key.default)
    notes = [key.meaning, f"Takes {key.kind.takes}.", f"Why: {key.why}"]
    if computed:
        notes.append(f"Default: {key.default_text}.")
    return "\n".join([line for note in notes for line in _wrapped(note, "# ")] + [f"#{key.field} = {shown}"])


def by_section() -> dict[str, list[Key]]:
    """The keys of each table, those outside any first, as TOML needs them."""
    sections: dict[str, list[Key]] = {}
    for key in KEYS.values():
        sections.setdefault(key.section, []).append(key)
    return sections


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _plain(value: object) -> object:
    """``value`` as JSON has it."""
    if isinstance(value, (bool, int, float, str)):
        return value
    return list(value) if type(value) is tuple else str(value)
