"""busd as ``python -m busd`` runs it, with one thread more, which answers on standard input what is in the process.

A line ``tasks`` is answered on standard output by the number of asyncio tasks; ``types`` by how many objects there are
of the most frequent types, and how many of them were garbage that nobody had collected yet, and by the blocks and
bytes that are allocated without it; ``small`` by the bytes that are taken when what is free was given back. Each answer
is one line of JSON.
"""

import asyncio
import ctypes
import gc
import json
import sys
import threading
from collections import Counter

from busd.__main__ import main
from busd.ops.memory import give_back, resident

TYPES = 400
"""Of the most frequent: what leaks is among them long before it matters."""


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2``: mallinfo(3)."""

    _fields_ = (("figures", ctypes.c_size_t * 10),)


IN_MAPPINGS, IN_HEAPS = 4, 7
"""Which of the figures are ``hblkhd`` and ``uordblks``."""


def answer() -> None:
    """Answer questions until nobody asks any more."""
    loop: asyncio.AbstractEventLoop | None = None
    said: object
    for line in sys.stdin:
        if line.strip() == "types":
            said = _objects()
        elif line.strip() == "small":
            give_back()
            said = resident()
        else:
            loop = loop or _running_loop()
            said = _tasks(loop)
        print(json.dumps(said), flush=True)


def _objects() -> dict[str, object]:
    """By type: what there is, and what was garbage, in cycles that nobody had collected yet; and bytes without it."""
    gc.unfreeze()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    garbage = Counter(type(each).__qualname__ for each in gc.garbage)
    gc.set_debug(0)
    gc.garbage.clear()
    gc.collect()
    found = Counter(type(each).__qualname__ for each in gc.get_objects())
    gc.freeze()
    give_back()
    types, gone = dict(found.most_common(TYPES)), dict(garbage.most_common(TYPES))
    return {
        "garbage": gone,
        "types": types,
        "in_use": resident(),
        "blocks": sys.getallocatedblocks(),
        "malloc": _allocated(),
    }


def _allocated() -> int:
    """Bytes that C's allocator has given out: what is larger than half a KiB, and what libraries hold."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallocInfo
    figures = mallinfo().figures
    return int(figures[IN_MAPPINGS] + figures[IN_HEAPS])


def _running_loop() -> asyncio.AbstractEventLoop:
    """The process's only loop, by one of its tasks: those that began before `gc.freeze` cannot be found."""
    while True:
        for each in gc.get_objects():
            if isinstance(each, asyncio.Task):
                return each.get_loop()


def _tasks(loop: asyncio.AbstractEventLoop) -> int:
    while True:
        try:
            return len(asyncio.all_tasks(loop))
        except RuntimeError:  # they changed while they were counted
            continue


if __name__ == "__main__":
    threading.Thread(target=answer, daemon=True).start()
    sys.exit(main())
