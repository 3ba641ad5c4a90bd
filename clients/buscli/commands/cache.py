"""``bus cache``: what the node's cache holds for this tenant, its keys, its figures, and how fast it is."""

from argparse import Namespace
from typing import Final

from buscli import cachevalues, values
from buscli.exits import Exit
from buscli.table import Argument, Command, Example, exits

SECONDS: Final = 3.0
"""That each work of a benchmark lasts without ``--seconds``."""

SIZE: Final = 1024
"""Bytes of a value of a benchmark without ``--size``."""

_NAME: Final = Argument("name", "the entry's name")
_TTL: Final = Argument(
    "--ttl",
    "how long it lives: 500ms, 90, 15m, 12h, 7d, or forever (default: as long as the tenant's settings say)",
    metavar="TIME",
    convert=cachevalues.ttl,
)
_TENANT: Final = Argument(
    "--tenant",
    "of this tenant; only the node itself may name another",
    metavar="TENANT",
    convert=cachevalues.tenant,
    completes="tenant",
)
_YES: Final = Argument("--yes", "do not ask", aliases=("-y",), arity="flag")

COMMAND = Command(
    name="cache",
    help="use the node's encrypting cache; its figures, its keys, and how fast it is",
    description="""\
The cache (component cache) keeps each tenant's entries sealed with keys of that tenant's own. Whose cache it is
follows from who asks, as the broker proved it: on the node itself that is tenant 'node'.

Names are blinded and cannot be listed. What stands on a command line can be seen by the other users of this machine:
give a secret value by --file or on standard input.""",
    examples=(
        Example("bus cache set greeting hello --ttl 15m", "store a value"),
        Example("bus cache get greeting", "have it back"),
        Example("bus cache stats", "how well it does"),
    ),
    actions=(
        Command(
            name="cache get",
            help="print a value",
            description="""\
On a terminal a value that is text is shown as such, with control characters escaped, and another one as a hex dump;
piped, or with --raw, its bytes are written as they are and nothing else is. --json has its generation, which bus cache
set --expect takes, and its time to live, too.""",
            arguments=(_NAME, Argument("--raw", "the bytes as they are, on a terminal too", arity="flag")),
            examples=(
                Example("bus cache get greeting", "what is there"),
                Example("bus cache get logo > logo.png", "its bytes"),
                Example("bus cache get greeting --json | jq .generation", "for --expect"),
            ),
            exits=exits(Exit.MISSING, Exit.TOO_LARGE, Exit.NO_SUCH),
        ),
        Command(
            name="cache set",
            help="store a value",
            description="""\
VALUE is text, and is stored as it is typed. Without VALUE, or with -, the value is standard input, byte for byte. It
takes the place of what is there, unless told otherwise.""",
            arguments=(
                _NAME,
                Argument("value", "the value; - is standard input", arity="optional"),
                Argument(
                    "--file", "the value is what is in this file", aliases=("-f",), metavar="PATH", completes="file"
                ),
                _TTL,
                Argument("--add", "only if nothing is there", arity="flag"),
                Argument("--replace", "only if something is there", arity="flag"),
                Argument(
                    "--expect",
                    "only if what is there still has this generation, as bus cache get --json says it",
                    metavar="GENERATION",
                    convert=cachevalues.generation,
                ),
            ),
            examples=(
                Example("bus cache set greeting 'good morning' --ttl 15m", "for a quarter of an hour"),
                Example("bus cache set logo --file logo.png", "the bytes of a file"),
                Example("tail -1 tokens | bus cache set token --add", "once, and unseen by ps"),
                Example("bus cache set counter 8 --expect 41", "if nobody else was faster"),
            ),
            impact="rw",
            exits=exits(Exit.MISSING, Exit.CONFLICT, Exit.TOO_LARGE, Exit.NO_SUCH),
        ),
        Command(
            name="cache del",
            help="take entries out",
            description="All of them, also when one is not there; it then ends with 20.",
            arguments=(Argument("name", "names of entries", arity="many"),),
            examples=(Example("bus cache del greeting logo", "both"),),
            impact="rw",
            exits=exits(Exit.MISSING, Exit.TOO_LARGE, Exit.NO_SUCH),
        ),
        Command(
            name="cache touch",
            help="let an entry live for longer, or shorter",
            description="Its time begins anew. Its value stays, and so does its generation.",
            arguments=(_NAME, _TTL),
            examples=(Example("bus cache touch greeting --ttl 1h", "an hour from now"),),
            impact="rw",
            exits=exits(Exit.MISSING, Exit.TOO_LARGE, Exit.NO_SUCH),
        ),
        Command(
            name="cache stats",
            help="show what a tenant's cache holds and has done",
            description="""\
Hits and misses, how much of its share it uses, why entries had to go, records that failed authentication, and the key
that is in use. A tenant sees its own.""",
            arguments=(_TENANT,),
            examples=(
                Example("bus cache stats", "one's own"),
                Example("bus cache stats --tenant acme | jq .hit_ratio", "as the node"),
            ),
            exits=exits(Exit.NO_SUCH),
        ),
        Command(
            name="cache tenants",
            help="list the tenants that have a share, and how much of it they use",
            description="To the node all of them, to a tenant itself.",
            examples=(
                Example("bus cache tenants", "who has how much"),
                Example("bus cache tenants | jq -r 'select(.bytes > .quota * 0.9).tenant'", "whose is full"),
            ),
        ),
        Command(
            name="cache rotate",
            help="seal with a new key from now on",
            description="""\
Nothing is lost: what the older keys have sealed stays readable, and is sealed anew when it is read. It also happens by
itself, by age and by count.""",
            arguments=(_TENANT,),
            examples=(Example("bus cache rotate", "one's own"),),
            impact="rw",
            exits=exits(Exit.NO_SUCH),
        ),
        Command(
            name="cache shred",
            help="destroy keys, so that what they have sealed can never be read again",
            description="""\
All keys of a tenant, and with them all that is in its cache; with --epoch one key, and what it sealed is a miss from
then on. It takes the same time however much that is, and cannot be undone. It says what is lost, and asks.""",
            arguments=(
                _TENANT,
                Argument(
                    "--epoch",
                    "only the key of this number, as bus cache stats shows it",
                    metavar="N",
                    convert=cachevalues.epoch,
                ),
                _YES,
            ),
            examples=(
                Example("bus cache shred", "say what would be lost, and ask"),
                Example("bus cache shred --tenant acme --yes", "of a tenant that is gone"),
                Example("bus cache shred --epoch 3 --yes", "one key that somebody may have seen"),
            ),
            impact="rw",
            exits=exits(Exit.CANCELLED, Exit.NO_SUCH),
        ),
        Command(
            name="cache clear",
            help="drop all entries",
            description="One's own; the keys stay. It says how many there are, and asks.",
            arguments=(_YES,),
            examples=(Example("bus cache clear --yes", "without being asked"),),
            impact="rw",
            exits=exits(Exit.CANCELLED, Exit.NO_SUCH),
        ),
        Command(
            name="cache bench",
            help="measure gets that hit, gets that miss, and sets",
            description="""\
Each for --seconds, over the bus as components call it, --in-flight at a time; or with --local in this process, on one
core, as code calls that has a cache to itself. It uses names of its own in one's own cache, at most an eighth of its
share, and takes them out again; in a full cache, what nobody has used for long may have to go for them.""",
            arguments=(
                Argument(
                    "--size", "bytes of a value", aliases=("-s",), metavar="BYTES", convert=values.size, default=SIZE
                ),
                Argument(
                    "--seconds", "for each of the three", metavar="TIME", convert=cachevalues.seconds, default=SECONDS
                ),
                Argument("--in-flight", "calls at a time (default: 64)", metavar="N", convert=cachevalues.in_flight),
                Argument("--local", "in this process, without a node", arity="flag"),
            ),
            examples=(
                Example("bus cache bench", "over the bus"),
                Example("bus cache bench --local --size 64", "in process"),
                Example("bus cache bench --in-flight 1 | jq -r '[.work, .p50] | @tsv'", "what one caller waits"),
            ),
            impact="rw",
            exits=exits(Exit.TOO_LARGE, Exit.NO_SUCH),
        ),
    ),
)


def run(args: Namespace) -> int:
    from buscli.connection import run

    match args.action:
        case "bench":
            from buscli.cachebench import Bench

            return run(Bench(args).run())
        case "get" | "set" | "del" | "touch":
            from buscli.cacheentries import Entries

            return run(Entries(args).run())
        case _:
            from buscli.cacheshare import Share

            return run(Share(args).run())
