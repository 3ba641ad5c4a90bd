"""``bus check``: does the bus work? For health checks, monitoring and people."""

from argparse import Namespace

from buscli import values
from buscli.exits import Exit, Health
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="check",
    help="check that the bus works: connect, ping, publish, call",
    description="""\
Attaches twice and sends a real message and a real call from one to the other (subject bus-check.ENDPOINT), with
timings, and names the components of the node that have failed. The exit code follows the Nagios convention, so it
serves a container's HEALTHCHECK, a Kubernetes probe, Nagios (--format nagios) and the Prometheus textfile collector
(--format prometheus) alike.

--doctor looks further: lag of the routing loop, endpoints against descriptors, policy, components, audit and whether it
can be written, ages of keys and who may read them, rights of the run directory, sockets that nobody listens on, disks
and inodes, clocks, versions, agents without an owner, accounts that are too fast, messages that are lost. Part of that
needs no bus. What this user may not see is UNKNOWN, never OK. It asks the node's administration for the keys, which the
audit log notes.""",
    arguments=(
        Argument(
            "--format",
            "how to say it (default: text on a terminal, json when piped)",
            choices=("text", "json", "nagios", "prometheus"),
            completes="choices",
        ),
        Argument(
            "--doctor",
            "look also at all that the node lives on, and say for each what is wrong and what to do",
            arity="flag",
        ),
        Argument("--timeout", "for all of it", aliases=("-t",), metavar="TIME", convert=values.timeout, default=2.0),
        Argument(
            "--components", "WARNING when a component has failed: the bus works without, so else it is OK", arity="flag"
        ),
        Argument("--warn", "WARNING when a step takes longer", aliases=("-w",), metavar="TIME", convert=values.seconds),
        Argument(
            "--critical", "CRITICAL when a step takes longer", aliases=("-c",), metavar="TIME", convert=values.seconds
        ),
    ),
    examples=(
        Example("bus check", "the four steps and how long each took"),
        Example("bus check --doctor", "what is wrong with this node, and what to do"),
        Example("bus check --format nagios --warn 50ms --critical 500ms", "as a Nagios plug-in"),
        Example("bus check --format prometheus > /var/lib/node_exporter/bus.prom", "for the textfile collector"),
    ),
    exits=(
        (Health.OK, "OK: every step worked, within --warn; with --doctor: nothing wants attention"),
        (
            Health.WARNING,
            "WARNING: every step worked, one took longer than --warn, or (--components) a component failed",
        ),
        (Health.CRITICAL, "CRITICAL: a step failed or took longer than --critical, or there is no bus"),
        (Health.UNKNOWN, "UNKNOWN: it could not be checked: wrong usage, or policy does not let this user"),
        (Exit.INTERRUPTED, "interrupted by Ctrl-C"),
        (Exit.BROKEN_PIPE, "the reader of the output went away"),
        (Exit.TERMINATED, "ended by SIGTERM"),
    ),
    usage_exit=Health.UNKNOWN,
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    if args.doctor:
        from buscli.doctor import Doctor

        return run(Doctor(args).run())
    from buscli.health import Check

    return run(Check(args).run())
