"""What this busd is: its version and those of what it stands on."""

import platform
from dataclasses import dataclass
from importlib.metadata import version as _version

from busd import __version__
from busd.ops.eventloop import choose

__all__ = ["About", "about"]


@dataclass(frozen=True, slots=True)
class About:
    """Versions, for ``--version``, ``/statusz`` and bug reports."""

    version: str
    """Of busd."""
    protocol: int
    """Newest protocol version spoken."""
    python: str
    """Of the interpreter."""
    loop: str
    """Event loop that the default configuration takes, with its version."""
    libzmq: str
    """Of the library that terminates network links."""
    msgpack: str
    """Of the library that reads and writes envelopes."""

    def __str__(self) -> str:
        return (
            f"busd {self.version} (protocol {self.protocol}, Python {self.python}, {self.loop}, "
            f"libzmq {self.libzmq}, msgpack {self.msgpack})"
        )


def about() -> About:
    """Look the versions up. Loads libzmq."""
    import zmq

    from busproto.envelope import VERSION

    name = choose("auto")
    loop = f"uvloop {_version('uvloop')}" if name == "uvloop" else name
    return About(__version__, VERSION, platform.python_version(), loop, zmq.zmq_version(), _version("msgpack"))
