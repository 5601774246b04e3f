"""The parts around the loop: settings, probes, kopf's settings, logs, uninstall."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from aios_kube import resources
from aios_kube.fake import FakeCluster
from aios_kube.transport import Credentials
from aios_operator.logs import JsonLines
from aios_operator.main import established
from aios_operator.metrics import Metrics
from aios_operator.observe.feed import Feed
from aios_operator.observe.store import Store
from aios_operator.probes import Health, serve
from aios_operator.settings import InvalidSetting, OperatorSettings, from_environment
from aios_operator.uninstall import remove_agents


def test_settings_come_from_the_environment():
    settings = from_environment(
        {"AIOS_KUBECONFIG": "/k", "AIOS_HTTP_PORT": "9000", "AIOS_AUDIT_SECONDS": "10.5", "AIOS_OTHER": "x", "PATH": "y"}
    )
    assert (settings.kubeconfig, settings.http_port, settings.audit_seconds) == (Path("/k"), 9000, 10.5)
    assert from_environment({}) == OperatorSettings()


@pytest.mark.parametrize(
    ("variable", "value", "must"),
    [
        ("AIOS_HTTP_PORT", "http", "a whole number"),
        ("AIOS_AUDIT_SECONDS", "soon", "a number"),
        ("AIOS_AUDIT_SECONDS", "0", "greater than 0"),
        ("AIOS_AUDIT_SECONDS", "nan", "greater than 0"),
        ("AIOS_LOG_FORMAT", "xml", "text or json"),
        ("AIOS_WITHOUT_QUOTA", "nothing", "Unlimited or Nothing"),
    ],
)
def test_a_setting_that_can_not_be_read_is_named(variable: str, value: str, must: str):
    with pytest.raises(InvalidSetting, match=f"{variable}.*{must}"):
        from_environment({variable: value})


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_probes_say_what_is_wrong():
    clock = Clock()
    health = Health(turn_age_limit_seconds=60, audit_seconds=300, last_turn=lambda: 1000.0, now=clock)
    metrics = Metrics()
    async with (
        serve("127.0.0.1", 0, health, metrics) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as web,
    ):
        assert (await web.get("/readyz")).status_code == 503
        clock.now += 3600  # the first list of a large cluster takes its time
        assert (await web.get("/healthz")).status_code == 200
        health.ready, health.leading, health.last_audit = True, True, clock.now
        assert (await web.get("/readyz")).status_code == 200
        stuck = await web.get("/healthz")
        assert (stuck.status_code, "has not turned" in stuck.text) == (503, True)
        health.last_turn = clock
        assert (await web.get("/healthz")).status_code == 200
        clock.now += 1000
        assert "no audit" in (await web.get("/healthz")).text
        metrics.request("get", "/api/v1/nodes/n1", 404, 0.1)
        metrics.request("get", "/api/v1/nodes/n1", 418, 0.1)
        text = (await web.get("/metrics")).text
        assert 'aios_operator_api_requests_total{code="404",verb="get"} 1.0' in text
        assert 'aios_operator_api_requests_total{code="other",verb="get"} 1.0' in text


def test_kopf_filters_at_the_server_and_writes_nothing():
    feed = Feed(Store(), Credentials(), OperatorSettings(), lambda table: None, lambda resource: None)
    settings = feed.kopf_settings()
    assert settings.watching.label_selectors["", "v1", "pods"] == "aios.dev/agent"
    assert settings.watching.field_selectors["resource.k8s.io", "v1", "resourceslices"] == "spec.driver=gpu.aios.dev"
    assert settings.scanning.disabled
    assert not settings.posting.enabled
    assert settings.watching.initial_streaming is False
    assert settings.process.ultimate_exiting_timeout == 15
    assert len(list(settings.networking.error_backoffs)) > 3
    assert list(settings.networking.error_backoffs) != list(settings.networking.error_backoffs)


def test_json_lines_carry_the_facts():
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s placed", ("ns/a",), None)
    record.facts = {"agent": "ns/a", "node": "n1"}
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["agent"], line["node"], line["level"]) == ("ns/a placed", "ns/a", "n1", "info")


async def test_uninstall_deletes_every_agent_and_waits():
    cluster = FakeCluster()
    for name in ("a", "b"):
        cluster.put(resources.AGENTS, {"metadata": {"namespace": "ns", "name": name, "finalizers": ["aios.dev/release"]}, "spec": {}})
    said: list[str] = []
    task = asyncio.create_task(remove_agents(cluster, 60, said.append))
    async with asyncio.timeout(60):
        while not all("deletionTimestamp" in agent["metadata"] for agent in cluster.all(resources.AGENTS)) or not said:
            await asyncio.sleep(0.001)
    assert not task.done()
    for name in ("a", "b"):
        cluster.alter(resources.AGENTS, name, {"metadata": {"finalizers": None}}, "ns")
    assert await asyncio.wait_for(task, 60)
    assert said == ["waiting for 2 Agents to be gone: ns/a, ns/b", "no Agent is left"]


async def test_uninstall_gives_up_and_names_what_is_left():
    cluster = FakeCluster()
    cluster.put(resources.AGENTS, {"metadata": {"namespace": "ns", "name": "a", "finalizers": ["aios.dev/release"]}, "spec": {}})
    said: list[str] = []
    assert not await remove_agents(cluster, 0.05, said.append)
    assert "1 Agents are left: ns/a" in said[-2]


async def test_the_start_waits_for_our_definitions():
    cluster = FakeCluster()
    task = asyncio.create_task(established(cluster, resources.AGENTS, poll_seconds=0.01))
    name = "agents.aios.dev"

    def put(status: str) -> Any:
        conditions = [{"type": "Established", "status": status}]
        return cluster.put(resources.CUSTOM_RESOURCE_DEFINITIONS, {"metadata": {"name": name}, "status": {"conditions": conditions}})

    await asyncio.sleep(0.03)
    put("False")
    await asyncio.sleep(0.03)
    assert not task.done()
    put("True")
    await asyncio.wait_for(task, 60)


HANGS = """
import asyncio, threading
from aios_operator.main import end_within, to_the_end

async def never():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def work():
    asyncio.create_task(never())
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    await asyncio.sleep(0)
    {how}

asyncio.run(to_the_end(work()))
"""


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("return True", 0),
        ("return False", 1),
        ("raise ValueError('a fault of ours')", 1),
        ("end_within(0.2); await asyncio.Event().wait()", 1),
    ],
)
def test_nothing_that_hangs_holds_up_the_end_of_the_process(how: str, code: int):
    """Who lost its Lease must make room: the kubelet starts the next one only once this one has ended."""
    done = subprocess.run([sys.executable, "-c", HANGS.format(how=how)], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
