"""The ways to be hostile that ``make bench-hostile`` tries, one after another."""

import itertools
import select
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from busproto import envelope
from busproto.limits import ENVELOPES_PER_FRAME, FRAME_BYTES, ID_FIRST, MIB, PAYLOAD_BYTES, SUBJECT_TOKENS
from busproto.zmtp import frame_header
from tests.bench.attacker import PAUSE_SECONDS, PER_FRAME, ROOM, Attacker, Line, framed, opening

EXPORTED = "node.echo"
"""A service of the node that every tenant may call; it answers at once."""

HELD = "node.hold"
"""A service of the node that every tenant may call; it answers at once, unless the request asks it never to."""

NEVER = b"\xa5never"
"""The request to hold a call: "never" in msgpack."""

NOTHING = b"\xc0"
"""Nil in msgpack."""

DENIED = "$bus.admin.guest.list"
"""What no guest may call."""

SUBSCRIPTIONS = 1000
"""Of one connection, below its quota."""

HALF_FRAMES = 200
"""Connections with half a frame that are kept open."""

HOUR_MS = 3_600_000

Act = Callable[[Attacker], None]


@dataclass(frozen=True, slots=True)
class Hostile:
    """One way to be hostile."""

    what: str
    """In a few words."""
    unit: str
    """What is counted."""
    run: Act
    prepare: Act = lambda attacker: lines(attacker, 1)


def lines(attacker: Attacker, each: int) -> None:
    """``each`` connections for every unit."""
    for number in range(each * len(attacker.paths)):
        attacker.line(number)


def flood(envelopes: Iterable[bytes], per_frame: int = PER_FRAME, worth: float | None = None) -> Act:
    """Send ``envelopes`` on every connection, again and again."""

    def run(attacker: Attacker) -> None:
        made = list(envelopes)
        attacker.flood(framed(made, per_frame), len(made) if worth is None else worth)

    return run


def calls(subject: str, payload: bytes = NOTHING, count: int = 16_000, timeout_ms: int = 1000) -> Iterable[bytes]:
    """Calls under ids that are free again when their turn comes."""
    return (envelope.call(ID_FIRST + n, subject, timeout_ms, None, payload) for n in range(count))


def subscribes(patterns: Iterable[str]) -> Iterable[bytes]:
    """Subscriptions under the ids 1, 2, 3 ..."""
    return (envelope.subscribe(number, pattern, {}) for number, pattern in enumerate(patterns, 1))


def churn() -> Iterable[bytes]:
    for number in range(1, 4000, 2):
        yield envelope.subscribe(number, f"churn.{number}.*.>", {})
        yield envelope.unsubscribe(number + 1, number)


def subscribed(each: int, patterns: Iterable[str], *, reads: bool = True) -> Act:
    """``each`` connections for every unit, with subscriptions to ``patterns``."""

    def prepare(attacker: Attacker) -> None:
        said = framed(subscribes(patterns))
        for number in range(each * len(attacker.paths)):
            line = attacker.line(number)
            line.say(said)
            line.reads = reads

    return prepare


def branching(count: int) -> list[str]:
    """Patterns of names and wildcards in every combination: one subject matches all of them, each by another way."""
    tokens = itertools.islice(itertools.product("a*", repeat=SUBJECT_TOKENS - 1), count)
    return [".".join((*pattern, ">")) for pattern in tokens]


def prepare_branching(attacker: Attacker) -> None:
    patterns = branching(4 * len(attacker.paths) * SUBSCRIPTIONS)
    for number in range(4 * len(attacker.paths)):
        mine = patterns[number * SUBSCRIPTIONS : (number + 1) * SUBSCRIPTIONS]
        attacker.line(number).say(framed(subscribes(mine)))


def publish_branching() -> Iterable[bytes]:
    for number in range(4000):
        yield envelope.publish(".".join((*"a" * (SUBJECT_TOKENS - 1), str(number))), None, NOTHING)


def alternating(count: int = 4000) -> Iterable[bytes]:
    """Messages no two of which in a row go the same way: each costs as much as a run of them."""
    return (envelope.publish(f"fan.{'ab'[n % 2]}", None, NOTHING) for n in range(count))


def storm(said: bytes, at_once: int, *, hang_up: bool) -> Act:
    return lambda attacker: attacker.storm(said, at_once=at_once, hang_up=hang_up)


def half_frames(attacker: Attacker) -> None:
    """The largest frames, without their end, on more and more connections."""
    part = frame_header(FRAME_BYTES) + bytes(FRAME_BYTES - 1024)
    for number in itertools.count():
        if attacker.over():
            return
        try:
            line = Line(attacker.paths[number % len(attacker.paths)])
        except OSError:
            time.sleep(PAUSE_SECONDS)
            continue
        attacker.lines.append(line)
        try:
            line.attach()
            while line.sent < len(part) and not attacker.over() and select.select([], [line.socket], [], 0.1)[1]:
                sent = line.socket.send(memoryview(part)[line.sent : line.sent + ROOM])
                line.sent += sent
                attacker.count += sent / MIB
        except OSError:
            line.close()  # cut off
            attacker.lines.remove(line)
        if len(attacker.lines) > HALF_FRAMES:
            attacker.lines.pop(0).close()


def trickle(attacker: Attacker) -> None:
    """Frames byte by byte, on many connections."""
    data = framed([envelope.publish("trickle", None, NOTHING)] * 16, 16)
    while not attacker.over():
        for line in attacker.lines:
            try:
                line.sent += line.socket.send(data[line.sent % len(data) :][:1])
            except BlockingIOError:
                continue
    attacker.count = sum(line.sent for line in attacker.lines)


def serve_and_hold(attacker: Attacker) -> None:
    """One connection of each unit serves and will never answer; another one calls."""
    for number, _ in enumerate(attacker.paths):
        attacker.line(number).say(framed([envelope.serve(1, "held.>", {})]))
        attacker.line(number)


def hold(attacker: Attacker) -> None:
    made = list(calls("held.call", timeout_ms=HOUR_MS, count=32_000))
    attacker.flood(framed(made), len(made), senders=attacker.lines[1::2])


def spin(attacker: Attacker) -> None:
    """Keep a processor busy, and the kernel, and let the broker be."""
    here, there = socket.socketpair()
    while not attacker.over():
        here.send(b"x")
        attacker.count += len(there.recv(1))


QUIET = "quiet"
"""No attack: what the others' calls under attack are compared with."""

ATTACKS: dict[str, Hostile] = {
    "publish": Hostile(
        "small messages, batched", "messages", flood([envelope.publish("flood", None, NOTHING)] * 16_000)
    ),
    "publish-singly": Hostile(
        "small messages, a frame each", "messages", flood([envelope.publish("flood", None, NOTHING)] * 16_000, 1)
    ),
    "publish-subjects": Hostile(
        "each on a subject of its own",
        "messages",
        flood((envelope.publish(f"flood.{n}", None, NOTHING) for n in range(16_000)), 64),
    ),
    "publish-fanout": Hostile(
        "messages that each go to 600 own connections",
        "messages",
        flood(alternating()),
        subscribed(100, ["fan.*"]),
    ),
    "calls": Hostile("calls of a service of the node", "calls", flood(calls(EXPORTED))),
    "calls-singly": Hostile("the same, a frame each", "calls", flood(calls(EXPORTED), 1)),
    "calls-nobody": Hostile("calls that nobody serves", "calls", flood(calls("nobody"))),
    "denied": Hostile("calls that policy denies", "calls", flood(calls(DENIED))),
    "asking": Hostile("$bus.list, again and again", "calls", flood(calls("$bus.list"))),
    "subscribe": Hostile("subscribe, unsubscribe", "requests", flood(churn())),
    "subscribe-quota": Hostile(
        "subscriptions beyond every quota",
        "requests",
        flood(list(subscribes(f"quota.{n}.>" for n in range(8000)))),
        lambda attacker: lines(attacker, 20),
    ),
    "subscribe-branching": Hostile(
        "subjects that 24,000 own patterns match", "messages", flood(publish_branching(), 16), prepare_branching
    ),
    "half-frames": Hostile("frames of 16 MiB without their end", "MiB", half_frames, lambda _: None),
    "trickle": Hostile("byte by byte", "bytes", trickle, lambda attacker: lines(attacker, 30)),
    "not-reading": Hostile(
        "subscribes to its own flood and never reads",
        "MiB",
        flood([envelope.publish("flood", None, bytes(1000))] * 4000, 60, worth=4000 * 1000 / MIB),
        subscribed(2, ["flood"], reads=False),
    ),
    "not-reading-answers": Hostile(
        "asks and never reads the answers",
        "calls",
        flood(calls("$bus.list", count=4000)),
        subscribed(4, [], reads=False),
    ),
    "huge": Hostile(
        "messages of 16 MiB to itself",
        "MiB",
        flood([envelope.publish("huge", None, bytes(PAYLOAD_BYTES))], 1, worth=PAYLOAD_BYTES / MIB),
        subscribed(1, ["huge"]),
    ),
    "overfull": Hostile(
        "frames with more envelopes than allowed",
        "frames",
        flood([envelope.publish("flood", None, NOTHING)] * (ENVELOPES_PER_FRAME - 1), ENVELOPES_PER_FRAME, worth=1),
    ),
    "withhold": Hostile("serves itself and never answers", "calls", hold, serve_and_hold),
    "withhold-node": Hostile(
        "calls of a service of the node that never end",
        "calls",
        flood(calls(HELD, NEVER, 32_000, HOUR_MS)),
        lambda attacker: lines(attacker, 4),
    ),
    # Last, for the node then lets nobody of the tenant in for a while.
    "connect": Hostile("connect, hello, hang up", "connections", storm(opening(), 64, hang_up=True), lambda _: None),
    "connect-idle": Hostile("connect, say no word", "connections", storm(b"", 1023, hang_up=False), lambda _: None),
}
"""By name, in the order in which they are tried."""

ALL = {QUIET: Hostile("a busy process that lets the broker be", "bytes", spin), **ATTACKS}
