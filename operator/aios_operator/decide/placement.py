"""Where an Agent goes: to the node of its context when it fits there, else best fit on VRAM over the GPUs that nodes publish, minus what
all claims and standing orders take.

A `Board` is the bookkeeping of one planning cycle. Placing books on it, so that two Agents of one cycle never get the same bytes.
A refusal is the answer of the first check in `PLACEMENT` that fails; its order is the order in which a person wants to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from aios_api.names import CONTRACT_VERSION
from aios_api.reasons import Reason
from aios_operator.decide import health
from aios_operator.decide.nodes import NO_SLOT, Obstacle, node_obstacle
from aios_operator.decide.objects import format_mebibytes
from aios_operator.decide.states import ClusterView, Exclusion, Refusal
from aios_operator.decide.views import AgentView, Gpu, GpuDevice, NodeView, Requests, SliceView, VramRequest

CONTEXT_ELSEWHERE = 9
"""The effort of giving up what the Agent remembers."""
START_EMPTY = "set spec.context.whenNodeLost to StartEmpty: then it runs elsewhere, without its context"
REFUSED_LATELY = 10
"""The effort of an obstacle that only time, or another than the user, removes."""


@dataclass(slots=True)
class Place:
    """One node on the board: what it offers and what is still free of it."""

    node: NodeView
    slice: SliceView
    free_mebibytes: dict[str, int]
    """By GPU uuid. Below 0 when more is booked than the GPU has now."""
    free_slots: int
    free: Requests
    closed: tuple[GpuDevice, ...] = ()
    """GPUs that take nobody new; `slice` has the others."""


@dataclass(slots=True)
class Held:
    """What one Agent holds already: free for itself when it is placed anew, since the old attempt ends first."""

    mebibytes: dict[tuple[str, str], int] = field(default_factory=dict)
    """By node and GPU uuid."""
    slots: dict[str, int] = field(default_factory=dict)
    requests: dict[str, Requests] = field(default_factory=dict)


@dataclass(slots=True)
class Board:
    """Every node that understands us, by name, and what each Agent holds."""

    places: dict[str, Place]
    held: dict[str, Held]
    slices: tuple[SliceView, ...]

    @classmethod
    def of(cls, view: ClusterView) -> Board:
        newest = health.newest(view.slices)
        places = {}
        for each in newest:
            node = view.nodes.get(each.node_name)
            if node is None or each.contract != CONTRACT_VERSION:
                continue
            closed = tuple(gpu for gpu in each.gpus if health.takes_nobody(gpu))
            each = replace(each, gpus=tuple(gpu for gpu in each.gpus if gpu not in closed))
            free = _minus(node.allocatable, view.foreign.get(node.name, Requests()))
            places[node.name] = Place(node, each, {gpu.uuid: gpu.mebibytes for gpu in each.gpus}, each.slots, free, closed)
        board = cls(places, {}, newest)
        board._book_claims(view)
        board._book_orders(view)
        for pod in view.pods:
            if pod.node_name is not None:
                board.take(pod.agent_uid, pod.node_name, None, 0, 0, pod.requests)
        return board

    def _book_claims(self, view: ClusterView) -> None:
        devices = {(s.pool, gpu.device): (s.node_name, gpu.uuid) for s in self.slices for gpu in s.gpus}
        nodes = {s.pool: s.node_name for s in self.slices}
        for claim in view.claims:
            for share in claim.shares:
                node, uuid = devices.get((share.pool, share.device), (nodes.get(share.pool), None))
                if node is not None:
                    self.take(claim.agent_uid, node, uuid, share.mebibytes, share.slots, Requests())

    def _book_orders(self, view: ClusterView) -> None:
        for order in view.orders:
            runtime, gpu = order.runtime, order.runtime.gpu
            if order.allocated:
                self.take(runtime.agent_uid, runtime.node_name, None, 0, 0, order.requests)
            else:
                uuid, mebibytes = (gpu.uuid, gpu.mebibytes) if gpu is not None else (None, 0)
                self.take(runtime.agent_uid, runtime.node_name, uuid, mebibytes, 1, order.requests)

    def take(self, agent_uid: str | None, node: str, uuid: str | None, mebibytes: int, slots: int, requests: Requests) -> None:
        """So much is no longer free on `node`; `agent_uid` (None: not an Agent) holds it."""
        place = self.places.get(node)
        if place is None:
            return
        if uuid is not None and uuid in place.free_mebibytes:
            place.free_mebibytes[uuid] -= mebibytes
        place.free_slots -= slots
        place.free = _minus(place.free, requests)
        if agent_uid is not None:
            held = self.held.setdefault(agent_uid, Held())
            if uuid is not None:
                held.mebibytes[node, uuid] = held.mebibytes.get((node, uuid), 0) + mebibytes
            held.slots[node] = held.slots.get(node, 0) + slots
            held.requests[node] = held.requests.get(node, Requests()) + requests


@dataclass(frozen=True, slots=True)
class Search:
    """One Agent's search on a board."""

    agent: AgentView
    board: Board
    held: Held
    home: str | None
    """The only node that will do, since the context is there and can't be moved. None: any."""
    near: str | None
    """The node that is taken before all others that would do, since the context is there. None: no matter."""
    excluded: Mapping[str, datetime]
    """Nodes that are left out, and until when."""
    _known: dict[str, Obstacle | None] = field(default_factory=dict)

    def obstacle(self, name: str) -> Obstacle | None:
        """Why the Agent can't run on that node, VRAM aside."""
        if name not in self._known:
            self._known[name] = self._look(name)
        return self._known[name]

    def _look(self, name: str) -> Obstacle | None:
        if self.home is not None and name != self.home:
            return Obstacle(CONTEXT_ELSEWHERE, f"its context is on {self.home}, which is not in touch", START_EMPTY)
        if name in self.excluded:
            why = f"kube-scheduler refused it there; left out until {self.excluded[name]:%H:%M:%S} UTC"
            return Obstacle(REFUSED_LATELY, why, f"remove what kube-scheduler has against {name}: see status.lastFailure")
        place = self.board.places[name]
        free = place.free + self.held.requests.get(name, Requests())
        return node_obstacle(self.agent, place.node, free, place.free_slots + self.held.slots.get(name, 0))

    def free_on(self, place: Place, gpu: GpuDevice) -> int:
        """MiB that this Agent could have of `gpu`."""
        return place.free_mebibytes[gpu.uuid] + self.held.mebibytes.get((place.node.name, gpu.uuid), 0)

    def accepted(self) -> Iterable[tuple[Place, GpuDevice]]:
        """Every GPU of a model that will do, on any node."""
        models = self.agent.gpu.models if self.agent.gpu else ()
        for place in self.board.places.values():
            for gpu in place.slice.gpus:
                if not models or gpu.model in models:
                    yield place, gpu

    def closed(self) -> list[str]:
        """Every GPU that would hold the share, were it not for its taints, and why it takes nobody new."""
        wanted = self.agent.gpu
        return [
            f"{gpu.uuid} on {place.node.name} {health.why(health.closing(gpu.taints))}"
            for place in self.board.places.values()
            for gpu in place.closed
            if wanted is not None and gpu.mebibytes >= wanted.mebibytes and (not wanted.models or gpu.model in wanted.models)
        ]

    def most_free(self) -> tuple[int, str, str]:
        """MiB, GPU and node: the most that this Agent could have at once on a node that would do; (0, "", "") without one."""
        there = ((self.free_on(place, gpu), gpu.uuid, place.node.name) for place, gpu in self.accepted())
        return max((option for option in there if self.obstacle(option[2]) is None), default=(0, "", ""))


def search(
    agent: AgentView, board: Board, exclusions: Iterable[Exclusion], now: datetime, home: str | None = None, near: str | None = None
) -> Search:
    excluded = {each.node: each.until for each in exclusions if each.holds(now)}
    return Search(agent, board, board.held.get(agent.uid, Held()), home, near, excluded)


def some_node_understands(s: Search) -> Refusal | None:
    """A node agent of this contract must publish something."""
    if s.board.places:
        return None
    return Refusal(
        Reason.NoNodes,
        "no node publishes a runtime that this operator understands",
        "run the node agent (the DaemonSet aios-node) on a node; kubectl get resourceslices shows when it is there",
    )


def context_is_there(s: Search) -> Refusal | None:
    """The node that holds the context must be there, when the Agent is to wait for it."""
    home = s.home
    if home is None or home in s.board.places:
        return None
    items = (s.agent.status.get("context") or {}).get("items")
    message = f"its context, with {items} items, is on node {home}, which publishes no runtime now"
    return Refusal(Reason.WaitingForContext, message, f"bring {home} back, or {START_EMPTY}")


def some_healthy_gpu_would_do(s: Search) -> Refusal | None:
    """Where the only GPUs that could hold the share take nobody new, that is what to say."""
    closed = s.closed()
    largest = max((gpu.mebibytes for _, gpu in s.accepted()), default=0)
    if s.agent.gpu is None or not closed or largest >= s.agent.gpu.mebibytes:
        return None
    listed = "; ".join(closed[:5]) + (f"; and {len(closed) - 5} more" if len(closed) > 5 else "")
    lower = f"lower spec.gpu.memory to {format_mebibytes(largest)}, or " if largest else ""
    return Refusal(
        Reason.GPUUnhealthy,
        f"asks for {format_mebibytes(s.agent.gpu.mebibytes)}; GPUs that could hold it take nobody new: {listed}",
        f"{lower}bring one of these GPUs back to health, so that its node takes the taint off, or replace it",
    )


def some_gpu_exists(s: Search) -> Refusal | None:
    """Somebody must publish a GPU at all."""
    if s.agent.gpu is None or any(place.slice.gpus for place in s.board.places.values()):
        return None
    withheld = sorted({f"{p.node.name}: {p.slice.gpus_refused}" for p in s.board.places.values() if p.slice.gpus_refused})
    return Refusal(
        Reason.LargerThanAnyGPU,
        "no node publishes a GPU that takes somebody new" + (f" ({'; '.join(withheld)})" if withheld else ""),
        "add a node with a GPU, or leave spec.gpu out",
    )


def model_is_known(s: Search) -> Refusal | None:
    """One of the accepted models must be published."""
    if s.agent.gpu is None or any(True for _ in s.accepted()):
        return None
    known = sorted({gpu.model for place in s.board.places.values() for gpu in place.slice.gpus})
    return Refusal(
        Reason.UnknownModel,
        f"accepts {_either(s.agent.gpu.models)}; the GPUs here are {', '.join(known)}",
        f"add {_either(known)} to spec.gpu.models, or leave spec.gpu.models out to accept any",
    )


def fits_largest_gpu(s: Search) -> Refusal | None:
    """Refuse what no GPU could ever hold, however long it waits."""
    if s.agent.gpu is None:
        return None
    largest = max(gpu.mebibytes for _, gpu in s.accepted())
    if s.agent.gpu.mebibytes <= largest:
        return None
    now = s.most_free()[0]
    hint = f" ({format_mebibytes(now)} has room at once)" if 0 < now < largest else ""
    return Refusal(
        Reason.LargerThanAnyGPU,
        f"asks for {format_mebibytes(s.agent.gpu.mebibytes)}; the largest GPU here has {format_mebibytes(largest)}",
        f"lower spec.gpu.memory to {format_mebibytes(largest)}{hint}",
    )


def some_node_fits(s: Search) -> Refusal | None:
    """A node must be able to run the pod; with VRAM, one whose GPU would do."""
    relevant = {place.node.name for place, _ in s.accepted()} if s.agent.gpu else set(s.board.places)
    obstacles = [(s.obstacle(name), name) for name in relevant]
    told = sorted((obstacle, name) for obstacle, name in obstacles if obstacle is not None)
    if len(told) < len(relevant):
        return None
    listed = "; ".join(f"{name}: {obstacle.why}" for obstacle, name in told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")
    out_of_slots = all(obstacle.effort == NO_SLOT for obstacle, _ in told)
    return Refusal(Reason.NoSlots if out_of_slots else Reason.NoNodeFits, f"no node fits: {listed}", told[0][0].change)


def some_gpu_has_room(s: Search) -> Refusal | None:
    """One GPU, on a node that fits, must have enough VRAM free now."""
    if s.agent.gpu is None:
        return None
    most, uuid, node = s.most_free()
    if most >= s.agent.gpu.mebibytes:
        return None
    wanted = format_mebibytes(s.agent.gpu.mebibytes)
    beside = "".join(f"; {each}" for each in s.closed()[:3])
    if most <= 0:
        return Refusal(Reason.NoGPUFits, f"asks for {wanted}; no GPU has free VRAM{beside}", f"stop Agents that hold {wanted} of one GPU")
    return Refusal(
        Reason.NoGPUFits,
        f"asks for {wanted}; the most free VRAM on one GPU is {format_mebibytes(most)} ({uuid} on {node}){beside}",
        f"lower spec.gpu.memory to {format_mebibytes(most)}",
    )


PLACEMENT: tuple[Callable[[Search], Refusal | None], ...] = (
    some_node_understands,
    context_is_there,
    some_healthy_gpu_would_do,
    some_gpu_exists,
    model_is_known,
    fits_largest_gpu,
    some_node_fits,
    some_gpu_has_room,
)


def place(s: Search) -> tuple[str, Gpu | None] | Refusal:
    """Node and GPU, or why there is none."""
    found = _without_gpu(s) if s.agent.gpu is None else _best_fit(s, s.agent.gpu)
    if found is not None:
        return found
    return next(refusal for check in PLACEMENT if (refusal := check(s)) is not None)


def _best_fit(s: Search, wanted: VramRequest) -> tuple[str, Gpu] | None:
    """The GPU of which least is left, on the node of the context first; ties by node and uuid."""
    left = ((s.free_on(place, gpu) - wanted.mebibytes, place.node.name, gpu.uuid, gpu.model) for place, gpu in s.accepted())
    fitting = (option for option in left if option[0] >= 0)
    for _, node, uuid, model in sorted(fitting, key=lambda option: (option[1] != s.near, option)):
        if s.obstacle(node) is None:
            return node, Gpu(uuid, model, wanted.mebibytes)
    return None


def _without_gpu(s: Search) -> tuple[str, None] | None:
    """The node of the context; else the one with the fewest GPUs, then the most free CPU, so that GPU nodes are left to those who need
    them."""
    fitting = [p for p in s.board.places.values() if s.obstacle(p.node.name) is None]
    best = min(fitting, key=lambda p: (p.node.name != s.near, len(p.slice.gpus), -p.free.cpu_milli, p.node.name), default=None)
    return None if best is None else (best.node.name, None)


def _either(options: Iterable[Any]) -> str:
    return " or ".join(options)


def _minus(a: Requests, b: Requests) -> Requests:
    return Requests(a.cpu_milli - b.cpu_milli, a.memory_bytes - b.memory_bytes, a.pods - b.pods)
