"""``bus man``: the manual pages, read at once, printed, or put where man(1) finds them."""

from argparse import Namespace

from buscli.exits import Exit
from buscli.parser import UsageError, unknown_command, write_help
from buscli.table import NAMES, Argument, Command, Example

COMMAND = Command(
    name="man",
    help="show the manual pages, or put them where man finds them",
    description="""\
The manual page of a command, or of bus itself: on a terminal with man(1), in a pipe its source (roff). With --dir all
of them are written into man1 below that folder, and their names are printed. Pages are made from the same table as
--help, so they are those of the version that is installed. busd man has those of the daemon.""",
    arguments=(
        Argument("command", "the command whose page is wanted", arity="optional", completes="command"),
        Argument("--dir", "write every page below this folder instead", metavar="FOLDER", completes="file"),
    ),
    examples=(
        Example("bus man call", "the manual page of bus call"),
        Example("bus man --dir ~/.local/share/man", "from now on man bus and man bus-call show them"),
        Example("bus man policy > bus-policy.1", "one page as a file"),
    ),
    connects=False,
    records=False,
)


def run(args: Namespace) -> int:
    from pathlib import Path

    from buscli.manpage import command_page, overview_page, pages
    from buscli.roff import show, write_pages
    from buscli.table import load

    if args.command is not None and args.command not in NAMES:
        raise unknown_command(args.command)
    if args.dir is None:
        return show(
            "bus.1" if args.command is None else f"bus-{args.command}.1",
            overview_page() if args.command is None else command_page(load(args.command)),
        )
    if args.command is not None:
        raise UsageError("bus man: --dir writes every page; it goes without a command", f"bus man --dir {args.dir}")
    write_help("\n".join(map(str, write_pages(Path(args.dir), pages()))))
    return Exit.OK
