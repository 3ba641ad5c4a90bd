"""What a reviewer should look at in a policy: its errors, and lines that do nothing."""

from dataclasses import dataclass
from typing import Any

from busd.core.flows import unused_exports
from busd.core.policy import Policy
from busd.core.rules import Rule
from busproto.subjects import Relation, relate

__all__ = ["Finding", "lint"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark."""

    severity: str
    """``error``: the policy is not taken. ``warning``: the line does not do what it looks like."""
    file: str
    line: int
    """0 for the file as a whole."""
    text: str

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def describe(self) -> dict[str, Any]:
        """As ``bus policy lint`` prints it."""
        return {"severity": self.severity, "where": self.where, "text": self.text}


def lint(policy: Policy) -> list[Finding]:
    """Every error, then every warning, each in the order of the files. Warnings concern the rules in effect only."""
    found = [Finding("error", error.file, error.line, error.reason) for error in policy.errors]
    warnings = [
        Finding("warning", rule.file, rule.line, text)
        for index, rule in enumerate(policy.rules)
        if (text := _shadowed(policy.rules[:index], rule))
    ]
    warnings += [
        Finding("warning", export.file, export.line, f"nothing can go through this export: {reason}")
        for export, reason in unused_exports(policy)
    ]
    return [*found, *sorted(warnings, key=lambda finding: (finding.file, finding.line))]


def _shadowed(earlier: tuple[Rule, ...], rule: Rule) -> str:
    """What of ``rule`` never decides, because an earlier rule about the same and more comes first; or nothing."""
    candidates = [other for other in earlier if other.who.includes(rule.who)]
    if not candidates:
        return ""
    hidden: dict[tuple[str, str], str] = {}
    for verb in rule.verbs:
        for pattern, tokens in zip(rule.patterns, rule.split, strict=True):
            for other in candidates:
                if verb in other.verbs and any(relate(theirs, tokens) is Relation.COVERS for theirs in other.split):
                    hidden[verb, pattern] = other.where
                    break
    if not hidden:
        return ""
    places = ", ".join(dict.fromkeys(hidden.values()))
    if len(hidden) == len(rule.verbs) * len(rule.patterns):
        return f"this rule can never decide anything: {places} comes first and covers it"
    pairs = ", ".join(f"{verb} {pattern}" for verb, pattern in hidden)
    return f"a part of this rule can never decide anything ({pairs}): {places} comes first"
