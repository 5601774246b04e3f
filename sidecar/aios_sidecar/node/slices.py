"""What this node offers, as the spec of its one ResourceSlice: a `runtime` device with slots, and each GPU that can be shared. Pure."""

from collections.abc import Mapping
from typing import Any

from aios_api import names
from aios_api.quantity import format_bytes
from aios_sidecar.contracts.gpus import GPU, MIB
from aios_sidecar.node.health import State, Taint

REFUSED_BY_ALLOCATABLE = "another device plugin serves nvidia.com/gpu"
REFUSED_BY_SLICES = "the DRA driver gpu.nvidia.com serves them"
VENDOR_DRIVER = "gpu.nvidia.com"
VENDOR_RESOURCE = "nvidia.com/gpu"
ATTRIBUTE_CHARACTERS = 64
"""The API server's limit for an attribute's string."""

Spec = dict[str, Any]


def gpu_device_name(uuid: str) -> str:
    """The same for the same GPU after a reboot, wherever it is plugged in."""
    return f"gpu-{uuid.removeprefix('GPU-').lower()}"


Health = Mapping[str, tuple[State, Taint | None]]
"""Of GPUs, by uuid."""


def gpu_device(gpu: GPU, health: Health | None = None) -> Spec:
    """A GPU of which many claims may hold a part, in steps of 1 MiB. One of whose health nothing is known is published as unmonitored."""
    state, taint = (health or {}).get(gpu.uuid, ("Unmonitored", None))
    total = format_bytes(gpu.memory_mib * MIB)  # canonical, so that what is read back equals what was written
    policy = {"default": "1Mi", "validRange": {"min": "1Mi", "step": "1Mi", "max": total}}
    return {
        "name": gpu_device_name(gpu.uuid),
        "allowMultipleAllocations": True,
        "attributes": {
            names.ATTRIBUTE_KIND: {"string": names.KIND_GPU},
            names.ATTRIBUTE_UUID: {"string": gpu.uuid},
            names.ATTRIBUTE_MODEL: {"string": gpu.model[:ATTRIBUTE_CHARACTERS]},
            names.ATTRIBUTE_INDEX: {"int": gpu.index},
            names.ATTRIBUTE_FAKE: {"bool": gpu.fake},
            names.ATTRIBUTE_HEALTH: {"string": state},
        },
        "capacity": {names.CAPACITY_MEMORY: {"value": total, "requestPolicy": policy}},
        **({"taints": [taint.published()]} if taint is not None else {}),
    }


def runtime_device(slots: int, refused: str | None) -> Spec:
    """The node itself: what every Agent takes a slot of, with or without a GPU."""
    attributes: Spec = {
        names.ATTRIBUTE_KIND: {"string": names.KIND_RUNTIME},
        names.ATTRIBUTE_CONTRACT: {"int": names.CONTRACT_VERSION},
    }
    if refused is not None:
        attributes[names.ATTRIBUTE_REFUSED] = {"string": refused[:ATTRIBUTE_CHARACTERS]}
    return {
        "name": names.RUNTIME_DEVICE,
        "allowMultipleAllocations": True,
        "attributes": attributes,
        "capacity": {names.CAPACITY_SLOTS: {"value": str(slots), "requestPolicy": {"default": "1", "validValues": ["1"]}}},
    }


def devices(gpus: tuple[GPU, ...], slots: int, refused: str | None, health: Health | None = None) -> list[Spec]:
    """All devices of the node; GPUs that another plugin serves are not among them."""
    offered = () if refused is not None else gpus
    return [runtime_device(slots, refused), *(gpu_device(gpu, health) for gpu in sorted(offered, key=lambda gpu: gpu.uuid))]


def refusal(node: Spec | None, slices: list[Spec]) -> str | None:
    """Why the node's GPUs are not ours to offer; None when nobody else serves them."""
    allocatable = ((node or {}).get("status") or {}).get("allocatable") or {}
    if str(allocatable.get(VENDOR_RESOURCE, "0")) != "0":
        return REFUSED_BY_ALLOCATABLE
    if any(item["spec"].get("driver") == VENDOR_DRIVER and item["spec"].get("devices") for item in slices):
        return REFUSED_BY_SLICES
    return None


def slice_name(node_name: str) -> str:
    return f"{node_name}-{names.DRIVER}"


def resource_slice(node: Spec, offered: list[Spec], generation: int) -> Spec:
    """The node's ResourceSlice; it goes with its Node."""
    node_name = node["metadata"]["name"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": node_name, "uid": node["metadata"]["uid"], "controller": True}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": slice_name(node_name), "ownerReferences": [owner]},
        "spec": {
            "driver": names.DRIVER,
            "nodeName": node_name,
            "pool": {"name": node_name, "generation": generation, "resourceSliceCount": 1},
            "devices": offered,
        },
    }
