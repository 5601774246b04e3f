"""Nodes that do not exist: KWOK is their kubelet, and this program their node agent.

    python -m aios_localcluster.simulation --kubeconfig FILE --nodes N --gpus-per-node M

It makes the Nodes and publishes for each the ResourceSlice that a node agent would, with GPUs that are marked as fake. For every order
whose claim is allocated and whose pod is bound there it writes the facts of a node agent: nothing is prepared, fenced or listening, since
nothing runs. What is real is everything before: admission, placement, claims, kube-scheduler, and what each costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aios_api import names
from aios_kube import ClusterClient, Object, Reflector, Resource, Selection, Speaker, connect, resources
from aios_kube.backoff import Backoff
from aios_kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from aios_localcluster import ours
from aios_localcluster.settings import RELEASE_NAMESPACE
from aios_sidecar.contracts.gpus import GPU
from aios_sidecar.node import slices

log = logging.getLogger(__name__)

LABEL = "kwok.x-k8s.io/node"
"""On every simulated node. A taint of the same name keeps pods away that must really run; what belongs here tolerates it."""
VALUE = "fake"
TOLERATION = {"key": LABEL, "operator": "Equal", "value": VALUE, "effect": "NoSchedule"}
MEMORY_MIB = 80 * 1024
MODEL = "NVIDIA H100 80GB HBM3"
SLOTS = 110
CPU, MEMORY, PODS = "192", "2Ti", "110"
HEARTBEAT_SECONDS = 240
"""Nodes say that they are well every four to five minutes, as a kubelet at rest does; their Leases tell the rest."""
LEASE_SECONDS = 40
FACTS = ("Prepared", "Fenced", "EgressFenced", "Listening")
WRITERS = 16


def node_name(number: int) -> str:
    return f"kwok-{number}"


def node_agent(node: str) -> Speaker:
    """Who writes a node's facts; with all rights, since there may be no release yet that grants the node agent its own."""
    return Speaker(
        f"system:serviceaccount:{RELEASE_NAMESPACE}:aios-node", "system:masters", {"authentication.kubernetes.io/node-name": node}
    )


def node(number: int) -> Object:
    name = node_name(number)
    labels = {LABEL: VALUE, "kubernetes.io/hostname": name}
    taint = {"key": LABEL, "value": VALUE, "effect": "NoSchedule"}
    return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": [taint]}}


def gpus(number: int, count: int) -> tuple[GPU, ...]:
    """Each with a uuid of its own in the whole cluster, the same at every start."""
    return tuple(GPU(f"GPU-00000000-0000-0000-{number:04x}-{index:012x}", MODEL, index, MEMORY_MIB, True) for index in range(count))


def facts(order: Object, claim: Object, pod: Object, now: datetime) -> Object:
    """What a node agent says of an order that is carried out in full."""
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    said = {"status": "True", "reason": "Simulated", "message": "the node is simulated: nothing runs there", "lastTransitionTime": moment}
    return {
        "nodeName": order["spec"]["nodeName"],
        "attempt": order["spec"]["attempt"],
        "claimUID": claim["metadata"]["uid"],
        "podUID": pod["metadata"]["uid"],
        "contractVersion": names.CONTRACT_VERSION,
        "conditions": [{"type": kind, **said} for kind in FACTS],
    }


@dataclass
class Mirror:
    """What exists of one resource, by namespace and name; `changed` hears which."""

    changed: asyncio.Queue[tuple[str, str]]
    by: str
    """The label that names the Agent; empty where the object has the Agent's name."""
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)

    def replace(self, objects: list[Object]) -> None:
        self.objects = {}
        for each in objects:
            self.upsert(each)

    def upsert(self, obj: Object) -> None:
        metadata = obj["metadata"]
        self.objects[metadata["namespace"], metadata["name"]] = obj
        agent = metadata.get("labels", {}).get(self.by) if self.by else metadata["name"]
        if agent:
            self.changed.put_nowait((metadata["namespace"], agent))

    def remove(self, obj: Object) -> None:
        self.objects.pop((obj["metadata"]["namespace"], obj["metadata"]["name"]), None)


class Simulation:
    """`prepare` once, then `run` for ever."""

    def __init__(
        self, client: ClusterClient, nodes: int, gpus_per_node: int, as_agent_of: Callable[[str], ClusterClient] | None = None
    ) -> None:
        self._client = client
        self._as_agent_of = as_agent_of or (lambda node: client)
        self._nodes = {node_name(number): gpus(number, gpus_per_node) for number in range(nodes)}
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._orders = Mirror(self._queue, "")
        self._claims = Mirror(self._queue, names.LABEL_AGENT)
        self._pods = Mirror(self._queue, names.LABEL_AGENT)
        self._busy: set[tuple[str, str]] = set()

    async def prepare(self) -> None:
        """Nodes and slices exist."""
        for number, (name, offered) in enumerate(self._nodes.items()):
            try:
                made = await self._client.create(resources.NODES, node(number), field_manager=names.FIELD_MANAGER_NODE)
            except AlreadyExists:
                made = await self._client.get(resources.NODES, name)
            wanted = slices.resource_slice(made, slices.devices(offered, SLOTS, None), 1)
            await self._client.apply(resources.RESOURCE_SLICES, wanted, field_manager=names.FIELD_MANAGER_NODE, force=True)
        log.info("%d simulated nodes with their ResourceSlices", len(self._nodes))

    async def run(self) -> None:
        """Orders on simulated nodes have their facts."""
        marked = Selection(labels=names.LABEL_AGENT)
        watched: list[tuple[Resource, Mirror, Selection]] = [
            (resources.AGENT_RUNTIMES, self._orders, Selection()),
            (resources.RESOURCE_CLAIMS, self._claims, marked),
            (resources.PODS, self._pods, marked),
        ]
        reflectors = [Reflector(self._client, resource, mirror, selection).run() for resource, mirror, selection in watched]
        await asyncio.gather(*reflectors, *(self._write() for _ in range(WRITERS)))

    def due(self, key: tuple[str, str], now: datetime) -> Object | None:
        """The order with the facts that it lacks, or None."""
        order = self._orders.objects.get(key)
        if order is None or order["spec"]["nodeName"] not in self._nodes:
            return None
        name = (key[0], order["spec"]["claimName"])
        claim, pod = self._claims.objects.get(name), self._pods.objects.get(name)
        if claim is None or pod is None or not claim.get("status", {}).get("allocation"):
            return None
        if pod["spec"].get("nodeName") != order["spec"]["nodeName"]:
            return None
        said = order.get("status") or {}
        if (said.get("claimUID"), said.get("podUID"), said.get("attempt")) == (
            claim["metadata"]["uid"],
            pod["metadata"]["uid"],
            order["spec"]["attempt"],
        ):
            return None
        metadata = {key: order["metadata"][key] for key in ("namespace", "name", "uid")}
        return {"metadata": metadata, "status": facts(order, claim, pod, now)}

    async def _write(self) -> None:
        while True:
            key = await self._queue.get()
            body = self.due(key, datetime.now(UTC))
            if body is None or key in self._busy:
                continue
            self._busy.add(key)
            try:
                node_agent = self._as_agent_of(self._orders.objects[key]["spec"]["nodeName"])
                written = await node_agent.apply(
                    resources.AGENT_RUNTIMES, body, field_manager=names.FIELD_MANAGER_NODE, force=True, subresource="status"
                )
                self._orders.objects[key] = written
            except (NotFound, Conflict):
                continue
            except ApiError as error:
                log.warning("the facts of %s/%s are not written yet: %s", *key, error)
                await asyncio.sleep(1)
                self._queue.put_nowait(key)
            finally:
                self._busy.discard(key)


def component_argv(kubeconfig: Path, nodes: int, gpus_per_node: int) -> tuple[str, ...]:
    """How the supervisor starts this program."""
    arguments = ("--kubeconfig", str(kubeconfig), "--nodes", str(nodes), "--gpus-per-node", str(gpus_per_node))
    return ours.argv("simulation", *arguments)


def stages() -> str:
    """KWOK's configuration: nodes are ready and say so now and then, pods run at once, and end at once when deleted."""
    return "---\n".join(json.dumps(stage, indent=1) + "\n" for stage in (_node_ready(), _node_heartbeat(), _pod_runs(), _pod_ends()))


def _stage(name: str, kind: str, conditions: list[Object], then: Object, **more: Any) -> Object:
    spec = {"resourceRef": {"apiGroup": "v1", "kind": kind}, "selector": {"matchExpressions": conditions}, "next": then, **more}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


_READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'
_DELETED = ".metadata.deletionTimestamp"


def _node_ready() -> Object:
    amounts = f"{{cpu: '{CPU}', memory: {MEMORY}, pods: '{PODS}'}}"
    template = f"""\
allocatable: {amounts}
capacity: {amounts}
phase: Running
{_NODE_CONDITIONS}"""
    return _stage("node-ready", "Node", [{"key": _READY, "operator": "NotIn", "values": ["True"]}], {"statusTemplate": template})


def _node_heartbeat() -> Object:
    delay = {"durationMilliseconds": HEARTBEAT_SECONDS * 1000, "jitterDurationMilliseconds": (HEARTBEAT_SECONDS + 60) * 1000}
    well = [{"key": _READY, "operator": "In", "values": ["True"]}]
    return _stage("node-heartbeat", "Node", well, {"statusTemplate": _NODE_CONDITIONS}, delay=delay, immediateNextStage=True)


_NODE_CONDITIONS = """\
conditions:
{{ $now := Now }}
{{ $since := or .metadata.creationTimestamp $now }}
- type: Ready
  status: "True"
  reason: KubeletReady
  message: simulated
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $since | Quote }}
"""


def _pod_runs() -> Object:
    template = """\
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  imageID: ""
  name: {{ .name | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""
    waits: list[Object] = [{"key": _DELETED, "operator": "DoesNotExist"}, {"key": ".status.phase", "operator": "In", "values": ["Pending"]}]
    return _stage("pod-runs", "Pod", waits, {"statusTemplate": template})


def _pod_ends() -> Object:
    return _stage("pod-ends", "Pod", [{"key": _DELETED, "operator": "Exists"}], {"delete": True})


async def simulate(kubeconfig: Path, nodes: int, gpus_per_node: int) -> None:
    client = await connect(kubeconfig, user_agent="aios-simulation")
    # Facts come from the node agent of the order's node and from nobody else, which the chart's policies see to.
    agents = {name: client.speaking_for(node_agent(name)) for name in map(node_name, range(nodes))}
    simulation = Simulation(client, nodes, gpus_per_node, agents.__getitem__)
    failures, backoff = 0, Backoff()
    while True:
        try:
            await simulation.prepare()
            break
        except ApiError as error:
            failures += 1
            log.warning("the nodes are not made yet: %s", error)
            await asyncio.sleep(backoff.wait(failures, random.random))
    await simulation.run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus-per-node", type=int, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(simulate(given.kubeconfig, given.nodes, given.gpus_per_node))


if __name__ == "__main__":
    main()
