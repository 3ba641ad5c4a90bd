"""A component as ``$bus.components`` shows it, and as figures."""

from typing import Any

from busd.components.supervisor.charge import Charge
from busd.components.supervisor.runners import Runner
from busd.components.supervisor.statistics import ComponentStatistics

__all__ = ["figures", "row_by_hand", "row_in_charge"]


def row_in_charge(charge: Charge) -> dict[str, Any]:
    """The row of a component that the supervisor runs, without those who stand by."""
    runner, worker, said, budget = charge.runner, charge.worker, charge.last, charge.budget
    running = runner.status if runner is not None else None
    state, reason = charge.state
    return {
        "component": charge.name,
        "version": said.version if said else "",
        "owner": said.owner if said else "",
        "purpose": said.purpose if said else "",
        "state": state,
        "reason": reason,
        "placement": charge.placement,
        "endpoint": runner.endpoint if runner else "",
        "instance": charge.instance,
        "pid": worker.pid if worker else running.pid if running else 0,
        "supervised": True,
        "source": charge.settings.source,
        "restarts": charge.restarts,
        "cut_off": charge.cut_off,
        "seconds": worker.seconds if worker else running.seconds if running else 0.0,
        "health": _health(runner, reason or f"it is {state}"),
        "memory_bytes": charge.usage.memory_bytes,
        "cpu_percent": charge.usage.cpu_percent,
        "budget": budget.row() if budget else {"memory_bytes": 0, "cpu_percent": 0.0},
        "serves": said.serves if said else [],
        "publishes": said.publishes if said else [],
        "placements": said.placements if said else [],
        "stateful": said.stateful if said else False,
        "operations": {name: total.row() for name, total in charge.totals.totals().items()},
        "log_lines": charge.output.ring.count,
    }


def row_by_hand(name: str, runner: Runner | None) -> dict[str, Any]:
    """The row of a component that is run by hand. ``runner`` is None while all there is of it stands by."""
    said = runner.status if runner is not None else None
    return {
        "component": name,
        "version": said.version if said else "",
        "owner": said.owner if said else "",
        "purpose": said.purpose if said else "",
        "state": said.state if said else "standby",
        "reason": said.reason if said else "",
        "placement": runner.placement if runner else "",
        "endpoint": runner.endpoint if runner else "",
        "instance": runner.instance if runner else "",
        "pid": said.pid if said else 0,
        "supervised": False,
        "source": said.source if said else "",
        "restarts": 0,
        "cut_off": 0,
        "seconds": said.seconds if said else 0.0,
        "health": _health(runner, "it stands by"),
        "memory_bytes": said.memory_bytes if said else 0,
        "cpu_percent": said.cpu_percent if said else 0.0,
        "budget": {
            "memory_bytes": said.budget.memory_bytes if said else 0,
            "cpu_percent": said.budget.cpu_percent if said else 0.0,
        },
        "serves": said.serves if said else [],
        "publishes": said.publishes if said else [],
        "placements": said.placements if said else [],
        "stateful": said.stateful if said else False,
        "operations": said.operations if said else {},
        "log_lines": 0,
    }


def figures(charge: Charge) -> ComponentStatistics:
    """The figures of a component that the supervisor runs."""
    state, reason = charge.state
    budget = charge.budget
    return ComponentStatistics(
        name=charge.name,
        state=state,
        reason=reason,
        placement=charge.placement,
        supervised=True,
        restarts=charge.restarts,
        cut_off=charge.cut_off,
        memory_bytes=charge.usage.memory_bytes,
        cpu_percent=charge.usage.cpu_percent,
        budget_memory_bytes=budget.memory_bytes if budget else 0,
        budget_cpu_percent=budget.cpu_percent if budget else 0.0,
        operations=charge.totals.totals(),
        log_lines=charge.output.ring.count,
        healthy=charge.runner is not None and charge.runner.status.health.ok,
        metrics=charge.metrics.totals(charge.instance),
        metrics_refused=charge.metrics.refused,
    )


def _health(runner: Runner | None, otherwise: str) -> dict[str, Any]:
    if runner is None:
        return {"ok": False, "detail": otherwise}
    return {"ok": runner.status.health.ok, "detail": runner.status.health.detail}
