"""A component as a command calls it: on the node, or in this process. The same handle is both.

The only module of ``clients/`` that imports ``busd.components`` (tests/test_layers.py), and only when it is called.
"""

from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError
from busproto.errors import BusError, Code

__all__ = ["Called", "cache_here", "within"]


def _no_cures(error: BusError) -> list[str]:
    return []


class Called(NamedTuple):
    """How one command calls one component, and what it makes of its refusals."""

    command: str
    """As it is typed: ``bus delete``."""
    component: str
    exits: Mapping[int, Exit]
    """Exit codes by the codes of errors that the component answers with; FAILED for those that are not there."""
    without: tuple[str, ...] = ()
    """What else to do on a node that does not run it."""
    cures: Callable[[BusError], list[str]] = _no_cures
    """What to do about an error, beside its own cure."""

    def exit_of(self, code: int) -> Exit:
        """The exit code for an error that the component answered with; FAILED for one that means nothing here."""
        return self.exits.get(code, Exit.FAILED)

    @asynccontextmanager
    async def on_node(
        self,
        args: Namespace,
        output: Output,
        about: str,
        *,
        seconds: float,
        lasting: bool = False,
    ) -> AsyncIterator[Any]:
        """A handle of the node's component, whose calls may take ``seconds``. ``lasting``: the connection is made anew
        when it is lost.

        Raises UsageError for what the component or the bus refuses.
        """
        from buscli import connection

        with self.installed():
            from busd.components.model import attach
        async with connection.attached(args, output, about, reconnect=lasting) as bus:
            with self.explained():
                async with attach(self.component, bus=bus, where="bus", timeout=seconds) as handle:
                    yield handle

    @asynccontextmanager
    async def here(self, config: Mapping[str, Any], *, seconds: float) -> AsyncIterator[Any]:
        """A handle of the component in this process, made with ``config``; it is stopped at the end. Raises as
        `on_node`."""
        with self.installed():
            from busd.components.model import attach
        with self.explained():
            async with attach(self.component, where="here", timeout=seconds, config=config) as handle:
                yield handle

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Raise UsageError if what is imported within it is not installed beside this command."""
        try:
            yield
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{self.command}: this needs the components of busd and what they need; "
                f"there is no module '{error.name}'",
                "pip install 'busd[cli]'",
                exit=Exit.FAILED,
            ) from None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the component or the bus refuses within it into UsageError, with the exit code for it."""
        try:
            yield
        except BusError as error:
            # By name: the SDK is not imported for this.
            if type(error).__name__ == "ErrorReply" or error.code == Code.CONFIG_INVALID:
                cures = [*filter(None, (error.cure,)), *self.cures(error)]
                raise UsageError(str(error), *cures, exit=self.exit_of(error.code)) from None
            if error.code != Code.NO_RESPONDERS:
                raise
            raise UsageError(
                f"{error} (the node does not run component {self.component}, or is just starting it)",
                "bus component list",
                *self.without,
                exit=Exit.NO_RESPONDERS,
            ) from None


def within(handle: Any, seconds: float) -> Any:
    """``handle``, whose calls may take ``seconds``."""
    from busd.components.model import within

    return within(handle, seconds)


def cache_here(called: Called, quota: int) -> Any:
    """A cache of one tenant in this process, with ``quota`` bytes and with keys that end with it: what code calls
    that has the cache to itself. To be used with ``with``; `tenant` of it gives the tenant's.

    Raises UsageError if busd's components are not installed.
    """
    with called.installed():
        from busd.components.cache import Cache, CacheSettings, TenantSettings
    return Cache.generated(CacheSettings(usual=TenantSettings(quota=quota)), quiet=True)
