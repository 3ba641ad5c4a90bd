"""Deadlines: what is due comes out, once, and nothing else does."""

from hypothesis import given
from hypothesis import strategies as st

from busd.core.deadlines import TICKS_PER_SECOND, Alarm, Deadlines

TICK = 1 / TICKS_PER_SECOND


@given(st.lists(st.tuples(st.floats(0, 1000), st.booleans()), max_size=50), st.lists(st.floats(0, 1100), max_size=10))
def test_each_expires_once_and_within_a_tick(things: list[tuple[float, bool]], times: list[float]) -> None:
    deadlines: Deadlines[int] = Deadlines(Alarm())
    expected: dict[int, float] = {}
    for number, (deadline, removed) in enumerate(things):
        slot = deadlines.add(number, deadline)
        if removed:
            deadlines.remove(number, slot)
        else:
            expected[number] = deadline
    for now in sorted(times):
        for number in deadlines.expire(now):
            assert expected.pop(number) <= now
        assert all(deadline > now - TICK - 1e-9 for deadline in expected.values())
        following = deadlines.next()
        assert (following is None) == (not expected)
        assert following is None or following > now
    assert len(deadlines) == len(expected)


def test_a_million_answered_calls_leave_nothing_behind() -> None:
    deadlines: Deadlines[int] = Deadlines(Alarm())
    for number in range(20_000):
        deadlines.remove(number, deadlines.add(number, 5.0 + number / 10_000))
    assert len(deadlines) == 0
    assert deadlines.next() is None
    assert not deadlines._slots
