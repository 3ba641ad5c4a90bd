"""``bus check --doctor``: one look at everything that a node lives on, each with what is wrong and what to do.

Two kinds of checks: of what the node says of itself (`buscli.doctornode`), and of this machine (`buscli.doctorhost`),
which are made also when no bus answers. What cannot be seen from here is unknown; it is never taken for well.
"""

import asyncio
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from buscli.exits import Health
from buscli.output import Output, Style, printable

__all__ = ["RIGHTS", "Doctor", "Finding", "worst"]

_SEVERITY: Final = (Health.OK, Health.UNKNOWN, Health.WARNING, Health.CRITICAL)
"""From the least to the worst: what is known to be wrong comes before what is not known."""

_COLOURS: Final = (Style.GREEN, Style.YELLOW, Style.RED, Style.CYAN)


RIGHTS: Final = "run it as root or as the user that busd runs as"
"""The cure for what this user may not look at."""


class Finding(NamedTuple):
    """What one check found."""

    check: str
    """What was looked at: one word, which stays the same."""
    state: Health
    text: str
    """What is so, with the numbers; where it is not well, the cause."""
    cure: str = ""
    """What to do; empty where it is well."""

    def record(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return {"check": self.check, "state": self.state.name, "text": self.text, "cure": self.cure or None}


def worst(findings: list[Finding]) -> Health:
    """The state of all together."""
    return max((finding.state for finding in findings), key=_SEVERITY.index, default=Health.UNKNOWN)


class Doctor:
    """One run."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._findings: list[Finding] = []

    async def run(self) -> int:
        """Look at everything, and say what was found; the exit code."""
        from buscli.doctorhost import examine_host
        from buscli.doctornode import Node, examine_node, unreachable
        from buscli.health import Check

        output = Output.standard(force_json=self._args.json, no_color=self._args.no_color)
        check = Check(self._args)
        await check.measure()
        seconds = ", ".join(f"{step} {1e3 * taken:.1f} ms" for step, taken in check.steps.items())
        cure = ""
        if check.broker and check.state is Health.UNKNOWN:  # it answers, and does not let this user
            cure = RIGHTS
        elif check.state is not Health.OK:
            cure = "bus check says which step; then the node's log: journalctl -u busd"
        self._findings.append(Finding("bus", check.state, check.error or f"it works: {seconds}", cure))
        node: Node | None = None
        if check.broker:  # it answered; what it does not want to say is unknown, and not because there is none
            node = await Node.ask(self._args)
        self._findings += unreachable() if node is None else examine_node(node, check.broker)
        facts = None if node is None else node.daemon
        self._findings += await asyncio.to_thread(examine_host, facts, check.url)
        _show(output, self._args, self._findings, check.record())
        return worst(self._findings)


def _show(output: Output, args: Namespace, findings: list[Finding], bus: dict[str, Any]) -> None:
    form = args.format or ("text" if output.human else "json")
    if form == "json":
        state = worst(findings)
        output.record({**bus, "state": state.name, "checks": [finding.record() for finding in findings]})
        return
    writers = {"text": _text, "nagios": _nagios, "prometheus": _prometheus}
    for line in writers[form](output, findings):
        output.line(line)


def _text(output: Output, findings: list[Finding]) -> Iterator[str]:
    width = max(len(finding.check) for finding in findings)
    alike: dict[Finding, list[str]] = {}
    for finding in findings:  # who may not ask the node has one cause for many
        alike.setdefault(finding._replace(check=""), []).append(finding.check)
    for finding, (first, *others) in alike.items():
        name = output.styled(finding.state.name.ljust(8), _COLOURS[finding.state])
        yield f"{name}  {first:<{width}}  {printable(finding.text)}"
        if others:
            yield f"{'':8}  {'':{width}}  the same: {', '.join(others)}"
        if finding.cure:
            yield f"{'':8}  {'':{width}}  try: {printable(finding.cure)}"
    amiss = sum(finding.state is not Health.OK for finding in findings)
    state = worst(findings)
    verdict = "everything is well" if not amiss else f"{amiss} of {len(findings)} checks want attention"
    yield f"{output.styled(state.name, _COLOURS[state])}: {verdict}"


def _nagios(output: Output, findings: list[Finding]) -> Iterator[str]:
    amiss = [f"{each.check} {each.state.name}: {each.text}" for each in findings if each.state is not Health.OK]
    said = printable("; ".join(amiss) or f"{len(findings)} checks").replace("|", "/")
    yield f"BUS {worst(findings).name} - {said}"


def _prometheus(output: Output, findings: list[Finding]) -> Iterator[str]:
    yield "# HELP bus_doctor_state 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, by check."
    yield "# TYPE bus_doctor_state gauge"
    states: dict[str, Health] = {}
    for finding in findings:
        before = states.setdefault(finding.check, finding.state)
        states[finding.check] = max(before, finding.state, key=_SEVERITY.index)
    for check, state in states.items():
        yield f'bus_doctor_state{{check="{check}"}} {int(state)}'
