"""Loading the configuration: defaults < file < conf.d/*.toml beside it < environment < flags.

The keys themselves are in ``busd.ops.keys``. A value is never guessed at: an unknown key is refused with the nearest
known one (7001), a wrong type or range with key, place and reason (7002), wherever it came from.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from busd.ops.configdir import config_dir
from busd.ops.keys import DEFAULT, KEYS, SECTIONS, Config, Origin, assemble
from busproto.errors import BusError, Code
from busproto.limits import FRAME_BYTES, PAYLOAD_BYTES

__all__ = [
    "Config",
    "Setting",
    "default_config_file",
    "from_environment",
    "from_file",
    "from_program",
    "load",
    "resolve",
]

CONFIG_VARIABLE: Final = "BUSD_CONFIG"
"""Names the configuration file, as ``--config`` does."""

_VARIABLES: Final = {key.variable: key for key in KEYS.values()}

_SERVICE_LINK: Final = re.compile(
    r"BUSD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)"
)
"""Variables that Kubernetes puts into every pod when a Service is called busd or busd-*. Not ours."""

_TESTS: Final = frozenset(
    {
        "BUSD_REQUIRE_ALL",
        "BUSD_FUZZ_SECONDS",
        "BUSD_FUZZ_SEED",
        "BUSD_MODEL_EXAMPLES",
        "BUSD_MODEL_STEPS",
        "BUSD_SOAK_SECONDS",
    }
)
"""Variables of the project's tests, which start real nodes in their own environment. No keys."""


_ENVELOPE_BYTES: Final = FRAME_BYTES - PAYLOAD_BYTES
"""Room that the protocol leaves around the largest payload."""


class Setting(NamedTuple):
    """One value as it was written somewhere."""

    key: str
    raw: object
    origin: Origin


def load(
    *, config_file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> Config:
    """The configuration that applies: every source read, in the order of precedence.

    Args:
        config_file: from ``--config``; must exist. Without it $BUSD_CONFIG, and without that the user's default file,
            which may be absent.
        environ: the environment; the process's own by default.
        flags: text of each flag that was given, by key.

    Raises:
        BusError: CONFIG_UNKNOWN_KEY or CONFIG_INVALID.
    """
    environ = os.environ if environ is None else environ
    if config_file is None and environ.get(CONFIG_VARIABLE):
        config_file = Path(environ[CONFIG_VARIABLE])
    settings: list[Setting] = []
    for path in _files(config_file, environ):
        settings += from_file(path)
    settings += from_environment(environ)
    settings += [Setting(name, raw, Origin("flag", KEYS[name].flag)) for name, raw in (flags or {}).items()]
    return resolve(settings, environ)


def resolve(settings: Iterable[Setting], environ: Mapping[str, str] | None = None) -> Config:
    """Settings over defaults, a later one over an earlier one, each checked even if it is overridden.

    Raises:
        BusError: CONFIG_UNKNOWN_KEY or CONFIG_INVALID.
    """
    environ = os.environ if environ is None else environ
    values = {key.name: key.default_value(environ) for key in KEYS.values()}
    origins = dict.fromkeys(KEYS, DEFAULT)
    for name, raw, origin in settings:
        if name in SECTIONS:
            raise _invalid(name, origin, f"is a table of keys: write [{name}] on a line of its own")
        key = KEYS.get(name)
        if key is None:
            raise unknown_key(name, KEYS, where=_where(origin))
        try:
            values[name] = key.kind.read(raw, text=origin.source in ("environment", "flag"))
        except ValueError as error:
            raise _invalid(name, origin, str(error)) from None
        origins[name] = origin
    if values["run_dir"] != KEYS["run_dir"].default_value(environ):
        for name, folder in (("audit.dir", "audit"), ("soc.keys_dir", "keys")):
            if origins[name] == DEFAULT:
                values[name] = values["run_dir"] / folder
    _check_together(values, origins)
    return assemble(values, origins)


def from_program(values: Mapping[str, object], where: str = "") -> list[Setting]:
    """Settings made by a program, such as a test: ``{"run_dir": str(path), "http.listen": "off"}``."""
    return [Setting(name, raw, Origin("program", where)) for name, raw in values.items()]


def from_environment(environ: Mapping[str, str]) -> list[Setting]:
    """Settings in ``BUSD_*`` variables.

    Raises:
        BusError: CONFIG_UNKNOWN_KEY, for a variable that is nobody's.
    """
    settings = []
    for variable, raw in sorted(environ.items()):
        if not variable.startswith("BUSD_") or variable == CONFIG_VARIABLE or _SERVICE_LINK.fullmatch(variable):
            continue
        if variable in _TESTS:
            continue
        if variable not in _VARIABLES:
            raise unknown_key(variable, _VARIABLES, where=" in the environment")
        settings.append(Setting(_VARIABLES[variable].name, raw, Origin("environment", variable)))
    return settings


def from_file(path: Path) -> list[Setting]:
    """Settings in the TOML file ``path``.

    Raises:
        BusError: CONFIG_INVALID: it cannot be read or is not TOML, or a table is something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise _invalid(f"configuration file {path}", None, f"cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise _invalid(f"configuration file {path}", None, f"is not TOML: {error}") from None
    lines = _lines(text)
    return [
        Setting(name, raw, Origin("file", f"{path}:{lines[name]}" if name in lines else str(path)))
        for name, raw in _flatten(document)
    ]


def default_config_file(environ: Mapping[str, str]) -> Path | None:
    """The file that is read when none is named: the system's for root, the user's else; it may be absent."""
    directory = config_dir(environ)
    return None if directory is None else directory / "busd.toml"


def unknown_key(name: str, known: Iterable[str], *, where: str) -> BusError:
    """The refusal of ``name``, with the nearest of ``known``."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return BusError(Code.CONFIG_UNKNOWN_KEY, key=name, where=where, nearest=nearest[0])


def _files(named: Path | None, environ: Mapping[str, str]) -> Iterator[Path]:
    """The files to read, in order."""
    main = named or default_config_file(environ)
    if main is None:
        return
    if named is not None or main.exists():
        yield main
    yield from sorted((main.parent / "conf.d").glob("*.toml"))


def _flatten(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """``(dotted name, value)`` of a document. A table where none belongs stays one, to be refused."""
    for name, value in document.items():
        if isinstance(value, dict) and (name in SECTIONS or (value and name not in KEYS)):
            yield from ((f"{name}.{leaf}", item) for leaf, item in value.items())
        else:
            yield name, value


_HEADER: Final = re.compile(r"\s*\[\s*([\w-]+)\s*\]")
_ASSIGNMENT: Final = re.compile(r"\s*([\w-]+(?:\s*\.\s*[\w-]+)?)\s*=")


def _lines(text: str) -> dict[str, int]:
    """The line of each key, for messages. tomllib keeps none, so this reads plain headers and assignments."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = header[1] + "."
            lines.setdefault(header[1], number)
        elif assignment := _ASSIGNMENT.match(line):
            lines.setdefault(section + re.sub(r"\s", "", assignment[1]), number)
    return lines


def _check_together(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> None:
    """Refuse values that are each in range and together cannot work."""
    payload, outbox = values["limits.max_payload"], values["limits.outbox_bytes"]
    if outbox < payload + _ENVELOPE_BYTES:
        blamed = "limits.outbox_bytes" if origins["limits.outbox_bytes"] != DEFAULT else "limits.max_payload"
        reason = (
            f"an outbox of {outbox} bytes could never take a payload of limits.max_payload, {payload} bytes, "
            f"in its envelope, up to {_ENVELOPE_BYTES} bytes"
        )
        raise _invalid(blamed, origins[blamed], reason)


def _where(origin: Origin) -> str:
    return (" in " if origin.source == "file" else " from ") + (origin.where or origin.source)


def _invalid(key: str, origin: Origin | None, reason: str) -> BusError:
    return BusError(Code.CONFIG_INVALID, key=key, where="" if origin is None else _where(origin), reason=reason)
