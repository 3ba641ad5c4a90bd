"""``make run``: a node with this machine's telemetry on it, what to type next, and its live traffic until Ctrl-C."""

import argparse
import asyncio
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import busclient
from busclient.url import default_url
from busd.components.telemetry.summary import summary
from busd.node import Node
from busd.ops.config import load
from busd.ops.foreground import foreground
from busd.ops.keys import Config
from busd.ops.process import run
from busd.ops.rundir import RunDirectory
from busproto.errors import BusError

__all__ = ["main"]

COMPONENT: Final = "telemetry"

COMMANDS: Final = (
    ("list", "who is attached, whose it is, what it is for"),
    ("sub telemetry.cpu", "one subject, whole"),
    ("""call telemetry.processes '{"limit": 3}'""", "ask: what uses most CPU?"),
    ("""pub demo.hello '{"n": 1}'""", "say something; it shows up here"),
    ("inspect host-1", "all about one endpoint"),
    ("component list", "the node's components, and how each is"),
    ("top", "who sends and gets how much; q ends it"),
)
"""What a newcomer types next, and why."""


_STATUS: Final = re.compile(r"component\.[^.]+\.[^.]+\.status")
"""What components say of themselves, each second: `bus component list` shows it better than a line each."""


class DemoNode(Node):
    """A node that prints what passes through it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._traffic: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the node, then say what to type next and show the traffic."""
        await super().start()
        self._traffic = asyncio.create_task(show(self.url, self.statistics().addresses.get("http", "")))
        self._traffic.add_done_callback(_end)

    async def stop(self) -> None:
        """Stop showing, then stop the node. Raises what went wrong with showing."""
        assert self._traffic is not None
        self._traffic.remove_done_callback(_end)
        self._traffic.cancel()
        [shown] = await asyncio.gather(self._traffic, return_exceptions=True)
        await super().stop()
        if isinstance(shown, Exception):
            raise shown


def _end(_: object) -> None:
    """Nothing is shown any more: end as after any signal."""
    os.kill(os.getpid(), signal.SIGTERM)


def instructions(url: str, default: str, programs: Path, console: str = "") -> str:
    """What to type next on the bus at ``url``.

    Args:
        default: where ``bus`` would look by itself.
        programs: directory of the ``bus`` command.
        console: where a browser sees the node; empty: nowhere.
    """
    here = Path.cwd()
    bus = programs / "bus"
    shown = shlex.quote(str(bus.relative_to(here) if bus.is_relative_to(here) else bus))
    lines = [f"busd runs on {url} and carries this machine's telemetry."]
    if console.startswith("http:"):
        lines.append(f"Its console, for a browser on this machine: {console}/")
    lines += ["", f"In another terminal, in {here}:", ""]
    if url != default:
        lines.append(f"  export BUS_URL={shlex.quote(url)}")
    width = max(len(command) for command, _ in COMMANDS)
    lines += [f"  {shown} {command:<{width}}  # {purpose}" for command, purpose in COMMANDS]
    return "\n".join([*lines, "", "Here is what passes through it. Ctrl-C ends it.", ""])


async def show(url: str, console: str) -> None:
    """Print what to type next, then a line for each message: until cancelled, or until nobody reads what is printed."""
    try:
        print(instructions(url, default_url(), Path(sys.executable).parent, console), flush=True)
        async with (
            busclient.connect(url, component="demo", owner="you", purpose="prints the traffic of make run") as bus,
            bus.subscribe(">", gaps="yield", latest=True) as subscription,
        ):
            async for item in subscription:
                if isinstance(item, busclient.Gap) or not _STATUS.fullmatch(item.subject):
                    print(line_of(item), flush=True)
    except BrokenPipeError:  # make run | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def line_of(item: busclient.Message | busclient.Gap) -> str:
    """One message, or one loss, on one line that is safe on a terminal."""
    if isinstance(item, busclient.Gap):
        return f"          {item.text}"
    try:
        payload: Any = item.payload
        if isinstance(payload, Mapping) and item.subject.startswith(f"{COMPONENT}."):
            return summary(item.subject, payload)
    except Exception:  # anyone may publish anything on any subject
        payload = item.data
    return f"          {item.subject:<17}  {ascii(payload)[:200]}"


def choose_run_dir(config: Config) -> tuple[Path, str | None]:
    """Where to run: the configured directory, or, if that cannot be had, a new one and why.

    The new one is for this run only; whoever asked for it removes it.
    """
    try:
        RunDirectory(config.run_dir).release()
    except BusError as error:
        return Path(tempfile.mkdtemp(prefix="busd-")), error.text
    return config.run_dir, None


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; the exit status, 0 after Ctrl-C."""
    argparse.ArgumentParser(
        prog="python -m busd.demo",
        description="Runs a node with this machine's telemetry and prints what passes through it, until Ctrl-C.",
        epilog="It runs in the directory where busd would; if another busd runs there, in a temporary one of its own.",
    ).parse_args(arguments)
    temporary: Path | None = None
    try:
        with foreground():
            flags = {"components": COMPONENT}
            path, taken = choose_run_dir(load(flags=flags))
            if taken is not None:
                temporary = path
                print(f"{taken}\nThis node therefore runs beside it, in {path}.\n")
            return run(load(flags={**flags, "run_dir": str(path)}), DemoNode)
    except BusError as error:
        print(error, error.cure, sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the node runs
        return 0
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
