"""``busd component run``: the command line of a runner, its start, its end and its exit status."""

import argparse
import asyncio
import logging
import os
import re
import secrets
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import busclient
from busclient import Bus, BusError, Code
from busd.components.model import Component, load
from busd.components.runner.config import read_config
from busd.components.runner.control import Control
from busd.components.runner.ending import told_to_end
from busd.components.runner.limits import LEAST_MEMORY_BYTES, limit_memory
from busd.components.runner.runner import Runner

__all__ = ["FAILED", "OK", "USAGE", "main", "parser"]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2

_MISUSES: Final = frozenset(
    {Code.CONFIG_INVALID, Code.CONFIG_UNKNOWN_KEY, Code.COMPONENT_INVALID, Code.COMPONENT_UNKNOWN, Code.URL_INVALID}
)
"""Errors that another start will meet again, and that are not the component's."""

LEAST_BYTES: Final = 1 << 20
"""A smaller number of bytes is a mistake in the unit."""

_INSTANCE: Final = re.compile(r"[0-9a-f]{12}")

_DESCRIPTION: Final = """\
Runs one component as a process of its own, attached to the bus: it answers the calls on the component's subjects and
publishes its events, until it is told to end.
"""

_EPILOG: Final = """\
COMPONENT is the name of one that is shipped (telemetry), or MODULE:CLASS; the current directory is searched as well.

With --standby it waits: the node's supervisor has it take over when the component is moved here (bus component move).
SIGTERM, SIGINT (and with --until-eof the end of standard input) end it in order: it takes no more calls, answers those
that it has within 5 s, and stops the component. A second signal ends it at once.

exit status:
  0  stopped as asked
  1  the component failed, or the bus could not be reached at the start or was lost for good
  2  wrong usage: options, configuration, or no such component

examples:
  busd component run telemetry                             on this machine's bus
  busd component run gauge:Gauge --config gauge.toml       one's own, configured by the table [config] of that file
  busd component run telemetry --bus tcp://HOST:PORT --standby   on an offload card, for bus component move telemetry
"""

_log = logging.getLogger("busd.components.runner")


def main(argv: list[str] | None = None) -> int:
    """Run ``busd component ARGV``; the exit status. What goes wrong is printed as code, reason and cure."""
    options = parser().parse_args(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # warnings and worse, to standard error
    try:
        if options.memory_bytes is not None:
            _limit(options.memory_bytes)
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last, as it may hold anything
        component = load(options.component)
        config = {} if options.config is None else read_config(options.config)
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            runner.run(_attached(component, config, options))
    except BusError as error:
        error = _with_file(error, options.config)
        print(error, error.cure, sep="\n", file=sys.stderr)
        return USAGE if error.code in _MISUSES else FAILED
    except KeyboardInterrupt:  # before the loop ran
        return FAILED
    return OK


def parser() -> argparse.ArgumentParser:
    """The parser of ``busd component``."""
    parser = argparse.ArgumentParser(
        prog="busd component", description="Components as processes of their own.", allow_abbrev=False
    )
    commands = parser.add_subparsers(metavar="run", required=True)
    run = commands.add_parser(
        "run",
        help="run one component, attached to the bus",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.add_argument(
        "component", metavar="COMPONENT", help="what to run: MODULE:CLASS, or the name of one that is shipped"
    )
    run.add_argument(
        "--config", metavar="FILE.toml", type=Path, help="its table [config] is what the component is made with"
    )
    run.add_argument(
        "--bus",
        metavar="URL",
        help="the bus to attach to: unix:///path/host.sock or a path, vsock://CID:PORT, serial:///dev/PORT, "
        "tcp://HOST:PORT (default: BUS_URL, else this user's busd)",
    )
    run.add_argument(
        "--key", metavar="FILE", help="for tcp://: the file of this client's secret key (default: BUS_KEY)"
    )
    run.add_argument(
        "--server-key",
        metavar="KEY",
        help="for tcp://: the broker's public key or its file (default: BUS_SERVER_KEY); --server-key=KEY for a key "
        "that begins with a dash",
    )
    run.add_argument("--standby", action="store_true", help="wait until told to serve")
    run.add_argument(
        "--until-eof",
        action="store_true",
        help="also end when standard input does: the program that started it is gone",
    )
    run.add_argument(
        "--memory-bytes",
        metavar="N",
        type=_memory,
        help="have the system limit its data to this, or to "
        f"{LEAST_MEMORY_BYTES >> 20} MiB if that is more: an allocation beyond fails",
    )
    run.add_argument(
        "--instance", metavar="ID", type=_instance, help="12 hex digits to be known by (default: at random)"
    )
    return parser


def _memory(text: str) -> int:
    if not text.isdecimal() or int(text) < LEAST_BYTES:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of bytes from {LEAST_BYTES}")
    return int(text)


def _instance(text: str) -> str:
    if _INSTANCE.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not 12 hex digits, such as {secrets.token_hex(6)}")
    return text


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """The fastest loop that there is: uvloop where it is installed (not on Windows)."""
    if sys.platform != "win32":
        try:
            import uvloop
        except ModuleNotFoundError:
            return asyncio.new_event_loop
        new_event_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return new_event_loop
    return asyncio.new_event_loop


def _limit(limit_bytes: int) -> None:
    try:
        kept = limit_memory(limit_bytes)
    except (OSError, ValueError) as error:
        kept = False
        _log.warning("memory is not limited to %s bytes: %s", limit_bytes, error)
    else:
        if not kept:
            _log.warning("memory is not limited to %s bytes: this system cannot", limit_bytes)


def _with_file(error: BusError, file: Path | None) -> BusError:
    """What the component has against its configuration, with the file that this is from."""
    if error.code != Code.CONFIG_INVALID or file is None or error.fields.get("where"):
        return error
    return BusError(Code.CONFIG_INVALID, **{**error.fields, "where": f" in {file}"})


async def _attached(component: type[Component], config: Mapping[str, Any], options: Namespace) -> None:
    manifest = component.manifest
    bus = busclient.connect(
        options.bus,
        component=manifest.component,
        version=manifest.version,
        owner=manifest.owner,
        purpose=manifest.purpose,
        serves=manifest.serves,
        publishes=manifest.publishes,
        needs=manifest.needs,
        key=options.key,
        server_key=options.server_key,
    )
    await bus.open()
    try:
        await _run(
            Runner(
                component,
                config,
                bus,
                options.instance or secrets.token_hex(6),
                standby=options.standby,
                own_process=True,
            ),
            bus,
            until_eof=options.until_eof,
        )
    finally:
        try:
            await bus.close()
        except BusError as error:
            _log.warning("something that was published may not have arrived: %s", error)


async def _run(runner: Runner, bus: Bus, *, until_eof: bool) -> None:
    ending: set[asyncio.Task[None]] = set()  # the loop itself does not keep its tasks

    def end() -> None:
        ending.add(asyncio.create_task(runner.end()))

    def tell() -> None:
        if sys.stderr.isatty():
            reason = f": {runner.reason}" if runner.reason else ""
            manifest = runner.manifest
            print(
                f"{manifest.component} {manifest.version} ({runner.instance}) on {bus.url} is {runner.state}{reason}",
                file=sys.stderr,
            )

    with told_to_end(end, until_eof=until_eof):
        await Control(runner, bus, changed=tell).run()
