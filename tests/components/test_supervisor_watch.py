"""Back-off, budgets and liars: what the supervisor decides, on made figures and a made clock."""

import pytest

from busd.components.supervisor.backoff import Restarts
from busd.components.supervisor.runners import Runner
from busd.components.supervisor.watch import Budget, Liveness, Usage
from tests.components.supervisor_support import status

MIB = 1 << 20


# -- back-off ---------------------------------------------------------------------------------------------------------


def test_the_pause_doubles_to_thirty_seconds() -> None:
    restarts = Restarts(limit=1000)
    pauses = [restarts.after(ran=0.1, now=float(at)) for at in range(12)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]
    assert restarts.count == 12


def test_after_the_limit_within_a_minute_it_has_failed() -> None:
    restarts = Restarts(limit=3)
    assert None not in [restarts.after(0.0, at) for at in (0.0, 1.0, 2.0)]
    assert restarts.after(0.0, 3.0) is None
    assert restarts.after(0.0, 59.0) is None
    assert restarts.reason() == "it was restarted 3 times within 60 s"
    assert restarts.after(0.0, 61.0) is not None, "the first one is longer ago than a minute"
    assert restarts.count == 4


def test_a_run_of_a_minute_is_a_healthy_one() -> None:
    restarts = Restarts(limit=2)
    assert restarts.after(0.0, 0.0) == 0.1
    assert restarts.after(0.0, 1.0) == 0.2
    assert restarts.after(59.9, 50.0) is None
    assert restarts.after(60.0, 55.0) == 0.1


def test_an_operator_begins_anew() -> None:
    restarts = Restarts(limit=1)
    assert restarts.after(0.0, 0.0) == 0.1
    assert restarts.after(0.0, 1.0) is None
    restarts.forget()
    assert restarts.after(0.0, 2.0) == 0.1
    assert restarts.count == 2


def test_a_limit_of_none_is_never_restarted() -> None:
    restarts = Restarts(limit=0)
    assert restarts.after(100.0, 100.0) is None
    assert restarts.reason() == "it is not to be restarted"
    restarts.limit(1)
    assert restarts.after(100.0, 100.0) == 0.1
    assert restarts.reason() == "it was restarted once within 60 s"


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_memory_counts_at_any_look() -> None:
    usage, budget = Usage(), Budget(256 * MIB, 100.0)
    usage.look(256 * MIB, 0.0, 0.0)
    assert usage.over(budget) is None
    usage.look(300 * MIB, 0.0, 1.0)
    assert usage.over(budget) == "memory of 300 MiB is over its budget of 256 MiB"
    usage.look(256 * MIB + 1, 0.0, 2.0)
    assert usage.over(budget) == "memory of 268435457 bytes is over its budget of 268435456 bytes"


def test_cpu_counts_as_the_mean_of_ten_seconds() -> None:
    usage, budget = Usage(), Budget(256 * MIB, 50.0)
    for second in range(10):
        usage.look(MIB, 0.9 * second, 100.0 + second)
        assert usage.over(budget) is None, "there are no 10 s yet"
    usage.look(MIB, 9.0, 110.0)
    assert usage.over(budget) == "CPU of 90 % over 10 s is over its budget of 50 %"
    for second in range(1, 11):
        usage.look(MIB, 9.0, 110.0 + second)
    assert usage.cpu_percent == 0.0
    assert usage.over(budget) is None


def test_a_burst_is_nobodys_harm() -> None:
    usage, budget = Usage(), Budget(256 * MIB, 50.0)
    used = 0.0
    for second in range(100):
        used += 3.0 if second % 10 == 5 else 0.1  # three cores for a second in ten
        usage.look(MIB, used, float(second))
        assert usage.over(budget) is None


def test_looks_that_come_late_still_give_a_mean() -> None:
    usage, budget = Usage(), Budget(256 * MIB, 50.0)
    usage.look(MIB, 0.0, 0.0)
    usage.look(MIB, 30.0, 30.0)
    assert usage.cpu_percent == 100.0
    assert usage.over(budget) is not None
    usage.look(MIB, 30.0, 30.0)
    usage.look(MIB, 30.0, 60.0)
    assert usage.cpu_percent == 0.0


def test_what_cannot_be_measured_counts_as_it_says() -> None:
    usage = Usage()
    usage.said(300 * MIB, 5.0)
    assert usage.over(Budget(256 * MIB, 100.0)) is not None


# -- liars ------------------------------------------------------------------------------------------------------------

SERVES = ["toy.add", "toy.watch"]


def runner(now: float, state: str = "ready") -> Runner:
    return Runner(status(state=state, serves=SERVES), "host-7", "host", "node", "host", now)


def test_one_that_keeps_its_word_is_left_alone() -> None:
    one = runner(0.0)
    liveness = Liveness(0.0)
    for second in range(60):
        now = float(second)
        one.heard = now
        if liveness.ask(now):
            liveness.answered()
        assert liveness.lie(one, SERVES, now) is None


def test_it_is_asked_every_five_seconds_and_must_answer_within_two() -> None:
    one = runner(0.0)
    liveness = Liveness(0.0)
    asked = []
    for tenth in range(200):
        now = one.heard = tenth / 10
        if liveness.ask(now):
            asked.append(now)
            liveness.answered()
    assert asked == [5.0, 10.0, 15.0]
    one.heard = 30.0
    assert liveness.ask(30.0)
    assert not liveness.ask(40.0), "one question at a time"
    assert liveness.lie(one, SERVES, 31.9) is None
    assert liveness.lie(one, SERVES, 32.0) == "it did not answer the question for its status within 2 s"


def test_silence_of_five_seconds_is_the_end() -> None:
    one = runner(10.0)
    liveness = Liveness(10.0)
    assert liveness.lie(one, SERVES, 14.9) is None
    assert liveness.lie(one, SERVES, 15.0) == "no status came from it for 5.0 s"


def test_time_in_which_nobody_could_be_heard_does_not_count() -> None:
    one = runner(0.0)
    liveness = Liveness(0.0)
    assert liveness.ask(5.0)
    one.heard = 5.0
    one.heard += 60.0
    liveness.excuse(60.0)
    assert liveness.lie(one, SERVES, 66.9) is None
    assert liveness.lie(one, SERVES, 67.0) is not None


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        ([], "it says that it is ready, but does not serve toy.add, toy.watch"),
        (["toy.add"], "it says that it is ready, but does not serve toy.watch"),
    ],
)
def test_one_that_says_ready_but_does_not_serve_is_found_out(offered: list[str], reason: str) -> None:
    one = runner(0.0)
    liveness = Liveness(0.0)
    assert liveness.lie(one, offered, 0.0) is None, "its word and its offer do not arrive together"
    one.heard = 1.0
    assert liveness.lie(one, offered, 1.0) is None
    one.heard = 2.0
    assert liveness.lie(one, offered, 2.0) == reason


def test_one_that_has_just_begun_to_drain_is_no_liar() -> None:
    one = runner(0.0)
    liveness = Liveness(0.0)
    assert liveness.lie(one, [], 0.0) is None
    assert liveness.lie(one, [], 3.0) is None, "it has not repeated since that it is ready"
    drained = runner(3.0, "draining")
    assert liveness.lie(drained, [], 3.5) is None
    one.heard = 4.0
    assert liveness.lie(one, [], 4.0) is None, "the time begins again"


def test_one_that_is_not_attached_has_not_lied() -> None:
    one = runner(0.0)
    assert Liveness(0.0).lie(one, None, 4.0) is None
