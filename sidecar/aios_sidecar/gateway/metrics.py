"""What the gateway counts, and the endpoint where it is read: `/metrics`, `/healthz`, `/readyz`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from aios_sidecar.gateway.contexts.metrics import ContextMetrics
from aios_sidecar.gateway.http import Head, Response
from aios_sidecar.gateway.problems import Problem, ProblemKind


class Metrics:
    """All labels are from closed sets: nothing that an agent sends becomes one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "aios_gateway_requests",
            "Responses by route and status code; route is none for what no route took.",
            ("route", "code"),
            registry=self.registry,
        )
        self._agents = Gauge("aios_gateway_agents", "Agents that are served.", registry=self.registry)
        self._connections = Gauge("aios_gateway_connections", "Open connections of agents.", registry=self.registry)
        self._linked = Gauge("aios_gateway_linked", "1 while connected to the node agent.", registry=self.registry)
        self._mute = Gauge(
            "aios_gateway_mute", "1 while no agent is answered, since nothing was heard of the API server.", registry=self.registry
        )
        self.mutes = Counter("aios_gateway_mutes", "How often that began.", registry=self.registry)
        self.egress = EgressMetrics(self.registry)
        self.contexts = ContextMetrics(self.registry)
        self._links = Counter("aios_gateway_links", "Connections to the node agent since the start.", registry=self.registry)

    def answered(self, route: str, status: int) -> None:
        self._requests.labels(route, str(status)).inc()

    def watch(self, *, agents: Callable[[], float], connections: Callable[[], float]) -> None:
        """Read these when the metrics are asked for."""
        self._agents.set_function(agents)
        self._connections.set_function(connections)

    def watch_mute(self, mute: Callable[[], bool]) -> None:
        """As `watch`."""
        self._mute.set_function(lambda: float(mute()))

    def linked(self, yes: bool) -> None:
        self._linked.set(1 if yes else 0)
        if yes:
            self._links.inc()


class EgressMetrics:
    """What goes out, by verdict. Which host and by whose rule is in the audit: those are not of a closed set."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._verdicts = Counter(
            "aios_gateway_egress",
            "Tunnels and plain requests by verdict (allow, would_deny, deny) and by reason: how they ended, or why they were denied.",
            ("verdict", "reason"),
            registry=registry,
        )
        self._bytes = Counter("aios_gateway_egress_bytes", "Bytes carried, by direction (up, down).", ("direction",), registry=registry)
        self._open = Gauge("aios_gateway_egress_connections", "Open connections to hosts outside.", registry=registry)
        self._dropped = Gauge("aios_gateway_audit_dropped_lines", "Audit lines that were dropped since the start.", registry=registry)
        self._rotated_out = Gauge(
            "aios_gateway_audit_rotated_out_lines",
            "Audit lines that went with the oldest file since the start: those that nobody has collected by then are lost.",
            registry=registry,
        )

        self._up, self._down = self._bytes.labels("up"), self._bytes.labels("down")
        self._counted: dict[tuple[str, str], Counter] = {}

    def noted(self, verdict: str, reason: str, up_bytes: int, down_bytes: int) -> None:
        counter = self._counted.get((verdict, reason))
        if counter is None:
            counter = self._counted[verdict, reason] = self._verdicts.labels(verdict, reason)
        counter.inc()
        self._up.inc(up_bytes)
        self._down.inc(down_bytes)

    def watch(self, *, open_connections: Callable[[], float]) -> None:
        """Read it when the metrics are asked for."""
        self._open.set_function(open_connections)

    def watch_audit(self, *, dropped_lines: Callable[[], float], rotated_out_lines: Callable[[], float]) -> None:
        """As `watch`."""
        self._dropped.set_function(dropped_lines)
        self._rotated_out.set_function(rotated_out_lines)


@dataclass(frozen=True, slots=True)
class Page:
    name: str
    page: Callable[[], Response]
    content_bytes: int = 0

    async def answer(self, content: bytes) -> Response:
        return self.page()


PLAIN: Final = "text/plain; charset=utf-8"


class Operations:
    """The application on the operations port: for the kubelet and for Prometheus, not for agents."""

    def __init__(self, metrics: Metrics, is_linked: Callable[[], bool], require_fresh: Callable[[], None]) -> None:
        """`require_fresh` raises a Problem while agents may not be answered."""
        self._metrics = metrics
        self._is_linked = is_linked
        self._require_fresh = require_fresh

    def route(self, head: Head) -> Page:
        if head.method not in ("GET", "HEAD"):
            raise Problem(ProblemKind.METHOD_NOT_ALLOWED, "This endpoint is read only.", {"Allow": "GET, HEAD"})
        pages = {"/metrics": self._exposition, "/healthz": self._health, "/readyz": self._readiness}
        path = head.target.partition("?")[0]
        if path not in pages:
            raise Problem(ProblemKind.NOT_FOUND, f"There are {', '.join(pages)}.")
        return Page(path, pages[path])

    def hold(self, content_bytes: int) -> None:
        """No page takes content."""

    def unread(self, method: str, target: str, problem: Problem) -> None:
        """Nobody is judged here."""

    def answered(self, route: str, status: int) -> None:
        """Not counted: requests are those of agents."""

    def _exposition(self) -> Response:
        return Response(generate_latest(self._metrics.registry), CONTENT_TYPE_PLAIN_0_0_4)

    def _health(self) -> Response:
        return Response(b"ok\n", PLAIN)  # that the loop came round to this is the proof

    def _readiness(self) -> Response:
        if not self._is_linked():
            raise Problem(ProblemKind.NOT_READY, "There is no link to the node agent.")
        self._require_fresh()
        return Response(b"ok\n", PLAIN)
