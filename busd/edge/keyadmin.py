"""What operators do with keys: ``$bus.admin.keys.enroll``, ``.revoke`` and ``.list``."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

from busd.core.bus import Bus
from busd.core.enrolment import Enrolment
from busd.core.introspection import Request
from busd.core.principal import NODE_TENANT, Principal
from busd.core.units import Unit
from busd.edge.curve import CurveListener
from busd.edge.keyring import Keyring
from busd.edge.pump import Pump, clock
from busproto.errors import BusError, Code
from busproto.subjects import check_name
from busproto.z85 import decode_key


class KeyStore(Protocol):
    """Where enrolments outlive the node; ``busd.ops.keyfolder.KeyFolder`` is one. Its methods may block."""

    def public(self) -> str:
        """The broker's public key in Z85."""
        ...

    def save(self, enrolment: Enrolment) -> None:
        """Keep ``enrolment``, as enrolled or as revoked."""
        ...


class KeyAdministration:
    """Lets keys in and keeps them out, for as long as it is asked."""

    def __init__(
        self,
        bus: Bus,
        pump: Pump,
        keyring: Keyring,
        store: KeyStore,
        listener: CurveListener | None,
        *,
        wall_clock: Callable[[], float],
    ) -> None:
        """Adds the unit of every enrolled key to ``bus``. ``listener`` is None where the SoC boundary is closed;
        ``wall_clock`` gives seconds since 1970."""
        self._bus = bus
        self._pump = pump
        self._keyring = keyring
        self._store = store
        self._listener = listener
        self._wall_clock = wall_clock
        self._turn = asyncio.Lock()
        for enrolment in keyring:
            bus.add_unit(_unit(enrolment))

    def services(self) -> dict[str, Callable[[Request, Principal], Awaitable[dict[str, Any]]]]:
        """What answers each subject."""
        return {
            "$bus.admin.keys.enroll": self.enroll,
            "$bus.admin.keys.revoke": self.revoke,
            "$bus.admin.keys.list": self.list,
        }

    async def enroll(self, request: Request, caller: Principal) -> dict[str, Any]:
        """Let ``key`` attach as unit ``name`` of ``tenant`` (default: the node's). Returns the enrolment.

        Raises BusError 2008 for a request that is not one, 3012 when the key or the name is taken, 3011 when a unit of
        another boundary has the name, 7020 when it cannot be written down.
        """
        request.only("name", "key", "tenant")
        name, key = request.text("name"), request.text("key")
        tenant = request.optional_text("tenant") or NODE_TENANT
        for field, value in (("name", name), ("tenant", tenant)):
            if reason := check_name(value):
                raise request.error(f"{field} {reason}")
        try:
            decode_key(key)
        except ValueError as error:
            raise request.error(f"key: {error}") from None
        async with self._turn:
            if key == await asyncio.to_thread(self._store.public):
                reason = "this is the broker's own key; the client's is in its .pub file"
                raise BusError(Code.KEY_NOT_ENROLLED, unit=name, reason=reason)
            self._keyring.check(name, key)
            generation = max(self._keyring.next_generation(name), self._bus.units.next_generation(name))
            enrolment = Enrolment(name, tenant, generation, key, self._wall_clock(), _who(caller))
            self._bus.add_unit(_unit(enrolment))
            try:
                await asyncio.to_thread(self._store.save, enrolment)
                self._keyring.add(enrolment)
            except BusError:
                self._bus.remove_unit(name, clock())
                raise
        return self._row(enrolment)

    async def revoke(self, request: Request, caller: Principal) -> dict[str, Any]:
        """Keep the key of unit ``name`` out for ever, and end what is attached with it. Returns the receipt.

        Raises BusError 2008 when no such key is enrolled; 7020 when it cannot be written down, which undoes nothing:
        until the node restarts the key is out.
        """
        request.only("name")
        name = request.text("name")
        async with self._turn:
            enrolment = self._keyring.named(name)
            if enrolment is None:
                raise request.error(f"no key is enrolled as {name[:80]!a}; bus keys list shows those that are")
            revoked = replace(enrolment, revoked_at=self._wall_clock())
            self._keyring.revoke(revoked)
            receipt = self._bus.remove_unit(name, clock())
            self._pump.wake()
            await asyncio.to_thread(self._store.save, revoked)
        return {**receipt.describe(), "key": revoked.key, "revoked_at": revoked.revoked_at}

    async def list(self, request: Request, caller: Principal) -> dict[str, Any]:
        """Every enrolled key, who is attached with it, and what clients need to know of this broker."""
        request.only()
        return {
            "broker": {
                "key": await asyncio.to_thread(self._store.public),
                "address": None if self._listener is None else self._listener.url,
                "state": "off" if self._listener is None else self._listener.statistics().state,
            },
            "keys": [self._row(enrolment) for enrolment in self._keyring],
        }

    def _row(self, enrolment: Enrolment) -> dict[str, Any]:
        listener = self._listener
        heard = None if listener is None else listener.last_heard(enrolment.name)
        row = enrolment.describe()
        del row["revoked_at"]
        return {
            **row,
            "endpoints": [] if listener is None else listener.endpoints(enrolment.name),
            "last_seen_seconds": None if heard is None else max(0.0, clock() - heard),
        }


def _unit(enrolment: Enrolment) -> Unit:
    return Unit(enrolment.name, enrolment.tenant, enrolment.generation, "soc")


def _who(caller: Principal) -> str:
    """Who ``caller`` was proven to be, in one line."""
    user = f" uid {caller.uid}" if caller.uid is not None else ""
    return f"{caller.boundary} {caller.tenant}/{caller.unit}{user}"
