"""Does the bus work? What ``bus check`` does: four timed steps, a look at the components, and four ways to say it."""

import asyncio
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import busclient
from buscli.connection import COMPONENT, owner
from buscli.exits import Health
from buscli.output import Output, Style, printable
from buscli.responder import echo
from buscli.units import short
from busclient import Bus, Denied, NoResponders
from busclient.url import default_url
from busproto.errors import BusError, Code


class Check:
    """One run of ``bus check``: what it has found so far."""

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.url = ""
        self.node = ""
        self.broker = ""
        self.steps: dict[str, float] = {}
        """Seconds that each step took, in order."""
        self.current = "connect"
        self.error = ""
        self.state = Health.UNKNOWN
        self.worked = False
        """Every step worked, however long it took."""
        self.degraded: dict[str, str] = {}
        """Components of the node that do not serve and will not by themselves, and why."""
        self._since = 0.0

    async def run(self) -> int:
        """Check, and say how it went."""
        await self.measure()
        show(Output.standard(force_json=self.args.json, no_color=self.args.no_color), self)
        return self.state

    async def measure(self) -> None:
        """Take the steps, and judge them."""
        try:
            async with asyncio.timeout(self.args.timeout):
                await self._steps()
            self._judge()
        except (BusError, OSError, TimeoutError) as error:
            self._fail(error)

    async def _steps(self) -> None:
        """Connect, ping, publish, call; raises what goes wrong."""
        manifest = {"component": COMPONENT, "owner": owner(), "purpose": "bus check"}
        self._begin("connect")
        self.url = self.args.bus or default_url()
        keys = {"key": self.args.key, "server_key": self.args.server_key}
        here = busclient.connect(self.url, **manifest, **keys, reconnect=False)
        there = busclient.connect(self.url, **manifest, **keys, reconnect=False)
        async with here:
            self._done()
            self.node, self.broker = str(here.welcome.get("node", "")), str(here.welcome.get("broker", ""))
            self._begin("ping")
            await here.call("$bus.ping", timeout=self.args.timeout)
            self._done()
            async with there:
                subject = f"bus-check.{there.endpoint}"
                await self._publish(here, there, subject)
                await self._call(here, there, subject)
            await self._components(here)

    async def _publish(self, here: Bus, there: Bus, subject: str) -> None:
        self._begin("subscribe")
        async with there.subscribe(subject) as subscription:
            self._begin("publish")
            await here.publish(subject, {"check": subject})
            message = await anext(subscription)
            self._done()
            self._compare(message.payload, {"check": subject})

    async def _call(self, here: Bus, there: Bus, subject: str) -> None:
        self._begin("serve")
        async with there.serve(subject, echo):
            self._begin("call")
            reply = await here.call(subject, {"check": subject}, timeout=self.args.timeout)
            self._done()
            self._compare(reply.payload, {"check": subject})

    async def _components(self, here: Bus) -> None:
        """Which components have failed. Who may not know, or asks a node without any, still has a bus that works."""
        self.current = "components"
        try:
            rows = (await here.call("$bus.components", {}, timeout=self.args.timeout)).payload["components"]
        except (Denied, NoResponders):
            if self.args.components:
                raise
            return
        self.degraded = {
            row["component"]: f"{row['state']}: {row['reason']}" if row["reason"] else row["state"]
            for row in rows
            if row.get("supervised") and (row["state"] == "failed" or (row["state"] == "stopped" and row["reason"]))
        }

    def _compare(self, came: object, sent: object) -> None:
        if came != sent:
            raise OSError(f"what came is not what was sent: {came!r}")

    def _begin(self, step: str) -> None:
        self.current = step
        self._since = asyncio.get_running_loop().time()

    def _done(self) -> None:
        self.steps[self.current] = asyncio.get_running_loop().time() - self._since

    def _judge(self) -> None:
        """Every step worked: was each fast enough?"""
        self.worked = True
        slowest = max(self.steps, key=lambda step: self.steps[step])
        seconds = self.steps[slowest]
        self.state = Health.OK
        for state, limit in ((Health.CRITICAL, self.args.critical), (Health.WARNING, self.args.warn)):
            if limit is not None and seconds > limit:
                self.state = state
                self.error = f"{slowest} took {short(seconds)}, more than {short(limit)}"
                return
        if self.degraded and self.args.components:
            self.state = Health.WARNING
            self.error = f"component {'; '.join(_named(self))}"

    def _fail(self, error: Exception) -> None:
        """A step failed."""
        unknown = isinstance(error, BusError) and error.code in (Code.DENIED, Code.URL_INVALID, Code.KEY_UNUSABLE)
        self.state = Health.UNKNOWN if unknown else Health.CRITICAL
        reason = f"not within {self.args.timeout:g} s" if isinstance(error, TimeoutError) else str(error)
        self.error = f"{self.current}: {reason}"

    def record(self) -> dict[str, Any]:
        return {
            "state": self.state.name,
            "url": self.url,
            "node": self.node or None,
            "broker": self.broker or None,
            "seconds": self.steps,
            "error": self.error or None,
            "degraded": self.degraded,
        }


def show(output: Output, check: Check) -> None:
    """Say how the check went, in the form that was asked for."""
    form = check.args.format or ("text" if output.human else "json")
    if form == "json":
        output.record(check.record())
        return
    writers = {"text": _text, "nagios": _nagios, "prometheus": _prometheus}
    for line in writers[form](output, check):
        output.line(line)


def _text(output: Output, check: Check) -> Iterator[str]:
    colour = (Style.GREEN, Style.YELLOW, Style.RED, Style.YELLOW)[check.state]
    where = f"node {printable(check.node)}, {printable(check.broker)}, " if check.node else ""
    yield f"{output.styled(check.state.name, colour)}: {where}{printable(check.url)}"
    if check.error:
        yield f"  {output.styled(check.error, colour)}"
    for step, seconds in check.steps.items():
        yield f"  {step:<8} {short(seconds)}"
    for named in _named(check):
        yield f"  {output.styled(f'component {named}', Style.YELLOW)}"


def _nagios(output: Output, check: Check) -> Iterator[str]:
    """One line with performance data (Monitoring Plugins guidelines: ``label=value[UOM];warn;crit;min``)."""
    limits = ";".join("" if limit is None else f"{limit:g}" for limit in (check.args.warn, check.args.critical))
    data = " ".join(f"{step}={seconds:.6f}s;{limits};0" for step, seconds in check.steps.items())
    said = check.error or f"node {check.node}: " + ", ".join(f"{s} {short(t)}" for s, t in check.steps.items())
    if check.degraded and not check.error:
        said += f"; component {'; '.join(_named(check))}"
    yield f"BUS {check.state.name} - {printable(said).replace('|', '/')} | {data}"


def _prometheus(output: Output, check: Check) -> Iterator[str]:
    yield "# HELP bus_check_success Whether every step of bus check worked."
    yield "# TYPE bus_check_success gauge"
    yield f"bus_check_success {int(check.worked)}"
    yield "# HELP bus_check_state 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."
    yield "# TYPE bus_check_state gauge"
    yield f"bus_check_state {int(check.state)}"
    yield "# HELP bus_check_components_failed Components of the node that do not serve and will not by themselves."
    yield "# TYPE bus_check_components_failed gauge"
    yield f"bus_check_components_failed {len(check.degraded)}"
    yield "# HELP bus_check_duration_seconds How long each step took."
    yield "# TYPE bus_check_duration_seconds gauge"
    for step, seconds in check.steps.items():
        yield f'bus_check_duration_seconds{{step="{step}"}} {seconds:.6f}'


def _named(check: Check) -> list[str]:
    """Each degraded component and why, on one line that is safe to print."""
    return [printable(f"{name} {reason}") for name, reason in check.degraded.items()]
