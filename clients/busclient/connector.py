"""Opening a link to whatever an address names: the one place that knows which scheme takes which way."""

import asyncio
import os

from busclient.dial import dial
from busclient.link import Link, LinkReceiver, StreamLink
from busclient.url import parse
from busproto.errors import BusError, Code
from busproto.limits import HANDSHAKE_SECONDS

__all__ = ["connect"]


async def connect(
    url: str,
    receiver: LinkReceiver,
    *,
    key: str | os.PathLike[str] | None = None,
    server_key: str | os.PathLike[str] | None = None,
) -> Link:
    """Open a link to ``url``, ZMTP handshake included. The keys are for ``tcp://`` (`busclient.keys.find_keys`).

    Raises:
        OSError: nothing is there, nobody listens, no permission, or the connection ended in the handshake.
        BusError: 6005 for a bad URL, 1001 to 1009 when the other side does not speak ZMTP, 1007 when it does not speak.
            Of ``tcp://``: 6010 to 6012 for keys.
    """
    address = parse(url)
    if address.scheme == "tcp":
        # Imports zmq: only programs that use it wait for that.
        from busclient.curvelink import connect_curve

        return await connect_curve(url, receiver, key=key, server_key=server_key)
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            link = await dial(address, lambda: StreamLink(receiver))
            await link.wait_opened()
            return link
    except TimeoutError as error:
        if error.errno is not None:  # the system's own, ETIMEDOUT
            raise
        stage = "connect, greeting and READY"
        raise BusError(Code.HANDSHAKE_TIMEOUT, stage=stage, seconds=HANDSHAKE_SECONDS) from None
