"""A small fuzzer: mutates a corpus, keeps inputs that led somewhere new, and hands back the input that broke a target.

A target is a function of the input's bytes. It raises when an invariant is broken and otherwise returns how the input
ended (anything hashable, few different ones): an input with a new ending joins the corpus, which stands in for the
coverage that a compiled fuzzer would be guided by.

Without ``BUSD_FUZZ_SECONDS`` a run is a fixed number of executions from a fixed seed, so that the test suite does the
same work every time. With it, it lasts that many seconds; ``BUSD_FUZZ_SEED`` (default 1) chooses another sequence::

    BUSD_FUZZ_SECONDS=300 BUSD_FUZZ_SEED=7 python -m pytest -s -o faulthandler_timeout=0 tests/fuzz/test_fuzz_zmtp.py
"""

import math
import os
import random
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

Target = Callable[[bytes], Hashable]

SECONDS: Final = float(os.environ.get("BUSD_FUZZ_SECONDS", "0"))
SEED: Final = int(os.environ.get("BUSD_FUZZ_SEED", "1"))

TIMEOUT: Final = 120 + 2 * SECONDS
"""For ``pytest.mark.timeout``: a long run, and shrinking what it found."""

_CORPUS_LIMIT: Final = 2000
_SHOWN_BYTES: Final = 4096
_SHRINK_RUNS: Final = 500
_NUMBERS: Final = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x10000,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)


class BrokenInvariantError(AssertionError):
    """An input that broke an invariant; the cause is chained."""

    def __init__(self, name: str, data: bytes, execution: int) -> None:
        shown = data.hex() if len(data) <= _SHOWN_BYTES else f"{data[:_SHOWN_BYTES].hex()}... ({len(data)} bytes)"
        super().__init__(f"{name}: seed {SEED}, execution {execution}, input (shrunk): {shown}")
        self.data = data


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did."""

    name: str
    executions: int
    seconds: float
    endings: int
    """How many different endings there were."""

    def __str__(self) -> str:
        return f"{self.name}: {self.executions} executions in {self.seconds:.1f} s, {self.endings} endings, no finding"


def run(name: str, target: Target, corpus: Sequence[bytes], executions: int, tokens: Sequence[bytes] = ()) -> Report:
    """Feed ``corpus`` and then mutations of it to ``target``.

    Args:
        name: for the report and the finding.
        target: see above.
        corpus: valid and nearly valid inputs to start from.
        executions: how many inputs to try when ``BUSD_FUZZ_SECONDS`` is not set.
        tokens: pieces of the format that mutations insert.

    Raises:
        BrokenInvariantError: with an input for which ``target`` raised, shrunk as far as it still does.
    """
    rng = random.Random(SEED)
    grown = list(corpus)
    endings: set[Hashable] = set()
    start = time.monotonic()
    count = 0
    while count < len(corpus) or (time.monotonic() - start < SECONDS if SECONDS else count < executions):
        data = grown[count] if count < len(corpus) else mutate(rng, grown, tokens)
        count += 1
        try:
            ending = target(data)
        except Exception as error:
            raise BrokenInvariantError(name, shrink(target, data, type(error)), count) from error
        if ending not in endings:
            endings.add(ending)
            if count > len(corpus) and len(grown) < _CORPUS_LIMIT:
                grown.append(data)
    report = Report(name, count, time.monotonic() - start, len(endings))
    if SECONDS:
        print(report)
    return report


def cpu_seconds(work: Callable[[], object], limit: float) -> float:
    """CPU time of ``work``; the least of several when it was over ``limit``, for the collector may have run."""
    least = math.inf
    for _ in range(5):
        start = time.process_time()
        work()
        least = min(least, time.process_time() - start)
        if least < limit:
            break
    return least


def mutate(rng: random.Random, corpus: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """A new input: mostly an entry of ``corpus`` with one to eight changes, now and then plain random bytes."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(corpus))
    for _ in range(min(8, 1 + int(rng.expovariate(0.7)))):
        rng.choice(_CHANGES)(rng, data, corpus, tokens)
    return bytes(data)


def shrink(target: Target, data: bytes, kind: type[Exception]) -> bytes:
    """``data`` with whatever can be left out such that ``target`` still raises ``kind``."""
    runs = 0
    size = len(data) // 2
    while size:
        position = 0
        while position < len(data) and runs < _SHRINK_RUNS:
            shorter = data[:position] + data[position + size :]
            runs += 1
            try:
                target(shorter)
            except kind:
                data = shorter
            except Exception:
                position += size
            else:
                position += size
        size //= 2
    return data


# -- changes ----------------------------------------------------------------------------------------------------------

_Change = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def _span(rng: random.Random, data: bytearray) -> tuple[int, int]:
    """A piece of ``data``, most often a short one."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + int(rng.expovariate(0.05)) + 1)


def _flip(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _number(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    width = rng.choice((1, 2, 4, 8))
    value = (rng.choice(_NUMBERS) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * width)
    start = rng.randrange(len(data) + 1)
    data[start : start + width] = value.to_bytes(width, "big")


def _delete(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    start, stop = _span(rng, data)
    del data[start:stop]


def _repeat(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    start, stop = _span(rng, data)
    data[start:start] = data[start:stop] * rng.choice((1, 1, 2, 3, 30))


def _insert_noise(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.randrange(1, 10))


def _insert_token(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    if tokens:
        start = rng.choice((len(data), rng.randrange(len(data) + 1)))
        data[start : start + rng.choice((0, 1, 2))] = rng.choice(tokens)


def _splice(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    other = bytearray(rng.choice(corpus))
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def _append(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    data += rng.choice(corpus)


def _truncate(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


_CHANGES: Final[tuple[_Change, ...]] = (
    _flip,
    _set,
    _number,
    _delete,
    _repeat,
    _insert_noise,
    _insert_token,
    _insert_token,
    _splice,
    _append,
    _truncate,
)
