"""Enrolled keys in memory, and what operators do with them."""

import asyncio
import time
from typing import Any

import pytest

from busd.core.enrolment import Enrolment
from busd.core.introspection import Request
from busd.core.principal import Principal
from busd.core.units import Unit
from busd.edge import keyring as keyring_module
from busd.edge.keyadmin import KeyAdministration
from busd.edge.keyring import Keyring
from busproto import envelope
from busproto.envelope import Kind
from busproto.errors import BusError, Code
from busproto.z85 import decode_key, encode_key
from tests.edge.curve_support import Card, CurveNode, KeyPair, curve_node, until
from tests.edge.raw import run

CALLER = Principal("host", "node", "host", 0, uid=0, gid=0, pid=1)


def enrolment(name: str, key: str, generation: int = 1) -> Enrolment:
    return Enrolment(name, "node", generation, key, 1.0, "test")


# -- keys as text -----------------------------------------------------------------------------------------------------


def test_a_key_is_the_text_that_zeromq_writes() -> None:
    pair = KeyPair()
    for text in (pair.public, pair.secret, "0" * 40):
        assert encode_key(decode_key(text)) == text
    # ZeroMQ RFC 32's own example.
    assert decode_key("HelloWorld" * 4)[:8] == bytes.fromhex("864fd26fb559f75b")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has 0"),
        ("a" * 39, "has 39"),
        ("a" * 41, "has 41"),
        ("a" * 39 + "\n", "character 40"),
        (" " + "a" * 39, "character 1 "),
        ("a" * 20 + "\u0430" + "a" * 19, "character 21"),
        ("a" * 35 + "#####", "characters 36 to 40"),
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode_key(text)
    assert reason in str(caught.value)
    assert "aaaa" not in str(caught.value)


# -- the keyring ------------------------------------------------------------------------------------------------------


def test_a_key_is_one_unit_and_a_unit_one_key() -> None:
    ring = Keyring()
    one, two = KeyPair().public, KeyPair().public
    ring.add(enrolment("dpu0", one))
    assert ring.user_id_of(one) == "dpu0/1"
    assert ring.user_id_of(two) is None
    found = ring.proven("dpu0/1")
    assert found is not None
    assert found.key == one
    for name, key, reason in (
        ("dpu0", one, "this key is enrolled under this name"),
        ("dpu0", two, f"key {one} is enrolled under this name"),
        ("dpu1", one, "enrolled as 'dpu0'"),
    ):
        with pytest.raises(BusError) as caught:
            ring.check(name, key)
        assert caught.value.code == Code.KEY_NOT_ENROLLED
        assert reason in caught.value.text


def test_a_revoked_key_stays_out_under_every_name() -> None:
    ring = Keyring()
    old, new = KeyPair().public, KeyPair().public
    ring.add(enrolment("dpu0", old))
    ring.revoke(enrolment("dpu0", old))
    assert (ring.user_id_of(old), ring.proven("dpu0/1"), ring.named("dpu0"), len(ring)) == (None, None, None, 0)
    for name in ("dpu0", "dpu1"):
        with pytest.raises(BusError) as caught:
            ring.check(name, old)
        assert "was revoked as 'dpu0'" in caught.value.text
    assert ring.next_generation("dpu0") == 2
    ring.add(enrolment("dpu0", new, 2))
    assert ring.user_id_of(new) == "dpu0/2"


def test_what_was_revoked_before_a_restart_is_known_after_it() -> None:
    key = KeyPair().public
    ring = Keyring([], [enrolment("dpu0", key, 7)])
    assert ring.next_generation("dpu0") == 8
    with pytest.raises(BusError):
        ring.check("dpu1", key)


def test_there_is_no_room_for_a_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring_module, "KEYS", 2)
    ring = Keyring([enrolment("a", KeyPair().public), enrolment("b", KeyPair().public)])
    with pytest.raises(BusError) as caught:
        ring.check("c", KeyPair().public)
    assert "2 of 2" in caught.value.text
    assert [each.name for each in ring] == ["a", "b"]


# -- administration ---------------------------------------------------------------------------------------------------


class Store:
    """A store in memory that can be made to fail."""

    def __init__(self, node: CurveNode) -> None:
        self.broker = node.broker.public
        self.saved: list[Enrolment] = []
        self.fails = False

    def public(self) -> str:
        return self.broker

    def save(self, enrolment: Enrolment) -> None:
        if self.fails:
            raise BusError(Code.KEY_FOLDER_UNUSABLE, path="/keys", reason="the disk is full")
        self.saved.append(enrolment)


def administration(node: CurveNode) -> tuple[KeyAdministration, Store]:
    store = Store(node)
    admin = KeyAdministration(node.bus, node.pump, node.keyring, store, node.listener, wall_clock=lambda: 1000.0)
    return admin, store


async def refused(admin: KeyAdministration, verb: str, **fields: Any) -> BusError:
    with pytest.raises(BusError) as caught:
        await getattr(admin, verb)(Request(f"$bus.admin.keys.{verb}", fields), CALLER)
    return caught.value


async def done(admin: KeyAdministration, verb: str, **fields: Any) -> dict[str, Any]:
    result: dict[str, Any] = await getattr(admin, verb)(Request(f"$bus.admin.keys.{verb}", fields), CALLER)
    return result


def test_enrol_attach_list_revoke() -> None:
    async def main() -> None:
        async with curve_node() as node:
            admin, store = administration(node)
            pair = KeyPair()
            enrolled = await done(admin, "enroll", name="dpu0", key=pair.public, tenant="acme")
            assert (enrolled["name"], enrolled["tenant"], enrolled["generation"]) == ("dpu0", "acme", 1)
            assert (enrolled["enrolled_at"], enrolled["enrolled_by"]) == (1000.0, "host node/host uid 0")
            assert store.saved[0].key == pair.public
            listed = await done(admin, "list")
            assert listed["broker"] == {
                "key": node.broker.public,
                "address": node.listener.url,
                "state": "listening",
            }
            assert (listed["keys"][0]["endpoints"], listed["keys"][0]["last_seen_seconds"]) == ([], None)
            card = await Card(node, pair).attach()
            card.send(envelope.serve(1, "a.b", {}))
            await card.expect(Kind.REPLY)
            (row,) = (await done(admin, "list"))["keys"]
            assert row["endpoints"] == [next(iter(node.bus.census)).name]
            assert 0 <= row["last_seen_seconds"] < 5
            assert pair.secret not in repr(row)
            receipt = await done(admin, "revoke", name="dpu0")
            assert (receipt["endpoints"], receipt["services"], receipt["key"]) == (1, 1, pair.public)
            assert (await card.expect(Kind.BYE))[1]["code"] == Code.UNIT_UNKNOWN
            assert store.saved[1].revoked_at == 1000.0
            assert (await done(admin, "list"))["keys"] == []
            await until(lambda: not len(node.bus.census))
            again = await refused(admin, "enroll", name="dpu1", key=pair.public)
            assert again.code == Code.KEY_NOT_ENROLLED
            assert (await done(admin, "enroll", name="dpu0", key=KeyPair().public))["generation"] == 2

    run(main(), "asyncio")


def test_what_cannot_be_enrolled_leaves_no_trace() -> None:
    async def main() -> None:
        async with curve_node() as node:
            admin, store = administration(node)
            key = KeyPair().public
            for fields, reason in (
                ({"name": "dpu0"}, "key must be a string"),
                ({"name": "../x", "key": key}, "name may hold only"),
                ({"name": "a*", "key": key}, "name may hold only"),
                ({"name": "dpu\u0430", "key": key}, "name may hold only"),
                ({"name": "x" * 65, "key": key}, "name must have 1 to 64"),
                ({"name": "dpu0", "key": key, "tenant": "$bus"}, "tenant may hold only"),
                ({"name": "dpu0", "key": key[:-1]}, "key: a key has 40 characters"),
                ({"name": "dpu0", "key": key, "tenent": "acme"}, "no field 'tenent'"),
            ):
                error = await refused(admin, "enroll", **fields)
                assert error.code == Code.REQUEST_INVALID
                assert reason in error.text
            own = await refused(admin, "enroll", name="dpu0", key=node.broker.public)
            assert "the broker's own key" in own.text
            node.bus.add_unit(Unit("vm-1", "acme", 1))
            assert (await refused(admin, "enroll", name="vm-1", key=key)).code == Code.UNIT_REFUSED
            store.fails = True
            assert (await refused(admin, "enroll", name="dpu0", key=key)).code == Code.KEY_FOLDER_UNUSABLE
            assert (await refused(admin, "revoke", name="dpu0")).code == Code.REQUEST_INVALID
            assert (len(node.keyring), store.saved) == (0, [])
            store.fails = False
            assert (await done(admin, "enroll", name="dpu0", key=key))["generation"] == 2
            node.bus.remove_unit("vm-1", time.monotonic())
            assert (await done(admin, "enroll", name="vm-1", key=KeyPair().public))["generation"] == 2

    run(main(), "asyncio")


def test_a_revocation_holds_although_it_cannot_be_written_down() -> None:
    async def main() -> None:
        async with curve_node() as node:
            admin, store = administration(node)
            pair = KeyPair()
            await done(admin, "enroll", name="dpu0", key=pair.public)
            card = await Card(node, pair).attach()
            store.fails = True
            assert (await refused(admin, "revoke", name="dpu0")).code == Code.KEY_FOLDER_UNUSABLE
            assert (await card.expect(Kind.BYE))[1]["code"] == Code.UNIT_UNKNOWN
            assert node.keyring.user_id_of(pair.public) is None

    run(main(), "asyncio")


def test_two_who_enrol_at_once_do_not_both_get_the_name() -> None:
    async def main() -> None:
        async with curve_node() as node:
            admin, _ = administration(node)
            outcomes = await asyncio.gather(
                *(done(admin, "enroll", name="dpu0", key=KeyPair().public) for _ in range(5)), return_exceptions=True
            )
            assert sum(isinstance(each, dict) for each in outcomes) == 1
            assert len(node.keyring) == 1

    run(main(), "asyncio")


def test_keys_of_former_lives_have_their_units_after_a_restart() -> None:
    async def main() -> None:
        async with curve_node() as node:
            pair = KeyPair()
            node.keyring.add(enrolment("dpu0", pair.public, 3))
            administration(node)
            await Card(node, pair).attach()
            assert next(iter(node.bus.census)).principal.generation == 3
            receipt = node.bus.remove_unit("dpu0", time.monotonic())
            assert receipt.endpoints == 1

    run(main(), "asyncio")
