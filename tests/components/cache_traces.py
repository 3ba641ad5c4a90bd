"""Made traces of keys, the same from the same seed, and what theory says of them."""

import math
import random
from collections.abc import Iterator
from itertools import accumulate


def weights(items: int, alpha: float) -> list[float]:
    """How often each of ``items`` is asked for under Zipf's law; sums to 1."""
    raw = [1 / rank**alpha for rank in range(1, items + 1)]
    total = sum(raw)
    return [weight / total for weight in raw]


def zipf(items: int, alpha: float, length: int, seed: int) -> list[int]:
    """Independent requests by Zipf's law."""
    return random.Random(seed).choices(range(items), cum_weights=list(accumulate(weights(items, alpha))), k=length)


def scanned(items: int, alpha: float, length: int, seed: int, *, share: float = 0.2) -> list[int]:
    """As `zipf`, and ``share`` of the requests are for what nobody asks for again."""
    chosen = random.Random(seed + 1)
    fresh = items
    trace = []
    for item in zipf(items, alpha, length, seed):
        if chosen.random() < share:
            trace.append(fresh)
            fresh += 1
        else:
            trace.append(item)
    return trace


def loop(items: int, length: int) -> list[int]:
    """The same ``items`` round and round."""
    return [number % items for number in range(length)]


def shifting(items: int, alpha: float, length: int, seed: int, *, every: int) -> list[int]:
    """As `zipf`, but what is popular becomes something else after ``every`` requests."""
    return [item + number // every * items // 2 for number, item in enumerate(zipf(items, alpha, length, seed))]


def che(items: int, alpha: float, capacity: int) -> float:
    """Hit ratio of an LRU of ``capacity`` items in the long run, by Che's approximation (IEEE JSAC 20(7), 2002).

    An item is there if it was asked for within the characteristic time T, for which the expected number of items that
    are there is the capacity.
    """
    popularity = weights(items, alpha)
    low, high = 0.0, 1.0
    while sum(1 - math.exp(-p * high) for p in popularity) < capacity:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if sum(1 - math.exp(-p * middle) for p in popularity) < capacity:
            low = middle
        else:
            high = middle
    return sum(p * (1 - math.exp(-p * high)) for p in popularity)


def names(trace: list[int]) -> Iterator[bytes]:
    """The trace as blinded keys."""
    for item in trace:
        yield item.to_bytes(16, "big")
