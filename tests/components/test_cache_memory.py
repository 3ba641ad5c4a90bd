"""What memory holds of our keys: a process scans all that it can write to, itself.

Found, with OpenSSL 4.0.3 in cryptography 50.0.2 on CPython 3.11:

- While a tenant lives, its data key is nowhere in buffers of ours: the page that it was drawn in is wiped as soon as
  the cipher has it. It is twice in the heap of OpenSSL, for sealing and for opening, with each of the algorithms. No
  program of Python can reach these copies: that is why the worker has no core dumps and cannot be attached to.
- After ``shred`` the data key is nowhere, the heap included: OpenSSL cleanses a cipher's state when it is freed. That
  is OpenSSL's doing; a library that does not do it fails this test, and then the documentation has to change.
- The key of a tenant (KEK) and the one for blinding are derived into pages of ours and wiped at once. The blinder keeps
  its key in the state of BLAKE2b, in the heap of Python; CPython wipes it when the blinder goes.
- After ``close`` the root key is nowhere.

The needles are kept XORed with a pattern, and what is read is XORed before it is searched: else the scan would find
itself.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

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


@pytest.mark.parametrize("algorithm", ["aes-256-gcm", "chacha20-poly1305", "aes-256-gcm-siv"])
def test_after_shredding_no_key_is_found_in_memory(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes((index * 37 + 200 * 101 + 11) & 0xFF for index in range(32)))
    path.chmod(0o600)
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'schemas')]!r}\n{SCAN}"
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
