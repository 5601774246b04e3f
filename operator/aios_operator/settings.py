"""What an operator's administrator may set, each by an environment variable; the chart sets the ones that differ per installation."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from aios_kube.backoff import Backoff


class InvalidSetting(ValueError):
    """An environment variable can't be read; the message names it and says what it must be."""


@dataclass(frozen=True)
class OperatorSettings:
    """Every field named `x_y` may be given as `AIOS_X_Y`, except those that only code sets."""

    kubeconfig: Path | None = None
    """File with the cluster's address and our credentials. None: the service account of our pod, which is the rule in a cluster."""

    identity: str = "aios-operator"
    """Who we are in events, in the log and in the Lease; the chart gives the pod's name."""

    lease_namespace: str | None = None
    """Namespace of the Lease `aios-operator`, by which one of several operators decides, and of those that node agents renew; the chart
    gives its own. None: no other operator runs, and none is asked; no node is heard, and none is given up. How long a Lease lasts is
    `aios_kube.lease.LeaseSettings`."""

    mute_seconds: float = 60.0
    """After so long without fresh orders a node's gateway answers no agent. Node agents must have the same: the chart gives both its
    `muteSeconds`."""

    lost_margin_seconds: float = 30.0
    """How much longer than that a node must be silent before its agents start elsewhere: room for two renewals of its Lease that were
    late, and for a network that is just coming back. Above a kubelet's own 40 to 50 s until its node is not ready."""

    http_host: str = "0.0.0.0"  # noqa: S104 - the kubelet and Prometheus come from outside the pod
    """Address on which metrics and probes are served."""

    http_port: int = 8080
    """Port on which metrics and probes are served."""

    log_format: str = "text"
    """`text` for people, `json` for collectors."""

    log_level: str = "INFO"
    """Python's name of the least level that is logged. INFO has one line for each decision."""

    without_quota: str = "Unlimited"
    """What Agents get in a namespace without a GPUQuota: `Unlimited` or `Nothing`. Unlimited, so that one Agent on one GPU needs no quota;
    where teams share a cluster, Nothing."""

    ranges_seconds: float = 5.0
    """At least between two writes of the address ranges that gateways are told."""

    quota_status_seconds: float = 1.0
    """At least between two writes of the status of one GPUQuota. A burst of a hundred Agents changes it a hundred times; decisions follow
    from what Agents hold, never from that status."""

    binding_status_seconds: float = 1.0
    """At least between two looks at what the ToolBindings of a namespace say: a rollout changes it with every gateway that confirms. What
    Agents may reach never waits for it."""

    cycle_seconds: float = 0.1
    """How long changes are collected before the cluster is planned. Applying twenty Agents is one cycle; a single one waits 100 ms, far
    below what its pod takes to start."""

    batch_agents: int = 64
    """How many Agents get an order in one cycle; the next cycle begins when their claims are written. Enough to keep API server and
    kube-scheduler busy, few enough that the first pods of a thousand Agents start within a second."""

    sweep_seconds: float = 300.0
    """Between two sweeps over all Agents. A sweep heals what a bug in our bookkeeping missed; at rest it writes nothing. 10,000
    Agents take about a second."""

    audit_seconds: float = 300.0
    """Between two comparisons of our picture with lists from the server. An object that vanished unseen stays for as long."""

    audit_after_relist_seconds: float = 2.0
    """From the first sign of a new list to the comparison that it calls for. Long enough for the rest of the list to arrive."""

    foreign_seconds: float = 60.0
    """Between two counts of what other pods request on each node. Placement may be wrong for as long; kube-scheduler then refuses it and
    it is made again. 20,000 pods are 200 MB from the server each time, so not more often."""

    concurrent_writes: int = 32
    """Agents whose writes are under way at once. The API server takes a write in 5 ms, so that 32 saturate one replica."""

    retry: Backoff = field(default_factory=lambda: Backoff(first_seconds=0.5, longest_seconds=60.0))
    """Waits after failed writes for one Agent."""

    request_seconds: float = 20.0
    """One try of a request to the server, for kopf's lists as well."""

    exit_seconds: float = 15.0
    """From the signal to stop to the end of the process, whatever still hangs. Below the pod's grace period of 30 s."""

    cycle_age_limit_seconds: float = 60.0
    """Liveness: the main loop, which turns at least once a second, must not be silent for longer."""

    uninstall_seconds: float = 240.0
    """How long `aios-operator uninstall` waits for Agents to be gone. Below the chart's hook deadline of five minutes."""


_CODE_ONLY = {"retry"}


def from_environment(environment: Mapping[str, str]) -> OperatorSettings:
    """The defaults, with what `environment` sets. Unknown `AIOS_…` names are left alone: the pod may carry settings of other programs."""
    hints = get_type_hints(OperatorSettings)
    given: dict[str, Any] = {}
    for each in fields(OperatorSettings):
        variable = f"AIOS_{each.name.upper()}"
        if each.name in _CODE_ONLY or not environment.get(variable):
            continue
        given[each.name] = _read(variable, environment[variable], hints[each.name])
    settings = OperatorSettings(**given)
    if settings.without_quota not in ("Unlimited", "Nothing"):
        raise InvalidSetting(f"AIOS_WITHOUT_QUOTA must be Unlimited or Nothing, not {settings.without_quota!r}")
    if settings.log_format not in ("text", "json"):
        raise InvalidSetting(f"AIOS_LOG_FORMAT must be text or json, not {settings.log_format!r}")
    return settings


def _read(variable: str, text: str, hint: Any) -> object:
    kind = next(k for k in hint.__args__ if k is not type(None)) if isinstance(hint, types.UnionType) else hint
    try:
        value = kind(text)
    except ValueError as error:
        raise InvalidSetting(f"{variable} must be {'a whole number' if kind is int else 'a number'}, not {text!r}") from error
    if isinstance(value, int | float) and not value > 0:
        raise InvalidSetting(f"{variable} must be greater than 0, not {text!r}")
    return value
