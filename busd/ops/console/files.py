"""The files of the page: a fixed table by name, read once. Nothing else of the disk can be asked for."""

from importlib.resources import files
from typing import Final, NamedTuple

__all__ = ["INDEX", "StaticFile", "static_files"]

INDEX: Final = "index.html"
"""The page itself, which is served at ``/``."""

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served, by the end of its name."""


class StaticFile(NamedTuple):
    """One of them."""

    body: bytes
    content_type: str


def static_files() -> dict[str, StaticFile]:
    """Every file of the page, by name. They come with busd, so one that is missing is a broken installation."""
    found: dict[str, StaticFile] = {}
    for file in files("busd.ops.console").joinpath("static").iterdir():
        content_type = TYPES.get(file.name[file.name.rfind(".") :])
        if content_type is not None and file.is_file():
            found[file.name] = StaticFile(file.read_bytes(), content_type)
    return found
