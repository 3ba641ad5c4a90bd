"""The cache component as ``bus cache`` calls it, and what its refusals mean."""

import os
from argparse import Namespace
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from buscli.componenthandle import Called
from buscli.deletionpath import text_of
from buscli.exits import Exit
from buscli.output import Output, printable
from buscli.parser import UsageError
from busproto.errors import BusError, Code

__all__ = ["CACHE", "named", "on_node", "wrong"]

SECONDS: Final = 10.0
"""For an answer: 16 MiB cross a serial line of 20 Mbit/s in it."""

_EXITS: Final[dict[int, Exit]] = {
    Code.CACHE_VALUE_SIZE: Exit.TOO_LARGE,
    Code.CACHE_KEY_SIZE: Exit.TOO_LARGE,
    Code.CACHE_ENTRIES: Exit.TOO_LARGE,
    Code.CACHE_CONFLICT: Exit.CONFLICT,
    Code.CACHE_TENANT_UNKNOWN: Exit.NO_SUCH,
    Code.DENIED: Exit.DENIED,  # by the component: one tenant asks for another's
    Code.QUOTA_EXCEEDED: Exit.OVERLOADED,
    Code.OVERLOADED: Exit.OVERLOADED,
    Code.REQUEST_INVALID: Exit.USAGE,
}


def _cures(error: BusError) -> list[str]:
    if error.code == Code.CACHE_CONFLICT:
        return ["bus cache get NAME --json, which says the generation"]
    if error.code == Code.CACHE_TENANT_UNKNOWN:
        return ["bus cache tenants, which lists those that there are"]
    return ["bus cache stats, which says what there is room for"] if error.code == Code.CACHE_ENTRIES else []


CACHE: Final = Called("bus cache", "cache", _EXITS, cures=_cures)


def on_node(args: Namespace, output: Output) -> AbstractAsyncContextManager[Any]:
    """A handle of the node's cache: see `Called.on_node`. No name of an entry is told to the census: the cache itself
    keeps names blinded."""
    return CACHE.on_node(args, output, "", seconds=SECONDS)


def named(typed: str) -> str:
    """The name of an entry for people, on one line. It may be any bytes; what is no UTF-8 is ``\\xff``."""
    return printable(f"'{text_of(os.fsencode(typed))}'")


def wrong(args: Namespace, said: str, *cures: str, exit: Exit = Exit.USAGE) -> UsageError:
    """What is wrong with a command line, and what to do about it."""
    name = f"bus {args.command_name}"
    return UsageError(f"{name}: {said}", *(cures or (f"{name} --help",)), exit=exit)
