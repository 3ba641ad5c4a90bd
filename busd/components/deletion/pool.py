"""Threads that work off a stack of tasks, each of which may push more: the last pushed is done first.

Last first keeps the stack short: a tree is walked into its depth. The thread that calls is the first worker, so one
worker needs no thread, and what the caller set for itself (niceness, I/O class) holds for all: threads inherit it.
"""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Pool"]

T = TypeVar("T")


class Pool(Generic[T]):
    """``workers`` threads over one stack.

    Args:
        work: called with the worker's number (from 0) and a task. What it raises ends the pool and comes out of `run`.
        workers: at least 1.
    """

    def __init__(self, work: Callable[[int, T], None], workers: int) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers: at least 1 is needed")
        self._work = work
        self._workers = workers
        self._changed = threading.Condition(threading.Lock())
        self._stack: list[T] = []
        self._later: list[tuple[float, int, T]] = []
        self._number = 0
        self._active = 0
        self._waiting = 0
        self._ended = False
        self._error: BaseException | None = None

    @property
    def idle(self) -> bool:
        """Whether a worker waits for whom there is no task yet; read without the lock, as a hint.

        One for which a task was pushed is idle no more, however late it wakes: on a busy machine that takes long enough
        for whoever shares his work with the idle to fill the stack.
        """
        return self._waiting > len(self._stack)

    def push(self, tasks: Sequence[T]) -> None:
        """Put tasks on the stack; the last of them is taken first. For tasks under way and before `run`."""
        with self._changed:
            self._stack.extend(tasks)
            if self._waiting:
                self._changed.notify(len(tasks))

    def later(self, task: T, seconds: float) -> None:
        """Put a task on the stack in ``seconds``; no thread waits for it while there is other work."""
        with self._changed:
            self._number += 1
            heapq.heappush(self._later, (time.monotonic() + seconds, self._number, task))
            if self._waiting:
                self._changed.notify()

    def run(self) -> None:
        """Work until no task is left. Raises what the first task that failed raised; the others under way end first."""
        threads = [
            threading.Thread(target=self._loop, args=(number,), name=f"deletion-{number}", daemon=True)
            for number in range(1, self._workers)
        ]
        try:
            for thread in threads:
                thread.start()
            self._loop(0)
        finally:
            self._end(None)
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._error

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._error = self._error or error
            self._ended = True
            self._changed.notify_all()

    def _loop(self, number: int) -> None:
        busy = False
        while True:
            with self._changed:
                self._active -= busy
                busy = False
                if not self._wait():
                    return
                task = self._stack.pop()
                self._active += 1
                busy = True
            try:
                self._work(number, task)
            except BaseException as error:  # whatever it is, it is raised in the caller's thread
                self._end(error)
            del task  # or it would be held while waiting for the next

    def _wait(self) -> bool:
        """With the lock: wait for a task; whether there is one."""
        while not self._ended:
            now = time.monotonic() if self._later else 0.0
            while self._later and self._later[0][0] <= now:
                self._stack.append(heapq.heappop(self._later)[2])
            if self._stack:
                return True
            if not self._active and not self._later:
                self._ended = True
                self._changed.notify_all()
                return False
            self._waiting += 1
            self._changed.wait(self._later[0][0] - now if self._later else None)
            self._waiting -= 1
        return False
