"""Measure the core alone: no sockets, no loop, CPU time of one thread; frames in by ``receive``, out by ``take``.

Usage: ``tests/bench/core.py [--only CASE] [--seconds N] [--profile]``

Each case feeds frames as clients would send them and takes out what every receiver is to get, in turns as the daemon
does: what one turn of its event loop read, then one frame for each endpoint that has output.
"""

import argparse
import cProfile
import pstats
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "clients")]

from busd.core.bus import Bus  # noqa: E402
from busd.core.principal import Principal  # noqa: E402
from busd.core.session import Session  # noqa: E402
from busproto import envelope  # noqa: E402
from busproto.envelope import Decoder, Kind, Status  # noqa: E402
from busproto.limits import BATCH_BYTES  # noqa: E402
from tests.core.peer import OPEN, made  # noqa: E402

PAYLOAD = bytes(100)
SUBJECT = "bench.data"
ECHO = "bench.echo"
SENDERS = 8
"""Endpoints whose frames one turn brings in."""

Turn = Callable[[], int]
"""Does one turn's work and returns how many messages, deliveries or calls that was."""


class Case(NamedTuple):
    """One loop to measure."""

    name: str
    unit: str
    setup: Callable[["Floor"], Turn]


class Floor:
    """A bus and its sessions, with a clock that stands still."""

    def __init__(self) -> None:
        self.bus = Bus(node="bench", software="bench", policy=made(OPEN), now=0.0)
        self._principal = Principal("host", "node", "bench", 1, 0, 0, 1, ())
        self._decoder = Decoder()

    def join(self, *requests: bytes) -> Session:
        """An attached session that has made ``requests``, with nothing left to take."""
        session = self.bus.attach(self._principal, 0.0)
        hello = envelope.hello({"component": "bench"})
        self.bus.receive(session, hello + b"".join(requests), 0.0)
        frames = self.drain()
        replies = [e for frame in frames for e in self._decoder.decode(frame).envelopes if e[0] == Kind.REPLY]
        if session.closing or len(replies) != len(requests) or any(reply[2] != Status.OK for reply in replies):
            raise RuntimeError(f"the bus refused the set-up: {replies}")
        return session

    def drain(self) -> list[bytes]:
        """Every frame that the bus has to send now."""
        frames = []
        for session in self.bus.ready():
            while parts := self.bus.take(session, BATCH_BYTES):
                frames.append(b"".join(parts))
        return frames


def publishing(batch: int, subscribers: int, *, mixed: bool = False) -> Callable[[Floor], Turn]:
    """Publishes in batches of ``batch`` by SENDERS endpoints, to ``subscribers`` endpoints.

    ``mixed``: no two messages in a row have the same subject or size.
    """

    def setup(floor: Floor) -> Turn:
        for _ in range(subscribers):
            floor.join(envelope.subscribe(1, f"{SUBJECT}.>" if mixed else SUBJECT, {}))
        senders = [floor.join() for _ in range(SENDERS)]
        frame = envelope.publish(SUBJECT, None, PAYLOAD) * batch
        if mixed:
            frame = b"".join(envelope.publish(f"{SUBJECT}.s{n % 7}", None, bytes(20 * (n % 11))) for n in range(batch))
        receive, drain = floor.bus.receive, floor.drain
        count = batch * SENDERS * subscribers

        def turn() -> int:
            for sender in senders:
                receive(sender, frame, 0.0)
            drain()
            return count

        return turn

    return setup


def calling(in_flight: int) -> Callable[[Floor], Turn]:
    """Calls by one endpoint to one other, ``in_flight`` at a time, each frame holding all of them."""

    def setup(floor: Floor) -> Turn:
        responder = floor.join(envelope.serve(1, ECHO, {}))
        caller = floor.join()
        decode, receive, drain = floor._decoder.decode, floor.bus.receive, floor.drain
        next_id = 1

        def turn() -> int:
            nonlocal next_id
            ids = range(next_id, next_id + in_flight)
            next_id += in_flight
            receive(caller, b"".join([envelope.call(id, ECHO, 5000, None, PAYLOAD) for id in ids]), 0.0)
            calls = [e for frame in drain() for e in decode(frame).envelopes if e[0] == Kind.CALL]
            replies = [envelope.reply(call[1], Status.OK, None, call[5]) for call in calls]
            receive(responder, b"".join(replies), 0.0)
            if len(calls) != in_flight or not drain():
                raise RuntimeError(f"{len(calls)} of {in_flight} calls arrived")
            return in_flight

        return turn

    return setup


CASES = (
    Case("publish-1", "messages/s", publishing(1, 1)),
    Case("publish-8", "messages/s", publishing(8, 1)),
    Case("publish-64", "messages/s", publishing(64, 1)),
    Case("mixed-64", "messages/s", publishing(64, 1, mixed=True)),
    Case("fanout-48", "deliveries/s", publishing(1, 48)),
    Case("fanout-48-8", "deliveries/s", publishing(8, 48)),
    Case("call-1", "calls/s", calling(1)),
    Case("call-64", "calls/s", calling(64)),
)
"""The number is the batch or the calls in flight; ``call`` includes what caller and responder encode and decode."""


def measure(turn: Turn, seconds: float) -> float:
    """What ``turn`` does in a second of processor time: others on the machine do not count."""
    done = 0
    start = process_time()
    while (now := process_time()) - start < seconds:
        done += turn()
    return done / (now - start)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the core alone: no sockets, no event loop.")
    names = [case.name for case in CASES]
    parser.add_argument("--only", action="append", choices=names, metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=5, help="the median of these is shown (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each round (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead of how much it is")
    options = parser.parse_args()
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        turn = case.setup(Floor())
        measure(turn, options.seconds / 5)
        if options.profile:
            print(f"{case.name}:")
            with cProfile.Profile() as profile:
                measure(turn, options.seconds)
            pstats.Stats(profile).sort_stats("tottime").print_stats(15)
        else:
            rates = [measure(turn, options.seconds) for _ in range(options.rounds)]
            print(f"{case.name:12} {statistics.median(rates):12,.0f} {case.unit}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
