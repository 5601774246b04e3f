"""A world outside the cluster, on the host's end of its network: hosts by name, and programs that ask for them from an agent's pod."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.support import Object, Space
from unit.gateway.clients import environment, server_code
from unit.gateway.outside import Authority

PROXY = "http://127.0.0.1:2489"


@dataclass
class Outside:
    """One server with a certificate for `hosts`, at an address that is private, so that rules must name it."""

    space: Space
    directory: Path
    address: str
    tls: int
    plain: int

    def name(self, addresses: Mapping[str, list[str]]) -> None:
        """What the cluster's name server knows beside Services, from now on."""
        names = self.space.cluster.layout.names
        written = names.with_suffix(".new")
        written.write_text(json.dumps(addresses))
        written.replace(names)  # the name server reads it at each question, and half a file has no names

    def binding(self, *hosts: str, name: str = "outside", **spec: Any) -> Object:
        """Lets agents with the label `way: out` reach `hosts` here by TLS and plainly; the address itself is named, since it is private."""
        egress: list[Object] = []
        for number, host in enumerate(hosts):
            egress += [
                {"name": f"tls-{number}", "host": host, "ports": [self.tls], "scheme": "https"},
                {"name": f"plain-{number}", "host": host, "ports": [self.plain], "scheme": "http"},
            ]
        if hosts:
            egress += [
                {"name": "address-tls", "cidr": self.address, "ports": [self.tls], "scheme": "https"},
                {"name": "address-plain", "cidr": self.address, "ports": [self.plain], "scheme": "http"},
            ]
        selector = {"matchLabels": {"way": "out"}}
        return {
            "apiVersion": "aios.dev/v1alpha1",
            "kind": "ToolBinding",
            "metadata": {"name": name, "namespace": self.space.name},
            "spec": {"agentSelector": selector, "egress": egress, **spec},
        }

    def run(self, agent: str, code: str, **variables: str) -> str:
        """What a Python program of this machine prints in the network namespace of the agent's pod, with the proxy as agents have it."""
        done = self.start(agent, code, **variables)
        out, errors = done.communicate(timeout=90)
        assert done.returncode == 0, errors
        return out

    def start(self, agent: str, code: str, **variables: str) -> "subprocess.Popen[str]":
        """The same, still running; its standard input ends when the caller closes it."""
        given = {**os.environ, **environment(PROXY, str(self.directory / "ca.pem")), **variables}
        command = ["nsenter", f"--net={network_namespace(self.space, agent)}", sys.executable, "-c", code]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=given, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@contextmanager
def outside(space: Space, *hosts: str) -> Iterator[Outside]:
    """The server runs and its hosts have names, until the end."""
    address = str(space.cluster.network.host)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        Authority(directory).server(*hosts)
        certificate = directory / f"{hosts[0]}.pem"
        server = subprocess.Popen(
            [sys.executable, "-c", server_code(), address, str(certificate), "0", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            ports = json.loads(server.stdout.readline())
            world = Outside(space, directory, address, ports["tls"], ports["plain"])
            world.name({host: [address] for host in hosts})
            yield world
        finally:
            server.kill()
            server.wait()
            space.cluster.layout.names.unlink(missing_ok=True)


def network_namespace(space: Space, agent: str) -> str:
    """A path of the network namespace of the agent's pod, as this machine sees it."""
    named = space.kubectl("exec", space.pod_of(agent), "--", "readlink", "/proc/self/ns/net").strip()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if str((process / "ns" / "net").readlink()) == named:
                    return str(process / "ns" / "net")
            except OSError:
                continue  # it has ended
    raise AssertionError(f"no process of this machine is in {named}")
