"""The test kit itself: its clock, its nodes, and what its endpoints have in common with real ones."""

import asyncio

import pytest

import busclient.testing
from busclient import BusError, Code, NotConnected, Overloaded
from busclient.testing import FakeClock
from busd.core.quotas import Quotas


def test_two_lines_are_enough() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            assert (await bus.call("$bus.ping")).payload == {"node": "test", "endpoint": bus.endpoint}

    asyncio.run(main())


def test_the_clock_fires_in_order_at_the_time_that_was_due() -> None:
    async def main() -> None:
        clock = FakeClock()
        start = clock.time()
        fired: list[tuple[str, float]] = []
        clock.call_at(start + 3, lambda: fired.append(("three", clock.time() - start)))
        clock.call_at(start + 1, lambda: fired.append(("one", clock.time() - start)))
        clock.call_at(start + 1, lambda: clock.call_at(start + 2, lambda: fired.append(("two", clock.time() - start))))
        clock.call_at(start + 2, lambda: fired.append(("cancelled", 0))).cancel()
        await clock.advance(2.5)
        assert fired == [("one", 1), ("two", 2)]
        await clock.advance(0.5)
        assert fired[2:] == [("three", 3)]
        assert clock.time() == start + 3

    asyncio.run(main())


def test_an_hour_takes_no_time() -> None:
    async def main() -> None:
        async def never(call: busclient.Call) -> None:
            await asyncio.Event().wait()

        async with busclient.testing.bus() as bus, bus.serve("never", never):
            calls = [asyncio.create_task(bus.call("never", timeout=float(n))) for n in range(1, 3601, 600)]
            await bus.clock.advance(3600)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {busclient.CallTimeout}

    asyncio.run(asyncio.wait_for(main(), 10))


def test_endpoints_on_one_node_meet_and_say_what_they_are() -> None:
    async def main() -> None:
        async with busclient.testing.bus(node="edge-7", component="first") as bus:
            other = await bus.connect(component="second", owner="me")
            listed = (await bus.call("$bus.list")).payload["endpoints"]
            assert [row["claims"]["component"] for row in listed] == ["first", "second"]
            assert other.welcome["node"] == "edge-7"
            await other.close()
            assert len((await bus.call("$bus.list")).payload["endpoints"]) == 1

    asyncio.run(main())


def test_quotas_are_the_cores() -> None:
    async def main() -> None:
        async with busclient.testing.bus(quotas=Quotas(services=1)) as bus:

            async def handler(call: busclient.Call) -> None:
                return None

            async with bus.serve("a", handler):
                with pytest.raises(Overloaded, match="services"):
                    await bus.serve("b", handler).open()

    asyncio.run(main())


def test_nobody_can_connect_to_a_node_that_is_stopped() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            bus.node.stop()
            with pytest.raises(NotConnected, match="nobody listens"):
                await bus.connect(component="late")
            bus.node.start()
            await bus.connect(component="late")
            await bus.clock.advance(1)
            assert bus.state == "connected"

    asyncio.run(main())


def test_one_that_does_not_say_hello_in_time_is_cut_off() -> None:
    class Silent:
        def __init__(self) -> None:
            self.lost: list[str] = []

        def frames_received(self, frames: object) -> None:
            pass

        def link_lost(self, link: object, reason: str) -> None:
            self.lost.append(reason)

        def link_resumed(self) -> None:
            pass

    async def main() -> None:
        async with busclient.testing.bus() as bus:
            silent = Silent()
            link = await bus.node.connector("", silent)
            await bus.clock.advance(1.9)
            assert not silent.lost
            await bus.clock.advance(0.2)
            assert silent.lost == ["the broker closed the connection"]
            assert link.session.error is not None
            assert link.session.error["code"] == Code.HANDSHAKE_TIMEOUT

    asyncio.run(main())


def test_a_manifest_that_the_broker_does_not_take() -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            with pytest.raises(BusError) as caught:
                await bus.connect(component="No Name")
            assert caught.value.code == Code.MANIFEST_INVALID

    asyncio.run(main())
