"""What ``telemetry.processes`` accepts, and what it says of the rest."""

from typing import Any

import pytest

from busd.components.telemetry.request import LIMIT_MAX, ProcessesRequest
from busproto.errors import BusError, Code


@pytest.mark.parametrize(
    ("payload", "request_read"),
    [
        (None, ProcessesRequest("cpu", 10, None)),
        ({}, ProcessesRequest("cpu", 10, None)),
        ({"sort": "memory"}, ProcessesRequest("memory", 10, None)),
        ({"limit": 1, "name": "py*"}, ProcessesRequest("cpu", 1, "py*")),
        ({"sort": "cpu", "limit": LIMIT_MAX, "name": None}, ProcessesRequest("cpu", LIMIT_MAX, None)),
    ],
)
def test_good_requests(payload: Any, request_read: ProcessesRequest) -> None:
    assert ProcessesRequest.read(payload) == request_read


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ([], "it must be a map or nil, not list"),
        (b"x", "it must be a map or nil, not bytes"),
        (5, "it must be a map or nil, not int"),
        ({"sorting": "cpu"}, "'sorting' is not a field; there are sort, limit, name"),
        ({7: 1}, "'7' is not a field"),
        ({"sort": "disk"}, '\'sort\' must be "cpu" or "memory", not "disk"'),
        ({"sort": None}, "'sort' must be"),
        ({"sort": ["cpu"]}, '\'sort\' must be "cpu" or "memory", not list of length 1'),
        ({"limit": 0}, "'limit' must be a whole number from 1 to 1000, not 0"),
        ({"limit": 1001}, "not 1001"),
        ({"limit": True}, "'limit' must be a whole number from 1 to 1000, not True"),
        ({"limit": 2.0}, "not 2.0"),
        ({"limit": "5"}, 'not "5"'),
        ({"name": ""}, "'name' must be a glob of 1 to 128 characters"),
        ({"name": "x" * 129}, "not str of length 129"),
        ({"name": b"x"}, "'name' must be"),
    ],
)
def test_bad_requests_name_the_field(payload: Any, reason: str) -> None:
    with pytest.raises(BusError) as caught:
        ProcessesRequest.read(payload)
    assert caught.value.code == Code.REQUEST_INVALID
    assert caught.value.fields["subject"] == "telemetry.processes"
    assert reason in caught.value.text
