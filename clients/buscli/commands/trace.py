"""``bus trace``: the way of a message or call, step by step, without sending it."""

from argparse import Namespace

from buscli import values
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="trace",
    help="show where a message or call would go, step by step, and why",
    description="""\
The decision path of SUBJECT without sending anything: who it would come from as the broker stamps it, the rule of the
policy that decides, with its file and line, the exports that it crosses, the subscriptions that match and what is
queued for each, or the group and the member that would answer, and what the sender's quotas and rates leave. The last
line says what becomes of it. Nothing is counted, queued or charged for anyone but the question itself.

With --as it is about another endpoint; that is for whom policy lets call $bus.admin.policy.explain. With --deliver BODY
it is then really sent, by this command, and the outcome is shown: the exit code is that of bus pub or bus call.
bus policy explain says what would have to change.""",
    arguments=(
        Argument("subject", "what to trace", completes="subject"),
        Argument("--call", "a call instead of a message", arity="flag"),
        Argument("--publish", "a message; this is what goes without saying", arity="flag"),
        Argument("--as", "as this endpoint, not as who asks", metavar="ENDPOINT", completes="endpoint"),
        Argument("--deliver", "send it after that, with this body: JSON text", metavar="BODY"),
        Argument(
            "--timeout",
            "with --call --deliver: how long to wait for the reply",
            aliases=("-t",),
            metavar="TIME",
            convert=values.timeout,
            default=5.0,
        ),
    ),
    examples=(
        Example("bus trace demo.tick", "who would get it?"),
        Example("bus trace demo.echo --call", "who would answer?"),
        Example("bus trace metrics.cpu --as guest-7", "why does guest-7 not get through?"),
        Example("bus trace demo.echo --call --deliver '{\"n\": 1}'", "and does it?"),
    ),
    impact="rw",
)


def run(args: Namespace) -> int:
    from buscli import body
    from buscli.connection import run
    from buscli.tracing import trace
    from busproto.subjects import check_subject

    name = f"bus {args.command_name}"
    if args.call and args.publish:
        raise UsageError(f"{name}: --call and --publish are two questions", f"{name} {args.subject} --call")
    endpoint = getattr(args, "as")
    if endpoint is not None and args.deliver is not None:
        said = f"{name}: nobody can send in another's name, so --as and --deliver do not go together"
        raise UsageError(said, f"{name} {args.subject} --as {endpoint}", f"{name} {args.subject} --deliver BODY")
    check_subject(args.subject)
    content = None if args.deliver is None else body.of_argument(args.deliver, raw=False, where="--deliver")
    return run(trace(args, content, endpoint))
