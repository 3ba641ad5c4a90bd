"""The deletion component as ``bus delete`` calls it: on the node, or in this process. The same handle is both."""

import os
import sys
from argparse import Namespace
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from buscli.componenthandle import Called
from buscli.exits import Exit
from buscli.output import Output
from busproto.errors import BusError, Code

__all__ = ["PATIENCE", "exit_of", "here", "on_node", "shares_files"]

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


def _cures(error: BusError) -> list[str]:
    if error.code == Code.DELETION_JOB_UNKNOWN:
        return ["bus delete list --all"]
    return ["bus delete roots"] if error.code == Code.DELETION_ROOT_UNKNOWN else []


_DELETION: Final = Called(
    "bus delete", "deletion", _EXITS, without=("bus delete PATH --local, which needs no node",), cures=_cures
)

exit_of: Final = _DELETION.exit_of


def on_node(args: Namespace, output: Output, about: str, *, lasting: bool = False) -> AbstractAsyncContextManager[Any]:
    """A handle of the node's component: see `Called.on_node`."""
    return _DELETION.on_node(args, output, about, seconds=PATIENCE, lasting=lasting)


def here(directory: bytes, *, recover: bool) -> AbstractAsyncContextManager[Any]:
    """A handle of the component in this process, whose only root is ``directory``, with this user's own rights.

    ``recover``: what earlier runs left there is gone on with. At the end what runs is stopped at its next batch.
    """
    config = {"roots": [{"id": LOCAL_ROOT, "path": os.fsdecode(directory)}], "state": None, "recover": recover}
    return _DELETION.here(config, seconds=PATIENCE)


def shares_files(url: str | None) -> bool:
    """Whether a path here is one there: the bus at ``url`` (or the default) is one of this machine."""
    from busclient.url import default_url, parse

    return parse(url or default_url()).scheme == "unix" and sys.platform != "win32"
