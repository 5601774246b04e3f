"""What is said to who waits: the first thing that matters, with numbers, and the smallest change that would help."""

from datetime import timedelta

import pytest

from aios_operator.decide.views import Requests
from unit.decide.world import H100, World, agent


def pending(world: World, *agents: object) -> tuple[str, str, str]:
    """Of Agent `a`: reason, message, smallest change."""
    told = world.apply(*agents).settle().status("a")["pending"]  # type: ignore[arg-type]
    return told["reason"], told["message"], told["smallestChange"]


def test_without_a_node_agent_there_is_no_place():
    reason, _, change = pending(World(), agent("a"))
    assert reason == "NoNodes"
    assert "aios-node" in change


def test_a_node_agent_of_another_contract_is_none():
    world = World().node("n1")
    world.get("ResourceSlice", "n1-slice")["spec"]["devices"][0]["attributes"]["contract"] = {"int": 2}
    assert pending(world, agent("a"))[0] == "NoNodes"


def test_withheld_gpus_are_named_with_their_reason():
    world = World().node("n1")
    world.get("ResourceSlice", "n1-slice")["spec"]["devices"][0]["attributes"]["gpusRefused"] = {"string": "another plugin serves them"}
    reason, message, _ = pending(world, agent("a", "1Gi"))
    assert reason == "LargerThanAnyGPU"
    assert "n1: another plugin serves them" in message


def test_an_unknown_model_is_answered_with_those_that_there_are():
    reason, message, change = pending(World().node("n1", {"g": "80Gi"}), agent("a", "1Gi", ["NVIDIA Nothing 9000"]))
    assert reason == "UnknownModel"
    assert "NVIDIA Nothing 9000" in message
    assert H100 in change


def test_larger_than_any_gpu_names_the_largest():
    told = pending(World().node("n1", {"g": "80Gi", "h": "24Gi"}), agent("a", "200Gi"))
    assert told == ("LargerThanAnyGPU", "asks for 200Gi; the largest GPU here has 80Gi", "lower spec.gpu.memory to 80Gi")


def test_larger_than_any_gpu_also_says_what_has_room_at_once():
    world = World().node("n1", {"g": "80Gi"}).apply(agent("b", "56Gi")).settle()
    assert pending(world, agent("a", "200Gi"))[2] == "lower spec.gpu.memory to 80Gi (24Gi has room at once)"


def test_no_room_names_the_gpu_with_the_most_and_how_much_it_has():
    world = World().node("n1", {"g": "80Gi"}).apply(agent("b", "56Gi")).settle()
    told = pending(world, agent("a", "40Gi"))
    assert told == (
        "NoGPUFits",
        "asks for 40Gi; the most free VRAM on one GPU is 24Gi (g on n1)",
        "lower spec.gpu.memory to 24Gi",
    )


def test_a_tainted_gpu_takes_nobody_new():
    world = World().node("n1", {"g": "80Gi", "h": "24Gi"})
    device = world.get("ResourceSlice", "n1-slice")["spec"]["devices"][1]
    device["taints"] = [{"key": "health", "effect": "NoSchedule"}]
    reason, message, change = pending(world, agent("a", "40Gi"))
    assert reason == "GPUUnhealthy"
    assert "g on n1 carries the taint health:NoSchedule" in message
    assert change.startswith("lower spec.gpu.memory to 24Gi, or bring one of these GPUs back to health")
    assert world.patch("a", gpu={"memory": "24Gi"}).settle().ready("a")


def test_an_unhealthy_gpu_is_named_with_what_its_node_saw():
    world = World().node("n1", {"g": "80Gi"}).taint_gpu("g", "xid79", "NoSchedule")
    assert pending(world, agent("a", "40Gi"))[:2] == (
        "GPUUnhealthy",
        "asks for 40Gi; GPUs that could hold it take nobody new: g on n1 is unhealthy: xid79",
    )


def test_where_healthy_gpus_are_only_full_the_unhealthy_one_is_named_beside():
    world = World().node("n1", {"g": "80Gi", "h": "80Gi"}).taint_gpu("g").apply(agent("b", "56Gi")).settle()
    reason, message, change = pending(world, agent("a", "40Gi"))
    assert reason == "NoGPUFits"
    assert message.endswith("24Gi (h on n1); g on n1 is unhealthy: xid79")
    assert change == "lower spec.gpu.memory to 24Gi"


def test_a_taint_that_only_informs_keeps_nobody_away():
    world = World().node("n1", {"g": "80Gi"}).taint_gpu("g", effect="None").apply(agent("a", "40Gi")).settle()
    assert world.ready("a")
    assert world.condition("a", "GPUHealthy") == ("", "")


def test_no_slot_anywhere_is_said_as_such():
    world = World().node("n1", slots=1).apply(agent("b")).settle()
    assert pending(world, agent("a"))[0] == "NoSlots"


def test_what_foreign_pods_request_counts():
    world = World().node("n1", cpu="4")
    world.foreign = {"n1": Requests(3500, 0, 3)}
    reason, message, change = pending(world, agent("a", cpu="1"))
    assert reason == "NoNodeFits"
    assert message == "no node fits: n1: asks for 1000m CPU, 500m are free"
    assert change == "lower the CPU that the template requests to 500m in all"


def test_a_foreign_claim_on_a_gpu_counts():
    world = World().node("n1", {"g": "80Gi"})
    result = {"request": "x", "driver": "gpu.aios.dev", "pool": "n1", "device": "gpu-g", "consumedCapacity": {"memory": "60Gi"}}
    status = {"allocation": {"devices": {"results": [result]}}, "reservedFor": [{"uid": "someone"}]}
    claim = {"kind": "ResourceClaim", "metadata": {"namespace": "team", "name": "theirs"}, "spec": {}, "status": status}
    claim["metadata"]["labels"] = {}  # type: ignore[index]
    world.put({"kind": "Pod", "metadata": {"namespace": "team", "name": "p", "uid": "someone", "labels": {}}, "spec": {}, "status": {}})
    world.kubelet_sleeps = world.scheduler_sleeps = True
    world.put(claim)
    assert pending(world, agent("a", "40Gi"))[2] == "lower spec.gpu.memory to 20Gi"


@pytest.mark.parametrize(
    ("template", "change"),
    [
        ({"nodeSelector": {"zone": "b"}}, "let spec.template.spec.nodeSelector and its node affinity select n1"),
        ({}, "tolerate gpu=only:NoSchedule in spec.template.spec.tolerations"),
    ],
)
def test_a_node_that_does_not_let_it_in_says_what_would(template: dict[str, object], change: str):
    world = World().node("n1")
    if not template:
        world.get("Node", "n1")["spec"]["taints"] = [{"key": "gpu", "value": "only", "effect": "NoSchedule"}]
    assert pending(world, agent("a", template=template))[::2] == ("NoNodeFits", change)


def test_among_nodes_the_one_that_asks_least_of_the_user_is_advised():
    world = World().node("n1").node("n2", cpu="1")
    world.get("Node", "n1")["status"]["conditions"][0]["status"] = "False"
    assert "1000m in all" in pending(world, agent("a", cpu="2"))[2]


def test_numbers_that_change_are_not_written_at_every_change():
    world = World().node("n1", {"g": "80Gi"}).apply(agent("a", "80Gi", operatingMode="Stopped"), agent("b", "40Gi")).settle()
    world.patch("a", operatingMode="Running").settle()
    first = world.status("a")["pending"]["message"]
    world.now += timedelta(seconds=3)
    world.apply(agent("c", "10Gi")).settle()
    assert world.status("a")["pending"]["message"] == first
    world.wait(7)
    assert "30Gi" in world.status("a")["pending"]["message"]


def test_an_edit_is_answered_at_once():
    world = World().node("n1", {"g": "80Gi"}).apply(agent("a", "200Gi")).settle()
    world.patch("a", gpu={"memory": "100Gi"}).settle()
    assert "asks for 100Gi" in world.status("a")["pending"]["message"]
