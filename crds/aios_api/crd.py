"""The CustomResourceDefinitions: the models' schemas, with names, columns and what must be true of a whole object."""

from collections.abc import Sequence

from pydantic import BaseModel

from aios_api import names
from aios_api.agent import AgentSpec, AgentStatus
from aios_api.binding import BINDING_NAME_MAX, ToolBindingSpec, ToolBindingStatus
from aios_api.quota import GPUQuotaSpec, GPUQuotaStatus
from aios_api.runtime import AgentRuntimeSpec, AgentRuntimeStatus
from aios_api.schema import Schema, rule, struct, structural, text

AGENT_DESCRIPTION = (
    "An AI agent: one identity, one pod at a time, a share of a GPU of its own, and no way out of its pod except through its node. "
    "KubeAIOS chooses the place, creates the pod, and starts it again elsewhere when it ends before its time."
)
RUNTIME_DESCRIPTION = (
    "The operator's order to a node for one Agent, and the node's facts about it. Internal: written by the operator and the node agent, "
    "and named as its Agent; people read agents."
)
QUOTA_DESCRIPTION = (
    "What the Agents of a namespace may hold together. An Agent holds its part from its admission to its release, between two attempts as "
    "well. The oldest quota of a namespace counts. What is granted less than held is not taken away: nobody gets more until it is released."
)
BINDING_DESCRIPTION = (
    "What the Agents that it selects may reach. An Agent reaches nothing that no binding of its namespace allows; several bindings add up, "
    "and nothing subtracts. A change is in force at once, and connections that it forbids end; so does what a deleted binding allowed."
)


def definitions() -> list[Schema]:
    """All our CustomResourceDefinitions, in the order in which they are written."""
    return [_agent(), _agent_runtime(), _gpu_quota(), _tool_binding()]


def _agent() -> Schema:
    name = "self.metadata.name"
    limit = names.AGENT_NAME_MAX
    rules = [
        rule(
            f"size({name}) <= {limit}",
            f"metadata.name must have at most {limit} characters: the number of the attempt is added to it",
            path=".metadata.name",
            reason="FieldValueInvalid",
        ),
        rule(
            f"!{name}.contains('.')",
            "metadata.name must not contain a dot: it is a host name",
            path=".metadata.name",
            reason="FieldValueInvalid",
        ),
        rule(
            f"!has(self.spec.expose) || size(self.spec.expose) == 0 || {name}.matches('^[a-z]')",
            "metadata.name must begin with a letter where spec.expose is set: the Service has the same name",
            path=".metadata.name",
            reason="FieldValueInvalid",
        ),
    ]
    columns = [
        _column("Ready", _condition("Ready", "status")),
        _column("Reason", _condition("Ready", "reason")),
        _column("GPU", ".status.gpu.model"),
        _column("VRAM", ".spec.gpu.memory"),
        _column("Node", ".status.nodeName"),
        _column("Priority", ".spec.priority", kind="integer", wide=True),
        _column("Attempt", ".status.attempt", kind="integer", wide=True),
        _column("Pod", ".status.podName", wide=True),
        _column("Waiting for", ".status.pending.message", wide=True),
        _column("Age", ".metadata.creationTimestamp", kind="date"),
    ]
    return _definition("Agent", names.AGENTS, "agt", AGENT_DESCRIPTION, AgentSpec, AgentStatus, rules, columns)


def _agent_runtime() -> Schema:
    # string(attempt) has no bound that the API server's cost estimate knows; the number at the end of a bounded name has
    claim, number = "self.spec.claimName", "size(self.metadata.name) + 1"
    rules = [
        rule(
            f"{claim}.startsWith(self.metadata.name + '-') && int({claim}.substring({number})) == self.spec.attempt",
            "claimName must be the Agent's name, a dash and the attempt",
            path=".spec.claimName",
            reason="FieldValueInvalid",
        ),
        rule(f"self.spec.podName == {claim}", "podName must be as claimName", path=".spec.podName", reason="FieldValueInvalid"),
    ]
    columns = [
        _column("Node", ".spec.nodeName"),
        _column("Attempt", ".spec.attempt", kind="integer"),
        *(_column(kind, _condition(kind, "status")) for kind in ("Prepared", "Fenced", "Listening")),
        _column("GPU", ".spec.gpu.uuid", wide=True),
        _column("VRAM", ".spec.gpu.memory", wide=True),
        _column("Age", ".metadata.creationTimestamp", kind="date"),
    ]
    models = (AgentRuntimeSpec, AgentRuntimeStatus)
    return _definition(
        "AgentRuntime",
        names.AGENT_RUNTIMES,
        "agtr",
        RUNTIME_DESCRIPTION,
        *models,
        rules,
        columns,
        selectable=[".spec.nodeName", ".spec.contextFrom.nodeName"],
    )


def _gpu_quota() -> Schema:
    columns = [
        _column("In force", _condition("InForce", "status")),
        _column("Nominal", ".spec.memory.nominal"),
        _column("Reserved", ".status.reserved.memory"),
        _column("Used", ".status.used.memory"),
        _column("Agents", ".spec.agents", kind="integer"),
        _column("Holding", ".status.reserved.agents", kind="integer"),
        _column("Waiting", ".status.waiting.agents", kind="integer"),
        _column("Exceeded", _condition("Exceeded", "status"), wide=True),
        _column("Age", ".metadata.creationTimestamp", kind="date"),
    ]
    return _definition("GPUQuota", names.GPU_QUOTAS, "gq", QUOTA_DESCRIPTION, GPUQuotaSpec, GPUQuotaStatus, [], columns)


def _tool_binding() -> Schema:
    rules = [
        rule(
            f"size(self.metadata.name) <= {BINDING_NAME_MAX}",
            f"metadata.name must have at most {BINDING_NAME_MAX} characters: each rule in force carries it",
            path=".metadata.name",
            reason="FieldValueInvalid",
        )
    ]
    columns = [
        _column("Ready", _condition("Ready", "status")),
        _column("Reason", _condition("Ready", "reason")),
        _column("Mode", ".spec.mode"),
        _column("Agents", ".status.agents", kind="integer"),
        _column("Programmed", ".status.programmed", kind="integer"),
        _column("Would deny", ".status.wouldDeny", kind="integer"),
        _column("Age", ".metadata.creationTimestamp", kind="date"),
    ]
    models = (ToolBindingSpec, ToolBindingStatus)
    return _definition("ToolBinding", names.TOOL_BINDINGS, "tb", BINDING_DESCRIPTION, *models, rules, columns)


def _definition(
    kind: str,
    plural: str,
    short: str,
    description: str,
    spec: type[BaseModel],
    status: type[BaseModel],
    rules: Sequence[Schema],
    columns: Sequence[Schema],
    selectable: Sequence[str] = (),
) -> Schema:
    root = struct(
        {
            "apiVersion": text(64, description=f"{names.API_VERSION} for this version."),
            "kind": text(64, description=f"{kind}."),
            "metadata": struct({"name": text(253)}),
            "spec": structural(spec),
            "status": structural(status),
        },
        *rules,
        required=["spec"],
        description=description,
    )
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": list(columns),
        **({"selectableFields": [{"jsonPath": path} for path in selectable]} if selectable else {}),
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": root},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": [names.CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _column(name: str, path: str, *, kind: str = "string", wide: bool = False) -> Schema:
    """A column of `kubectl get`; a wide one is shown with `-o wide`."""
    return {"name": name, "type": kind, "jsonPath": path, **({"priority": 1} if wide else {})}


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'
