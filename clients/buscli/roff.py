"""Manual pages: text in the roff language, with the man(7) macros that groff and mandoc both know.

A page is made of plain text only: whatever a user, a file or a table says is escaped here and nowhere else, so no word
of it can be taken for a request.
"""

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Final

WIDTH: Final = 76
"""Characters of a line of the source: mandoc objects to more than 80."""

_ESCAPES: Final = str.maketrans(
    {
        "\\": r"\e",
        "-": r"\-",  # an ASCII one, which can be copied into a shell; "-" may become a typographic hyphen
        "'": r"\(aq",
        "`": r"\(ga",
        "^": r"\(ha",
        "~": r"\(ti",
        '"': r"\(dq",
    }
)
_FOREIGN: Final = re.compile(r"[^\x20-\x7e]")


def escaped(text: str) -> str:
    """``text``, one line of it, so that every character stands for itself, wherever on a line it comes to stand."""
    made = _FOREIGN.sub(lambda found: f"\\[u{ord(found[0]):04X}]", text.translate(_ESCAPES))
    return rf"\&{made}" if made.startswith(".") else made  # "'" cannot begin it any more


def bold(text: str) -> str:
    """``text`` as it is typed: in bold."""
    return rf"\fB{escaped(text)}\fR"


def italic(text: str) -> str:
    """``text`` as what stands for something else: underlined."""
    return rf"\fI{escaped(text)}\fR"


def kept_together(*words: str) -> str:
    """``words``, marked up already, on one line."""
    return r"\ ".join(words)


class Page:
    """One manual page while it is written, from its first line to its last.

    Args:
        name: ``bus-call``.
        section: ``1`` for a command, ``5`` for a file.
        says: what it is, in a few words: the line that apropos(1) shows.
        source: program and version.
    """

    def __init__(self, name: str, section: int, says: str, *, source: str) -> None:
        # Text is not hyphenated and not spread to both margins: names of options must stay whole to be copied.
        title = f'.TH "{escaped(name.upper())}" {section} {_date()} "{escaped(source)}" "busd manual"'
        self._lines = [title, ".nh", ".ad l"]
        self.heading("NAME")
        self._lines.append(rf"{escaped(name)} \- {escaped(says)}")

    def heading(self, title: str) -> None:
        """Begin a section."""
        self._lines.append(f'.SH "{escaped(title)}"')

    def subheading(self, title: str) -> None:
        """Begin a part of a section."""
        self._lines.append(f'.SS "{escaped(title)}"')

    def text(self, text: str) -> None:
        """Paragraphs, which are divided by an empty line."""
        for paragraph in text.split("\n\n"):
            self._begin()
            self._fill(paragraph)

    def synopsis(self, lines: Iterable[str]) -> None:
        """Command lines, marked up already (`bold`, `italic`), one below the other."""
        for number, line in enumerate(lines):
            self._lines += [".br", line] if number else [line]

    def items(self, items: Iterable[tuple[str, str]]) -> None:
        """Terms, marked up already, each with the paragraphs that explain it below."""
        for term, text in items:
            self._lines += [".TP", term]
            for number, paragraph in enumerate(text.split("\n\n")):
                if number:
                    self._lines.append(".IP")
                self._fill(paragraph)

    def code(self, text: str) -> None:
        """Lines as they are typed, set in."""
        self._begin()
        self._lines += [".RS 4", ".EX", *map(escaped, text.split("\n")), ".EE", ".RE"]

    def examples(self, examples: Iterable[tuple[str, str]]) -> None:
        """Command lines, each with what it does above it."""
        for line, says in examples:
            self.text(f"{says[:1].upper()}{says[1:]}:")
            self.code(line)

    def see_also(self, pages: Iterable[str]) -> None:
        """References to other pages, each written ``name(section)``; the last section of a page."""
        self.heading("SEE ALSO")
        references = [f"{bold(name)}({section}" for name, _, section in (page.partition("(") for page in pages)]
        self._lines += [f"{reference}," for reference in references[:-1]] + references[-1:]

    def source(self) -> str:
        """The page."""
        return "\n".join(self._lines) + "\n"

    def _begin(self) -> None:
        """Begin a paragraph; the first of a section has begun with it."""
        if not self._lines[-1].startswith((".SH", ".SS")):
            self._lines.append(".PP")

    def _fill(self, paragraph: str) -> None:
        # Escaped after it is wrapped: an escape that were broken in two would be none.
        self._lines += map(escaped, wrap(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False))


def write_pages(folder: Path, pages: Mapping[str, str]) -> list[Path]:
    """Write ``pages`` (``bus-call.1`` to its source) where man(1) looks for them: ``folder``/man1 and so on.

    Returns the files. Raises OSError.
    """
    written = []
    for name, source in pages.items():
        path = folder / f"man{name[-1]}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="ascii")
        written.append(path)
    return written


def show(name: str, source: str) -> int:
    """Show the page ``source``, called ``name``, with man(1) on a terminal, and print it elsewhere or without man(1).

    Returns the exit status.
    """
    import shutil
    import subprocess
    import sys
    import tempfile

    if not sys.stdout.isatty() or shutil.which("man") is None:
        sys.stdout.write(source)
        return 0
    with tempfile.TemporaryDirectory(prefix="busd-man-") as folder:
        path = Path(folder, name)  # a file with a slash in its name: every program called man can read that
        path.write_text(source, encoding="ascii")
        return subprocess.run(["man", str(path)], check=False).returncode


def _date() -> str:
    """Today, or what SOURCE_DATE_EPOCH says (https://reproducible-builds.org/specs/source-date-epoch/)."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%d", time.gmtime(int(given) if given.isdecimal() else None))
