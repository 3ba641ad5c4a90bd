"""The directory of the node's configuration: one rule for the configuration file and the folders beside it."""

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["config_dir", "default_components_dir"]


def config_dir(environ: Mapping[str, str]) -> Path | None:
    """/etc/busd for root, else $XDG_CONFIG_HOME/busd, ``.config/busd`` in $HOME; None for who has neither."""
    if os.geteuid() == 0:
        return Path("/etc/busd")
    home = environ.get("XDG_CONFIG_HOME", "")
    if not home.startswith("/"):
        if not environ.get("HOME", "").startswith("/"):
            return None
        home = environ["HOME"] + "/.config"
    return Path(home, "busd")


def default_components_dir(environ: Mapping[str, str]) -> Path:
    """``components.d`` in the configuration directory; that in /etc/busd for who has none."""
    return (config_dir(environ) or Path("/etc/busd")) / "components.d"
