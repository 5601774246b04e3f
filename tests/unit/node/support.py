"""Small builders for the node agent's unit tests."""

from datetime import UTC, datetime
from typing import Any

from aios_sidecar.contracts.gpus import GPU
from aios_sidecar.node.state import AllocatedDevice, ClaimState, GPUShare

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLAIM_UID = "11111111-0000-4000-8000-000000000001"
GPU_A = GPU(uuid="GPU-AAAAAAAA-0000-4000-8000-000000000001", model="H100", index=0, memory_mib=81920)


def a_state(**changes: Any) -> ClaimState:
    state = ClaimState(
        claim_uid=CLAIM_UID,
        claim_name="agent-1",
        namespace="team",
        agent="agent",
        agent_uid="a",
        runtime_uid="r",
        attempt=1,
        pod_name="agent-1",
        devices=(AllocatedDevice(request="runtime", pool="node-a", device="runtime"),),
        gpu=GPUShare(uuid=GPU_A.uuid, model="H100", memory="10Gi", memory_bytes=10 << 30, gpu_memory_bytes=80 << 30, fake=False),
    )
    return state.model_copy(update=changes)
