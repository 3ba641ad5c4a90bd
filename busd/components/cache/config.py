"""The cache component's configuration: what stands in its file, and what is made of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from busd.components.cache.rootkey import RootKey
from busd.components.cache.settings import CacheSettings, TenantSettings
from busproto.limits import PAYLOAD_BYTES
from busproto.subjects import check_name

__all__ = ["BYTES_LIMIT", "ROOM", "KeyConfig", "Mode", "TenantConfig", "check_key", "open_key", "shares", "within"]

Mode = Literal["sealed", "blind", "both"]
"""Who holds the keys: the worker; its clients, and the worker holds records that it cannot read; or each tenant as it
likes."""

BYTES_LIMIT: Final = 1 << 30
"""Of all quotas together, unless told otherwise: 16 of the usual ones. The budget leaves half as much beside it."""

ROOM: Final = 512
"""Bytes that a message has besides one value: the fields' names and numbers."""

_SOURCES: Final = ("file", "credential", "environment")


class KeyConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where the root key comes from: one of the first four.

    Attributes:
        file: absolute path: 32 raw bytes, 64 hex digits or base64, that only this user (or root) may read.
        credential: name of a systemd credential.
        environment: name of a variable, which is removed once it is read: a standby that serves twice finds none.
        generate: a random one that ends with the process. For development: nothing outside can have the same.
        check: the check value that it must have, 16 hex digits; empty: any.
    """

    file: str = ""
    credential: str = ""
    environment: str = ""
    generate: bool = False
    check: Annotated[str, msgspec.Meta(pattern="^([0-9a-fA-F]{16})?$")] = ""


class TenantConfig(TenantSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of one tenant that is named.

    Attributes:
        name: the tenant's.
    """

    name: str

    def share(self) -> TenantSettings:
        """The share, without whose it is."""
        return TenantSettings(**{field: getattr(self, field) for field in TenantSettings.__struct_fields__})


def check_key(key: KeyConfig, mode: Mode) -> None:
    """Raise ValueError that begins with the key at fault unless ``key`` says one source; in blind mode none."""
    given = [source for source in _SOURCES if getattr(key, source)] + (["generate"] if key.generate else [])
    if mode == "blind":
        if given or key.check:
            raise ValueError(
                f"key.{(given or ['check'])[0]}: in blind mode the clients hold the keys, and the worker none"
            )
    elif not given:
        raise ValueError(f"key: say where the root key is: one of {', '.join(_SOURCES)}, or generate for development")
    elif len(given) > 1:
        raise ValueError(f"key.{given[1]}: there is key.{given[0]} already")
    elif key.file and not Path(key.file).is_absolute():
        raise ValueError("key.file: it must be absolute")
    elif key.check and key.generate:
        raise ValueError("key.check: a key that is generated has another check value each time")


def open_key(key: KeyConfig) -> RootKey:
    """The root key. Raises BusError 9101 that says where it is and what is wrong with it."""
    check = key.check or None
    if key.file:
        return RootKey.from_file(key.file, check=check)
    if key.credential:
        return RootKey.from_credential(key.credential, check=check)
    if key.environment:
        return RootKey.from_environment(key.environment, check=check)
    return RootKey.generated(quiet=True)  # the component says so itself, where operators look


def shares(
    tenants: Sequence[TenantConfig],
    usual: "TenantSettings | Literal['off']",
    mode: Mode,
    *,
    tenants_limit: int,
    bytes_limit: int,
) -> CacheSettings:
    """The shares of all tenants. Raises ValueError that begins with the key at fault (``tenants[2].quota``)."""
    times = 2 if mode == "both" else 1  # a tenant has its share of values, and the same of records
    made: dict[str, TenantSettings] = {}
    promised = 0
    for number, tenant in enumerate(tenants):
        key = f"tenants[{number}]"
        if (reason := check_name(tenant.name)) is not None:
            raise ValueError(f"{key}.name: it {reason}")
        if tenant.name in made:
            before = next(index for index, each in enumerate(tenants) if each.name == tenant.name)
            raise ValueError(f"{key}.name: {tenant.name!r} is that of tenants[{before}]")
        promised += times * tenant.quota
        if promised > bytes_limit:
            raise ValueError(f"{key}.quota: with it {promised} bytes are given away; bytes_limit is {bytes_limit}")
        made[tenant.name] = tenant.share()
    if times * len(made) > tenants_limit:
        raise ValueError(f"tenants: they have {times * len(made)} shares; tenants_limit is {tenants_limit}")
    others = None if isinstance(usual, str) else usual
    if others is not None and others.quota > bytes_limit:
        raise ValueError(f"usual.quota: it is {others.quota}; bytes_limit is {bytes_limit}")
    return CacheSettings(tenants=made, usual=others, tenants_limit=tenants_limit, bytes_limit=bytes_limit)


def within(settings: CacheSettings, largest: int) -> CacheSettings:
    """``settings`` for values that travel in messages of ``largest`` bytes, at most `PAYLOAD_BYTES`: what could be
    stored and not be got is refused when it is stored.
    """
    most = max(1, min(largest, PAYLOAD_BYTES) - ROOM)

    def fitted(share: TenantSettings) -> TenantSettings:
        return msgspec.structs.replace(share, value_limit=min(share.value_limit, most))

    return msgspec.structs.replace(
        settings,
        tenants={name: fitted(share) for name, share in settings.tenants.items()},
        usual=None if settings.usual is None else fitted(settings.usual),
    )
