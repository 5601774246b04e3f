"""Whatever is cut off, deleted, forced or edited, in whatever order: an identity never speaks from two places."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from unit.decide.test_node_lost import elsewhere
from unit.decide.world import NAMESPACE, Object, World, agent

MUTE_SECONDS = 60
NODES = ("n1", "n2", "n3")


class Voices(World):
    """A world that also knows what really runs on its nodes and what their gateways serve, whatever the API server believes."""

    def __init__(self) -> None:
        super().__init__()
        self.operator_sleeps = False
        self.running: dict[str, set[str]] = {name: set() for name in NODES}
        """By node: the names of the pods whose containers run."""
        self.orders: dict[str, str | None] = {}
        """By node: the pod of the order that its agent knows, if that is for this node."""
        self.fresh: dict[str, datetime] = {}
        """By node: when its agent last heard the orders and renewed its Lease."""

    def operate(self, budget: int | None = None) -> int:
        return 0 if self.operator_sleeps else super().operate(budget)

    def others(self) -> bool:
        changed = super().others()
        for name in NODES:
            if self.is_reached(name):
                self._sees(name)
        assert len(self.speaking()) <= 1, f"{self.speaking()} speak at {self.now}"
        return changed

    def _sees(self, name: str) -> None:
        """Kubelet and node agent of a node in touch: what runs is what the API holds, and the gateway serves what is ordered."""
        pods = [pod for pod in self.all("Pod") if pod["spec"].get("nodeName") == name]
        self.running[name] = {pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"}
        order = self.find("AgentRuntime", "a")
        here = order is not None and order["spec"]["nodeName"] == name
        self.orders[name] = order["spec"]["podName"] if here and order is not None else None
        self.fresh[name] = self.now

    def speaking(self) -> list[tuple[str, str]]:
        heard = [name for name in NODES if name in self.fresh and (self.now - self.fresh[name]).total_seconds() < MUTE_SECONDS]
        return [(name, pod) for name in heard if (pod := self.orders[name]) is not None and pod in self.running[name]]

    def at(self, name: str) -> Object | None:
        return self.find("Node", name)

    def bring_back(self, name: str) -> None:
        if self.at(name) is None:
            self.node(name, {f"GPU-{name}": "80Gi"})
        self.get("Node", name)["spec"].pop("taints", None)
        self.regain_contact(name)


def _remove_by_force(world: Voices, _: str) -> None:
    for name in world.names("Pod"):
        del world.objects["Pod", NAMESPACE, name]


def _edit(world: Voices, _: str) -> None:
    world.patch("a", gpu={"memory": f"{20 + len(world.written) % 7}Gi"})


def _move(world: Voices, _: str) -> None:
    """An edit by which the next attempt is for another node than the order that stands."""
    world.patch("a", gpu={"memory": f"{20 + len(world.written) % 7}Gi"}, template=elsewhere(world))


def _when_there(deed: Callable[[Voices, str], object]) -> Callable[[Voices, str], None]:
    def act(world: Voices, name: str) -> None:
        if world.at(name) is not None:
            deed(world, name)

    return act


DEEDS: dict[str, Callable[[Voices, str], object]] = {
    "is cut off": lambda world, name: world.lose_contact(name),
    "is not ready": _when_there(lambda world, name: world.say_ready(name, "Unknown")),
    "is deleted": _when_there(lambda world, name: world.delete("Node", name)),
    "is out of service": _when_there(lambda world, name: world.take_out_of_service(name)),
    "comes back": lambda world, name: world.bring_back(name),
    "pods are removed by force": _remove_by_force,
    "the agent is edited": _edit,
    "the agent is moved": _move,
    "the agent is stopped": lambda world, _: world.patch("a", operatingMode="Stopped"),
    "the agent is to run": lambda world, _: world.patch("a", operatingMode="Running"),
    "the operator starts anew": lambda world, _: world.forget(),
    "the operator sleeps": lambda world, _: setattr(world, "operator_sleeps", True),
    "the operator wakes": lambda world, _: setattr(world, "operator_sleeps", False),
    "kube-scheduler sleeps": lambda world, _: setattr(world, "scheduler_sleeps", True),
    "kube-scheduler wakes": lambda world, _: setattr(world, "scheduler_sleeps", False),
}
"""What may befall a node, or the Agent."""
stories = st.lists(
    st.tuples(st.sampled_from(sorted(DEEDS)), st.sampled_from(NODES), st.sampled_from([0, 1, 5, 20, 31, 45, 60, 89, 90, 100])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories)
@example([("is cut off", "n1", 10), ("the agent is moved", "n1", 0), ("pods are removed by force", "n1", 60)])
@example([("is cut off", "n1", 45), ("the agent is moved", "n1", 0), ("pods are removed by force", "n1", 60)])
@example([("is cut off", "n1", 20), ("the agent is moved", "n1", 0), ("is deleted", "n1", 60)])
@example([("the operator sleeps", "n1", 45), ("is deleted", "n1", 45), ("the operator wakes", "n1", 0)])
@example(
    [
        ("the operator sleeps", "n1", 0),
        ("is cut off", "n1", 0),
        ("the agent is moved", "n1", 0),
        ("pods are removed by force", "n1", 0),
        ("the operator starts anew", "n1", 0),
        ("the operator wakes", "n1", 45),
    ]
)
def test_an_identity_never_speaks_from_two_places_and_in_the_end_from_one(story: list[tuple[str, str, int]]) -> None:
    world = Voices()
    for name in NODES:
        world.node(name, {f"GPU-{name}": "80Gi"})
    world.apply(agent("a", "60Gi")).settle()
    assert len(world.speaking()) == 1
    for deed, name, seconds in story:
        DEEDS[deed](world, name)
        world.settle()
        for step in range(0, seconds, 10):
            world.wait(min(10, seconds - step))
    for name in NODES:
        world.bring_back(name)
    world.scheduler_sleeps = world.operator_sleeps = False
    world.patch("a", operatingMode="Running")
    for _ in range(60):
        if world.wait(10).ready("a"):
            break
    assert world.ready("a")
    assert len(world.speaking()) == 1
