"""The ``bus`` command where there are no signals, no numbers for users and no unix sockets."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from buscli.connection import owner, run
from buscli.exits import Exit
from buscli.relay import bind
from buscli.units import own_user_id, user_name
from busproto.errors import BusError, Code


@pytest.fixture(autouse=True)
def _windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")


@pytest.mark.parametrize(
    ("name", "said"), [("Jo Doe", "jo-doe"), ("jo", "jo"), ("", "operator"), ("\u4eba", "operator")]
)
def test_the_owner_is_the_user_s_name(monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.setenv("USERNAME", name)
    assert owner() == said


def test_users_have_no_numbers() -> None:
    assert user_name(0) == 0
    assert own_user_id() == -1


def test_a_relay_says_that_it_cannot_listen(tmp_path: Path) -> None:
    with pytest.raises(BusError) as caught:
        bind(f"{tmp_path}/bus.sock", 0o600)
    assert caught.value.code == Code.LISTEN_FAILED
    assert "win32 has no unix sockets" in caught.value.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ends_well", "code"), [(False, Exit.INTERRUPTED), (True, Exit.OK)])
def test_ctrl_c_ends_a_command_in_order(ends_well: bool, code: Exit) -> None:
    left = []

    async def command() -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            left.append("the bus")
        return 0

    assert run(command(), ends_well=ends_well) == code
    assert left == ["the bus"]
