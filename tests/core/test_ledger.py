"""Fair shares: dbus-broker's arithmetic, number by number, and what it promises whatever anyone does."""

import hypothesis.strategies as st
from hypothesis import given

from busd.core.ledger import Ledger


def test_the_shares_are_dbus_brokers() -> None:
    """The numbers of its src/util/test-user.c."""
    ledger = Ledger(1024)
    assert not ledger.charge("first", 513)
    assert ledger.charge("first", 512)
    assert not ledger.charge("second", 171)
    assert ledger.charge("second", 170)
    assert not ledger.charge("first")
    assert not ledger.charge("second")
    ledger.release("first", 512)
    assert not ledger.charge("second", 343)
    assert ledger.charge("second", 342)
    assert ledger.share("second") == 512
    assert not ledger.charge(None, 513)
    assert ledger.charge(None, 512)
    assert ledger.used == 1024


def test_most_is_what_can_be_charged() -> None:
    ledger = Ledger(1024)
    assert ledger.most("first") == 512
    ledger.charge("first", 512)
    assert ledger.most("second") == 170
    assert ledger.most(None) == 512


def test_no_amount_is_too_large_to_be_refused() -> None:
    ledger = Ledger(1024)
    for amount in (2**32 - 1, 2**64, 2**200):
        assert not ledger.charge("first", amount)
        assert not ledger.charge(None, amount)
    assert ledger.used == 0


@given(
    st.integers(1, 5000),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 1500), st.booleans()), max_size=60),
)
def test_nothing_leaks_and_nobody_has_more_than_his_share(limit: int, steps: list[tuple[int, int, bool]]) -> None:
    ledger = Ledger(limit)
    held: dict[int | None, list[int]] = {actor: [] for actor in (None, 1, 2, 3, 4)}
    for who, amount, gives_back in steps:
        actor = who or None
        if gives_back and held[actor]:
            ledger.release(actor, held[actor].pop())
            continue
        most, share = ledger.most(actor), ledger.share(actor)
        taken = ledger.charge(actor, amount)
        assert taken == (share + amount <= most)
        if taken:
            held[actor].append(amount)
        assert ledger.used == sum(map(sum, held.values())) <= limit
        assert ledger.share(actor) == sum(held[actor])
    for actor, amounts in held.items():
        for amount in amounts:
            ledger.release(actor, amount)
    assert (ledger.used, ledger.actors) == (0, 0)


@given(st.integers(2, 12), st.integers(1000, 100_000))
def test_each_of_n_greedy_actors_gets_between_one_nth_and_its_square(actors: int, limit: int) -> None:
    ledger = Ledger(limit)
    for actor in range(actors):
        while ledger.most(actor) > ledger.share(actor):
            assert ledger.charge(actor, ledger.most(actor) - ledger.share(actor))
    n = actors + 1  # the owner has a share too
    for actor in range(actors):
        assert ledger.share(actor) >= limit // (n * n) - 1
    assert ledger.most(None) >= limit // (n * n)
