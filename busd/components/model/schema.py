"""What components take, return and publish as JSON Schema, and the components' part of ``schemas/asyncapi.yaml``.

    python -m busd.components.model.schema                  write schemas/components/NAME.json and asyncapi.yaml
    python -m busd.components.model.schema --check          say what is not up to date, and exit with 1 if something is
    python -m busd.components.model.schema MODULE:CLASS     print the schema of one component, of whoever it is

Writing and checking are for the source tree, and need PyYAML.
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from busd.components.model.component import Component, configuration
from busd.components.model.load import load, source_of
from busd.components.model.operation import Event, Operation, compile_operations
from busd.components.shipped import SHIPPED
from busproto.errors import BusError

__all__ = ["asyncapi", "describe", "files", "main"]

SCHEMAS: Final = Path(__file__).resolve().parents[3] / "schemas"

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

SECTIONS: Final = ("channels", "operations", "messages", "schemas")
"""Of asyncapi.yaml, in this order; each has a block of the components'."""

BEGIN: Final = "# -- of components; written by python -m busd.components.model.schema: change the component, not this"
END: Final = "# -- end of what is of components"
_BLOCK: Final = re.compile(
    rf"^(?P<indent> *){re.escape(BEGIN)}\n(?P<block>.*?)^ *{re.escape(END)}\n", re.MULTILINE | re.DOTALL
)

WIDTH: Final = 120

Schema = dict[str, Any]


def describe(component: type[Component]) -> Schema:
    """All that can be said to and by ``component``, as one JSON document.

    Each request and stream with its subject, ``input`` (one map; nil where nothing is required) and ``output`` (of a
    stream: each part), each event with its subject and ``payload``, the ``configuration``, and the ``state`` that is
    handed over (None: nothing is).

    Raises TypeError when the class shows a mistake.
    """
    manifest = component.manifest
    operations = compile_operations(component)
    schemas = _Schemas(component, "#/$defs/{name}")
    return {
        "$schema": DIALECT,
        "title": manifest.component,
        "description": manifest.purpose,
        "owner": manifest.owner,
        "source": source_of(component),
        "placements": list(manifest.placements),
        "needs": list(manifest.needs),
        "configuration": schemas.configuration,
        "operations": {
            each.name: {
                "kind": each.kind,
                "subject": each.subject,
                "description": each.doc,
                "input": schemas.arguments(each),
                "output": schemas.of(each.output.type),
            }
            for each in operations.values()
        },
        "events": {
            each.name: {"subject": manifest.subject(each), "payload": schemas.of(each.type)}
            for each in manifest.events()
        },
        "state": None if manifest.state is None else schemas.of(manifest.state),
        "$defs": schemas.definitions,
    }


def asyncapi(components: Iterable[type[Component]]) -> dict[str, Schema]:
    """What ``components`` add to each of `SECTIONS` of the AsyncAPI document."""
    sections: dict[str, Schema] = {name: {} for name in SECTIONS}
    for component in components:
        manifest = component.manifest
        prefix = _camel(manifest.component, first=True)
        schemas = _Schemas(component, f"#/components/schemas/{prefix}{{name}}", change=_draft_7, whole=False)
        for operation in compile_operations(component).values():
            _add_call(sections, operation, schemas)
        for event in manifest.events():
            _add_event(sections, manifest.subject(event), event, schemas)
        sections["schemas"].update({f"{prefix}{name}": schema for name, schema in schemas.definitions.items()})
    return sections


def _add_call(sections: Mapping[str, Schema], operation: Operation, schemas: "_Schemas") -> None:
    name = _camel(operation.subject)
    channel = {"$ref": f"#/channels/{name}"}
    kinds = ("request", "reply", "error")
    by: Schema = {"envelope": "call", "by": operation.subject.partition(".")[0]}
    if operation.kind == "stream":
        by["stream"] = True  # the reply is one part; there may be any number of them
    sections["channels"][name] = {
        "address": operation.subject,
        "messages": {
            "request": {"$ref": f"#/components/messages/{name}Request"},
            "reply": {"$ref": f"#/components/messages/{name}Reply"},
            "error": {"$ref": "#/components/messages/error"},
        },
        "x-busd": by,
    }
    request, reply, error = ({"$ref": f"{channel['$ref']}/messages/{kind}"} for kind in kinds)
    sections["operations"][name] = {
        "action": "receive",
        "title": _title(operation.doc, operation.subject),
        "channel": channel,
        "messages": [request],
        "reply": {"channel": dict(channel), "messages": [reply, error]},
    }
    sections["messages"][f"{name}Request"] = {"payload": schemas.arguments(operation)}
    sections["messages"][f"{name}Reply"] = {"payload": schemas.of(operation.output.type)}


def _add_event(sections: Mapping[str, Schema], subject: str, event: Event[Any], schemas: "_Schemas") -> None:
    name = _camel(subject)
    sections["channels"][name] = {
        "address": subject,
        "messages": {"event": {"$ref": f"#/components/messages/{name}"}},
        "x-busd": {"envelope": "publish", "by": subject.partition(".")[0]},
    }
    doc = event.type.__doc__ if issubclass(event.type, msgspec.Struct) else None
    sections["operations"][name] = {
        "action": "send",
        "title": _title(doc, subject),
        "channel": {"$ref": f"#/channels/{name}"},
    }
    sections["messages"][name] = {"payload": schemas.of(event.type)}


class _Schemas:
    """The schemas of all types of one component, with the definitions that they share.

    Args:
        component: its class.
        template: how to refer to a definition, with ``{name}`` in it.
        change: applied to every schema.
        whole: with what no message carries: the configuration and the state.
    """

    def __init__(
        self,
        component: type[Component],
        template: str,
        *,
        change: Callable[[Any], Any] = lambda schema: schema,
        whole: bool = True,
    ) -> None:
        manifest, operations = component.manifest, compile_operations(component).values()
        own = [*([configuration(component)] if whole else []), *(each.input.type for each in operations)]
        types = [*own, *(each.output.type for each in operations), *(each.type for each in manifest.events())]
        if whole and manifest.state is not None:
            types.append(manifest.state)
        schemas, definitions = msgspec.json.schema_components(types, ref_template=template, schema_hook=_foreign)
        self.definitions: Schema = change(definitions)
        """Of what has a name."""
        self._types = types
        self._schemas: list[Schema] = change(list(schemas))
        for number in range(len(own)):  # names that are nobody's: they are written out where they are used
            name = self._schemas[number]["$ref"].removeprefix(template.removesuffix("{name}"))
            schema = self.definitions.pop(name)
            self._schemas[number] = {
                "type": "object",
                "properties": schema["properties"],
                "required": schema["required"],
                "additionalProperties": False,
            }

        self.configuration: Final = self._schemas[0] if whole else {}
        """Of what the constructor takes."""

    def of(self, type: Any) -> Schema:
        """The schema of one of the types."""
        return self._schemas[self._types.index(type)]

    def arguments(self, operation: Operation) -> Schema:
        """The schema of what a call of ``operation`` carries."""
        schema = self.of(operation.input.type)
        return schema if schema["required"] else {**schema, "type": ["object", "null"]}


def _foreign(type: Any) -> Schema:
    """Of what cannot travel: a constructor may take it, from a program."""
    return {"description": f"{type.__module__}.{type.__qualname__}, from the same process"}


def _draft_7(schema: Any) -> Any:
    """``schema`` as AsyncAPI takes it, which is what JSON Schema was before 2020-12."""
    if isinstance(schema, list):
        return [_draft_7(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _draft_7(value) for key, value in schema.items()}
    if isinstance(changed.get("prefixItems"), list):
        rest = changed.pop("items", True)
        changed |= {"items": changed.pop("prefixItems"), "additionalItems": rest}
    return changed


def _camel(subject: str, *, first: bool = False) -> str:
    """``telemetry.cpu`` as ``telemetryCpu``, or ``TelemetryCpu``."""
    words = re.split(r"[._-]", subject)
    return "".join(word.capitalize() if first or number else word for number, word in enumerate(words))


def _title(doc: str | None, subject: str) -> str:
    lines = textwrap.dedent(doc or "").strip().splitlines()
    return lines[0].removesuffix(".") if lines else subject


# -- files -------------------------------------------------------------------------------------------------------------


def files(folder: Path = SCHEMAS) -> dict[Path, str | None]:
    """What each generated file below ``folder`` must hold; None: it must not be there.

    Raises ValueError when asyncapi.yaml has not its four blocks.
    """
    components = {name: load(name) for name in sorted(SHIPPED)}
    texts: dict[Path, str | None] = dict.fromkeys((folder / "components").glob("*.json"))
    for name, component in components.items():
        document = json.dumps(describe(component), indent=2, ensure_ascii=False)
        texts[folder / "components" / f"{name}.json"] = f"{document}\n"
    page = folder / "asyncapi.yaml"
    texts[page] = _replaced(page.read_text(encoding="utf-8"), asyncapi(components.values()))
    return texts


def _replaced(text: str, sections: Mapping[str, Schema]) -> str:
    import yaml  # of the tools for development

    class Dumper(yaml.SafeDumper):
        """Writes everything out: an alias would depend on who else is in the block."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    found = list(_BLOCK.finditer(text))
    if len(found) != len(SECTIONS):
        raise ValueError(f"asyncapi.yaml must have {len(SECTIONS)} blocks of components, not {len(found)}: '{BEGIN}'")
    for block, section in reversed(list(zip(found, SECTIONS, strict=True))):
        indent = block["indent"]
        body = yaml.dump(
            sections[section], Dumper=Dumper, sort_keys=False, width=WIDTH - len(indent), allow_unicode=True,
            default_flow_style=None,
        )  # fmt: skip
        text = text[: block.start("block")] + textwrap.indent(body, indent) + text[block.end("block") :]
    return text


def _is(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def main(argv: list[str] | None = None, folder: Path = SCHEMAS) -> int:
    """Run the command line; the exit status: 1 when something is not up to date, 2 for a component that is none."""
    parser = argparse.ArgumentParser(
        prog="python -m busd.components.model.schema",
        description="Writes the schemas of the components that come with busd, or prints those of one component.",
    )
    parser.add_argument("component", nargs="?", metavar="MODULE:CLASS", help="print the schemas of this component")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something would change")
    options = parser.parse_args(argv)
    if options.component is not None:
        try:
            print(json.dumps(describe(load(options.component)), indent=2, ensure_ascii=False))
        except BusError as error:
            print(error, error.cure, sep="\n", file=sys.stderr)
            return 2
        return 0
    changed = {path: text for path, text in files(folder).items() if text != _is(path)}
    if options.check:
        for path in changed:
            print(f"{path} is not up to date: run python -m busd.components.model.schema", file=sys.stderr)
        return 1 if changed else 0
    for path, text in changed.items():
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
