"""Running one operation: arguments are checked, the caller is known, failures are errors, and all of it is counted."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from busclient import Call
from busd.components.model.caller import LOCAL, Caller, running_for
from busd.components.model.component import Component
from busd.components.model.operation import Operation
from busproto.envelope import pack
from busproto.errors import BusError, Code

__all__ = ["Deadlined", "invoke", "invoke_stream"]

_log = logging.getLogger("busd.components")


class Deadlined(Protocol):
    """Who cancels an operation when it is late."""

    @property
    def expired(self) -> bool:
        """It has."""


async def invoke(
    component: Component,
    operation: Operation,
    value: Any = None,
    caller: Caller = LOCAL,
    *,
    data: bytes | None = None,
    call: Call | None = None,
    deadline: Deadlined | None = None,
) -> tuple[bytes, Any]:
    """Run a request of ``component`` and return its result: as it travels, and as a value that is the caller's own.

    Args:
        value: the arguments, a map (or None) that was decoded within bounds; with ``call``, that is its payload.
        caller: who asks; `current_caller` inside of the operation.
        data: instead of ``value``, what `Operation.pack` made of them in this process.
        call: what is answered, if it came over a bus.
        deadline: who will cancel it when it is late; it is counted as that, then, and not as cancelled.

    Raises:
        BusError: 2008 for arguments that are not valid; what the operation raised, if that was a BusError; 3007 for
            any other exception, which is logged, and for a result that is not what the operation promises.
    """
    statistics = component.context.statistics[operation.name]
    begun = statistics.begin()
    outer = running_for.set((caller, call))
    code = int(Code.CANCELLED)  # until it ends in another way
    try:
        arguments = _arguments(operation, value, call) if data is None else operation.read_own(data)
        result = operation.seal(await operation.method(component, **arguments))
        code = 0
        return result
    except Exception as error:
        failure = _failure(operation, error)
        code = failure.code
        if failure is error:
            raise
        raise failure from error
    except asyncio.CancelledError as error:
        if _is_its_own(error):
            failure = _failure(operation, error)
            code = failure.code
            raise failure from error
        if deadline is not None and deadline.expired:
            code = int(Code.TIMEOUT)
        raise
    finally:
        running_for.reset(outer)
        statistics.end(begun, code)


async def invoke_stream(
    component: Component,
    operation: Operation,
    value: Any = None,
    caller: Caller = LOCAL,
    *,
    data: bytes | None = None,
    call: Call | None = None,
    deadline: Deadlined | None = None,
) -> AsyncGenerator[tuple[bytes, Any], None]:
    """As `invoke`, for a stream: its parts, one after the other. Closing it early closes the operation, in which that
    is a GeneratorExit at its ``yield``, or a CancelledError while it waits.
    """
    statistics = component.context.statistics[operation.name]
    begun = statistics.begin()
    code = int(Code.CANCELLED)
    parts: AsyncGenerator[Any, None] | None = None
    try:
        arguments = _arguments(operation, value, call) if data is None else operation.read_own(data)
        parts = operation.method(component, **arguments)
        while True:
            # Set for each step alone: whoever iterates has a caller of its own, and may be another task each time.
            outer = running_for.set((caller, call))
            try:
                part = await parts.__anext__()
            except StopAsyncIteration:
                code = 0
                return
            finally:
                running_for.reset(outer)
            if call is not None and call.cancelled:  # and the operation has not heeded it
                return
            yield operation.seal(part)
    except Exception as error:
        failure = _failure(operation, error)
        code = failure.code
        if failure is error:
            raise
        raise failure from error
    except asyncio.CancelledError as error:
        if _is_its_own(error):
            failure = _failure(operation, error)
            code = failure.code
            raise failure from error
        if deadline is not None and deadline.expired:
            code = int(Code.TIMEOUT)
        raise
    finally:
        try:
            if parts is not None:
                outer = running_for.set((caller, call))
                try:
                    await parts.aclose()
                finally:
                    running_for.reset(outer)
        except Exception:
            _log.exception("%s failed as it was closed", operation.subject)
        finally:
            statistics.end(begun, code)


def _arguments(operation: Operation, value: Any, call: Call | None) -> dict[str, Any]:
    return operation.read(value) if call is None else operation.read_call(call)


def _is_its_own(error: asyncio.CancelledError) -> bool:
    """Whether an operation was cancelled by something that it waited for, and not by whoever runs it."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


def _failure(operation: Operation, error: BaseException) -> BusError:
    """What the caller is told of ``error``."""
    if isinstance(error, BusError):
        if error.code == Code.HANDLER_FAILED:
            _log.error("%s failed: %s", operation.subject, error)
        try:
            pack(error.body())
        except BusError as unsendable:
            return BusError(Code.HANDLER_FAILED, reason=f"its error cannot be sent: {unsendable.name}")
        return error
    _log.error("%s failed", operation.subject, exc_info=error)
    return BusError(Code.HANDLER_FAILED, reason=type(error).__name__)
