"""``python -m busd.components.runner``: the same as ``busd component run``."""

import sys

from busd.components.runner.command import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
