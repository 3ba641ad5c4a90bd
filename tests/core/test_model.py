"""The whole core against a small model: any sequence of what peers can do, and what must be true of all of them.

* A message reaches every endpoint whose subscriptions matched it when it was published, once, in order per sender and
  subject, or is counted in a gap that comes before the next message on that subscription.
* Every call ends in exactly one final reply to its caller, and its status is the one that what happened calls for.
* Every request is answered once, with the status that the model predicts.
* When all have left, nothing is charged, queued, subscribed, served or in flight.

The model is the plain reading of ``schemas/README.md``: lists and brute force, no routes, caches, slices or queues.
``BUSD_MODEL_EXAMPLES`` and ``BUSD_MODEL_STEPS`` make it run longer.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from busd.core.bus import Bus
from busd.core.principal import Principal
from busd.core.quotas import Quotas
from busd.core.reasons import Departure
from busproto import envelope
from busproto.envelope import Decoder, Kind, Status, pack, unpack
from busproto.errors import Code
from busproto.subjects import matches
from tests.core.model_state import Call, Peer, Subscription
from tests.core.peer import OPEN, made

EXAMPLES = int(os.environ.get("BUSD_MODEL_EXAMPLES", "60"))
STEPS = int(os.environ.get("BUSD_MODEL_STEPS", "60"))

QUOTAS: Final = Quotas(
    endpoints=5,
    subscriptions=4,
    services=3,
    calls=4,
    held_calls=3,
    outbox_bytes=150_000,  # above CONFLATE_BYTES, so that latest subscriptions both queue and conflate
    outbox_messages=8,
    departures=3,
)
HOST: Final = Principal("host", "node", "host", 1)

SUBJECTS: Final = ["a", "b", "a.b", "b.a", "a.b.a"]
PATTERNS: Final = [*SUBJECTS, "*", "a.*", "*.b", ">", "a.>", "*.>", "$bus.>", "$bus.endpoints.attached"]
SERVED: Final = ["a", "a.b", "a.*", "*.b", ">", "a.>"]

subjects = st.sampled_from(SUBJECTS)
sizes = st.sampled_from([0, 10, 300, 30_000, 60_000, 160_000])
picks = st.integers(0, 1 << 16)
messages = st.lists(st.tuples(picks, subjects, sizes), min_size=1, max_size=5)
wishes = st.tuples(st.sampled_from(PATTERNS), st.booleans())
answers = st.tuples(st.sampled_from([Status.OK, Status.PARTIAL, Status.PARTIAL, Status.ERROR]), sizes)
WIDE: Final = 1 << 20
"""An id that takes five bytes: calls and replies with such are forwarded together."""

offers = st.tuples(st.sampled_from(SERVED), st.sampled_from(["default", "default", "other"]))


def do_nothing() -> None:
    """What some envelopes do to the model."""


class BusModel(RuleBasedStateMachine):
    """Peers do whatever they may; each reads when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.bus = Bus(node="n1", software="model", policy=made(OPEN), now=self.now, quotas=QUOTAS)
        self.decoder = Decoder()
        self.peers: list[Peer] = []
        self.published: dict[int, tuple[str, str]] = {}
        """Every message by its number: sender and subject."""
        self.last = 0
        self.presence: dict[tuple[str, str], int] = {}
        """What the broker published of endpoints: by subject and name."""
        self.roomy: set[str] = set()
        """Who had room for all of the last frame before it came."""
        self.departures = 0
        self.all_calls: dict[int, Call] = {}

    # -- who there is -------------------------------------------------------------------------------------------------

    def pick(self, number: int) -> Peer:
        return self.peers[number % len(self.peers)]

    @initialize(
        wished=st.lists(st.lists(wishes, max_size=3), min_size=2, max_size=4),
        offered=st.lists(st.tuples(picks, offers), max_size=4),
    )
    def begin(self, wished: list[list[tuple[str, bool]]], offered: list[tuple[int, tuple[str, str]]]) -> None:
        for wishes_of_one in wished:
            self.attach()
            for pattern, latest in wishes_of_one:
                self.subscribe_one(self.peers[-1], pattern, latest)
        for who, (pattern, group) in offered:
            self.serve_one(self.pick(who), pattern, group)
        self.read_everything()

    @precondition(lambda self: len(self.peers) < QUOTAS.endpoints)
    @rule()
    def attach(self) -> None:
        peer = Peer(self.bus.attach(HOST, self.now), next_id=len(self.peers) % 2 * WIDE)
        self.bus.receive(peer.session, envelope.hello({"component": "model"}), self.now)
        peer.name = peer.session.name
        assert peer.name
        self.peers.append(peer)
        self.announce("$bus.endpoints.attached", peer)

    def announce(self, subject: str, about: Peer) -> None:
        self.last += 1
        self.published[self.last] = ("$bus", subject)
        self.route(self.last, subject)
        self.presence[subject, about.name] = self.last

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, peer: Peer, data: bytes, then: Callable[[], None]) -> None:
        """Send one envelope, now or with the peer's next ones in one frame; ``then`` does to the model what it did."""
        peer.buffer.append((data, then))
        if not peer.buffering:
            self.flush(peer)

    def flush(self, peer: Peer) -> None:
        buffered, peer.buffer = peer.buffer, []
        if buffered:
            frame = b"".join(data for data, _ in buffered)
            self.roomy = {other.name for other in self.peers if self.fits(other, len(buffered), len(frame))}
            self.bus.receive(peer.session, frame, self.now)
            for _, then in buffered:
                then()

    def fits(self, peer: Peer, count: int, size: int) -> bool:
        """Whether ``peer`` surely has room for all that a frame of ``count`` envelopes can bring it."""
        held = peer.session.outbox.statistics()
        bytes = held.bytes + size + 1000 * count
        return held.messages + count <= QUOTAS.outbox_messages and bytes <= QUOTAS.outbox_bytes

    @precondition(lambda self: self.peers)
    @rule(who=picks)
    def begin_a_batch(self, who: int) -> None:
        self.pick(who).buffering = True

    @precondition(lambda self: any(peer.buffer for peer in self.peers))
    @rule()
    def send_the_batches(self) -> None:
        for peer in self.peers:
            peer.buffering = False
            self.flush(peer)

    @precondition(lambda self: self.peers)
    @rule(some=messages)
    def publish(self, some: list[tuple[int, str, int]]) -> None:
        for who, subject, size in some:
            self.publish_one(self.pick(who), subject, size)

    @precondition(lambda self: self.peers)
    @rule(who=picks, subject=subjects, size=sizes, count=st.integers(2, 10), together=st.booleans())
    def publish_many(self, who: int, subject: str, size: int, count: int, together: bool) -> None:
        peer = self.pick(who)
        peer.buffering |= together
        for _ in range(count):
            self.publish_one(peer, subject, size)
        if together:
            peer.buffering = False
            self.flush(peer)

    def publish_one(self, peer: Peer, subject: str, size: int) -> None:
        self.last += 1
        self.published[self.last] = (peer.name, subject)
        payload = pack([self.last, b"p" * size])
        self.send(peer, envelope.publish(subject, None, payload), partial(self.route, self.last, subject))

    def route(self, number: int, subject: str) -> None:
        """The model's routes: look at every subscription of everyone."""
        for peer in self.peers:
            ids = [id for id, held in peer.subscriptions.items() if matches(held.pattern, subject)]
            if not ids:
                continue
            peer.inbox[number] = tuple(ids)
            peer.matched += 1
            if all(peer.subscriptions[id].latest for id in ids):
                peer.latest_only.add(number)
            for id in ids:
                peer.subscriptions[id].pending.append(number)
                peer.subscriptions[id].newest[subject] = number

    @precondition(lambda self: self.peers)
    @rule(who=picks, wish=wishes)
    def subscribe(self, who: int, wish: tuple[str, bool]) -> None:
        self.subscribe_one(self.pick(who), *wish)

    def subscribe_one(self, peer: Peer, pattern: str, latest: bool) -> None:
        options = {"latest": True} if latest else {}
        id = peer.id()

        def then() -> None:
            if len(peer.subscriptions) == QUOTAS.subscriptions:
                peer.requests[id] = Code.QUOTA_EXCEEDED
                return
            peer.requests[id] = None
            peer.subscriptions[id] = Subscription(pattern, latest)

        self.send(peer, envelope.subscribe(id, pattern, options), then)

    @precondition(lambda self: any(peer.subscriptions for peer in self.peers))
    @rule(which=picks)
    def unsubscribe(self, which: int) -> None:
        standing = [(peer, held) for peer in self.peers for held in peer.subscriptions]
        peer, held = standing[which % len(standing)]
        id = peer.id()

        def then() -> None:
            known = peer.subscriptions.pop(held, None)
            peer.requests[id] = None if known else Code.ID_UNKNOWN
            if known:
                peer.ending[id] = held, known

        self.send(peer, envelope.unsubscribe(id, held), then)

    @precondition(lambda self: any(not peer.draining for peer in self.peers))
    @rule(who=picks, offer=offers)
    def serve(self, who: int, offer: tuple[str, str]) -> None:
        able = [peer for peer in self.peers if not peer.draining]
        self.serve_one(able[who % len(able)], *offer)

    def serve_one(self, peer: Peer, pattern: str, group: str) -> None:
        if any(pattern == served for served, _ in peer.services.values()) or peer.buffer:
            return  # twice by one endpoint is allowed, and tells the model nothing about whose turn it is
        id = peer.id()

        def then() -> None:
            groups = {held for other in self.peers for served, held in other.services.values() if served == pattern}
            if len(peer.services) == QUOTAS.services:
                peer.requests[id] = Code.QUOTA_EXCEEDED
            elif groups - {group}:
                peer.requests[id] = Code.GROUP_CONFLICT
            else:
                peer.requests[id] = None
                peer.services[id] = (pattern, group)

        self.send(peer, envelope.serve(id, pattern, {} if group == "default" else {"group": group}), then)

    @precondition(lambda self: any(peer.services or peer.withdrawn for peer in self.peers))
    @rule(which=picks)
    def unserve(self, which: int) -> None:
        standing = [(peer, held) for peer in self.peers for held in [*peer.services, *peer.withdrawn]]
        peer, held = standing[which % len(standing)]
        id = peer.id()

        def then() -> None:
            known = held in peer.withdrawn or peer.services.pop(held, None) is not None
            peer.withdrawn.discard(held)
            peer.requests[id] = None if known else Code.ID_UNKNOWN

        self.send(peer, envelope.unserve(id, held), then)

    @precondition(lambda self: self.peers)
    @rule(
        who=picks,
        what=st.sampled_from(["publish", "unsubscribe", "unserve", "reply", "cancel", "ping"]),
        id=st.integers(900, 999),
    )
    def do_what_leads_nowhere(self, who: int, what: str, id: int) -> None:
        """Refused with an error, answered, or dropped: nothing else may come of it."""
        peer = self.pick(who)
        own = peer.id()
        refused = {own: Code.ID_UNKNOWN}
        subject, code = [("$bus.ping", Code.SUBJECT_RESERVED), ("a..b", Code.SUBJECT_INVALID)][id % 2]
        ways: dict[str, tuple[bytes, Callable[[], None]]] = {
            "publish": (envelope.publish(subject, None, b"\xc0"), partial(peer.errors.append, (None, code))),
            "unsubscribe": (envelope.unsubscribe(own, id), partial(peer.requests.update, refused)),
            "unserve": (envelope.unserve(own, id), partial(peer.requests.update, refused)),
            "reply": (envelope.reply(100_000 + id, Status.OK, None, b"\xc0"), do_nothing),
            "cancel": (envelope.cancel(id), do_nothing),
            "ping": (envelope.ping(own), partial(peer.pongs.append, own)),
        }
        data, then = ways[what]
        self.send(peer, data, then)

    @precondition(lambda self: any(peer.subscriptions or peer.services or peer.calls for peer in self.peers))
    @rule(which=picks, kind=st.sampled_from([Kind.SUBSCRIBE, Kind.SERVE, Kind.CALL, Kind.UNSUBSCRIBE, Kind.UNSERVE]))
    def use_an_id_again(self, which: int, kind: int) -> None:
        """Refused by an error, not by a reply: that would be taken for the answer to the request that stands."""
        standing = [
            (peer, id)
            for peer in self.peers
            if not (peer.buffering or peer.draining)
            for id in [
                *peer.subscriptions,
                *peer.services,
                *(id for id, call in peer.calls.items() if call.expected is None),
            ]
        ]
        if not standing:
            return
        peer, id = standing[which % len(standing)]
        data = {
            Kind.SUBSCRIBE: envelope.subscribe(id, "a", {}),
            Kind.SERVE: envelope.serve(id, "b.b", {}),
            Kind.CALL: envelope.call(id, "a", 100, None, b"\xc0"),
            Kind.UNSUBSCRIBE: envelope.unsubscribe(id, 999),
            Kind.UNSERVE: envelope.unserve(id, 999),
        }[kind]
        self.send(peer, data, partial(peer.errors.append, (id, Code.ID_IN_USE)))

    # -- calls --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.peers)
    @rule(who=picks, subject=subjects, quarters=st.integers(0, 8), answers=st.none() | st.lists(answers, max_size=4))
    def call(self, who: int, subject: str, quarters: int, answers: list[tuple[int, int]] | None) -> None:
        """A call, and what its responder answers at once; None: it has not even read it yet."""
        peer = self.pick(who)
        call = Call(peer, peer.id(), subject)
        self.last += 1
        self.all_calls[self.last] = call
        data = envelope.call(call.id, subject, 100 + 250 * quarters, None, pack(self.last))
        self.send(peer, data, partial(self.called, call, 0.1 + quarters / 4))
        responder = call.responder
        if responder is None or responder.buffer or answers is None:
            return
        self.read_all(responder)
        for status, size in answers:
            self.send_reply(call, status, size)

    def has_share(self, responder: Peer, caller: Peer) -> bool:
        """Whether ``responder`` may hold one more call of ``caller``: dbus-broker's rule, written out."""
        share = sum(call.caller is caller for call in responder.held)
        users = len({id(call.caller) for call in responder.held} | {id(caller)})
        return (users + 1) * (1 + share) - share <= QUOTAS.held_calls - len(responder.held)

    def called(self, call: Call, seconds: float) -> None:
        """``call`` was sent: to whom it should have gone, and whether it did."""
        peer = call.caller
        call.deadline = self.now + seconds
        waiting = sum(other.expected is None for other in peer.calls.values())
        peer.calls[call.id] = call
        pattern, members = self.responders(call.subject)
        least = min((self.outstanding(member, pattern) for member in members), default=0)
        candidates = [member for member in members if self.outstanding(member, pattern) == least]
        rows = [row for row in peer.session.inspect(self.now)["calls"] if row["id"] == call.id]
        if rows:
            assert waiting < QUOTAS.calls
            responder = next(other for other in self.peers if other.name == rows[0]["responder"])
            assert responder in candidates, "it went to one that serves it and has the fewest outstanding"
            call.responder, call.service = responder, self.offer(responder, pattern)
            responder.held.append(call)
        elif not members:
            call.expected = {Status.NO_RESPONDERS}
        else:
            full = any(not self.has_share(other, peer) or other.name not in self.roomy for other in candidates)
            assert full or waiting == QUOTAS.calls, "a call is refused only if a quota is used up"
            call.expected = {Status.OVERLOADED}

    def responders(self, subject: str) -> tuple[str, list[Peer]]:
        """The most specific pattern that matches, and who serves it."""
        served = {
            pattern: [peer for peer in self.peers if pattern in (p for p, _ in peer.services.values())]
            for pattern in SERVED
            if matches(pattern, subject)
        }
        rank = {"*": 1, ">": 0}
        patterns = [pattern for pattern, members in served.items() if members]
        if not patterns:
            return "", []
        best = max(patterns, key=lambda pattern: [rank.get(token, 2) for token in pattern.split(".")])
        return best, served[best]

    def offer(self, peer: Peer, pattern: str) -> int:
        """The id under which ``peer`` serves ``pattern``."""
        return next(id for id, (served, _) in peer.services.items() if served == pattern)

    def outstanding(self, peer: Peer, pattern: str) -> int:
        """Calls that ``peer`` holds from its present offer of ``pattern``."""
        return sum(call.service == self.offer(peer, pattern) for call in peer.held)

    @precondition(lambda self: self.peers)
    @rule(who=picks, subject=st.sampled_from(["$bus.ping", "$bus.nothing", "A", "*"]))
    def call_the_broker(self, who: int, subject: str) -> None:
        peer = self.pick(who)
        call = Call(peer, peer.id(), subject)

        def then() -> None:
            peer.calls[call.id] = call
            if subject == "$bus.ping":
                call.expected = {Status.OK} if peer.name in self.roomy else {Status.OK, Status.OVERLOADED}
            else:
                call.expected = {Status.NO_RESPONDERS} if subject.startswith("$") else {Status.ERROR}

        self.send(peer, envelope.call(call.id, subject, 1000, None, b"\xc0"), then)

    def numbered(self) -> list[Call]:
        """Calls whose responder has read them and not finished them."""
        return [call for peer in self.peers for call in peer.held if call.number is not None]

    @precondition(lambda self: self.numbered())
    @rule(which=picks, answer=answers)
    def reply(self, which: int, answer: tuple[int, int]) -> None:
        calls = self.numbered()
        self.send_reply(calls[which % len(calls)], *answer)

    def send_reply(self, call: Call, status: int, size: int) -> None:
        responder, number = call.responder, call.number
        assert responder is not None
        assert number is not None
        payload = pack([self.last, b"r" * size])
        data = envelope.reply(WIDE, status, None, payload)
        if size != 10:  # otherwise the number in its shortest form, which is forwarded in another way
            data = data.replace(pack(WIDE), b"\xce" + number.to_bytes(4, "big"), 1)
        else:
            data = envelope.reply(number, status, None, payload)
        self.send(responder, data, partial(self.replied, call, status, payload))

    def replied(self, call: Call, status: int, payload: bytes) -> None:
        """The responder of ``call`` replied: what its caller must get of it."""
        responder = call.responder
        assert responder is not None
        if call not in responder.held:
            return  # finished already: it is dropped
        if status != Status.PARTIAL:
            responder.held.remove(call)
        if call.expected is not None and not call.uncertain:
            return  # nobody waits for it: it is dropped
        call.replies.append((status, payload))
        waits = any(row["id"] == call.id for row in call.caller.session.inspect(self.now)["calls"])
        roomy = call.caller.name in self.roomy
        if status != Status.PARTIAL:
            assert not waits
            if not call.uncertain:
                call.expected = {status} if roomy else {status, Status.OVERLOADED}
        elif not roomy and not waits:
            # The caller had no room for this part, or what follows in the same frame has ended the call.
            call.uncertain = True
            call.expected = {Status.OK, Status.ERROR, Status.OVERLOADED, Status.CANCELLED}

    @precondition(lambda self: any(call.expected is None for peer in self.peers for call in peer.calls.values()))
    @rule(which=picks)
    def cancel(self, which: int) -> None:
        calls = [call for peer in self.peers for call in peer.calls.values() if call.expected is None]
        call = calls[which % len(calls)]

        def then() -> None:
            if call.expected is None:
                call.expected = {Status.CANCELLED}

        self.send(call.caller, envelope.cancel(call.id), then)

    @rule(quarters=st.integers(0, 8))
    def let_time_pass(self, quarters: int) -> None:
        self.advance(quarters / 4)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [call for peer in self.peers for call in peer.calls.values() if call.expected is None]
        earliest = min((call.deadline for call in due), default=None)
        if earliest is not None:
            following = self.bus.next_deadline()
            assert following is not None
            assert following <= earliest + 1 / 64, "who asks for the next deadline is not told too late a time"
        self.bus.expire(self.now)
        for call in due:
            if call.deadline < self.now:
                call.expected = {Status.TIMEOUT}

    # -- leaving ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.peers) > 1)
    @rule(who=picks, how=st.sampled_from(["drain", "drain", "bye", "lost", "garbage", "origin", "hello", "silence"]))
    def leave(self, who: int, how: str) -> None:
        peer = self.pick(who)
        peer.buffering = False
        self.flush(peer)
        if how == "drain":
            self.drain(peer)
            return
        if how == "silence":
            self.say_nothing()
            return
        if how != "lost":
            frame = {
                "bye": envelope.bye(None),
                "garbage": b"\xc1",
                "origin": envelope.origin("host-1", "host", "node", "host", 1),
                "hello": envelope.hello({}),
            }[how]
            self.bus.receive(peer.session, frame, self.now)
            assert peer.session.closing
            self.part(peer)
            read = self.read_all(peer)
            last = read[-1] if read else None
            assert how == "bye" or (last is not None and last[0] == Kind.BYE), "told why, as the last thing"
            for _, held in peer.ending.values():
                self.check_told(held)
        self.bus.detach(peer.session, self.now)
        self.departures += 1
        if how == "lost":
            self.part(peer)
        self.announce("$bus.endpoints.departed", peer)
        reason = {"bye": Departure.BYE, "lost": Departure.CONNECTION_LOST}.get(how, Departure.PROTOCOL_ERROR)
        assert peer.session.departure == reason

    def drain(self, peer: Peer) -> None:
        self.bus.receive(peer.session, envelope.drain(1000), self.now)
        peer.draining = True
        peer.withdrawn |= peer.services.keys()
        peer.services.clear()

    def say_nothing(self) -> None:
        """One that never says hello is cut off in time, and nobody is told of it."""
        if len(self.peers) == QUOTAS.endpoints:
            return
        silent = self.bus.attach(HOST, self.now)
        self.advance(QUOTAS.handshake_seconds + 0.5)
        assert silent.closing
        self.bus.detach(silent, self.now)
        assert silent.departure == Departure.HANDSHAKE_TIMEOUT
        self.departures += 1

    def part(self, peer: Peer) -> None:
        """What the model knows of ``peer`` when it leaves."""
        peer.gone = True
        self.peers.remove(peer)
        peer.ending |= {-id: (id, held) for id, held in peer.subscriptions.items()}
        peer.subscriptions.clear()
        peer.services.clear()
        for call in peer.calls.values():
            if call.expected is None:
                call.expected = {Status.CANCELLED}
        for call in peer.held:
            if call.expected is None:
                call.expected = {Status.UNKNOWN}
        peer.held.clear()

    # -- reading ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.peers)
    @rule(who=picks, limit=st.sampled_from([1, 300, 1000, 65536]))
    def read(self, who: int, limit: int) -> None:
        self.read_frame(self.pick(who), limit)

    @precondition(lambda self: self.peers)
    @rule(who=picks)
    def read_all_of_one(self, who: int) -> None:
        peer = self.pick(who)
        self.read_all(peer)
        self.check_quiet(peer)

    @rule()
    def read_everything(self) -> None:
        for peer in self.peers:
            self.read_all(peer)
            self.check_quiet(peer)

    def read_all(self, peer: Peer) -> list[list[Any]]:
        read: list[list[Any]] = []
        while frame := self.read_frame(peer, 65536):
            read += frame
        return read

    def read_frame(self, peer: Peer, limit: int) -> list[list[Any]]:
        frame = b"".join(self.bus.take(peer.session, limit))
        if not frame:
            return []
        origin = "(none)"
        envelopes = self.decoder.decode(frame).envelopes
        for read in envelopes:
            kind = read[0]
            if kind == Kind.ORIGIN:
                origin = read[1]
            elif kind == Kind.WELCOME:
                assert not peer.welcomed
                assert read[2] == peer.name
                peer.welcomed = True
            elif kind == Kind.PUBLISH:
                self.got_message(peer, origin, read[1], bytes(read[3]))
            elif kind == Kind.GAP:
                self.got_gap(peer, read[1], read[2])
            elif kind == Kind.CALL:
                self.got_call(peer, origin, read)
            elif kind == Kind.CANCEL:
                self.got_cancel(peer, read[1])
            elif kind == Kind.REPLY:
                self.got_reply(peer, origin, read[1], read[2], bytes(read[4]))
            elif kind == Kind.ERROR:
                assert (read[1], read[2]["code"]) == peer.errors.pop(0)
            elif kind == Kind.PONG:
                assert read[1] == peer.pongs.pop(0)
            else:
                assert kind == Kind.BYE
                assert peer.gone
        assert peer.welcomed
        return envelopes

    def got_message(self, peer: Peer, origin: str, subject: str, payload: bytes) -> None:
        value = unpack(payload)
        number = self.presence[subject, value["endpoint"]] if origin == "$bus" else value[0]
        assert self.published[number] == (origin, subject), "the origin is the sender's"
        ids = peer.inbox.pop(number, None)
        assert ids is not None, "it matched when it was published, and comes once"
        assert peer.seen.get((origin, subject), 0) < number, "in order per sender and subject"
        peer.seen[origin, subject] = number
        peer.delivered += 1
        for id in ids:
            held = self.standing(peer, id)
            held.came.add(number)
            if held.latest:
                held.pending.remove(number)
                continue
            skipped = held.pending.index(number)
            assert skipped == held.told, "what is skipped was told lost before, exactly"
            for gone in held.pending[:skipped]:
                peer.inbox.pop(gone, None)
            del held.pending[: skipped + 1]
            held.told = 0

    def got_gap(self, peer: Peer, id: int, count: int) -> None:
        assert count > 0
        held = self.standing(peer, id)
        held.told += count
        held.lost += count
        assert held.latest or held.told <= len(held.pending)

    def standing(self, peer: Peer, id: int) -> Subscription:
        """Subscription ``id`` of ``peer``, which has not read that it ended."""
        ended = dict(peer.ending.values())
        return peer.subscriptions[id] if id in peer.subscriptions else ended[id]

    def got_call(self, peer: Peer, origin: str, read: list[Any]) -> None:
        call = self.all_calls[unpack(read[5])]
        assert call.responder is peer, "given to one responder"
        assert call.number is None, "and once"
        assert origin == call.caller.name
        assert read[2] == call.subject
        call.number = read[1]

    def got_cancel(self, peer: Peer, number: int) -> None:
        [call] = [call for call in self.all_calls.values() if call.responder is peer and call.number == number]
        assert call.expected is not None, "somebody still waits for it"
        assert not call.cancelled
        call.cancelled = True

    def got_reply(self, peer: Peer, origin: str, id: int, status: int, payload: bytes) -> None:
        if id in peer.requests:
            code = peer.requests.pop(id)
            assert origin == "$bus"
            assert status == (Status.OK if code is None else Status.ERROR)
            assert code is None or unpack(payload)["code"] == code
            if id in peer.ending:
                self.check_told(peer.ending.pop(id)[1])
            return
        call = peer.calls[id]
        assert not call.ended, "one final reply, and nothing after it"
        if status <= Status.ERROR and call.responder is not None:
            assert origin == call.responder.name
            assert call.replies.pop(0) == (status, payload), "the responder's replies, in order"
        else:
            assert origin == "$bus"
        if status != Status.PARTIAL:
            assert call.expected is not None, "it ended and nothing had happened to end it"
            assert status in call.expected
            call.ended = True

    # -- what always holds --------------------------------------------------------------------------------------------

    def check_quiet(self, peer: Peer) -> None:
        """``peer`` has read all there is."""
        if peer.buffer:
            return
        assert not peer.requests, "every request was answered"
        assert not peer.errors
        assert not peer.pongs
        assert all(call.ended for call in peer.calls.values() if call.expected is not None)
        assert all(call.cancelled for call in peer.held if call.expected is not None), "told that nobody waits"
        for held in peer.subscriptions.values():
            self.check_told(held)
        outbox = peer.session.outbox.statistics()
        assert peer.matched == peer.delivered + outbox.lost_messages + outbox.conflated_messages
        assert outbox.messages == outbox.bytes == 0

    def check_told(self, held: Subscription) -> None:
        """All that matched ``held`` has come or was told lost."""
        if not held.latest:
            assert len(held.pending) == held.told, "what did not come was told lost"
        elif not held.lost:
            assert set(held.newest.values()) <= held.came, "the newest of each subject came"

    @invariant()
    def quotas_hold(self) -> None:
        for peer in self.peers:
            held = peer.session.outbox.statistics()
            assert held.messages <= QUOTAS.outbox_messages
            assert held.messages >= 0
            assert held.bytes - peer.session.outbox.control <= QUOTAS.outbox_bytes
        statistics = self.bus.statistics()
        assert statistics.subscriptions == sum(len(peer.subscriptions) for peer in self.peers)
        assert statistics.services == sum(len(peer.services) for peer in self.peers)
        assert statistics.held_calls == sum(len(peer.held) for peer in self.peers)
        assert statistics.calls_in_flight == sum(
            call.expected is None for peer in self.peers for call in peer.calls.values()
        )

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:
            return  # a rule has failed: what follows from that is noise
        self.send_the_batches()
        self.read_everything()
        self.advance(10_000)
        self.read_everything()
        assert all(call.ended for peer in self.peers for call in peer.calls.values()), "every call has ended"
        while len(self.peers) > 0:
            peer = self.peers[-1]
            self.bus.detach(peer.session, self.now)
            self.departures += 1
            self.part(peer)
            self.announce("$bus.endpoints.departed", peer)
        statistics = self.bus.statistics()
        assert statistics.subscriptions == statistics.services == 0
        assert statistics.calls_in_flight == statistics.held_calls == 0
        assert statistics.queued_messages == statistics.queued_bytes == 0
        assert sum(statistics.endpoints.values()) == 0
        assert sum(statistics.departures.values()) == self.departures
        assert self.bus.next_deadline() is None


TestBusModel = BusModel.TestCase
TestBusModel.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize="BUSD_MODEL_EXAMPLES"
    not in os.environ,  # `make test` tries the same each time, a long run ever new ones
    report_multiple_bugs=False,
)
