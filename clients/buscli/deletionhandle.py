"""The deletion component as ``bus delete`` calls it: on the node, or in this process. The same handle is both.

The only module of ``clients/`` that imports ``busd.components`` (tests/test_layers.py), and only when it is called.
"""

import os
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from buscli.exits import Exit
from buscli.output import Output
from buscli.parser import UsageError
from busproto.errors import BusError, Code

__all__ = ["PATIENCE", "exit_of", "explained", "here", "on_node", "shares_files", "within"]

COMPONENT: Final = "deletion"

PATIENCE: Final = 60.0
"""Seconds for an answer: the node may be writing to the disk that it empties."""

LOCAL_ROOT: Final = "local"
"""Id of the root of a deletion in this process."""

_EXITS: Final[dict[int, Exit]] = {
    Code.DELETION_ROOT_UNKNOWN: Exit.NO_SUCH,
    Code.DELETION_JOB_UNKNOWN: Exit.NO_SUCH,
    Code.DELETION_REFUSED: Exit.REFUSED,
    Code.DELETION_CHANGED: Exit.CHANGED,
    Code.DELETION_LIMIT: Exit.LIMIT,
    Code.DELETION_BACKLOG: Exit.OVERLOADED,
    Code.DELETION_FAILED: Exit.STAYS,
    Code.CONFIG_INVALID: Exit.REFUSED,  # in this process: the directory cannot be a root
    Code.REQUEST_INVALID: Exit.USAGE,
}


def exit_of(code: int) -> Exit:
    """The exit code for an error that the component answered with; FAILED for one that says nothing of a deletion."""
    return _EXITS.get(code, Exit.FAILED)


@asynccontextmanager
async def on_node(args: Namespace, output: Output, about: str, *, lasting: bool = False) -> AsyncIterator[Any]:
    """A handle of the node's component. ``lasting``: the connection is made anew when it is lost.

    Raises UsageError for what the component or the bus refuses.
    """
    from buscli import connection

    attach = _attach()
    async with connection.attached(args, output, about, reconnect=lasting) as bus:
        with explained():
            async with attach(COMPONENT, bus=bus, where="bus", timeout=PATIENCE) as handle:
                yield handle


@asynccontextmanager
async def here(directory: bytes, *, recover: bool) -> AsyncIterator[Any]:
    """A handle of the component in this process, whose only root is ``directory``, with this user's own rights.

    ``recover``: what earlier runs left there is gone on with. At the end what runs is stopped at its next batch.
    """
    attach = _attach()
    config = {"roots": [{"id": LOCAL_ROOT, "path": os.fsdecode(directory)}], "state": None, "recover": recover}
    with explained():
        async with attach(COMPONENT, where="here", timeout=PATIENCE, config=config) as handle:
            yield handle


def within(handle: Any, seconds: float) -> Any:
    """``handle``, whose calls may take ``seconds``."""
    from busd.components.model import within

    return within(handle, seconds)


def _attach() -> Any:
    """``busd.components.model.attach``. Raises UsageError if it is not installed beside this command."""
    try:
        from busd.components.model import attach
    except ModuleNotFoundError as error:
        raise UsageError(
            f"bus delete: this needs the components of busd and what they need; there is no module '{error.name}'",
            "pip install 'busd[cli]'",
            exit=Exit.FAILED,
        ) from None
    return attach


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the component or the bus refuses within it into UsageError, with the exit code of a deletion."""
    try:
        yield
    except BusError as error:
        if type(error).__name__ == "ErrorReply":
            raise UsageError(str(error), *_cures(error), exit=exit_of(error.code)) from None
        if error.code == Code.CONFIG_INVALID:
            raise UsageError(str(error), error.cure, exit=Exit.REFUSED) from None
        if error.code != Code.NO_RESPONDERS:
            raise
        raise UsageError(
            f"{error} (the node does not run component deletion, or is just starting it)",
            "bus component list",
            "bus delete PATH --local, which needs no node",
            exit=Exit.NO_RESPONDERS,
        ) from None


def _cures(error: BusError) -> list[str]:
    cures = [error.cure] if error.cure else []
    if error.code == Code.DELETION_JOB_UNKNOWN:
        cures.append("bus delete list --all")
    elif error.code == Code.DELETION_ROOT_UNKNOWN:
        cures.append("bus delete roots")
    return cures


def shares_files(url: str | None) -> bool:
    """Whether a path here is one there: the bus at ``url`` (or the default) is one of this machine."""
    from busclient.url import default_url, parse

    return parse(url or default_url()).scheme == "unix" and sys.platform != "win32"
