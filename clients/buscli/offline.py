"""What a command uses of the daemon's own code, so that it decides as the daemon does and works without one.

The only module of ``clients/`` that may import ``busd`` (tests/test_layers.py), and only what has no dependencies.
"""

from busd.core.auditchain import LINE_BYTES, Key
from busd.core.auditcheck import Anchor, Verification, Verifier
from busd.core.expectations import check, parse_expectations
from busd.core.explanation import check_question, explain, principal_of
from busd.core.flows import flows
from busd.core.lint import lint
from busd.core.policy import Policy, parse
from busd.core.rules import PolicyFile
from busd.ops.policyfolder import (
    BUILT_IN,
    TESTS_NAME,
    default_policy_dir,
    default_tests,
    load_policy,
    read_tests,
)
from busd.ops.statedir import default_audit_dir

__all__ = [
    "BUILT_IN",
    "LINE_BYTES",
    "TESTS_NAME",
    "Anchor",
    "Key",
    "Policy",
    "PolicyFile",
    "Verification",
    "Verifier",
    "check",
    "check_question",
    "default_audit_dir",
    "default_policy_dir",
    "default_tests",
    "explain",
    "flows",
    "lint",
    "load_policy",
    "parse",
    "parse_expectations",
    "principal_of",
    "read_tests",
]
