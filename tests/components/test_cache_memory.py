"""What memory holds of keys and values: a process scans all that it can write to, itself.

A core dump (gcore, a crash) has the same pages and no other, but for those that are marked not to be in it.

Found, with OpenSSL 4.0.3 in cryptography 50.0.2 on CPython 3.11:

- While a tenant lives, its data key is nowhere in buffers of ours: the page that it was drawn in is wiped as soon as
  the cipher has it. It is twice in the heap of OpenSSL, for sealing and for opening, with each of the algorithms. No
  program of Python can reach these copies: that is why the worker has no core dumps and cannot be attached to.
- After ``shred`` the data key is nowhere, the heap included: OpenSSL cleanses a cipher's state when it is freed. That
  is OpenSSL's doing; a library that does not do it fails this test, and then the documentation has to change.
- The key of a tenant (KEK) and the one for blinding are derived into pages of ours and wiped at once. The blinder keeps
  its key in the state of BLAKE2b, in the heap of Python; CPython wipes it when the blinder goes.
- After ``close`` the root key is nowhere.
- A value that is lent is in the scratch buffer, once, and after its release nowhere: not in what was sealed, not in the
  heap. One that ``get`` gave is an object of Python, which cannot be wiped.

The needles are kept XORed with a pattern, and what is read is XORed before it is searched: else the scan would find
itself.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, needs

pytestmark = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="memory is read through /proc")

SCAN = """
import os, re, gc
MASK = 0x5A
TABLE = bytes(byte ^ MASK for byte in range(256))
BUFFER = bytearray(1 << 20)

def scan(needles):
    '''How often each masked needle is in memory that this process can write to; what kind of map it was in.'''
    gc.collect()
    found = {name: [] for name in needles}
    with open("/proc/self/maps") as file:
        maps = [line for line in file if " rw" in line]
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    own = id(BUFFER)
    for line in maps:
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        kind = line.split()[5] if len(line.split()) > 5 else "anonymous"
        at = start
        while at < end:
            want = min(len(BUFFER), end - at)
            try:
                got = os.preadv(memory, [memoryview(BUFFER)[:want]], at)
            except OSError:
                break
            if got <= 0:
                break
            masked = BUFFER.translate(TABLE)
            BUFFER[:] = bytes(len(BUFFER))
            for name, needle in needles.items():
                found[name] += [kind] * masked[:got].count(needle)
            del masked
            at += got - (31 if got == want and at + got < end else 0)
    os.close(memory)
    return found

def drawn(seed):
    '''The masked form of a key, made without the key.'''
    return bytes(((index * 37 + seed * 101 + 11) & 0xFF) ^ MASK for index in range(32))

def pour(view, seed):
    for index, byte in enumerate(drawn(seed)):
        view[index] = byte ^ MASK

"""

KEYS = (
    SCAN
    + """
from busd.components.cache import secret as module
def fixed(view, count=[0]):
    if len(view) == 32:
        count[0] += 1
        pour(view, count[0])
    else:
        view[:] = os.urandom(len(view))
module.fill_random = fixed

from busd.components.cache.keyring import Keyring
from busd.components.cache.record import seal, open_
from busd.components.cache.rootkey import RootKey

path = sys.argv[1]
root = RootKey.from_file(path)
ring = Keyring(root, algorithm=sys.argv[2])
with root.for_tenant(b"acme") as kek, kek.derive("blind") as blind:
    masked_kek = bytes(byte ^ MASK for byte in kek.view())
    masked_blind = bytes(byte ^ MASK for byte in blind.view())
keys = ring.tenant("acme")
record = seal(keys, keys.blind(b"name"), 1, 0, 0.0, b"value" * 100)
keys.rotate()
record = seal(keys, keys.blind(b"name"), 1, 0, 0.0, b"value" * 100)
assert open_(keys, record, keys.blind(b"name"), 1, 0, 0.0) == b"value" * 100
needles = {"root": drawn(200), "kek": masked_kek, "blind": masked_blind, "data 1": drawn(1), "data 2": drawn(2)}
assert module.Secret.living() == 1, "the root key's: no page is kept for a data key"
alive = scan(needles)
keys.shred_epoch(1)
one = scan(needles)
ring.shred("acme")
shredded = scan(needles)
ring.close()
closed = scan(needles)
import json
print(json.dumps([alive, one, shredded, closed]))
"""
)


@pytest.mark.parametrize("algorithm", ["aes-256-gcm", "chacha20-poly1305", "aes-256-gcm-siv"])
def test_after_shredding_no_key_is_found_in_memory(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes((index * 37 + 200 * 101 + 11) & 0xFF for index in range(32)))
    path.chmod(0o600)
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'schemas')]!r}\n{KEYS}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), algorithm], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    alive, one, shredded, closed = json.loads(done.stdout)
    assert alive["root"] == ["anonymous"], "in its page and nowhere else: so the scan does find what is there"
    assert alive["kek"] == []
    assert "anonymous" not in alive["data 1"] + alive["data 2"], "where our pages are"
    assert one["data 1"] == []
    assert one["data 2"] == alive["data 2"], "an epoch that is shredded takes no other with it"
    for name in ("kek", "blind", "data 1", "data 2"):
        assert shredded[name] == [], f"{name} after the tenant was shredded"
    assert shredded["root"] == alive["root"]
    assert set(closed) == {"root", "kek", "blind", "data 1", "data 2"}
    assert not any(closed.values())


VALUES = (
    SCAN
    + """
import json
from busd.components.cache import Cache, CacheSettings, TenantSettings
from busd.components.cache.scratch import Scratch

share = TenantSettings(policy=sys.argv[1])
mine = Cache.generated(CacheSettings(usual=share), quiet=True).tenant("acme")
needles = {"value": drawn(77)}
value = bytearray(int(sys.argv[2]))
pour(value, 77)
given = scan(needles)
mine.set("name", value)
value[:] = bytes(len(value))
sealed = scan(needles)
mine.rotate()
scratch = Scratch()
view = mine.lend("name", scratch)
assert [view[at] ^ MASK for at in range(32)] == list(drawn(77))
lent = scan(needles)
scratch.release()
released = scan(needles)
record = mine._store.find(mine._keys.blind(b"name"), None)
record.record = record.record[:-1] + bytes([record.record[-1] ^ 1])
assert mine.lend("name", scratch) is None
failed = scan(needles)
mine.clear()
cleared = scan(needles)
print(json.dumps([len(found["value"]) for found in (given, sealed, lent, released, failed, cleared)]))
"""
)


@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
@pytest.mark.parametrize("size", [100, 100_000])
def test_of_a_value_that_was_lent_nothing_is_found_after_its_release(policy: str, size: int) -> None:
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'schemas')]!r}\n{VALUES}"
    done = subprocess.run(
        [sys.executable, "-c", code, policy, str(size)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    given, sealed, lent, released, failed, cleared = json.loads(done.stdout)
    assert (given, lent) == (1, 1), "the scan finds what is there"
    assert (sealed, released, failed, cleared) == (0, 0, 0, 0)


DUMPED = (
    SCAN
    + KEYS.removeprefix(SCAN).partition("path = sys.argv[1]")[0]
    + """
from busd.components.cache.scratch import Scratch
path = sys.argv[1]
ring = Keyring(RootKey.from_file(path))
keys = ring.tenant("acme")
scratch = Scratch()
value = bytearray(1000)
pour(value, 77)
record = seal(keys, keys.blind(b"name"), 1, 0, 0.0, value)
value[:] = bytes(len(value))
from busd.components.cache.record import open_into
assert open_into(keys, record, keys.blind(b"name"), 1, 0, 0.0, scratch) is not None
def stop(what):
    gc.collect()
    print(what, flush=True)
    sys.stdin.readline()
stop("alive")
scratch.release()
ring.shred("acme")
stop("shredded")
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="pages that are not dumped")
def test_a_core_dump_has_no_root_key_and_after_a_shred_nothing_else(tmp_path: Path) -> None:
    """What anybody with the right to do so takes from a process that is not hardened."""
    needs("gcore")
    path = tmp_path / "key"
    path.write_bytes(bytes((index * 37 + 200 * 101 + 11) & 0xFF for index in range(32)))
    path.chmod(0o600)
    needles = {
        name: bytes((index * 37 + seed * 101 + 11) & 0xFF for index in range(32))
        for name, seed in (("root", 200), ("data", 1), ("value", 77))
    }
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'schemas')]!r}\n{DUMPED}"
    found: dict[str, dict[str, bool]] = {}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for what in ("alive", "shredded"):
                assert process.stdout.readline() == f"{what}\n"
                command = ["gcore", "-o", str(tmp_path / what), str(process.pid)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
                core = tmp_path / f"{what}.{process.pid}"
                if "ptrace" in done.stderr and not core.exists():
                    pytest.skip("this process may not attach to its child")
                dump = core.read_bytes()
                core.unlink()
                found[what] = {name: needle in dump for name, needle in needles.items()}
                process.stdin.write("\n")
                process.stdin.flush()
        finally:
            process.stdin.close()
            process.wait(20)
    assert found["alive"]["value"], "what is lent is in it: so a dump does have what is there"
    assert found["alive"]["data"], "OpenSSL's own copy, which nothing of ours can reach: the page of the cache says so"
    assert not found["alive"]["root"]
    assert found["shredded"] == {"root": False, "data": False, "value": False}
