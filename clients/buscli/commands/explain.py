"""``bus explain``: the name that ``bus trace`` had before."""

from buscli.commands import trace

COMMAND = trace.COMMAND._replace(name="explain", help="the same as bus trace")

run = trace.run
