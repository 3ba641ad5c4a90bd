"""The daemon as one object: core, edge and ops put together."""

import asyncio
import importlib
import logging
import os
import platform
import signal
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import zmq

from busd import __version__
from busd.components.supervisor import Supervisor
from busd.core.account import Rates
from busd.core.bus import Bus
from busd.core.policy import Policy
from busd.core.principal import BOUNDARIES
from busd.core.quotas import Quotas
from busd.core.statistics import BusStatistics
from busd.core.tokenbucket import TokenBucket
from busd.edge.acceptor import BACKLOG, Acceptor
from busd.edge.admission import Admission, AdmissionStatistics
from busd.edge.connection import LINGER_SECONDS
from busd.edge.curve import CurveListener
from busd.edge.curvestatistics import CurveStatistics
from busd.edge.endpoints import EndpointAdministration
from busd.edge.guests import Guests
from busd.edge.identity import host_principal
from busd.edge.inside import Inside
from busd.edge.keyadmin import KeyAdministration
from busd.edge.keyring import Keyring
from busd.edge.pump import Pump, clock
from busd.edge.vsock import VsockListener, listen_vsock
from busd.nodebroker import NodeBroker
from busd.nodecomponents import check_components, read_component, with_principal
from busd.nodeconsole import NodeServices
from busd.ops.address import TcpAddress
from busd.ops.auditwriter import AuditWriter, open_audit
from busd.ops.console.collector import Console
from busd.ops.descriptors import Descriptors, raise_limit
from busd.ops.explain import changed
from busd.ops.facts import facts
from busd.ops.garbage import Garbage
from busd.ops.keyfolder import KeyFolder
from busd.ops.keys import Config
from busd.ops.lag import LoopLag
from busd.ops.listen import HttpListener, open_listener
from busd.ops.logs import LogLimiter, event
from busd.ops.memory import Memory
from busd.ops.policyadmin import PolicyAdmin, read_policy
from busd.ops.rundir import RunDirectory, bind_unix, remove_socket
from busd.ops.status import EdgeStatistics, NodeStatistics, State
from busd.ops.unitsfile import UnitsFile
from busproto.envelope import VERSION
from busproto.errors import BusError, Code

HOST_SOCKET_MODE: Final = 0o666
"""Whoever can reach the run directory may connect: the kernel says who it is, and policy what it may do."""

CONNECTS_BURST_SECONDS: Final = 4.0
"""What a unit may connect at once, in seconds of its rate: all its agents come when it starts."""

NEWS: Final = frozenset({"guest-added", "guest-removed"})
"""Events of the edge that are nobody's fault."""

FAILURES: Final = frozenset({"component-failed"})
"""Events of components after which nothing is done any more until an operator does something."""

_log = logging.getLogger("busd")


class Node:
    """One bus, its listeners, its components, and what operators see of it. Runs once, on the loop it is started on."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._state = State.STARTING
        self._started = clock()
        self._started_at = time.time()
        self._faults = LogLimiter(_log)
        self._lag = LoopLag()
        self._supervisor: Supervisor
        self._unsupervised = ""
        self._descriptors: Descriptors
        self._run_dir: RunDirectory
        self._host: Admission
        self._acceptor: Acceptor
        self._guests: Guests
        self._soc: CurveListener | None = None
        self._keys: KeyAdministration
        self._pump: Pump
        self._inside: Inside
        self._policy: PolicyAdmin
        self._audit: AuditWriter | None = None
        self._http: HttpListener | None = None
        self._console: Console | None = None
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
        check_components(config)
        self._descriptors = raise_limit()
        self._run_dir = stack.enter_context(RunDirectory(config.run_dir))
        is_default = "http.listen" not in changed(config)
        self._http = open_listener(config.http.listen, is_default=is_default, run_dir=config.run_dir)
        if self._http is not None:
            stack.callback(self._http.close)
        self._lag.start()
        stack.callback(self._lag.stop)
        tenants = config.tenants
        self.bus = Bus(
            node=config.node.name,
            software=f"busd/{__version__}",
            policy=self._read_policy(),
            now=clock(),
            quotas=self._quotas(),
            owners=frozenset({0, os.geteuid()}),
            guest_rates=Rates(
                messages=tenants.messages_per_second,
                bytes=tenants.bytes_per_second,
                calls=tenants.calls_per_second,
                denials=tenants.denials_per_second,
                loop=tenants.loop_percent / 100,
            ),
            user_rates=Rates(denials=tenants.denials_per_second),
            require_manifest=config.manifest == "require",
            tenants=config.metrics.tenants,
        )
        self.bus.daemon = self._facts
        self._pump = Pump(self.bus, asyncio.get_running_loop(), busy_poll=config.busy_poll_us / 1e6)
        stack.callback(self._pump.stop)
        garbage = Garbage(lambda: self.bus.received_messages)
        garbage.start()
        stack.push_async_callback(garbage.stop)
        memory = Memory()
        memory.start()
        stack.push_async_callback(memory.stop)
        await self._open_audit(stack)
        self._open_host(stack)
        self._open_guests(stack)
        self._open_soc(stack)
        self._open_inside(stack)
        if self._http is not None:
            # aiohttp takes longer to import than all of busd: beside the loop, for clients can attach by now.
            try:
                http = await asyncio.to_thread(importlib.import_module, "busd.ops.http")
            except ModuleNotFoundError as error:
                reason = f"{error.name} is not installed; install 'busd[node]', or set this to off"
                raise BusError(Code.CONFIG_INVALID, key="http.listen", where="", reason=reason) from None
            self._console = Console(self, lambda: NodeServices(self.url))
            server = http.HttpServer(self._http, self, self._console)
            stack.push_async_callback(server.stop)
            await server.start()
        await self._start_components(stack)

    def _read_policy(self) -> Policy:
        """The policy on disk. One that is wrong denies what it would have governed, and is said aloud."""
        config = self.config
        try:
            policy = read_policy(config.policy.dir, named="policy.dir" in changed(config))
        except OSError as error:
            reason = f"{config.policy.dir}: {error.strerror or error}"
            raise BusError(Code.POLICY_INVALID, count=1, errors=reason) from None
        for problem in policy.errors:
            event(_log, logging.ERROR, "policy-error", where=problem.where, reason=problem.reason)
        return policy

    async def _open_audit(self, stack: AsyncExitStack) -> None:
        self._audit = await open_audit(self.config.audit, self.config.node.name, self.bus.audit, self._audit_failed)
        if self._audit is not None:
            stack.push_async_callback(self._audit.close)
        policy = self.bus.policy
        facts = {"software": self.bus.software, "policy": policy.source, "digest": policy.digest}
        self.bus.audit.system("broker-started", facts, clock())

    def _audit_failed(self) -> None:
        """A record cannot be written and the node must not go on without: end it as an operator would."""
        os.kill(os.getpid(), signal.SIGTERM)

    def _open_host(self, stack: AsyncExitStack) -> None:
        self._host = Admission(
            self._pump,
            host_principal,
            boundary="host",
            connections_per_uid=self.config.limits.connections_per_uid,
            report=self._report,
        )
        stack.push_async_callback(self._host.close, 2 * LINGER_SECONDS)
        listener = bind_unix(self._run_dir.socket_path, HOST_SOCKET_MODE, BACKLOG)
        self._acceptor = Acceptor(listener, self._host)
        stack.callback(self._acceptor.stop)
        self._acceptor.start()

    def _open_guests(self, stack: AsyncExitStack) -> None:
        tenants = self.config.tenants
        self._guests = Guests(
            self.bus,
            self._pump,
            UnitsFile(self.config.run_dir / "units.json"),
            report=self._report,
            connections=tenants.connections,
            connects=lambda: _connects(tenants.connects_per_second),
            vsock=self._open_vsock(),
        )
        stack.push_async_callback(self._guests.close, 2 * LINGER_SECONDS)
        self._guests.start()

    def _open_vsock(self) -> VsockListener | None:
        port = self.config.guests.vsock
        return VsockListener(listen_vsock(port), self._report) if port else None

    def _open_soc(self, stack: AsyncExitStack) -> None:
        """The network's way in, if there is to be one; keys can be enrolled without it."""
        config = self.config.soc
        folder = KeyFolder(config.keys_dir)
        keyring = Keyring(*folder.load())
        if isinstance(config.listen, TcpAddress):
            self._soc = CurveListener(
                self.bus, self._pump, keyring, str(config.listen), folder.secret(), report=self._report
            )
            stack.push_async_callback(self._soc.close, 2 * LINGER_SECONDS)
        self._keys = KeyAdministration(self.bus, self._pump, keyring, folder, self._soc, wall_clock=time.time)
        if self._soc is not None:
            self._soc.start()

    def _open_inside(self, stack: AsyncExitStack) -> None:
        config = self.config
        self._policy = PolicyAdmin(
            config.policy.dir,
            lambda: self.bus.policy,
            self._apply_policy,
            self.bus.find,
            named="policy.dir" in changed(config),
        )
        self._supervisor = Supervisor(
            self.url,
            NodeBroker(self.bus, self._pump),
            partial(read_component, config),
            config.components,
            report=self._report_component,
        )
        services = {
            **self._policy.services(),
            **self._guests.services(),
            **self._keys.services(),
            **EndpointAdministration(self.bus, self._pump).services(),
            **with_principal(self._supervisor.services()),
        }
        self._inside = Inside(self.bus, self._pump, services, self._report)
        stack.push_async_callback(self._inside.close)

    async def _start_components(self, stack: AsyncExitStack) -> None:
        """Keep components running from now on. A node that cannot has a bus all the same, and says so."""
        stack.push_async_callback(self._supervisor.stop)
        try:
            await self._supervisor.start()
        except (BusError, OSError) as error:
            self._unsupervised = str(error)
            cure = "let this node's user subscribe to component.> and $bus.endpoints.>, then restart busd"
            event(_log, logging.ERROR, "components-not-kept", reason=self._unsupervised, cure=cure)

    def _report(self, name: str, /, **fields: Any) -> None:
        """Log what the edge has to say: a fault of someone's, as often as is useful, or news."""
        if name in NEWS:
            event(_log, logging.INFO, name, **fields)
        else:
            self._faults.fault(name, **fields)

    def _report_component(self, name: str, /, **fields: Any) -> None:
        """Log what became of a component: each time for those that this node runs, else as often as is useful."""
        component = fields.get("component")
        ours = any(each.name == component for each in self._supervisor.statistics())
        by = tuple(fields.values()) if ours else (fields.get("boundary"), fields.get("unit"))
        self._faults.event(logging.ERROR if name in FAILURES else logging.WARNING, name, by=by, **fields)

    def _apply_policy(self, policy: Policy) -> int:
        withdrawn = self.bus.apply_policy(policy, clock())
        facts = {"policy": policy.source, "digest": policy.digest, "withdrawn": withdrawn}
        self.bus.audit.system("policy-applied", facts, clock())
        event(_log, logging.INFO, "policy-applied", **facts)
        self._pump.wake()
        return withdrawn

    async def stop(self) -> None:
        """Let nobody in, tell everyone, let calls in flight finish within the grace, and close everything."""
        grace = self.config.drain.grace_seconds
        self._state = State.DRAINING
        if self._console is not None:
            await self._console.close()  # its calls are no reason to wait
        self._acceptor.stop()
        self._guests.stop()
        if self._soc is not None:
            self._soc.stop()
        remove_socket(self._run_dir.socket_path)
        self.bus.drain(grace)
        await self._pump.finish_calls(grace)
        await self._supervisor.stop()
        self.bus.shut(clock())
        self.bus.audit.system("broker-stopped", {"software": self.bus.software}, clock())
        self._pump.wake()
        await self._resources.aclose()
        self._faults.flush()
        self._state = State.STOPPED

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The address that clients on this host attach to."""
        return f"unix://{self._run_dir.socket_path}"

    def stuck_seconds(self) -> float:
        """Since the loop's timers ran last: beyond a few tenths it is stuck."""
        return self._lag.age()

    def statistics(self) -> NodeStatistics:
        """The figures of this moment."""
        addresses = {"host": self.url}
        if self._http is not None:
            addresses["http"] = self._http.url
        if self._soc is not None:
            addresses["soc"] = self._soc.url
        bus = self.bus.statistics()
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
            components={component.name: component for component in self._supervisor.statistics()},
            bus=bus,
            throttled=self.bus.throttled(clock()),
            policy=self._policy.statistics(),
            edge=self._edge_statistics(bus),
            lag=self._lag.statistics(),
            descriptors=self._descriptors,
            configured=changed(self.config),
            audit=None if self._audit is None else self._audit.statistics(),
            soc=None if self._soc is None else self._soc.statistics(),
            libzmq=zmq.zmq_version(),
            unsupervised=self._unsupervised or self._supervisor.unheard,
        )

    def _facts(self) -> dict[str, Any]:
        step = (time.time() - self._started_at) - (clock() - self._started)
        return facts(self.statistics(), self.config, clock_step=step)

    def _edge_statistics(self, bus: BusStatistics) -> EdgeStatistics:
        handshaking = {boundary: each.handshaking for boundary, each in bus.boundaries.items()}
        held = {boundary: each.held_bytes for boundary, each in bus.boundaries.items()}
        ways: list[AdmissionStatistics | CurveStatistics] = [self._host.statistics(), self._guests.statistics()]
        if self._soc is not None:
            soc = self._soc.statistics()
            ways.append(soc)
            # What holds bytes, or says nothing, there need not be a session yet: libzmq takes it in.
            handshaking["soc"], held["soc"] = soc.handshaking, soc.held_bytes
        none = dict.fromkeys(BOUNDARIES, 0)
        return EdgeStatistics(
            accepted={**none, **{way.boundary: way.accepted for way in ways}},
            refused={(way.boundary, reason): count for way in ways for reason, count in way.refused.items()},
            handshaking=handshaking,
            held_bytes=held,
        )

    def _quotas(self) -> Quotas:
        limits = self.config.limits
        return Quotas(
            endpoints=self._descriptors.endpoints(limits.endpoints),
            subscriptions=limits.subscriptions,
            services=limits.services,
            calls=limits.calls_in_flight,
            held_calls=2 * limits.calls_in_flight,
            outbox_bytes=limits.outbox_bytes,
            outbox_messages=limits.outbox_messages,
            max_payload=limits.max_payload,
            handshake_seconds=limits.handshake_seconds,
            frame_seconds=limits.frame_seconds,
            held_bytes=limits.held_bytes,
            queued_bytes=limits.queued_bytes,
        )


def _connects(rate: int) -> TokenBucket | None:
    return TokenBucket(rate, CONNECTS_BURST_SECONDS * rate) if rate else None
