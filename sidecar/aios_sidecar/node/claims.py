"""What a ResourceClaim and an order say together: whether the claim may be prepared here, and as what. Pure."""

from dataclasses import dataclass
from typing import Any

from aios_api import names
from aios_api.quantity import parse_bytes
from aios_sidecar.contracts.gpus import GPU, MIB
from aios_sidecar.node.orders import Order, Orders
from aios_sidecar.node.slices import gpu_device_name
from aios_sidecar.node.state import AllocatedDevice, ClaimState, GPUShare

Object = dict[str, Any]


class PrepareFailed(Exception):
    """The claim can't be prepared, now or ever; the sentence goes to the kubelet, and from there into the pod's events."""


class NotYet(PrepareFailed):
    """What is missing may still come: worth waiting for."""


@dataclass(frozen=True)
class ClaimRef:
    """A claim as the kubelet names it."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def order_of(ref: ClaimRef, claim: Object, orders: Orders, node_name: str) -> Order:
    """The order that asked for this claim. Raises PrepareFailed."""
    _require_uid(ref, claim)
    owners = [owner for owner in claim["metadata"].get("ownerReferences") or [] if owner.get("kind") == "AgentRuntime"]
    if len(owners) != 1:
        raise PrepareFailed(
            f"claim {ref} must be owned by exactly one AgentRuntime, not {len(owners)}: only the operator makes such claims"
        )
    order = orders.get(owners[0]["uid"])
    if order is None or order.spec.node_name != node_name:
        raise NotYet(f"no order for node {node_name}: AgentRuntime {ref.namespace}/{owners[0]['name']} of claim {ref} does not name it")
    if order.namespace != ref.namespace:
        raise PrepareFailed(f"claim {ref} and AgentRuntime {order.namespace}/{order.name} must be in one namespace")
    if order.spec.claim_name != ref.name:
        raise NotYet(f"AgentRuntime {order.namespace}/{order.name} orders claim {order.spec.claim_name}, not {ref.name}")
    return order


def prepared(ref: ClaimRef, claim: Object, order: Order, gpus: tuple[GPU, ...], node_name: str) -> ClaimState:
    """The state of the claim once it is prepared. Raises PrepareFailed when its allocation and the order disagree."""
    results = _results(ref, claim, node_name)
    return ClaimState(
        claim_uid=ref.uid,
        claim_name=ref.name,
        namespace=ref.namespace,
        agent=order.name,
        agent_uid=order.spec.agent_uid,
        runtime_uid=order.uid,
        attempt=order.spec.attempt,
        pod_name=order.spec.pod_name,
        devices=tuple(
            AllocatedDevice(request=result["request"], pool=result["pool"], device=result["device"], share_id=result.get("shareID"))
            for result in results
        ),
        gpu=_gpu_share(ref, results, order, gpus),
    )


def reserved_pod(claim: Object, pod_uid: str) -> str | None:
    """The name of the pod with this uid, if the claim is reserved for it."""
    for consumer in (claim.get("status") or {}).get("reservedFor") or []:
        if consumer.get("resource") == "pods" and consumer.get("uid") == pod_uid:
            return str(consumer.get("name", ""))
    return None


def _require_uid(ref: ClaimRef, claim: Object) -> None:
    if claim["metadata"]["uid"] != ref.uid:
        raise PrepareFailed(f"claim {ref} is another one now (uid {claim['metadata']['uid']}, not {ref.uid}): it was deleted and made anew")


def _results(ref: ClaimRef, claim: Object, node_name: str) -> list[Object]:
    allocation = (claim.get("status") or {}).get("allocation")
    if not allocation:
        raise NotYet(f"claim {ref} is not allocated")
    results = [result for result in allocation["devices"]["results"] if result["driver"] == names.DRIVER]
    elsewhere = [result["pool"] for result in results if result["pool"] != node_name]
    if elsewhere:
        raise PrepareFailed(f"claim {ref} is allocated on node {elsewhere[0]}; this is {node_name}")
    if [result["device"] for result in results if _request(result) == names.REQUEST_RUNTIME] != [names.RUNTIME_DEVICE]:
        raise PrepareFailed(f"claim {ref} must hold the device {names.RUNTIME_DEVICE} once, by the request {names.REQUEST_RUNTIME}")
    return results


def _request(result: Object) -> str:
    return str(result["request"]).partition("/")[0]


def _gpu_share(ref: ClaimRef, results: list[Object], order: Order, gpus: tuple[GPU, ...]) -> GPUShare | None:
    held = [result for result in results if result["device"] != names.RUNTIME_DEVICE]
    ordered = order.spec.gpu
    if ordered is None:
        if held:
            raise PrepareFailed(f"claim {ref} holds {held[0]['device']}, but its order names no GPU")
        return None
    if len(held) != 1 or held[0]["device"] != gpu_device_name(ordered.uuid):
        raise PrepareFailed(f"claim {ref} must hold {gpu_device_name(ordered.uuid)} once, as its order says")
    gpu = next((gpu for gpu in gpus if gpu.uuid == ordered.uuid), None)
    if gpu is None:
        raise NotYet(f"GPU {ordered.uuid} of claim {ref} is not on this node now")
    booked = str((held[0].get("consumedCapacity") or {}).get(names.CAPACITY_MEMORY) or "")
    if not booked:
        raise PrepareFailed(f"claim {ref} holds {held[0]['device']} without a booked {names.CAPACITY_MEMORY}: its request must name one")
    return GPUShare(
        uuid=gpu.uuid,
        model=gpu.model,
        memory=booked,
        memory_bytes=parse_bytes(booked),
        gpu_memory_bytes=gpu.memory_mib * MIB,
        fake=gpu.fake,
    )
