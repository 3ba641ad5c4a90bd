"""What the console shows, of a bus in memory: rates, flows, trouble and who causes it, the census, one endpoint."""

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from busd.core.account import Rates
from busd.core.principal import Principal
from busd.core.units import Unit
from busd.ops.console.census import Search
from busd.ops.console.collector import VIEWERS, Console, Viewer
from busd.ops.console.endpoints import attached
from busd.ops.console.pace import Pace, most
from busd.ops.console.query import Query
from busd.ops.console.sample import Sample
from busd.ops.console.services import Answers, cache_row, job_row
from busd.ops.console.shards import Shards
from busd.ops.console.text import clean, shown
from tests.core.peer import World
from tests.ops.console_support import FakeServices, LookedAt, SilentServices, console_of, newest
from tests.ops.fakes import NODE, component

HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202e\x00"


def looking(
    world: World,
    use: Callable[[Console, Viewer], Awaitable[None]],
    services: FakeServices | None = None,
    **changes: Any,
) -> Console:
    """Run ``use`` with a console that somebody looks at; nothing of it is left at the end."""

    async def main() -> Console:
        console = console_of(world, services, **changes)
        viewer = console.join()
        assert viewer is not None
        async with asyncio.timeout(20):
            await use(console, viewer)
            await console.close()
        assert len(asyncio.all_tasks()) == 1
        return console

    return asyncio.run(main())


async def state_of(viewer: Viewer) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(await newest(viewer))
    return state


def test_the_first_document_has_no_rates_and_the_second_has_them() -> None:
    world = World()
    sink = world.guest("acme", "vm-2", component="sink", owner="sre", purpose="keeps it")
    source = world.guest("acme", "vm-1", component="source", owner="sre", purpose="makes it")
    sink.subscribe("a.*")

    async def use(console: Console, viewer: Viewer) -> None:
        first = await state_of(viewer)
        assert (first["at"], first["interval"], first["flows"]) == (1795216538.4, None, [])
        assert first["totals"]["received_per_second"] is None
        assert [group["sends_per_second"] for group in first["groups"]] == [None, None]
        source.publish("a.b", times=50)
        source.publish("a.c", times=10)
        sink.take()
        world.now += 2.0
        second = await state_of(viewer)
        assert second["interval"] == 2.0
        groups = {group["component"]: group for group in second["groups"]}
        assert [group["component"] for group in second["groups"]] == ["source", "sink"] or len(groups) == 2
        assert groups["source"] == {
            "id": groups["source"]["id"],
            "boundary": "guest",
            "tenant": "acme",
            "unit": "vm-1",
            "component": "source",
            "owner": "sre",
            "purpose": "makes it",
            "endpoints": 1,
            "sends_per_second": 30.0,
            "receives_per_second": 0.0,
            "dropped_per_second": 0.0,
            "denied_per_second": 0.0,
            "throttled": False,
            "queued_bytes": 0,
        }
        assert groups["sink"]["receives_per_second"] == 30.0
        (flow,) = second["flows"]
        assert (flow["from"], flow["to"]) == (groups["source"]["id"], groups["sink"]["id"])
        assert (flow["kind"], flow["subject"], flow["per_second"]) == ("publish", "a.*", 30.0)
        assert second["totals"]["received_per_second"] == 30.0
        assert (second["totals"]["units"], second["totals"]["tenants"], second["totals"]["endpoints"]) == (2, 1, 2)
        assert second["node"]["name"] == "n1"
        ids = {group["component"]: group["id"] for group in second["groups"]}
        world.now += 1.0
        third = await state_of(viewer)
        assert {group["component"]: group["id"] for group in third["groups"]} == ids, "names stay from one to the next"
        assert third["flows"] == []

    looking(world, use)


def test_calls_and_what_goes_to_the_broker_are_flows() -> None:
    world = World()
    server = world.peer(component="server", owner="house", purpose="answers")
    caller = world.peer(component="caller", owner="house", purpose="asks")
    server.serve("echo.>")

    async def use(console: Console, viewer: Viewer) -> None:
        await state_of(viewer)
        for _ in range(4):
            caller.call("echo.a")
        world.now += 1.0
        state = await state_of(viewer)
        assert [(flow["kind"], flow["subject"], flow["per_second"]) for flow in state["flows"]] == [
            ("call", "echo.>", 4.0)
        ]

    looking(world, use)


def test_an_endpoint_that_comes_later_is_counted_from_its_first_message() -> None:
    world = World()
    sink = world.peer(component="sink", owner="house", purpose="reads")
    sink.subscribe(">")

    async def use(console: Console, viewer: Viewer) -> None:
        await state_of(viewer)
        late = world.peer(component="late", owner="house", purpose="writes")
        late.publish("a", times=10)
        sink.take()
        world.now += 1.0
        state = await state_of(viewer)
        assert [flow["per_second"] for flow in state["flows"]] == [10.0]
        late.leave()
        world.now += 1.0
        state = await state_of(viewer)
        assert [group["component"] for group in state["groups"]] == ["sink"]

    looking(world, use)


def test_a_flood_names_the_account_the_endpoint_its_owner_and_the_command() -> None:
    world = World(rates=Rates(messages=1000), outbox_messages=500)
    sink = world.guest("acme", "vm-1", component="sink", owner="sre", purpose="reads")
    flooder = world.guest("acme", "vm-7", component="scraper", owner="acme-sre", purpose="collects prices")
    quiet = world.guest("globex", "vm-9", component="quiet", owner="globex", purpose="is quiet")
    sink.subscribe("prices.>")

    async def use(console: Console, viewer: Viewer) -> None:
        await state_of(viewer)
        for _ in range(10):
            flooder.publish("prices.x", times=1000)  # nobody reads: the first 500 fit
        quiet.publish("a")
        world.now += 2.0
        state = await state_of(viewer)
        worst, loss = state["problems"][:2]
        assert worst["severity"] == "critical"
        assert worst["command"] == f"bus disconnect {flooder.name} --block 10m"
        for part in ("tenant acme", "messages", flooder.name, "scraper of acme-sre", "5,000 messages/s", "vm-7"):
            assert part in worst["text"]
        assert worst["text"].endswith(
            ". With the block all of unit vm-7 stays out; to remove it: bus guest remove vm-7"
        )
        assert loss["command"] == f"bus inspect {sink.name}"
        assert "loses" in loss["text"]
        groups = {group["component"]: group for group in state["groups"]}
        assert groups["scraper"]["throttled"]
        assert not groups["quiet"]["throttled"]
        assert state["groups"][-1]["component"] == "quiet", "the troubled come first"
        assert groups["sink"]["dropped_per_second"] > 4000
        world.now += 0.5
        flooder.publish("prices.x", times=1000)
        (flow,) = (await state_of(viewer))["flows"]
        assert flow["lost_per_second"] == pytest.approx(flow["per_second"])

    looking(world, use)


def test_one_without_bounds_that_drowns_out_the_rest_is_named() -> None:
    world = World()
    process = Principal("host", "node", "host", 0, uid=1000, pid=1, started=7)
    owner = world.peer(principal=process, component="chatter", owner="kim", purpose="talks")

    async def use(console: Console, viewer: Viewer) -> None:
        await state_of(viewer)
        for _ in range(3):
            owner.publish("a", times=1000)
        world.now += 1.0
        (problem,) = (await state_of(viewer))["problems"]
        assert problem["severity"] == "warning", "nobody loses anything"
        assert "100% of all" in problem["text"]
        assert "chatter of kim" in problem["text"]
        assert "user 1000, process 1" in problem["text"]
        assert problem["command"] == f"bus disconnect {owner.name} --block 10m"

    looking(world, use)


@pytest.mark.parametrize(
    ("principal", "command", "words"),
    [
        (Principal("host", "node", "host", 0, uid=0, pid=9, started=7), " --block 10m", "all that comes in"),
        (Principal("host", "node", "host", 0, uid=0, pid=9), "", "all that comes in"),
        (Principal("soc", "node", "dpu-0", 1), " --block 10m", "With the block all of unit dpu-0 stays out"),
    ],
)
def test_the_command_against_a_flood_says_whom_it_keeps_out_and_can_be_done(
    principal: Principal, command: str, words: str
) -> None:
    world = World()
    world.bus.add_unit(Unit("dpu-0", "node", 1, "soc"))
    flooder = world.peer(principal=principal, component="chatter", owner="kim", purpose="talks")

    async def use(console: Console, viewer: Viewer) -> None:
        await state_of(viewer)
        for _ in range(3):
            flooder.publish("a", times=1000)
        world.now += 1.0
        (problem,) = (await state_of(viewer))["problems"]
        assert problem["command"] == f"bus disconnect {flooder.name}{command}"
        assert words in problem["text"]
        assert "guest remove" not in problem["text"]

    looking(world, use)


def test_denials_are_counted_where_they_come_from() -> None:
    world = World(policy="allow publish own.> from guest\n")
    nosy = world.guest("acme", "vm-1", component="nosy", owner="sre", purpose="looks around")

    async def use(console: Console, viewer: Viewer) -> None:
        await state_of(viewer)
        for number in range(30):
            nosy.publish(f"secret.{number}", times=2)
        world.now += 2.0
        state = await state_of(viewer)
        (group,) = state["groups"]
        assert group["denied_per_second"] == 30.0
        assert [problem["command"] for problem in state["problems"]] == [f"bus inspect {nosy.name}"]
        (row,) = (await console.census(Search()))["rows"]
        assert row["denied"] == 60

    looking(world, use)


def test_what_is_wrong_with_the_node_is_a_problem_with_a_command() -> None:
    failed = component("cache", state="failed", reason="ended 5 times in 60 s")
    changes: dict[str, Any] = {
        "components": {"cache": failed},
        "audit": NODE.audit,
        "policy": replace(NODE.policy, current=replace(NODE.policy.current, errors=2)),
        "lag": NODE.lag,
        "endpoints_limit": 1,
    }
    world = World()
    world.peer()

    async def use(console: Console, viewer: Viewer) -> None:
        problems = (await state_of(viewer))["problems"]
        commands = [problem["command"] for problem in problems]
        assert "bus component logs cache" in commands
        assert "bus policy lint" in commands
        assert "bus list --unowned" in commands
        texts = " ".join(problem["text"] for problem in problems)
        for part in ("No space left on device", "2 errors", "ended 5 times", "1 of 1 endpoints", "1 endpoint does not"):
            assert part in texts
        severities = [problem["severity"] for problem in problems]
        assert severities == sorted(severities), "the critical come first"

    world.bus.components = {"cache": {"component": "cache", "state": "failed", "reason": HOSTILE, "operations": {}}}
    looking(world, use, **changes)


def test_what_guests_say_of_themselves_is_bounded_and_has_no_control_characters() -> None:
    world = World()
    world.guest("acme", "vm-1", component="agent", owner="o" * 64, purpose=HOSTILE + "x" * 220)
    talker = world.guest("acme", "vm-2", component="talker", owner="me", purpose="p", version=HOSTILE)

    async def use(console: Console, viewer: Viewer) -> None:
        text = json.dumps(await state_of(viewer), ensure_ascii=False)
        census = json.dumps(await console.census(Search()), ensure_ascii=False)
        detail = json.dumps(await console.endpoint(talker.name), ensure_ascii=False)
        talker.leave()
        left = json.dumps(console.departures(), ensure_ascii=False)
        for page in (text, census, detail, left):
            assert page.isprintable()
        assert "<img" in text, "it is text, and is shown as that"
        purposes = [row["purpose"] for row in json.loads(census)["rows"]]
        assert max(map(len, purposes)) == 128
        assert json.loads(left)["rows"][0]["endpoint"] == talker.name

    looking(world, use)


def test_nothing_is_collected_when_nobody_looks_and_once_for_all_who_do() -> None:
    async def main() -> None:
        world, services = World(), FakeServices()
        console = console_of(world, services)
        await asyncio.sleep(0.05)
        assert (console.documents, services.asked) == (0, 0)
        viewers = [console.join() for _ in range(VIEWERS)]
        assert None not in viewers
        assert console.join() is None, "there is no room for more"
        first = [await newest(viewer) for viewer in viewers if viewer is not None]
        assert len(set(first)) == 1
        assert console.documents == 1
        for viewer in viewers:
            assert viewer is not None
            console.leave(viewer)
        await asyncio.sleep(0.4)
        assert (console.documents, console.viewers, services.closed) == (1, 0, 1)
        again = console.join()
        assert again is not None
        assert json.loads(await newest(again))["interval"] is None, "it begins anew"
        await console.close()
        assert console.join() is None
        assert await again.next() is None
        assert services.closed == 2
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_what_was_collected_is_free_when_nobody_looks_any_more() -> None:
    """A thousand objects of each console that was closed waited for a full collection of garbage."""

    def samples() -> int:
        return sum(isinstance(each, Sample) for each in gc.get_objects())

    async def main() -> None:
        console = console_of(World())
        gc.collect()
        before = samples()
        gc.disable()
        try:
            viewer = console.join()
            assert viewer is not None
            await newest(viewer)
            assert samples() > before
            console.leave(viewer)
            async with asyncio.timeout(10):
                while samples() > before:
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()
            await console.close()

    asyncio.run(main())


def test_one_who_joins_later_gets_the_newest_at_once_and_who_does_not_take_holds_one_only() -> None:
    world = World()

    async def use(console: Console, viewer: Viewer) -> None:
        first = await newest(viewer)
        late = console.join()
        assert late is not None
        assert await newest(late) == first
        while console.documents < 4:
            await asyncio.sleep(0.05)
        await newest(late)  # the newest, not all that it missed
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await late.next()

    looking(world, use)


def test_components_that_do_not_answer_keep_nothing_waiting() -> None:
    world, services = World(), SilentServices()

    async def use(console: Console, viewer: Viewer) -> None:
        await state_of(viewer)
        state = await state_of(viewer)
        assert (state["jobs"], state["caches"]) == ([], [])
        assert state["notes"] == ["jobs and caches have not been asked for yet"]

    looking(world, use, services)
    assert (services.asked, services.closed) == (1, 1)


def test_jobs_and_caches_are_shown_as_components_tell_them() -> None:
    progress = {
        "job": "j1",
        "tenant": "acme",
        "root": "scratch",
        "path": b"a\xff\x00b",
        "state": "running",
        "removed": 10,
        "expected": 40,
        "rate": 5.0,
        "eta_seconds": 6.0,
        "failed": {13: 2, 16: 1},
    }
    sealed: dict[str, float] = {
        "hits": 3,
        "misses": 1,
        "entries": 2,
        "bytes": 100,
        "bytes_limit": 200,
        "evicted_for_bytes": 4,
    }
    sealed |= {"evicted_for_entries": 1, "unauthentic": 0, "epoch": 2, "key_age": float("nan")}
    answers = Answers(
        [job_row(progress), job_row({"job": "<b>", "failed": "?"})],
        [cache_row({"tenant": "acme", "hit_ratio": 0.75, "sealed": sealed, "blind": None}), cache_row({})],
        (),
    )
    world = World()

    async def use(console: Console, viewer: Viewer) -> None:
        await state_of(viewer)
        state = await state_of(viewer)
        assert state["jobs"][0] == {
            "id": "j1",
            "state": "running",
            "root": "scratch",
            "path": "a\ufffd\ufffdb",
            "tenant": "acme",
            "removed": 10,
            "total": 40,
            "per_second": 5.0,
            "eta_seconds": 6.0,
            "failed": 3,
            "reason": "",
        }
        assert state["caches"][0]["evicted"] == 5
        assert (state["caches"][0]["hit_ratio"], state["caches"][0]["key_age"]) == (0.75, None)
        assert state["caches"][1]["entries"] == 0

    looking(world, use, FakeServices(answers))


def test_a_fault_of_the_console_ends_the_streams_and_not_the_node(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        console = console_of(World(), lag=None)
        viewer = console.join()
        assert viewer is not None
        async with asyncio.timeout(5):
            assert await viewer.next() is None
        console.leave(viewer)
        await console.close()

    asyncio.run(main())
    assert [record.name for record in caplog.records] == ["busd.http"]


def test_who_comes_after_a_fault_is_served_though_an_older_viewer_has_not_left_yet() -> None:
    async def main() -> None:
        world = World()
        looked_at = LookedAt(world, lag=None)
        console = Console(looked_at, FakeServices, clock=lambda: world.now, interval=0.0)
        stuck = console.join()
        assert stuck is not None
        async with asyncio.timeout(5):
            assert await stuck.next() is None
            looked_at.changes.pop("lag")
            late = console.join()
            assert late is not None
            assert json.loads(await newest(late))["totals"]["endpoints"] == 0
            console.leave(stuck)
            await newest(late)
        await console.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


# -- the census and one endpoint --------------------------------------------------------------------------------------


def populated() -> World:
    world = World()
    world.peer(component="telemetry", owner="node", purpose="samples this machine", version="1.0").serve("telemetry.>")
    for number in range(5):
        world.guest("acme", f"vm-{number}", component="agent", owner="acme-sre", purpose="reports")
    world.guest("globex", "vm-9")
    world.bus.add_unit(Unit("dpu-0", "node", 1, "soc"))
    world.peer(principal=Principal("soc", "node", "dpu-0", 1), component="offload", owner="net", purpose="cards")
    return world


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Search(), ["host-1", "guest-2", "guest-3", "guest-4", "guest-5", "guest-6", "guest-7", "soc-8"]),
        (Search(text="TELEMETRY.>"), ["host-1"]),
        (Search(text="ACME-SRE", limit=2, offset=1), ["guest-3", "guest-4"]),
        (Search(boundary="soc"), ["soc-8"]),
        (Search(tenant="globex"), ["guest-7"]),
        (Search(unit="vm-3"), ["guest-5"]),
        (Search(component="agent", unit="vm-1"), ["guest-3"]),
        (Search(component="age"), []),
        (Search(unowned=True), ["guest-7"]),
        (Search(sort="endpoint", descending=True, limit=3), ["soc-8", "host-1", "guest-7"]),
        (Search(sort="component", limit=2), ["guest-7", "guest-2"]),
        (Search(text="nobody"), []),
        (Search(offset=100), []),
    ],
)
def test_the_census_is_searched_sorted_and_paged(wanted: Search, names: list[str]) -> None:
    page = asyncio.run(console_of(populated()).census(wanted))
    assert [row["endpoint"] for row in page["rows"]] == names
    assert page["total"] == 8


def test_a_row_of_the_census() -> None:
    (row,) = asyncio.run(console_of(populated()).census(Search(text="telemetry")))["rows"]
    assert row == {
        "endpoint": "host-1",
        "boundary": "host",
        "tenant": "node",
        "unit": "host",
        "generation": 0,
        "component": "telemetry",
        "version": "1.0",
        "owner": "node",
        "purpose": "samples this machine",
        "age_seconds": 0.0,
        "user": 1000,
        "pid": 1,
        "received_messages": 2,
        "delivered_messages": 0,
        "dropped_messages": 0,
        "denied": 0,
        "queued_messages": 0,
        "queued_bytes": 0,
        "fullest": {"resource": "services", "used": 1, "limit": 256},
        "serves": ["telemetry.>"],
        "subscriptions": 0,
    }


def test_one_endpoint_with_its_quotas_and_flows() -> None:
    world = World()
    sink = world.peer(component="sink", owner="house", purpose="reads")
    source = world.peer(component="source", owner="house", purpose="writes")
    sink.subscribe("a.>")

    async def use(console: Console, viewer: Viewer) -> None:
        await state_of(viewer)
        source.publish("a.b", times=20)
        world.now += 2.0
        await state_of(viewer)
        sent, got = await console.endpoint(source.name), await console.endpoint(sink.name)
        assert sent is not None
        assert got is not None
        flow = {"from": source.name, "to": sink.name, "kind": "publish", "subject": "a.>", "per_second": 10.0}
        place = {"tenant": "node", "unit": "host"}
        assert sent["flows"] == [flow | {"messages": 20, "other": {"component": "sink", **place}}]
        assert got["flows"] == [flow | {"messages": None, "other": {"component": "source", **place}}]
        sink.leave()
        left = await console.endpoint(source.name)
        assert left is not None
        assert [each["other"] for each in left["flows"]] == [None]
        assert got["subscriptions"][0]["pattern"] == "a.>"
        assert got["quotas"]["subscriptions"] == {"used": 1, "limit": 1024}
        assert got["quotas"]["node_endpoints"]["limit"] > 0
        assert got["principal"]["uid"] == 1000
        assert got["claims"]["component"] == "sink"
        assert await console.endpoint("host-99") is None

    looking(world, use)


def test_policy_is_explained_for_an_attached_endpoint() -> None:
    world = World(policy="allow publish own.> from guest\n")
    guest = world.guest("acme")
    console = console_of(world)
    assert console.explain("publish", "own.a", guest.name)["allowed"] is True
    denied = console.explain("call", "own.a", guest.name)
    assert (denied["allowed"], denied["where"]) == (False, "default")
    for verb, subject, endpoint, reason in (
        ("shout", "own.a", guest.name, "is no verb"),
        ("publish", "own.>", guest.name, "subject"),
        ("publish", "own.a", "guest-99", "no endpoint is called"),
    ):
        with pytest.raises(ValueError, match=reason):
            console.explain(verb, subject, endpoint)


# -- small parts ------------------------------------------------------------------------------------------------------


def test_text_is_bounded_and_nothing_in_it_moves_or_hides_the_rest() -> None:
    assert shown("a\x1b[2J\u202eb\x00\n\ud800") == "a\ufffd[2J\ufffdb\ufffd\ufffd\ufffd"
    assert shown("x" * 200) == "x" * 127 + "\u2026"
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    assert "1" not in json.dumps(clean(deep))
    assert clean({"a\n": [float("inf"), b"\xff", {1, 2}, None, True]}) == {
        "a\ufffd": [None, "\ufffd", "{1, 2}", None, True]
    }
    assert len(clean(list(range(1000)))) == 200


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([("x", "1")], "no parameter 'x'; there are q, n"),
        ([("q", "a"), ("q", "b")], "q is there twice"),
        ([("q", "a" * 257)], "q has 257 characters; the limit is 256"),
        ([("n", "-1")], "n must be a whole number from 0 to 10"),
        ([("n", "11")], "n must be"),
        ([("n", "\u0661")], "n must be"),
        ([("n", "9" * 200)], "n must be"),
    ],
)
def test_a_query_that_is_not_as_it_should_be_is_refused_by_name(items: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Query(items, ("q", "n")).number("n", 0, 0, 10)


def test_an_empty_parameter_is_none() -> None:
    query = Query([("q", ""), ("n", "")], ("q", "n"))
    assert (query.text("q"), query.flag("q"), query.number("n", 5, 0, 10), query.choice("q", ("a",))) == (
        "",
        False,
        5,
        "",
    )
    for ask in (lambda: query.required("q"), lambda: Query([("q", "yes")], ("q",)).flag("q")):
        with pytest.raises(ValueError, match="q"):
            ask()


def test_endpoints_that_leave_or_come_while_they_are_gone_through_are_left_out() -> None:
    world = World()
    peers = [world.guest("acme", f"vm-{number}") for number in range(600)]
    found = []
    for session in attached(world.bus):
        found.append(session.name)
        if len(found) == 1:
            for peer in peers[300:310]:
                peer.leave()
            world.guest("acme", "vm-late")
    assert found == [peer.name for peer in peers[:300] + peers[310:]]


def test_of_many_those_with_the_largest_keys_are_found_and_only_wanted_ones() -> None:
    numbers = [number * 7919 % 10_007 for number in range(10_007)]  # each once, in no order

    async def main() -> tuple[list[int], list[int], list[int]]:
        return (
            await most(numbers, 300, lambda number: number, Pace()),
            await most(numbers, 3, lambda number: -number, Pace(), wanted=lambda number: number % 1000 == 7),
            await most([], 3, lambda number: number, Pace()),
        )

    assert asyncio.run(main()) == (list(range(10_006, 9_706, -1)), [7, 1007, 2007], [])


def test_values_by_text() -> None:
    shards: Shards[int] = Shards()
    texts = {f"guest-{number} publish a.{number}": number for number in range(5000)}
    for text, number in texts.items():
        shards.put(text, number)
    shards.put("guest-7 publish a.7", -7)
    shards.delete("guest-8 publish a.8")
    shards.delete("guest-8 publish a.8")
    expected = texts | {"guest-7 publish a.7": -7}
    del expected["guest-8 publish a.8"]
    assert len(shards) == 4999
    assert dict(shards.items()) == expected
    assert sorted(shards) == sorted(expected)
    assert (shards.get("guest-7 publish a.7"), shards.get("guest-8 publish a.8")) == (-7, None)
    asyncio.run(shards.discard(Pace()))
    assert (len(shards), list(shards.items()), shards.get("guest-7 publish a.7")) == (0, [], None)
