"""An Agent is deleted in every state of its life: nothing of it is left, and nothing holds it for longer than its time."""

from collections.abc import Callable

import pytest

from aios_api.names import FINALIZER
from aios_operator.decide import effects as do
from unit.decide.world import World, agent, gpu_quota

EXIT_3 = {"exitCode": 3, "reason": "Error"}
EXIT_0 = {"exitCode": 0, "reason": "Completed"}
CRASHING = {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}
LIMIT_SECONDS = 600


def two_nodes() -> World:
    return World().node("n1", {"GPU-a": "80Gi"}).node("n2", {"GPU-b": "80Gi"})


def running(**spec: object) -> World:
    return two_nodes().apply(agent("a", "60Gi", **spec)).settle()


def with_(world: World, **changes: object) -> World:
    """`world`, in which somebody behaves in that way."""
    for name, value in changes.items():
        setattr(world, name, value)
    return world


def ended(state: dict[str, object], **spec: object) -> World:
    world = two_nodes()
    world.exits["a"] = state
    return world.apply(agent("a", "60Gi", **spec)).settle()


def started_with(**changes: object) -> World:
    return with_(two_nodes(), **changes).apply(agent("a", "60Gi")).settle()


def tried_in_vain(**changes: object) -> World:
    """A write is refused again and again."""
    return with_(two_nodes(), **changes).apply(agent("a", "60Gi")).rounds(10)


def stopping() -> World:
    return with_(running(), kubelet_sleeps=True).patch("a", operatingMode="Stopped").settle()


def being_replaced() -> World:
    return with_(running(), kubelet_sleeps=True).patch("a", gpu={"memory": "50Gi"}).settle()


def name_taken() -> World:
    world = two_nodes()
    labels = {"kind": "ResourceClaim", "metadata": {"namespace": "team", "name": "a-1", "labels": {}}, "spec": {}, "status": {}}
    world.put(labels)
    return world.apply(agent("a", "60Gi"))


def node_lost() -> World:
    return running().lose_contact("n1").delete("Node", "n1").settle()


STATES: dict[str, tuple[Callable[[], World], tuple[str, str]]] = {
    "waits for a place": (lambda: two_nodes().apply(agent("a", "200Gi")).settle(), ("Placed", "LargerThanAnyGPU")),
    "waits for quota": (lambda: two_nodes().apply(gpu_quota(memory="1Gi"), agent("a", "60Gi")).settle(), ("Placed", "LargerThanQuota")),
    "its spec can't be read": (lambda: two_nodes().apply(agent("a", "a lot")).settle(), ("Accepted", "InvalidSpec")),
    "its template is refused": (lambda: started_with(invalid={"a": "no such field"}), ("Accepted", "TemplateRefused")),
    "its pod is forbidden": (lambda: tried_in_vain(forbidden={"a": "exceeded quota"}), ("Ready", "Forbidden")),
    "no policy stands": (lambda: tried_in_vain(policies_forbidden=True), ("Ready", "WaitingForScheduler")),
    "the name of its claim is taken": (lambda: name_taken().settle(), ("Ready", "Ready")),
    "kube-scheduler sleeps": (lambda: started_with(scheduler_sleeps=True), ("Ready", "WaitingForScheduler")),
    "kube-scheduler refuses": (lambda: started_with(scheduler_refuses={"n1", "n2"}).wait(5), ("Placed", "Placed")),
    "is not prepared": (lambda: started_with(unprepared={"a"}, nudges_help=False), ("Ready", "WaitingForNode")),
    "its image is missing": (
        lambda: started_with(waits={"a": {"reason": "ErrImagePull", "message": "no such image"}}),
        ("Ready", "ImagePull"),
    ),
    "its container crashes": (lambda: started_with(waits={"a": CRASHING}), ("Ready", "ContainerWaiting")),
    "runs": (running, ("Ready", "Ready")),
    "runs without a GPU": (lambda: two_nodes().apply(agent("a")).settle(), ("Ready", "Ready")),
    "is in its back-off": (lambda: ended(EXIT_3, restartPolicy="OnFailure"), ("Placed", "BackOff")),
    "is completed": (lambda: ended(EXIT_0, restartPolicy="Never"), ("Completed", "Completed")),
    "failed for good": (lambda: ended(EXIT_3, restartPolicy="Never"), ("Completed", "Failed")),
    "is stopped": (lambda: running().patch("a", operatingMode="Stopped").settle(), ("Placed", "Stopped")),
    "is stopping": (stopping, ("Placed", "Stopping")),
    "is past its deadline": (lambda: running(activeDeadlineSeconds=5).wait(5), ("Placed", "DeadlineExceeded")),
    "waits with an edit": (lambda: running().patch("a", gpu={"memory": "200Gi"}).settle(), ("Reconciling", "LargerThanAnyGPU")),
    "is being replaced": (being_replaced, ("Ready", "WaitingForRelease")),
    "lost its order": (lambda: running().delete("AgentRuntime", "a"), ("Ready", "Ready")),
    "lost its claim": (lambda: running().delete("ResourceClaim", "a-1").settle(), ("Ready", "Ready")),
    "lost its pod": (lambda: with_(running(), kubelet_sleeps=True).delete("Pod", "a-1").settle(), ("Ready", "WaitingForRelease")),
    "leaves an unhealthy GPU": (lambda: with_(running(), kubelet_sleeps=True).taint_gpu("GPU-a").settle(), ("Ready", "WaitingForRelease")),
    "is on a silent node": (lambda: running().lose_contact("n1").settle().wait(60), ("Ready", "NodeSilent")),
    "lost its node": (node_lost, ("Ready", "WaitingForMute")),
}


def left(world: World) -> list[str]:
    kept = ("Node", "ResourceSlice", "GPUQuota")
    return [
        f"{kind} {name}" for kind, _, name in world.objects if kind not in kept and not (kind == "ResourceClaim" and foreign(world, name))
    ]


def foreign(world: World, claim: str) -> bool:
    return not world.get("ResourceClaim", claim)["metadata"].get("labels")


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_the_one_that_it_says_it_is(state: str):
    build, (kind, reason) = STATES[state]
    assert build().condition("a", kind)[1] == reason


@pytest.mark.parametrize("state", STATES)
def test_nothing_is_left_of_an_agent_that_is_deleted(state: str):
    world = STATES[state][0]()
    world.delete("Agent", "a").settle()
    world.kubelet_sleeps = world.scheduler_sleeps = False
    for name in list(world.cut_off):
        if world.find("Node", name) is not None:
            world.say_ready(name, "Unknown")
    world.settle().wait(90)
    assert left(world) == []


@pytest.mark.parametrize("state", STATES)
def test_whatever_hangs_an_agent_is_let_go_when_its_time_is_over(state: str):
    """No kubelet ends a pod any more, and nobody collects what is left."""
    world = STATES[state][0]()
    world.kubelet_sleeps = world.scheduler_sleeps = world.pod_gc_sleeps = True
    for name in world.names("Node"):
        world.lose_contact(name)
    hung = bool(world.names("Pod"))
    world.delete("Agent", "a").settle().wait(LIMIT_SECONDS - 1)
    if hung and world.find("Agent", "a") is not None:
        assert FINALIZER in world.get("Agent", "a")["metadata"]["finalizers"]
    world.wait(1)
    assert world.find("Agent", "a") is None


@pytest.mark.parametrize("state", STATES)
def test_an_operator_that_is_killed_after_each_write_of_a_removal_comes_to_the_same_end(state: str):
    world = STATES[state][0]()
    world.kubelet_sleeps = world.scheduler_sleeps = False
    world.delete("Agent", "a")
    for _ in range(30):
        world.operate(1)
        world.forget()
        world.others()
    for name in list(world.cut_off):
        if world.find("Node", name) is not None:
            world.say_ready(name, "Unknown")
    world.settle().wait(90)
    assert left(world) == []


def test_nobody_is_placed_or_given_an_attempt_while_it_is_deleted():
    for build, _ in STATES.values():
        world = build()
        world.delete("Agent", "a")
        world.written.clear()
        world.settle().wait(LIMIT_SECONDS)
        assert not [w for w in world.written if isinstance(w, do.ApplyRuntime | do.CreateClaim | do.CreatePod)]
