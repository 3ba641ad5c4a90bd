"""Brings what the bus has to write down to the audit log, a few times a second."""

import asyncio
from collections.abc import Callable
from typing import Final

from busd.core.audit import AuditTrail
from busd.ops.auditfile import AuditFile, AuditStatistics, load_key
from busd.ops.keys import AuditKeys

PERIOD_SECONDS: Final = 0.1
"""How often. What happened in between is lost with the process, as what the log has not synced is with the machine."""


class AuditWriter:
    """The log of one node, and the trail that it is written from."""

    def __init__(self, trail: AuditTrail, file: AuditFile) -> None:
        self._trail = trail
        self._file = file
        self._task = asyncio.get_running_loop().create_task(self._write_on())

    def statistics(self) -> AuditStatistics:
        """Figures of the log."""
        return self._file.statistics()

    async def close(self) -> None:
        """Write what is left, summaries of what is still being counted included."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._trail.settle(asyncio.get_running_loop().time())
        self._file.write(self._trail.take())
        await self._file.close()

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            if records := self._trail.take():
                self._file.write(records)


async def open_audit(keys: AuditKeys, node: str, trail: AuditTrail, failed: Callable[[], None]) -> AuditWriter | None:
    """The log that the configuration asks for; None if it asks for none. Raises BusError if it cannot be written."""
    if keys.dir is None:
        trail.enabled = False
        return None
    file = AuditFile(
        keys.dir,
        node,
        key=None if keys.key_file is None else load_key(keys.key_file),
        max_bytes=keys.max_bytes,
        keep=keys.keep,
        failed=failed if keys.on_failure == "stop" else None,
    )
    await file.open()
    return AuditWriter(trail, file)
