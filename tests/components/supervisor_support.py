"""What tests of the supervisor share: made statuses."""

from typing import Any

import msgspec

from busd.components.runner.status import Budget, Health, Status

INSTANCE = "0123456789ab"


def status(**fields: Any) -> Status:
    """A status of a toy that is ready, but for what ``fields`` say."""
    made: dict[str, Any] = {
        "instance": INSTANCE,
        "component": "toy",
        "version": "1",
        "owner": "tests",
        "purpose": "is watched",
        "source": "tests:Toy",
        "state": "ready",
        "reason": "",
        "stateful": False,
        "standby": False,
        "health": Health(ok=True),
        "pid": 4711,
        "seconds": 1.0,
        "memory_bytes": 1 << 20,
        "cpu_percent": 1.0,
        "budget": Budget(memory_bytes=256 << 20, cpu_percent=100.0),
        "placements": ["host", "soc"],
        "serves": ["toy.add"],
        "publishes": [],
        "operations": {},
    }
    return Status(**{**made, **fields})


def packed(**fields: Any) -> bytes:
    """The same, as it travels."""
    return msgspec.msgpack.encode(status(**fields))
