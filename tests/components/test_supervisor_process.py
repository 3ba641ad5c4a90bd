"""The supervisor with real processes: starting, starting again, cutting off, stopping."""

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from busclient import BusError, Code, NoResponders
from busd.components.supervisor.charge import Charge
from tests.components.supervisor_world import run, world
from tests.core.peer import OPEN, made


def test_a_component_is_started_serves_and_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, "[config]\nstart = 41") as here:
            row = await here.ready()
            assert await here.call("count") == 42
            pid = await here.call("pid")
            assert (row["pid"], row["placement"], row["supervised"]) == (pid, "host", True)
            assert (row["version"], row["owner"], row["restarts"], row["cut_off"]) == ("1", "tests", 0, 0)
            assert row["source"] == "supervisor_toys:Toy"
            assert "toy.count" in row["serves"]
            row = await here.until(lambda row: row["operations"].get("count", {}).get("calls") == 1)
            assert row["memory_bytes"] > 1 << 20
            assert row["health"] == {"ok": True, "detail": ""}
            (figures,) = here.supervisor.statistics()
            assert (figures.name, figures.state, figures.placement) == ("toy", "ready", "host")
            assert figures.operations["count"].calls == 1
            row = await here.admin("stop")
            assert (row["state"], row["placement"], row["pid"]) == ("stopped", "", 0)
            assert not psutil.pid_exists(pid)
            with pytest.raises(NoResponders):
                await here.call("count")
            row = await here.admin("start")
            assert row["state"] == "ready"
            assert await here.call("count") == 42
            assert here.reports == []

    run(main, monkeypatch)


def test_one_that_is_killed_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            first = await here.ready()
            await here.call("count")
            await here.until(lambda row: row["operations"].get("count", {}).get("calls") == 1)
            os.kill(first["pid"], signal.SIGKILL)
            second = await here.until(lambda row: row["state"] == "ready" and row["instance"] != first["instance"])
            assert second["restarts"] == 1
            await here.call("count")
            await here.until(lambda row: row["operations"]["count"]["calls"] == 2)
            (ended,) = here.reported("component-ended")
            assert ended["reason"] == "its process ended with signal 9"
            assert ended["restart_seconds"] == 0.1
            assert f"process {first['pid']} ended with signal 9" in await here.texts()

    run(main, monkeypatch)


def test_one_that_keeps_dying_is_given_up_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, '[config]\ntrouble = "exit"\n[restarts]\nlimit = 2') as here:
            row = await here.until(lambda row: row["state"] == "failed")
            assert row["reason"] == "its process ended with status 7; it was restarted 2 times within 60 s"
            assert [event["restart_seconds"] for event in here.reported("component-ended")] == [0.1, 0.2]
            (failed,) = here.reported("component-failed")
            assert failed["cure"] == "put it right, then: bus component start toy"
            for verb in ("replace", "move"):
                with pytest.raises(BusError) as caught:
                    await here.admin(verb, **({"to": "soc"} if verb == "move" else {}))
                assert caught.value.code == Code.COMPONENT_STATE
                assert "failed" in caught.value.text
            here.configure()
            row = await here.admin("start")
            assert (row["state"], row["reason"]) == ("ready", "")

    run(main, monkeypatch)


@pytest.mark.parametrize(
    ("settings", "kind", "reason"),
    [
        ('[config]\ntrouble = "start"\n[restarts]\nlimit = 0', "Toy", "there is no paper"),
        ('[config]\ntrouble = "run"\n[restarts]\nlimit = 0', "Toy", "the paper is used up"),
        ("[config]\nstrat = 1", "Toy", "strat"),
        ("", "Nothing", "another start would meet it again"),
    ],
)
def test_why_it_failed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, kind: str, reason: str
) -> None:
    async def main() -> None:
        async with world(tmp_path, settings, kind) as here:
            row = await here.until(lambda row: row["state"] == "failed")
            assert reason in row["reason"]
            assert row["restarts"] == 0
            assert not row["health"]["ok"]

    run(main, monkeypatch)


def test_while_it_waits_for_a_restart_it_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("busd.components.supervisor.backoff.FIRST_SECONDS", 30.0)
        async with world(tmp_path, '[config]\ntrouble = "exit"') as here:
            await here.until(lambda row: row["state"] == "restarting")
            row = await here.admin("stop")
            assert (row["state"], row["reason"]) == ("stopped", "")
            await asyncio.sleep(0.1)
            assert (await here.row())["state"] == "stopped"
            here.configure()
            assert (await here.admin("start"))["state"] == "ready"

    run(main, monkeypatch)


def test_one_over_its_memory_is_stopped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, kind="Small") as here:
            pid = (await here.ready())["pid"]
            with monkeypatch.context() as patch:  # not looked at while it grows: it has twice as much for a moment
                patch.setattr(Charge, "look", lambda charge, now: None)
                await here.call("grow", mebibytes=90)
            row = await here.until(lambda row: row["state"] == "stopped")
            assert row["reason"].startswith("memory of 1")
            assert row["reason"].endswith(" MiB is over its budget of 96 MiB")
            assert (row["cut_off"], row["restarts"]) == (1, 0)
            assert here.supervisor.statistics()[0].cut_off == 1
            (cut,) = here.reported("component-cut-off")
            assert (cut["pid"], cut["reason"]) == (pid, row["reason"])
            departed = (await here.bus.call("$bus.list", {"departed": True})).payload["departed"]
            (left,) = [each for each in departed if each["endpoint"].startswith("host-") and each["error"]]
            assert row["reason"] in left["error"]["text"]
            await asyncio.sleep(0.3)
            assert not psutil.pid_exists(pid)
            assert (await here.row())["state"] == "stopped"

    run(main, monkeypatch)


def test_settings_set_another_budget_and_the_system_keeps_a_ceiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with world(tmp_path, "[budget]\nmemory_bytes = 134217728\ncpu_percent = 20") as here:
            row = await here.ready()
            assert row["budget"] == {"memory_bytes": 128 << 20, "cpu_percent": 20.0}
            with pytest.raises(BusError):
                await here.call("grow", mebibytes=600)
            assert (await here.row())["state"] == "ready", "it has got no more than its ceiling, and lives"

    run(main, monkeypatch)


def test_one_over_its_cpu_is_stopped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("busd.components.supervisor.watch.CPU_SECONDS", 2.0)
        async with world(tmp_path, "[budget]\ncpu_percent = 5") as here:
            await here.ready()
            spinning = asyncio.create_task(here.call("spin", seconds=30.0))
            row = await here.until(lambda row: row["state"] == "stopped")
            assert row["reason"].startswith("CPU of ")
            assert row["reason"].endswith(" over 2 s is over its budget of 5 %")
            with pytest.raises(BusError):
                await spinning

    run(main, monkeypatch)


def test_one_that_hangs_is_cut_off_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            first = await here.ready()
            hanging = asyncio.create_task(here.call("hang"))
            row = await here.until(lambda row: row["state"] == "ready" and row["pid"] != first["pid"], seconds=30)
            assert (row["cut_off"], row["restarts"]) == (1, 1)
            (cut,) = here.reported("component-cut-off")
            assert "no status came from it" in cut["reason"] or "did not answer" in cut["reason"]
            assert here.reported("component-ended")[0]["reason"] == cut["reason"]
            with pytest.raises(BusError):
                await hanging

    run(main, monkeypatch)


def test_one_that_says_ready_but_serves_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, '[config]\ntrouble = "pretend"\n[restarts]\nlimit = 0') as here:
            row = await here.until(lambda row: row["state"] == "failed", seconds=30)
            assert "it says that it is ready, but does not serve toy.count" in row["reason"]
            assert row["cut_off"] == 1

    run(main, monkeypatch)


def test_one_that_hangs_before_it_says_anything_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("busd.components.supervisor.charge.START_SECONDS", 2.0)
        monkeypatch.setattr("busd.components.supervisor.charge.SILENT_SECONDS", 2.0)
        async with world(tmp_path, '[config]\ntrouble = "hang"\n[restarts]\nlimit = 0') as here:
            row = await here.until(lambda row: row["state"] == "failed", seconds=30)
            assert "status" in row["reason"]
            assert row["cut_off"] == 1

    run(main, monkeypatch)


def test_a_class_of_another_component_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, kind="Other") as here:
            row = await here.until(lambda row: row.get("state") == "stopped")
            assert row["reason"] == "supervisor_toys:Other is component 'other', and was started as 'toy'"

    run(main, monkeypatch)


def test_its_output_is_kept_labelled_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            pid = (await here.ready())["pid"]
            await here.call("write", lines=2, text="good")
            await here.call("write", lines=1, text="bad", stream="stderr")
            await here.until(lambda row: row["log_lines"] >= 3)
            answer = await here.admin("logs", limit=10)
            assert [(line["seq"], line["stream"], line["pid"], line["text"]) for line in answer["lines"]] == [
                (1, "stdout", pid, "good 0"),
                (2, "stdout", pid, "good 1"),
                (3, "stderr", pid, "bad 0"),
            ]
            assert (answer["next"], answer["lost"]) == (3, 0)
            await here.call("write", lines=20_000)
            await here.until(lambda row: row["log_lines"] == 20_003)
            answer = await here.admin("logs", after=3, limit=1000)
            assert answer["lost"] == 19_000
            assert [answer["lines"][0]["text"], answer["lines"][-1]["text"]] == ["line 19000", "line 19999"]
            assert (await here.admin("logs", after=answer["next"]))["lines"] == []

    with caplog.at_level("INFO", "busd.components"):
        run(main, monkeypatch)
    logged = [record.__dict__ for record in caplog.records if record.__dict__.get("event") == "component-output"]
    assert (logged[0]["fields"]["component"], logged[0]["fields"]["text"]) == ("toy", "good 0")
    assert len(logged) < 300, "the node's log is not flooded"


def test_its_health_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            await here.ready()
            well = {"component": "toy", "state": "ready", "reason": "", "health": {"ok": True, "detail": ""}}
            assert await here.admin("health") == well
            await here.call("sicken", detail="a cold")
            assert (await here.admin("health"))["health"] == {"ok": False, "detail": "a cold"}
            await here.admin("stop")
            assert (await here.admin("health"))["health"] == {"ok": False, "detail": "it is stopped"}

    run(main, monkeypatch)


def test_stopping_the_supervisor_leaves_no_process_whatever_they_are_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            await here.ready()
            await here.admin("start")
            waiting = asyncio.create_task(here.call("wait", seconds=30.0))
            replacing = asyncio.create_task(here.admin("replace"))
            await asyncio.sleep(0.2)
        waiting.cancel()
        for task in (waiting, replacing):
            with pytest.raises((BusError, asyncio.CancelledError)):
                await task
        (tmp_path / "fresh").mkdir()
        async with world(tmp_path / "fresh"):
            pass  # stopped before its process has said anything

    run(main, monkeypatch)


@pytest.mark.parametrize(
    ("verb", "fields", "reason"),
    [
        ("start", {"component": 7}, "component: expected 'str', got 'int'"),
        ("stop", {}, "component: it is missing"),
        ("replace", {"component": "toy", "seconds": 0}, "seconds: expected"),
        ("replace", {"component": "toy", "sauce": "x:Y"}, "sauce: there is no such field"),
        ("move", {"component": "toy"}, "to: it is missing"),
        ("move", {"component": "toy", "to": "moon"}, "to: 'moon' is not host, soc or guest:UNIT"),
        ("move", {"component": "toy", "to": "guest:A B"}, "to: 'guest:A B' is not"),
        ("logs", {"component": "toy", "limit": 1001}, "limit: expected"),
        ("logs", {"component": "toy", "after": -1}, "after: expected"),
    ],
)
def test_a_request_that_is_wrong_names_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, fields: dict[str, object], reason: str
) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            here.configure()
            here.supervisor.take_charge(here.read("toy"))
            with pytest.raises(BusError) as caught:
                await here.supervisor.services()[f"$bus.admin.component.{verb}"](fields)
            assert caught.value.code == Code.REQUEST_INVALID
            assert reason in caught.value.text

    run(main, monkeypatch)


def test_a_name_that_nothing_has_is_refused_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            here.configure()
            here.supervisor.take_charge(here.read("toy"))
            for verb in ("start", "stop", "health", "logs", "replace"):
                with pytest.raises(BusError) as caught:
                    await here.admin(verb, "toi")
                assert caught.value.code == Code.COMPONENT_UNKNOWN
                assert caught.value.fields["nearest"] == "toy"

    run(main, monkeypatch)


def test_one_that_was_not_configured_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, None) as here:
            assert (await here.bus.call("$bus.components", {})).payload == {"components": []}
            here.configure()
            assert (await here.admin("start"))["state"] == "ready"
            again = await here.admin("start")
            assert again["pid"] == (await here.admin("start"))["pid"], "it runs already"
            here.configure("[budget]\nmemory = 1")
            with pytest.raises(BusError) as caught:
                await here.admin("replace")
            assert caught.value.code == Code.CONFIG_INVALID
            assert "budget.memory in " in caught.value.text

    run(main, monkeypatch)


def test_a_policy_under_which_nobody_can_be_heard_costs_no_component_its_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right of the supervisor's own was withdrawn, and all components looked silent."""

    async def main() -> None:
        monkeypatch.setattr("busd.components.supervisor.watch.SILENT_SECONDS", 1.0)
        monkeypatch.setattr("busd.components.supervisor.charge.SILENT_SECONDS", 1.0)
        async with world(tmp_path) as here:
            first = await here.ready()
            bus, now = here.listener.bus, asyncio.get_running_loop().time
            for denied in ("deny subscribe component.> from host\n", "deny call component.> from host\n"):
                bus.apply_policy(made(denied + OPEN), now())
                here.listener.pump.wake()
                await asyncio.sleep(3.5)
            assert [fields["pattern"] for fields in here.reported("components-not-heard")] == ["component.*.*.status"]
            bus.apply_policy(made(OPEN), now())
            row = await here.until(lambda row: row["seconds"] > first["seconds"] + 7)
            assert (row["state"], row["pid"], row["cut_off"]) == ("ready", first["pid"], 0)
            assert not here.reported("component-cut-off")

    run(main, monkeypatch)


def test_a_supervisor_whose_session_was_ended_comes_back_and_no_component_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended for good, as a broken protocol ends it: the client does not come back from that by itself."""

    async def main() -> None:
        async with world(tmp_path) as here:
            first = await here.ready()
            census = (await here.bus.call("$bus.list", {})).payload["endpoints"]
            (own,) = [row["endpoint"] for row in census if row["claims"].get("component") == "supervisor"]
            here.broker.cut_off(own, "it is to come back")
            while not here.supervisor.unheard:
                await asyncio.sleep(0.02)
            assert "it is to come back" in here.supervisor.unheard
            while here.supervisor.unheard:
                await asyncio.sleep(0.02)
            row = await here.until(lambda row: row["seconds"] > first["seconds"] + 3)
            assert (row["state"], row["pid"], row["cut_off"]) == ("ready", first["pid"], 0)
            os.kill(row["pid"], signal.SIGKILL)
            await here.until(lambda row: row["state"] == "ready" and row["pid"] != first["pid"])
            await here.admin("replace")
            assert (await here.row())["state"] == "ready"

    run(main, monkeypatch)
