"""What a node says of its process and its folders in ``$bus.stats``: what ``bus top`` and ``bus check --doctor`` read.

The bus itself knows no process, no disk and no clock; so whoever runs it hangs this beside its figures.
"""

from pathlib import Path
from typing import Any

from busd.ops.keys import Config
from busd.ops.status import NodeStatistics, document

__all__ = ["facts"]

SAID: tuple[str, ...] = (
    "version",
    "protocol",
    "python",
    "pid",
    "state",
    "uptime_seconds",
    "addresses",
    "endpoints_limit",
    "throttled",
    "descriptors",
    "policy",
    "audit",
    "degraded",
)
"""Fields of `NodeStatistics` that are said as they are."""


def facts(node: NodeStatistics, config: Config, *, clock_step: float) -> dict[str, Any]:
    """The facts of ``node``. ``clock_step`` is by how many seconds the wall clock was set since the node started."""
    return {
        **{name: document(getattr(node, name)) for name in SAID},
        "lag": {
            "last_seconds": node.lag.last_seconds,
            "peak_seconds": node.lag.peak_seconds,
            "age_seconds": node.lag.age_seconds,
        },
        "endpoints_wanted": config.limits.endpoints,
        "clock_step_seconds": clock_step,
        "folders": {name: None if path is None else str(path) for name, path in _folders(config).items()},
    }


def _folders(config: Config) -> dict[str, Path | None]:
    """Where the node keeps what: None where it keeps none of it."""
    return {
        "run": config.run_dir,
        "audit": config.audit.dir,
        "keys": config.soc.keys_dir,
        "policy": config.policy.dir,
        "components": config.component.dir,
    }
