"""Loop lag: what a blocked loop looks like."""

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from busd.ops.eventloop import choose, factory
from busd.ops.lag import LoopLag
from busproto.errors import BusError, Code


@pytest.mark.alone
@pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_blocked_loop_is_measured(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        lag = LoopLag(interval=0.01)
        assert lag.statistics().samples.count == 0
        lag.start()
        await asyncio.sleep(0.1)
        quiet = lag.statistics()
        assert quiet.samples.count >= 3
        assert quiet.peak_seconds < 0.2
        time.sleep(0.3)  # what a handler that computes does to everyone
        assert lag.statistics().age_seconds >= 0.3
        await asyncio.sleep(0.05)
        blocked = lag.statistics()
        assert 0.25 <= blocked.peak_seconds < 5
        assert blocked.last_seconds < blocked.peak_seconds
        assert blocked.age_seconds < 0.3
        late = [
            count for bound, count in zip(blocked.samples.bounds, blocked.samples.counts, strict=True) if bound < 0.2
        ]
        assert blocked.samples.count > late[-1]
        lag.stop()
        lag.stop()
        before = lag.statistics().samples.count
        await asyncio.sleep(0.05)
        assert lag.statistics().samples.count == before

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(main())


def test_the_event_loop_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto") == "uvloop"
    assert choose("asyncio") == "asyncio"
    for name, kind in (("uvloop", uvloop.Loop), ("asyncio", asyncio.AbstractEventLoop)):
        loop = factory(name)()
        assert isinstance(loop, kind)
        loop.close()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose("auto") == "asyncio"
    with pytest.raises(BusError) as caught:
        choose("uvloop")
    assert caught.value.code == Code.CONFIG_INVALID
    assert "uvloop is not installed" in caught.value.text
