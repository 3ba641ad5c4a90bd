"""``bus completion``: a script that teaches the shell the commands and their arguments."""

from argparse import Namespace

from buscli.exits import Exit
from buscli.parser import write_help
from buscli.shells import SHELLS
from buscli.table import Argument, Command, Example

COMMAND = Command(
    name="completion",
    help="print a completion script for bash, zsh or fish",
    description="""\
Prints the script; load it in the shell's start-up file. Commands, options and choices come from the command table;
subjects and endpoints are asked from the bus (at most half a second, silent when there is none).""",
    arguments=(Argument("shell", "which shell", choices=SHELLS, completes="choices"),),
    examples=(
        Example("source <(bus completion bash)", "in ~/.bashrc"),
        Example("bus completion zsh > ~/.zfunc/_bus", "with ~/.zfunc in $fpath"),
        Example("bus completion fish > ~/.config/fish/completions/bus.fish", "for fish"),
    ),
    connects=False,
    records=False,
)


def run(args: Namespace) -> int:
    from buscli.shells import script

    write_help(script(args.shell))
    return Exit.OK
