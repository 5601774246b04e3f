"""Every refusal is a problem of RFC 9457: what is wrong, the word that programs compare, and what to do next."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

PROBLEM_TYPE: Final = "application/problem+json"


class ProblemKind(Enum):
    """The closed set: reason, status, title, next step. The value is the reason on the wire."""

    status: int
    title: str
    next_step: str

    def __new__(cls, reason: str, status: int, title: str, next_step: str) -> "ProblemKind":
        kind = object.__new__(cls)
        kind._value_ = reason
        kind.status, kind.title, kind.next_step = status, title, next_step
        return kind

    MALFORMED = "Malformed", 400, "The request is not HTTP/1.1", "Use an HTTP client library, or send the request as RFC 9112 says."
    EGRESS_DENIED = (
        "EgressDenied",
        403,
        "egress is denied: no tool binding allows it",
        "Those who run this agent can ask `aiosctl explain AGENT --host HOST:PORT`, and allow it in a ToolBinding. "
        "For requests to this endpoint itself set NO_PROXY to 127.0.0.1,localhost.",
    )
    POLICY_NOT_LOADED = (
        "PolicyNotLoaded",
        503,
        "egress is denied: this agent's policy is not loaded yet",
        "Wait a moment and send it again. If it lasts, the operator or the node agent is not at work.",
    )
    ADDRESS_DENIED = (
        "AddressDenied",
        403,
        "egress is denied: the host has an address that is not allowed",
        "A name that leads to an internal address needs a rule for that address (cidr) beside the one for its name.",
    )
    SERVER_NAME_DENIED = (
        "ServerNameDenied",
        403,
        "egress is denied: the tunnel is not TLS for the host that was asked for",
        "Send a TLS ClientHello whose server name is the host of CONNECT; without TLS, use an http URL.",
    )
    HOST_MISMATCH = (
        "HostMismatch",
        403,
        "The Host is not that of the URL",
        "Send the request with the URL's own host in its Host header.",
    )
    UPGRADE_REFUSED = (
        "UpgradeRefused",
        403,
        "Another protocol can't be spoken over a forwarded http request",
        "Use https, whose CONNECT tunnel carries WebSockets and HTTP/2.",
    )
    FOREIGN_HOST = (
        "ForeignHost",
        403,
        "The Host is not one of this endpoint",
        "Address it as http://127.0.0.1:2489 or http://localhost:2489, and on the Unix socket also as http://aios.",
    )
    BROWSER = (
        "BrowserOrigin",
        403,
        "Browsers may not speak for an agent",
        "Send the request from the agent's program, without an Origin header.",
    )
    INVALID_REQUEST = "InvalidRequest", 400, "The request is not one of this endpoint", "Change the field that is named."
    NO_SUCH_ITEM = "NoSuchItem", 404, "There is no such item", "Read the log: the item was erased, went by retention, or never was."
    CONTEXT_CONFLICT = "ContextConflict", 409, "The request contradicts one before it", "Read what is there, and decide anew."
    CONTEXT_LIMIT_REACHED = "ContextLimitReached", 409, "The context is at a limit", "Unpin or erase something, or have the limit raised."
    CONTEXT_FENCED = "ContextFenced", 409, "A later attempt of this agent writes the context", "End: this attempt has been replaced."
    CONTEXT_UNWRITABLE = (
        "ContextUnwritable",
        507,
        "The node's disk takes nothing now",
        "Go on reading; send it again later; tell those who run the cluster.",
    )
    CONTEXT_DAMAGED = (
        "ContextDamaged",
        500,
        "The context is damaged and set aside",
        "Have a snapshot restored by those who run the cluster, or erase everything to begin anew.",
    )
    BUDGET_TOO_SMALL = "BudgetTooSmall", 409, "What is pinned does not fit the budget", "Raise the budget, or unpin."
    CONTEXT_BUSY = "ContextBusy", 503, "The context is being closed", "Send it again."
    NO_CONTEXT = "NoContext", 503, "This gateway keeps no contexts", "Tell those who run the cluster: a setting is missing."
    NOT_FOUND = "NotFound", 404, "There is nothing at this path", "GET /v1/agent says who this agent is."
    METHOD_NOT_ALLOWED = "MethodNotAllowed", 405, "The method is not one of this path", "Use a method that the Allow header names."
    TIMEOUT = "RequestTimeout", 408, "The request took too long to arrive", "Send it again, without pauses."
    CONTENT_TOO_LARGE = "ContentTooLarge", 413, "The content is too large", "Send less content."
    HEADERS_TOO_LARGE = "HeadersTooLarge", 431, "The headers are too large", "Send fewer or shorter headers."
    NAME_NOT_RESOLVED = (
        "NameNotResolved",
        502,
        "The host has no address",
        "See that the name is right; the node's name servers were asked.",
    )
    UNREACHABLE = "Unreachable", 502, "The host can't be reached", "Try again later; see that the port is right."
    UPSTREAM_FAILED = (
        "UpstreamFailed",
        502,
        "The host's response can't be passed on",
        "Try again later; the host ended the connection or did not send HTTP/1.1.",
    )
    UPSTREAM_TIMEOUT = "UpstreamTimeout", 504, "The host did not answer in time", "Try again later."
    TOO_MANY_LOOKUPS = (
        "TooManyLookups",
        503,
        "Too many names are being resolved for the agent",
        "Wait a moment and send it again, with fewer requests at once.",
    )
    INTERNAL = "Internal", 500, "The gateway failed", "Send the request again; if it fails again, tell those who run the cluster."
    NOT_READY = "NotReady", 503, "The gateway is not connected to the node agent", "Wait; agents that it knows are served meanwhile."
    MUTE = (
        "Mute",
        503,
        "The node is cut off from the cluster",
        "Wait and send it again: it is answered when the node is heard again, or where the agent runs next.",
    )
    TOO_MUCH_AT_ONCE = (
        "TooMuchAtOnce",
        503,
        "The agent sends too much at once",
        "Send large requests one after the other.",
    )
    TOO_MANY_CONNECTIONS = (
        "TooManyConnections",
        503,
        "The agent has too many connections",
        "Close connections that are not needed, or keep and reuse them.",
    )


@dataclass(eq=False)
class Problem(Exception):
    """One refusal. `detail` is about this request."""

    kind: ProblemKind
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        document = {
            "type": f"urn:aios:problem:{self.kind.value}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "reason": self.kind.value,
            "nextStep": self.kind.next_step,
        }
        return json.dumps(document, ensure_ascii=False).encode()
