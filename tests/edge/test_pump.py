"""When the loop polls for the next frame instead of sleeping, on a loop and a clock that are made up."""

from collections.abc import Callable
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from busd.edge import pump as module
from busd.edge.pump import VAIN, Pump

TURN = 10e-6
"""What a turn of the loop takes while it polls."""


class Loop:
    """Runs callbacks in turns; sleeps when there is none."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def call_soon(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.waiting.append((call, arguments))

    def turn(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call, arguments in waiting:
            call(*arguments)


class Machine:
    """A pump to which frames come at given intervals."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, busy_poll: float = 120e-6) -> None:
        self.now = 100.0
        self.awake = 0.0
        """Seconds in which the loop did not sleep."""
        monkeypatch.setattr(module, "clock", lambda: self.now)
        alarm = SimpleNamespace(at=inf)
        bus: Any = SimpleNamespace(
            receive=None, ready=list, calls_in_flight=0, alarm=alarm, routed=lambda seconds: None
        )
        self.loop = Loop()
        loop: Any = self.loop
        self.pump = Pump(bus, loop, busy_poll)
        self.session: Any = SimpleNamespace(account=SimpleNamespace(paced=False))

    def frames(self, count: int, seconds: float) -> list[bool]:
        """``count`` frames, so many ``seconds`` apart: of each, whether the loop was awake when it came."""
        found = []
        for _ in range(count):
            end = self.now + seconds
            while self.loop.waiting and self.now < end - TURN / 2:
                self.loop.turn()
                self.now += TURN
                self.awake += TURN
            found.append(bool(self.loop.waiting))
            self.now = end
            self.pump.receive(self.session, [])
        return found


def test_frames_in_quick_succession_find_it_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    assert machine.frames(20, 100e-6) == [False, False, *[True] * 18]


def test_a_quiet_bus_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    assert not any(machine.frames(50, 1e-3))
    assert machine.awake <= 51 * 2 * TURN, "a turn to write what came"


def test_without_polling_it_sleeps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(Machine(monkeypatch, busy_poll=0.0).frames(50, 100e-6))


def test_what_comes_just_too_late_for_it_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    assert not any(machine.frames(900, 200e-6))
    polled = machine.awake - 900 * TURN
    assert 0 < polled < 0.08 * 900 * 200e-6, "a ninth of what it may take"


def test_a_round_trip_that_is_slow_while_it_sleeps_becomes_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a machine with a bad day: woken for each frame, calls came 160 us apart, and so nothing ever polled."""
    machine = Machine(monkeypatch)
    machine.frames(10, 200e-6)
    machine.frames(VAIN + 1, 110e-6)
    assert all(machine.frames(50, 110e-6))


def test_a_pause_in_a_conversation_is_not_held_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.frames(20, 100e-6)
    machine.frames(1, 5e-3)
    assert machine.frames(4, 100e-6) == [False, True, True, True]
