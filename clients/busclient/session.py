"""The client's side of the protocol: no I/O, no clock, no tasks. `bus.Bus` puts it on an event loop.

Verbs: `attach` and `detach` for a connection that came and went, `receive` for a frame that came in, `data_to_send`
for what is to go out, `earliest` and `expire` for time. What a request came to is not called back: it stands in
`finished` as ``(token, outcome)``, ``token`` being whatever the caller of the request handed in; queues with something
new in them stand in `woken`, and calls that need no answer any more in `cancelled`. Read and clear all three after
`receive`, `expire` and `detach`.

A session outlives its connections: what is subscribed and served is asked for again on the next `attach`.
"""

import enum
from collections.abc import Mapping, Sequence
from math import inf, nan
from operator import itemgetter
from typing import Any, Final

from busclient.errors import (
    BusError,
    CallTimeout,
    Code,
    ConnectionLost,
    NotConnected,
    UnknownOutcome,
    from_body,
    from_reply,
)
from busclient.message import NO_ORIGIN, UNDECODED, Call, Reply
from busclient.outgoing import Outgoing
from busclient.queues import Inbox, Offer, Parts
from busclient.routes import CACHED_SUBJECTS, Routes
from busproto import envelope as wire
from busproto.envelope import Decoder, Headers, Kind, Status
from busproto.limits import (
    ENVELOPES_PER_FRAME,
    HANDSHAKE_SECONDS,
    ID_FIRST,
    ID_MAX,
    PAYLOAD_BYTES,
    TIMEOUT_MS_MAX,
)
from busproto.subjects import check_pattern, check_subject, is_reserved

__all__ = ["Session", "SessionState"]

LATE_SECONDS: Final = 0.1
"""How long after a call's timeout the broker's word is waited for before the call ends without it."""

REQUEST_SECONDS: Final = 5.0
"""How long subscribe, serve and ping wait for the broker: it answers them itself, at once."""

INLINE_BYTES: Final = 16 * 1024
"""Payloads above this are sent from where they are; below it, one copy is cheaper than one more piece."""

REFUSALS: Final = 256
"""Subjects whose refused publishes are kept until the program can be told."""

_REPLY: Final = Kind.REPLY
_ORIGIN: Final = Kind.ORIGIN
_CALL: Final = Kind.CALL
_new_reply: Final = Reply.__new__
_payload_of: Final = itemgetter(3)

_Call = tuple[Any, float, str, float]
"""A call that waits for its reply: token, deadline, subject, timeout."""

_Target = Parts | Inbox | Offer | None
_Request = tuple[Any, float, str, _Target, float]
"""Anything else that waits for a reply: token, deadline, subject, where what comes goes, timeout."""


class SessionState(enum.Enum):
    """Where the session stands with the broker."""

    DETACHED = "detached"
    """No connection."""
    GREETING = "greeting"
    """Hello is said, welcome has not come."""
    ATTACHED = "attached"
    ENDED = "ended"
    """The broker said bye: ``farewell`` is why. The connection is to be closed."""


class Session:
    """One endpoint's state, across connections. See the module's text for how to drive it."""

    def __init__(self, manifest: Mapping[str, Any], url: str = "") -> None:
        self.manifest = dict(manifest)
        self.url = url
        self.state = SessionState.DETACHED
        self.ready = False
        """State is ATTACHED: requests can be made."""
        self.reason = "it was never connected"
        """Why there is no connection, while there is none."""
        self.failure: BusError | None = None
        """Why there will be no connection again; set by the shell."""
        self.endpoint = ""
        self.version = 0
        self.info: dict[str, Any] = {}
        self.draining = False
        """The broker said that it is going away."""
        self.drained = False
        """This endpoint wants no more calls."""
        self.farewell: BusError | None = None
        self.max_payload = PAYLOAD_BYTES
        self.out = Outgoing()
        """What waits to be sent; `data_to_send` takes it out."""

        self.finished: list[tuple[Any, Reply | BusError | None]] = []
        self.woken: list[Inbox | Offer | Parts] = []
        self.cancelled: list[Call] = []
        self.earliest = inf
        """When `expire` is to be called: no deadline is earlier than this."""
        self.calls: dict[int, _Call] = {}
        """Calls whose reply is waited for."""
        self.requests: dict[int, _Request] = {}
        """Streams and requests of the broker without a final reply, and what nobody waits for any more."""
        self.held: dict[int, Call] = {}
        """Calls that this endpoint has not answered yet."""
        self.refused: dict[str, BusError] = {}
        """Publishes that the broker refused, by subject, until the program has been told."""
        self.unconfirmed = False
        """Something was published since the last answered ping."""
        self.unsure: ConnectionLost | None = None
        """The connection ended before what was published on it was confirmed."""

        self.received_envelopes = 0
        self.late_replies = 0
        self.unmatched_messages = 0
        self.skipped_envelopes = 0

        self._decoder = Decoder()
        self._inboxes: dict[int, Inbox] = {}
        self._offers: dict[int, Offer] = {}
        self._routes = Routes()
        self._callable: set[str] = set()
        self._heads: dict[str, bytes] = {}
        self._timeout = nan
        self._timeout_ms = 0
        self._pings: dict[int, tuple[Any, float]] = {}
        self._next_ping = 0
        self._next_id = ID_FIRST
        self._handed_id = ID_FIRST
        self._hello_deadline = inf
        self._inline_bytes = INLINE_BYTES

    # -- a connection comes and goes ----------------------------------------------------------------------------------

    def attach(self, now: float) -> None:
        """A connection is there: say hello, and ask again for what was subscribed and served before."""
        assert self.state is SessionState.DETACHED
        self.state = SessionState.GREETING
        self.farewell = None
        self.draining = False
        self.out.push(wire.hello(self.manifest))
        self._hello_deadline = now + HANDSHAKE_SECONDS
        self.earliest = min(self.earliest, self._hello_deadline)
        inboxes, self._inboxes = list(self._inboxes.values()), {}
        offers, self._offers = list(self._offers.values()), {}
        for inbox in inboxes:
            self._ask_subscribe(inbox, now, None)
        for offer in offers:
            if self.drained:
                offer.id = 0
            else:
                self._ask_serve(offer, now, None)

    def detach(self, reason: str) -> None:
        """The connection is gone: everything that waited for it ends now, each with what is known of it."""
        self.state = SessionState.DETACHED
        self._not_ready(reason)
        calls, self.calls = self.calls, {}
        requests, self.requests = self.requests, {}
        for id, (token, _, subject, _) in calls.items():
            self._finish(token, None, self._loss(id, subject, reason))
        for id, (token, _, subject, target, _) in requests.items():
            if isinstance(target, Parts):
                self._finish(token, target, self._loss(id, subject, reason))
            elif target is not None and token is not None:
                self._forget(target)
                self._finish(token, target, ConnectionLost(self.url, reason))
        for token, _ in self._pings.values():
            self.finished.append((token, ConnectionLost(self.url, reason)))
        self._pings.clear()
        if self.unconfirmed:
            self.unsure = ConnectionLost(self.url, f"{reason}; what was published before may not have arrived")
        self.unconfirmed = False
        for call in self.held.values():
            call.cancelled = True
            self.cancelled.append(call)
        self.held.clear()
        for offer in self._offers.values():
            offer.queue.clear()
        self.data_to_send()
        self.earliest = self._hello_deadline = inf

    def _loss(self, id: int, subject: str, reason: str) -> BusError:
        """What became of call ``id`` when the connection went away."""
        if id < self._handed_id:
            return UnknownOutcome(subject, f"the connection was lost: {reason}")
        return NotConnected(self.url, reason)

    # -- what the program asks for ------------------------------------------------------------------------------------

    def publish(self, subject: str, payload: bytes, headers: Headers | None) -> None:
        """Queue one message. Raises BusError if it cannot be sent, or if the broker refused the last on ``subject``."""
        head = self._heads.get(subject)
        if head is None or headers is not None or len(payload) > self._inline_bytes:
            self._publish_any(subject, payload, headers)
            return
        if self.refused:
            self.raise_refused(subject)
        self.unconfirmed = True
        self.out.push_short(head, payload)

    def _publish_any(self, subject: str, payload: bytes, headers: Headers | None) -> None:
        """As `publish`, for what is not a payload without headers on a subject that was used before."""
        if not self.ready:
            raise self.unavailable()
        if subject not in self._heads:
            self._check_publish(subject)
        if self.refused:
            self.raise_refused(subject)
        if headers is not None:
            headers = _checked(headers)
        self.unconfirmed = True
        if len(payload) <= self._inline_bytes:
            self.out.push(wire.publish(subject, headers, payload))
        else:
            self.out.push_large(wire.publish(subject, headers, b""), payload, self.max_payload)

    def call(
        self,
        subject: str,
        payload: bytes,
        headers: Headers | None,
        timeout: float,
        now: float,
        token: Any,
        parts: Parts | None = None,
        on_behalf_of: Call | None = None,
    ) -> int:
        """Queue one call that ends within ``timeout`` seconds; its id, for `abandon`. Raises BusError if it cannot go.

        Its outcome comes as ``(token, Reply or BusError)``; with ``parts``, that queue gets everything instead.
        ``on_behalf_of`` is a call to this endpoint that it has not answered yet.
        """
        if not self.ready:
            raise self.unavailable()
        if subject not in self._callable:
            self._check_call(subject)
        if headers is not None:
            headers = _checked(headers)
        behalf = None if on_behalf_of is None else self._held_id(on_behalf_of, subject)
        if timeout != self._timeout:
            self._set_timeout(subject, timeout)
        id = self._next_id
        self._next_id = id + 1
        if id >= ID_MAX:
            id = self._wrap_ids()
        if len(payload) <= self._inline_bytes:
            self.out.push(wire.call(id, subject, self._timeout_ms, headers, payload, behalf))
        else:
            empty = wire.call(id, subject, self._timeout_ms, headers, b"", behalf)
            self.out.push_large(empty, payload, self.max_payload, b"" if behalf is None else wire.pack(behalf))
        deadline = now + timeout + LATE_SECONDS
        if parts is None:
            self.calls[id] = (token, deadline, subject, timeout)
        else:
            self.requests[id] = (token, deadline, subject, parts, timeout)
        if deadline < self.earliest:
            self.earliest = deadline
        return id

    def abandon(self, id: int) -> None:
        """Nobody waits for call ``id`` any more: cancel it. What still comes for it is dropped and counted."""
        call = self.calls.pop(id, None) or self.requests.get(id)
        if call is not None and call[1] != inf:
            self.requests[id] = _nobody(call[2])
            self.out.push(wire.cancel(id))

    def subscribe(self, inbox: Inbox, now: float, token: Any) -> None:
        """Ask for what matches ``inbox.pattern``. ``(token, None)`` is finished when it stands."""
        self._require_ready()
        check_pattern(inbox.pattern)
        self._ask_subscribe(inbox, now, token)

    def unsubscribe(self, inbox: Inbox) -> None:
        """Stop: nothing more is put into ``inbox``, and the broker is told if there is a connection."""
        self._withdraw(inbox)

    def serve(self, offer: Offer, now: float, token: Any) -> None:
        """Offer to answer ``offer.pattern``. ``(token, None)`` is finished when it stands."""
        self._require_ready()
        check_pattern(offer.pattern)
        if is_reserved(offer.pattern):
            raise BusError(Code.SUBJECT_RESERVED, subject=offer.pattern)
        if any(other.pattern == offer.pattern for other in self._offers.values()):
            reason = "this bus serves it already; let that service answer more calls at a time instead"
            raise BusError(Code.REQUEST_INVALID, subject=offer.pattern, reason=reason)
        self._ask_serve(offer, now, token)

    def unserve(self, offer: Offer, now: float, token: Any) -> bool:
        """Take the offer back. ``(token, None)`` is finished when no more calls come; False if that is so already."""
        if not offer.id or not self.ready or offer.id in self.requests:
            self._withdraw(offer)
            return False
        own = self._take_id()
        self._await(own, token, now, offer.pattern, offer)
        self.out.push(wire.unserve(own, offer.id))
        return True

    def reply(self, call: Call, status: int, headers: Headers | None, payload: bytes) -> bool:
        """Answer ``call`` (`Status.PARTIAL`: more follow). False if nobody waits for it any more.

        Raises BusError when the reply cannot be sent as it is; the call is then still to be answered.
        """
        if headers is not None:
            headers = _checked(headers)
        if self.held.get(call.id) is not call:
            return False
        if len(payload) <= self._inline_bytes:
            self.out.push(wire.reply(call.id, status, headers, payload))
        else:
            self.out.push_large(wire.reply(call.id, status, headers, b""), payload, self.max_payload)
        if status != Status.PARTIAL:
            del self.held[call.id]
        return True

    def ping(self, now: float, token: Any) -> None:
        """Ask for a sign of life. ``(token, None)`` is finished when the broker has handled everything sent before."""
        self._require_ready()
        self._next_ping = (self._next_ping + 1) & 0xFFFFFFFF
        self._pings[self._next_ping] = (token, now + REQUEST_SECONDS)
        self.earliest = min(self.earliest, now + REQUEST_SECONDS)
        self.unconfirmed = False
        self.out.push(wire.ping(self._next_ping))

    def drain(self, grace: float) -> None:
        """Tell the broker to send no new calls; nor will the next one, after a reconnect."""
        self._require_ready()
        self.drained = True
        self.out.push(wire.drain(max(0, min(int(grace * 1000), TIMEOUT_MS_MAX))))

    def bye(self) -> None:
        """Tell the broker that this endpoint leaves as planned."""
        if self.ready:
            self.out.push(wire.bye(None))

    def raise_refused(self, subject: str | None = None) -> None:
        """Raise the error with which a publish on ``subject`` (None: on any) was refused, if one was. Once."""
        if subject is None and self.refused:
            subject = next(iter(self.refused))
        error = self.refused.pop(subject, None) if subject is not None else None
        if error is not None:
            raise error

    @property
    def subscriptions(self) -> int:
        """Subscriptions that stand or are asked for."""
        return len(self._inboxes)

    @property
    def services(self) -> int:
        """Offers to serve that stand or are asked for."""
        return len(self._offers)

    # -- what goes out ------------------------------------------------------------------------------------------------

    def data_to_send(self) -> list[list[bytes]]:
        """The frames to send, each as its pieces. Call after anything above, at the latest when the loop turns."""
        self._handed_id = self._next_id
        return self.out.take()

    # -- what comes in ------------------------------------------------------------------------------------------------

    def receive(self, frame: bytes, now: float) -> None:
        """Take in one frame. Raises BusError when the broker broke the protocol: close the connection then."""
        envelopes = self._decoder.read(frame)
        self.received_envelopes += len(envelopes)
        try:
            self._dispatch(envelopes, now)
        except (TypeError, IndexError, ValueError, AttributeError, KeyError):
            self._decoder.decode(frame)  # raises what the frame did wrong; if nothing, then the fault is here
            raise

    def _dispatch(self, envelopes: Sequence[Sequence[Any]], now: float) -> None:
        """Handle envelopes in order. Messages in a row for the same inboxes are put into them together."""
        calls = self.calls
        routes = self._routes.inboxes
        publish = Kind.PUBLISH
        origin: Sequence[Any] = NO_ORIGIN
        inboxes: tuple[Inbox, ...] | None = None
        subject = ""
        first = 0
        for index, envelope in enumerate(envelopes):
            kind = envelope[0]
            if kind == publish:
                if inboxes and envelope[1] == subject:
                    continue
                subject = envelope[1]
                found = routes.get(subject)
                if found is None:
                    found = self._routes.find_inboxes(subject)
                    self.unmatched_messages += not found
                if found is not inboxes:
                    if inboxes:
                        self._deliver(inboxes, envelopes[first:index], origin)
                    inboxes = found
                    first = index
                continue
            if inboxes:
                self._deliver(inboxes, envelopes[first:index], origin)
            inboxes = None
            if kind == _REPLY:
                call = calls.pop(envelope[1], None)
                if call is not None and envelope[2] == Status.OK:
                    # Reply.received(), written out: it is a tenth of what a call costs here.
                    reply = _new_reply(Reply)
                    reply._data = envelope[4]
                    reply._headers = envelope[3]
                    reply._origin = origin
                    reply._payload = UNDECODED
                    self.finished.append((call[0], reply))
                else:
                    self._receive_reply(call, envelope, origin)
            elif kind == _ORIGIN:
                origin = envelope
            elif kind == _CALL:
                self._receive_call(envelope, origin, now)
            else:
                self._receive_control(kind, envelope)
        if inboxes:
            self._deliver(inboxes, envelopes[first:], origin)

    def _deliver(self, inboxes: tuple[Inbox, ...], messages: Sequence[Sequence[Any]], origin: Sequence[Any]) -> None:
        size = sum(map(len, map(_payload_of, messages)))
        for inbox in inboxes:
            inbox.put_all(messages, origin, size)
            if inbox.waiting:
                inbox.waiting = False
                self.woken.append(inbox)

    def _receive_reply(self, call: _Call | None, envelope: Sequence[Any], origin: Sequence[Any]) -> None:
        """Any reply but the good end of ``call``."""
        id, status = envelope[1], envelope[2]
        if call is not None:
            error = from_reply(status, envelope[4]) if status != Status.PARTIAL else _unexpected_stream(call[2])
            self.finished.append((call[0], error))
            if status == Status.PARTIAL:
                self.requests[id] = _nobody(call[2])
                self.out.push(wire.cancel(id))
            return
        request = self.requests.get(id) if status == Status.PARTIAL else self.requests.pop(id, None)
        if request is None or request[3] is None:
            self.late_replies += request is None or status <= Status.PARTIAL
        else:
            self._advance(id, request, status, Reply.received(envelope[4], envelope[3], origin))

    def _advance(self, id: int, entry: _Request, status: int, reply: Reply) -> None:
        """A reply to a stream, or the answer to a subscribe, serve or unserve."""
        token, _, _, target, _ = entry
        if isinstance(target, Parts):
            self._advance_stream(id, target, status, reply)
        elif isinstance(target, Offer) and target.id != id:
            # The answer to an unserve. If it is a refusal, the broker has ended the offer meanwhile: gone as well.
            self._forget(target)
            if token is not None:
                self.finished.append((token, None))
        elif status != Status.OK:
            error = from_reply(status, reply._data)
            error = from_body(error.body()) if status == Status.ERROR else error
            assert target is not None
            self._forget(target)
            target.ended = error
            self._finish(token, target, error)
        elif isinstance(target, Inbox):
            self._routes.add(target)
            if token is None:
                target.put_gap(None, "reconnected")
                self._wake(target)
            else:
                self.finished.append((token, None))
        elif isinstance(target, Offer):
            self._routes.add(target)
            if token is not None:
                self.finished.append((token, None))

    def _advance_stream(self, id: int, parts: Parts, status: int, reply: Reply) -> None:
        if status == Status.PARTIAL or (status == Status.OK and reply._data):
            error: BusError | None = parts.put(reply)
            if error is not None:
                self.abandon(id)
        else:
            error = from_reply(status, reply._data) if status != Status.OK else None
        if status != Status.PARTIAL or error is not None:
            parts.done = True
            parts.outcome = error
        self._wake(parts)

    def _receive_call(self, envelope: Sequence[Any], origin: Sequence[Any], now: float) -> None:
        id = envelope[1]
        subject = envelope[2]
        call = Call(id, subject, now + envelope[3] / 1000, envelope[5], envelope[4], origin)
        self.held[id] = call
        offer = self._routes.offers.get(subject) or self._routes.find_offer(subject)
        if offer is None:
            body = BusError(Code.NO_RESPONDERS, subject=subject).body()
            self.reply(call, Status.ERROR, None, wire.pack(body))
            return
        offer.queue.append(call)
        if offer.waiting:
            offer.waiting = False
            self.woken.append(offer)

    def _receive_control(self, kind: int, envelope: Sequence[Any]) -> None:
        """Everything that is neither a message, a call nor a reply."""
        if kind == Kind.PONG:
            token, _ = self._pings.pop(envelope[1], (None, 0.0))
            if token is not None:
                self.finished.append((token, None))
        elif kind == Kind.PING:
            self.out.push(wire.pong(envelope[1]))
        elif kind == Kind.CANCEL:
            self._receive_cancel(envelope[1])
        elif kind == Kind.GAP:
            inbox = self._inboxes.get(envelope[1])
            if inbox is not None:
                inbox.put_gap(envelope[2], envelope[3])
                self._wake(inbox)
        elif kind == Kind.ERROR:
            self._receive_error(envelope[1], envelope[2])
        elif kind == Kind.WELCOME and self.state is SessionState.GREETING:
            self._receive_welcome(*envelope[1:4])
        elif kind == Kind.DRAIN:
            self.draining = True
        elif kind == Kind.BYE:
            self.state = SessionState.ENDED
            self.farewell = from_body(envelope[1]) if envelope[1] is not None else None
            self._not_ready(f"the broker said bye: {self.farewell or 'it is going away'}")
        elif kind in wire.SKIPPABLE:
            self.skipped_envelopes += 1
        else:
            name = wire.KIND_NAMES.get(kind, f"kind {kind}")
            raise BusError(Code.KIND_UNEXPECTED, kind=name, state=self.state.value)

    def _receive_welcome(self, version: int, endpoint: str, info: dict[str, Any]) -> None:
        if version != wire.VERSION:
            raise BusError(Code.VERSION_UNSUPPORTED, offered=version, supported=wire.VERSION)
        self.state = SessionState.ATTACHED
        self.ready = True
        self.version = version
        self.endpoint = endpoint
        self.info = info
        self._hello_deadline = inf
        limit = info.get("max_payload")
        self.max_payload = min(PAYLOAD_BYTES, limit) if isinstance(limit, int) and limit > 0 else PAYLOAD_BYTES
        self._inline_bytes = min(INLINE_BYTES, self.max_payload)
        most = info.get("max_envelopes")
        self.out.limit_envelopes(
            min(ENVELOPES_PER_FRAME, most) if type(most) is int and most > 0 else ENVELOPES_PER_FRAME
        )

    def _receive_cancel(self, id: int) -> None:
        """Nobody waits for call ``id`` any more. To the broker it is held here until its final reply all the same."""
        call = self.held.get(id)
        if call is None:
            return
        call.cancelled = True
        if call.task is not None:
            self.cancelled.append(call)
        else:
            self.reply(call, Status.ERROR, None, wire.pack(BusError(Code.CANCELLED, subject=call.subject).body()))

    def _receive_error(self, ref: int | None, body: dict[str, Any]) -> None:
        """The end of a subscription or an offer that stood; a refusal without a reply, of a request or of a publish."""
        error = from_body(body)
        call = self.calls.pop(ref, None) if ref is not None else None
        request = self.requests.pop(ref, None) if ref is not None else None
        standing = (self._inboxes.get(ref) or self._offers.get(ref)) if ref is not None else None
        if standing is not None:
            self._forget(standing)
            standing.ended = error
        if call is not None:
            self._finish(call[0], None, error)
        elif request is not None:
            self._finish(request[0], request[3], error)
        elif standing is not None:
            self._finish(None, standing, error)
        elif ref is None and len(self.refused) < REFUSALS:
            self.refused.setdefault(str(error.fields.get("subject", "")), error)

    # -- time ---------------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """End what is overdue. Raises BusError 1007 when the broker has not said welcome in time."""
        if now >= self._hello_deadline:
            self._hello_deadline = inf
            raise BusError(Code.HANDSHAKE_TIMEOUT, stage="welcome", seconds=HANDSHAKE_SECONDS)
        for id in [id for id, call in self.calls.items() if call[1] <= now]:
            token, _, subject, timeout = self.calls[id]
            self.abandon(id)
            self._finish(token, None, CallTimeout(subject, timeout))
        for id in [id for id, request in self.requests.items() if request[1] <= now]:
            self._expire_request(id, self.requests[id])
        for id, (token, deadline) in list(self._pings.items()):
            if deadline <= now:
                del self._pings[id]
                self.finished.append((token, CallTimeout("$bus", REQUEST_SECONDS)))
        self.earliest = min(
            self._hello_deadline,
            min((call[1] for call in self.calls.values()), default=inf),
            min((request[1] for request in self.requests.values()), default=inf),
            min((deadline for _, deadline in self._pings.values()), default=inf),
        )

    def _expire_request(self, id: int, request: _Request) -> None:
        token, _, subject, target, timeout = request
        error = CallTimeout(subject, timeout)
        if isinstance(target, Inbox | Offer):
            target.ended = error
            self._withdraw(target)
        else:
            self.abandon(id)
        self._finish(token, target, error)

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _not_ready(self, reason: str) -> None:
        self.ready = False
        self.reason = reason
        self._heads.clear()  # `publish` asks for nothing else

    def unavailable(self) -> BusError:
        """The error for a request that cannot be made because there is no connection."""
        if self.failure is not None:
            return type(self.failure).from_body(self.failure.body())
        return NotConnected(self.url, self.reason)

    def _require_ready(self) -> None:
        if not self.ready:
            raise self.unavailable()

    def _check_call(self, subject: str) -> None:
        """Raise unless ``subject`` may be called."""
        check_subject(subject)
        if len(self._callable) >= CACHED_SUBJECTS:
            self._callable.clear()
        self._callable.add(subject)

    def _held_id(self, call: Call, subject: str) -> int:
        """The id under which ``call`` is held. Raises when it is not held (any more)."""
        if self.held.get(call.id) is not call:
            reason = "the call on whose behalf it is made has been answered, or its connection is gone"
            raise BusError(Code.REQUEST_INVALID, subject=subject, reason=reason)
        return call.id

    def _check_publish(self, subject: str) -> None:
        """Raise unless ``subject`` may be published on; keep how its messages begin."""
        check_subject(subject)
        if is_reserved(subject):
            raise BusError(Code.SUBJECT_RESERVED, subject=subject)
        if len(self._heads) >= CACHED_SUBJECTS:
            self._heads.clear()
        self._heads[subject] = wire.publish(subject, None, b"")[:-2]

    def _set_timeout(self, subject: str, timeout: float) -> None:
        if not 0.001 <= timeout <= TIMEOUT_MS_MAX / 1000:
            reason = f"a timeout of {timeout} s is not within 0.001 to {TIMEOUT_MS_MAX // 1000} s"
            raise BusError(Code.REQUEST_INVALID, subject=subject, reason=reason)
        self._timeout = timeout
        self._timeout_ms = int(timeout * 1000)

    def _take_id(self) -> int:
        id = self._next_id
        self._next_id = id + 1
        return id if id < ID_MAX else self._wrap_ids()

    def _wrap_ids(self) -> int:
        """All ids were used once: start again, past those that still stand."""
        id = ID_FIRST
        while id in self.calls or id in self.requests or id in self._inboxes or id in self._offers:
            id += 1
        self._next_id = id + 1
        return id

    def _await(self, id: int, token: Any, now: float, subject: str, target: _Target) -> None:
        deadline = now + REQUEST_SECONDS
        self.requests[id] = (token, deadline, subject, target, REQUEST_SECONDS)
        self.earliest = min(self.earliest, deadline)

    def _ask_subscribe(self, inbox: Inbox, now: float, token: Any) -> None:
        inbox.id = self._take_id()
        self._inboxes[inbox.id] = inbox
        self._await(inbox.id, token, now, inbox.pattern, inbox)
        self.out.push(wire.subscribe(inbox.id, inbox.pattern, {"latest": True} if inbox.latest else {}))

    def _ask_serve(self, offer: Offer, now: float, token: Any) -> None:
        offer.id = self._take_id()
        self._offers[offer.id] = offer
        self._await(offer.id, token, now, offer.pattern, offer)
        self.out.push(wire.serve(offer.id, offer.pattern, {"group": offer.group}))

    def _withdraw(self, target: Inbox | Offer) -> None:
        """Forget ``target`` at once and tell the broker; nobody waits for its answers."""
        id = target.id
        self._forget(target)
        if id in self.requests:
            self.requests[id] = _nobody(target.pattern)
        if id and self.state in (SessionState.ATTACHED, SessionState.GREETING):
            own = self._take_id()
            self.requests[own] = _nobody(target.pattern)
            self.out.push(wire.unsubscribe(own, id) if isinstance(target, Inbox) else wire.unserve(own, id))

    def _forget(self, target: Inbox | Offer) -> None:
        self._inboxes.pop(target.id, None)
        self._offers.pop(target.id, None)
        self._routes.remove(target)
        target.id = 0

    def _wake(self, queue: Inbox | Offer | Parts) -> None:
        if queue.waiting:
            queue.waiting = False
            self.woken.append(queue)

    def _finish(self, token: Any, target: _Target, error: BusError) -> None:
        """End one request with ``error``, whoever waits for it."""
        if isinstance(target, Parts):
            target.done = True
            target.outcome = error
            self._wake(target)
        elif token is not None:
            self.finished.append((token, error))
        elif target is not None:
            target.ended = error
            target.waiting = False
            self.woken.append(target)


def _nobody(subject: str) -> _Request:
    """In place of a request whose final reply is still to come, but for nobody."""
    return (None, inf, subject, None, 0.0)


def _checked(headers: Headers) -> dict[str, Any] | None:
    """``headers`` as they are sent. Raises BusError 1013 when they are not acceptable."""
    plain = dict(headers)
    reason = wire.check_headers(plain)
    if reason is not None:
        raise BusError(Code.HEADERS_INVALID, reason=reason)
    return plain or None


def _unexpected_stream(subject: str) -> BusError:
    reason = "the responder streams its reply: use stream() instead of call()"
    return BusError(Code.REQUEST_INVALID, subject=subject, reason=reason)
