"""The deletion component's configuration: what stands in its file, and what is made of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from busd.components.deletion.manifest import is_tenant
from busd.components.deletion.request import Amount
from busd.components.deletion.roots import NODE, Roots, RootSettings
from busproto.errors import BusError, Code

__all__ = ["FilterText", "RootConfig", "open_roots", "root_settings"]

KEY: Final = "config of component 'deletion'"
"""How errors begin, as those do that are found before the component is made."""

Text = Annotated[str, msgspec.Meta(max_length=1024)]


class RootConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One directory below which deletion is allowed.

    Attributes:
        id: its name: a-z, 0-9, - and _, at most 64.
        path: absolute, without links, "." or "..".
        tenants: who may delete below it, besides the node. Empty: the node only.
        min_depth: names that a path below it has at least; at 2, nobody deletes what lies in the root directly.
        one_file_system: whether what is mounted below stays out of reach.
        max_entries, max_bytes: that one job may remove, or free; None: any number.
        chmod: whether a directory without the rights may be given mode 0700 to empty it.
    """

    id: str
    path: str
    tenants: list[str] = []
    min_depth: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    one_file_system: bool = True
    max_entries: Amount | None = None
    max_bytes: Amount | None = None
    chmod: bool = False


class FilterText(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What has to be true of a file for it to go, as a program or a person writes it.

    Attributes:
        older_than: seconds, or text as "36h" (s, m, h, d, w): since it was last read, written or changed in any way.
        glob: on the path below the job's; bytes or text.
        larger_than, smaller_than: bytes, or text as "10M" (k, M, G, T, P; Ki, Mi, ... for powers of 1024).
        owner: number or name of a user.
        types: of file, link, fifo, socket, device; a list, or text with commas. None: file, link and fifo.
    """

    older_than: float | Text | None = None
    glob: Any = None  # no type can be either bytes or text
    larger_than: int | Text | None = None
    smaller_than: int | Text | None = None
    owner: int | Text | None = None
    types: list[Text] | Text | None = None


def root_settings(roots: Sequence[RootConfig], *, personal: bool = False) -> list[RootSettings]:
    """``roots`` as the library has them; ``personal`` ones may be this user's home.

    Raises ValueError that begins with the key at fault (``roots[2].path``).
    """
    made: list[RootSettings] = []
    ids: dict[str, int] = {}
    for number, root in enumerate(roots):
        key = f"roots[{number}]"
        if not Path(root.path).is_absolute():
            raise ValueError(f"{key}.path: it must be absolute")
        for tenant in root.tenants:
            if not is_tenant(tenant) or tenant == NODE:
                raise ValueError(f"{key}.tenants: {tenant[:80]!a} is no tenant; the node itself may use every root")
        if (before := ids.setdefault(root.id, number)) != number:
            raise ValueError(f"{key}.id: {root.id[:80]!a} is that of roots[{before}]")
        try:
            made.append(
                RootSettings(
                    id=root.id,
                    path=Path(root.path),
                    tenants=frozenset(root.tenants),
                    min_depth=root.min_depth,
                    one_file_system=root.one_file_system,
                    max_entries=root.max_entries,
                    max_bytes=root.max_bytes,
                    chmod=root.chmod,
                    personal=personal,
                )
            )
        except BusError as error:  # the id: all else was checked by its type
            raise ValueError(f"{key}.id: {error.fields.get('reason', error.text)}") from None
    return made


def open_roots(settings: Sequence[RootSettings], protected: Sequence[Path]) -> Roots:
    """Open every root. Raises BusError 7002 that names the key at fault (``roots[2].path``) and says why."""
    try:
        return Roots.open(settings, protected)
    except BusError as error:
        if error.code != Code.CONFIG_INVALID:
            raise
        key, reason = str(error.fields.get("key", "")), str(error.fields.get("reason", ""))
        for number, each in enumerate(settings):
            if key == f"deletion root {each.id!r}":
                reason = f"roots[{number}].path: {reason}"
                break
        raise BusError(Code.CONFIG_INVALID, key=KEY, where="", reason=reason) from error
