"""What we tell people: one log line for each decision and deed, and events at the Agent that they concern."""

from __future__ import annotations

import logging

from aios_api import names
from aios_kube.events import EventRecorder, Regarding
from aios_operator.decide import effects as do
from aios_operator.decide.states import Refusal
from aios_operator.decide.views import Key

log = logging.getLogger("aios_operator.decisions")


class Reporter:
    """Says what was decided and done. Lines carry agent, attempt, node and GPU as fields of their own for collectors."""

    def __init__(self, events: EventRecorder) -> None:
        self._events = events

    def record(self, event: do.RecordEvent) -> None:
        """An event of the planner's, in the Agent's events and in the log."""
        self._event(event.key, event.uid, event.warning, event.reason, event.action, event.note)
        self._line(logging.WARNING if event.warning else logging.INFO, event.key, f"{event.reason}: {event.note}", reason=event.reason)

    def refused(self, key: Key, refusal: Refusal) -> None:
        """An Agent waits, for another reason than before."""
        self._line(logging.INFO, key, f"waits: {refusal.reason}: {refusal.message}; {refusal.smallest_change}", reason=refusal.reason)

    def done(self, effect: do.Write) -> None:
        """A write took place."""
        match effect:
            case do.ApplyRuntime(key, _, body, why):
                self._placed(key, body, why)
            case do.CreateClaim(key, body, _) | do.CreatePod(key, body, _):
                attempt = body["metadata"]["labels"][names.LABEL_ATTEMPT]
                self._line(logging.INFO, key, f"made {body['kind']} {body['metadata']['name']}", attempt=int(attempt))
            case do.DeletePod(key, name, _, at_once):
                self._line(logging.INFO, key, f"removed Pod {name}" + (" without its kubelet, which is out of reach" if at_once else ""))
            case do.NudgePod(key, name, _, _):
                self._line(logging.INFO, key, f"Pod {name} is not prepared yet; asked the kubelet to look again")
            case do.DeleteClaim(key, name, _):
                self._line(logging.INFO, key, f"removed ResourceClaim {name}")
            case do.DeleteRuntime(key, _):
                self._line(logging.INFO, key, "removed its order")
            case do.RemoveFinalizer(key, _, _):
                self._line(logging.INFO, key, "let go")
            case do.ReviseOrder(key, _, egress, expose, _):
                said = f"{len(egress['rules'])} rules of {len(egress['bindings'])} ToolBindings" if egress else "nothing"
                self._line(logging.INFO, key, f"may reach {said}, exposes {len(expose or ())} ports")
            case do.ApplyExposure(key, _, body):
                self._line(logging.INFO, key, f"wrote {body['kind']} {body['metadata']['name']}")
            case do.DeleteExposure(key, kind, name, _):
                self._line(logging.INFO, key, f"removed {kind} {name}")
            case do.ApplyPolicy(namespace, _):
                log.info("namespace %s: wrote its NetworkPolicy", namespace)
            case do.DeleteNodeLease(_, node):
                log.info("removed the Lease of node %s, which is gone", node)
            case do.PublishRanges(_, cidrs):
                log.info("told gateways of %d public address ranges that are the cluster's own", len(cidrs))
            case do.DeletePolicy(namespace, _):
                log.info("namespace %s: removed its NetworkPolicy, no Agent is left", namespace)
            case do.WriteStatus(key, _, status):
                self._line(logging.DEBUG, key, "status written", attempt=status.get("attempt"))

    def _placed(self, key: Key, body: do.Object, why: str) -> None:
        spec = body["spec"]
        gpu = spec.get("gpu", {}).get("uuid")
        self._line(logging.INFO, key, f"placed: {why}", attempt=spec["attempt"], node=spec["nodeName"], gpu=gpu)
        self._event(key, spec["agentUID"], False, "Placed", "Place", why)

    def _event(self, key: Key, uid: str, warning: bool, reason: str, action: str, note: str) -> None:
        agent = Regarding(names.API_VERSION, "Agent", key.namespace, key.name, uid)
        self._events.record(agent, "Warning" if warning else "Normal", reason, action, note)

    def _line(self, level: int, key: Key, text: str, **more: object) -> None:
        known = {name: value for name, value in more.items() if value is not None}
        log.log(level, "%s/%s: %s", key.namespace, key.name, text, extra={"facts": {"agent": "/".join(key), **known}})
