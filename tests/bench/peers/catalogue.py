"""The peers by name."""

from tests.bench.peers.busd import BusdPeer
from tests.bench.peers.nats import NatsPeer
from tests.bench.peers.peer import Peer
from tests.bench.peers.redis import RedisPeer
from tests.bench.peers.zenoh import ZenohPeer

PEERS: dict[str, Peer] = {peer.name: peer for peer in (BusdPeer(), NatsPeer(), RedisPeer(), ZenohPeer())}
"""busd first: the others are what it is measured against."""
