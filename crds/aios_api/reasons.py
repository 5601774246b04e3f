"""The closed sets of words in which we explain ourselves: condition types, and the reasons of conditions, pending and failures.

A reason is a word that programs compare; its sentence says what it means wherever it stands, and its anchor leads to the page that says
more. What is particular to one Agent (which node, how many MiB) belongs into the message beside it.
"""

from enum import StrEnum
from typing import Self

REASONS_PAGE = "docs/reference/reasons.md"


class _Explained(StrEnum):
    """A word on the wire, and the sentence that explains it."""

    sentence: str

    def __new__(cls, word: str, sentence: str) -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.sentence = sentence
        return member

    @property
    def anchor(self) -> str:
        """Where the reference says more."""
        return f"{REASONS_PAGE}#{self.value.lower()}"


class ConditionType(_Explained):
    """Adjectives and participles that are true or not of an `Agent` or an `AgentRuntime`."""

    Accepted = "Accepted", "The spec is one that can be run."
    QuotaReserved = "QuotaReserved", "The Agent holds its part of the namespace's quota, from its admission until it is released."
    InForce = "InForce", "This quota is the one that counts in its namespace (on the GPUQuota)."
    Exceeded = "Exceeded", "Agents hold more than this quota grants (on the GPUQuota)."
    Placed = "Placed", "A node, and with VRAM a GPU, are booked for the current attempt."
    Prepared = "Prepared", "The node has prepared the claim of the current attempt."
    Fenced = "Fenced", "The fence stands in the pod's network namespace (on the AgentRuntime)."
    Listening = "Listening", "The agent's socket and loopback listener are served (on the AgentRuntime)."
    EnforcementVerified = (
        "EnforcementVerified",
        "The VRAM share of the current attempt is enforced, which was seen to work; the message says what was read and when.",
    )
    WithinShare = "WithinShare", "The current attempt was never stopped for using more VRAM than its share."
    GPUHealthy = "GPUHealthy", "Only there, and False, while the GPU of the current attempt takes nobody new."
    Ready = "Ready", "The pod is ready, the fence is in force and the listeners are open, for the current attempt."
    EgressProgrammed = (
        "EgressProgrammed",
        "The agent's gateway has confirmed that it enforces what the ToolBindings of the namespace say of this Agent.",
    )
    EgressFenced = (
        "EgressFenced",
        "A probe from inside the pod's network namespace found no way out but the gateway; the message says what was tried and when.",
    )
    Exposed = "Exposed", "Service and NetworkPolicy for the ports of spec.expose are there, and the fence of who runs is open for them."
    ResolvedRefs = "ResolvedRefs", "What the object refers to exists (on the ToolBinding: Agents that it selects)."
    Programmed = "Programmed", "Every gateway concerned has confirmed that it enforces this generation (on the ToolBinding)."
    Completed = "Completed", "The agent ended for good, and what was booked is released."
    DeadlineExceeded = (
        "DeadlineExceeded",
        "The Agent ran for as long as its spec.activeDeadlineSeconds allows, and what was booked is released.",
    )
    Reconciling = "Reconciling", "The Agent is on its way to what its spec says (for tools that wait)."
    Stalled = "Stalled", "The Agent cannot get there without a change (for tools that wait)."


class Reason(_Explained):
    """Why a condition is as it is, why an Agent waits, why an attempt failed. `str(reason)` is the word on the wire."""

    # Is the order one that can be carried out?
    Accepted = "Accepted", "The spec is one that can be run."
    InvalidSpec = "InvalidSpec", "The spec cannot be read as this version of the API; the message names the field and what must be true."
    TemplateRefused = "TemplateRefused", "The template asks for something that an agent may not have; the message names the field."

    # May the namespace hold it?
    QuotaReserved = "QuotaReserved", "The GPUQuota of the namespace has reserved what the Agent asks for."
    QuotaExceeded = (
        "QuotaExceeded",
        "Agents hold more than their namespace's quota grants; each keeps its part until it is released, and nobody gets more.",
    )
    QuotaExhausted = "QuotaExhausted", "What the Agent asks for is within the namespace's quota, but other Agents hold too much of it now."
    LargerThanQuota = "LargerThanQuota", "The Agent asks for more than the whole quota of its namespace."
    NoQuota = (
        "NoQuota",
        "The namespace has no GPUQuota. The chart's operator.withoutQuota says whether Agents are then unlimited or not admitted.",
    )
    InForce = "InForce", "The oldest GPUQuota of a namespace counts."
    OlderQuotaCounts = "OlderQuotaCounts", "Another GPUQuota of the namespace is older and counts; this one limits nothing."
    WithinQuota = "WithinQuota", "Agents hold no more than the quota grants."

    # Is there a place for it?
    Placed = "Placed", "A node, and with VRAM a GPU, are chosen for this attempt; kube-scheduler has yet to book them."
    Scheduled = "Scheduled", "kube-scheduler has booked the claim and bound the pod where the operator placed it."
    NoNodes = "NoNodes", "No node runs a node agent that understands this operator."
    WaitingForContext = (
        "WaitingForContext",
        "The context of the Agent is on a node that is not there now, and spec.context.whenNodeLost says Wait.",
    )
    NoNodeFits = "NoNodeFits", "No node has the CPU, memory, labels and tolerated taints that the template asks for."
    NoSlots = "NoSlots", "Every node that would fit already runs as many agents as it has slots."
    NoGPUFits = "NoGPUFits", "GPUs of that size exist, but none has enough unbooked VRAM now."
    LargerThanAnyGPU = "LargerThanAnyGPU", "No published GPU could hold the share, even when empty."
    UnknownModel = "UnknownModel", "No published GPU is of a model that the Agent accepts."
    WaitingForScheduler = "WaitingForScheduler", "The place is chosen and ordered; kube-scheduler has not booked it yet."
    SchedulerRefused = (
        "SchedulerRefused",
        "kube-scheduler did not accept the chosen place; another is looked for, and that node is left out for a while.",
    )
    Forbidden = (
        "Forbidden",
        "The API server does not let the claim or the pod be made now (a quota, a Pod Security standard, a policy); it is tried again.",
    )
    WaitingForRelease = "WaitingForRelease", "The pod or claim of the attempt before is still going away; two never run at once."
    WaitingForMute = (
        "WaitingForMute",
        "The attempt before may still speak from a node that is out of touch; the next one starts when that node must have fallen silent.",
    )
    BackOff = "BackOff", "Attempts failed in a row; the next one waits, longer each time."

    # Has the node done its part?
    Prepared = "Prepared", "The node has prepared the claim: its state is kept, its socket and its devices are there."
    WaitingForNode = "WaitingForNode", "The node agent has not spoken of this attempt yet."
    ContextOnItsWay = (
        "ContextOnItsWay",
        "The Agent's context is being moved from the node where it was; the containers start when all of it is there.",
    )
    PrepareFailed = "PrepareFailed", "The node could not prepare the claim; the message says which step."
    Fenced = "Fenced", "The fence stands in the pod's network namespace and was read back."
    FenceFailed = "FenceFailed", "The fence could not be installed or did not read back as written; no container starts."
    WaitingForContainer = "WaitingForContainer", "No container of the pod has been created yet, so there is no network namespace to fence."
    Listening = "Listening", "The agent's socket and its loopback listener are open and the gateway serves them."
    PortTaken = "PortTaken", "Something in the pod already listens on the port of the agent's endpoint."
    GatewayAbsent = "GatewayAbsent", "The listeners are open, but no gateway on the node has taken them yet."

    # Does it keep to its share of the GPU?
    Watched = "Watched", "What the pod's processes use of the GPU is read all the time, and a pod above its share is stopped."
    WaitingForReading = "WaitingForReading", "Nothing was heard yet from the worker that reads the GPU."
    CannotMonitor = "CannotMonitor", "What the pod uses of the GPU can't be read now; the message says why. Nothing is enforced meanwhile."
    WithinShare = "WithinShare", "The pod was not seen above its share for longer than the grace."
    ShareExceeded = "ShareExceeded", "The pod used more VRAM than its share, and its container was killed; the message says by how much."

    # What may it reach, and by whom is it reached?
    Programmed = "Programmed", "Every gateway concerned has confirmed that it enforces what is ordered."
    Programming = "Programming", "What is ordered has not been confirmed by every gateway concerned yet."
    NothingAllowed = "NothingAllowed", "No ToolBinding selects the Agent, so that it reaches nothing but its own endpoint."
    NotRunning = "NotRunning", "There is no gateway that would have to enforce anything: none of the Agents concerned runs."
    Resolved = "Resolved", "What the object refers to exists."
    SelectsNothing = "SelectsNothing", "No Agent of the namespace is selected; an absent or empty spec.agentSelector never selects any."
    LastGoodInForce = (
        "LastGoodInForce",
        "The spec can't be read. What it said before stays in force, less the rules that it has no longer; nobody new gets any of it.",
    )
    TooManyRules = (
        "TooManyRules",
        "All bindings of an Agent together have more rules than it can have; the youngest that finds no room is left out.",
    )
    FenceLeaks = "FenceLeaks", "Something outside was reached past the gateway; the agent's containers were stopped."
    ProbeUnclear = "ProbeUnclear", "Trying the fence from inside gave no clear answer; the message says where. It is tried again."
    Exposed = "Exposed", "Service and NetworkPolicy for the exposed ports are there, and the fence of who runs is open for them."
    Exposing = "Exposing", "Service or NetworkPolicy for the exposed ports are not there yet, or the fence is not open for them."

    # Does it run?
    Ready = "Ready", "The pod is ready, the fence is in force and the listeners are open, for the current attempt."
    PodNotReady = "PodNotReady", "The pod runs, but not all of its containers are ready."
    PodPending = "PodPending", "The pod is bound to its node and its containers have not started yet."
    ImagePull = "ImagePull", "An image of the pod cannot be pulled; the message is the kubelet's."
    ContainerWaiting = "ContainerWaiting", "A container cannot start or keeps crashing; the message is the kubelet's."
    NodeSilent = (
        "NodeSilent",
        "The node agent was not heard for longer than the mute time: the node's gateway answers nobody until it is heard again.",
    )
    NotFenced = "NotFenced", "The pod is ready, but the node has not confirmed the fence or the listeners of this attempt."
    Stopping = "Stopping", "The Agent is to be stopped; its pod and claim are still going away."
    Stopped = "Stopped", "spec.operatingMode is Stopped: no pod, no claim, nothing booked."
    Completed = "Completed", "The containers ended and spec.restartPolicy asks for no further attempt; everything booked is released."
    Failed = "Failed", "The pod failed and spec.restartPolicy is Never; everything booked is released."
    NotCompleted = "NotCompleted", "The Agent has not come to an end of its own."
    WithinDeadline = "WithinDeadline", "The Agent has not run for spec.activeDeadlineSeconds yet; the message says until when it may."
    DeadlineExceeded = (
        "DeadlineExceeded",
        "The Agent ran for spec.activeDeadlineSeconds: no pod, no claim, nothing booked. A later deadline, or none, lets it run on; "
        "so does a changed template, or Stopped and Running again, and then the time begins anew.",
    )
    Deleting = "Deleting", "The Agent is being deleted: first its pod, then its claim, then its order to the node."

    # Why an attempt failed or was given up.
    PodFailed = "PodFailed", "The pod ended in failure; the message says which container and its exit code."
    PodVanished = "PodVanished", "The pod was deleted by someone else."
    NodeLost = (
        "NodeLost",
        "The node was deleted, is out of service, or is not ready and was not heard for longer than the mute time; another attempt comes.",
    )
    ClaimVanished = "ClaimVanished", "The claim was deleted by someone else, so that nothing is booked for the pod any more."
    NameTaken = (
        "NameTaken",
        "An object that is not the operator's has the name of the attempt's claim or pod; the next attempt has another.",
    )
    Evicted = "Evicted", "The kubelet evicted the pod, because its node ran short of something."
    Displaced = (
        "Displaced",
        "The cluster took the pod away: its node was drained, tainted or shut down, or kube-scheduler made room; the message says which.",
    )
    GPUUnhealthy = (
        "GPUUnhealthy",
        "The GPU is published as unhealthy, or carries another taint: it takes nobody new, and with the effect NoExecute nobody stays.",
    )
    StartFailed = "StartFailed", "A container's start was refused on the node; this is not charged to the Agent."
    Replaced = "Replaced", "The template or the GPU share changed; a new attempt takes the place of the running one."

    # For tools that wait (kstatus).
    Progressing = "Progressing", "The Agent is on its way to what its spec says."
