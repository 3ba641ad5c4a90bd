"""One deletion by busd, in a process of its own, as a job does it: resolved, buried, walked, finished.

Usage: ``python -m tests.bench.deletion_busd SPEC``, SPEC being a JSON object: ``root`` (a directory that is made the
root), ``name`` (what in it is to go), ``workers``, ``adaptive`` (with the governor that jobs have by default, else
unthrottled), ``seconds`` (cancel after so long; null: never), ``begun`` (the monotonic clock when the process was
started). Writes a JSON object: ``startup``, seconds until everything was imported and open; ``seconds`` from then until
the tree was gone; ``files``, ``directories``; ``grown``, bytes that the resident set grew by at most meanwhile;
``done``, whether the tree is gone; ``why``, what held it back and for how many tenths of a second.
"""

import json
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from busd.components.deletion.area import Area
from busd.components.deletion.cancelled import Cancelled
from busd.components.deletion.gate import OpenGate
from busd.components.deletion.gates import Gates, JobGate
from busd.components.deletion.governors import Governors
from busd.components.deletion.manifest import Manifest
from busd.components.deletion.roots import Root, RootSettings
from busd.components.deletion.target import resolve
from busd.components.deletion.walk import Removal

TENANT = "bench"

LOOK_SECONDS = 0.1
"""Between two looks at what holds the job back."""


def remove(spec: dict[str, Any]) -> dict[str, Any]:
    """Do what ``spec`` says; the result as the module's text has it. Raises BusError and OSError."""
    with ExitStack() as stack:
        root = Root.open(RootSettings(id="bench", path=Path(spec["root"]), tenants=frozenset({TENANT})))
        stack.callback(root.close)
        gate: OpenGate | JobGate = OpenGate()
        held: Counter[str] = Counter()
        if spec["adaptive"]:
            gates = Gates()
            governors = Governors(gates)
            governors.take(root)
            stack.callback(governors.give, root)
            gate = job = stack.enter_context(gates.open(TENANT, root.device))
            ended = threading.Event()
            watch = threading.Thread(target=_watch, args=(job, held, ended))
            watch.start()
            stack.callback(watch.join)
            stack.callback(ended.set)
        if spec["seconds"] is not None:
            timer = threading.Timer(spec["seconds"], gate.cancel)
            timer.start()
            stack.callback(timer.cancel)
        before = resident("VmRSS")
        with suppress(OSError):  # the peak is forgotten; where it cannot be, imports count as growth
            Path("/proc/self/clear_refs").write_text("5")
        began = time.monotonic()
        with resolve(root, spec["name"].encode()) as target:
            manifest = Manifest(
                job="bench",
                tenant=TENANT,
                root=root.id,
                path=target.path,
                device=target.device,
                inode=target.inode,
                directory=True,
                created=time.time(),
                options={},
            )
            tombstone = stack.enter_context(Area.open(root, TENANT).bury(target, manifest))
        directory = tombstone.directory
        if directory is None:
            raise OSError(f"{spec['name']} is no directory")
        removal = Removal(directory, hoist=tombstone.hoist, gate=gate, workers=spec["workers"])
        done = True
        try:
            removal.run()
            tombstone.finish()
        except Cancelled:
            done = False
        seconds = time.monotonic() - began
        counts = removal.tally().snapshot()
        return {
            "startup": began - spec["begun"],
            "seconds": seconds,
            "files": counts.files,
            "directories": counts.directories,
            "grown": max(0, resident("VmHWM") - before),
            "done": done,
            "why": dict(held),
        }


def _watch(job: JobGate, held: Counter[str], ended: threading.Event) -> None:
    while not ended.wait(LOOK_SECONDS):
        held[job.reason()] += 1


def resident(which: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {which}")


if __name__ == "__main__":
    print(json.dumps(remove(json.loads(sys.argv[1]))))
