"""A new component: a folder of files that work, made from the templates beside this file."""

import json
import sys
from importlib.resources import files
from keyword import iskeyword
from pathlib import Path
from typing import Any, Final

from buscli.exits import Exit
from buscli.parser import UsageError
from busproto.subjects import check_name

__all__ = ["class_of", "objection", "write_component"]

FILES: Final = ("__init__.py", "component.py", "test_component.py", "NAME.toml", "README.md")
"""What is written; NAME stands for the component's."""

_TAKEN: Final = frozenset({"busclient", "buscli", "busd", "busproto", "msgpack", "msgspec", "pytest", "zmq"})
"""Packages that it needs itself; a folder of that name would stand in their way."""

_CLASSES: Final = frozenset(
    {"Amount", "Annotated", "AsyncIterator", "ClassVar", "Component", "Event", "Manifest", "Request", "Stream", "Total"}
)
"""Names that the template uses itself."""


def objection(name: str) -> str | None:
    """Why no component can be called ``name``; None if one can.

    It is a token of subjects, a Python package and part of a class's name at once.
    """
    if reason := check_name(name):
        return f"a component's name {reason}"
    if "-" in name:
        return "it is a Python package too, whose name may not hold '-'"
    if not name[0].isalpha():
        return "it is a Python package too, whose name begins with a letter"
    if iskeyword(name):
        return "it is a Python package too, and that is a word of the language"
    if name in sys.stdlib_module_names:
        return "Python's own library has a module of that name, and would be found in its place"
    if name in _TAKEN:
        return "a package of that name is needed to run it"
    return None


def class_of(name: str) -> str:
    """The class of component ``name``: ``room_sensor`` becomes ``RoomSensor``."""
    joined = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return f"{joined}Component" if joined in _CLASSES or iskeyword(joined) else joined


def write_component(name: str, directory: str, owner: str) -> dict[str, Any]:
    """Make the folder ``name`` in ``directory``. Returns what was made, and how to run it.

    Raises UsageError for a name that cannot be one and for a folder that is there already, OSError for what the
    system refuses; nothing is left behind then.
    """
    if reason := objection(name):
        near = name.lower().replace("-", "_").strip("_")
        cure = near if near != name and objection(near) is None else "thermometer"
        raise UsageError(f"bus component new: '{name:.80}' cannot be its name: {reason}", f"bus component new {cure}")
    parent = Path(directory).absolute()
    folder = parent / name
    try:
        folder.mkdir()
    except FileExistsError:
        said = f"bus component new: {folder} is there already; nothing is overwritten"
        cures = ("bus component new with another name, or --in another directory",)
        raise UsageError(said, *cures, exit=Exit.FAILED) from None
    words = {"name": name, "class": class_of(name), "owner": owner, "directory": _toml(str(parent))}
    written: list[Path] = []
    try:
        for file in FILES:
            path = folder / file.replace("NAME", name)
            path.write_text(_filled(file, words), encoding="utf-8")
            written.append(path)
    except BaseException:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        raise
    return {
        "component": name,
        "class": f"{name}.component:{words['class']}",
        "directory": str(parent),
        "files": [str(path) for path in written],
        "run": f"busd component run {name}.component:{words['class']} --config {name}/{name}.toml",
    }


def _filled(file: str, words: dict[str, str]) -> str:
    template = files("buscli") / "templates" / "component" / f"{file}.template"
    text = template.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace("{{" + word + "}}", value)
    return text


def _toml(text: str) -> str:
    """``text`` as a string of TOML, which reads JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)
