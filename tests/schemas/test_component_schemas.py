"""The schemas of components: what is generated is up to date, and true of what components really send and accept."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest

from busd.components.model import (
    Component,
    Event,
    Manifest,
    Operation,
    Request,
    Stream,
    attach,
    compile_operations,
    load,
)
from busd.components.model.schema import SCHEMAS, asyncapi, describe, main
from busd.components.shipped import SHIPPED
from busd.components.telemetry.component import Telemetry
from busd.components.telemetry.figures import LIMIT_MAX
from busd.components.telemetry.sampler import SUBJECTS, Sampler
from busproto.errors import BusError
from tests.components.fake_psutil import CpuTimes, FakeProcess, FakePsutil, Io, Nic, Partition, Usage
from tests.schemas.test_asyncapi import BY_ADDRESS, accepts, check

PROCESSES = "telemetry.processes"


def document(name: str) -> dict[str, Any]:
    """What is generated for a shipped component."""
    found: dict[str, Any] = json.loads((SCHEMAS / "components" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def validator(name: str, schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "$defs": document(name)["$defs"]})


# -- the files ---------------------------------------------------------------------------------------------------------


def test_what_is_generated_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_what_is_out_of_date_is_named_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    shutil.copy(SCHEMAS / "asyncapi.yaml", folder)
    assert main(["--check"], folder) == 1
    assert f"{folder}/components/telemetry.json is not up to date: run python -m busd" in capsys.readouterr().err
    assert not (folder / "components").exists(), "checking writes nothing"
    assert main([], folder) == 0
    assert main(["--check"], folder) == 0

    page, gone = folder / "asyncapi.yaml", folder / "components" / "gone.json"
    page.write_text(page.read_text().replace("address: telemetry.cpu", "address: telemetry.cpus"))
    gone.write_text("{}")
    assert main(["--check"], folder) == 1
    said = capsys.readouterr().err
    assert str(page) in said
    assert str(gone) in said
    assert main([], folder) == 0
    assert page.read_text() == (SCHEMAS / "asyncapi.yaml").read_text()
    assert not gone.exists()


def test_a_page_without_its_blocks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "asyncapi.yaml").write_text("channels: {}\n")
    with pytest.raises(ValueError, match=r"must have 4 blocks of components, not 0"):
        main(["--check"], tmp_path)


def test_the_schemas_of_one_component_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["telemetry"]) == 0
    assert json.loads(capsys.readouterr().out) == document("telemetry")
    assert main(["telemetri"]) == 2
    assert "BUS-8001" in capsys.readouterr().err


@pytest.mark.parametrize("name", SHIPPED)
def test_everything_a_shipped_component_offers_is_described(name: str) -> None:
    component = load(name)
    manifest = component.manifest
    described = {address for address, channel in BY_ADDRESS.items() if channel["x-busd"]["by"] == name}
    assert described == {*manifest.serves, *manifest.publishes}
    page = document(name)
    assert (page["title"], page["description"], page["owner"]) == (name, manifest.purpose, manifest.owner)
    assert {each["subject"] for each in page["operations"].values()} == set(manifest.serves)
    assert {each["subject"] for each in page["events"].values()} == set(manifest.publishes)
    assert all(each["description"] for each in page["operations"].values()), "every operation says what it does"
    schemas = [page["configuration"], *page["$defs"].values()]
    schemas += [each[key] for each in page["operations"].values() for key in ("input", "output")]
    for schema in schemas:
        jsonschema.Draft202012Validator.check_schema(schema)
    for operation in compile_operations(component).values():
        nothing = validator(name, page["operations"][operation.name]["input"]).is_valid(None)
        assert nothing == reads(operation, None)


def reads(operation: Operation, payload: Any) -> bool:
    try:
        operation.read(payload)
    except BusError:
        return False
    return True


# -- what telemetry really sends and accepts ---------------------------------------------------------------------------


def telemetry_of(source: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is published of a machine."""
    sampler = Sampler(source)
    sampler.sample(0.0, 1000.0)
    yield from sampler.sample(1.0, 1001.0).items()


def made_machine() -> FakePsutil:
    """One that has something of everything."""
    source = FakePsutil()
    source.cpus = [CpuTimes(user=1, idle=3)]
    source.nics = {"eth0": Nic()}
    source.disks = {"sda": Io(1, 1)}
    source.partitions = [Partition("/dev/sda1", "/", "ext4")]
    source.usages = {"/": Usage(100, 25, 75)}
    source.add(FakeProcess(1, "worker", rss=5))
    return source


def test_samples_conform_and_have_no_field_that_is_not_described() -> None:
    import psutil

    events = {Telemetry.manifest.subject(each): each for each in Telemetry.manifest.events()}
    assert list(events) == list(SUBJECTS)
    for source in (psutil, made_machine()):
        seen = set()
        for subject, payload in telemetry_of(source):
            seen.add(subject)
            check(subject, "event", payload)
            value = msgspec.convert(payload, events[subject].type)
            assert msgspec.to_builtins(value, builtin_types=(bytes,)) == tuples(payload), subject
            described = document("telemetry")["events"][events[subject].name]["payload"]
            assert validator("telemetry", described).is_valid(payload)
        assert {"telemetry.cpu", "telemetry.memory", "telemetry.top"} <= seen


def tuples(value: Any) -> Any:
    """``value`` with tuples for lists, as `msgspec.to_builtins` leaves them."""
    if isinstance(value, dict):
        return {key: tuples(each) for key, each in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def test_replies_conform() -> None:
    async def ask() -> Any:
        async with attach(Telemetry, where="here") as telemetry:
            return await telemetry.processes(limit=LIMIT_MAX)

    reply = msgspec.json.decode(msgspec.json.encode(asyncio.run(ask())))
    assert reply["processes"]
    check(PROCESSES, "reply", reply)
    assert validator("telemetry", document("telemetry")["operations"]["processes"]["output"]).is_valid(reply)


@pytest.mark.parametrize(
    "payload",
    [
        None, {}, {"sort": "cpu"}, {"sort": "memory", "limit": 1, "name": "py*"}, {"limit": 1000}, {"name": None},
        1, [], "x", {"sort": "size"}, {"sort": None}, {"limit": 0}, {"limit": 1001}, {"limit": "1"}, {"limit": True},
        {"limit": None}, {"name": ""}, {"name": "x" * 129}, {"name": 1}, {"new": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_telemetry_accepts_what_the_schema_accepts(payload: Any) -> None:
    operation = compile_operations(Telemetry)["processes"]
    assert reads(operation, payload) == accepts(PROCESSES, payload)
    described = document("telemetry")["operations"]["processes"]["input"]
    assert reads(operation, payload) == validator("telemetry", described).is_valid(payload)


# -- what none of the shipped components has --------------------------------------------------------------------------


class Row(msgspec.Struct):
    """One row."""

    key: str
    place: tuple[int, str]


class Kept(msgspec.Struct):
    rows: list[Row]


class Store:
    """What a constructor may take from a program, and no file can hold."""


class Shelf(Component):
    manifest = Manifest(
        component="shelf-2",
        version="1",
        owner="tests",
        purpose="has one of each",
        operations=(Request("put"), Stream("read_all"), Event("changed", Row), Event("count", int)),
        placements=("host",),
        needs=("store.>",),
        state=Kept,
    )

    def __init__(self, *, rooms: Annotated[int, msgspec.Meta(ge=1)], store: Store | None = None) -> None:
        pass

    async def put(self, row: Row, *, at: float | None = None) -> None:
        """Put a row on the shelf.

        It stays there.
        """

    async def read_all(self) -> AsyncIterator[Row]:
        """Every row."""
        yield Row("a", (1, "x"))

    async def hand_over(self) -> Kept:
        return Kept([])

    async def take_over(self, state: Kept) -> None:
        pass


def test_a_component_with_one_of_each_is_described() -> None:
    page = describe(Shelf)
    assert page["placements"] == ["host"]
    assert page["needs"] == ["store.>"]
    assert page["configuration"]["required"] == ["rooms"]
    assert "Store, from the same process" in json.dumps(page["configuration"]["properties"]["store"])
    assert page["operations"]["put"]["input"]["required"] == ["row"]
    assert page["operations"]["put"]["input"]["type"] == "object"
    assert page["operations"]["put"]["output"] == {"type": "null"}
    assert page["operations"]["read_all"]["kind"] == "stream"
    assert page["operations"]["read_all"]["output"] == {"$ref": "#/$defs/Row"}
    assert page["events"]["count"] == {"subject": "shelf-2.count", "payload": {"type": "integer"}}
    assert page["state"] == {"$ref": "#/$defs/Kept"}
    assert set(page["$defs"]) == {"Row", "Kept"}


def test_a_component_with_one_of_each_has_its_place_in_asyncapi() -> None:
    sections = asyncapi([Shelf])
    assert set(sections["channels"]) == {"shelf2Put", "shelf2ReadAll", "shelf2Changed", "shelf2Count"}
    assert sections["channels"]["shelf2ReadAll"]["x-busd"] == {"envelope": "call", "by": "shelf-2", "stream": True}
    assert sections["operations"]["shelf2Put"]["title"] == "Put a row on the shelf"
    assert sections["operations"]["shelf2Count"]["title"] == "shelf-2.count"
    assert sections["messages"]["shelf2Changed"] == {"payload": {"$ref": "#/components/schemas/Shelf2Row"}}
    row = sections["schemas"]["Shelf2Row"]
    assert row["properties"]["place"]["items"] == [{"type": "integer"}, {"type": "string"}]
    rows = jsonschema.Draft7Validator(row)
    assert rows.is_valid({"key": "a", "place": [1, "x"]})
    for wrong in ([1], [1, "x", 2], ["x", 1]):
        assert not rows.is_valid({"key": "a", "place": wrong}), wrong
