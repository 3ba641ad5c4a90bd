"""An encrypting LRU cache that keeps tenants apart: keys, the sealed record, and the store of each tenant."""

from busd.components.cache.cache import Cache
from busd.components.cache.harden import Hardened, harden
from busd.components.cache.keyring import Keyring, TenantKeys
from busd.components.cache.mapping import CacheMapping
from busd.components.cache.rootkey import RootKey, RootKeyWarning
from busd.components.cache.security import SecurityEvent
from busd.components.cache.settings import CacheSettings, TenantSettings
from busd.components.cache.tenant import TenantCache

__all__ = [
    "Cache",
    "CacheMapping",
    "CacheSettings",
    "Hardened",
    "Keyring",
    "RootKey",
    "RootKeyWarning",
    "SecurityEvent",
    "TenantCache",
    "TenantKeys",
    "TenantSettings",
    "harden",
]
