"""Checks of what a node says of itself: its figures, its endpoints, the keys that it lets in."""

import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, Final, Self

from buscli.about import bus_version
from buscli.census import OWNERSHIP, ask
from buscli.connection import COMPONENT, owner
from buscli.doctor import RIGHTS, Finding
from buscli.exits import Health
from buscli.toprows import Sample, sample
from buscli.units import duration, short
from busproto.errors import BusError

__all__ = ["Node", "examine_node", "unreachable"]

CHECKS: Final = (
    "versions",
    "lag",
    "endpoints",
    "policy",
    "components",
    "audit",
    "clock",
    "keys",
    "owners",
    "throttled",
    "lost",
)
"""What is looked at here, in this order."""

LAG_WARNING: Final = 0.05
LAG_CRITICAL: Final = 0.5
"""Seconds: of the routing loop every message meets them; a call takes a tenth of a millisecond otherwise."""

FULL_WARNING: Final = 0.8
FULL_CRITICAL: Final = 0.95

STEP_SECONDS: Final = 5.0
"""By which the wall clock may have been set while the node ran before somebody should know."""

KEY_SECONDS: Final = 365 * 86400.0
"""A key that is older is worth a question; NIST SP 800-57 has one to two years for keys that authenticate."""

NAMED: Final = 3
"""Culprits that are named; the rest is a number."""

NOT_LOST: Final = ("conflated", "detached", "reply-late")
"""Reasons of drops that nobody has to do something about."""


class Node:
    """What it said, as far as it was willing to."""

    def __init__(self) -> None:
        self.seen = Sample()
        self.keys: dict[str, Any] | None = None
        self.silence: dict[str, str] = {}
        """Why something was not said."""

    @property
    def daemon(self) -> dict[str, Any] | None:
        """What it says of its process."""
        daemon: dict[str, Any] | None = self.seen.stats.get("daemon")
        return daemon

    @property
    def is_open_to_cards(self) -> bool:
        """Whether it lets anybody in who has a key. Else its keys are not asked for: that would make a pair."""
        return self.daemon is not None and "soc" in self.daemon["addresses"]

    @classmethod
    async def ask(cls, args: Namespace) -> Self:
        """Ask a node that has just answered. What it does not want to say is kept in ``silence``."""
        import busclient

        node = cls()
        manifest = {"component": COMPONENT, "owner": owner(), "purpose": "bus check --doctor"}
        keys = {"key": args.key, "server_key": args.server_key}
        try:
            async with busclient.connect(args.bus, **manifest, **keys, reconnect=False) as bus:
                try:
                    node.seen = await sample(bus)
                except BusError as error:
                    node.silence["figures"] = error.text
                if not node.seen.stats:
                    node.silence.setdefault("figures", "policy does not let this user call $bus.stats")
                if node.is_open_to_cards:
                    node.keys = await ask(bus, "$bus.admin.keys.list")
        except (BusError, OSError) as error:
            node.silence.setdefault("figures", str(error))
            node.silence.setdefault("keys", str(error))
        return node


def unreachable() -> list[Finding]:
    """In place of what the node would have said."""
    text = f"no bus answers, so that nothing is known of {', '.join(CHECKS)}"
    return [Finding("node", Health.UNKNOWN, text, "start busd, or name the bus with --bus")]


def examine_node(node: Node, broker: str) -> list[Finding]:
    """Judge what the node said. ``broker`` is the name and version in its welcome."""
    findings = [_versions(broker)]
    daemon = node.daemon
    if daemon is None:
        why = node.silence.get("figures", "the node says nothing of its process")
        silent = ("lag", "endpoints", "policy", "components", "audit", "clock")
        findings += [Finding(check, Health.UNKNOWN, why, RIGHTS) for check in silent]
    else:
        for judge in (_lag, _endpoints, _policy, _components, _audit, _clock):
            findings.append(judge(daemon, node.seen.stats))
    findings += _keys(node)
    if node.seen.rows:
        findings += [_owners(node.seen), _throttled(node.seen), _lost(node.seen)]
    else:
        why = node.silence.get("figures", "the node shows no endpoint")
        findings += [Finding(check, Health.UNKNOWN, why, RIGHTS) for check in ("owners", "throttled", "lost")]
    return findings


def _versions(broker: str) -> Finding:
    ours, theirs = bus_version(), broker.rpartition("/")[2]
    if ours in (theirs, "source"):
        return Finding("versions", Health.OK, f"the command is {ours}, the node {broker}")
    text = f"the command is {ours}, the node {broker}: one of them knows things that the other does not"
    return Finding(
        "versions", Health.WARNING, text, "upgrade the older one; a node that was upgraded must be restarted"
    )


def _lag(daemon: dict[str, Any], stats: dict[str, Any]) -> Finding:
    lag = daemon["lag"]
    late = max(lag["last_seconds"], lag["age_seconds"] - 0.1)
    text = f"the routing loop is {short(max(0.0, late))} late, at worst it was {short(lag['peak_seconds'])}"
    if late < LAG_WARNING:
        return Finding("lag", Health.OK, text)
    state = Health.CRITICAL if late >= LAG_CRITICAL else Health.WARNING
    return Finding("lag", state, text, "who keeps it busy: bus top; is the machine out of CPU? cat /proc/pressure/cpu")


def _endpoints(daemon: dict[str, Any], stats: dict[str, Any]) -> Finding:
    used, limit, wanted = sum(stats["endpoints"].values()), daemon["endpoints_limit"], daemon["endpoints_wanted"]
    soft = daemon["descriptors"]["soft"]
    text = f"{used:,} of {limit:,} endpoints; {soft:,} descriptors"
    if limit and used < FULL_WARNING * limit and limit >= wanted:
        return Finding("endpoints", Health.OK, text)
    if used >= FULL_WARNING * limit:
        state = Health.CRITICAL if used >= FULL_CRITICAL * limit else Health.WARNING
        return Finding("endpoints", state, text, "who has so many: bus list --accounts; raise limits.endpoints")
    text += f", which is too few for the {wanted:,} that limits.endpoints asks for"
    cure = f"LimitNOFILE={wanted + 512} in busd's unit, or ulimit -n, and restart it"
    return Finding("endpoints", Health.WARNING, text, cure)


def _policy(daemon: dict[str, Any], stats: dict[str, Any]) -> Finding:
    policy = daemon["policy"]
    current, failed = policy["current"], policy["reloads"].get("failed", 0)
    text = f"{current['rules']} rules of {policy['source']}, digest {current['digest']}"
    if current["errors"]:
        text += f"; {current['errors']} errors: what comes after the first is denied"
        return Finding("policy", Health.CRITICAL, text, "bus policy lint, then bus policy reload")
    if failed and not policy["reloads"].get("ok", 0):
        text += f"; {failed} reloads failed since the node started, so that what is on disk is not in effect"
        return Finding("policy", Health.WARNING, text, "bus policy lint, then bus policy reload")
    return Finding("policy", Health.OK, text)


def _components(daemon: dict[str, Any], stats: dict[str, Any]) -> Finding:
    degraded = daemon["degraded"]
    if not degraded:
        return Finding("components", Health.OK, "none has failed")
    text = "; ".join(f"{name} {why}" for name, why in degraded.items())
    return Finding("components", Health.WARNING, text, f"bus component logs {next(iter(degraded))}")


def _audit(daemon: dict[str, Any], stats: dict[str, Any]) -> Finding:
    audit = daemon["audit"]
    if audit is None:
        return Finding("audit", Health.OK, "there is none (audit.dir = off)")
    text = f"{audit['records']:,} records written to {audit['directory']}"
    if audit["error"]:
        text += f"; now it cannot be written: {audit['error']}; {audit['lost']:,} records are lost"
        return Finding("audit", Health.CRITICAL, text, f"make room: df -h {audit['directory']}")
    if audit["lost"]:
        text += f"; {audit['lost']:,} records were lost while it could not be written"
        return Finding("audit", Health.WARNING, text, "bus audit verify says where the gap is")
    return Finding("audit", Health.OK, text)


def _clock(daemon: dict[str, Any], stats: dict[str, Any]) -> Finding:
    step = daemon["clock_step_seconds"]
    if abs(step) < STEP_SECONDS:
        return Finding("clock", Health.OK, f"set by {step:+.1f} s since the node started")
    text = f"the wall clock was set by {step:+.1f} s while the node ran (or the machine slept): times in its logs jump"
    return Finding("clock", Health.WARNING, text, "timedatectl, chronyc tracking: is the clock synchronised?")


def _keys(node: Node) -> Iterator[Finding]:
    if node.daemon is not None and not node.is_open_to_cards:
        yield Finding("keys", Health.OK, "the boundary that needs keys is not open (soc.listen = off)")
        return
    if node.keys is None:
        yield Finding("keys", Health.UNKNOWN, node.silence.get("keys", "the node does not say"), RIGHTS)
        return
    now, rows = time.time(), node.keys["keys"]
    old = [row["name"] for row in rows if now - row["enrolled_at"] > KEY_SECONDS]
    text = f"{len(rows)} enrolled, the listener is {node.keys['broker']['state']}"
    if not old:
        yield Finding("keys", Health.OK, text)
        return
    cure = f"bus keys new, bus keys revoke {old[0]}, bus keys enroll {old[0]}: a new pair for the card"
    yield Finding("keys", Health.WARNING, f"{text}; older than {duration(KEY_SECONDS)}: {_some(old)}", cure)


def _owners(seen: Sample) -> Finding:
    unowned = [name for name, row in seen.rows.items() if not all(row[claim] for claim in OWNERSHIP)]
    if not unowned:
        return Finding("owners", Health.OK, f"all {len(seen.rows):,} endpoints say whose they are and what for")
    text = f"{len(unowned):,} of {len(seen.rows):,} endpoints do not say whose they are and what for: {_some(unowned)}"
    return Finding("owners", Health.WARNING, text, "bus list --unowned; manifest = 'require' keeps them out")


def _throttled(seen: Sample) -> Finding:
    debts = {row["account"]: row["throttled"] for row in seen.rows.values() if row["throttled"]}
    if not debts:
        return Finding("throttled", Health.OK, "no account is too fast")
    text = "too fast, and read more slowly: " + _some([f"{who} ({', '.join(what)})" for who, what in debts.items()])
    return Finding("throttled", Health.WARNING, text, "bus top; bus disconnect ENDPOINT --block 10m")


def _lost(seen: Sample) -> Finding:
    losing = sorted((name for name, row in seen.rows.items() if row["lost"]), key=lambda name: -seen.rows[name]["lost"])
    dropped = {
        reason: count
        for reason, count in seen.stats.get("dropped_messages", {}).items()
        if count and reason.partition("/")[2] not in NOT_LOST
    }
    total = f"{sum(dropped.values()):,} since the node started"
    if not losing:
        return Finding("lost", Health.OK, f"no endpoint here has lost a message; {total}")
    named = _some([f"{name} {seen.rows[name]['lost']:,}" for name in losing])
    return Finding(
        "lost", Health.WARNING, f"messages lost for {named}; {total}", f"bus inspect {losing[0]}: it reads too slowly"
    )


def _some(names: list[str]) -> str:
    """The first few, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
