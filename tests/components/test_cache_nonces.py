"""No nonce twice: in threads, over rotations, in children of a fork, and in processes that begin anew."""

import os
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from busd.components.cache import datakey
from busd.components.cache.datakey import DataKey, Terms
from busd.components.cache.fork import new_mark, on_fork
from busd.components.cache.keyring import Keyring, TenantKeys
from busd.components.cache.record import Failure, failure_of, open_, seal
from busd.components.cache.rootkey import RootKey

ROOT = Path(__file__).parents[2]
NAME = bytes(16)
THREADS = 16
EACH = 1_000_000

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def nonce_of(keys: TenantKeys, record: bytes) -> bytes:
    return keys.slots[record[:5]][1].instance + record[5:13]


def test_16_threads_seal_a_million_times_each_over_rotations_and_no_nonce_repeats() -> None:
    """The same steps as `seal`, without the cipher: the loop of its counter, with some ten rotations under it."""
    with Keyring(RootKey.generated(quiet=True), rotate_messages=1_500_000, keep_epochs=1) as ring:
        keys = ring.tenant("acme")
        taken: list[dict[DataKey, array[int]]] = [{} for _ in range(THREADS)]

        def work(mine: "dict[DataKey, array[int]]") -> None:
            key = keys.current()
            numbers = mine.setdefault(key, array("Q"))
            take, note = key.take, numbers.append
            for _ in range(EACH):
                counter = take(1)
                while counter < 0:
                    key = keys.replace(key)
                    numbers = mine.setdefault(key, array("Q"))
                    take, note = key.take, numbers.append
                    counter = take(1)
                note(counter)

        threads = [threading.Thread(target=work, args=(mine,)) for mine in taken]
        before = sys.getswitchinterval()
        sys.setswitchinterval(0.0005)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        finally:
            sys.setswitchinterval(before)
        by_key: dict[DataKey, list[array[int]]] = {}
        for mine in taken:
            for key, numbers in mine.items():
                by_key.setdefault(key, []).append(numbers)
        assert sum(len(numbers) for parts in by_key.values() for numbers in parts) == THREADS * EACH
        assert len(by_key) >= 11
        assert len({(key.instance, key.commitment) for key in by_key}) == len(by_key)
        for parts in by_key.values():
            seen = bytearray(1_500_000)
            for numbers in parts:
                seen_before = seen.count(1)
                for counter in numbers:
                    seen[counter] = 1
                assert seen.count(1) - seen_before == len(numbers), "one of them was taken before"


@pytest.mark.parametrize("locked", [False, True])
def test_both_counters_count_from_where_they_begin(locked: bool) -> None:
    step = datakey._counter(5, locked=locked)
    assert [step() for _ in range(3)] == [5, 6, 7]


def test_threads_share_the_counter_of_a_build_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    step = datakey._counter(0, locked=True)
    lists: list[list[int]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(step() for _ in range(5000))) for mine in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(number for mine in lists for number in mine) == list(range(40_000))


def test_records_of_many_threads_have_nonces_of_their_own_and_open() -> None:
    with Keyring(RootKey.generated(quiet=True), rotate_messages=700) as ring:
        keys = ring.tenant("acme")
        records: list[list[bytes]] = [[] for _ in range(8)]

        def work(mine: list[bytes]) -> None:
            mine.extend(seal(keys, NAME, 1, 0, 0.0, b"v") for _ in range(500))

        threads = [threading.Thread(target=work, args=(mine,)) for mine in records]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        every = [record for mine in records for record in mine]
        assert len({record[:13] for record in every}) == 4000
        assert all(open_(keys, record, NAME, 1, 0, 0.0) == b"v" for record in every)


def in_child(work: Callable[[], bytes]) -> bytes:
    """What ``work`` gives in a child that is forked."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return told


@forking
def test_a_forked_child_seals_with_a_new_key_and_everything_old_is_a_miss() -> None:
    with Keyring(RootKey.generated(quiet=True)) as ring:
        keys = ring.tenant("acme")
        old = seal(keys, NAME, 1, 0, 0.0, b"old")
        nonces = {nonce_of(keys, old)}
        commitments = {keys.current().commitment}

        def child() -> bytes:
            miss = open_(keys, old, NAME, 1, 0, 0.0) is None
            reason = failure_of(keys, old, NAME, 1, 0, 0.0)
            records = [seal(keys, NAME, 1, 0, 0.0, b"new") for _ in range(3)]
            opened = all(open_(keys, record, NAME, 1, 0, 0.0) == b"new" for record in records)
            ok = miss and reason is Failure.EPOCH and opened and bool(ring.tenant("later").blind(b"x"))
            return bytes([ok]) + keys.current().commitment + b"".join(nonce_of(keys, record) for record in records)

        for _ in range(5):
            told = in_child(child)
            assert told[0] == 1
            commitments.add(told[1:17])
            nonces.update(told[at : at + 12] for at in range(17, len(told), 12))
        for _ in range(3):
            nonces.add(nonce_of(keys, seal(keys, NAME, 1, 0, 0.0, b"parent")))
        assert len(commitments) == 6, "each child has a key of its own"
        assert len(nonces) == 1 + 5 * 3 + 3
        assert open_(keys, old, NAME, 1, 0, 0.0) == b"old", "the parent has lost nothing"


@forking
def test_a_data_key_that_a_child_kept_gives_no_counter_there() -> None:
    with Keyring(RootKey.generated(quiet=True)) as ring:
        key = ring.tenant("acme").current()
        assert in_child(lambda: bytes([key.take(1) == -1 and key.spent])) == b"\x01"
        assert key.take(1) >= 0


@forking
@pytest.mark.skipif(sys.platform != "linux", reason="pages that are wiped on fork")
def test_a_fork_that_python_does_not_know_of_is_noticed() -> None:
    """As a C extension would: fork(2) without the hooks. In a process of its own, for Python is not ready for it."""
    script = (
        "import ctypes, os\n"
        "from busd.components.cache.keyring import Keyring\n"
        "from busd.components.cache.record import seal\n"
        "from busd.components.cache.rootkey import RootKey\n"
        "keys = Keyring(RootKey.generated(quiet=True)).tenant('acme')\n"
        "seal(keys, bytes(16), 1, 0, 0.0, b'')\n"
        "reader, writer = os.pipe()\n"
        "child = ctypes.PyDLL(None).fork()\n"
        "record = seal(keys, bytes(16), 1, 0, 0.0, b'')\n"
        "told = keys.slots[record[:5]][1].commitment + record[1:13]\n"
        "if child == 0:\n"
        "    os.write(writer, told); os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(told.hex(), os.read(reader, 100).hex())\n"
    )
    parent, child = run(script).split()
    assert parent[:32] != child[:32], "another key"


@forking
def test_a_fork_while_another_thread_holds_the_locks_does_not_hang_the_child() -> None:
    with Keyring(RootKey.generated(quiet=True)) as ring:
        keys = ring.tenant("acme")
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with ring._lock, keys._lock:
                held.set()
                done.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(30)
        try:
            told = in_child(lambda: seal(keys, NAME, 1, 0, 0.0, b"v")[:1] + bytes([bool(ring.tenant("new"))]))
        finally:
            done.set()
            thread.join(30)
        assert told == b"\x01\x01"


@forking
def test_hooks_and_marks_last_as_long_as_somebody_keeps_them() -> None:
    calls: list[int] = []
    hook = on_fork(lambda: calls.append(1))
    mark, held = new_mark()
    assert mark[0] == 1
    assert in_child(lambda: bytes([len(calls), mark[0]])) == b"\x01\x00"
    del hook
    assert in_child(lambda: bytes([len(calls)])) == b"\x00"
    assert mark[0] == 1
    assert held


def test_a_process_that_begins_anew_does_not_go_on_with_counters(tmp_path: Path) -> None:
    """Restart, spawn and a second import are the same: another random data key."""
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    script = (
        "import importlib, sys\n"
        "def told():\n"
        "    from busd.components.cache.keyring import Keyring\n"
        "    from busd.components.cache.rootkey import RootKey\n"
        f"    keys = Keyring(RootKey.from_file({str(path)!r})).tenant('acme')\n"
        "    return keys.current().commitment.hex() + ' ' + keys.blind(b'name').hex()\n"
        "print(told())\n"
        "for name in list(sys.modules):\n"
        "    if name.startswith('busd.components.cache'): del sys.modules[name]\n"
        "print(told())\n"
    )
    said = (run(script) + run(script)).split()
    assert len(set(said[::2])) == 4
    assert len(set(said[1::2])) == 1, "names are blinded as before"


def run(script: str) -> str:
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'schemas')]!r}\n{script}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    return done.stdout


def test_a_terms_limit_of_one_makes_a_key_for_each_value() -> None:
    assert Terms(max_messages=1).max_messages == 1
    with Keyring(RootKey.generated(quiet=True), rotate_messages=1, keep_epochs=2) as ring:
        keys = ring.tenant("acme")
        records = [seal(keys, NAME, 1, 0, 0.0, b"v") for _ in range(4)]
        assert [open_(keys, record, NAME, 1, 0, 0.0) for record in records] == [None, None, b"v", b"v"]
