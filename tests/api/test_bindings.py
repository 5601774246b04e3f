"""ToolBinding and `expose` on a real API server: what is refused with which words, and what people see."""

from typing import Any

import pytest

from aios_api import names
from aios_localcluster import LocalCluster
from api.support import Object, Space, agent, container, kubectl, refusal, with_field


def binding(**spec: Any) -> Object:
    return {"apiVersion": names.API_VERSION, "kind": "ToolBinding", "metadata": {"name": "models"}, "spec": spec}


def rule(**fields: Any) -> Object:
    return binding(egress=[{"name": "r", **fields}])


REFUSED_HOSTS = (
    *("Example.com", "example", "*.com", "a.*.com", "*", "*.*.example.com", "example.com.", ".example.com", "exa mple.com", "a..b.com"),
    *(
        "10.0.0.1",
        "1.2.3.4",
        "127.1",
        "0x7f.1",
        "[::1]",
        "::1",
        "-a.example.com",
        "a-.example.com",
        "https://example.com",
        "example.com:443",
    ),
    *("a" * 64 + ".example.com", "a." * 126 + "co.uk", "exämple.com"),
)
REFUSED_RANGES = (
    *("10.0.0.1/8", "10.0.0.0/33", "ten", "0.0.0.0", "0.0.0.0/8", "224.0.0.1", "239.0.0.0/8", "255.255.255.255", "240.0.0.0/4"),
    *("::", "ff02::1", "::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "::10.0.0.1", "fe80::1%eth0", "010.0.0.1", "10.0.0", "2001:db8::1/32"),
)


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_what_is_no_host_is_refused(shared_space: Space, host: str) -> None:
    assert "host" in refusal(shared_space.create(rule(host=host)))


@pytest.mark.parametrize(
    "host", ["example.com", "*.example.com", "a-1.b.c.example.com", "xn--exmple-cua.com", "1.example.com", "svc.ns.svc.x1"]
)
def test_what_is_a_host_is_taken(shared_space: Space, host: str) -> None:
    answer = shared_space.create(rule(host=host))
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("cidr", REFUSED_RANGES)
def test_what_is_no_range_is_refused(shared_space: Space, cidr: str) -> None:
    assert "cidr" in refusal(shared_space.create(rule(cidr=cidr)))


@pytest.mark.parametrize(
    "cidr",
    ["10.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "::/0", "::1", "::1/128", "169.254.169.254", "fd00:ec2::254", "2001:db8::/32", "127.0.0.1"],
)
def test_what_is_a_range_is_taken(shared_space: Space, cidr: str) -> None:
    answer = shared_space.create(rule(cidr=cidr))
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (rule(), "exactly one of host and cidr must be set"),
        (rule(host="example.com", cidr="10.0.0.1"), "exactly one of host and cidr must be set"),
        (rule(host="example.com", scheme="tcp", ports=[22]), "cidr must be set for scheme tcp"),
        (rule(cidr="10.0.0.1", scheme="tcp"), "ports must be set for scheme tcp"),
        (rule(host="example.com", scheme="udp"), "Unsupported value"),
        (rule(host="example.com", ports=[]), "should have at least 1 items"),
        (rule(host="example.com", ports=[443, 443]), "Duplicate value"),
        (rule(host="example.com", ports=[0]), "should be greater than or equal to 1"),
        (rule(host="example.com", ports=list(range(1, 18))), "at most 16 items"),
        (rule(host="example.com", name="R"), "egress[0].name"),
        (binding(egress=[{"name": "a", "host": "a.example"}, {"name": "a", "host": "b.example"}]), "Duplicate value"),
        (binding(egress=[{"name": f"r{n}", "host": "a.example"} for n in range(65)]), "at most 64 items"),
        (binding(mode="Off"), "Unsupported value"),
        (binding(agentSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}), "values must be given for In and NotIn"),
        (binding(agentSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}), "and for these only"),
        ({**binding(), "metadata": {"name": "b" * 64}}, "metadata.name must have at most 63 characters"),
    ],
)
def test_what_is_no_binding_is_refused(shared_space: Space, body: Object, said: str) -> None:
    assert said in refusal(shared_space.create(body))


def test_the_largest_binding_is_taken(shared_space: Space) -> None:
    host = "*." + "a" * 63 + "." + "b" * 63 + "." + "c" * 63 + ".d" + "e" * 56
    ports = list(range(65_520, 65_536))
    rules = [{"name": f"r{n}" + "x" * 60, "host": host, "ports": ports} for n in range(64)]
    selector = {"matchLabels": {f"k{n}": "v" * 63 for n in range(16)}}
    answer = shared_space.create({**binding(agentSelector=selector, egress=rules), "metadata": {"name": "b" * 63}})
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["mode"] == "Enforce"
    assert answer.json()["spec"]["egress"][0]["scheme"] == "https"


HTTP: Object = {"name": "http", "port": 8080}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (agent(expose=[{"name": "own", "port": names.AGENT_PORT}]), "port must not be 2489"),
        (agent(expose=[HTTP, {"name": "same", "port": 8080}]), "expose must have each port and protocol once"),
        (agent(expose=[HTTP, HTTP]), "Duplicate value"),
        (agent(expose=[{"name": "h", "port": 8080, "protocol": "SCTP"}]), "Unsupported value"),
        (agent(expose=[{"name": "H", "port": 8080}]), "expose[0].name"),
        (agent(expose=[{"name": "h", "port": 0}]), "expose[0].port"),
        (agent("1st", expose=[HTTP]), "metadata.name must begin with a letter where spec.expose is set"),
    ],
)
def test_what_can_not_be_exposed_is_refused(shared_space: Space, body: Object, said: str) -> None:
    assert said in refusal(shared_space.create(body))


def test_what_can_be_exposed_is_taken(shared_space: Space) -> None:
    answer = shared_space.create(agent(expose=[HTTP, {"name": "dns", "port": 8080, "protocol": "UDP"}]))
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["expose"][0]["protocol"] == "TCP"
    assert shared_space.create(agent("1st")).status_code == 201


def probing(probe: Object, expose: list[Object] | None, ports: list[Object] | None = None) -> Object:
    parts: Object = {"livenessProbe": probe, **({"ports": ports} if ports else {})}
    template = {"spec": {"containers": [container(**parts)]}}
    return agent(template=template, **({"expose": expose} if expose is not None else {}))


@pytest.mark.parametrize(
    "body",
    [
        probing({"httpGet": {"port": 8080, "path": "/healthz"}}, [HTTP]),
        probing({"tcpSocket": {"port": 8080}}, [HTTP]),
        probing({"grpc": {"port": 8080}}, [HTTP]),
        probing({"httpGet": {"port": "web"}}, [HTTP], [{"name": "web", "containerPort": 8080}]),
        probing({"exec": {"command": ["true"]}}, None),
    ],
)
def test_the_kubelet_may_ask_where_something_comes_in(shared_space: Space, body: Object) -> None:
    answer = shared_space.create(body)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    "body",
    [
        probing({"httpGet": {"port": 8081}}, [HTTP]),
        probing({"httpGet": {"port": 8080}}, None),
        probing({"httpGet": {"port": 8080}}, []),
        probing({"tcpSocket": {"port": 8080}}, [{**HTTP, "protocol": "UDP"}]),
        probing({"grpc": {"port": 8081}}, [HTTP]),
        probing({"httpGet": {"port": "web"}}, [HTTP]),
        probing({"httpGet": {"port": "web"}}, [HTTP], [{"name": "web", "containerPort": 8081}]),
        probing({"httpGet": {"port": "http"}}, [HTTP], [{"name": "web", "containerPort": 8080}]),
    ],
)
def test_the_kubelet_may_not_ask_elsewhere(shared_space: Space, body: Object) -> None:
    assert "livenessProbe of containers must use exec, or a TCP port of spec.expose" in refusal(shared_space.create(body))


@pytest.mark.parametrize("kind", ["containers", "initContainers"])
@pytest.mark.parametrize("probe", ["livenessProbe", "readinessProbe", "startupProbe"])
def test_that_holds_for_each_probe_of_each_container(shared_space: Space, kind: str, probe: str) -> None:
    first = container(name="first", restartPolicy="Always") if kind == "initContainers" else container()
    body = with_field(agent(), f"spec.template.spec.{kind}", [{**first, probe: {"tcpSocket": {"port": 8080}}}])
    assert f"{probe} of {kind} must use exec" in refusal(shared_space.create(body))
    assert shared_space.create(with_field(body, "spec.expose", [HTTP])).status_code == 201


def test_a_port_that_a_probe_needs_stays_exposed(space: Space) -> None:
    body = probing({"httpGet": {"port": 8080}}, [HTTP])
    assert space.apply(body, "user").status_code == 201
    assert "must use exec" in refusal(space.apply(probing({"httpGet": {"port": 8080}}, []), "user"))


def test_kubectl_shows_what_came_of_a_binding(cluster: LocalCluster, space: Space) -> None:
    assert space.create(binding(mode="Audit"), dry_run=False).status_code == 201
    condition = {"type": "Ready", "status": "True", "reason": "Programmed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    written = {**binding(), "status": {"conditions": [condition], "agents": 5, "programmed": 4, "wouldDeny": 7}}
    del written["spec"]
    assert space.apply(written, "operator", subresource="status").status_code == 200
    lines = kubectl(cluster, "get", "tb", "-n", space.namespace).splitlines()
    assert lines[0].split() == ["NAME", "READY", "REASON", "MODE", "AGENTS", "PROGRAMMED", "WOULD", "DENY", "AGE"]
    assert lines[1].split()[:7] == ["models", "True", "Programmed", "Audit", "5", "4", "7"]
