"""What deploy/prometheus and deploy/grafana say, and a real Prometheus to try it with."""

import json
import re
import shutil
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT, START_SECONDS, environment, needs, wait_until

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "busd.rules.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in RULES if "record" in rule}
TESTS = ("busd.test.yml", "components.test.yml")
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "busd.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel, target["expr"]) for panel in PANELS for target in panel["targets"]]

VARIABLES = {"$__rate_interval": "2m", "$node": ".*", "$boundary": "host", "$tenant": ".*"}
"""What Grafana puts in place of each, and what tests do."""


def filled(query: str, boundary: str = "host") -> str:
    """A query of the dashboard as Grafana sends it."""
    for variable, value in (VARIABLES | {"$boundary": boundary}).items():
        query = query.replace(variable, value)
    assert "$" not in query, query
    return query


def metrics(text: str) -> set[str]:
    """The metrics of a node that an expression, or a page, names."""
    return set(re.findall(r"(?<![\w:./-])((?:busd|process)_[a-z_]+[a-z])(?![\w:*])", text))


def promtool(*words: str | Path) -> str:
    """Run promtool, which must find nothing wrong; what it printed."""
    needs("promtool")
    ended = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, cwd=PROMETHEUS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def check_expressions(expressions: list[str], folder: Path) -> None:
    """Have promtool read them, as rules."""
    rules = [{"record": f"checked:{number}", "expr": each} for number, each in enumerate(expressions)]
    path = folder / "checked.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "checked", "rules": rules}]}))
    assert f"{len(expressions)} rules found" in promtool("check", "rules", path)


class Prometheus:
    """A running Prometheus."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        """Host and port."""
        self._tls = tls

    def ask(self, path: str, **parameters: str) -> Any:
        """One question to its API; raises HTTPError with what it says of a bad query."""
        url = f"http{'s' if self._tls else ''}://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20, context=self._tls) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        assert not said.get("warnings"), said
        return said["data"]

    def query(self, query: str, *, seconds_ahead: float = 0.0) -> list[dict[str, Any]]:
        """The samples of an instant query; of a later instant, if nothing came until then."""
        at = str(time.time() + seconds_ahead)
        result: list[dict[str, Any]] = self.ask("query", query=query, time=at)["result"]
        return result

    def values(self, query: str) -> list[float]:
        """Their values."""
        return [float(sample["value"][1]) for sample in self.query(query)]

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and how that went."""
        found: list[dict[str, Any]] = self.ask("targets")["activeTargets"]
        return found


@contextmanager
def prometheus(config: str, folder: Path, *flags: str) -> Iterator[Prometheus]:
    """Prometheus with ``config``, and our rules, on a free port of loopback until the end of the block."""
    needs("prometheus")
    folder.mkdir(exist_ok=True)
    shutil.copy(PROMETHEUS / "busd.rules.yml", folder)
    path = folder / "prometheus.yml"
    path.write_text(config.replace("_interval: 15s", "_interval: 500ms"))
    agent = "--enable-feature=agent" in flags
    storage = f"--storage.{'agent' if agent else 'tsdb'}.path={folder / 'data'}"
    command = ["prometheus", f"--config.file={path}", storage, "--web.listen-address=127.0.0.1:0", *flags]
    log: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), cwd=folder) as process:
        try:
            assert process.stderr is not None
            reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
            reader.start()
            wait_until(lambda: process.poll() is not None or _address(log), what="Prometheus' address")
            assert process.poll() is None, "".join(log)
            yield Prometheus(_address(log))
        except BaseException:
            print("".join(log))
            raise
        finally:
            process.terminate()
            try:
                process.wait(START_SECONDS)
            finally:
                process.kill()
                process.wait()
                reader.join(START_SECONDS)


def _address(log: list[str]) -> str:
    text = "".join(list(log))
    found = re.search(r'msg="Listening on" address=(\S+)', text)
    return found[1] if found and "Server is ready" in text else ""
