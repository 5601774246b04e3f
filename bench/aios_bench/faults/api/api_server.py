"""The API server misbehaves as `api-server.yaml` says, the operator's clock is set, and it comes to the same end as without all that."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aios_api import names
from aios_bench.faults import clock
from aios_bench.faults.api import control_plane
from aios_bench.faults.api.control_plane import AIOS, Kubelets, Supervised, until
from aios_bench.faults.api.proxy import Proxy, proxied
from aios_bench.faults.api.rules import Draws, read
from aios_bench.faults.clock import Clock
from aios_bench.faults.scenario import Outcome, Scenario

RULES = Path(__file__).with_name("api-server.yaml")
SETTINGS = {"AIOS_AUDIT_SECONDS": "3", "AIOS_SWEEP_SECONDS": "1", "AIOS_FOREIGN_SECONDS": "2", "AIOS_AUDIT_AFTER_RELIST_SECONDS": "0.5"}
"""Everything that heals does so soon."""
HEALED_SECONDS = 90.0
DISTURBED_SECONDS = 90.0
"""Of a run, at most: it ends when every rule has befallen somebody."""
LISTS = {
    "Agent": f"{AIOS}/namespaces/{{}}/agents",
    "AgentRuntime": f"{AIOS}/namespaces/{{}}/agentruntimes",
    "ResourceClaim": "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "GPUQuota": f"{AIOS}/namespaces/{{}}/gpuquotas",
    "ToolBinding": f"{AIOS}/namespaces/{{}}/toolbindings",
}
Object = dict[str, Any]
Found = dict[tuple[str, str], list[Any]]


def agent(name: str, memory: str | None = None, **spec: Any) -> Object:
    template = {"spec": {"containers": [{"name": "main", "image": "localhost/example:1"}]}}
    gpu = {"gpu": {"memory": memory}} if memory else {}
    metadata = {"name": name, "labels": {"app": "coder"}}
    return {"apiVersion": names.API_VERSION, "kind": "Agent", "metadata": metadata, "spec": {"template": template, **gpu, **spec}}


class Space:
    """One namespace, and what its people do in it."""

    def __init__(self, plane: Any, name: str) -> None:
        self.plane, self.name = plane, name
        plane.post("/api/v1/namespaces", {"metadata": {"name": name}})

    def of(self, plural: str, name: str = "") -> str:
        return f"{AIOS}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    def patch(self, name: str, **spec: Any) -> None:
        self.plane.merge(self.of("agents", name), {"spec": spec})

    def live(self) -> None:
        """Agents come, are changed, stopped and deleted, without a pause in which anybody could come to rest."""
        quota = {"apiVersion": names.API_VERSION, "kind": "GPUQuota", "metadata": {"name": "team"}, "spec": {"memory": {"nominal": "70Gi"}}}
        rules = [{"name": "a", "host": "a.example.com"}]
        selector = {"matchLabels": {"app": "coder"}}
        binding = {"apiVersion": names.API_VERSION, "kind": "ToolBinding", "metadata": {"name": "models"}}
        self.plane.post(self.of("gpuquotas"), quota)
        self.plane.post(self.of("toolbindings"), {**binding, "spec": {"agentSelector": selector, "egress": rules}})
        exposed = [{"name": "http", "port": 8080, "protocol": "TCP"}]
        for body in (agent("a", "10Gi", expose=exposed), agent("b", "20Gi"), agent("c", "10Gi"), agent("d"), agent("e", "5Gi")):
            self.plane.post(self.of("agents"), body)
        time.sleep(2)
        self.patch("b", gpu={"memory": "15Gi"})
        self.patch("c", operatingMode="Stopped")
        self.plane.client.delete(self.of("agents", "d"))
        self.plane.merge(self.of("toolbindings", "models"), {"spec": {"egress": [*rules, {"name": "b", "host": "b.example.com"}]}})
        time.sleep(2)
        self.patch("a", expose=None)
        self.patch("c", operatingMode="Running")
        self.plane.client.delete(f"/api/v1/namespaces/{self.name}/pods/e-1")

    def stir(self) -> None:
        """One more change, which leaves everything as it was."""
        for memory in ("16Gi", "15Gi"):
            self.patch("b", gpu={"memory": memory})
            time.sleep(1)

    def read(self) -> Found:
        """What is to be the same at the end, by kind and by name without attempts: of an Agent that comes again, both for a moment."""
        found: Found = {}
        for kind, path in LISTS.items():
            for each in self.plane.items(path.format(self.name)):
                key = kind, re.sub(r"-\d+$", "", each["metadata"]["name"])
                found.setdefault(key, []).append(_essence(kind, each))
        return found

    def versions(self) -> list[tuple[str, str, str]]:
        return [
            (kind, each["metadata"]["name"], each["metadata"]["resourceVersion"])
            for kind, path in LISTS.items()
            for each in self.plane.items(path.format(self.name))
        ]


def _essence(kind: str, each: Object) -> Any:
    spec, status = each.get("spec") or {}, each.get("status") or {}
    conditions = sorted((c["type"], c["status"], c.get("reason", "")) for c in status.get("conditions") or ())
    if kind == "Agent":
        return conditions, status.get("gpu", {}).get("memory"), [each["name"] for each in status.get("egress", {}).get("bindings", ())]
    if kind == "AgentRuntime":
        return spec.get("gpu", {}).get("memory"), (spec.get("egress") or {}).get("digest"), spec.get("expose")
    if kind == "ResourceClaim":
        return [result.get("consumedCapacity") for result in status.get("allocation", {}).get("devices", {}).get("results", ())]
    if kind == "Pod":
        return bool(spec.get("nodeName")), status.get("phase"), "deletionTimestamp" in each["metadata"]
    if kind in ("GPUQuota", "ToolBinding"):
        return conditions, status.get("used"), status.get("programmed")
    return spec.get("ports"), spec.get("ingress")


def misbehaves(seed: int, size: str) -> Outcome:
    rules = read(RULES)
    total = Outcome()
    with control_plane.control_plane() as (plane, directory):
        wall, chance = Clock(directory), random.Random(seed)  # noqa: S311 - repeatable
        settings = SETTINGS | wall.environment
        draws = Draws(rules.model_copy(update={"seed": seed}), active=False)
        with proxied(plane.kubeconfig, draws, directory / "kubeconfig") as proxy:
            calm = Space(plane, "calm")
            with Kubelets(plane, ["calm"]).working(), Supervised(directory / "kubeconfig", directory / "log", settings).working():
                calm.live()
                expected = come_to_rest(calm)
            for number in range(1 if size == "small" else 20):
                operator = Supervised(directory / "kubeconfig", directory / "log", settings)
                total += _disturbed(plane, operator, proxy, lambda: wall.jump(chance), f"shaken-{number}", expected)
    return total + Outcome(wall.jumps)


def _disturbed(plane: Any, operator: Supervised, proxy: Proxy, jump: Callable[[], None], name: str, expected: Found) -> Outcome:
    draws, passed = proxy.draws, len(proxy.passed)
    space, before, counts = Space(plane, name), draws.injected, dict(draws.counts)
    kubelets = Kubelets(plane, [name])
    with kubelets.working(), operator.working():
        until(lambda: any(each.asked.verb == "watch" for each in proxy.passed[passed:]), "the operator watches")
        draws.active = True
        jump()
        space.live()
        jump()
        time.sleep(5)
        deadline = time.monotonic() + DISTURBED_SECONDS
        while (idle := draws.idle_since(counts)) and time.monotonic() < deadline:
            space.stir()
            jump()
        draws.active = False
        if idle:
            raise AssertionError(f"each rule must befall somebody; these did not: {', '.join(idle)}")
        try:
            found = until(lambda: space.read() == expected and space.read(), "everything is as in the undisturbed run", HEALED_SECONDS)
        except AssertionError as error:
            found = space.read()
            odd = {
                key: (found.get(key), expected.get(key)) for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
            }
            raise AssertionError(f"{error}; is and should be: {odd}") from error
        come_to_rest(space)
    return Outcome(
        faults_injected=draws.injected - before,
        objects_lost=len(expected.keys() - found.keys()),
        orphans=len(found.keys() - expected.keys()),
        double_identities=len(kubelets.doubles),
        notes=(*kubelets.doubles, f"{name}: the operator was started {operator.starts} times; {dict(sorted(draws.counts.items()))}"),
    )


def come_to_rest(space: Space) -> Found:
    """Two sweeps and more in which nothing was written."""

    def quiet() -> bool:
        before = space.versions()
        time.sleep(4)
        return bool(before) and space.versions() == before

    until(quiet, f"nothing is written in {space.name} any more", HEALED_SECONDS)
    return space.read()


SCENARIOS = (
    Scenario(
        "api-server-misbehaves",
        "Refusals, cuts, silent watches, stale reads, events lost, doubled or late, and clocks that jump, before a real API server.",
        "api",
        misbehaves,
        lambda: control_plane.lacking() or clock.lacking(),
    ),
)
