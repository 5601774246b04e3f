"""The resources that we use, each with what its address in the API needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from aios_api import names


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object in the API."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The path on the API server: the collection, or the object when `name` is given. No namespace means all of them."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            if self.namespaced and not namespace:
                raise ValueError(f"{self.kind} {name!r} must be addressed with its namespace")
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(quote(part, safe="") for part in parts)


AGENTS: Final = Resource(names.GROUP, names.VERSION, "Agent", names.AGENTS)
AGENT_RUNTIMES: Final = Resource(names.GROUP, names.VERSION, "AgentRuntime", names.AGENT_RUNTIMES)
GPU_QUOTAS: Final = Resource(names.GROUP, names.VERSION, "GPUQuota", names.GPU_QUOTAS)
TOOL_BINDINGS: Final = Resource(names.GROUP, names.VERSION, "ToolBinding", names.TOOL_BINDINGS)
PODS: Final = Resource("", "v1", "Pod", "pods")
NODES: Final = Resource("", "v1", "Node", "nodes", namespaced=False)
NAMESPACES: Final = Resource("", "v1", "Namespace", "namespaces", namespaced=False)
SERVICE_ACCOUNTS: Final = Resource("", "v1", "ServiceAccount", "serviceaccounts")
SERVICES: Final = Resource("", "v1", "Service", "services")
CONFIG_MAPS: Final = Resource("", "v1", "ConfigMap", "configmaps")
RESOURCE_CLAIMS: Final = Resource("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims")
RESOURCE_SLICES: Final = Resource("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", namespaced=False)
DEVICE_CLASSES: Final = Resource("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", namespaced=False)
SERVICE_CIDRS: Final = Resource("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", namespaced=False)
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
EVENTS: Final = Resource("events.k8s.io", "v1", "Event", "events")
LEASES: Final = Resource("coordination.k8s.io", "v1", "Lease", "leases")
CUSTOM_RESOURCE_DEFINITIONS: Final = Resource(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
