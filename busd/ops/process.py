"""The node as a process: logging, event loop, signals, and one line at start and one at stop."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final, NoReturn, Protocol

from busd.ops.eventloop import choose, factory
from busd.ops.keys import Config
from busd.ops.logs import LogLimiter, configure, event
from busd.ops.status import NodeStatistics, Observed
from busd.ops.systemd import ServiceManager

__all__ = ["STOP_MARGIN", "Runnable", "run"]

STOP_MARGIN: Final = 15.0
"""Seconds beyond the grace that a node has to stop: its components have 8 of them. Then the process ends anyway."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ends the node. SIGHUP is the terminal going away: there is nothing to reload yet."""

_log = logging.getLogger("busd")


class Runnable(Observed, Protocol):
    """What this module needs of a node."""

    async def start(self) -> None:
        """Open everything. Raises BusError, and then nothing is left open."""
        ...

    async def stop(self) -> None:
        """Close the listeners, drain within the grace, close everything."""
        ...

    def stuck_seconds(self) -> float:
        """Since the loop's timers ran last."""
        ...


def run(config: Config, make: Callable[[Config], Runnable]) -> int:
    """Run the node that ``make`` makes until a signal ends it. Returns the process's exit status.

    Raises:
        BusError: the node could not start.
    """
    configure(config.log.level, config.log.format)
    with (
        closing(ServiceManager(os.environ)) as manager,
        asyncio.Runner(loop_factory=factory(choose(config.loop))) as runner,
    ):
        return runner.run(_serve(config, make, manager))


async def _serve(config: Config, make: Callable[[Config], Runnable], manager: ServiceManager) -> int:
    faults = LogLimiter(_log)
    _report_faults(faults)
    ended = _on_signals()
    node = make(config)
    await node.start()
    _log_start(config, node.statistics())
    manager.ready(node.statistics, node.stuck_seconds)
    number = await ended
    asked = time.monotonic()
    manager.stopping(config.drain.grace_seconds + STOP_MARGIN)
    try:
        async with asyncio.timeout(config.drain.grace_seconds + STOP_MARGIN):
            await node.stop()
    except TimeoutError:
        event(_log, logging.ERROR, "stop-overdue", signal=number.name, seconds=time.monotonic() - asked)
        return 1
    finally:
        faults.flush()
    statistics = node.statistics()
    event(
        _log,
        logging.INFO,
        "stopped",
        signal=number.name,
        uptime_seconds=round(statistics.uptime_seconds, 3),
        drain_seconds=round(time.monotonic() - asked, 3),
        audit=_audit_end(statistics),
    )
    return 0


def _on_signals() -> "asyncio.Future[signal.Signals]":
    """A future that the first signal completes. The second one ends the process at once."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[signal.Signals] = loop.create_future()

    def received(number: signal.Signals) -> None:
        if ended.done():
            _end_at_once(number)
        ended.set_result(number)

    for number in SIGNALS:
        loop.add_signal_handler(number, received, number)
    return ended


def _end_at_once(number: signal.Signals) -> NoReturn:
    """End without cleaning up. The kernel releases the lock; the next start replaces the stale socket."""
    event(_log, logging.WARNING, "ended-at-once", signal=number.name)
    logging.shutdown()
    os._exit(128 + number)


def _log_start(config: Config, statistics: NodeStatistics) -> None:
    wanted = config.limits.endpoints
    if statistics.endpoints_limit < wanted:
        event(
            _log,
            logging.WARNING,
            "descriptors-short",
            wanted=wanted,
            endpoints=statistics.endpoints_limit,
            descriptors=statistics.descriptors.soft,
            cure="raise the hard limit of open files (LimitNOFILE=, ulimit -Hn), or lower limits.endpoints",
        )
    event(
        _log,
        logging.INFO,
        "started",
        version=statistics.version,
        node=statistics.node,
        pid=statistics.pid,
        socket=statistics.addresses.get("host"),
        http=statistics.addresses.get("http", "off"),
        endpoints=statistics.endpoints_limit,
        loop=statistics.loop,
        audit=_audit_end(statistics),
    )


def _audit_end(statistics: NodeStatistics) -> str:
    """The end of the audit, ``SEQ:HASH``: noted in another log, which whoever rewrites the audit must rewrite too."""
    return "off" if statistics.audit is None else f"{statistics.audit.seq}:{statistics.audit.head}"


def _report_faults(limiter: LogLimiter) -> None:
    """Log what no task caught: a bug of busd. Once each minute and place, for a peer may be able to repeat it."""

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        place = _place(error) if error is not None else ""
        limiter.event(
            logging.ERROR,
            "internal-error",
            by=(context.get("message"), type(error).__name__, place),
            what=context.get("message"),
            error=repr(error) if error is not None else None,
            place=place or None,
        )

    asyncio.get_running_loop().set_exception_handler(report)


def _place(error: BaseException) -> str:
    """Innermost file and line of ``error``."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
