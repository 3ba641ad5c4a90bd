"""What an operator should look at first: who causes it, whose that is, with numbers, and the command that ends it."""

from collections.abc import Iterator
from heapq import nlargest
from typing import Final, Literal, NamedTuple

from busd.core.blocks import Barred
from busd.core.principal import NODE_TENANT
from busd.core.session import Session
from busd.ops.console.sample import Activity, Sample
from busd.ops.console.text import shown
from busd.ops.status import NodeStatistics

__all__ = ["MOST", "Problem", "problems"]

MOST: Final = 20
"""Problems that are shown."""

EACH: Final = 5
"""Of one kind, so that one kind does not hide the others."""

FLOOD_PER_SECOND: Final = 2000.0
"""From here on an endpoint whose account has no bounds can flood: if it sends more than all others together."""

DENIED_PER_SECOND: Final = 1.0
"""Below that, somebody tried something."""

NEARLY: Final = 0.9
"""Of the endpoints that there can be."""

LATE_SECONDS: Final = 0.1
"""The loop's lateness that others notice."""

TEXT: Final = 480
"""Characters of a problem's sentence, which names several things."""

Severity = Literal["critical", "warning"]


class Problem(NamedTuple):
    """One sentence, and what to do."""

    severity: Severity
    text: str
    command: str

    def row(self) -> dict[str, str]:
        """As the page takes it."""
        return {"severity": self.severity, "text": shown(self.text, TEXT), "command": shown(self.command)}


def problems(sample: Sample, node: NodeStatistics) -> list[Problem]:
    """At most 20, worst first."""
    found = [*_floods(sample), *_losses(sample), *_denials(sample), *_of_node(sample, node)]
    found.sort(key=lambda problem: problem.severity)  # "critical" comes before "warning"; sort keeps the rest in order
    return found[:MOST]


def _floods(sample: Sample) -> Iterator[Problem]:
    """Accounts beyond their rates, and endpoints without bounds that drown out the rest."""
    loudest: list[tuple[float, Problem]] = []
    for account, debts in sample.throttled.items():
        by = sample.refused if debts == ["denials"] else sample.heaviest if debts == ["bytes"] else sample.senders
        busiest = by.get(account) or sample.senders.get(account)
        text = f"{account.name} goes beyond its rates ({', '.join(debts)}) and is read more slowly"
        if busiest is None:
            loudest.append((0.0, Problem("warning", text, "bus list --accounts")))
        else:
            text += f"; busiest of it is {_who(busiest.session)}: {_sends(busiest)}"
            loudest.append((busiest.messages, _cut_off(busiest.session, text)))
    for account, busiest in sample.senders.items():
        flood = busiest.messages >= FLOOD_PER_SECOND and busiest.messages > sample.sends / 2
        if flood and account not in sample.throttled:
            share = busiest.messages / sample.sends
            text = f"{_who(busiest.session)} sends {share:.0%} of all that comes in: {_sends(busiest)}"
            hurts: Severity = "critical" if sample.losers else "warning"
            loudest.append((busiest.messages, _cut_off(busiest.session, text, hurts)))
    loudest.sort(key=lambda each: -each[0])
    return iter([problem for _, problem in loudest[:EACH]])


def _losses(sample: Sample) -> Iterator[Problem]:
    for _, _, each in nlargest(EACH, sample.losers):
        outbox, quotas = each.session.outbox, each.session.quotas
        queue = f"its queue holds {_size(outbox.bytes)} of {_size(quotas.outbox_bytes)}"
        text = f"{_who(each.session)} loses {each.lost:,.0f} messages/s: it is sent more than it reads; {queue}"
        yield Problem("warning", text, f"bus inspect {each.session.name}")


def _denials(sample: Sample) -> Iterator[Problem]:
    many = (each for each in sample.refused.values() if each.denied >= DENIED_PER_SECOND)
    for each in nlargest(EACH, many, key=lambda refused: refused.denied):
        text = f"{_who(each.session)} asks for what policy does not allow, {each.denied:,.0f} times a second"
        yield Problem("warning", text, f"bus inspect {each.session.name}")


def _of_node(sample: Sample, node: NodeStatistics) -> Iterator[Problem]:
    if node.audit is not None and node.audit.error:
        lost = f"; {node.audit.lost:,} records are lost" if node.audit.lost else ""
        yield Problem("critical", f"the audit log cannot be written: {node.audit.error}{lost}", "bus check")
    if errors := node.policy.current.errors:
        text = f"the policy in effect has {errors} error{'s' if errors > 1 else ''} and denies what they would govern"
        yield Problem("critical", text, "bus policy lint")
    for name, reason in list(node.degraded.items())[:EACH]:
        command = f"bus component logs {name}" if name in node.components else "bus check"
        yield Problem("critical", f"component {name} does not serve: {reason}", command)
    if node.soc is not None and node.soc.state != "listening" and node.state == "ready":
        yield Problem("critical", f"the SoC boundary's listener is closed: {node.soc.state}", "bus check")
    if sample.endpoints >= NEARLY * node.endpoints_limit:
        text = f"{sample.endpoints:,} of {node.endpoints_limit:,} endpoints are attached; then nobody else can be"
        yield Problem("warning", text, "bus list --accounts")
    if node.lag.last_seconds >= LATE_SECONDS:
        yield Problem("warning", f"the routing loop is {node.lag.last_seconds * 1000:,.0f} ms late", "bus check")
    if sample.unowned and sample.unowned_example is not None:
        name = sample.unowned_example.name
        text = f"{sample.unowned:,} endpoints do not say whose they are and what for, such as {name}"
        if sample.unowned == 1:
            text = f"1 endpoint does not say whose it is and what for: {name}"
        yield Problem("warning", text, "bus list --unowned")


def _cut_off(session: Session, text: str, severity: Severity = "critical") -> Problem:
    principal, name = session.principal, session.name
    if Barred.of(principal) is None:
        return Problem(severity, text, f"bus disconnect {name}")
    if principal.boundary != "host":
        text += f". With the block all of unit {principal.unit} stays out"
    if principal.boundary == "guest":
        text += f"; to remove it: bus guest remove {principal.unit}"
    return Problem(severity, text, f"bus disconnect {name} --block 10m")


def _who(session: Session) -> str:
    """An endpoint in words: its name, what it says it is, and where it is."""
    claims, principal = session.claims, session.principal
    component, owner = claims.get("component"), claims.get("owner")
    says = f"says it is {component}" if component else "does not say what it is"
    says += f" of {owner}" if owner else ", and names no owner" if component else ""
    where = f"{principal.boundary} {principal.unit}" if principal.boundary != "host" else _process(session)
    tenant = "" if principal.tenant == NODE_TENANT else f" of tenant {principal.tenant}"
    return f"{session.name} ({says}; {where}{tenant})"


def _process(session: Session) -> str:
    principal = session.principal
    return f"user {principal.uid}, process {principal.pid}"


def _sends(activity: Activity) -> str:
    denied = f", {activity.denied:,.0f} of them denied" if activity.denied >= DENIED_PER_SECOND else ""
    return f"{activity.messages:,.0f} messages/s, {_size(activity.bytes)}/s{denied}"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"
