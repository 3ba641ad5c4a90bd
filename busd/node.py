"""The daemon as one object: core, edge and ops put together."""

import asyncio
import importlib
import logging
import os
import platform
from contextlib import AsyncExitStack
from typing import Final

from busd import __version__
from busd.components.launch import Worker, check_name, launch
from busd.core.bus import Bus
from busd.core.principal import BOUNDARIES
from busd.core.quotas import Quotas
from busd.edge.acceptor import BACKLOG, Acceptor
from busd.edge.admission import Admission
from busd.edge.connection import LINGER_SECONDS
from busd.edge.identity import host_principal
from busd.edge.pump import Pump, clock
from busd.ops.descriptors import Descriptors, raise_limit
from busd.ops.explain import changed
from busd.ops.keys import Config
from busd.ops.lag import LoopLag
from busd.ops.listen import HttpListener, open_listener
from busd.ops.logs import LogLimiter
from busd.ops.rundir import RunDirectory, bind_unix, remove_socket
from busd.ops.status import EdgeStatistics, NodeStatistics, State
from busproto.envelope import VERSION
from busproto.errors import BusError, Code

HOST_SOCKET_MODE: Final = 0o666
"""Whoever can reach the run directory may connect: the kernel says who it is, and policy what it may do."""

_log = logging.getLogger("busd")


class Node:
    """One bus, its listeners, its components, and what operators see of it. Runs once, on the loop it is started on."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._state = State.STARTING
        self._started = clock()
        self._faults = LogLimiter(_log)
        self._lag = LoopLag()
        self._workers: list[Worker] = []
        self._descriptors: Descriptors
        self._run_dir: RunDirectory
        self._admission: Admission
        self._acceptor: Acceptor
        self._pump: Pump
        self._http: HttpListener | None = None
        self._resources = AsyncExitStack()
        self.bus: Bus

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open everything, the way in for clients last. Raises BusError, and then nothing is left open."""
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._resources = stack.pop_all()
        self._state = State.READY

    async def _open(self, stack: AsyncExitStack) -> None:
        config = self.config
        for name in config.components:
            check_name(name)
        self._descriptors = raise_limit()
        self._run_dir = stack.enter_context(RunDirectory(config.run_dir))
        is_default = "http.listen" not in changed(config)
        self._http = open_listener(config.http.listen, is_default=is_default, run_dir=config.run_dir)
        if self._http is not None:
            stack.callback(self._http.close)
        self._lag.start()
        stack.callback(self._lag.stop)
        self.bus = Bus(node=config.node.name, software=f"busd/{__version__}", now=clock(), quotas=self._quotas())
        self._pump = Pump(self.bus, asyncio.get_running_loop(), busy_poll=config.busy_poll_us / 1e6)
        stack.callback(self._pump.stop)
        self._admission = Admission(
            self._pump,
            host_principal,
            boundary="host",
            connections_per_uid=config.limits.connections_per_uid,
            report=self._faults.fault,
        )
        stack.push_async_callback(self._admission.close, 2 * LINGER_SECONDS)
        listener = bind_unix(self._run_dir.socket_path, HOST_SOCKET_MODE, BACKLOG)
        self._acceptor = Acceptor(listener, self._admission)
        stack.callback(self._acceptor.stop)
        self._acceptor.start()
        if self._http is not None:
            # aiohttp takes longer to import than all of busd: beside the loop, for clients can attach by now.
            try:
                http = await asyncio.to_thread(importlib.import_module, "busd.ops.http")
            except ModuleNotFoundError as error:
                reason = f"{error.name} is not installed; install 'busd[node]', or set this to off"
                raise BusError(Code.CONFIG_INVALID, key="http.listen", where="", reason=reason) from None
            server = http.HttpServer(self._http, self)
            stack.push_async_callback(server.stop)
            await server.start()
        stack.push_async_callback(self._stop_workers)
        for name in config.components:
            self._workers.append(await launch(name, self.url))

    async def stop(self) -> None:
        """Let nobody in, tell everyone, let calls in flight finish within the grace, and close everything."""
        grace = self.config.drain.grace_seconds
        self._state = State.DRAINING
        self._acceptor.stop()
        remove_socket(self._run_dir.socket_path)
        self.bus.drain(grace)
        await self._pump.finish_calls(grace)
        await self._stop_workers()
        self.bus.shut(clock())
        self._pump.wake()
        await self._resources.aclose()
        self._faults.flush()
        self._state = State.STOPPED

    async def _stop_workers(self) -> None:
        workers, self._workers = self._workers, []
        await asyncio.gather(*(worker.stop() for worker in workers))

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The address that clients on this host attach to."""
        return f"unix://{self._run_dir.socket_path}"

    def statistics(self) -> NodeStatistics:
        """The figures of this moment."""
        addresses = {"host": self.url}
        if self._http is not None:
            addresses["http"] = self._http.url
        return NodeStatistics(
            node=self.config.node.name,
            version=__version__,
            protocol=VERSION,
            python=platform.python_version(),
            loop="uvloop" if type(asyncio.get_running_loop()).__module__.startswith("uvloop") else "asyncio",
            pid=os.getpid(),
            state=self._state,
            uptime_seconds=clock() - self._started,
            run_dir=str(self.config.run_dir),
            addresses=addresses,
            endpoints_limit=self.bus.quotas.endpoints,
            components={worker.name: _condition(worker) for worker in self._workers},
            bus=self.bus.statistics(),
            edge=self._edge_statistics(),
            lag=self._lag.statistics(),
            descriptors=self._descriptors,
            configured=changed(self.config),
        )

    def _edge_statistics(self) -> EdgeStatistics:
        host = self._admission.statistics()
        none = dict.fromkeys(BOUNDARIES, 0)
        return EdgeStatistics(
            accepted={**none, host.boundary: host.accepted},
            refused={(host.boundary, reason): count for reason, count in host.refused.items()},
            handshaking={**none, host.boundary: host.handshaking},
            held_bytes=host.held_bytes,
        )

    def _quotas(self) -> Quotas:
        limits = self.config.limits
        return Quotas(
            endpoints=self._descriptors.endpoints(limits.endpoints),
            subscriptions=limits.subscriptions,
            services=limits.services,
            calls=limits.calls_in_flight,
            held_calls=limits.calls_in_flight,
            outbox_bytes=limits.outbox_bytes,
            outbox_messages=limits.outbox_messages,
            max_payload=limits.max_payload,
            handshake_seconds=limits.handshake_seconds,
            frame_seconds=limits.frame_seconds,
            held_bytes=limits.held_bytes,
        )


def _condition(worker: Worker) -> str:
    status = worker.statistics().status
    return f"running (pid {worker.pid})" if status is None else f"ended with status {status}"
