"""Where a component is called, and the life of one that is called in this process."""

import asyncio
import sys
from typing import Any

import pytest

import busclient.testing
from busclient import BusError, NoResponders, NotConnected
from busclient.testing import settle
from busd.components.model import Component, Manifest, Request, attach
from busd.components.model.whereabouts import program, whereabouts
from tests.components.model_support import Sample, refusal


@pytest.fixture(autouse=True)
def no_word_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUS_COMPONENTS", raising=False)


@pytest.mark.parametrize(
    ("said", "sample", "other"),
    [
        (None, None, None),
        ("", None, None),
        ("sample=here", "here", None),
        ("sample=here,*=bus", "here", "bus"),
        ("*=bus,sample=here", "here", "bus"),
        (" sample = bus , * = here ,", "bus", "here"),
        ("*=here", "here", "here"),
    ],
)
def test_the_environment_says_where(
    monkeypatch: pytest.MonkeyPatch, said: str | None, sample: str | None, other: str | None
) -> None:
    if said is not None:
        monkeypatch.setenv("BUS_COMPONENTS", said)
    assert whereabouts("sample") == sample
    assert whereabouts("other") == other


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("sample", "'sample' must end in =here or =bus"),
        ("sample=there", "'sample=there' must end in =here or =bus"),
        ("=here", "in '=here' the name must have 1 to 64 characters, or is *"),
        ("Sample=here", "in 'Sample=here' the name may hold only a-z"),
        ("sample=here,sample=bus", "'sample' is there twice"),
        ("*=here,*=here", "'*' is there twice"),
    ],
)
def test_what_the_environment_cannot_say(monkeypatch: pytest.MonkeyPatch, said: str, reason: str) -> None:
    monkeypatch.setenv("BUS_COMPONENTS", said)
    with pytest.raises(BusError) as caught:
        attach(Sample)
    assert caught.value.code == 7002
    assert "BUS_COMPONENTS in the environment: " + reason in caught.value.text


def test_by_default_it_is_here_or_on_the_bus_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with busclient.testing.bus() as bus:
            async with attach(Sample) as near, attach(Sample, bus=bus) as far:
                assert repr(near) == "<handle of sample, here>"
                assert repr(far) == "<handle of sample, on the bus>"
                assert isinstance(await refusal(far.add(1)), NoResponders)
            async with attach(Sample, bus=bus, where="here", config={"start_at": 5}) as near:
                assert await near.add(1) == 7
            monkeypatch.setenv("BUS_COMPONENTS", "sample=here")
            async with attach(Sample, bus=bus) as near:
                assert repr(near) == "<handle of sample, here>"

    asyncio.run(main())


def test_a_shipped_name_and_a_source_will_do() -> None:
    async def main() -> None:
        async with attach("tests.components.model_support:Sample") as sample:
            assert await sample.add(1) == 2

    asyncio.run(main())


def test_without_a_bus_it_connects_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    async def main() -> None:
        async with attach(Sample, where="bus"):
            raise AssertionError("there is no bus")

    monkeypatch.setenv("BUS_URL", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(NotConnected):
        asyncio.run(main())


def test_what_attach_does_not_take() -> None:
    with pytest.raises(ValueError, match="where is 'here' or 'bus', not 'there'"):
        attach(Sample, where="there")  # type: ignore[call-overload]
    for timeout in (0.0, -1.0, float("nan"), 1e9):
        with pytest.raises(ValueError, match="timeout"):
            attach(Sample, timeout=timeout)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/bin/my-agent", "my-agent"),
        ("/opt/My Agent.py", "my-agent"),
        ("/opt/agent/__main__.py", "agent"),
        ("", "python"),
        ("-c", "c"),
        ("/opt/" + "x" * 100, "x" * 64),
        ("/opt/äöü", "python"),
    ],
)
def test_a_program_has_a_name(monkeypatch: pytest.MonkeyPatch, path: str, name: str) -> None:
    monkeypatch.setattr(sys, "argv", [path])
    assert program() == name


class Life(Component):
    """Notes what happens to it."""

    manifest = Manifest(component="life", version="1", owner="t", purpose="p", operations=(Request("work"),))

    def __init__(self, fail: str = "") -> None:
        self.fail = fail
        notes.clear()

    async def start(self) -> None:
        notes.append("start" if self.context.bus is None else "start with a bus")
        self._fail_at("start")

    async def run(self) -> None:
        notes.append("run")
        self._fail_at("run")
        try:
            await asyncio.Event().wait()
        finally:
            notes.append("end of run")
            self._fail_at("end of run")

    async def stop(self) -> None:
        notes.append("stop")
        self._fail_at("stop")

    async def work(self) -> None:
        await asyncio.sleep(0)
        notes.append("work")

    def _fail_at(self, moment: str) -> None:
        if self.fail == moment:
            raise RuntimeError(moment)
        if self.fail == f"cancel at {moment}":
            raise asyncio.CancelledError


notes: list[str] = []


def live(fail: str = "", leave: type[Exception] | None = None) -> list[str]:
    async def main() -> None:
        async with attach(Life, where="here", config={"fail": fail}) as life:
            await life.work()
            if leave is not None:
                raise leave

    asyncio.run(main())
    return notes


def test_a_life() -> None:
    assert live() == ["start", "run", "work", "end of run", "stop"]


def test_a_life_that_is_left_in_anger() -> None:
    with pytest.raises(ZeroDivisionError):
        live(leave=ZeroDivisionError)
    assert notes == ["start", "run", "work", "end of run", "stop"]


@pytest.mark.parametrize(
    ("moment", "happened"),
    [
        ("start", ["start"]),
        ("end of run", ["start", "run", "work", "end of run", "stop"]),
        ("stop", ["start", "run", "work", "end of run", "stop"]),
    ],
)
def test_a_failure_of_a_life_is_raised(moment: str, happened: list[str]) -> None:
    with pytest.raises(RuntimeError, match=moment):
        live(fail=moment)
    assert notes == happened


@pytest.mark.parametrize(("fail", "text"), [("run", "run"), ("cancel at run", "was cancelled from within")])
def test_a_background_that_fails_ends_the_service_and_is_raised_at_the_end(fail: str, text: str) -> None:
    async def main() -> None:
        async with attach(Life, where="here", config={"fail": fail}) as life:
            await settle()
            assert isinstance(await refusal(life.work()), NoResponders)

    with pytest.raises(RuntimeError, match=text):
        asyncio.run(main())
    assert notes == ["start", "run", "stop"]
