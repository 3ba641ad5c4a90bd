"""The Kubernetes objects: valid by Kubernetes' own schemas, and what they run is run as they say."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.clients.cli_support import Cli
from tests.deploy.image import built_image, inside, variables
from tests.deploy.machine import Machine
from tests.ops.processes import daemon
from tests.support import ROOT, START_SECONDS, needs, wait_until

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.37")
"""Of Kubernetes: the oldest and the newest that the objects are checked for."""

Object = dict[str, Any]


def objects(name: str) -> list[Object]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def only(name: str, kind: str) -> Object:
    (found,) = [each for each in objects(name) if each["kind"] == kind]
    return found


KUSTOMIZATION = only("kustomization.yaml", "Kustomization")
EVERY = [(path.name, each) for path in sorted(FOLDER.glob("*.yaml")) for each in objects(path.name)]
BUILT_IN = [each for each in EVERY if each[1]["kind"] not in ("Kustomization", "PodMonitor")]
POD = only("daemonset.yaml", "DaemonSet")["spec"]["template"]["spec"]
CONTAINERS = {each["name"]: each for each in [*POD["initContainers"], *POD["containers"]]}
AGENT = only("agent.yaml", "Pod")["spec"]


def ids(each: Any) -> str:
    return f"{each[0]}-{each[1]['metadata']['name']}" if isinstance(each, tuple) else str(each)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("each", BUILT_IN, ids=ids)
def test_kubernetes_takes_it(each: tuple[str, Object], version: str) -> None:
    kubernetes_validate.validate(each[1], version, strict=True)


def test_the_check_finds_what_is_wrong() -> None:
    wrong = json.loads(json.dumps(only("daemonset.yaml", "DaemonSet")))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_what_is_applied_is_all_there_and_in_one_namespace() -> None:
    assert all((FOLDER / name).is_file() for name in KUSTOMIZATION["resources"])
    own = {"agent.yaml", "podmonitor.yaml", "kustomization.yaml"}  # applied by themselves, if at all
    assert {path.name for path in FOLDER.glob("*.yaml")} == own | set(KUSTOMIZATION["resources"])
    assert KUSTOMIZATION["namespace"] == only("namespace.yaml", "Namespace")["metadata"]["name"]
    used = {each["image"] for each in [*CONTAINERS.values(), *AGENT["containers"]]}
    assert used == {each["name"] for each in KUSTOMIZATION["images"]}
    maps = {each["metadata"]["name"] for each in objects("configmap.yaml")}
    assert {each["configMap"]["name"] for each in POD["volumes"] if "configMap" in each} == maps


def test_the_directory_is_mounted_and_never_the_socket() -> None:
    for spec in (POD, AGENT):
        paths = {each["hostPath"]["path"]: each["hostPath"]["type"] for each in spec["volumes"] if "hostPath" in each}
        assert "/run/busd" in paths
        assert all(kind in ("Directory", "DirectoryOrCreate") for kind in paths.values())
        mounts = [each for container in spec["containers"] for each in container["volumeMounts"]]
        assert not any("subPath" in each or each["mountPath"].endswith(".sock") for each in mounts)


def test_nothing_has_more_rights_than_it_needs() -> None:
    assert (POD["hostNetwork"], POD["hostPID"], POD["automountServiceAccountToken"]) == (False, False, False)
    for spec in (POD, AGENT):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in spec["containers"]:
            context = each["securityContext"]
            assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in each["resources"]["limits"]
    init = CONTAINERS["own-directories"]["securityContext"]
    assert init["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "FOWNER"]}


def test_the_pod_has_the_time_to_drain() -> None:
    from busd.ops.config import resolve
    from busd.ops.process import STOP_MARGIN

    assert POD["terminationGracePeriodSeconds"] >= resolve([], {}).drain.grace_seconds + STOP_MARGIN
    update = only("daemonset.yaml", "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"]
    assert update == {"maxUnavailable": 1, "maxSurge": 0}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        given = CONTAINERS["busd"][probe]
        seconds = float(given["exec"]["command"][-1].rstrip("s"))
        assert seconds < given["timeoutSeconds"]  # bus check says why; a probe that is killed does not


def configured(name: str) -> dict[str, str]:
    (found,) = [each for each in objects("configmap.yaml") if each["metadata"]["name"] == name]
    return dict(found["data"])


def test_its_policy_decides_what_its_own_tests_say(tmp_path: Path) -> None:
    for name, text in configured("busd-policy").items():
        (tmp_path / name).write_text(text)
    cli = Cli("")
    for words in (("policy", "lint", str(tmp_path)), ("policy", "test", str(tmp_path))):
        ended = cli(*words)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    (tmp_path / "policy.tests").write_text("allow subscribe > from host uid=4712\n")
    assert cli("policy", "test", str(tmp_path)).returncode == 1


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine as a pod of the image sees it, with the ConfigMaps mounted the way the kubelet mounts them."""
    with built_image(tmp_path_factory.mktemp("image")) as made:
        mounts = {each["name"]: each["mountPath"] for each in CONTAINERS["busd"]["volumeMounts"]}
        for volume in POD["volumes"]:
            if "configMap" in volume and volume["name"] in mounts:
                _mount(made, mounts[volume["name"]], configured(volume["configMap"]["name"]))
        yield made


def _mount(on: Machine, path: str, files: dict[str, str]) -> None:
    """Each file a link by way of ``..data``, so that all of them change at once."""
    folder = on.root / path.lstrip("/")
    shutil.rmtree(folder, ignore_errors=True)
    data = folder / "..2026_01_01"
    data.mkdir(parents=True)
    (folder / "..data").symlink_to(data.name)
    for name, text in files.items():
        (data / name).write_text(text)
        (folder / name).symlink_to(f"..data/{name}")


@pytest.mark.slow
def test_the_pod_runs_as_it_says(node: Machine) -> None:
    node.shell("rm -rf /run/busd /var/lib/busd; mkdir -m 0755 /run/busd /var/lib/busd", cwd="/")  # as the kubelet does
    init = CONTAINERS["own-directories"]
    kept = ",".join(f"+{name.lower()}" for name in init["securityContext"]["capabilities"]["add"])
    limited = ["setpriv", f"--bounding-set=-all,{kept}", f"--inh-caps=-all,{kept}", "--no-new-privs"]
    for _ in range(2):  # the second pod finds the directories as the first one left them
        ended = node.run(*limited, *init["command"], cwd="/")
        assert ended.returncode == 0, ended.stderr
    busd = CONTAINERS["busd"]
    given = variables() | {"NODE_NAME": "worker-7.example.org"}
    with node.start(*inside(*busd["command"]), errors=None, **given) as process:
        try:
            wait_until(lambda: (node.root / "run/busd/host.sock").exists() or process.poll() is not None, what="socket")
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                words = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", *busd[probe]["exec"]["command"]]
                ended = node.run(*words, cwd="/", **variables())
                assert ended.returncode == 0, ended.stdout + ended.stderr
                assert json.loads(ended.stdout)["node"] == "worker-7"
            said = _agent(node)
            assert said.stdout.startswith("replied: hello, bus"), said.stderr
            assert "heard: hello.done" in said.stdout
            (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            node.shell(f"kill -TERM {pid}", cwd="/")
            assert process.wait(START_SECONDS) == 0
        finally:
            process.kill()


def _agent(on: Machine) -> "subprocess.CompletedProcess[str]":
    """The agent of agent.yaml, as the user that it says."""
    (program,) = re.findall(r"(?s)```python\n(# hello\.py\n.*?)```", (ROOT / "README.md").read_text())
    (container,) = AGENT["containers"]
    script = on.root / container["command"][1].lstrip("/")
    script.parent.mkdir(exist_ok=True)
    script.write_text(program)
    user = AGENT["securityContext"]["runAsUser"]
    given = {each["name"]: each["value"] for each in container["env"]}
    return on.run(
        "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *container["command"], cwd="/", **given
    )


def test_the_sidecar_passes_the_metrics_on_and_nothing_else(tmp_path: Path) -> None:
    needs("nginx")
    port = _free_port()
    with daemon(tmp_path / "run") as busd:
        here = busd.started["http"].removeprefix("http://")
        site = configured("busd-metrics")["default.conf"]
        assert "http://127.0.0.1:9850;" in site
        site = site.replace("127.0.0.1:9850", here).replace("listen 9851", f"listen 127.0.0.1:{port}")
        temporary = " ".join(
            f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            f"pid {tmp_path}/pid; error_log stderr; daemon off; master_process off;\n"
            f"events {{}}\nhttp {{ access_log off; {temporary} {site} }}\n"
        )
        with subprocess.Popen(["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]) as nginx:
            try:
                wait_until(lambda: _answers(port) or nginx.poll() is not None, what="nginx")
                status, body = _get(port, "/metrics")
                assert status == 200
                assert b"busd_ready 1" in body
                for page in ("/", "/statusz", "/readyz", "/metrics/", "/metrics/../statusz"):
                    assert _get(port, page)[0] == 404
            finally:
                nginx.send_signal(signal.SIGTERM)
                nginx.wait(10)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _get(port: int, page: str) -> tuple[int, bytes]:
    """A page, asked for by the address that Prometheus knows the pod by."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", page, headers={"Host": "10.1.2.3:9851"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_prometheus_finds_the_port_that_there_is() -> None:
    monitor = only("podmonitor.yaml", "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (port,) = CONTAINERS["metrics"]["ports"]
    assert endpoint["port"] == port["name"]
    labels = only("daemonset.yaml", "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    policy = only("networkpolicy.yaml", "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["ingress"][0]["ports"] == [{"port": port["name"]}]
    assert f"listen {port['containerPort']};" in configured("busd-metrics")["default.conf"]
