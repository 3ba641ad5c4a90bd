"""Zenoh: a router (the Python binding's own, there is no other in PyPI) on a unix socket and the Python binding."""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import threading
from pathlib import Path
from typing import Any

from tests.bench.peers.peer import Link, Peer, Seen, unix_listening


def open_session(mode: str, **endpoints: str) -> Any:
    """A Zenoh session that talks to ``endpoints`` (``listen`` or ``connect``) and to nobody else."""
    zenoh: Any = importlib.import_module("zenoh")
    config = zenoh.Config()
    config.insert_json5("mode", json.dumps(mode))
    config.insert_json5("scouting/multicast/enabled", "false")
    for direction, endpoint in endpoints.items():
        config.insert_json5(f"{direction}/endpoints", json.dumps([endpoint]))
    return zenoh.open(config)


class ZenohLink(Link):
    """One client session; its callbacks run in threads of the binding."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._zenoh: Any = importlib.import_module("zenoh")
        self._session = open_session("client", connect=url)
        self._loop = asyncio.get_running_loop()
        self._publishers: dict[str, Any] = {}

    def _publisher(self, subject: str) -> Any:
        publisher = self._publishers.get(subject)
        if publisher is None:
            # Blocking when congested, or else Zenoh drops.
            blocking = self._zenoh.CongestionControl.BLOCK
            publisher = self._session.declare_publisher(subject, congestion_control=blocking)
            self._publishers[subject] = publisher
        return publisher

    async def publish(self, subject: str, payload: bytes, count: int) -> None:
        put = self._publisher(subject).put
        for _ in range(count):
            put(payload)

    async def subscribe(self, subject: str, seen: Seen) -> None:
        probed = asyncio.Event()

        def arrived(sample: Any) -> None:
            try:
                payload = sample.payload.to_bytes()
                if payload:
                    seen(payload)
                else:
                    self._loop.call_soon_threadsafe(probed.set)
            except Exception as error:
                self._loop.call_soon_threadsafe(self.fail, error)

        self._session.declare_subscriber(subject, arrived)
        # A declaration is not answered: an empty message that came back through the router shows that it is in force.
        probe = open_session("client", connect=self._url)
        try:
            while not probed.is_set():
                probe.put(subject, b"")
                await asyncio.sleep(0.02)
        finally:
            probe.close()

    def post(self, subject: str, payload: bytes) -> None:
        self._publisher(subject).put(payload)

    async def close(self) -> None:
        await super().close()
        self._session.close()


class ZenohPeer(Peer):
    """A Zenoh router in its defaults, in a process of its own."""

    name = "zenoh"

    def missing(self) -> str | None:
        if importlib.util.find_spec("zenoh") is None:
            return "Zenoh's Python binding is not installed (pip install eclipse-zenoh)"
        return None

    def version(self) -> str:
        return f"eclipse-zenoh {importlib.metadata.version('eclipse-zenoh')}, router and clients"

    def command(self, directory: Path) -> list[str]:
        return [sys.executable, "-P", "-m", "tests.bench.peers.zenoh", self._endpoint(directory)]

    def address(self, directory: Path) -> str | None:
        return self._endpoint(directory) if unix_listening(directory / "zenoh.sock") else None

    def _endpoint(self, directory: Path) -> str:
        return f"unixsock-stream/{directory / 'zenoh.sock'}"

    async def connect(self, url: str) -> ZenohLink:
        return ZenohLink(url)


if __name__ == "__main__":
    router = open_session("router", listen=sys.argv[1])
    threading.Event().wait()
