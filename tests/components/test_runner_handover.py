"""Two runners and calls that do not stop: while one takes over from the other, no call fails and none is done twice."""

import asyncio

import pytest

import busclient.testing
from busclient.testing import MemoryBus, settle
from busd.components.runner.control import Control
from busd.components.runner.limits import Usage
from busd.components.runner.runner import Runner
from tests.components.runner_support import Tally, forget, made

SUBJECTS = list(Tally.manifest.serves)


class Pair:
    """An old runner that serves and a new one that stands by, and callers that each call again and again."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.replies: list[int] = []
        self.over = False

    async def runner(self, instance: str, *, standby: bool) -> tuple[Runner, "asyncio.Task[None]"]:
        bus = await self.bus.connect(component="tally")
        usage = Usage(processor=lambda: 0.0, memory=lambda: 1)
        runner = Runner(Tally, {}, bus, instance, standby=standby, clock=bus.clock, usage=usage)
        return runner, asyncio.create_task(Control(runner, bus).run())

    async def call(self) -> None:
        bus = await self.bus.connect(component="caller")
        while not self.over:
            self.replies.append((await bus.call("tally.add")).payload)


@pytest.mark.parametrize("fails", [False, True])
def test_no_call_fails_and_none_is_done_twice(fails: bool) -> None:
    """The sum is the state: one that was lost, or counted twice, would show in the numbers."""

    async def main() -> None:
        forget()
        async with busclient.testing.bus(component="supervisor") as bus:
            pair = Pair(bus)
            old, old_task = await pair.runner("a" * 12, standby=False)
            await settle()
            new, new_task = await pair.runner("b" * 12, standby=True)
            callers = [asyncio.create_task(pair.call()) for _ in range(20)]
            await settle()
            assert len(pair.replies) > 20

            await new.prepare()
            unpin = bus.node.core.pin(SUBJECTS)
            state = await old.drain()
            await settle()
            before = len(pair.replies)
            await settle()
            assert len(pair.replies) == before, "calls wait"
            if fails:
                await new.stop()
                await old.resume()
            else:
                await new.serve(state)
                await old.end()
            unpin(bus.clock.time())
            bus.node._flush_soon()
            for _ in range(4):
                await settle()
            assert len(pair.replies) > before + 20

            pair.over = True
            await asyncio.gather(*callers)
            assert sorted(pair.replies) == list(range(1, len(pair.replies) + 1))
            assert made[0 if fails else 1].n == len(pair.replies)
            await asyncio.gather(old.end(), new.end())
            await asyncio.gather(old_task, new_task)

    asyncio.run(main())
