"""Guests of a running node, as bare sockets: what several fault tests start from."""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import busclient
from tests.bench.peers.busd import BusdHandshake

SECONDS = 20.0
"""For the node to answer, on a machine that is busy with other tests."""


async def add_guest(bus: busclient.Bus, directory: Path, tenant: str, unit: str, **fields: Any) -> str:
    """Let a unit in; the socket that its connections come to, from any process."""
    request = {"name": unit, "tenant": tenant, "socket": str(directory / unit), "any_process": True, **fields}
    address: str = (await bus.call("$bus.admin.guest.add", request, timeout=SECONDS)).payload["address"]
    return address


async def standing(bus: busclient.Bus) -> dict[str, Any]:
    """What is attached, and what each account but the node's own holds; as soon as the node itself is attached."""
    while (stats := (await bus.call("$bus.stats", timeout=SECONDS)).payload)["daemon"]["state"] != "ready":
        await asyncio.sleep(0.02)
    listed = (await bus.call("$bus.list", {"limit": 1, "accounts": True}, timeout=SECONDS)).payload
    accounts = {
        row["account"]: {
            "connections": row["connections"],
            **{resource: charge["used"] for resource, charge in row["charges"].items()},
        }
        for row in listed["accounts"]
        if row["account"] != "node"
    }
    return {
        "endpoints": stats["endpoints"],
        "subscriptions": stats["subscriptions"],
        "services": stats["services"],
        "accounts": {name: held for name, held in accounts.items() if any(held.values())},
    }


def attach(path: str) -> socket.socket | None:
    """A connection to ``path`` that is an endpoint; None if the node closes it instead."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(SECONDS)
    handshake = BusdHandshake()
    received = bytearray()
    try:
        peer.connect(path)
        peer.sendall(handshake.opening())
        while not handshake.attached(received):
            if not (data := peer.recv(65536)):
                raise ConnectionResetError("closed")
            received += data
    except (ConnectionError, BrokenPipeError):
        peer.close()
        return None
    return peer


def close_all(peers: list[socket.socket]) -> None:
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.close()
    peers.clear()
