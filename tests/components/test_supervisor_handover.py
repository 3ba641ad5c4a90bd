"""Hand-over between two fakes: whatever fails at whichever step, the pin is released and at most one serves."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from busd.components.supervisor import handover
from busd.components.supervisor.handover import Lost, Taken, hand_over
from busproto.errors import BusError, Code

REFUSED = BusError(Code.HANDLER_FAILED, reason="RuntimeError")
HANGS = "hangs"
Trouble = Exception | str
"""What a verb raises; or that it never ends."""


class Broker:
    """Counts pins, and notes which parties served while calls were let through."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.pinned: list[str] = []
        self.pins = 0
        self.releases = 0

    def pin(self, subjects: Sequence[str]) -> Callable[[], None]:
        self.story.append("pin")
        self.pins += 1
        self.pinned = list(subjects)

        def release() -> None:
            if self.pins > self.releases:
                self.story.append("unpin")
                self.releases += 1

        return release


class Fake:
    """A party whose verbs fail as they are told."""

    def __init__(
        self, name: str, broker: Broker, *, serving: bool = False, state: bytes | None = None, **troubles: Trouble
    ) -> None:
        self.name = name
        self.broker = broker
        self.serving = serving
        self.state = state
        self.serves: Sequence[str] = ("toy.add", "toy.watch")
        self.offers: Sequence[str] | None = None
        self.given: bytes | None = b"nothing was given"
        self.seconds = 0.0
        self.stopped = False
        self.troubles = troubles

    @property
    def offered(self) -> Sequence[str] | None:
        return self.offers if self.offers is not None else (self.serves if self.serving else ())

    @property
    def stateful(self) -> bool:
        return self.state is not None

    async def _do(self, verb: str) -> None:
        self.broker.story.append(f"{self.name}.{verb}")
        trouble = self.troubles.get(verb)
        if trouble == HANGS:
            await asyncio.sleep(3600)
        if isinstance(trouble, Exception):
            if isinstance(trouble, Lost):
                self.serving = False
                self.state = None  # nothing can be asked of it any more
            raise trouble

    async def prepare(self) -> None:
        await self._do("prepare")

    async def serve(self, state: bytes | None) -> None:
        self.given = state
        await self._do("serve")
        self.serving = True

    async def drain(self, seconds: float) -> bytes | None:
        self.seconds = seconds
        await self._do("drain")
        self.serving = False
        return self.state

    async def resume(self) -> None:
        await self._do("resume")
        self.serving = True

    async def stop(self) -> None:
        self.broker.story.append(f"{self.name}.stop")
        self.serving = False
        self.stopped = True


def run(old: Fake, new: Fake, seconds: float = 0.05) -> Taken | BusError:
    """One hand-over; its pin must be released whatever comes of it, and one at most may serve."""

    async def main() -> Taken | BusError:
        try:
            return await hand_over("toy", old, new, old.broker, seconds=seconds)
        except BusError as error:
            return error

    outcome = asyncio.run(main())
    assert old.broker.pins == old.broker.releases
    assert [old.serving, new.serving].count(True) <= 1
    return outcome


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "DEADLINE_SECONDS", 0.05)
    monkeypatch.setattr(handover, "UNDO_SECONDS", 0.05)
    monkeypatch.setattr(handover, "DRAIN_SLACK_SECONDS", 0.01)


def test_the_new_one_takes_over_and_gets_the_state() -> None:
    broker = Broker()
    old, new = Fake("old", broker, serving=True, state=b"\x81"), Fake("new", broker)
    new.serves = ("toy.add", "toy.more")
    taken = run(old, new, seconds=7.0)
    assert isinstance(taken, Taken)
    assert broker.story == ["new.prepare", "pin", "old.drain", "new.serve", "unpin", "old.stop"]
    assert (new.given, new.serving, old.stopped, old.seconds) == (b"\x81", True, True, 7.0)
    assert broker.pinned == ["toy.add", "toy.watch", "toy.more"]
    assert (taken.state_bytes, taken.trouble, taken.state_lost) == (1, "", False)
    assert 0 <= taken.pinned_seconds <= taken.seconds


def test_one_without_a_state_gives_none() -> None:
    broker = Broker()
    new = Fake("new", broker)
    assert isinstance(run(Fake("old", broker, serving=True), new), Taken)
    assert new.given is None


@pytest.mark.parametrize("trouble", [REFUSED, HANGS, Lost("it ended with status 1"), OSError("no such pipe")], ids=str)
def test_when_the_new_one_cannot_get_ready_nothing_has_happened(trouble: Trouble) -> None:
    broker = Broker()
    old, new = Fake("old", broker, serving=True), Fake("new", broker, prepare=trouble)
    error = run(old, new)
    assert isinstance(error, BusError)
    assert (error.code, error.fields["step"]) == (Code.HANDOVER_FAILED, "prepare")
    assert error.text.endswith("the old one serves")
    assert broker.story == ["new.prepare", "new.stop"], "no call has waited"
    assert old.serving


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (REFUSED, "the responder failed: RuntimeError"),
        (HANGS, "it did not end in time"),
        (Lost("its process ended with status -9"), "its process ended with status -9"),
        (ValueError("no"), "ValueError: no"),
    ],
    ids=str,
)
def test_when_the_new_one_does_not_serve_the_old_one_resumes(trouble: Trouble, reason: str) -> None:
    broker = Broker()
    old, new = Fake("old", broker, serving=True, state=b"1"), Fake("new", broker, serve=trouble)
    error = run(old, new)
    assert isinstance(error, BusError)
    assert error.fields["step"] == "serve"
    assert reason in error.text
    assert error.text.endswith("the old one serves")
    steps = ["new.prepare", "pin", "old.drain", "new.serve", "new.stop", "old.resume", "unpin"]
    assert broker.story == steps
    assert old.serving
    assert not old.stopped


@pytest.mark.parametrize(
    ("offers", "reason"),
    [
        (("toy.add",), "does not offer toy.watch"),
        ((), "does not offer toy.add, toy.watch"),
    ],
)
def test_a_new_one_that_only_says_that_it_serves_is_found_out(offers: Sequence[str], reason: str) -> None:
    broker = Broker()
    old, new = Fake("old", broker, serving=True), Fake("new", broker)
    new.offers = offers
    error = run(old, new)
    assert isinstance(error, BusError)
    assert reason in error.text
    assert old.serving
    assert new.stopped


@pytest.mark.parametrize("trouble", [REFUSED, HANGS], ids=str)
def test_when_the_old_one_does_not_drain_it_serves_on(trouble: Trouble) -> None:
    broker = Broker()
    old, new = Fake("old", broker, serving=True, state=b"1", drain=trouble), Fake("new", broker)
    error = run(old, new)
    assert isinstance(error, BusError)
    assert error.fields["step"] == "drain"
    assert error.text.endswith("the old one serves")
    assert broker.story == ["new.prepare", "pin", "old.drain", "old.resume", "new.stop", "unpin"]
    assert old.serving


@pytest.mark.parametrize("state", [None, b"1"])
def test_when_the_old_one_dies_while_it_drains_the_new_one_serves_without_its_state(state: bytes | None) -> None:
    broker = Broker()
    old = Fake("old", broker, serving=True, state=state, drain=Lost("its process ended with status -9"))
    new = Fake("new", broker)
    taken = run(old, new)
    assert isinstance(taken, Taken)
    assert "its process ended with status -9" in taken.trouble
    assert taken.state_lost == (state is not None)
    assert new.given is None
    assert new.serving
    assert broker.story[-2:] == ["unpin", "old.stop"]


@pytest.mark.parametrize("trouble", [REFUSED, HANGS], ids=str)
def test_an_old_one_that_neither_drains_nor_resumes_is_replaced(trouble: Trouble) -> None:
    broker = Broker()
    old = Fake("old", broker, serving=True, state=b"1", drain=trouble, resume=trouble)
    new = Fake("new", broker)
    taken = run(old, new)
    assert isinstance(taken, Taken)
    assert "did not drain" in taken.trouble
    assert "did not resume" in taken.trouble
    assert taken.state_lost
    assert old.stopped
    assert new.serving


@pytest.mark.parametrize("serve", [REFUSED, HANGS, Lost("gone")], ids=str)
def test_when_both_are_lost_it_says_that_nobody_serves(serve: Trouble) -> None:
    broker = Broker()
    old, new = Fake("old", broker, serving=True, drain=Lost("gone")), Fake("new", broker, serve=serve)
    error = run(old, new)
    assert isinstance(error, BusError)
    assert error.text.endswith("nobody serves")
    assert "old.resume" not in broker.story


@pytest.mark.parametrize("resume", [REFUSED, HANGS, Lost("gone")], ids=str)
def test_when_the_old_one_cannot_resume_it_is_ended_and_that_is_said(resume: Trouble) -> None:
    broker = Broker()
    old, new = Fake("old", broker, serving=True, resume=resume), Fake("new", broker, serve=REFUSED)
    error = run(old, new)
    assert isinstance(error, BusError)
    assert "nobody serves: the old one did not resume" in error.text
    assert old.stopped


@pytest.mark.parametrize("step", ["prepare", "drain", "serve"])
def test_cancelled_at_any_step_the_pin_is_released(step: str) -> None:
    async def main() -> Broker:
        broker = Broker()
        old, new = Fake("old", broker, serving=True, drain=HANGS), Fake("new", broker, prepare=HANGS, serve=HANGS)
        for party in (old, new):
            party.troubles = {verb: trouble for verb, trouble in party.troubles.items() if verb == step}
        task = asyncio.create_task(hand_over("toy", old, new, broker, seconds=100.0))
        while not broker.story or not broker.story[-1].endswith(step):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return broker

    broker = asyncio.run(main())
    assert broker.pins == broker.releases == (step != "prepare")
