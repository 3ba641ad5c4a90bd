"""Expectations of a policy: what it must decide, written down beside it and checked by ``bus policy test``.

One a line: ``allow`` or ``deny``, verb, subject (or pattern), ``from``, and whom it is about, in the words of a rule.
"""

from dataclasses import dataclass
from typing import Any

from busd.core.explanation import check_question, principal_of
from busd.core.policy import Decision, Policy
from busd.core.principal import Principal
from busd.core.rules import PolicyError

__all__ = ["Expectation", "Verdict", "check", "parse_expectations"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One line."""

    file: str
    line: int
    text: str
    allowed: bool
    verb: str
    subject: str
    principal: Principal


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one expectation came out."""

    expectation: Expectation
    decision: Decision

    @property
    def met(self) -> bool:
        """Whether the policy decides as expected."""
        return self.decision.allowed == self.expectation.allowed

    def describe(self) -> dict[str, Any]:
        """As ``bus policy test`` prints it."""
        return {
            "where": f"{self.expectation.file}:{self.expectation.line}",
            "expectation": self.expectation.text,
            "met": self.met,
            "decided_by": self.decision.where,
            "rule": None if self.decision.rule is None else self.decision.rule.text,
            "reason": self.decision.reason,
        }


def parse_expectations(file: str, text: str, *, self_uid: int) -> tuple[list[Expectation], list[PolicyError]]:
    """Read a file of expectations: those that make sense, and what is wrong with the others."""
    found: list[Expectation] = []
    errors: list[PolicyError] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if words[0] not in ("allow", "deny") or len(words) < 5 or words[3] != "from":
                raise ValueError("it must read: allow|deny VERB SUBJECT from BOUNDARY [KEY=VALUE]...")
            check_question(words[1], words[2])
            principal = principal_of(words[4:], self_uid)
        except ValueError as error:
            errors.append(PolicyError(file, number, str(error)))
        else:
            found.append(Expectation(file, number, " ".join(words), words[0] == "allow", words[1], words[2], principal))
    return found, errors


def check(policy: Policy, expectations: list[Expectation]) -> list[Verdict]:
    """How each comes out."""
    return [
        Verdict(each, policy.rights(each.principal).decide_pattern(each.verb, each.subject)) for each in expectations
    ]
