"""Write the vector files beside this one. In ``schemas/``: ``python -m vectors.generate`` (``--check`` only compares).

Nothing here imports ``busproto``: the bytes come from the protocol's page and from a msgpack packer, so that a mistake
in our encoders cannot hide in the vectors they are tested with.
"""

import json
import sys
from pathlib import Path

from vectors import batch_cases, envelope_cases, identity_cases, subject_cases, zmtp_cases
from vectors.case import Json

HERE = Path(__file__).parent


def documents() -> dict[str, Json]:
    """Every file by name."""
    return {
        "envelopes.json": envelope_cases.document(),
        "batches.json": batch_cases.document(),
        "identity.json": identity_cases.document(),
        "subjects.json": subject_cases.document(),
        "zmtp.json": zmtp_cases.document(),
    }


def render(document: Json) -> str:
    """One case a line, so that a change shows as the case it changes."""
    parts = [f'"about": {json.dumps(document["about"])}']
    for key, cases in document.items():
        if key != "about":
            rows = ",\n  ".join(json.dumps(case, ensure_ascii=True) for case in cases)
            parts.append(f'"{key}": [\n  {rows}\n]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    stale = []
    for name, document in documents().items():
        path = HERE / name
        text = render(document)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="ascii")
        elif not path.exists() or path.read_text(encoding="ascii") != text:
            stale.append(name)
    if stale:
        print(f"not up to date: {', '.join(stale)}; run python -m vectors.generate in schemas/", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
