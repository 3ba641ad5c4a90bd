"""What ``telemetry.processes`` accepts, and what it says of the rest."""

from typing import Any, Final

import pytest

from busd.components.model import compile_operations
from busd.components.telemetry.component import Telemetry
from busd.components.telemetry.figures import LIMIT_MAX
from busproto.errors import BusError, Code

PROCESSES: Final = compile_operations(Telemetry)["processes"]


@pytest.mark.parametrize(
    ("payload", "arguments"),
    [
        (None, {"sort": "cpu", "limit": 10, "name": None}),
        ({}, {"sort": "cpu", "limit": 10, "name": None}),
        ({"sort": "memory"}, {"sort": "memory", "limit": 10, "name": None}),
        ({"limit": 1, "name": "py*"}, {"sort": "cpu", "limit": 1, "name": "py*"}),
        ({"sort": "cpu", "limit": LIMIT_MAX, "name": None}, {"sort": "cpu", "limit": LIMIT_MAX, "name": None}),
    ],
)
def test_good_requests(payload: Any, arguments: dict[str, Any]) -> None:
    assert PROCESSES.read(payload) == arguments


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ([], "expected object, got array"),
        (b"x", "expected object, got bytes"),
        (5, "expected object, got int"),
        ({"sorting": "cpu"}, "sorting: there is no such field"),
        ({7: 1}, "expected str"),
        ({"sort": "disk"}, "sort: invalid enum value 'disk'"),
        ({"sort": None}, "sort: expected str, got None"),
        ({"sort": ["cpu"]}, "sort: expected str, got array"),
        ({"limit": 0}, "limit: expected int >= 1"),
        ({"limit": 1001}, "limit: expected int <= 1000"),
        ({"limit": True}, "limit: expected int, got bool"),
        ({"limit": 2.0}, "limit: expected int, got float"),
        ({"limit": "5"}, "limit: expected int, got str"),
        ({"name": ""}, "name: expected str of length >= 1"),
        ({"name": "x" * 129}, "name: expected str of length <= 128"),
        ({"name": b"x"}, "name: expected str"),
    ],
)
def test_bad_requests_name_the_field(payload: Any, reason: str) -> None:
    with pytest.raises(BusError) as caught:
        PROCESSES.read(payload)
    assert caught.value.code == Code.REQUEST_INVALID
    assert caught.value.fields["subject"] == "telemetry.processes"
    assert reason in caught.value.text
