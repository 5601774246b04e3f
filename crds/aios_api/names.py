"""The names that several rooms share: group, driver, labels, requests, ports, paths inside an agent's pod.

A name is written here once; a manifest, a program or a test that needs it imports it.
"""

from typing import Final

GROUP: Final = "aios.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

AGENTS: Final = "agents"
AGENT_RUNTIMES: Final = "agentruntimes"
GPU_QUOTAS: Final = "gpuquotas"
TOOL_BINDINGS: Final = "toolbindings"
CATEGORY: Final = "aios"
"""`kubectl get aios` lists all our kinds."""

DRIVER: Final = "gpu.aios.dev"
"""The DRA driver of the node agent; the name of its ResourceSlices' driver and the domain of its attributes."""
GPU_CLASS: Final = "gpu.aios.dev"
RUNTIME_CLASS: Final = "runtime.aios.dev"
CDI_KIND: Final = "gpu.aios.dev/claim"
CONTRACT_VERSION: Final = 1
"""What a node agent publishes on its `runtime` device and a claim requires: orders and facts are read alike on both sides."""

REQUEST_RUNTIME: Final = "runtime"
REQUEST_GPU: Final = "gpu"
POD_CLAIM: Final = "aios"
"""How an agent's pod calls its claim; every container refers to it."""

ATTRIBUTE_KIND: Final = "kind"
ATTRIBUTE_UUID: Final = "uuid"
ATTRIBUTE_MODEL: Final = "model"
ATTRIBUTE_INDEX: Final = "index"
ATTRIBUTE_FAKE: Final = "fake"
ATTRIBUTE_HEALTH: Final = "health"
"""Of a GPU: Healthy, Faulty (it has a taint), or Unmonitored (its errors or its use can't be told)."""
ATTRIBUTE_CONTRACT: Final = "contract"
ATTRIBUTE_REFUSED: Final = "gpusRefused"
"""On the `runtime` device: why this node publishes no GPU though it has some (another plugin serves them)."""
TAINT_UNHEALTHY: Final = "gpu.aios.dev/unhealthy"
"""On a device: the node agent's word that the GPU is not well; the value says what it saw."""
KIND_GPU: Final = "gpu"
KIND_RUNTIME: Final = "runtime"
CAPACITY_MEMORY: Final = "memory"
CAPACITY_SLOTS: Final = "slots"
RUNTIME_DEVICE: Final = "runtime"

RESERVED_PREFIX: Final = "aios.dev/"
"""Labels and annotations below it are ours; a template that sets one is refused."""
LABEL_AGENT: Final = "aios.dev/agent"
LABEL_AGENT_UID: Final = "aios.dev/agent-uid"
LABEL_ATTEMPT: Final = "aios.dev/attempt"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "aios-operator"
CLUSTER_RANGES: Final = "aios-cluster-ranges"
"""The ConfigMap by which the operator tells gateways which public address ranges are the cluster's own, in its namespace."""
CLUSTER_RANGES_KEY: Final = "cidrs"
"""Of its data: a range on each line."""
ANNOTATION_DIGEST: Final = "aios.dev/template-digest"
ANNOTATION_NUDGED: Final = "aios.dev/nudged"
"""On a pod: when the operator last asked the kubelet to look at it again."""
FINALIZER: Final = "aios.dev/release"

AGENT_NAME_MAX: Final = 52
"""Leaves ten digits for the attempt in `<agent>-<attempt>`, which is a host name and a label value (63 characters)."""

AGENT_DIR: Final = "/run/aios"
AGENT_SOCKET: Final = "/run/aios/agent.sock"
AGENT_PORT: Final = 2489
AGENT_URL: Final = f"http://127.0.0.1:{AGENT_PORT}"
"""The agent's endpoint on its loopback; also its proxy, and the only way out."""
NO_PROXY: Final = "127.0.0.1,localhost,::1"
PROXY_ENVIRONMENT: Final = {
    name: value
    for upper, value in (("HTTP_PROXY", AGENT_URL), ("HTTPS_PROXY", AGENT_URL), ("NO_PROXY", NO_PROXY))
    for name in (upper, upper.lower())
}
"""In every container of an agent. Programs read one case or the other."""

FIELD_MANAGER_OPERATOR: Final = "aios-operator"
FIELD_MANAGER_NODE: Final = "aios-node"

ANNOTATION_DOOR: Final = "aios.dev/context-address"
ANNOTATION_CERTIFICATE: Final = "aios.dev/context-certificate"
"""On the Lease of a node agent: where its gateway gives contexts to those of other nodes, and the certificate by which it is known."""

LABEL_COMPONENT: Final = "app.kubernetes.io/component"
COMPONENT_NODE_AGENT: Final = "node-agent"
"""Of the Leases of node agents: `LABEL_COMPONENT` selects them all."""


def node_lease_name(node: str) -> str:
    """The Lease, in the namespace of the release, by which the agent of this node says that it has fresh orders."""
    return f"aios-node.{node}"


def expose_policy_name(agent: str) -> str:
    """The name of the NetworkPolicy that lets in what the Agent exposes."""
    return f"aios-expose-{agent}"


def attempt_name(agent: str, attempt: int) -> str:
    """The name of the claim and of the pod of one attempt; never used twice."""
    return f"{agent}-{attempt}"
