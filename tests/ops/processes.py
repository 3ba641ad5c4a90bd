"""Starting ``python -m busd`` and programs that use its modules, apart from this machine's own configuration."""

import subprocess
import sys

from tests.support import environment


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment(**variables), cwd="/", check=False
    )


def python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program to its end."""
    return run(sys.executable, "-W", "error", "-c", program, **variables)


def busd(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return run(sys.executable, "-W", "error", "-m", "busd", *arguments, **variables)
