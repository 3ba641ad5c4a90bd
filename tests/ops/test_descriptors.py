"""The descriptor limit, in a process of its own: it cannot be taken back."""

import json

import pytest

from busd.ops.descriptors import RESERVED, Descriptors
from tests.ops.processes import python

RAISE = """
import json, resource, sys
from dataclasses import asdict
from busd.ops.descriptors import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
result = raise_limit()
print(json.dumps([asdict(result), resource.getrlimit(resource.RLIMIT_NOFILE)]))
"""


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    done = python(RAISE)
    assert json.loads(done.stdout) == [{"before": 256, "soft": 512, "hard": 512}, [512, 512]], done.stderr


@pytest.mark.parametrize(
    ("soft", "wanted", "endpoints"), [(100_000, 16384, 16384), (1024, 16384, 1024 - RESERVED), (64, 16384, 0)]
)
def test_endpoints_that_fit_under_the_limit(soft: int, wanted: int, endpoints: int) -> None:
    assert Descriptors(soft, soft, soft).endpoints(wanted) == endpoints
