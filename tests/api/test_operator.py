"""The operator with a real API server, controller manager and kube-scheduler: from `kubectl apply` to a booked share and back."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from aios_api import names
from aios_localcluster import ClusterSettings, LocalCluster, build
from aios_localcluster.settings import CONTROL_PLANE
from api.operating import CLAIMS, GPU, Plane, device_class, operator
from api.support import Object, agent, connect

ROOT = Path(__file__).parents[2]
GIB = 1 << 30


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    state = tmp_path_factory.mktemp("plane")
    settings = ClusterSettings(name="operator-tests", state_root=state, components=CONTROL_PLANE)
    if not build.is_built(build.MODULES["kubernetes"], settings.cache):
        pytest.skip("the cluster's programs are not built yet: python -m aios_localcluster.build kubernetes")
    with LocalCluster(settings) as cluster, connect(cluster) as client:
        made = Plane(client, cluster.kubeconfig)
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            made.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(path.read_text()))
        for name, kind in ((names.GPU_CLASS, names.KIND_GPU), (names.RUNTIME_CLASS, names.KIND_RUNTIME)):
            made.post(f"{CLAIMS}/deviceclasses", device_class(name, kind))
        with made.node("n1"):
            yield made


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operator") / "log"


@pytest.fixture(scope="module")
def port(plane: Plane, log: Path) -> Iterator[int]:
    with operator(plane, log) as (_, port):
        yield port


@pytest.fixture
def space(plane: Plane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of its own, left without Agents."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    plane.post("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name

    def emptied() -> bool:
        plane.end_deleted_pods(name)
        return not any(plane.items(path) for path in owned(name))

    for each in plane.items(agents(name)):
        plane.client.delete(agents(name, each["metadata"]["name"]))
    plane.until(emptied, f"nothing of the Agents in {name} is left")


def agents(namespace: str, name: str = "") -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/agents" + (f"/{name}" if name else "")


def owned(namespace: str) -> list[str]:
    """Lists of all that an operator makes in a namespace."""
    return [
        agents(namespace),
        f"/apis/{names.API_VERSION}/namespaces/{namespace}/agentruntimes",
        f"{CLAIMS}/namespaces/{namespace}/resourceclaims",
        f"/api/v1/namespaces/{namespace}/pods",
        f"/api/v1/namespaces/{namespace}/services",
        f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    ]


def bindings(namespace: str, name: str = "") -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/toolbindings" + (f"/{name}" if name else "")


HTTP: Object = {"name": "http", "port": 8080, "protocol": "TCP"}


def binding(name: str, *hosts: str) -> Object:
    """Lets Agents with the label app=a reach these hosts."""
    rules = [{"name": host.replace(".", "-"), "host": host} for host in hosts]
    spec = {"agentSelector": {"matchLabels": {"app": "a"}}, "egress": rules}
    return {"apiVersion": names.API_VERSION, "kind": "ToolBinding", "metadata": {"name": name}, "spec": spec}


def labelled(body: Object) -> Object:
    return {**body, "metadata": {**body["metadata"], "labels": {"app": "a"}}}


def reached(plane: Plane, namespace: str, name: str) -> list[str]:
    order = plane.get(f"/apis/{names.API_VERSION}/namespaces/{namespace}/agentruntimes/{name}") or {}
    return sorted(rule["host"] for rule in (order["spec"].get("egress") or {"rules": ()})["rules"])


def in_force(plane: Plane, namespace: str, name: str) -> list[tuple[str, int]]:
    found = plane.get(agents(namespace, name)) or {}
    return [(each["name"], each["generation"]) for each in found["status"].get("egress", {}).get("bindings", ())]


def said_of(plane: Plane, namespace: str, name: str) -> dict[str, str]:
    """The reasons of a ToolBinding's conditions."""
    status = (plane.get(bindings(namespace, name)) or {}).get("status") or {}
    return {each["type"]: each["reason"] for each in status.get("conditions", ())}


def condition(plane: Plane, namespace: str, name: str, kind: str) -> tuple[str, str]:
    found = plane.get(agents(namespace, name)) or {}
    for each in found.get("status", {}).get("conditions", ()):
        if each["type"] == kind:
            return each["status"], each["reason"]
    return "", ""


def ready(plane: Plane, namespace: str, name: str, attempt: int = 1) -> Object:
    """The Agent's attempt is bound, its node does its part, and the Agent says Ready."""
    pod_path = f"/api/v1/namespaces/{namespace}/pods/{name}-{attempt}"

    def bound() -> Any:
        plane.end_deleted_pods(namespace)
        return ((plane.get(pod_path) or {}).get("spec") or {}).get("nodeName")

    plane.until(bound, f"{name}-{attempt} is bound")
    plane.serve(namespace, f"{name}-{attempt}")
    plane.until(lambda: condition(plane, namespace, name, "Ready")[0] == "True", f"{name} is Ready")
    found = plane.get(agents(namespace, name))
    assert found is not None
    return found


def consumed(plane: Plane, namespace: str, claim: str) -> dict[str, str]:
    found = plane.get(f"{CLAIMS}/namespaces/{namespace}/resourceclaims/{claim}") or {}
    results = found.get("status", {}).get("allocation", {}).get("devices", {}).get("results", ())
    return {name: amount for result in results for name, amount in result.get("consumedCapacity", {}).items()}


def test_agents_share_a_gpu_and_what_does_not_fit_says_so(plane: Plane, port: int, space: str):
    for name, memory in (("a", "24Gi"), ("b", "40Gi"), ("large", "96Gi")):
        plane.post(agents(space), agent(name, gpu={"memory": memory}))
    plane.post(agents(space), agent("plain"))
    for name in ("a", "b", "plain"):
        ready(plane, space, name)
    assert consumed(plane, space, "a-1") == {"slots": "1", "memory": "24Gi"}
    assert consumed(plane, space, "b-1") == {"slots": "1", "memory": "40Gi"}
    assert consumed(plane, space, "plain-1") == {"slots": "1"}
    plane.until(lambda: condition(plane, space, "large", "Placed") == ("False", "LargerThanAnyGPU"), "the large one is told")
    large = plane.get(agents(space, "large"))
    assert large is not None
    assert "80Gi" in large["status"]["pending"]["smallestChange"]

    def booked() -> list[float]:
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        return [float(each.split()[-1]) for each in metrics.splitlines() if each.startswith("aios_operator_gpu_vram_booked_bytes{")]

    plane.until(lambda: 64 * GIB in booked(), "the metrics say what is booked")
    assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200


def test_the_status_and_the_events_tell_a_person_where_it_runs(plane: Plane, port: int, space: str):
    plane.post(agents(space), agent("a", gpu={"memory": "10Gi"}))
    status = ready(plane, space, "a")["status"]
    assert (status["nodeName"], status["podName"], status["attempt"]) == ("n1", "a-1", 1)
    assert status["gpu"] == {"uuid": GPU, "model": "NVIDIA H100", "memory": "10Gi"}

    def placed() -> list[Object]:
        events = plane.items(f"/apis/events.k8s.io/v1/namespaces/{space}/events")
        return [e for e in events if e["regarding"]["kind"] == "Agent" and e["reason"] == "Placed"]

    [event] = plane.until(placed, "the event is there")
    assert "10Gi of GPU-" in event["note"]


def test_the_pod_is_admitted_where_the_restricted_standard_is_enforced(plane: Plane, port: int, space: str):
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    plane.merge(f"/api/v1/namespaces/{space}", label)
    body = agent("a")
    body["spec"]["template"]["spec"]["securityContext"] = {"runAsNonRoot": True}
    plane.post(agents(space), body)
    ready(plane, space, "a")


def test_an_edited_agent_is_replaced_and_never_runs_twice(plane: Plane, port: int, space: str):
    plane.post(agents(space), agent("a", gpu={"memory": "24Gi"}))
    ready(plane, space, "a")
    plane.merge(agents(space, "a"), {"spec": {"gpu": None}})
    ready(plane, space, "a", attempt=2)
    assert [pod["metadata"]["name"] for pod in plane.items(f"/api/v1/namespaces/{space}/pods")] == ["a-2"]
    assert consumed(plane, space, "a-2") == {"slots": "1"}
    order = plane.get(f"/apis/{names.API_VERSION}/namespaces/{space}/agentruntimes/a")
    assert order is not None
    assert "gpu" not in order["spec"]


def test_a_stopped_agent_gives_its_share_back(plane: Plane, port: int, space: str):
    plane.post(agents(space), agent("a", gpu={"memory": "60Gi"}))
    ready(plane, space, "a")
    plane.post(agents(space), agent("b", gpu={"memory": "60Gi"}))
    plane.until(lambda: condition(plane, space, "b", "Placed") == ("False", "NoGPUFits"), "b waits")
    plane.merge(agents(space, "a"), {"spec": {"operatingMode": "Stopped"}})
    ready(plane, space, "b")
    plane.until(lambda: condition(plane, space, "a", "Ready") == ("False", "Stopped"), "a is told to be stopped")


def test_a_quota_that_forbids_the_pod_is_what_the_agent_says(plane: Plane, port: int, space: str):
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    plane.post(f"/api/v1/namespaces/{space}/resourcequotas", quota)
    counted = f"/api/v1/namespaces/{space}/resourcequotas/none"
    plane.until(lambda: (plane.get(counted) or {}).get("status", {}).get("hard"), "the quota is in force")
    plane.post(agents(space), agent("a"))
    plane.until(lambda: condition(plane, space, "a", "Ready") == ("False", "Forbidden"), "the Agent says what forbids it")
    plane.client.delete(counted)
    ready(plane, space, "a")


def test_bindings_change_what_a_running_agent_may_reach(plane: Plane, port: int, space: str):
    plane.post(agents(space), labelled(agent("a")))
    ready(plane, space, "a")
    assert condition(plane, space, "a", "EgressProgrammed") == ("True", "NothingAllowed")
    plane.post(bindings(space), binding("models", "a.example.com", "b.example.com"))
    plane.until(lambda: reached(plane, space, "a") == ["a.example.com", "b.example.com"], "the order has the policy")
    plane.until(lambda: said_of(plane, space, "models").get("Ready") == "Programming", "the binding waits for the gateway")
    plane.confirm(space, "a")
    plane.until(lambda: said_of(plane, space, "models").get("Ready") == "Programmed", "the binding is in force")
    plane.merge(bindings(space, "models"), {"spec": binding("models", "b.example.com")["spec"]})
    plane.until(lambda: reached(plane, space, "a") == ["b.example.com"], "a removed rule is gone")
    plane.confirm(space, "a")
    status = plane.until(lambda: in_force(plane, space, "a") == [("models", 2)], "the generation in force is told")
    plane.client.delete(bindings(space, "models"))
    plane.until(lambda: reached(plane, space, "a") == [], "what a deleted binding allowed is gone")
    assert status
    order = plane.get(f"/apis/{names.API_VERSION}/namespaces/{space}/agentruntimes/a")
    assert order is not None
    assert order["spec"]["attempt"] == 1
    assert "egress" not in order["spec"]


def test_what_is_exposed_follows_the_spec_and_goes_with_the_agent(plane: Plane, port: int, space: str):
    service = f"/api/v1/namespaces/{space}/services/a"
    policy = f"/apis/networking.k8s.io/v1/namespaces/{space}/networkpolicies/aios-expose-a"
    plane.post(agents(space), agent("a", expose=[HTTP]))
    ready(plane, space, "a")
    plane.confirm(space, "a")
    plane.until(lambda: condition(plane, space, "a", "Exposed") == ("True", "Exposed"), "the port is exposed")
    address = (plane.get(service) or {})["spec"]["clusterIP"]
    plane.merge(agents(space, "a"), {"spec": {"expose": [{"name": "dns", "port": 5353, "protocol": "UDP"}]}})

    def ports() -> list[tuple[str, int]]:
        found, let_in = plane.get(service), plane.get(policy)
        assert found is not None
        assert let_in is not None
        assert found["spec"]["clusterIP"] == address
        return [(p["protocol"], p["port"]) for p in (*found["spec"]["ports"], *let_in["spec"]["ingress"][0]["ports"])]

    plane.until(lambda: ports() == [("UDP", 5353)] * 2, "the other port is exposed")
    plane.merge(agents(space, "a"), {"spec": {"expose": None}})
    plane.until(lambda: plane.get(service) is None and plane.get(policy) is None, "nothing is exposed")
    plane.merge(agents(space, "a"), {"spec": {"expose": [HTTP]}})
    plane.until(lambda: plane.get(service) and plane.get(policy), "it is exposed again")
    plane.client.delete(agents(space, "a"))

    def gone() -> bool:
        plane.end_deleted_pods(space)
        return plane.get(service) is None and plane.get(policy) is None

    plane.until(gone, "garbage collection has removed them")


def test_after_a_kill_the_work_goes_on_and_at_rest_nothing_is_written(plane: Plane, space: str, tmp_path: Path, port: int):
    """A second operator beside the first is what a rolling update looks like; neither may write when all is as it should be."""
    plane.post(bindings(space), binding("models", "a.example.com"))
    plane.post(agents(space), labelled(agent("a", gpu={"memory": "24Gi"}, expose=[HTTP])))
    plane.post(agents(space), agent("waits", gpu={"memory": "79Gi"}))
    ready(plane, space, "a")
    plane.confirm(space, "a")
    plane.until(lambda: condition(plane, space, "waits", "Placed") == ("False", "NoGPUFits"), "the other waits")
    plane.until(lambda: said_of(plane, space, "models").get("Ready") == "Programmed", "the binding is in force")
    plane.until(lambda: condition(plane, space, "a", "Exposed") == ("True", "Exposed"), "the port is exposed")

    def versions() -> list[str]:
        return [each["metadata"]["resourceVersion"] for path in (*owned(space), bindings(space)) for each in plane.items(path)]

    def at_rest() -> list[str] | None:
        seen = versions()
        time.sleep(1)
        return seen if versions() == seen else None

    before = plane.until(at_rest, "nothing changes any more")
    with operator(plane, tmp_path / "log", AIOS_SWEEP_SECONDS="0.2", AIOS_AUDIT_SECONDS="0.3", AIOS_FOREIGN_SECONDS="0.2") as (
        process,
        other,
    ):
        turned = 'aios_operator_cycle_seconds_count{planner="cluster"}'

        def swept() -> bool:
            lines = httpx.get(f"http://127.0.0.1:{other}/metrics", trust_env=False).text.splitlines()
            return any(line.startswith(turned) and float(line.split()[-1]) > 3 for line in lines)

        plane.until(swept, "it has swept a few times")
        assert versions() == before
        process.kill()
        process.wait(60)


def test_a_quota_is_kept_told_and_left_by_a_namespace_that_is_deleted(plane: Plane, port: int):
    space = "quota-goes"
    plane.post("/api/v1/namespaces", {"metadata": {"name": space}})
    quota = f"/apis/{names.API_VERSION}/namespaces/{space}/gpuquotas"
    body = {"apiVersion": names.API_VERSION, "kind": "GPUQuota", "metadata": {"name": "team"}, "spec": {"memory": {"nominal": "40Gi"}}}
    plane.post(quota, body)
    plane.post(agents(space), agent("a", gpu={"memory": "24Gi"}))
    ready(plane, space, "a")
    plane.post(agents(space), agent("b", gpu={"memory": "24Gi"}))
    plane.until(lambda: condition(plane, space, "b", "QuotaReserved") == ("False", "QuotaExhausted"), "b waits for quota")

    def counted() -> bool:
        status = (plane.get(f"{quota}/team") or {}).get("status", {})
        return bool(status.get("used") == {"memory": "24Gi", "agents": 1} and status.get("waiting") == {"memory": "24Gi", "agents": 1})

    plane.until(counted, "the quota says what is used and what waits")
    plane.merge(f"{quota}/team", {"spec": {"memory": {"nominal": "16Gi"}}})
    plane.until(lambda: condition(plane, space, "a", "QuotaReserved") == ("True", "QuotaExceeded"), "a says that it stays")
    plane.client.delete(f"/api/v1/namespaces/{space}")

    def gone() -> bool:
        plane.end_deleted_pods(space)
        assert plane.get(f"/apis/{names.API_VERSION}/namespaces/{space}/agentruntimes/b") is None, "b is never ordered"
        return plane.get(f"/api/v1/namespaces/{space}") is None

    plane.until(gone, "the namespace is gone")


def test_uninstall_removes_all_agents(plane: Plane, port: int, space: str):
    plane.post(agents(space), agent("a", gpu={"memory": "24Gi"}))
    ready(plane, space, "a")
    command = [sys.executable, "-m", "aios_operator.main", "--kubeconfig", str(plane.kubeconfig), "uninstall"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        plane.until(lambda: plane.end_deleted_pods(space) or process.poll() is not None, "it has ended")
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert f"waiting for 1 Agents to be gone: {space}/a" in said
    assert not any(plane.items(path) for path in owned(space)[:-1])
