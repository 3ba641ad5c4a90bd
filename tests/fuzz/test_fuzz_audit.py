"""Fuzzing of the audit's check.

The invariant: for any bytes, keys and anchor, ``verify`` returns; what it calls whole is exactly a log as a `Chain`
makes it (each line re-made from its record is that line, and each follows the one before); it never tells of more than
``PROBLEMS`` problems, in the order of the log; and the command line's reader makes a record or None of each line.
"""

from collections.abc import Hashable
from hashlib import sha256

import pytest

from buscli.auditlog import parse_line, row
from busd.core.auditchain import GENESIS, Chain, Key, encode, unseal
from busd.core.auditcheck import PROBLEMS, Anchor, Flaw, verify
from tests.fuzz import driver

pytestmark = pytest.mark.timeout(driver.TIMEOUT)

KEY = Key(b"0123456789abcdef")


def log(count: int, key: Key | None = None, *, seq: int = 0, head: str = GENESIS) -> list[bytes]:
    chain = Chain("n", key, seq=seq, head=head)
    who = {"boundary": "guest", "tenant": "a", "unit": "vm", "uid": 0}
    kinds = [{"verb": "call", "subject": "a.b", "count": 2}]
    told = (
        {"event": "denied", "principal": who, "endpoint": "g-1", "verb": "call", "subject": "a.b", "reason": "no"},
        {"event": "allowed", "principal": who, "verb": "call", "subject": "a.b", "to": "host"},
        {"event": "denied-more", "principal": who, "count": 5, "kinds": kinds, "others": 3, "seconds": 10.0},
        {"event": "act", "what": "guest.add", "facts": {"unit": "vm", "n": [1, None]}, "outcome": "ok"},
        {"event": "audit-deleted", "first": 1, "last": seq, "head": head},
    )
    return [chain.seal(told[number % len(told)], "2026-01-31T12:00:00.000000Z") for number in range(count)]


def is_whole(lines: list[bytes], keys: dict[str, Key]) -> bool:
    """By definition: made again from its records, the log is the same, and its beginning is one."""
    before: tuple[int, str] | None = None
    for line in lines:
        if not line.endswith(b"\n"):
            return False
        try:
            sealed = unseal(line[:-1], keys)
        except ValueError:
            return False
        body = encode({name: value for name, value in sealed.record.items() if name != "hash"})
        digest = keys[sealed.key].digest(body) if sealed.key is not None else sha256(body).hexdigest()
        if digest != sealed.hash or (before is not None and (sealed.seq - 1, sealed.prev) != before):
            return False
        before = (sealed.seq, sealed.hash)
    return True


def judge(data: bytes) -> Hashable:
    lines = data.splitlines(keepends=True)
    places = [(str(number), line) for number, line in enumerate(lines)]
    endings: list[Hashable] = []
    for keys in ((), (KEY,)):
        found = verify(places, keys=keys)
        assert len(found.problems) <= PROBLEMS
        assert found.more == 0 or len(found.problems) == PROBLEMS
        where = [int(problem.place) for problem in found.problems if problem.place.isdigit()]
        assert where == sorted(where)
        if found.ok:
            assert is_whole(lines, {key.id: key for key in keys})
        anchored = verify(places, keys=keys, anchor=Anchor(3, "ab" * 32))
        assert not anchored.ok, "no such record was ever made"
        endings.append((found.ok, tuple(sorted({problem.what for problem in found.problems})), min(found.records, 6)))
    for line in lines:
        record = parse_line(line)
        if record is not None:
            assert all(isinstance(cell, str) for cell in row(record))
    return tuple(endings)


CORPUS = (
    b"",
    b"".join(log(5)),
    b"".join(log(5, KEY)),
    b"".join([*log(2), *log(3, KEY, seq=2, head=unseal(log(2)[1][:-1], {}).hash)]),
    b"".join(log(5, seq=7, head="cd" * 32)),
    b"".join(log(6)[::-1]),
    b"".join(log(6)[::2]),
    b"".join([*log(3), *log(3)]),
    b'{"event":"x","hash":"' + b"0" * 64 + b'","node":"n","prev":"' + b"0" * 64 + b'","seq":1,"time":"t"}\n',
    b"[" * 60_000 + b"\n",
    b'{"seq":' + b"9" * 5000 + b"}\n",
    b"\xff\xfe{\0}\0\n\0",
)

TOKENS = (
    b"\n",
    b'"seq":',
    b'"prev":"',
    b'"hash":"',
    b'"key":null',
    b"1e999",
    b"NaN",
    b"\\ud800",
    *log(3),
    *log(3, KEY),
)


def test_whatever_the_bytes_are_the_check_returns_and_calls_nothing_whole_that_is_not() -> None:
    report = driver.run("audit", judge, CORPUS, executions=3000, tokens=TOKENS)
    assert report.endings > 20


def test_the_corpus_has_both_verdicts() -> None:
    assert verify(("f", line) for line in log(5)).ok
    assert {p.what for p in verify((("f", line) for line in log(5)), keys=(KEY,)).problems} == {Flaw.KEY}
