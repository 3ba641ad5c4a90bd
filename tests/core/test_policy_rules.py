"""The text of a policy: what each line may say, and why each other line may not."""

import pytest

from busd.core.principal import Principal
from busd.core.rules import ERRORS, FILE_BYTES, RULES, VALUES, PolicyFile, Rule, Selector, parse_file, selector_of
from busproto.limits import SUBJECT_TOKENS

SELF = 990
NAME = "10-a.policy"


def parsed(text: str, name: str = NAME) -> tuple[Rule, ...]:
    found = parse_file(PolicyFile(name, text), self_uid=SELF)
    assert found.errors == ()
    return found.rules


def reasons(text: str, name: str = NAME) -> list[str]:
    return [str(error) for error in parse_file(PolicyFile(name, text), self_uid=SELF).errors]


def test_a_rule_says_what_stands_there() -> None:
    (rule,) = parsed("# first\n\n\tallow  publish,call   a.*,b.> from guest,soc tenant=acme,globex unit=vm-1  # why\n")
    assert rule.where == "10-a.policy:3"
    assert rule.text == "allow publish,call a.*,b.> from guest,soc tenant=acme,globex unit=vm-1"
    assert rule.allow
    assert rule.verbs == ("publish", "call")
    assert rule.patterns == ("a.*", "b.>")
    assert rule.split == (("a", "*"), ("b", ">"))
    assert rule.who == Selector(("guest", "soc"), tenants=frozenset({"acme", "globex"}), units=frozenset({"vm-1"}))
    assert rule.who_text == "guest,soc tenant=acme,globex unit=vm-1"


@pytest.mark.parametrize(
    "line",
    [
        "allow publish,subscribe,call,serve,delegate > from guest,host,soc",
        "deny subscribe,call $bus.> from guest",
        "allow delegate $bus.list from host",
        "deny serve *.x.> from host uid=0,self,4294967294 gid=0,10",
        "allow call a from host gid=4711 uid=1 unit=host tenant=node",
        "allow call a from guest # ä comment may hold any text → even this",
        "# only a comment",
        "   # and an indented one",
        "",
        "\t",
        "export service cache.>,deletion.* from node to acme,globex",
        "export service cache.get from node to *",
        "export stream > from * to node",
        "export stream *.x,metrics.> from acme to node  # seen as tenant.acme.metrics.>",
    ],
)
def test_right_lines(line: str) -> None:
    assert reasons(f"{line}\n") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("permit call a from guest", "a line begins with allow, deny or export, not 'permit'"),
        ("Allow call a from guest", "not 'Allow'"),
        ("allow", "it must read: allow VERBS PATTERNS from BOUNDARIES"),
        ("deny call a", "it must read: deny VERBS PATTERNS from BOUNDARIES"),
        ("allow call from guest", "it must read"),
        ("allow call a b from guest", "it must read"),
        ("allow call a, b from guest", "it must read"),
        ("allow call a from", "after from it must name at least one of guest, host, soc"),
        ("allow call a from tenant=acme", "it must first name at least one of guest, host, soc"),
        ("allow call a from *", "'*' is unknown here; it can be guest, host, soc"),
        ("allow call a from everyone", "'everyone' is unknown here"),
        ("allow call a from any", "'any' is unknown here"),
        ("allow call a from guest,guest", "the boundary guest is given twice"),
        ("allow call a from guest,", "entry 2 of the boundary list is empty; lists hold no blanks: a,b"),
        ("allow call a from guest host", "'host' is not KEY=VALUES; lists hold no blanks"),
        ("allow * a from guest", "'*' is unknown here; it can be publish, subscribe, call, serve, delegate"),
        ("allow all a from guest", "'all' is unknown here"),
        ("allow Call a from guest", "'Call' is unknown here"),
        ("allow call,call a from guest", "the verb call is given twice"),
        ("allow ,call a from guest", "entry 1 of the verb list is empty"),
        ("allow call a,a from guest", "the pattern a is given twice"),
        ("allow call a..b from guest", "'a..b' is not a pattern: token 2 is empty"),
        ("allow call A from guest", "'A' is not a pattern: token 1 holds a character other than"),
        ("allow call a.>.b from guest", "> may only be the last token"),
        ("allow call a*b from guest", "is not a pattern"),
        ("allow call a#b from guest", "is not a pattern"),
        ("allow call a from guest#", "'guest#' is unknown here"),
        ("allow call a.$bus from guest", "is not a pattern"),
        ("allow publish $bus.x from host", "only the broker can publish under $bus.: leave publish or $bus.x out"),
        ("allow call,serve a,$bus.> from host", "only the broker can serve under $bus.: leave serve or $bus.> out"),
        ("allow call a from guest tenant=", "entry 1 of the tenant list is empty"),
        ("allow call a from guest tenant=acme,", "entry 2 of the tenant list is empty"),
        ("allow call a from guest tenant=acme, unit=x", "entry 2 of the tenant list is empty"),
        ("allow call a from guest tenant = acme", "'tenant' is not KEY=VALUES"),
        ("allow call a from guest tenant=*", "'*' is not a name"),
        ("allow call a from guest tenant=Acme", "'Acme' is not a name: it may hold only a-z, 0-9, - and _"),
        (f"allow call a from guest tenant={'x' * 65}", "it must have 1 to 64 characters"),
        ("allow call a from guest tenant=acme tenant=globex", "the key tenant is given twice; write its values as one"),
        ("allow call a from guest tenant=acme,acme", "the tenant acme is given twice"),
        ("allow call a from guest color=red", "the key 'color' is unknown; keys are tenant, unit, uid and gid"),
        ("allow call a from guest uid=0", "uid= can never apply to guest: only processes on the host have one"),
        ("allow call a from soc gid=0", "gid= can never apply to soc"),
        ("allow call a from guest,host uid=0", "uid= can never apply to guest"),
        ("allow call a from host uid=root", "'root' is not a number from 0 to 4294967294"),
        ("allow call a from host uid=-1", "'-1' is not a number"),
        ("allow call a from host uid=007", "'007' is not a number"),
        ("allow call a from host uid=4294967295", "'4294967295' is not a number from 0 to 4294967294"),
        ("allow call a from host gid=self", "'self' is not a number"),
        ("allow call a from host uid=1=2", "'1=2' is not a number"),
        ("allow call a from guest \\", "'\\\\' is not KEY=VALUES"),
        ("export", "export is followed by service or stream, not ''"),
        ("export services a from node to acme", "not 'services'"),
        ("export service a from node", "it must read: export service PATTERNS from node to TENANTS"),
        ("export service a to acme from node", "it must read: export service"),
        ("export service a from acme to node", "one end of an export is the node: export service PATTERNS from node"),
        ("export stream a from node to acme", "one end of an export is the node: export stream PATTERNS from TENANTS"),
        ("export service a from node to acme b=c", "it must read"),
        ("export service a from node to node", "its own space needs none"),
        ("export service a from node to acme,*", "* already means every tenant: write it alone"),
        ("export service a from node to acme,acme", "the tenant acme is given twice"),
        ("export service > from node to acme", "> would offer tenants what was never meant for them"),
        ("export service *.get from node to acme", "would offer tenants what was never meant"),
        ("export service $bus.list from node to acme", "$bus.list cannot be exported"),
        ("export stream $bus.> from acme to node", "$bus.> cannot be exported"),
        (
            f"export stream {'.'.join('a' * (SUBJECT_TOKENS - 1))} from acme to node",
            f"has {SUBJECT_TOKENS - 1} tokens; the node sees it with tenant.ID. before it, so at most 14 fit",
        ),
        ("allow call c\u0430che.get from guest", "U+0430 (CYRILLIC SMALL LETTER A) at character 13: outside comments"),
        ("allow\u00a0call a from guest", "U+00A0 (NO-BREAK SPACE) at character 6: outside comments"),
        ("allow call a from guest\r", "it holds a carriage return"),
        ("allow call a from guest\0", "U+0000 (a control character) at character 24 cannot be seen"),
        ("allow call a from guest\x0b", "U+000B (a control character) at character 24 cannot be seen"),
        ("\ufeffallow call a from guest", "U+FEFF (ZERO WIDTH NO-BREAK SPACE) at character 1 cannot be seen"),
        ("# harmless \u202e tseug morf a llac wolla", "U+202E (RIGHT-TO-LEFT OVERRIDE) at character 12 cannot be seen"),
        ("# a\u2028allow call a from guest", "U+2028 (LINE SEPARATOR) at character 4 cannot be seen"),
    ],
)
def test_wrong_lines(line: str, reason: str) -> None:
    (told,) = reasons(f"# fine\n{line}\n# fine\n")
    assert told.startswith(f"{NAME}:2: ")
    assert reason in told


def test_all_errors_are_found_at_once() -> None:
    told = reasons("allow call A from guest\nallow call a from guest\nx\nexport\n")
    assert [text.partition(" ")[0] for text in told] == [f"{NAME}:1:", f"{NAME}:3:", f"{NAME}:4:"]


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("10-node.policy", True),
        ("00-a_b-9.policy", True),
        ("10-foo.polcy", False),
        ("1-foo.policy", False),
        ("100-foo.policy", False),
        ("10-.policy", False),
        ("10-Foo.policy", False),
        ("10-foo.policy~", False),
        ("10-foo.policy.rpmsave", False),
        ("10-foo.policy\n", False),
        ("\u0661\u0660-foo.policy", False),
        ("README", False),
        ("", False),
    ],
)
def test_names_of_files(name: str, fits: bool) -> None:
    told = reasons("# nothing\n", name)
    assert (told == []) == fits
    if not fits:
        assert "the name gives it no place among the rules" in told[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has 0 bytes, as if it had been cut short"),
        ("allow call a from guest tenant=ac", "the last line does not end with a newline"),
        ("#" * FILE_BYTES + "\n", f"it has {FILE_BYTES + 1} bytes; at most {FILE_BYTES} are allowed"),
    ],
)
def test_a_file_that_may_have_been_cut_short_or_is_too_large(text: str, reason: str) -> None:
    (told,) = reasons(text)
    assert told.startswith(f"{NAME}: ")
    assert reason in told


def test_the_largest_file_is_read() -> None:
    assert reasons("#" * (FILE_BYTES - 1) + "\n") == []


def test_a_file_that_could_not_be_read_says_why() -> None:
    found = parse_file(PolicyFile(NAME, None, "it cannot be read: Permission denied"), self_uid=SELF)
    assert [str(error) for error in found.errors] == [f"{NAME}: it cannot be read: Permission denied"]
    assert parse_file(PolicyFile(NAME, None), self_uid=SELF).errors[0].reason == "it cannot be read"


@pytest.mark.parametrize(
    "line",
    [
        "allow call {} from guest",
        "allow call a from guest tenant={}",
        "allow call a from guest unit={}",
        "export service {} from node to acme",
        "export service a from node to {}",
    ],
)
def test_lists_have_a_bound(line: str) -> None:
    full = ",".join(f"x{number}" for number in range(VALUES))
    assert reasons(line.format(full) + "\n") == []
    (told,) = reasons(line.format(full + ",y") + "\n")
    assert f"{VALUES + 1} entries in a " in told
    assert f"at most {VALUES} are allowed" in told


def test_rules_have_a_bound_that_is_said_once() -> None:
    text = "allow call a from guest\n" * RULES
    assert len(parsed(text)) == RULES
    (told,) = reasons(text + "allow call a from guest\nallow call b from guest\n")
    assert (
        told
        == f"{NAME}:{RULES + 1}: there may be {RULES} rules and exports in all files together, and this is one more"
    )


def test_errors_have_a_bound() -> None:
    told = reasons("x\n" * 50_000)
    assert len(told) == ERRORS + 1
    assert told[-1].endswith(f"these were {ERRORS} errors; the rest was not read")


def who(**fields: object) -> Principal:
    return Principal(**{"boundary": "guest", "tenant": "acme", "unit": "vm-1", "generation": 1, **fields})  # type: ignore[arg-type]


HOST = {"boundary": "host", "tenant": "node", "unit": "host", "uid": 1000, "gid": 100, "groups": (4, 27)}


@pytest.mark.parametrize(
    ("text", "principal", "mismatch"),
    [
        ("guest", who(), ""),
        ("guest,soc", who(boundary="soc"), ""),
        ("guest", who(boundary="host"), "it is about guest, not host"),
        ("guest,soc", who(boundary="host"), "it is about guest and soc, not host"),
        ("guest tenant=acme", who(), ""),
        ("guest tenant=globex,initech", who(), "tenant acme is not in tenant=globex,initech"),
        ("guest tenant=globex,acme unit=vm-1", who(), ""),
        ("guest tenant=acme unit=vm-2", who(), "unit vm-1 is not in unit=vm-2"),
        ("guest unit=vm-2", who(unit=""), "unit (not given) is not in unit=vm-2"),
        ("host uid=1000", who(**HOST), ""),
        ("host uid=0,1", who(**HOST), "uid 1000 is not in uid=0,1"),
        ("host uid=self", who(**{**HOST, "uid": SELF}), ""),
        ("host uid=0", who(**{**HOST, "uid": None}), "its uid (it has none) is not in uid=0"),
        ("host gid=100", who(**HOST), ""),
        ("host gid=27,5", who(**HOST), ""),
        ("host gid=5", who(**HOST), "none of its groups is in gid=5"),
        ("host uid=1000 gid=5", who(**HOST), "none of its groups is in gid=5"),
        ("host gid=0", who(**{**HOST, "gid": None, "groups": ()}), "none of its groups is in gid=0"),
    ],
)
def test_whom_a_rule_is_about(text: str, principal: Principal, mismatch: str) -> None:
    selector = selector_of(text.split(), SELF)
    assert selector.mismatch(principal) == mismatch
    assert selector.fits(principal) == (not mismatch)


@pytest.mark.parametrize(
    ("wide", "narrow", "includes"),
    [
        ("guest", "guest", True),
        ("guest,host", "host uid=0", True),
        ("guest", "guest,host", False),
        ("guest tenant=acme,globex", "guest tenant=acme", True),
        ("guest tenant=acme", "guest tenant=acme,globex", False),
        ("guest tenant=acme", "guest", False),
        ("guest tenant=acme", "guest tenant=acme unit=vm", True),
        ("host uid=0,self", "host uid=self", True),
        ("host uid=0", "host uid=0 gid=1", True),
        ("host gid=1,2", "host gid=2", True),
        ("host gid=1", "host uid=1", False),
    ],
)
def test_whom_includes_whom(wide: str, narrow: str, includes: bool) -> None:
    assert selector_of(wide.split(), SELF).includes(selector_of(narrow.split(), SELF)) == includes
