"""Who is it, who owns it, who pays, may it: ``bus list`` and ``inspect`` on a node with guests."""

import asyncio
import re
from typing import Any

import pytest

import busclient
from buscli.census import charge, fullest
from buscli.commands.list import _remarks
from buscli.exits import Exit
from buscli.proof import proofs
from buscli.units import binary_size
from busd.core.account import RATES
from busd.core.principal import Principal
from busd.core.session import OWNERSHIP
from tests.clients.cli_support import Cli, guest_of
from tests.support import RunningNode, wait_until


@pytest.fixture
def bus(shared_node: RunningNode) -> Cli:
    return Cli(shared_node.url, NO_COLOR="1")


@pytest.fixture(scope="module")
def guest(shared_node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return guest_of(shared_node, tmp_path_factory.mktemp("vm"))


# -- bus list ---------------------------------------------------------------------------------------------------------


def test_filters_leave_what_was_asked_for(bus: Cli, guest: Cli) -> None:
    with guest.running("sub", "a.>") as process:
        wait_until(lambda: len(bus.records("list", "--tenant", "acme")) == 1)
        (row,) = bus.records("list", "--tenant", "acme")
        assert (row["principal"]["tenant"], row["principal"]["unit"], row["account"]) == (
            "acme",
            "vm-42",
            "tenant acme",
        )
        assert row["principal"]["pid"] == process.pid
        for words in (("--unit", "vm-42"), ("--boundary", "guest")):
            assert [each["endpoint"] for each in bus.records("list", *words)] == [row["endpoint"]]
        assert bus.records("list", "--unit", "vm-42", "--tenant", "node") == []
        others = bus.records("list", "--boundary", "host")
        assert {row["principal"]["tenant"] for row in others} == {"node"}
    wait_until(lambda: not bus.records("list", "--tenant", "acme"))
    assert {row["principal"]["unit"] for row in bus.records("list", "--departed", "--tenant", "acme")} == {"vm-42"}
    assert "vm-42" not in str(bus.records("list", "--departed", "--boundary", "host"))


def test_unowned_endpoints_are_marked_and_can_be_asked_for(bus: Cli, shared_node: RunningNode) -> None:
    async def look() -> tuple[list[Any], str]:
        async with (
            busclient.connect(shared_node.url, component="stray"),
            busclient.connect(shared_node.url, component="kept", owner="tests", purpose="is there"),
        ):
            rows = await asyncio.to_thread(bus.records, "list", "--unowned")
            _, shown = await asyncio.to_thread(bus.on_terminal, "list")
            return rows, shown

    rows, shown = asyncio.run(look())
    assert [(row["claims"]["component"], row["unowned"]) for row in rows] == [("stray", ["owner", "purpose"])]
    lines = {line.split()[1]: line for line in shown.splitlines() if line.startswith("host-")}
    assert "unowned: no owner, purpose" in " ".join(lines["stray"].split())
    assert "unowned" not in lines["kept"]
    assert "remarks" in shown
    assert "remarks" not in bus.on_terminal("list")[1], "there is nothing to remark any more"
    departed = bus.records("list", "--departed", "--unowned")
    assert {row["claims"].get("component") for row in departed} == {"stray"}


def test_list_shows_the_fullest_quota(bus: Cli) -> None:
    with bus.subscribed("f1.x", "f1.y", subject="f1.x") as process:
        wait_until(lambda: bus.is_known("f1.y"))
        name = bus.endpoint(process.pid)
        _, shown = bus.on_terminal("list")
    (line,) = [line for line in shown.splitlines() if line.startswith(f"{name} ")]
    assert "subscriptions 2/1024 (0 %)" in line


def test_accounts_show_what_each_uses_of_what_all_share(bus: Cli, guest: Cli) -> None:
    with guest.subscribed("b.x", "b.y", subject="b.x"):
        rows = {row["account"]: row for row in bus.records("list", "--accounts")}
        status, shown = bus.on_terminal("list", "--accounts")
        own = guest.records("list", "--accounts")
    assert list(rows) == ["node", "tenant acme"]
    acme = rows["tenant acme"]
    assert acme["charges"]["subscriptions"]["used"] == 2
    assert acme["charges"]["subscriptions"]["limit"] < rows["node"]["charges"]["subscriptions"]["limit"]
    assert acme["throttled"] == []
    assert [row["account"] for row in own] == ["tenant acme"]
    assert status == Exit.OK
    heads, node_row, acme_row = (line for line in shown.splitlines() if re.match("account|node|tenant", line))
    assert heads.split() == ["account", "age", "connections", "throttled", *acme["charges"]]
    assert re.search(r"\b2/\d+ \(0 %\)", acme_row)
    assert re.search(r" (MiB|GiB) \(\d+ %\)", node_row)


def test_accounts_and_endpoints_are_two_questions(bus: Cli) -> None:
    ended = bus("list", "--accounts", "--unowned", "--unit", "x")
    assert (ended.returncode, ended.stdout) == (Exit.USAGE, b"")
    assert b"--unit and --unowned does not go with it" in ended.stderr
    assert bus("list", "--boundary", "moon").returncode == Exit.USAGE


def test_a_guest_sees_its_own_tenant_only(bus: Cli, guest: Cli) -> None:
    (only,) = guest.records("list")
    assert only["principal"]["tenant"] == "acme"
    ended = guest("stats")
    assert ended.returncode != 0
    assert b"denied" in ended.stderr


# -- bus inspect ------------------------------------------------------------------------------------------------------


def test_inspect_keeps_proof_and_claims_apart(bus: Cli, guest: Cli) -> None:
    with guest.running("serve", "c.x", "--echo") as process:
        wait_until(lambda: any(row["principal"]["pid"] == process.pid for row in bus.records("list")))
        name = bus.endpoint(process.pid)
        status, shown = bus.on_terminal("inspect", name)
        (found,) = bus.records("inspect", name)
    assert status == Exit.OK
    proven, _, rest = shown.partition("\nclaims ")
    claims, _, quotas = rest.partition("\nquota ")
    assert re.search(rf"{name} is open, since \S+; tenant acme pays", proven)
    for text in (
        "boundary   guest",
        "the listener that it came through",
        "acme",
        "vm-42, generation 1",
        "as it was registered (bus guest inspect vm-42)",
        "SO_PEERCRED of the VMM's process",
        str(process.pid),
    ):
        assert text in proven
    assert "bus serve c.x" in claims
    assert "bus serve c.x" not in proven
    assert "acme" not in claims
    assert re.search(r"services +[01]/256 \(0 %\)", quotas)
    assert "throttled" not in shown
    assert found["principal"]["tenant"] == "acme"
    assert "tenant" not in found["claims"]


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        (
            Principal("guest", "acme", "vm-1", 4, cid=17),
            {"boundary": "guest", "tenant": "acme", "unit": "vm-1, generation 4", "cid": "17"},
        ),
        (
            Principal("soc", "node", "card-0", 2, key="k" * 40),
            {"boundary": "soc", "tenant": "node", "unit": "card-0, generation 2", "key": "k" * 40},
        ),
        (
            Principal("host", "node", "host", 0, uid=4_000_000_000, gid=5, pid=7, groups=(5, 6), started=99),
            {
                "boundary": "host",
                "tenant": "node",
                "unit": "host, generation 0",
                "user": "4000000000",
                "groups": "5, and 5, 6",
                "process": "7",
                "started": "99 ticks after boot",
            },
        ),
    ],
    ids=["cid", "key", "process"],
)
def test_each_proof_says_where_it_comes_from(principal: Principal, expected: dict[str, str]) -> None:
    found = list(proofs(principal.describe()))
    assert {name: value for name, value, _ in found} == expected
    sources = {name: source for name, _, source in found}
    assert all(sources.values())
    assert "AF_VSOCK" in sources.get("cid", "AF_VSOCK")
    assert "CURVE" in sources.get("key", "CURVE")
    assert "bus keys list" in sources["tenant"] or principal.boundary != "soc"


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_for_people() -> None:
    sizes = (0, 1, 1023, 1024, 1536, 32 << 20, 3 << 40)
    assert [binary_size(size) for size in sizes] == ["0 B", "1 B", "1023 B", "1 KiB", "1.5 KiB", "32 MiB", "3072 GiB"]
    charges = {
        "calls": {"used": 12, "limit": 4096},
        "outbox_bytes": {"used": 8 << 20, "limit": 32 << 20},
        "services": {"used": 0, "limit": 0},
    }
    assert charge("calls", charges["calls"]) == "12/4096 (0 %)"
    assert charge("services", charges["services"]) == "0/0 (100 %)"
    assert charge("calls", None) == "-"
    assert fullest({key: charges[key] for key in ("calls", "outbox_bytes")}) == "outbox_bytes 8 MiB/32 MiB (25 %)"
    assert fullest({"calls": {"used": 0, "limit": 8}}) == fullest({}) == "-"


def test_remarks_name_what_is_missing_and_what_is_too_fast() -> None:
    row: dict[str, Any] = {"claims": dict.fromkeys(OWNERSHIP, "x"), "throttled": []}
    assert _remarks(row) == ""
    assert _remarks({**row, "throttled": list(RATES[:2])}) == "throttled: messages, bytes"
    assert _remarks({"claims": {}, "throttled": ["loop"]}) == "unowned: no component, owner, purpose; throttled: loop"
