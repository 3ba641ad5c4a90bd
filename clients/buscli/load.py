"""Loads for ``bus bench``: what they send, and what they measure."""

import asyncio
from array import array
from dataclasses import dataclass, field
from time import process_time
from typing import TYPE_CHECKING, Any, Final

from buscli.pace import Pace

if TYPE_CHECKING:
    from busclient import Bus

STAMP_BYTES: Final = 16
"""A published message begins with its number and the moment it was due: two big-endian 64-bit numbers."""

QUIET_SECONDS: Final = 1.0
"""A subscriber that has got nothing for so long after the last publish will get nothing more."""

LATE_SHARE: Final = 0.95
"""An open loop that reaches less than this share of its rate did not keep up."""

CLOSED_LOOP: Final = (
    "closed loop: each caller waits for its reply, so a stall delays the requests after it and hides them "
    "(coordinated omission); these are response times at full load"
)
"""What a reader of such figures must know."""


def percentiles(latencies: "array[float]") -> dict[str, float] | None:
    """p50, p90, p99 and max of ``latencies``; None if there are none."""
    if not latencies:
        return None
    ordered = sorted(latencies)
    last = len(ordered) - 1
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[min(last, int(share * len(ordered)))] for name, share in ranks.items()}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do."""

    work: str
    """``call`` or ``pubsub``."""
    subject: str
    count: int
    size: int
    """Payload bytes."""
    in_flight: int
    """Closed loop of calls: how many callers."""
    rate: float | None
    """Open loop: this many a second, whatever comes back. None: closed loop."""
    timeout: float
    """Seconds that each call may take."""


@dataclass(slots=True)
class Result:
    """What came of it."""

    plan: Plan
    seconds: float = 0.0
    """From the first request to the last reply or message."""
    cpu_seconds: float = 0.0
    """CPU time of this process meanwhile: sender and receiver, where both are here."""
    done: int = 0
    """Replies or messages that came."""
    errors: dict[str, int] = field(default_factory=dict)
    """Calls that ended otherwise, by name of the error."""
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    """Seconds, of each that is in ``done``."""

    @property
    def lost(self) -> int:
        """Messages that never came."""
        return self.plan.count - self.done if self.plan.work == "pubsub" else 0

    @property
    def throughput(self) -> float:
        """Replies or messages a second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def remark(self) -> str:
        """What a reader must know to read the figures rightly."""
        plan = self.plan
        if plan.rate is None and plan.work == "call":
            return f"{CLOSED_LOOP}, use --rate for latency"
        if plan.rate is None:
            return "as fast as it goes: times would only show the length of the queue; use --rate for latency"
        if self.throughput < LATE_SHARE * plan.rate:
            return f"did not keep up with {plan.rate:g}/s: the latencies are those of an overload"
        return "open loop: latency counts from the moment each was due, also when it was sent late"

    def percentiles(self) -> dict[str, float] | None:
        """p50, p90, p99 and max in seconds; None where times mean nothing."""
        if self.plan.work == "pubsub" and self.plan.rate is None:
            return None
        return percentiles(self.latencies)

    def record(self) -> dict[str, Any]:
        """For JSON and CSV; seconds throughout."""
        plan = self.plan
        return {
            "work": plan.work,
            "loop": "closed" if plan.rate is None else "open",
            "subject": plan.subject,
            "count": plan.count,
            "size": plan.size,
            "in_flight": plan.in_flight if plan.rate is None and plan.work == "call" else None,
            "rate": plan.rate,
            "done": self.done,
            "lost": self.lost,
            "errors": sum(self.errors.values()),
            "seconds": self.seconds,
            "throughput": self.throughput,
            "cpu_us": self.cpu_seconds / self.done * 1e6 if self.done else None,
            **(self.percentiles() or dict.fromkeys(("p50", "p90", "p99", "max"))),
            "remark": self.remark,
        }


async def measure(plan: Plan, sender: "Bus", receiver: "Bus | None") -> Result:
    """Carry out ``plan``. ``receiver`` answers or subscribes; None: somebody else answers the calls."""
    if plan.work == "pubsub":
        assert receiver is not None
        return await _publish(plan, sender, receiver)
    if receiver is None:
        return await _call(plan, sender)
    async with receiver.serve(plan.subject, _echo, concurrency=max(64, plan.in_flight)):
        return await _call(plan, sender)


async def _echo(call: Any) -> Any:
    from busclient import Reply

    return Reply(data=call.data, headers={"datacontenttype": "application/octet-stream"})


async def _call(plan: Plan, bus: "Bus") -> Result:
    loop = asyncio.get_running_loop()
    result = Result(plan)
    data = bytes(plan.size)

    async def one(due: float) -> None:
        from busproto.errors import BusError

        try:
            await bus.call(plan.subject, data=data, headers=_HEADERS, timeout=plan.timeout)
        except BusError as error:
            result.errors[error.name] = result.errors.get(error.name, 0) + 1
        else:
            result.latencies.append(loop.time() - due)
            result.done += 1

    async def caller(share: int) -> None:
        for _ in range(share):
            await one(loop.time())

    start, cpu = loop.time(), process_time()
    if plan.rate is None:
        callers = min(plan.in_flight, plan.count)
        shares = [plan.count // callers + (place < plan.count % callers) for place in range(callers)]
        await all_of([loop.create_task(caller(share)) for share in shares])
    else:
        pace = Pace(plan.rate)
        await all_of([loop.create_task(one(await pace.wait())) for _ in range(plan.count)])
    result.seconds, result.cpu_seconds = loop.time() - start, process_time() - cpu
    return result


_HEADERS: Final = {"datacontenttype": "application/octet-stream"}


async def all_of(tasks: "list[asyncio.Task[None]]") -> None:
    """Wait for all of ``tasks``; none outlives this, whatever happens."""
    try:
        for task in tasks:
            await task
    finally:
        for task in tasks:
            task.cancel()


async def _publish(plan: Plan, sender: "Bus", receiver: "Bus") -> Result:
    from busclient import Gap

    loop = asyncio.get_running_loop()
    result = Result(plan)
    async with receiver.subscribe(plan.subject, gaps="yield") as subscription:
        start, cpu = loop.time(), process_time()
        last = start
        sending = loop.create_task(_send(plan, sender))
        try:
            while result.done < plan.count:
                try:
                    async with asyncio.timeout(QUIET_SECONDS):
                        message = await anext(subscription)
                except TimeoutError:
                    if sending.done():
                        break
                    continue
                if isinstance(message, Gap):
                    continue  # what it counts is missing from `done`
                last = loop.time()
                result.done += 1
                result.latencies.append(last - int.from_bytes(message.data[8:16], "big") / 1e9)
            await sending
        finally:
            sending.cancel()
        result.seconds, result.cpu_seconds = last - start, process_time() - cpu
    return result


async def _send(plan: Plan, bus: "Bus") -> None:
    pace = Pace(plan.rate)
    padding = bytes(max(0, plan.size - STAMP_BYTES))
    for number in range(plan.count):
        due = await pace.wait()
        stamp = number.to_bytes(8, "big") + int(due * 1e9).to_bytes(8, "big")
        await bus.publish(plan.subject, data=stamp + padding, headers=_HEADERS)
