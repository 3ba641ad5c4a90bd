"""A component's settings: the file ``NAME.toml`` of an operator, or what is shipped.

source = "acme.parts:Gauge"      # module:Class, or the name of a component that is shipped; default: NAME
path = ["/opt/acme/python"]      # where its modules are, if not where busd's are

[config]                         # what its constructor takes
interval = 0.5

[budget]                         # instead of its manifest's
memory_bytes = 104857600
cpu_percent = 50

[restarts]
limit = 5                        # within 60 s; 0: never
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from busd.components.shipped import SHIPPED
from busd.components.supervisor.reading import explain
from busproto.errors import BusError, Code
from busproto.subjects import check_name

__all__ = ["MAX_RESTARTS", "Settings", "known", "nearest", "read_settings", "source_of", "with_source"]

MAX_RESTARTS: Final = 5
"""Within 60 s, unless the file says otherwise."""

FILE_BYTES: Final = 1 << 20
"""Of a settings file; longer ones are not read."""

_SOURCE: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a component is run."""

    name: str
    source: str
    """``module:Class``."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What its constructor takes."""
    path: tuple[str, ...] = ()
    """Directories of modules, before those of busd's own Python."""
    memory_bytes: int | None = None
    """Its budget, if not the manifest's."""
    cpu_percent: float | None = None
    """Of one core; its budget, if not the manifest's."""
    max_restarts: int = MAX_RESTARTS
    """Within 60 s."""
    file: Path | None = None
    """Where this was read; None for what is shipped."""


class _Budget(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    memory_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] | None = None
    cpu_percent: Annotated[float, msgspec.Meta(gt=0, le=100_000)] | None = None


class _Restarts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=0, le=1000)] = MAX_RESTARTS


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    source: str | None = None
    path: list[str] = []
    config: dict[str, Any] = {}
    budget: _Budget = _Budget()
    restarts: _Restarts = _Restarts()


def known(folder: Path | None) -> list[str]:
    """Names of the components that have settings: the files of ``folder``, and what is shipped."""
    files = [] if folder is None else [path.stem for path in folder.glob("*.toml") if check_name(path.stem) is None]
    return sorted({*files, *SHIPPED})


def read_settings(name: str, folder: Path | None) -> Settings:
    """The settings of component ``name``: from ``NAME.toml`` in ``folder`` if that is there, else as shipped.

    Raises:
        BusError: COMPONENT_UNKNOWN, there are none, with the nearest name; CONFIG_INVALID, the file cannot be read or a
            key of it is not acceptable: it names both.
    """
    if reason := check_name(name):
        raise BusError(Code.CONFIG_INVALID, key="components", where="", reason=f"{name[:80]!a}: the name {reason}")
    file = None if folder is None else folder / f"{name}.toml"
    if file is not None:
        try:
            data = _read(file)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _invalid(file, "", error.strerror or str(error)) from None
        else:
            return _settings(name, file, data)
    if name not in SHIPPED:
        raise BusError(Code.COMPONENT_UNKNOWN, component=name, nearest=nearest(name, known(folder)))
    return Settings(name=name, source=SHIPPED[name])


def nearest(name: str, names: Iterable[str]) -> str:
    """That of ``names`` that ``name`` was most likely meant to be; empty if there are none."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)), "")


def with_source(settings: Settings, source: str) -> Settings:
    """``settings`` with another ``source``: a class, or what is shipped. Raises BusError COMPONENT_INVALID."""
    found = source_of(source)
    if found is None:
        raise BusError(
            Code.COMPONENT_INVALID,
            source=repr(source[:80]),
            reason="it is neither module:Class nor the name of a component that is shipped",
        )
    return replace(settings, source=found)


def source_of(text: str) -> str | None:
    """``module:Class`` for that, or for the name of a component that is shipped; None if ``text`` is neither."""
    if text in SHIPPED:
        return SHIPPED[text]
    return text if len(text) <= 256 and _SOURCE.fullmatch(text) else None


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(FILE_BYTES + 1)
    if len(data) > FILE_BYTES:
        raise _invalid(file, "", f"it is longer than {FILE_BYTES} bytes")
    return data


def _settings(name: str, file: Path, data: bytes) -> Settings:
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(file, "", f"this is not TOML: {error}") from None
    try:
        read = msgspec.convert(table, _File)
    except msgspec.ValidationError as error:
        raise _wrong_key(file, str(error)) from None
    source = source_of(read.source if read.source is not None else name)
    if source is None and read.source is None:
        raise _invalid(file, "source", f"is missing, and no component '{name}' is shipped: give module:Class")
    if source is None:
        raise _invalid(file, "source", f"{str(read.source)[:80]!a} is neither module:Class nor a component's name")
    for index, folder in enumerate(read.path):
        if not folder or os.pathsep in folder:
            raise _invalid(file, f"path[{index}]", f"{folder[:80]!a} is not one directory")
    return Settings(
        name=name,
        source=source,
        config=read.config,
        path=tuple(str(file.parent / folder) for folder in read.path),
        memory_bytes=read.budget.memory_bytes,
        cpu_percent=read.budget.cpu_percent,
        max_restarts=read.restarts.limit,
        file=file,
    )


def _wrong_key(file: Path, text: str) -> BusError:
    key, reason = explain(text)
    return _invalid(file, key, reason)


def _invalid(file: Path, key: str, reason: str) -> BusError:
    where = f" in {file}" if key else f" ({file})"
    return BusError(Code.CONFIG_INVALID, key=key or file.name, where=where, reason=reason)
