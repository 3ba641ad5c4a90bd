"""The ``bus`` command: from the words typed to an exit code. Nothing heavy is imported before it is needed."""

import os
import sys

from buscli.exits import Exit


def main(words: list[str] | None = None) -> int:
    """Run one command line (without ``bus`` itself) and return its exit code.

    What a user can cause is printed with its cure and never raised; what is raised is a bug.
    """
    try:
        _fill_closed_streams()
        return _explained(sys.argv[1:] if words is None else words)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return Exit.BROKEN_PIPE


def _explained(words: list[str]) -> int:
    """Run the command line, and print the errors that a user can cause."""
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        raise
    except Exception as error:
        from buscli.failures import explain

        if isinstance(error, OSError) and error.filename is None:
            _abandon_stdout()  # it may be what failed
        if (ended := explain(error)) is None:
            raise
        return ended


def _run(words: list[str]) -> int:
    from buscli.parser import Line, overview, parse, unknown_command, write_help
    from buscli.table import NAMES, load, runner

    if words[:1] == ["__complete"]:
        from buscli.completion import serve_request

        serve_request(words[1:])
        return Exit.OK
    line = Line(words)
    if line.wants == "version":
        from buscli.about import version_text

        write_help(version_text())
        return Exit.OK
    if line.wants == "help" or not line.command:
        write_help(overview())
        return Exit.OK if line.wants else Exit.USAGE
    if line.command not in NAMES:
        raise unknown_command(line.command)
    try:
        args = parse(load(line.command), line)
    except SystemExit:  # --help has been printed
        return Exit.OK
    return runner(line.command)(args)


def _fill_closed_streams() -> None:
    """Put /dev/null where the caller closed a standard stream: else the bus's socket would take its descriptor."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 -- open until the process ends


def _abandon_stdout() -> None:
    """Point standard output elsewhere, so that the interpreter's last flush does not complain about it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
