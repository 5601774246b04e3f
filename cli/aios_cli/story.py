"""An Agent's life as `aiosctl explain` tells it: which steps are behind it, where it is, what comes next. Pure: objects and a time in.

What the node says counts only when it speaks of the attempt and claim that are there now, by the same rules as in the operator's planner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from aios_api.reasons import ConditionType, Reason
from aios_cli.happenings import Happening, happenings
from aios_cli.picture import Picture
from aios_cli.shortage import room, who_holds
from aios_cli.states import Standing, State, age, condition, restarts, standing
from aios_operator.decide import attempts
from aios_operator.decide.attempts import Situation
from aios_operator.decide.facts import fact
from aios_operator.decide.objects import format_mebibytes
from aios_operator.decide.states import AgentState
from aios_operator.decide.views import RuntimeView
from aios_operator.observe import parse

Raw = Mapping[str, Any]
Mark = Literal["done", "now", "bad", "next"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the API has of one Agent. `picture` is None when GPUs could not be read."""

    agent: Raw
    runtime: Raw | None
    claims: Sequence[Raw]
    pods: Sequence[Raw]
    events: Sequence[Raw]
    picture: Picture | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of its life. `now` is where it stands, `bad` where it is stuck, `next` what is still to come."""

    name: str
    mark: Mark
    at: datetime | None
    text: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Story:
    at: datetime
    namespace: str
    name: str
    standing: Standing
    attempt: int
    failed_attempts: int
    last_failure: Raw | None
    restarts: tuple[str, ...]
    steps: tuple[Step, ...]
    happenings: tuple[Happening, ...]
    next: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """The evidence with what the planner makes of it; `situation` is None while the Agent is being deleted or can't be read."""

    evidence: Evidence
    now: datetime
    standing: Standing
    runtime: RuntimeView | None
    situation: Situation | None
    pod: Raw | None
    """Of the current attempt."""
    statuses: tuple[Raw, ...] = field(default=())
    """Of its containers, those of the init sequence first."""


def story(evidence: Evidence, now: datetime) -> Story:
    """The whole life, as far as the API still knows it (events are kept for an hour)."""
    f = _facts(evidence, now)
    metadata, status = evidence.agent["metadata"], evidence.agent.get("status") or {}
    return Story(
        at=now,
        namespace=metadata["namespace"],
        name=metadata["name"],
        standing=f.standing,
        attempt=status.get("attempt") or 0,
        failed_attempts=status.get("failedAttempts") or 0,
        last_failure=status.get("lastFailure"),
        restarts=tuple(_restarts(f)),
        steps=tuple(_steps(f)),
        happenings=tuple(happenings(evidence.agent, evidence.events)),
        next=tuple(_next(f)),
    )


def _facts(evidence: Evidence, now: datetime) -> _Facts:
    agent = parse.agent(evidence.agent)
    runtime = parse.runtime(evidence.runtime) if evidence.runtime is not None else None
    pods = [(pod, raw) for raw in evidence.pods if (pod := parse.pod(raw)) is not None and pod.agent_uid == agent.uid]
    claims = [claim for raw in evidence.claims if (claim := parse.claim(raw)) is not None and claim.agent_uid == agent.uid]
    state = AgentState(agent.key, agent, runtime, tuple(claims), tuple(pod for pod, _ in pods))
    situation = attempts.situation(state, agent, now) if agent.deleting_since is None else None
    order = situation.order if situation is not None else runtime
    current = next((raw for pod, raw in pods if order is not None and pod.attempt == order.attempt), None)
    status = (current or {}).get("status") or {}
    statuses = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    return _Facts(evidence, now, standing(evidence.agent, restarts(current or {})), runtime, situation, current, statuses)


def _steps(f: _Facts) -> Iterator[Step]:
    """In the order of its life; what is still to come is named in one line, and its end is the last one."""
    tellers: dict[str, Callable[[_Facts], Step | None]] = {
        "applied": _applied,
        "accepted": _accepted,
        "quota": _quota,
        "placed": _placed,
        "scheduled": _scheduled,
        "prepared": lambda f: _of_node(f, "prepared", ConditionType.Prepared),
        "fenced": lambda f: _of_node(f, "fenced", ConditionType.Fenced),
        "listening": lambda f: _of_node(f, "listening", ConditionType.Listening),
        "started": _started,
        "ready": _ready,
        "enforced": _enforced,
        "share": _share,
    }
    over = f.standing.state in (State.STOPPED, State.COMPLETED, State.FAILED, State.DELETING)
    told = [step for teller in tellers.values() if (step := teller(f)) is not None]
    yield from (step for step in told if step.mark != "next")
    if not over and (ahead := [step.name for step in told if step.mark == "next"]):
        yield Step("then", "next", None, ", ".join(ahead))
    if over:
        yield Step(f.standing.state.value, "bad" if f.standing.state is State.FAILED else "done", f.standing.since, f.standing.message)


def _when(said: Raw) -> datetime | None:
    text = said.get("lastTransitionTime")
    return parse.time(text) if text else None


def _applied(f: _Facts) -> Step:
    metadata, status = f.evidence.agent["metadata"], f.evidence.agent.get("status") or {}
    generation, seen = metadata.get("generation", 1), status.get("observedGeneration", 0)
    details = []
    if generation > 1:
        details.append(f"its spec has changed since: generation {generation}")
    if status and seen != generation:
        details.append(f"the operator has taken up generation {seen} so far")
    return Step("applied", "done", parse.time(metadata["creationTimestamp"]), "the Agent was created", tuple(details))


def _accepted(f: _Facts) -> Step:
    said = condition(f.evidence.agent, ConditionType.Accepted)
    if not said:
        return Step("accepted", "now", None, "the operator has not looked at it yet")
    return Step("accepted", "done" if said["status"] == "True" else "bad", _when(said), said["message"])


def _quota(f: _Facts) -> Step | None:
    """Only once it is reserved: who waits for it is told so where the place is."""
    said = condition(f.evidence.agent, ConditionType.QuotaReserved)
    return Step("quota", "done", _when(said), said["message"]) if said.get("status") == "True" else None


def _placed(f: _Facts) -> Step:
    said, standing = condition(f.evidence.agent, ConditionType.Placed), f.standing
    if said.get("status") == "True":
        at = _event_time(f, Reason.Placed) or _when(said)
        return Step("placed", "done", at, _where(f), (*_why_there(f), *_wait_beside(f)))
    if standing.state is State.WAITING:
        wanted = f.situation.agent.gpu if f.situation is not None else None
        held = who_holds(f.evidence.agent["metadata"]["namespace"], standing.reason, wanted, f.evidence.picture)
        details = (f"what would help: {standing.smallest_change}", *held)
        return Step("placed", "now", standing.since, f"waits ({standing.reason}): {standing.message}", details)
    if standing.state is State.BACK_OFF:
        return Step("placed", "bad", _when(said), said["message"])
    if not said or standing.state is not State.STARTING:
        return Step("placed", "next", None, "")
    return Step("placed", "now", _when(said), said["message"])


def _event_time(f: _Facts, reason: str) -> datetime | None:
    """When the current attempt's event of that reason was told; events have fractions of seconds."""
    attempt = (f.evidence.agent.get("status") or {}).get("attempt")
    told = [
        h for h in happenings(f.evidence.agent, f.evidence.events) if h.reason == reason and h.text.startswith(f"attempt {attempt} on ")
    ]
    return told[-1].at if told else None


def _where(f: _Facts) -> str:
    status = f.evidence.agent["status"]
    gpu = status.get("gpu")
    share = f", {gpu['memory']} of {gpu['model']} {gpu['uuid']}" if gpu else ""
    return f"attempt {status['attempt']} on {status['nodeName']}{share}"


def _why_there(f: _Facts) -> Iterator[str]:
    gpu = f.evidence.agent["status"].get("gpu")
    if gpu is None:
        yield "no VRAM asked for: the node with the fewest GPUs, so that GPUs stay free for those who need them, then the most free CPU"
        return
    yield "best fit: of all GPUs that had room, the one where least is left over, so that large shares still find a whole GPU"
    for line in f.evidence.picture.gpus if f.evidence.picture else ():
        if line.uuid == gpu["uuid"]:
            yield f"now {room(line)}"


def _wait_beside(f: _Facts) -> Iterator[str]:
    """An edit that has no place yet, while the attempt before runs on."""
    pending = f.evidence.agent["status"].get("pending")
    if pending:
        yield f"the changed spec waits for a place ({pending['reason']}): {pending['message']}"
        yield f"what would help: {pending['smallestChange']}"


def _scheduled(f: _Facts) -> Step:
    s = f.situation
    if f.pod is None or s is None or not s.open:
        waiting = s is not None and s.open
        said = condition(f.evidence.agent, ConditionType.Ready)
        text = said.get("message", "kube-scheduler has not bound the pod yet") if waiting else ""
        bad = said.get("reason") == Reason.Forbidden
        return Step("scheduled", "bad" if bad else "now" if waiting else "next", None, text)
    name = f.pod["metadata"]["name"]
    said = next((c for c in (f.pod.get("status") or {}).get("conditions") or () if c["type"] == "PodScheduled"), {})
    if f.pod["spec"].get("nodeName"):
        return Step("scheduled", "done", _when(said), f"kube-scheduler booked claim {name} and bound pod {name}")
    return Step("scheduled", "now", _when(said), said.get("message") or f"kube-scheduler has not bound pod {name} yet")


def _is_bound(f: _Facts) -> bool:
    return f.pod is not None and bool(f.pod["spec"].get("nodeName")) and f.situation is not None and f.situation.open


def _of_node(f: _Facts, name: str, kind: ConditionType) -> Step:
    """A fact of the node agent, believed when it is about the attempt and the claim that are there now."""
    if f.situation is None or not _is_bound(f):
        return Step(name, "next", None, "")
    known = fact(f.situation, kind)
    if known is None:
        return Step(name, "now", None, "the node agent has not spoken of this attempt yet")
    at = _when(condition(f.evidence.runtime or {}, kind))
    if known.status == "True":
        return Step(name, "done", at, known.message)
    waiting = known.reason in (Reason.WaitingForContainer, Reason.GatewayAbsent, Reason.WaitingForNode)
    return Step(name, "now" if waiting else "bad", at, f"{known.reason}: {known.message}")


def _started(f: _Facts) -> Step:
    if not _is_bound(f):
        return Step("started", "next", None, "")
    stuck = [(c["name"], w) for c in f.statuses if (w := (c.get("state") or {}).get("waiting")) and w.get("reason") != "PodInitializing"]
    for name, waiting in stuck:
        reason = waiting.get("reason") or "Waiting"
        bad = reason != "ContainerCreating"
        return Step("started", "bad" if bad else "now", None, f"container {name}: {waiting.get('message') or reason}")
    ended = [(c["name"], e) for c in f.statuses if (e := (c.get("state") or {}).get("terminated")) and e.get("exitCode")]
    for name, end in ended:
        at = parse.time(end["finishedAt"]) if end.get("finishedAt") else None
        return Step("started", "bad", at, f"container {name} ended with exit code {end['exitCode']} ({end.get('reason')})")
    running = [(c["name"], r["startedAt"]) for c in f.statuses if (r := (c.get("state") or {}).get("running"))]
    if not running:
        return Step("started", "now", None, "no container runs yet")
    return Step("started", "done", parse.time(max(at for _, at in running)), f"{_listed([name for name, _ in running])} runs")


def _listed(containers: Sequence[str]) -> str:
    return f"container {containers[0]}" if len(containers) == 1 else f"each of the containers {', '.join(containers)}"


def _ready(f: _Facts) -> Step:
    said = condition(f.evidence.agent, ConditionType.Ready)
    if said.get("status") == "True":
        return Step("ready", "done", _when(said), said["message"])
    if _started(f).mark != "done":
        return Step("ready", "next", None, "")
    return Step("ready", "bad" if f.standing.state is State.FAILING else "now", _when(said), f"{said.get('reason')}: {said.get('message')}")


def _enforced(f: _Facts) -> Step | None:
    """Whether something holds it to its share of VRAM; not told of an Agent without one."""
    said = condition(f.evidence.agent, ConditionType.EnforcementVerified)
    if not said or not _is_bound(f):
        return None
    marks: dict[str, Mark] = {"True": "done", "False": "bad"}
    return Step("enforced", marks.get(said["status"], "now"), _when(said), said["message"], tuple(_use(f)))


def _use(f: _Facts) -> Iterator[str]:
    """What the node said last of the claim that is there now."""
    status = (f.evidence.runtime or {}).get("status") or {}
    s = f.situation
    if s is None or s.order is None or s.order.gpu is None or s.claim is None or not status.get("gpu"):
        return
    if status.get("claimUID") == s.claim.uid:
        yield f"it uses {status['gpu']['used']} of its {format_mebibytes(s.order.gpu.mebibytes)}"


def _share(f: _Facts) -> Step | None:
    """Only when it took more than its share."""
    said = condition(f.evidence.agent, ConditionType.WithinShare)
    return Step("share", "bad", _when(said), f"{said['reason']}: {said['message']}") if said.get("status") == "False" else None


def _restarts(f: _Facts) -> Iterator[str]:
    for each in f.statuses:
        if count := each.get("restartCount"):
            ended = (each.get("state") or {}).get("terminated") or (each.get("lastState") or {}).get("terminated") or {}
            ago = f"{age(parse.time(ended['finishedAt']), f.now)} ago" if ended.get("finishedAt") else "lately"
            last = f"; it last ended {ago}, with exit code {ended['exitCode']} ({ended.get('reason')})" if ended else ""
            times = "once" if count == 1 else f"{count} times"
            yield f"container {each['name']} was restarted {times} in its pod{last}"


def _next(f: _Facts) -> Iterator[str]:
    """What happens without anybody doing anything, and what a person can do."""
    s, state = f.situation, f.standing.state
    namespace, name = f.evidence.agent["metadata"]["namespace"], f.evidence.agent["metadata"]["name"]
    if state is State.DELETING:
        yield "its pod ends, then claim, order and Agent go; after 10 minutes the Agent is let go even when something of it is left"
    elif state is State.UNSEEN:
        yield "the operator places it; when nothing changes within seconds, see whether the Deployment aios-operator runs"
    elif state is State.REFUSED:
        yield "nothing, until the spec is changed as the message says"
    elif state in (State.COMPLETED, State.FAILED):
        yield "nothing: it came to its end, and what it had booked is free"
        yield "to run it anew: change spec.template or spec.gpu, or set spec.operatingMode to Stopped and then to Running"
    elif state is State.STOPPED and s is not None and s.expired:
        yield "nothing: it ran for as long as spec.activeDeadlineSeconds allows, and what it had booked is free"
        yield "to run on: raise spec.activeDeadlineSeconds or leave it out; to begin anew: Stopped, then Running"
    elif state is State.STOPPED:
        yield "nothing, until spec.operatingMode is Running"
    elif state is State.STOPPING:
        yield "pod and claim go away, and what they had booked is free"
    elif state is State.WAITING:
        yield "it starts by itself as soon as there is a place; nobody has to apply it again"
        yield f"sooner: {f.standing.smallest_change}"
    elif s is not None and s.open and s.waits_for_mute and s.leaving is not None:
        yield f"it starts by itself when node {s.leaving.node} must have fallen silent: attempt {s.leaving.attempt} may still run there"
    elif s is not None and s.retry_at is not None:
        left = (s.retry_at - f.now).total_seconds()
        yield f"the next attempt begins at {s.retry_at:%H:%M:%S} UTC, in {left:.0f} s"
        yield "the wait doubles with each failure in a row, up to 5 min"
    elif s is not None and s.open and s.outdated:
        yield "this attempt runs on until the changed spec has a place; then it ends, and the next one starts"
    elif state is State.READY:
        yield _after_ready(f)
    elif state is State.FAILING:
        yield "what failed is tried again by itself, after longer and longer waits; the place is kept meanwhile"
    else:
        yield "it goes on by itself"
    yield from _where_to_look(f, namespace)
    if state is State.UNSEEN:
        yield f"kubectl -n {namespace} describe agent {name}"


def _where_to_look(f: _Facts, namespace: str) -> Iterator[str]:
    """The image's name when that is it; the log of what has run and ended badly."""
    if f.standing.reason == Reason.ImagePull:
        yield "see whether the image's name is right, and whether the node may pull it"
    ended = [each for each in f.statuses if each.get("restartCount") or ((each.get("state") or {}).get("terminated") or {}).get("exitCode")]
    if ended and f.pod is not None and f.standing.state is not State.DELETING:
        previous = " --previous" if any(each.get("restartCount") for each in ended) else ""
        yield f"why it ended: kubectl -n {namespace} logs {f.pod['metadata']['name']} -c {ended[0]['name']}{previous}"


def _after_ready(f: _Facts) -> str:
    number = (f.evidence.agent.get("status") or {}).get("attempt", 0) + 1
    policy = (f.evidence.agent.get("spec") or {}).get("restartPolicy", "Always")
    if policy == "Never":
        return "nothing to do; when its containers end, it is completed or failed, for restartPolicy is Never"
    crash = "a container that crashes is restarted in the same pod; a pod that fails or vanishes is followed by attempt"
    end = "" if policy == "Always" else "; when its containers end with 0, it is completed"
    begin = "" if any(each.get("restartCount") for each in f.statuses) else "nothing to do; "
    return f"{begin}{crash} {number}{end}"
