"""What an agent may ask of the gateway itself, and the checks that such a request passes first: those that explain themselves best."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aios_sidecar.contracts.agents import AgentRecord
from aios_sidecar.gateway.contexts.answers import CONTENT_BYTES, ContextCall, ContextRoute
from aios_sidecar.gateway.contexts.answers import ROUTES as CONTEXT_ROUTES
from aios_sidecar.gateway.contexts.desk import AgentContext
from aios_sidecar.gateway.egress.target import ABSOLUTE, LOOPBACK_HOST
from aios_sidecar.gateway.http import METHOD_SHOWN, Head, Response
from aios_sidecar.gateway.problems import Problem, ProblemKind

SOCKET_HOST: Final = "aios"
"""A name for clients that must put something into the URL of a Unix socket."""

Check = Callable[[Head], Problem | None]


@dataclass(frozen=True, slots=True)
class Call:
    """A request that has arrived whole, and whose it is."""

    record: AgentRecord
    head: Head
    content: bytes
    context: AgentContext | None
    """None where the gateway keeps no contexts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What answers a method of a path."""

    answer: Callable[[Call], Awaitable[Response]]
    content_bytes: int = 0
    """How much content it takes."""


def has_no_origin(head: Head) -> Problem | None:
    """A page in an agent's browser can send requests here, but not without telling its origin."""
    if head.header("origin") is None:
        return None
    return Problem(ProblemKind.BROWSER, "The request has an Origin header.")


def has_our_host(head: Head) -> Problem | None:
    """A foreign name that resolves to this address (DNS rebinding) would make a page's requests look like the agent's own."""
    host = head.header("host")
    if host is not None and (LOOPBACK_HOST.fullmatch(host) or (head.via == "socket" and host.lower() == SOCKET_HOST)):
        return None
    return Problem(ProblemKind.FOREIGN_HOST, "The request has no Host." if host is None else f"The Host is {host[:200]}.")


CHECKS: Final[tuple[Check, ...]] = (has_no_origin, has_our_host)


async def who_am_i(call: Call) -> Response:
    """`GET /v1/agent`."""
    return Response(call.record.model_dump_json(by_alias=True).encode(), "application/json")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a path offers: for each method its label in metrics, and what answers it."""

    methods: Mapping[str, tuple[str, Answer]]


def _to_context(route: ContextRoute) -> Answer:
    async def answer(call: Call) -> Response:
        if call.context is None:
            raise Problem(ProblemKind.NO_CONTEXT, "AIOS_GATEWAY_CONTEXT_DIR names no directory.")
        return await route.answer(ContextCall(call.context, call.head, call.content))

    return Answer(answer, CONTENT_BYTES if route.request else 0)


def _table() -> Mapping[str, Entry]:
    table = {"/v1/agent": Entry({"GET": ("agent", Answer(who_am_i)), "HEAD": ("agent", Answer(who_am_i))})}
    for route in CONTEXT_ROUTES:
        methods = dict(table[route.path].methods) if route.path in table else {}
        table[route.path] = Entry({**methods, route.method: (route.name, _to_context(route))})
    return table


ROUTES: Final = _table()


def find(head: Head) -> tuple[str, Answer]:
    """The name and the answer of the route for `head`. Raises Problem when a check or the table refuses it."""
    for check in CHECKS:
        if problem := check(head):
            raise problem
    path = head.target.partition("?")[0]
    entry = ROUTES.get(path)
    if entry is None:
        raise Problem(ProblemKind.NOT_FOUND, f"{path[:200]} is not a path of this endpoint.")
    found = entry.methods.get(head.method)
    if found is None:
        allowed = ", ".join(entry.methods)
        raise Problem(ProblemKind.METHOD_NOT_ALLOWED, f"{path} allows {allowed}, not {head.method[:METHOD_SHOWN]}.", {"Allow": allowed})
    return found


def leaves_the_pod(method: str, target: str) -> bool:
    """CONNECT and an absolute target ask a proxy for the outside."""
    return method == "CONNECT" or ABSOLUTE.match(target) is not None
