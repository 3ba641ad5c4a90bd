"""A neighbour on the disk: every 10 ms it overwrites 4 KiB of its file, as a database's log does, and fsyncs.

Usage: ``python -m tests.bench.deletion_probe FILE``. Writes a line when it begins, and goes on until its standard input
ends; then a JSON list of [when it was due (the monotonic clock), seconds until it was on the disk]. A write is due
whatever became of the one before, so that a disk that stands still for a second is seen by a hundred, not by one.
"""

import json
import os
import sys
import threading
import time

PERIOD_SECONDS = 0.01

BLOCK = 4096


def probe(path: str) -> list[tuple[float, float]]:
    """Write until standard input ends."""
    over = threading.Event()
    threading.Thread(target=_wait, args=(over,), daemon=True).start()
    found: list[tuple[float, float]] = []
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        print("ready", flush=True)
        begin, number = time.monotonic(), 0
        while not over.is_set():
            due = begin + number * PERIOD_SECONDS
            if (ahead := due - time.monotonic()) > 0:
                time.sleep(ahead)
            os.pwrite(file, bytes([number % 256]) * BLOCK, 0)
            os.fsync(file)
            found.append((due, time.monotonic() - due))
            number += 1
    finally:
        os.close(file)
    return found


def _wait(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
