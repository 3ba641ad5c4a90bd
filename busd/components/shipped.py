"""The components that come with busd, by the names that the node, `attach` and `busd component run` take."""

from typing import Final

__all__ = ["SHIPPED"]

SHIPPED: Final[dict[str, str]] = {
    "cache": "busd.components.cache.component:EncryptedCache",
    "deletion": "busd.components.deletion.component:Deletion",
    "telemetry": "busd.components.telemetry.component:Telemetry",
}
"""``module:Class`` of each."""
