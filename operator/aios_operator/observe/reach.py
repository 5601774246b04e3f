"""From raw objects to views of what is reached: bindings, the policy of an order and what the gateway says of it, exposed ports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal
from weakref import WeakValueDictionary

from pydantic import ValidationError

from aios_api import names
from aios_api.egress import NOTHING, EgressPolicy, read_binding
from aios_operator.decide.exposure import pods_of
from aios_operator.decide.views import BindingView, EgressFacts, ExposureView, Key, Port

Raw = Mapping[str, Any]

_known: WeakValueDictionary[bytes, EgressPolicy] = WeakValueDictionary()
"""Policies by what they were read from: Agents that the same bindings select share one."""


def binding(raw: Raw) -> BindingView:
    metadata = raw["metadata"]
    return BindingView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        binding=read_binding(raw),
        deleting=bool(metadata.get("deletionTimestamp")),
        status=raw.get("status") or {},
    )


def policy(raw: Any) -> tuple[EgressPolicy | None, str | None]:
    """The policy in an order, and its digest. What is not a policy with its own digest is none, with an empty digest, and written anew."""
    if raw is None:
        return None, None
    key = hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).digest()
    found = _known.get(key)
    if found is None:
        try:
            found = EgressPolicy.model_validate(raw)
        except ValidationError:
            return None, ""
        if not found.whole:
            return None, ""
        _known[key] = found
    return found, found.digest


def facts(raw: Raw | None) -> EgressFacts:
    """A policy that allows nothing is told as none, as an order has it."""
    raw = raw or {}
    digest = raw.get("policyDigest")
    return EgressFacts(
        digest if digest != NOTHING.digest else None, {each["binding"]: each["count"] for each in raw.get("wouldDeny") or ()}
    )


def service(raw: Raw) -> ExposureView | None:
    """None for a Service that is not an Agent's."""
    spec = raw.get("spec") or {}
    listed = spec.get("ports") or ()
    ports = tuple(Port(each.get("name") or "", each["port"], each.get("protocol", "TCP")) for each in listed)
    straight = all(each.get("targetPort", each["port"]) == each["port"] for each in listed)
    plain = spec.get("type", "ClusterIP") == "ClusterIP" and not spec.get("externalIPs")
    return _exposure("Service", raw, spec.get("selector"), ports, straight and plain)


def expose_policy(raw: Raw) -> ExposureView | None:
    """None for a NetworkPolicy that does not let in what an Agent exposes."""
    spec = raw.get("spec") or {}
    ingress = spec.get("ingress") or []
    listed = ingress[0].get("ports") or [] if len(ingress) == 1 and set(ingress[0]) == {"ports"} else []
    ports = tuple(Port("", each.get("port", 0), each.get("protocol", "TCP")) for each in listed)
    plain = bool(ports) and not any("endPort" in each for each in listed)
    alone = spec.get("policyTypes") == ["Ingress"] and not spec.get("egress")
    selector = spec.get("podSelector") or {}
    found = _exposure("NetworkPolicy", raw, selector.get("matchLabels"), ports, plain and alone and not selector.get("matchExpressions"))
    return found if found is not None and found.name == names.expose_policy_name(found.agent.name) else None


def _exposure(
    kind: Literal["Service", "NetworkPolicy"], raw: Raw, selector: Mapping[str, str] | None, ports: tuple[Port, ...], as_ours: bool
) -> ExposureView | None:
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    name = labels.get(names.LABEL_AGENT)
    owner = next((o for o in metadata.get("ownerReferences") or () if o.get("controller") and o["kind"] == "Agent"), None)
    if labels.get(names.LABEL_MANAGED_BY) != names.MANAGED_BY or not name or owner is None or owner["name"] != name:
        return None
    return ExposureView(
        kind=kind,
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        agent=Key(metadata["namespace"], name),
        agent_uid=owner["uid"],
        ports=ports,
        current=as_ours and selector == pods_of(name, owner["uid"]),
        deleting=bool(metadata.get("deletionTimestamp")),
    )
