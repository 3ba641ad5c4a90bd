"""The policy engine: who may do what, decided by the first rule that matches; nothing that no rule allows.

A policy is built from files (``busd.core.rules``), never changes, and fails closed. At start a file that is not valid
denies all that it and the files after it would have governed; the rules before it hold. On reload anything that is
wrong leaves the old policy in effect (`Policy.require_valid`).

Each session holds `Rights`: the rules that can apply to its principal. Principals to whom the same rules apply share
one object, so ten thousand endpoints do not hold ten thousand copies.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from busd.core.principal import Principal
from busd.core.rules import RULES, VERBS, Export, PolicyError, PolicyFile, Rule, bad_name, parse_file, shown
from busproto.errors import BusError, Code
from busproto.subjects import PatternTree, Relation, relate

__all__ = ["Decision", "Policy", "PolicyStatistics", "Rights", "parse"]

ERRORS_TOLD = 5
"""Errors that the refusal of a policy repeats; lint shows all."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, and by what."""

    allowed: bool
    rule: Rule | None
    """The rule that decided; None if none did."""
    where: str
    """``30-guests.policy:12``, or ``default`` where no rule matched."""
    reason: str
    """One sentence. It names the place and never the rule's text: whoever was refused reads it, and a rule may name
    other tenants."""


DEFAULT = Decision(False, None, "default", "no rule allows it")
"""What holds where no rule matched."""


class Rights:
    """The rules that can apply to one kind of principal, in order."""

    __slots__ = ("__weakref__", "_decisions", "_otherwise", "_trees", "rules")

    def __init__(self, rules: tuple[Rule, ...], otherwise: Decision) -> None:
        self.rules = rules
        self._otherwise = otherwise
        self._trees: dict[str, PatternTree[int]] = {}
        self._decisions: dict[int, Decision] = {}

    def decide(self, verb: str, subject: str) -> Decision:
        """Whether ``verb`` is allowed on the valid ``subject``. Costs by the subject's depth, not by the rules."""
        tree = self._trees.get(verb)
        if tree is None:
            tree = self._plant(verb)
        found = tree.match(subject)
        return self._decided(min(found)) if found else self._otherwise

    def decide_pattern(self, verb: str, pattern: str) -> Decision:
        """Whether ``verb`` (subscribe, serve) is allowed on every subject that matches the valid ``pattern``.

        The rules are walked in order: one that covers the pattern decides; a denial of a part of it denies; what allows
        only a part is passed over. So an allowed pattern holds no subject that `decide` denies; the reverse may be.
        """
        tokens = pattern.split(".")
        first = tokens[0]
        alike = (first, "*", ">") if first not in ("*", ">") else None  # tells most patterns apart at a glance
        for index, rule in enumerate(self.rules):
            if verb not in rule.verbs:
                continue
            overlaps = False
            for mine in rule.split:
                if alike is None or mine[0] in alike:
                    relation = relate(mine, tokens)
                    if relation is Relation.COVERS:
                        return self._decided(index)
                    overlaps = overlaps or relation is Relation.OVERLAPS
            if overlaps and not rule.allow:
                return Decision(False, rule, rule.where, f"a part of it is denied by {rule.where}")
        return self._otherwise

    def _plant(self, verb: str) -> PatternTree[int]:
        if verb not in VERBS:
            raise ValueError(f"{verb!r} is no verb of the policy")
        tree = self._trees[verb] = PatternTree()
        for index, rule in enumerate(self.rules):
            if verb in rule.verbs:
                for pattern in rule.patterns:
                    tree.add(pattern, index)
        return tree

    def _decided(self, index: int) -> Decision:
        decision = self._decisions.get(index)
        if decision is None:
            rule = self.rules[index]
            word = "allowed" if rule.allow else "denied"
            decision = self._decisions[index] = Decision(rule.allow, rule, rule.where, f"{word} by {rule.where}")
        return decision


@dataclass(frozen=True, slots=True)
class PolicyStatistics:
    """What a policy holds."""

    digest: str
    """Of its text."""
    files: int
    """Files that it was read from."""
    rules: int
    """Rules in effect."""
    exports: int
    """Exports in effect."""
    errors: int
    """Errors that were found: with any, the policy denies what comes after the first file that has one."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules and exports in effect. Made by `parse`; never changes."""

    files: tuple[PolicyFile, ...]
    """What it was read from, in order."""
    source: str
    """Where that was: a folder, or ``built-in``."""
    self_uid: int
    """The user that ``uid=self`` means."""
    rules: tuple[Rule, ...]
    """In the order in which they are tried."""
    exports: tuple[Export, ...]
    errors: tuple[PolicyError, ...]
    """Everything that is wrong with it. Empty for a policy that means what it says."""
    otherwise: Decision
    """What holds where no rule matched."""
    digest: str
    """The first 16 hex digits of the SHA-256 of names and text."""
    _shared: "WeakValueDictionary[tuple[int, ...], Rights]" = field(repr=False, compare=False)

    def rights(self, principal: Principal) -> Rights:
        """The rules that can apply to ``principal``. Linear in the rules: once per session."""
        key = tuple(index for index, rule in enumerate(self.rules) if rule.who.fits(principal))
        rights = self._shared.get(key)
        if rights is None:
            rights = self._shared[key] = Rights(tuple(self.rules[index] for index in key), self.otherwise)
        return rights

    def exported_services(self, tenant: str) -> tuple[Export, ...]:
        """The node's services that ``tenant`` may call."""
        return tuple(export for export in self.exports if export.kind == "service" and export.concerns(tenant))

    def exported_streams(self, tenant: str) -> tuple[Export, ...]:
        """What the node sees of ``tenant``'s messages."""
        return tuple(export for export in self.exports if export.kind == "stream" and export.concerns(tenant))

    def require_valid(self) -> None:
        """Raise BusError 7006 with the errors, if there are any: what a reload asks before it takes a new policy."""
        if not self.errors:
            return
        told = "; ".join(map(str, self.errors[:ERRORS_TOLD]))
        more = len(self.errors) - ERRORS_TOLD
        raise BusError(
            Code.POLICY_INVALID, count=len(self.errors), errors=f"{told}; and {more} more" if more > 0 else told
        )

    def statistics(self) -> PolicyStatistics:
        """Figures of this policy."""
        return PolicyStatistics(
            digest=self.digest,
            files=len(self.files),
            rules=len(self.rules),
            exports=len(self.exports),
            errors=len(self.errors),
        )


def parse(files: Sequence[PolicyFile], *, self_uid: int, source: str = "") -> Policy:
    """Build a policy of ``files``; never raises, whatever they hold.

    Files are taken in the order of their names' characters (C locale). One that is not valid ends it: everything that
    no earlier rule decides is denied. A name that gives a file no place denies everything, and so does no file at all.

    Args:
        files: what was found; see ``busd.ops.policyfolder``.
        self_uid: the user that ``uid=self`` means: the one the daemon runs as.
        source: where the files come from.
    """
    ordered = tuple(sorted(files, key=lambda file: file.name))
    rules: list[Rule] = []
    exports: list[Export] = []
    errors = [
        PolicyError(shown(file.name), 0, file.problem or reason) for file in ordered if (reason := bad_name(file.name))
    ]
    if not ordered:
        errors.append(PolicyError(source, 0, "there is no policy file, so nothing is allowed"))
    whole = bool(errors)
    first = errors[0] if errors else None
    room = RULES
    for file in ordered:
        if bad_name(file.name):
            continue
        parsed = parse_file(file, self_uid=self_uid, room=room)
        room -= len(parsed.rules) + len(parsed.exports)
        errors += parsed.errors
        if first is None and parsed.errors:
            first = parsed.errors[0]
        if first is None:
            rules += parsed.rules
            exports += parsed.exports
    return Policy(
        files=ordered,
        source=source,
        self_uid=self_uid,
        rules=tuple(rules),
        exports=tuple(exports),
        errors=tuple(sorted(errors)),
        otherwise=DEFAULT if first is None else _closed(first, whole=whole),
        digest=_digest(ordered),
        _shared=WeakValueDictionary(),
    )


def _closed(error: PolicyError, *, whole: bool) -> Decision:
    """What holds after the first error: a denial that says so. Not what is wrong: whoever is refused reads it."""
    reach = "everything is denied" if whole else "everything that no earlier file decides is denied"
    place = error.where or "the policy folder"
    return Decision(False, None, place, f"the policy is in error at {place}, so {reach}")


def _digest(files: Sequence[PolicyFile]) -> str:
    """Of names and texts, each with its length before it, so that nothing can move from one to the next unseen."""
    digest = hashlib.sha256()
    for file in files:
        for part in (file.name, "" if file.text is None else file.text):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:16]
