"""``python -m busd.components.telemetry``: the telemetry component as a process of its own."""

import argparse
import sys

import busclient
from busd.components import worker
from busd.components.telemetry.component import INTERVAL_SECONDS, MANIFEST, Telemetry

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = worker.parser(MANIFEST["component"], "Publishes this machine's figures and serves telemetry.processes.")
    parser.add_argument(
        "--interval",
        type=_interval,
        default=INTERVAL_SECONDS,
        metavar="S",
        help="seconds between samples, 0.1 to 3600 (default: %(default)g)",
    )
    options = parser.parse_args(arguments)

    async def attached() -> None:
        async with busclient.connect(options.bus, **MANIFEST) as bus:
            await Telemetry(bus, interval=options.interval).run()

    return worker.run(attached, until_eof=options.until_eof)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0.1 to 3600")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
