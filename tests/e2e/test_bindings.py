"""A ToolBinding from `kubectl apply` to a request of an agent's, and back: what is allowed gets through, what is taken away does not."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aios_localcluster.cluster import LocalCluster
from e2e.support import Object, Space, eventually

ASK = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://HOST:PORT/hello", timeout=10).read().decode())
except urllib.error.HTTPError as refused:
    print(refused.code, refused.read().decode())
"""
"""As any program does that honours the proxy variables."""


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def a_server(cluster: LocalCluster) -> Iterator[tuple[str, int]]:
    """Answers on this machine, outside the cluster, at an address that is internal."""
    with ThreadingHTTPServer((str(cluster.network.host), 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield str(cluster.network.host), server.server_port
        finally:
            server.shutdown()
            thread.join()


def binding(*rules: Object, mode: str = "Enforce") -> Object:
    spec = {"agentSelector": {"matchLabels": {"app": "asks"}}, "mode": mode, "egress": list(rules)}
    return {"apiVersion": "aios.dev/v1alpha1", "kind": "ToolBinding", "metadata": {"name": "hello"}, "spec": spec}


def in_force(space: Space, generation: int) -> bool:
    """The gateway of the Agent has confirmed it, and the binding knows."""
    found = space.get("agent", "asks") or {}
    listed = (found["status"].get("egress") or {}).get("bindings", ())
    ready = space.condition("hello", "Ready", "toolbinding")
    said = (ready.get("status"), ready.get("observedGeneration"))
    return [each["generation"] for each in listed] == [generation] and said == ("True", generation)


def nothing_allowed(space: Space) -> bool:
    """The gateway has confirmed that no binding lets the Agent out."""
    return space.condition("asks", "EgressProgrammed").get("reason") == "NothingAllowed"


def test_what_a_binding_allows_gets_through_and_ends_with_it(cluster: LocalCluster, space: Space):
    agent = space.agent("asks")
    space.apply({**agent, "metadata": {**agent["metadata"], "labels": {"app": "asks"}}})
    space.ready("asks")
    eventually(lambda: nothing_allowed(space), "nothing is allowed at first")
    with a_server(cluster) as (host, port):
        ask = ASK.replace("HOST", host).replace("PORT", str(port))
        rule = {"name": "hello", "cidr": host, "ports": [port], "scheme": "http"}
        refused = space.inside("asks", ask)
        assert refused.startswith("403 ")
        assert "internal" in refused
        space.apply(binding(rule))
        eventually(lambda: in_force(space, 1), "the binding is in force")
        assert space.inside("asks", ask).strip() == "hello"
        space.apply(binding({**rule, "ports": [port + 1 if port < 65_535 else 1]}))
        eventually(lambda: in_force(space, 2), "its change is in force")
        assert space.inside("asks", ask).startswith("403 ")
        space.apply(binding(mode="Audit"))
        eventually(lambda: in_force(space, 3), "it only audits")
        assert space.inside("asks", ask).startswith("403 "), "Audit reaches nothing inside"
        space.apply(binding(rule))
        eventually(lambda: in_force(space, 4), "it is in force again")
        assert space.inside("asks", ask).strip() == "hello"
        space.kubectl("delete", "toolbinding", "hello")
        eventually(lambda: nothing_allowed(space), "nothing is allowed any more")
        assert space.inside("asks", ask).startswith("403 ")
    assert space.get("agent", "asks")["status"]["attempt"] == 1
