"""A runner's way from standing by to serving and back, each verb in and out of order."""

import asyncio
import itertools
from typing import Any

import pytest

from busclient import BusError, Code, ErrorReply, NoResponders
from busclient.testing import settle
from busd.components.runner.handed import STATE_BYTES
from tests.components.runner_support import Count, Plain, Stage, hooks, log, made, staged

VERBS = ("prepare", "serve", "drain", "resume", "stop")

RIGHT = {
    "standby": {"prepare", "stop"},
    "starting": {"stop"},
    "prepared": {"serve", "stop"},
    "ready": {"drain", "stop"},
    "draining": {"drain", "resume", "stop"},
    "drained": {"resume", "stop"},
}
"""What may be asked of a runner where it is."""


async def bring(it: Stage, state: str) -> None:
    """Bring a standing-by runner to ``state``; what is under way there waits for a gate."""
    if state == "starting":
        hooks["start"] = asyncio.Event().wait
        background(it.runner.prepare())
    elif state != "standby":
        await it.runner.prepare()
    if state in ("ready", "draining", "drained"):
        await it.runner.serve()
    if state == "draining":
        background(it.operator.call("tally.hold", timeout=600))
        await settle()
        draining = background(it.runner.drain(1.0))
        await it.clock.advance(2)
        with pytest.raises(BusError):
            await draining
    elif state == "drained":
        await it.runner.drain()
    await settle()
    assert it.state() == state


kept: set["asyncio.Task[Any]"] = set()


def background(work: Any) -> "asyncio.Task[Any]":
    task: asyncio.Task[Any] = asyncio.ensure_future(work)
    kept.add(task)
    task.add_done_callback(kept.discard)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def failure(work: Any) -> BusError:
    with pytest.raises(BusError) as caught:
        await work
    return caught.value


@staged()
async def test_the_whole_way_and_what_is_called_on_it(it: Stage) -> None:
    assert it.state() == "standby"
    assert made == []
    await it.runner.prepare()
    assert (it.state(), log) == ("prepared", ["start"])
    with pytest.raises(NoResponders):
        await it.operator.call("tally.add")
    await it.runner.serve()
    await settle()
    assert (it.state(), log) == ("ready", ["start", "run"])
    assert (await it.operator.call("tally.add", {"n": 5})).payload == 5
    state = await it.runner.drain()
    assert state is not None
    assert (it.state(), log) == ("drained", ["start", "run", "run ends", "hand_over"])
    with pytest.raises(NoResponders):
        await it.operator.call("tally.add")
    await it.runner.stop()
    assert (it.state(), log[-1]) == ("standby", "stop")
    await settle()
    states = ["standby", "starting", "prepared", "ready", "draining", "drained", "stopped", "standby"]
    assert it.states() == states


@staged()
async def test_each_life_is_a_new_component_with_the_same_configuration(it: Stage) -> None:
    for life in (1, 2):
        await it.runner.prepare()
        await it.runner.serve()
        assert (await it.operator.call("tally.add")).payload == 1
        await it.runner.stop()
        assert len(made) == life
    assert it.runner.status().operations["add"]["calls"] == 2, "a runner's figures go on from life to life"


WRONG = [(state, verb) for state, verb in itertools.product(RIGHT, VERBS) if verb not in RIGHT[state]]


@pytest.mark.parametrize(("state", "verb"), WRONG)
def test_a_wrong_order_is_refused_and_changes_nothing(state: str, verb: str) -> None:
    @staged()
    async def test(it: Stage) -> None:
        await bring(it, state)
        log.clear()
        error = await failure(getattr(it.runner, verb)())
        assert error.code == Code.COMPONENT_STATE
        assert (error.fields["verb"], str(error.fields["state"]).split()[0]) == (verb, state)
        await settle()
        assert (it.state(), log) == (state, [])

    test()


@pytest.mark.parametrize("state", RIGHT)
def test_stop_is_possible_from_everywhere(state: str) -> None:
    @staged()
    async def test(it: Stage) -> None:
        await bring(it, state)
        stopping = background(it.runner.stop())
        await it.clock.advance(10)
        await stopping
        assert it.state() == "standby"
        assert ("stop" in log) == (state not in ("standby", "starting")), "what has started is stopped, nothing else"
        assert not kept - {stopping} or all(task.done() for task in kept)

    test()


@staged(standby=False)
async def test_without_standby_it_serves_at_once_and_ends_with_its_stop(it: Stage) -> None:
    assert it.state() == "ready"
    await it.runner.stop()
    await it.ended()
    assert it.states() == ["starting", "prepared", "ready", "draining", "stopped"]
    assert (await failure(it.runner.prepare())).code == Code.COMPONENT_STATE
    assert (await failure(it.runner.stop())).code == Code.COMPONENT_STATE


# -- state ------------------------------------------------------------------------------------------------------------


@staged()
async def test_state_goes_from_one_to_the_next_before_it_serves(it: Stage) -> None:
    await bring(it, "ready")
    await it.operator.call("tally.add", {"n": 41})
    state = await it.runner.drain()
    await it.runner.stop()
    await it.runner.prepare()
    log.clear()
    await it.runner.serve(state)
    await settle()
    assert log == ["take_over", "run"]
    assert (await it.operator.call("tally.add")).payload == 42


@staged()
async def test_a_state_of_the_wrong_type_is_refused_and_it_can_still_serve(it: Stage) -> None:
    await bring(it, "prepared")
    for data, reason in (
        (b"\x81\xa1n\xa1x", "state: n: expected int, got str"),
        (b"\x80", "state: n: missing"),
        (b"\xc1", "state: "),
        (b"", "state: "),
    ):
        error = await failure(it.runner.serve(data))
        assert error.code == Code.REQUEST_INVALID
        assert str(error.fields["reason"]).startswith(reason)
    assert (it.state(), log) == ("prepared", ["start"])
    await it.runner.serve()
    assert it.state() == "ready"


@staged()
async def test_a_state_that_is_too_large_is_refused_on_both_sides(it: Stage) -> None:
    async def large() -> Count:
        return Count(1, b"x" * STATE_BYTES)

    await bring(it, "ready")
    hooks["hand_over"] = large
    error = await failure(it.runner.drain())
    assert error.code == Code.COMPONENT_STATE_TOO_LARGE
    assert (error.fields["component"], error.fields["limit"]) == ("tally", STATE_BYTES)
    assert STATE_BYTES < error.fields["size"] < STATE_BYTES + 100
    assert it.state() == "draining"
    await it.runner.resume()
    assert (await it.operator.call("tally.add")).payload == 1
    await it.runner.stop()
    await it.runner.prepare()
    assert (await failure(it.runner.serve(bytes(STATE_BYTES + 1)))).code == Code.COMPONENT_STATE_TOO_LARGE
    assert it.state() == "prepared"


@staged()
async def test_the_largest_state_is_handed_over(it: Stage) -> None:
    async def largest() -> Count:
        return Count(7, bytes(STATE_BYTES - 16))

    await bring(it, "ready")
    hooks["hand_over"] = largest
    state = (await it.tell("drain"))["state"]
    assert STATE_BYTES - 16 < len(state) <= STATE_BYTES
    await it.tell("stop")
    await it.tell("prepare")
    await it.tell("serve", state=state)
    assert (await it.operator.call("tally.add")).payload == 8


@staged()
async def test_what_is_no_state_is_not_handed_over(it: Stage) -> None:
    async def other() -> Any:
        return {"n": 1}

    async def broken() -> Any:
        raise KeyError("lost")

    async def unencodable() -> Any:
        return Count(object())  # type: ignore[arg-type]

    await bring(it, "ready")
    for hook, reason in (
        (other, "hand_over() returned dict, and the manifest says Count"),
        (broken, "hand_over: KeyError: 'lost'"),
        (unencodable, "what hand_over() returned cannot travel: "),
    ):
        hooks["hand_over"] = hook
        error = await failure(it.runner.drain())
        assert error.code == Code.HANDLER_FAILED
        assert str(error.fields["reason"]).startswith(reason)
        assert it.state() == "draining"
    del hooks["hand_over"]
    assert await it.runner.drain() is not None, "a drain can be repeated"


@staged(Plain)
async def test_a_component_without_state_has_none_and_takes_none(it: Stage) -> None:
    await it.runner.prepare()
    error = await failure(it.runner.serve(b"\x80"))
    assert (error.code, error.fields["reason"]) == (
        Code.REQUEST_INVALID,
        "state: this component takes none over",
    )
    await it.runner.serve()
    assert await it.runner.drain() is None
    assert it.state() == "drained"


# -- calls in flight --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [300, 0])
def test_calls_in_flight_are_answered_once_before_the_state_is_handed_over(begun: int) -> None:
    """Those that handlers work on, and those that have just come."""
    staged()(lambda it: drained_in_flight(it, begun))()


async def drained_in_flight(it: Stage, begun: int) -> None:
    await bring(it, "ready")
    calls = [background(it.operator.call("tally.hold", timeout=60)) for _ in range(300)]
    parts: list[int] = []

    async def stream() -> None:
        parts.extend([part.payload async for part in it.operator.stream("tally.upto", {"n": 5}, timeout=60)])

    streaming = background(stream())
    await settle()
    while it.runner.status().operations["hold"]["in_flight"] < begun:
        await settle()
    draining = background(it.runner.drain(30))
    await it.clock.advance(1)
    assert it.state() == "draining"
    assert not draining.done()
    with pytest.raises(NoResponders):
        await it.operator.call("tally.add")
    made[0].gate.set()
    assert sorted([(await call).payload for call in calls]) == list(range(1, 301))
    await streaming
    assert parts == [0, 1, 2, 3, 4]
    state = await draining
    assert Count(300) == await decoded(it, state)
    figures = it.runner.status().operations["hold"]
    assert (figures["calls"], figures["errors"], figures["in_flight"]) == (300, {}, 0)


async def decoded(it: Stage, state: bytes | None) -> Count:
    assert state is not None
    await it.runner.stop()
    await it.runner.prepare()
    await it.runner.serve(state)
    return Count(made[-1].n)


@staged()
async def test_a_drain_that_takes_too_long_says_what_it_waits_for_and_harms_no_call(it: Stage) -> None:
    await bring(it, "ready")
    calls = [background(it.operator.call("tally.hold", timeout=60)) for _ in range(3)]
    await settle()
    draining = background(it.runner.drain(2.5))
    await it.clock.advance(2.4)
    assert not draining.done()
    await it.clock.advance(0.2)
    error = await failure(draining)
    assert (error.code, error.fields["reason"]) == (
        Code.HANDLER_FAILED,
        "3 calls were not answered (3 of tally.hold) within 2.5 s",
    )
    assert (it.state(), "run ends" in log) == ("draining", False)
    await it.runner.resume()
    assert it.state() == "ready"
    later = background(it.operator.call("tally.hold", timeout=60))
    await settle()
    made[0].gate.set()
    assert sorted([(await call).payload for call in (*calls, later)]) == [1, 2, 3, 4]
    assert len(made) == 1


@staged()
async def test_resume_ends_a_drain_that_is_under_way(it: Stage) -> None:
    await bring(it, "ready")
    call = background(it.operator.call("tally.hold", timeout=60))
    await settle()
    draining = background(it.runner.drain(30))
    await settle()
    await it.runner.resume()
    error = await failure(draining)
    assert error.code == Code.COMPONENT_STATE
    assert it.state() == "ready"
    assert (await it.operator.call("tally.add")).payload == 1
    made[0].gate.set()
    assert (await call).payload == 2


@staged()
async def test_a_drain_is_bounded_in_all_its_parts(it: Stage) -> None:
    gate = asyncio.Event()
    await bring(it, "ready")
    hooks["hand_over"] = gate.wait
    draining = background(it.runner.drain(2))
    await it.clock.advance(2.1)
    assert (await failure(draining)).fields["reason"] == "hand_over() did not end within 2 s"
    hooks["run ends"] = gate.wait
    await it.runner.resume()
    await settle()
    draining = background(it.runner.drain(2))
    await it.clock.advance(2.1)
    assert (await failure(draining)).fields["reason"] == "run() did not end within 2 s"
    del hooks["hand_over"]
    resuming = background(it.runner.resume())
    await settle()
    assert not resuming.done(), "there are never two of run()"
    gate.set()
    await resuming
    await settle()
    assert (it.state(), log[-1]) == ("ready", "run")


@staged()
async def test_a_moment_that_is_cancelled_from_within_is_a_failure(it: Stage) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    hooks["start"] = cancelled
    error = await failure(it.runner.prepare())
    assert error.fields["reason"] == "prepare: RuntimeError: it was cancelled, and not by the runner"
    assert it.state() == "failed"


@staged()
async def test_resume_after_a_drain_serves_and_runs_again(it: Stage) -> None:
    await bring(it, "ready")
    await it.operator.call("tally.add", {"n": 3})
    for _ in range(3):
        await it.runner.drain()
        log.clear()
        await it.runner.resume()
        await settle()
        assert (it.state(), log) == ("ready", ["run"])
    assert (await it.operator.call("tally.add")).payload == 4
    assert await it.runner.drain() is not None


@staged()
async def test_a_drain_goes_on_when_whoever_asked_has_gone(it: Stage) -> None:
    await bring(it, "ready")
    call = background(it.operator.call("tally.hold", timeout=60))
    await settle()
    with pytest.raises(BusError):
        asking = background(it.tell("drain", seconds=20, timeout=1.0))
        await it.clock.advance(2)
        await asking
    assert it.state() == "draining"
    assert (await failure(it.runner.drain())).fields["state"] == "draining (drain is under way)"
    made[0].gate.set()
    await call
    await settle()
    assert it.state() == "drained"


@staged(standby=False)
async def test_its_end_leaves_calls_time_and_then_cancels_them(it: Stage) -> None:
    calls = [background(it.operator.call("tally.hold", timeout=60)) for _ in range(2)]
    await settle()
    ending = background(it.runner.end())
    await it.clock.advance(4.9)
    assert (it.state(), ending.done()) == ("draining", False)
    await it.clock.advance(1)
    await ending
    await it.ended()
    for call in calls:
        with pytest.raises(BusError) as caught:
            await call
        assert caught.value.code in (Code.CANCELLED, Code.UNKNOWN)
    assert log == ["start", "run", "run ends", "stop"]


@staged(standby=False)
async def test_its_end_answers_calls_that_end_in_time(it: Stage) -> None:
    call = background(it.operator.call("tally.hold", timeout=60))
    await settle()
    ending = background(it.runner.end())
    await it.clock.advance(4)
    made[0].gate.set()
    await ending
    assert (await call).payload == 1
    await it.ended()
    assert "hand_over" not in log


# -- failures ---------------------------------------------------------------------------------------------------------


async def broken() -> None:
    raise OSError("the disk is gone")


@staged(standby=False)
async def test_it_is_failed_when_run_ends_with_an_exception(it: Stage) -> None:
    call = background(it.operator.call("tally.hold", timeout=60))
    await settle()
    hooks["run ends"] = broken
    task = it.runner._background
    assert task is not None
    task.cancel()
    await settle()
    assert (it.state(), it.runner.reason) == ("failed", "run: OSError: the disk is gone")
    made[0].gate.set()
    error = await failure(it.ended())
    assert (error.code, error.fields["reason"]) == (Code.HANDLER_FAILED, "run: OSError: the disk is gone")
    assert (await call).payload == 1, "what it holds is answered all the same"
    assert log[-1] == "stop"
    last = it.statuses[-1]
    assert (last["state"], last["health"]) == ("failed", {"ok": False, "detail": "run: OSError: the disk is gone"})


@staged(standby=False)
async def test_a_run_that_is_cancelled_from_within_is_a_failure(it: Stage) -> None:
    assert it.runner._background is not None
    it.runner._background.cancel()
    assert "cancelled, and not by the runner" in str(await failure(it.ended()))


@staged(Plain, standby=False)
async def test_a_run_that_simply_returns_is_none(it: Stage) -> None:
    await settle()
    assert it.runner._background is not None
    assert it.runner._background.done()
    assert it.state() == "ready"
    assert (await it.operator.call("plain.ping")).payload == "pong"
    await it.runner.drain()
    await it.runner.resume()
    assert it.state() == "ready"


@pytest.mark.parametrize(("moment", "verb"), [("start", "prepare"), ("take_over", "serve")])
def test_what_cannot_start_or_take_over_has_failed(moment: str, verb: str) -> None:
    @staged()
    async def test(it: Stage) -> None:
        hooks[moment] = broken
        if verb == "serve":
            await it.runner.prepare()
        request: dict[str, Any] = {"state": b"\x81\xa1n\x01"} if verb == "serve" else {}
        with pytest.raises(ErrorReply) as caught:
            await it.tell(verb, **request)
        assert (caught.value.code, caught.value.fields["reason"]) == (
            Code.HANDLER_FAILED,
            f"{moment}: OSError: the disk is gone",
        )
        await failure(it.ended())
        assert it.states()[-1] == "failed"
        assert ("stop" in log) == (verb == "serve"), "what has not started is not stopped"

    test()


@staged(standby=False, config={"start_at": "one"})
async def test_a_configuration_that_is_not_right_names_its_key(it: Stage) -> None:
    error = await failure(it.ended())
    assert error.code == Code.CONFIG_INVALID
    assert error.fields["reason"] == "start_at: expected int, got str"
    assert it.statuses[-1]["state"] == "failed"


@staged(standby=False, policy="deny serve tally.hold from host\nallow publish,subscribe,call,serve > from host\n")
async def test_an_operation_that_it_may_not_serve_is_a_failure(it: Stage) -> None:
    error = await failure(it.ended())
    assert error.code == Code.DENIED
    assert "tally.hold" in it.runner.reason
    with pytest.raises(NoResponders):
        await it.operator.call("tally.add")


@staged(standby=False)
async def test_a_right_that_is_withdrawn_is_a_failure(it: Stage) -> None:
    assert it.state() == "ready"
    it.bus.node.apply_policy("deny serve tally.hold from host\nallow publish,subscribe,call,serve > from host\n")
    error = await failure(it.ended())
    assert error.code == Code.RIGHT_WITHDRAWN
    assert it.runner.reason.startswith("serving tally.hold: ")


@staged(standby=False)
async def test_a_stop_that_fails_or_hangs_does_not_keep_it(it: Stage) -> None:
    hooks["stop"] = broken
    await it.runner.end()
    await it.ended()
    assert it.state() == "stopped"


@staged(standby=False)
async def test_a_stop_that_hangs_is_ended(it: Stage) -> None:
    hooks["stop"] = asyncio.Event().wait
    ending = background(it.runner.end())
    await it.clock.advance(3)
    await ending
    await it.ended()
    assert it.state() == "stopped"


@staged()
async def test_end_during_a_stop_is_for_good(it: Stage) -> None:
    gate = asyncio.Event()
    hooks["stop"] = gate.wait
    await bring(it, "ready")
    stopping = background(it.runner.stop())
    await settle()
    ending = background(it.runner.end())
    await settle()
    gate.set()
    await asyncio.gather(stopping, ending)
    await it.ended()
    assert it.state() == "stopped"
