"""busd: a ZeroMQ message-bus broker for one node. Rooms: core, edge, ops, components; `node` puts them together."""

from typing import Final

__version__: Final = "0.1.0"
