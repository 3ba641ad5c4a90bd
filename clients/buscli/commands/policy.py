"""``bus policy``: checking, asking and drawing a policy, on a folder or on a running node."""

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buscli.exits import Exit
from buscli.output import Output, Style, printable
from buscli.parser import UsageError
from buscli.table import Argument, Command, Example
from buscli.units import own_user_id

if TYPE_CHECKING:
    from buscli.offline import Policy
    from busclient import Bus

_VERBS = ("publish", "subscribe", "call", "serve", "delegate")

_FOLDER = Argument(
    "dir",
    "policy folder (default: /etc/busd/policy.d for root, else ~/.config/busd/policy.d; the built-in set if that does "
    "not exist)",
    arity="optional",
    completes="file",
)
_LIVE = Argument("--live", "what is in effect on the running node, instead of a folder", arity="flag")

COMMAND = Command(
    name="policy",
    help="check, test, ask, draw and reload the policy",
    description="""\
The policy says who may publish, subscribe, call and serve what. It is a folder of text files, one rule a line; the
first rule that matches decides, and what no rule allows is denied. busd/core/POLICY.md is the guide.""",
    examples=(
        Example("bus policy lint /etc/busd/policy.d", "before it is reloaded"),
        Example("bus policy explain call cache.get --from 'guest tenant=acme'", "may it? which line says so?"),
    ),
    connects=False,
    records=False,
    impact="rw",
    actions=(
        Command(
            name="policy lint",
            help="find what is wrong with a policy, and lines that do nothing",
            description="""\
Every error with file and line; then warnings: rules that can never decide anything because an earlier one covers
them, and exports through which nothing can go. Ends with 1 if there is an error.""",
            arguments=(_FOLDER, _LIVE),
            examples=(
                Example("bus policy lint", "the folder that busd would read for this user"),
                Example("bus policy lint ./policy.d", "a folder that is not in place yet"),
            ),
        ),
        Command(
            name="policy test",
            help="check what a policy must decide against a file of expectations",
            description="""\
Expectations stand in policy.tests beside the rules, one a line: allow or deny, verb, subject, from, and whom it is
about in the words of a rule. Ends with 1 if one is not met.""",
            arguments=(
                _FOLDER,
                Argument("--tests", "another file of expectations", metavar="FILE", completes="file"),
                _LIVE,
            ),
            examples=(
                Example("bus policy test ./policy.d", "rules and expectations of one folder"),
                Example("bus policy test --live --tests policy.tests", "the same of the running node"),
            ),
        ),
        Command(
            name="policy explain",
            help="say whether something is allowed, by which line, and what would change that",
            description="""\
Whether an endpoint may do VERB on SUBJECT (for subscribe and serve a pattern too): the line that decides, the lines
that nearly did and why not, and the narrowest line that would turn the decision round. --from describes the endpoint
in the words of a rule; --endpoint names one that is attached. Without --policy the running node is asked. Ends with 0
if it is allowed, with 5 if not.""",
            arguments=(
                Argument("verb", "what it would do", choices=_VERBS, completes="choices"),
                Argument("subject", "on what", completes="subject"),
                Argument("--from", "whom: BOUNDARY [KEY=VALUE]..., as in a rule", metavar="WHO"),
                Argument("--endpoint", "an attached endpoint, as bus list shows it", completes="endpoint"),
                Argument("--policy", "decide by this folder, without a node", metavar="DIR", completes="file"),
            ),
            examples=(
                Example("bus policy explain publish metrics.cpu --endpoint guest-7", "of somebody who is attached"),
                Example(
                    "bus policy explain subscribe 'metrics.>' --from 'host uid=1000' --policy ./policy.d",
                    "of a policy that is not in effect",
                ),
            ),
        ),
        Command(
            name="policy graph",
            help="draw who may talk to whom",
            description="""\
Every way that something can go by the rules: from whom, on which subjects, to whom, and through which export.
Nothing that is allowed is left out; of what is shown, a narrower denial may take a part away. host and soc are drawn
in the node's space, guests in their tenant's, unless a rule says tenant=.""",
            arguments=(
                _FOLDER,
                Argument("--dot", "as text for Graphviz", arity="flag"),
                Argument("--svg", "as a picture that needs nothing else; - for standard output", metavar="FILE"),
                _LIVE,
            ),
            examples=(
                Example("bus policy graph --svg policy.svg", "a picture for the review"),
                Example("bus policy graph --live --dot", "what is in effect, for Graphviz"),
            ),
        ),
        Command(
            name="policy reload",
            help="make the running node read its policy again",
            description="""\
All of it or, if anything is wrong, nothing: then the old policy stays in effect. Sessions stay; subscriptions and
services that no longer have a right are ended, and told so.""",
            examples=(Example("bus policy reload", "after bus policy lint"),),
            impact="rw",
        ),
        Command(
            name="policy show",
            help="print the policy that is in effect on the running node",
            description="The text of every file as the node read it, with its digest and what is wrong with it.",
            examples=(Example("bus policy show --json | jq -r .digest", "to compare nodes"),),
        ),
    ),
)


def run(args: Namespace) -> int:
    _check(args)
    if args.action in ("reload", "show") or getattr(args, "live", False):
        from buscli.connection import run

        return run(_live(args))
    if args.action == "explain" and args.policy is None:
        from buscli.connection import run

        return run(_explain_live(args))
    output = Output.standard(force_json=args.json, no_color=args.no_color)
    if args.action == "explain":
        return _explain_folder(args, output)
    return _OFFLINE[args.action](args, output, _read(args.dir, output))


def _check(args: Namespace) -> None:
    """Raise UsageError for arguments that do not go together."""
    if getattr(args, "live", False) and args.dir is not None:
        raise UsageError(f"bus {args.command_name}: --live and a folder are two policies", "leave one of them out")
    if args.action == "test" and args.live and args.tests is None:
        raise UsageError("bus policy test: a node has no expectations", "bus policy test --live --tests FILE")
    if args.action == "graph" and args.dot and args.svg is not None:
        raise UsageError("bus policy graph: --dot and --svg are two forms", "leave one of them out")
    if args.action == "explain":
        whom = [name for name in ("from", "endpoint") if getattr(args, name) is not None]
        if len(whom) != 1:
            raise UsageError(
                "bus policy explain: of whom? give either --from or --endpoint", "--from 'guest tenant=acme unit=vm-42'"
            )
        if args.policy is not None and args.endpoint is not None:
            raise UsageError("bus policy explain: a folder has no endpoints", "--from 'guest tenant=acme unit=vm-42'")


# -- on a folder ------------------------------------------------------------------------------------------------------


def _read(folder: str | None, output: Output) -> "Policy":
    """The policy of ``folder``, or of the place where busd looks for this user. Says which on a terminal."""
    from buscli.offline import BUILT_IN, default_policy_dir, load_policy, parse

    path = default_policy_dir(os.environ) if folder is None else Path(folder).absolute()
    files, source = load_policy(path, named=folder is not None)
    if output.interactive:
        output.note(f"-> policy {source}" + (f" ({path} does not exist)" if source == BUILT_IN else ""))
    return parse(files, self_uid=own_user_id(), source=source)


def _lint(args: Namespace, output: Output, policy: "Policy") -> int:
    from buscli.offline import lint

    found = lint(policy)
    for finding in found:
        if output.human:
            colour = Style.RED if finding.severity == "error" else Style.YELLOW
            output.line(
                f"{printable(finding.where)}: {output.styled(finding.severity, colour)}: {printable(finding.text)}"
            )
        else:
            output.record(finding.describe())
    if output.human:
        errors = sum(finding.severity == "error" for finding in found)
        output.line(f"{_outline(policy)}: {errors} errors, {len(found) - errors} warnings")
    return Exit.FAILED if policy.errors else Exit.OK


def _outline(policy: "Policy") -> str:
    statistics = policy.statistics()
    return (
        f"{statistics.files} files, {statistics.rules} rules, {statistics.exports} exports, digest {statistics.digest}"
    )


def _test(args: Namespace, output: Output, policy: "Policy") -> int:
    from buscli.offline import check, parse_expectations

    name, text = _tests(args, policy)
    expectations, errors = parse_expectations(name, text, self_uid=policy.self_uid)
    verdicts = check(policy, expectations)
    for error in (*policy.errors, *errors):
        output.note(f"error: {error}")
    for verdict in verdicts:
        if not output.human:
            output.record(verdict.describe())
        elif not verdict.met:
            expectation = verdict.expectation
            place = f"{expectation.file}:{expectation.line}"
            output.line(f"{printable(place)}: {output.styled('not met', Style.RED)}: {expectation.text}")
            rule = "" if verdict.decision.rule is None else f": {verdict.decision.rule.text}"
            output.line(f"  {verdict.decision.reason}{rule}")
    failed = sum(not verdict.met for verdict in verdicts)
    if output.human:
        output.line(f"{len(verdicts)} expectations, {failed} not met")
    if not verdicts and not errors:
        output.note(f"error: {name} holds no expectation")
    return Exit.FAILED if failed or errors or policy.errors or not verdicts else Exit.OK


def _tests(args: Namespace, policy: "Policy") -> tuple[str, str]:
    """Name and text of the expectations."""
    from buscli.offline import BUILT_IN, TESTS_NAME, default_tests, read_tests

    if args.tests is not None:
        return args.tests, read_tests(Path(args.tests))
    if policy.source == BUILT_IN:
        return TESTS_NAME, default_tests()
    return TESTS_NAME, read_tests(Path(policy.source, TESTS_NAME))


def _graph(args: Namespace, output: Output, policy: "Policy") -> int:
    from buscli.offline import flows

    found = [flow.describe() for flow in flows(policy)]
    for error in policy.errors:
        output.note(f"error: {error}")
    if args.dot or args.svg is not None:
        from buscli import policygraph

        title = f"{policy.source}: {_outline(policy)}"
        text = policygraph.dot(found, title) if args.dot else policygraph.svg(found, title)
        if args.dot or args.svg == "-":
            output.raw(text.encode())
        else:
            Path(args.svg).write_text(text, encoding="utf-8")
    elif output.human:
        columns = ("from", "verb", "subject", "space", "to", "by")
        output.table(columns, [_row(flow) for flow in found])
    else:
        for flow in found:
            output.record(flow)
    return Exit.FAILED if policy.errors else Exit.OK


def _row(flow: dict[str, Any]) -> tuple[object, ...]:
    rules = [flow["sender_rule"], flow["export"], flow["receiver_rule"]]
    places = " ".join(dict.fromkeys(filter(None, rules)))
    return (flow["sender"], flow["kind"], flow["subject"], flow["space"], flow["receiver"], places)


_OFFLINE = {"lint": _lint, "test": _test, "graph": _graph}


def _explain_folder(args: Namespace, output: Output) -> int:
    from buscli.offline import check_question, explain, principal_of

    policy = _read(args.policy, output)
    try:
        check_question(args.verb, args.subject)
        principal = principal_of(getattr(args, "from").split(), policy.self_uid)
    except ValueError as error:
        raise UsageError(f"bus policy explain: {error}", "bus policy explain --help") from None
    return _show_explanation(output, explain(policy, principal, args.verb, args.subject).describe())


def _show_explanation(output: Output, found: dict[str, Any]) -> int:
    code = Exit.OK if found["allowed"] else Exit.DENIED
    if not output.human:
        output.record(found)
        return code
    verdict = output.styled("allowed", Style.GREEN) if found["allowed"] else output.styled("denied", Style.RED)
    principal = found["principal"]
    whom = f"{principal['boundary']}, tenant {principal['tenant']}, unit {principal['unit'] or '-'}"
    if principal["uid"] is not None:
        whom += f", uid {principal['uid']}"
    output.line(f"{verdict}: {printable(found['verb'])} {printable(found['subject'])}, {printable(whom)}")
    output.line(f"  {printable(found['reason'])}" + (f": {printable(found['rule'])}" if found["rule"] else ""))
    for note in found["exports"]:
        output.line(f"  {printable(note)}")
    output.line(f"  {printable(found['advice'])}")
    if found["considered"]:
        output.line("what did not decide, and why not:")
    for each in found["considered"]:
        output.line(f"  {output.styled(each['where'], Style.BOLD)}: {printable(each['rule'])}")
        output.line(f"      {printable(each['why'])}")
    return code


# -- on a node --------------------------------------------------------------------------------------------------------


async def _explain_live(args: Namespace) -> int:
    from buscli.jsonform import to_json

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    request = {"verb": args.verb, "subject": args.subject}
    request |= {"from": getattr(args, "from")} if args.endpoint is None else {"endpoint": args.endpoint}
    async with _attached(args, output) as bus:
        found = to_json(await _ask(bus, "explain", request))
    return _show_explanation(output, found)


async def _live(args: Namespace) -> int:
    from buscli.jsonform import to_json

    output = Output.standard(force_json=args.json, no_color=args.no_color)
    async with _attached(args, output) as bus:
        found = to_json(await _ask(bus, "reload" if args.action == "reload" else "show"))
    if args.action in _OFFLINE:
        return _OFFLINE[args.action](args, output, _of_node(found))
    if not output.human:
        output.record(found)
    elif args.action == "reload":
        output.line(
            f"policy {printable(found['source'])} is in effect: {found['rules']} rules, {found['exports']} exports, "
            f"digest {printable(found['digest'])}; {found['withdrawn']} subscriptions and services were withdrawn"
        )
    else:
        _show_files(output, found)
    return Exit.OK


def _show_files(output: Output, found: dict[str, Any]) -> None:
    output.line(f"# {printable(found['source'])}, digest {printable(found['digest'])}")
    for error in found["errors"]:
        output.line(output.styled(f"# error: {error}", Style.RED))
    for file in found["files"]:
        output.line()
        output.line(output.styled(f"# == {file['name']}", Style.BOLD))
        for line in (file["text"] or f"# {file['problem']}").removesuffix("\n").split("\n"):
            output.line(printable(line))


def _of_node(found: dict[str, Any]) -> "Policy":
    """The policy that a node showed, so that it can be looked into here."""
    from buscli.offline import PolicyFile, parse

    files = [PolicyFile(file["name"], file["text"], file["problem"]) for file in found["files"]]
    return parse(files, self_uid=found["uid"], source=found["source"])


def _attached(args: Namespace, output: Output) -> Any:
    from buscli.connection import attached

    return attached(args, output)


async def _ask(bus: "Bus", service: str, request: Any = None) -> Any:
    from buscli.census import ask

    return await ask(bus, f"$bus.admin.policy.{service}", request)
