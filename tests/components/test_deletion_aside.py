"""Calls beside the event loop: one tenant's disk may hang, and nobody else notices."""

import asyncio
import contextvars
import threading
from functools import partial

import pytest

from busd.components.deletion.aside import AT_ONCE, Aside

SECONDS = 10.0


def test_what_a_call_gives_or_raises_comes_out() -> None:
    async def main() -> None:
        aside = Aside()
        said.set("here")
        assert await aside.run("acme", lambda: (said.get(), threading.current_thread().daemon)) == ("here", True)
        with pytest.raises(ZeroDivisionError):
            await aside.run("acme", lambda: 1 // 0)
        assert aside.waiting == 0

    said = contextvars.ContextVar("said", default="")
    asyncio.run(main())


def test_a_tenant_whose_calls_hang_harms_nobody_else() -> None:
    async def main() -> None:
        aside = Aside()
        hanging = [asyncio.create_task(aside.run("acme", stuck)) for _ in range(AT_ONCE + 3)]
        while len(begun) < AT_ONCE:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert len(begun) == AT_ONCE, "no more threads than that"
        assert await aside.run("globex", lambda: 7) == 7
        assert aside.waiting == AT_ONCE + 3
        go.set()
        await asyncio.gather(*hanging)
        assert (len(begun), aside.waiting) == (AT_ONCE + 3, 0)

    begun: list[str] = []
    go = threading.Event()

    def stuck() -> None:
        begun.append(threading.current_thread().name)
        assert go.wait(SECONDS)

    asyncio.run(asyncio.wait_for(main(), SECONDS))


@pytest.mark.parametrize("begun", [True, False])
def test_who_gives_up_leaves_the_turn_to_those_who_have_it(begun: bool) -> None:
    async def main() -> None:
        aside = Aside()
        gates = [threading.Event() for _ in range(AT_ONCE + 1)]
        tasks = [asyncio.create_task(aside.run("acme", partial(gate.wait, SECONDS))) for gate in gates]
        await asyncio.sleep(0.05)
        given_up = tasks[0 if begun else -1]
        given_up.cancel()
        await asyncio.wait([given_up])
        assert given_up.cancelled()
        assert aside.waiting == (AT_ONCE + 1 if begun else AT_ONCE), "a call that has begun still has its turn"
        for gate in gates:
            gate.set()
        await asyncio.wait(tasks)
        while aside.waiting:
            await asyncio.sleep(0.001)
        assert await aside.run("acme", lambda: 1) == 1

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_without_a_thread_the_turn_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        aside = Aside()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        for _ in range(AT_ONCE + 1):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await aside.run("acme", lambda: 1)
        monkeypatch.undo()
        assert await aside.run("acme", lambda: 1) == 1

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    asyncio.run(asyncio.wait_for(main(), SECONDS))
