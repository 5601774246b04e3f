"""Small ToolBindings, and policies compiled from them."""

from typing import Any

from aios_api.egress import Binding, EgressPolicy, compile_policy, read_binding

LABELS = {"app": "coder"}
ALL = {"matchLabels": LABELS}


def raw(
    name: str = "models", *rules: dict[str, Any], generation: int = 1, created: str = "2026-01-01T00:00:00Z", **spec: Any
) -> dict[str, Any]:
    """An object as the API server has it, selecting Agents with `LABELS`; rules without a name get one."""
    named = [{"name": f"r{number}", **rule} for number, rule in enumerate(rules)]
    return {
        "metadata": {"name": name, "generation": generation, "creationTimestamp": created},
        "spec": {"agentSelector": ALL, **({"egress": named} if named else {}), **spec},
    }


def binding(name: str = "models", *rules: dict[str, Any], **more: Any) -> Binding:
    return read_binding(raw(name, *rules, **more))


def policy(*bindings: Binding, previous: EgressPolicy | None = None) -> EgressPolicy:
    """Of an Agent with `LABELS`."""
    return compile_policy(bindings, LABELS, previous)


def allowing(*rules: dict[str, Any], **more: Any) -> EgressPolicy:
    return policy(binding("models", *rules, **more))
