"""From a path as it is typed to a deletion root and a path below it, without asking the file system what it is.

What a link leads to may change between looking and deleting, so nothing here follows one: the node opens the path from
its root on, and refuses links.
"""

import os
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Final, NamedTuple

from buscli.parser import UsageError, suggest

__all__ = ["Place", "absolute", "local_place", "near_verb", "place_of", "text_of"]

NEAREST: Final = 3
"""Roots that an error names."""


class Place(NamedTuple):
    """What is to go: a root, and a path below it as the file system has it."""

    root: str
    path: bytes
    shown: bytes
    """The whole path, for people; without the root's own where that is not known."""


def text_of(path: bytes) -> str:
    """``path`` as text; bytes that are no UTF-8 as ``\\xff``. For people: two paths may look alike."""
    return path.decode("utf-8", "backslashreplace")


def absolute(typed: str) -> bytes:
    """``typed`` as an absolute path, found by its letters alone.

    Raises UsageError for a path that only the file system could make sense of: ``..`` behind a name (that may be a
    link), a slash behind a link, nothing at all, or a NUL.
    """
    path = os.fsencode(typed)
    if not path or b"\0" in path:
        raise _refused(path, "it is no path", "bus delete PATH")
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if path.startswith(b"/"):
        base: list[bytes] = []
    else:
        base = [part for part in os.getcwdb().split(b"/") if part]  # the system's own: there are no links in it
        while parts[:1] == [b".."]:
            base, parts = base[:-1], parts[1:]
    if b".." in parts:
        raise _refused(path, "'..' behind a name may lead elsewhere, if that is a link", "write the path without '..'")
    whole = b"/" + b"/".join([*base, *parts])
    if path.endswith((b"/", b"/.")) and os.path.islink(whole):
        reason = "with a slash at its end it means what the link leads to; without, the link itself"
        raise _refused(path, reason, f"bus delete {text_of(path).rstrip('/.')}")
    return whole


def place_of(typed: str, roots: Mapping[str, bytes]) -> Place:
    """``typed`` as a path below the longest of ``roots`` (id to absolute path) that it begins with.

    Raises UsageError: as `absolute`, if it is a root itself, or if it is below none; that names the nearest.
    """
    whole = absolute(typed)
    found = _below(whole, roots)
    if found is not None:
        return found
    for id, root in roots.items():
        if whole == _trimmed(root):
            raise UsageError(
                f"bus delete: {text_of(whole)} is deletion root '{id}' itself, which stays",
                f"give a path below it, as in bus delete {text_of(whole)}/NAME",
            )
    cures = []
    real = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    if real != whole and _below(real, roots) is not None:
        cures.append(f"bus delete {text_of(real)}  (where the links on the way lead)")
    if not os.path.lexists(whole):
        cures += near_verb(typed)
    near = _nearest(whole, roots)
    said = f"; the nearest: {', '.join(near)}" if near else "; the node has none for you"
    raise UsageError(
        f"bus delete: {text_of(whole)} is below no deletion root{said}",
        *cures,
        "bus delete PATH --local, which deletes it in this process with your own rights and without the node",
    )


def local_place(typed: str) -> tuple[bytes, Place]:
    """The directory that ``typed`` is in, and ``typed`` below it as root ``local``.

    The way to that directory is the system's, through links: it is this user who goes it, with this user's rights.
    Raises UsageError as `absolute`, and for "/" and what lies directly in it.
    """
    whole = absolute(typed)
    parent, name = os.path.split(whole)
    parent = os.path.realpath(parent)
    if not name or parent == b"/":
        reason = "what lies directly in / stays" if name else "/ stays"
        raise UsageError(f"bus delete: {text_of(whole)}: {reason}", "bus delete PATH")
    return parent, Place("local", name, whole)


def near_verb(typed: str) -> list[str]:
    """The command that may have been meant instead of a path, as a cure."""
    verbs = ("list", "watch", "report", "pause", "resume", "change", "cancel", "undelete", "roots")
    nearest = "" if "/" in typed else suggest(typed, verbs)
    return [f"bus delete {nearest}"] if nearest else []


def _below(whole: bytes, roots: Mapping[str, bytes]) -> Place | None:
    fitting = [(_trimmed(root), id) for id, root in roots.items() if whole.startswith(_trimmed(root) + b"/")]
    if not fitting:
        return None
    root, id = max(fitting, key=lambda each: len(each[0]))
    return Place(id, whole[len(root) + 1 :], whole)


def _trimmed(root: bytes) -> bytes:
    return root.rstrip(b"/")


def _nearest(whole: bytes, roots: Mapping[str, bytes]) -> list[str]:
    def likeness(item: tuple[str, bytes]) -> float:
        return SequenceMatcher(None, text_of(item[1]), text_of(whole)).ratio()

    ordered: Sequence[tuple[str, bytes]] = sorted(roots.items(), key=likeness, reverse=True)
    return [f"{text_of(path)} ({id})" for id, path in ordered[:NEAREST]]


def _refused(path: bytes, reason: str, cure: str) -> UsageError:
    return UsageError(f"bus delete: '{text_of(path)}' is not taken: {reason}", cure)
