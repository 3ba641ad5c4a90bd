"""Published messages on their way to everyone who receives them: slices of the bytes that came in."""

from itertools import pairwise
from typing import Any

from busd.core.outbox import Part
from busd.core.principal import NODE_TENANT
from busd.core.relay import Relay
from busd.core.session import Session
from busd.core.space import Plan
from busd.core.tenancy import Tenancy
from busproto import envelope
from busproto.envelope import Decoder
from busproto.limits import LARGE_FRAME_BYTES


class Fanout:
    """Queues runs of messages for their receivers, and tells who comes and goes."""

    __slots__ = ("_decoder", "_origin", "_relay", "_tenancy")

    def __init__(self, tenancy: Tenancy, relay: Relay, decoder: Decoder, origin: bytes) -> None:
        """``origin`` goes before what the broker itself publishes."""
        self._tenancy = tenancy
        self._relay = relay
        self._decoder = decoder
        self._origin = origin

    def forward(
        self, sender: Session, plan: Plan, subject: str, frame: bytes, start: int, end: int, count: int
    ) -> None:
        """Queue a run for its receivers. ``subject`` is the first message's, and everyone's where a plan has latest."""
        self._relay.flush()
        sender.traffic.count(plan, count)
        data = _slice(frame, start, end)
        origin = sender.origin
        for outbox, subscriptions in plan.receivers:
            outbox.deliver(origin, data, count, subscriptions)
        if plan.latest:
            # What may be replaced by something newer is queued message by message.
            for part in self._each(data, count):
                for outbox, subscriptions in plan.latest:
                    outbox.deliver_latest(origin, part, subject, subscriptions)
        if plan.shown is not None:
            self._show(sender, plan.shown, plan.shown_as, subject, data, count)

    def _show(self, sender: Session, plan: Plan, shown_as: str, subject: str, data: Part, count: int) -> None:
        """Queue messages of a tenant for who sees them in the node's space, under the name that they have there."""
        parts = [envelope.publish_as(bytes(part), 0, len(part), subject, shown_as) for part in self._each(data, count)]
        joined = b"".join(parts)
        origin, actor = sender.origin, sender.account.name
        for outbox, subscriptions in plan.receivers:
            if outbox.admits(origin, actor, len(joined)):
                outbox.deliver(origin, joined, count, subscriptions)
            else:
                outbox.reject(count, subscriptions)
        for outbox, subscriptions in plan.latest:
            for part in parts:
                if outbox.admits(origin, actor, len(part)):
                    outbox.deliver_latest(origin, part, shown_as, subscriptions)
                else:
                    outbox.reject(1, subscriptions)

    def _each(self, data: Part, count: int) -> list[Part]:
        """The ``count`` messages of a run, one by one."""
        if count == 1:
            return [data]
        offsets = self._decoder.decode(bytes(data)).offsets
        return [_slice(data, begin, stop) for begin, stop in pairwise(offsets)]

    def announce(self, subject: str, session: Session, now: float) -> None:
        """Publish that ``session`` came or went, in the node's space and in its own tenant's."""
        for tenant in {NODE_TENANT, session.principal.tenant}:
            space = self._tenancy.find(tenant)
            plan = space.plan(subject) if space is not None else None
            if plan is None or not (plan.receivers or plan.latest):
                continue
            row: dict[str, Any] = {
                "endpoint": session.name,
                "principal": session.principal.describe(),
                "claims": session.claims,
            }
            if session.departure is not None:
                row |= {"reason": str(session.departure), "seconds": now - session.attached_at}
            data = envelope.publish(subject, None, envelope.pack(row))
            for outbox, subscriptions in (*plan.receivers, *plan.latest):
                outbox.deliver(self._origin, data, 1, subscriptions)


def _slice(frame: Part, start: int, end: int) -> Part:
    """``frame[start:end]`` so that keeping it does not keep much more than it."""
    if start == 0 and end == len(frame):
        return frame
    if end - start > LARGE_FRAME_BYTES and 2 * (end - start) > len(frame):
        return memoryview(frame)[start:end]
    return frame[start:end]
