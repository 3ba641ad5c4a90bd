"""One process of a hostile tenant: bare sockets, and bytes that were made beforehand, as fast as they go out.

Usage: ``python -m tests.bench.attacker SPEC``, SPEC being a JSON object: ``attack`` (a name in
``tests.bench.attacks``), ``paths`` (the sockets of the tenant's units) and ``seconds``. The process prepares, writes
``{"ready": true}``, waits for a line on standard input, attacks, and writes ``{"count": N,
"seconds": S}``; at the end of its standard input it ends, and its connections with it.
"""

import itertools
import json
import os
import resource
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from busproto.zmtp import frame_header
from tests.bench.peers.busd import BusdHandshake

PER_FRAME = 1000
"""Envelopes in one frame: nearly as many as a tenant may send in one."""

ROOM = 256 * 1024
"""Bytes that one system call writes or reads."""

SETUP_SECONDS = 60.0
"""For connections that are made before the attack: a node lets a unit's come at its own pace."""

PAUSE_SECONDS = 0.002
"""When no unit can connect."""


def opening() -> bytes:
    """Greeting, READY and hello in one piece."""
    return BusdHandshake().opening()


def framed(envelopes: Iterable[bytes], per_frame: int = PER_FRAME) -> bytes:
    """``envelopes`` in frames of ``per_frame``."""
    rest = iter(envelopes)
    pieces = []
    while batch := list(itertools.islice(rest, per_frame)):
        body = b"".join(batch)
        pieces.append(frame_header(len(body)) + body)
    return b"".join(pieces)


class Line:
    """One connection, and bytes to be sent on it again and again."""

    def __init__(self, path: str) -> None:
        """Connect to ``path``. Raises OSError at once if that is not possible at once."""
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self.reads = True
        """Whether it takes what it is sent."""
        self.sent = 0
        self.data = b""
        self._left = memoryview(b"")
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise

    def load(self, data: bytes) -> None:
        """Send ``data`` from now on, over and over."""
        self.data = data
        self._left = memoryview(data)

    def push(self) -> None:
        """Send as much as goes. Raises OSError when the node has closed the connection."""
        try:
            while self.data:
                self._left = self._left or memoryview(self.data)
                count = self.socket.send(self._left[:ROOM])
                self._left = self._left[count:]
                self.sent += count
        except BlockingIOError:
            pass

    def drain(self) -> bool:
        """Read what has come; False at its end."""
        try:
            return bool(self.socket.recv(ROOM))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def attach(self) -> None:
        """Say hello and wait for the welcome. Raises OSError when none comes."""
        self.socket.settimeout(SETUP_SECONDS)
        handshake = BusdHandshake()
        self.socket.sendall(handshake.opening())
        received = bytearray()
        while not handshake.attached(received):
            data = self.socket.recv(ROOM)
            if not data:
                raise ConnectionResetError("there was no welcome")
            received += data
        self.socket.setblocking(False)

    def say(self, data: bytes) -> None:
        """Send all of ``data``, and read meanwhile. Raises OSError."""
        left = memoryview(data)
        while left:
            readable, writable, _ = select.select([self.socket], [self.socket], [], SETUP_SECONDS)
            if readable and not self.drain():
                raise ConnectionResetError("closed while the attack was prepared")
            if writable:
                left = left[self.socket.send(left[:ROOM]) :]

    def close(self) -> None:
        self.socket.close()


class Attacker:
    """The units of the hostile tenant, their connections, and how much they have done."""

    def __init__(self, paths: list[str], seconds: float) -> None:
        self.paths = paths
        self.seconds = seconds
        self.end = 0.0
        """When the attack is over; set when it begins."""
        self.lines: list[Line] = []
        self.count = 0.0
        """How much was done, in the attack's own unit."""

    def line(self, unit: int = 0) -> Line:
        """An attached connection of unit number ``unit``, as soon as the node lets it in."""
        end = time.monotonic() + SETUP_SECONDS
        while True:
            try:
                line = Line(self.paths[unit % len(self.paths)])
                line.attach()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(PAUSE_SECONDS)
                continue
            self.lines.append(line)
            return line

    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end

    def flood(self, data: bytes, worth: float, senders: list[Line] | None = None) -> None:
        """Send ``data`` on ``senders`` (all lines) again and again; who is cut off comes back.

        ``worth`` is what sending all of ``data`` once adds to the count.
        """
        poll = select.poll()
        watched: dict[int, Line] = {}
        sending = self.lines if senders is None else senders

        def watch(line: Line) -> None:
            watched[line.socket.fileno()] = line
            poll.register(line.socket, (select.POLLOUT if line.data else 0) | (select.POLLIN if line.reads else 0))

        def count(line: Line) -> None:
            self.count += line.sent / len(data) * worth

        for line in self.lines:
            if line in sending:
                line.load(data)
            watch(line)
        while not self.over():
            for number, events in poll.poll(100):
                line = watched[number]
                try:
                    if events & select.POLLIN and not line.drain():
                        raise ConnectionResetError("closed")
                    if events & select.POLLOUT:
                        line.push()
                    elif events & (select.POLLHUP | select.POLLERR):
                        raise ConnectionResetError("closed")
                except OSError:
                    poll.unregister(line.socket)
                    del watched[number]
                    line.close()
                    count(line)
                    if (again := self._again(line)) is not None:
                        watch(again)
        for line in watched.values():
            count(line)

    def storm(self, said: bytes, *, at_once: int, hang_up: bool) -> None:
        """Connect, say ``said``, hang up at the first answer if ``hang_up``; ``at_once`` at a time for each unit."""
        poll = select.poll()
        lines: dict[int, Line] = {}
        open_of = Counter[str]()
        while not self.over():
            connected = False
            for path in self.paths:
                if open_of[path] >= at_once:
                    continue
                try:
                    line = Line(path)
                except OSError:
                    continue
                connected = True
                open_of[path] += 1
                self.count += 1
                lines[line.socket.fileno()] = line
                poll.register(line.socket, select.POLLIN)
                try:
                    line.socket.send(said or b"\xff")
                except OSError:
                    pass  # cut off already: the poll says so
            for number, _ in poll.poll(0 if connected else 1):
                line = lines[number]
                if line.drain() and not hang_up:
                    continue
                poll.unregister(line.socket)
                line.close()
                del lines[number]
                open_of[line.path] -= 1
        self.lines += lines.values()

    def _again(self, old: Line) -> Line | None:
        """A new connection that goes on as ``old`` did; None if there can be none now."""
        try:
            line = Line(old.path)
            line.socket.send(opening())
        except OSError:
            time.sleep(PAUSE_SECONDS)
            return None
        line.reads = old.reads
        line.load(old.data)
        return line


class Attack(Protocol):
    """What the process does."""

    def prepare(self, attacker: Attacker) -> None:
        """What comes before the clock runs."""

    def run(self, attacker: Attacker) -> None:
        """Attack until ``attacker.over()``."""


def keep_out_of_the_way() -> None:
    """Run when nobody else wants to: a guest's own processor time is for the hypervisor's scheduler to share out."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def main() -> int:
    """Attack as the command line says; exit 0 when that was possible."""
    from tests.bench.attacks import ALL

    spec = json.loads(sys.argv[1])
    keep_out_of_the_way()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attacker = Attacker(spec["paths"], spec["seconds"])
    attack: Attack = ALL[spec["attack"]]
    attack.prepare(attacker)
    print(json.dumps({"ready": True}), flush=True)
    if not sys.stdin.readline():
        return 1
    start = time.monotonic()
    attacker.end = start + attacker.seconds
    attack.run(attacker)
    print(json.dumps({"count": attacker.count, "seconds": time.monotonic() - start}), flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
