"""``bus relay``: a unix socket for stock ZeroMQ programs, each connection copied to the broker."""

from argparse import Namespace

from buscli import values
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="relay",
    help="let stock ZeroMQ programs in a guest reach the bus through a unix socket",
    description="""\
libzmq has no vsock and no serial lines. bus relay listens on a unix socket and copies every connection to it, byte
for byte, to a connection of its own to the broker: a ZeroMQ DEALER that connects to ipc:///run/busd.sock is an
endpoint on the bus as if it were attached directly, until Ctrl-C or SIGTERM, which is the normal end (0).

All programs behind a relay are one unit to the broker: it sees the guest, not its users, and what policy and quotas
grant the unit any program can use that may open the socket. --mode says who may.

When the broker cannot be reached, or the connection to it ends, the program's connection ends too; ZeroMQ comes back
by itself. Nothing is stored: a side that does not read is waited for by the other. A serial line carries one
connection at a time, so a second program is refused, as is one above --connections; each refusal is said on standard
error, at most once a second. When the socket is ready, one line says so on standard output.""",
    arguments=(
        Argument(
            "--listen",
            "the socket to make: ipc:///path, unix:///path or an absolute path; a dead one is replaced",
            metavar="ADDRESS",
            completes="file",
        ),
        Argument("--to", "the broker: vsock://host:PORT, serial:///dev/PORT or unix:///path", metavar="URL"),
        Argument("--connections", "connections at a time, at most", metavar="N", convert=values.count, default=256),
        Argument("--mode", "permissions of the socket, in octal", metavar="MODE", convert=values.mode, default=0o660),
        Argument("--verbose", "say what was copied, every ten seconds", aliases=("-v",), arity="flag"),
    ),
    examples=(
        Example("bus relay --listen ipc:///run/busd.sock --to vsock://host:5670", "in a guest, for its programs"),
        Example("bus relay --listen /run/busd.sock --to serial:///dev/virtio-ports/busd.0", "one program at a time"),
    ),
    impact="rw",
    connects=False,
    exits=(
        (0, "stopped by Ctrl-C or SIGTERM"),
        (1, "the socket cannot be made: another process listens on it, or the system refused"),
        (2, "the command line or an address is not valid"),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run
    from buscli.relay import Relay

    for name in ("listen", "to"):
        if getattr(args, name) is None:
            raise UsageError(f"bus relay: --{name} is missing", "bus relay --help")
    return run(Relay(args).run(), ends_well=True)
