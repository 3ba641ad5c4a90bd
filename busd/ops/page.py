"""The page that /metrics is: made in slices, so that the bus has its turn however long it gets."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from copy import copy
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

__all__ = ["PIECE_SAMPLES", "SLICE_SECONDS", "write_page"]

SLICE_SECONDS: Final = 1e-3
"""After which others have their turn: what a message waits for at most, and then a piece."""

PIECE_SAMPLES: Final = 64
"""Samples written in one go: 0.3 ms."""

_END: Final = b"# EOF\n"
"""End of a page of OpenMetrics."""


class _Piece(Collector):
    """A registry of one metric: the library writes whole registries only."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


async def write_page(metrics: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """``metrics`` as Prometheus text, or as OpenMetrics if ``accept`` (the header) asks for it, and the content type.

    Metrics of one name in a row are one: their heading is written once. Gives way to the loop each millisecond.
    """
    encode, content_type = choose_encoder(accept)
    page: list[bytes] = []
    last = ""
    begun = time.perf_counter()
    for piece in _pieces(metrics):
        text = encode(_Piece(piece)).removesuffix(_END)
        if piece.name == last:
            while text.startswith(b"# "):
                text = text.partition(b"\n")[2]
        last = piece.name
        page.append(text)
        if time.perf_counter() - begun >= SLICE_SECONDS:
            await asyncio.sleep(0)
            begun = time.perf_counter()
    if content_type.startswith("application/openmetrics-text"):
        page.append(_END)
    return b"".join(page), content_type


def _pieces(metrics: Iterable[Metric]) -> Iterator[Metric]:
    for metric in metrics:
        if len(metric.samples) <= PIECE_SAMPLES:
            yield metric
            continue
        for first in range(0, len(metric.samples), PIECE_SAMPLES):
            piece = copy(metric)
            piece.samples = metric.samples[first : first + PIECE_SAMPLES]
            yield piece
