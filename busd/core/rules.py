"""Policy as text: the files, their grammar, and what one line says. The guide for reviewers is POLICY.md.

The parser accepts one way to write each thing. Whatever is unclear, written twice or could never apply is an error with
file, line and reason, and all errors of a file are found at once: a reviewer should never have to guess what a line
does, and a typing error must not become a rule.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from busd.core.principal import BOUNDARIES, NODE_TENANT, Principal
from busproto.errors import BusError
from busproto.limits import SUBJECT_TOKENS
from busproto.subjects import check_name, check_pattern, is_reserved

__all__ = ["VERBS", "Export", "Parsed", "PolicyError", "PolicyFile", "Rule", "Selector", "parse_file", "selector_of"]

VERBS: Final = ("publish", "subscribe", "call", "serve", "delegate")
"""What a principal can be allowed. ``delegate``: others may call on its behalf while they hold a call of its own."""

FILE_NAME: Final = re.compile(r"[0-9]{2}-[a-z0-9_-]+\.policy", re.ASCII)
"""Two digits, which give the file its place, and a name."""

FILE_BYTES: Final = 256 * 1024
"""One policy file. sudoers and Qubes policies of large sites stay below a tenth of it."""

RULES: Final = 4096
"""Rules and exports of all files together: bounds what one decision can cost."""

VALUES: Final = 64
"""Entries in one list: verbs, patterns, boundaries or the values of a key."""

UID_MAX: Final = 2**32 - 2
"""The largest user or group id; 2**32 - 1 is "no id" to the kernel (setreuid(2))."""

STREAM_TOKENS: Final = SUBJECT_TOKENS - 2
"""Tokens in the subject of an exported stream: the node sees it with ``tenant.ID.`` before it."""

ERRORS: Final = 1000
"""Errors that are kept of one file. More are no policy but some other file."""

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that are not seen, or turn the direction of text: a line could read otherwise than it is
(CVE-2021-42574)."""


class PolicyFile(NamedTuple):
    """One file of a policy as it was found."""

    name: str
    text: str | None
    """Its content, or None where it could not be had."""
    problem: str = ""
    """Why not."""


@dataclass(frozen=True, slots=True, order=True)
class PolicyError:
    """What is wrong with a policy, and where."""

    file: str
    line: int
    """0 for the file as a whole."""
    reason: str

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.file else self.reason


@dataclass(frozen=True, slots=True)
class Selector:
    """Whom a rule is about: boundaries, and for each key that it names the values of which one must fit."""

    boundaries: tuple[str, ...]
    tenants: frozenset[str] | None = None
    units: frozenset[str] | None = None
    uids: frozenset[int] | None = None
    gids: frozenset[int] | None = None
    denies: bool = False
    """Whether it takes rights away: then it is about the node's own guests as well, without naming their tenant."""

    def mismatch(self, principal: Principal) -> str:
        """The first thing about ``principal`` that does not fit, as a clause; empty if it fits."""
        if principal.boundary not in self.boundaries:
            return f"it is about {' and '.join(self.boundaries)}, not {principal.boundary}"
        if self.tenants is None and not self.denies and principal.is_own_guest:
            return f"a guest of the node's own has only the rights that name it, with tenant={NODE_TENANT}"
        if self.tenants is not None and principal.tenant not in self.tenants:
            return f"tenant {principal.tenant} is not in tenant={_listed(self.tenants)}"
        if self.units is not None and principal.unit not in self.units:
            return f"unit {principal.unit or '(not given)'} is not in unit={_listed(self.units)}"
        if self.uids is not None and principal.uid not in self.uids:
            return f"{_id('uid', principal.uid)} is not in uid={_listed(self.uids)}"
        if self.gids is not None and principal.gid not in self.gids and self.gids.isdisjoint(principal.groups):
            return f"none of its groups is in gid={_listed(self.gids)}"
        return ""

    @property
    def reaches_own_guests(self) -> bool:
        """Whether it can be about a guest that the node itself owns."""
        return self.denies if self.tenants is None else NODE_TENANT in self.tenants

    def fits(self, principal: Principal) -> bool:
        """Whether a rule of this selector is about ``principal``."""
        return not self.mismatch(principal)

    def includes(self, other: "Selector") -> bool:
        """Whether everybody whom ``other`` is about is one of these."""
        if self.tenants is None and not self.denies and "guest" in other.boundaries and other.reaches_own_guests:
            return False
        return set(other.boundaries) <= set(self.boundaries) and all(
            mine is None or (theirs is not None and theirs <= mine)
            for mine, theirs in (
                (self.tenants, other.tenants),
                (self.units, other.units),
                (self.uids, other.uids),
                (self.gids, other.gids),
            )
        )


def _listed(values: Iterable[object]) -> str:
    return ",".join(sorted(map(str, values)))


def _id(kind: str, value: int | None) -> str:
    return f"its {kind} (it has none)" if value is None else f"{kind} {value}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``allow`` or ``deny``."""

    file: str
    line: int
    text: str
    """The rule as written, without comment."""
    allow: bool
    verbs: tuple[str, ...]
    patterns: tuple[str, ...]
    who: Selector
    who_text: str
    """What stands after ``from``."""
    split: tuple[tuple[str, ...], ...] = field(repr=False)
    """The patterns, token by token."""

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Export:
    """One line that lets something cross from one tenant's space into another: the only way there is."""

    file: str
    line: int
    text: str
    kind: str
    """``service``: the node's service, which tenants may call. ``stream``: a tenant's messages, which the node sees."""
    patterns: tuple[str, ...]
    tenants: frozenset[str] | None
    """The tenants at the other end; None for all of them (never the node itself)."""

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"

    def concerns(self, tenant: str) -> bool:
        """Whether ``tenant`` is at the other end."""
        return tenant != NODE_TENANT and (self.tenants is None or tenant in self.tenants)


class Parsed(NamedTuple):
    """What one file says."""

    rules: tuple[Rule, ...]
    exports: tuple[Export, ...]
    errors: tuple[PolicyError, ...]


class _WrongError(ValueError):
    """Why a line is not a rule."""


def parse_file(file: PolicyFile, *, self_uid: int, room: int = RULES) -> Parsed:
    """Read one file to its end.

    Args:
        file: what was found.
        self_uid: the user that ``uid=self`` means.
        room: how many rules and exports it may hold: what is left of `RULES`.

    Returns:
        Rules and exports, to be used only if there are no errors.
    """
    if (reason := _unusable(file)) or file.text is None:
        return Parsed((), (), (PolicyError(shown(file.name), 0, reason),))
    rules: list[Rule] = []
    exports: list[Export] = []
    errors: list[PolicyError] = []
    for number, line in enumerate(file.text[:-1].split("\n"), 1):
        try:
            words = _words(line)
            if not words:
                continue
            if len(rules) + len(exports) == room:
                raise _WrongError(f"there may be {RULES} rules and exports in all files together, and this is one more")
            text = " ".join(words)
            if words[0] == "export":
                exports.append(_export(file.name, number, text, words))
            else:
                rules.append(_rule(file.name, number, text, words, self_uid))
        except _WrongError as wrong:
            errors.append(PolicyError(file.name, number, str(wrong)))
            if len(errors) == ERRORS:
                errors.append(PolicyError(file.name, number, f"these were {ERRORS} errors; the rest was not read"))
            if len(rules) + len(exports) == room or len(errors) > ERRORS:
                break  # the lines from here on would say the same
    return Parsed(tuple(rules), tuple(exports), tuple(errors))


def bad_name(name: str) -> str:
    """Why a policy file may not be called ``name``; empty if it may."""
    if FILE_NAME.fullmatch(name):
        return ""
    return (
        "the name gives it no place among the rules: it must be two digits, -, lower-case letters, digits, - or _, "
        "and .policy (30-guests.policy); names that begin with a dot are ignored"
    )


def shown(text: str) -> str:
    """``text`` as an error may repeat it: short, and without control characters or look-alikes."""
    return ascii(text[:80])[1:-1] + ("..." if len(text) > 80 else "")


def _unusable(file: PolicyFile) -> str:
    """Why a file cannot be read as rules at all."""
    if file.text is None:
        return file.problem or "it cannot be read"
    if reason := bad_name(file.name):
        return reason
    size = len(file.text.encode("utf-8", "surrogatepass"))
    if size > FILE_BYTES:
        return f"it has {size} bytes; at most {FILE_BYTES} are allowed"
    if not file.text:
        return "it has 0 bytes, as if it had been cut short; a file without rules holds at least a comment"
    if not file.text.endswith("\n"):
        return "the last line does not end with a newline, as if the file had been cut short"
    return ""


def _words(line: str) -> list[str]:
    """The words of a line without its comment. Raises _WrongError for characters that are not seen, or look alike."""
    if not line.replace("\t", " ").isprintable():
        for at, char in enumerate(line, 1):
            if char == "\r":
                raise _WrongError("it holds a carriage return; save the file with plain newlines")
            if unicodedata.category(char) in _UNSEEN and char != "\t":
                raise _WrongError(f"{_named(char)} at character {at} cannot be seen")
    rule = re.split(r"(?:^|(?<=[ \t]))#", line, maxsplit=1)[0]
    if not rule.isascii():
        at, char = next((at, char) for at, char in enumerate(rule, 1) if not char.isascii())
        raise _WrongError(f"{_named(char)} at character {at}: outside comments only ASCII is allowed")
    return rule.split()


def _named(char: str) -> str:
    return f"U+{ord(char):04X} ({unicodedata.name(char, 'a control character')})"


def _rule(file: str, number: int, text: str, words: Sequence[str], self_uid: int) -> Rule:
    if words[0] not in ("allow", "deny"):
        raise _WrongError(f"a line begins with allow, deny or export, not '{shown(words[0])}'")
    if len(words) < 4 or words[3] != "from":
        raise _WrongError(f"it must read: {words[0]} VERBS PATTERNS from BOUNDARIES [KEY=VALUES]...")
    if len(words) < 5:
        raise _WrongError("after from it must name at least one of guest, host, soc")
    verbs = _list("verb", words[1], lambda word: _one_of(word, VERBS))
    patterns = _list("pattern", words[2], _pattern)
    for verb in ("publish", "serve"):
        if verb in verbs and (reserved := next(filter(is_reserved, patterns), None)):
            raise _WrongError(f"only the broker can {verb} under $bus.: leave {verb} or {reserved} out of this rule")
    who = replace(selector_of(words[4:], self_uid), denies=words[0] == "deny")
    split = tuple(tuple(pattern.split(".")) for pattern in patterns)
    return Rule(file, number, text, words[0] == "allow", verbs, patterns, who, " ".join(words[4:]), split)


def selector_of(words: Sequence[str], self_uid: int) -> Selector:
    """``BOUNDARIES [KEY=VALUES]...`` (at least one word) as a selector.

    Raises:
        ValueError: with the reason, if it does not follow the grammar.
    """
    if "=" in words[0]:
        raise _WrongError("after from it must first name at least one of guest, host, soc")
    boundaries = _list("boundary", words[0], lambda word: _one_of(word, BOUNDARIES))
    keys: dict[str, tuple[str, ...]] = {}
    for word in words[1:]:
        key, equals, values = word.partition("=")
        if not equals:
            raise _WrongError(f"'{shown(word)}' is not KEY=VALUES; lists hold no blanks")
        if key not in ("tenant", "unit", "uid", "gid"):
            raise _WrongError(f"the key '{shown(key)}' is unknown; keys are tenant, unit, uid and gid")
        if key in keys:
            raise _WrongError(f"the key {key} is given twice; write its values as one list")
        if key in ("uid", "gid") and boundaries != ("host",):
            others = " and ".join(name for name in boundaries if name != "host")
            raise _WrongError(
                f"{key}= can never apply to {others}: only processes on the host have one; "
                "write a rule of its own for host"
            )
        keys[key] = _list(key, values, _VALUES[key])
    return Selector(
        boundaries,
        tenants=frozenset(keys["tenant"]) if "tenant" in keys else None,
        units=frozenset(keys["unit"]) if "unit" in keys else None,
        uids=_ids(keys.get("uid"), self_uid),
        gids=_ids(keys.get("gid"), self_uid),
    )


def _ids(values: tuple[str, ...] | None, self_uid: int) -> frozenset[int] | None:
    return None if values is None else frozenset(self_uid if value == "self" else int(value) for value in values)


def _export(file: str, number: int, text: str, words: Sequence[str]) -> Export:
    shape = {
        "service": "export service PATTERNS from node to TENANTS",
        "stream": "export stream PATTERNS from TENANTS to node",
    }
    kind = words[1] if len(words) > 1 else ""
    if kind not in shape:
        raise _WrongError(f"export is followed by service or stream, not '{shown(kind)}'")
    if len(words) != 7 or words[3] != "from" or words[5] != "to":
        raise _WrongError(f"it must read: {shape[kind]}")
    near, far = (words[4], words[6]) if kind == "service" else (words[6], words[4])
    if near != NODE_TENANT:
        raise _WrongError(f"one end of an export is the node: {shape[kind]}")
    tenants = None if far == "*" else frozenset(_list("tenant", far, _foreign_tenant))
    patterns = _list("pattern", words[2], _offered if kind == "service" else _streamed)
    return Export(file, number, text, kind, patterns, tenants)


def _list(what: str, text: str, check: Callable[[str], None]) -> tuple[str, ...]:
    """The entries of a list, each checked, none twice."""
    values = tuple(text.split(","))
    if len(values) > VALUES:
        raise _WrongError(f"{len(values)} entries in a {what} list; at most {VALUES} are allowed")
    for index, value in enumerate(values):
        if not value:
            raise _WrongError(f"entry {index + 1} of the {what} list is empty; lists hold no blanks: a,b")
        check(value)
        if value in values[:index]:
            raise _WrongError(f"the {what} {value} is given twice")
    return values


def _one_of(word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise _WrongError(f"'{shown(word)}' is unknown here; it can be {', '.join(known)}")


def _pattern(text: str) -> None:
    try:
        check_pattern(text)
    except BusError as error:
        raise _WrongError(error.text) from None


def _exported(text: str) -> None:
    _pattern(text)
    if is_reserved(text):
        raise _WrongError(f"{text} cannot be exported: what the broker serves is there in every space")


def _offered(text: str) -> None:
    _exported(text)
    if text[0] in "*>":
        raise _WrongError(f"{text} would offer tenants what was never meant for them; begin with a name: cache.>")


def _streamed(text: str) -> None:
    _exported(text)
    tokens = text.count(".") + 1
    if tokens > STREAM_TOKENS:
        raise _WrongError(
            f"{text} has {tokens} tokens; the node sees it with tenant.ID. before it, so at most {STREAM_TOKENS} fit"
        )


def _name(text: str) -> None:
    if reason := check_name(text):
        raise _WrongError(f"'{shown(text)}' is not a name: it {reason}")


def _foreign_tenant(text: str) -> None:
    if text == "*":
        raise _WrongError("* already means every tenant: write it alone")
    _name(text)
    if text == NODE_TENANT:
        raise _WrongError("an export leads from the node to other tenants or back; its own space needs none")


def _number(text: str) -> None:
    if not re.fullmatch(r"0|[1-9][0-9]{0,9}", text, re.ASCII) or int(text) > UID_MAX:
        raise _WrongError(f"'{shown(text)}' is not a number from 0 to {UID_MAX}")


def _uid(text: str) -> None:
    if text != "self":
        _number(text)


_VALUES: Final[dict[str, Callable[[str], None]]] = {"tenant": _name, "unit": _name, "uid": _uid, "gid": _number}
