"""The services under ``$bus.admin.policy.``: what is in effect, why it decides as it does, and taking a new one."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from busd.core.explanation import check_question, explain, principal_of
from busd.core.introspection import Request
from busd.core.policy import Policy, PolicyStatistics, parse
from busd.core.principal import Principal
from busd.ops.policyfolder import BUILT_IN, load_policy
from busproto.errors import BusError, Code

__all__ = ["RELOADS", "PolicyAdmin", "PolicyAdminStatistics", "read_policy"]

RELOADS: Final = ("ok", "failed")
"""What came of a reload; after one that failed, what was in effect still is."""


@dataclass(frozen=True, slots=True)
class PolicyAdminStatistics:
    """The policy of a node, and what was asked of it."""

    source: str
    """Where it was read from: a folder, or ``built-in``."""
    current: PolicyStatistics
    """What is in effect."""
    reloads: Mapping[str, int]
    """Reloads since the node started, by ``RELOADS``."""
    reloaded: bool
    """Whether the last reload, or the load at the start, took what is on disk, without an error in it."""
    reloaded_at: float
    """When one last did, in seconds since 1970; 0: never."""


def read_policy(folder: Path, *, named: bool = False) -> Policy:
    """The policy that is on disk, or the built-in one; see `load_policy`. For start: one in error denies.

    Raises:
        OSError: the process has run out of descriptors or memory.
    """
    files, source = load_policy(folder, named=named)
    return parse(files, self_uid=os.geteuid(), source=source)


class PolicyAdmin:
    """Administration of the policy of a running node."""

    def __init__(
        self,
        folder: Path,
        current: Callable[[], Policy],
        apply: Callable[[Policy], int],
        find: Callable[[str], Principal | None],
        *,
        named: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            folder: where the policy's files are.
            current: the policy in effect.
            apply: puts a valid policy into effect; how many subscriptions and services it withdrew.
            find: the principal of an attached endpoint, by the endpoint's name.
            named: somebody chose the folder, so that it must be there.
            wall: seconds since 1970.
        """
        self._wall = wall
        self._reloaded = not current().errors
        self._reloaded_at = wall() if self._reloaded else 0.0
        self._folder = folder
        self._current = current
        self._apply = apply
        self._find = find
        self._named = named
        self._lock = asyncio.Lock()
        self._reloads = dict.fromkeys(RELOADS, 0)

    async def reload(self, request: Request, caller: Principal) -> dict[str, Any]:
        """Take the policy that is on disk, whole, or leave everything as it is.

        Raises:
            BusError: POLICY_INVALID, with the errors; what was in effect stays in effect.
        """
        async with self._lock:  # two at once must not end with the older one in effect
            try:
                policy = await self._read()
            except BusError:
                self._reloads["failed"] += 1
                self._reloaded = False
                raise
            withdrawn = self._apply(policy)
            self._reloads["ok"] += 1
            self._reloaded, self._reloaded_at = True, self._wall()
        return {**_outline(policy), "withdrawn": withdrawn}

    async def show(self, request: Request, caller: Principal) -> dict[str, Any]:
        """The text in effect, and what is wrong with it."""
        policy = self._current()
        return {
            **_outline(policy),
            "uid": policy.self_uid,
            "errors": [str(error) for error in policy.errors],
            "files": [{"name": file.name, "text": file.text, "problem": file.problem} for file in policy.files],
        }

    async def explain(self, request: Request, caller: Principal) -> dict[str, Any]:
        """Why the policy decides as it does about an attached endpoint, or about whom ``from`` describes.

        Raises:
            BusError: REQUEST_INVALID.
        """
        policy = self._current()
        verb, subject = request.text("verb"), request.text("subject")
        endpoint, text = request.optional_text("endpoint"), request.optional_text("from")
        if (endpoint is None) == (text is None):
            raise request.error("it takes either endpoint (a name) or from (BOUNDARY [KEY=VALUE]...)")
        try:
            check_question(verb, subject)
            principal = None if text is None else principal_of(text.split(), policy.self_uid)
        except ValueError as error:
            raise request.error(str(error)) from None
        if endpoint is not None:
            principal = self._find(endpoint)
        if principal is None:
            raise request.error(f"no endpoint is called {(endpoint or '')[:80]!a}")
        return explain(policy, principal, verb, subject).describe()

    async def _read(self) -> Policy:
        """What is on disk, if it can take the place of what is in effect. Raises BusError POLICY_INVALID."""
        try:
            policy = await asyncio.to_thread(read_policy, self._folder, named=self._named)
        except OSError as error:
            raise _kept(f"{self._folder}: {error.strerror or error}") from None
        policy.require_valid()
        if policy.source == BUILT_IN and self._current().source != BUILT_IN:
            raise _kept(f"{self._folder} is gone, and the built-in set may allow more than it did")
        return policy

    def statistics(self) -> PolicyAdminStatistics:
        """Figures of the policy and its reloads."""
        policy = self._current()
        return PolicyAdminStatistics(
            policy.source, policy.statistics(), dict(self._reloads), self._reloaded, self._reloaded_at
        )

    def services(self) -> dict[str, Callable[[Request, Principal], Any]]:
        """The services, by subject."""
        return {
            "$bus.admin.policy.reload": self.reload,
            "$bus.admin.policy.show": self.show,
            "$bus.admin.policy.explain": self.explain,
        }


def _outline(policy: Policy) -> dict[str, Any]:
    return {
        "source": policy.source,
        "digest": policy.digest,
        "rules": len(policy.rules),
        "exports": len(policy.exports),
    }


def _kept(reason: str) -> BusError:
    return BusError(Code.POLICY_INVALID, count=1, errors=reason)
