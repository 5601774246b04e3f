"""What a person reads: one function per condition, and the status they make together.

Each function answers (status, reason, message). Nothing here is decided; it is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from aios_api.reasons import ConditionType, Reason
from aios_operator.decide import attempts, egress, exposure, health, lost, memory, moving, objects
from aios_operator.decide.attempts import Situation
from aios_operator.decide.facts import MESSAGE_MAX, Said, dated, fact, objects_time, said_by_node
from aios_operator.decide.states import Refusal

WATCH = "Watch"
"""The level of enforcement that a node's fact EnforcementVerified with the reason Watched stands for."""


def waits_for(s: Situation) -> Refusal | None:
    """Why the Agent has no place: the cluster planner's last word, or after a restart the one that the status remembers."""
    if not s.needs_place:
        return None
    if s.state.refusal is not None:
        return s.state.refusal
    written = s.agent.status.get("pending")
    if written and s.agent.status.get("observedGeneration") == s.agent.generation:
        return Refusal(written["reason"], written["message"], written["smallestChange"])
    return None


def accepted(s: Situation) -> Said:
    if s.agent.spec_error is not None:
        return Said("False", Reason.InvalidSpec, s.agent.spec_error)
    if s.refused is not None:
        return Said("False", Reason.TemplateRefused, s.refused)
    return Said("True", Reason.Accepted, "the spec can be run")


def quota_reserved(s: Situation) -> Said:
    """Whether the Agent holds its part of the namespace's quota."""
    if not s.reserved or s.order is None:
        return _no_place(s)
    quota = s.state.quota
    part = f"{objects.format_mebibytes(s.order.gpu.mebibytes)} and a place" if s.order.gpu else "a place"
    if quota is None:
        return Said("True", Reason.NoQuota, f"holds {part}; the namespace has no GPUQuota")
    if attempts.condition(quota.status, ConditionType.Exceeded).get("status") == "True":
        kept = "and keeps them until they are released" if s.order.gpu else "and keeps it until it is released"
        return Said("True", Reason.QuotaExceeded, f"holds {part} {kept}, though GPUQuota {quota.name} grants less than Agents hold")
    return Said("True", Reason.QuotaReserved, f"holds {part} of GPUQuota {quota.name}")


def placed(s: Situation) -> Said:
    if s.open and s.order is not None:
        where = f"{s.order.node_name}" + (
            f", {objects.format_mebibytes(s.order.gpu.mebibytes)} of {s.order.gpu.uuid}" if s.order.gpu else ""
        )
        if s.pod is not None and s.pod.node_name:
            return Said("True", Reason.Scheduled, f"attempt {s.order.attempt} is booked on {where}")
        return Said("True", Reason.Placed, f"attempt {s.order.attempt} is ordered on {where}; kube-scheduler has not booked it yet")
    return _no_place(s)


def _no_place(s: Situation) -> Said:
    """Why nothing is booked. Never True."""
    if not s.agent.running:
        gone = s.pod is None and not s.stale_pods
        return Said("False", Reason.Stopped if gone else Reason.Stopping, "spec.operatingMode is Stopped")
    if (acceptance := accepted(s)).status == "False":
        return acceptance
    if s.final:
        end = _end(s)
        return Said("False", end.reason, end.message)
    if s.expired:
        return Said("False", Reason.DeadlineExceeded, deadline_message(s))
    if (refusal := waits_for(s)) is not None:
        return Said("False", refusal.reason, refusal.message)
    if s.retry_at is not None:
        return Said("False", Reason.BackOff, f"{_last_failure_message(s)}; the next attempt begins at {objects_time(s.retry_at)}")
    return Said("False", Reason.Progressing, "a place is being looked for")


def _end(s: Situation) -> Said:
    if s.ending is not None:
        return Said("True", s.ending.reason, s.ending.message)
    written = attempts.condition(s.agent.status, ConditionType.Completed)
    return Said("True", written["reason"], written["message"])


def _last_failure_message(s: Situation) -> str:
    if s.ending is not None:
        return s.ending.message
    return str((s.agent.status.get("lastFailure") or {}).get("message", "the last attempt failed"))


def prepared(s: Situation) -> Said:
    if not s.open:
        return _no_place(s)
    known = fact(s, ConditionType.Prepared)
    if known is None:
        return Said("False", Reason.WaitingForNode, "the node agent has not spoken of this attempt yet")
    return Said("True" if known.status == "True" else "False", known.reason, known.message)


def ready(s: Situation) -> Said:
    """The first thing that stands against it, in the order of an Agent's life."""
    if not s.open or s.order is None:
        return _no_place(s)
    if s.leaving is not None and s.waits_for_mute:
        return Said("False", Reason.WaitingForMute, _waits_for_mute(s, s.leaving))
    if s.stale_pods or (s.pod is None and s.stale_claims):
        return Said("False", Reason.WaitingForRelease, "the attempt before is still going away")
    if s.pod is None and s.forbidden is not None:
        return Said("False", Reason.Forbidden, s.forbidden)
    if s.pod is None or s.pod.node_name is None:
        return Said("False", Reason.WaitingForScheduler, "kube-scheduler has not bound the pod yet")
    if (sight := s.state.nodes.get(s.pod.node_name)) is not None and sight.has_lease and sight.silent >= sight.mute_after:
        after = f"{sight.mute_after.total_seconds():.0f} s"
        return Said("False", Reason.NodeSilent, f"node {sight.name} was not heard for {after}: its gateway answers nobody until it is")
    if (preparation := prepared(s)).status == "False":
        return preparation
    for kind in (ConditionType.Fenced, ConditionType.EgressFenced, ConditionType.Listening):
        known = fact(s, kind)
        if known is not None and known.status == "False" and known.reason not in (Reason.WaitingForContainer, Reason.GatewayAbsent):
            return Said("False", known.reason, known.message)
    if s.pod.waiting is not None:
        reason, message = s.pod.waiting
        return Said("False", Reason.ImagePull if "Image" in reason or reason == "ErrImagePull" else Reason.ContainerWaiting, message)
    if s.pod.phase == "Pending":
        return Said("False", Reason.PodPending, "the containers have not started yet")
    if not s.pod.ready:
        return Said("False", Reason.PodNotReady, "not all containers of the pod are ready")
    for kind in (ConditionType.Fenced, ConditionType.Listening):
        known = fact(s, kind)
        if known is None or known.status != "True":
            return Said("False", Reason.NotFenced, known.message if known else f"the node has not confirmed {kind} for this attempt")
    until = "; the spec has changed since, and it runs until the next attempt has a place" if s.outdated else ""
    return Said("True", Reason.Ready, f"attempt {s.order.attempt} is ready, fenced and listening on {s.order.node_name}{until}")


def _waits_for_mute(s: Situation, former: lost.Leaving) -> str:
    sight = s.state.nodes.get(former.node)
    against = (lost.trouble(sight.view) if sight is not None else None) or "was out of touch"
    return f"attempt {former.attempt} may still speak from node {former.node}, which {against}; the next one starts when it must be mute"


def _of_share(s: Situation, kind: ConditionType) -> Said | None:
    """What the node says of the share; only there while one is booked."""
    if not s.open or s.order is None or s.order.gpu is None:
        return None
    known = fact(s, kind)
    if known is None:
        return Said("Unknown", Reason.WaitingForNode, "the node agent has not spoken of this attempt's share yet")
    return said_by_node(known)


def enforcement_verified(s: Situation) -> Said | None:
    return _of_share(s, ConditionType.EnforcementVerified)


def within_share(s: Situation) -> Said | None:
    return _of_share(s, ConditionType.WithinShare)


def gpu_healthy(s: Situation) -> Said | None:
    """Only there while something is against the GPU of an attempt that may stay all the same."""
    closing = health.closing(s.state.gpu_taints)
    if not s.open or s.order is None or s.order.gpu is None or not closing:
        return None
    return Said(
        "False", Reason.GPUUnhealthy, f"GPU {s.order.gpu.uuid} {health.why(closing)}; it takes nobody new, and this attempt runs on"
    )


def completed(s: Situation) -> Said:
    return _end(s) if s.final else Said("False", Reason.NotCompleted, "the Agent has not come to an end of its own")


def deadline_message(s: Situation) -> str:
    begun = f", counted from {objects_time(s.run.start)}" if s.run is not None else ""
    return f"ran for spec.activeDeadlineSeconds, {s.agent.active_deadline_seconds} s{begun}"


def deadline_exceeded(s: Situation) -> Said | None:
    """Only there while the spec has a deadline."""
    if s.agent.active_deadline_seconds is None:
        return None
    if s.expired:
        return Said("True", Reason.DeadlineExceeded, deadline_message(s))
    if s.final:
        return Said("False", Reason.WithinDeadline, "it came to its end before")
    if s.run_ends is None:
        return Said("False", Reason.WithinDeadline, f"{s.agent.active_deadline_seconds} s are counted from when its first pod is bound")
    return Said("False", Reason.WithinDeadline, f"it may run until {objects_time(s.run_ends)}")


def reconciling(s: Situation) -> Said | None:
    """For kstatus; only there while it is true."""
    if stalled(s) is not None or s.final:
        return None
    if not s.agent.running or s.expired:
        stopping = s.pod is not None or s.claim is not None or s.stale_pods or s.stale_claims
        return Said("True", Reason.Stopping, "pod and claim are going away") if stopping else None
    if s.open and s.outdated:
        waits = waits_for(s)
        return Said("True", waits.reason, waits.message) if waits else Said("True", Reason.Replaced, "the next attempt is to take over")
    now = ready(s)
    return None if now.status == "True" else Said("True", now.reason, now.message)


def stalled(s: Situation) -> Said | None:
    """For kstatus; only there while it is true."""
    if (acceptance := accepted(s)).status == "False":
        return Said("True", acceptance.reason, acceptance.message)
    if s.final and _end(s).reason == Reason.Failed:
        return Said("True", Reason.Failed, _end(s).message)
    return None


CONDITIONS: tuple[tuple[ConditionType, Callable[[Situation], Said | None]], ...] = (
    (ConditionType.Accepted, accepted),
    (ConditionType.QuotaReserved, quota_reserved),
    (ConditionType.Placed, placed),
    (ConditionType.Prepared, prepared),
    (ConditionType.Ready, ready),
    (ConditionType.EnforcementVerified, enforcement_verified),
    (ConditionType.WithinShare, within_share),
    (ConditionType.GPUHealthy, gpu_healthy),
    (ConditionType.EgressProgrammed, egress.programmed),
    (ConditionType.EgressFenced, egress.fenced),
    (ConditionType.Exposed, exposure.exposed),
    (ConditionType.Completed, completed),
    (ConditionType.DeadlineExceeded, deadline_exceeded),
    (ConditionType.Reconciling, reconciling),
    (ConditionType.Stalled, stalled),
)


def status(s: Situation, now: datetime) -> dict[str, Any]:
    """The whole status. Equal to the one that is written when nothing has changed: times are kept while what they date is."""
    before = s.agent.status
    wanted: dict[str, Any] = {"observedGeneration": s.agent.generation, "conditions": _conditions(s, now)}
    attempt = max(s.order.attempt if s.order else 0, int(before.get("attempt") or 0))
    if attempt:
        wanted["attempt"] = attempt
    if s.open and s.order is not None:
        wanted["nodeName"] = s.order.node_name
        if s.pod is not None:
            wanted["podName"] = s.pod.name
        if s.order.gpu is not None:
            wanted["gpu"] = objects.placed_gpu(s.order.gpu)
            if (verified := enforcement_verified(s)) is not None and verified.status == "True":
                wanted["gpu"]["enforcement"] = WATCH
    if (reached := egress.in_force(s)) is not None:
        wanted["egress"] = reached
    if (kept := memory.in_force(s)) is not None:
        wanted["context"] = kept
    if (on_its_way := moving.on_its_way(s, now)) is not None:
        wanted["contextMove"] = on_its_way
    if s.leaving is not None:
        wanted["leaving"] = {"nodeName": s.leaving.node, "attempt": s.leaving.attempt}
    if s.run is not None:
        wanted["run"] = {"startTime": objects_time(s.run.start), "templateDigest": s.run.digest}
    if (refusal := waits_for(s)) is not None:
        wanted["pending"] = _pending(before, refusal, now)
    if failed := 0 if _forgiven(s, now) else attempts.failed_attempts(s):
        wanted["failedAttempts"] = failed
    if (last := _last_failure(s, now)) is not None:
        wanted["lastFailure"] = last
    return wanted


def _conditions(s: Situation, now: datetime) -> list[dict[str, Any]]:
    conditions = []
    for kind, say in CONDITIONS:
        said = say(s)
        if said is None:
            continue
        before = attempts.condition(s.agent.status, kind)
        conditions.append(dated(s.agent.status, kind, said, _generation(s, kind, before), now))
    return conditions


def _generation(s: Situation, kind: ConditionType, before: Mapping[str, Any]) -> int:
    """Of the spec that the condition speaks of. The attempt that runs on after an edit is ready for the spec before: who waits for
    Ready (kubectl wait) is not to take it for an answer about the new one."""
    former = before.get("observedGeneration") if kind is ConditionType.Ready and s.open and s.outdated else None
    return s.agent.generation if former is None else int(former)


def _pending(before: Any, refusal: Refusal, now: datetime) -> dict[str, str]:
    since = (before.get("pending") or {}).get("since") or objects_time(now)
    return {"reason": str(refusal.reason), "message": refusal.message, "smallestChange": refusal.smallest_change, "since": since}


def _last_failure(s: Situation, now: datetime) -> dict[str, Any] | None:
    quiet = (Reason.Stopped, Reason.Completed, Reason.TemplateRefused, Reason.Replaced, Reason.DeadlineExceeded)
    if s.ending is None or s.order is None or s.ending.reason in quiet:
        before = s.agent.status.get("lastFailure")
        return {**before, "time": objects_time(attempts.failed_at(before, now))} if before else None
    message = s.ending.message[:MESSAGE_MAX]
    return {"attempt": s.order.attempt, "reason": str(s.ending.reason), "message": message, "time": objects_time(now)}


def ready_since(s: Situation) -> datetime | None:
    """Since when the written status says Ready."""
    written = attempts.condition(s.agent.status, ConditionType.Ready)
    return datetime.fromisoformat(written["lastTransitionTime"]) if written.get("status") == "True" else None


def _forgiven(s: Situation, now: datetime) -> bool:
    since = ready_since(s)
    return s.open and since is not None and now - since >= attempts.FORGIVEN_AFTER
