"""An agent's context goes from one node to another: two node agents, two gateways, the channel between them, and orders by hand."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aios_api import names
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, LEASES, NODES
from aios_sidecar.context.errors import Fenced
from aios_sidecar.context.items import Draft, Role
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey
from aios_sidecar.node.settings import NodeSettings
from node.support import (
    AGENT_UID,
    NAMESPACE,
    NODE,
    a_claim,
    a_cluster,
    a_gateway,
    a_runtime,
    condition,
    eventually,
    prepare,
    running,
    settings_in,
    uid,
)

KEY = AgentKey(NAMESPACE, "agent", AGENT_UID)
SOURCE = "node-b"


def door(cluster: FakeCluster, node: str) -> tuple[str, str] | None:
    """Address and certificate of a node's gateway, as the operator reads them."""
    lease = cluster.peek(LEASES, names.node_lease_name(node), "aios-system")
    said = ((lease or {}).get("metadata") or {}).get("annotations") or {}
    return (said[names.ANNOTATION_DOOR], said[names.ANNOTATION_CERTIFICATE]) if names.ANNOTATION_DOOR in said else None


def an_order(**origin: Any) -> dict[str, Any]:
    return a_runtime(attempt=2, gpu=None, contextFrom={"nodeName": SOURCE, **origin})


def move(cluster: FakeCluster) -> dict[str, Any]:
    order = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE)
    assert order is not None
    return (order.get("status") or {}).get("move") or {}


@pytest.fixture
def nodes(directory: Path, hook: Path) -> tuple[NodeSettings, NodeSettings]:
    source = replace(settings_in(directory / "b", hook), node_name=SOURCE)
    store = SqliteStore(source.context_dir)
    store.context(KEY, 1).append([Draft(Role.USER, "remember this")])
    store.close()
    return source, settings_in(directory / "a", hook, prepare_seconds=60.0)


async def test_no_claim_is_prepared_before_its_context_is_here_and_the_api_server_knows_it(nodes: tuple[NodeSettings, NodeSettings]):
    source, here = nodes
    cluster = a_cluster(claim=a_claim(attempt=2, gpu=None), runtime=an_order())
    cluster.put(NODES, {"metadata": {"name": SOURCE, "uid": uid(81)}, "status": {}})
    async with running(source, cluster), running(here, cluster), a_gateway(source), a_gateway(here):
        await eventually(lambda: door(cluster, SOURCE) and door(cluster, NODE))
        asked = asyncio.create_task(prepare(here, name="agent-2"))
        await eventually(lambda: move(cluster).get("trouble"))
        assert move(cluster)["trouble"] == f"node {SOURCE} has not said where its contexts can be fetched"
        assert not asked.done()
        (address, certificate), (_, receiver) = door(cluster, SOURCE) or ("", ""), door(cluster, NODE) or ("", "")
        order = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE) or {}
        keys = {"address": address, "certificate": certificate, "receiver": receiver}
        order["spec"]["contextFrom"] = {"nodeName": SOURCE, **keys}
        cluster.put(AGENT_RUNTIMES, order)
        answer = await asked
        assert answer.error == ""
        assert move(cluster)["here"] is True
        await eventually(lambda: not (source.context_dir / AGENT_UID / "context.db").exists())
    store = SqliteStore(here.context_dir)
    with store.context(KEY, 2).reading() as reader:
        assert [item.content for item in reader.oldest(9)] == ["remember this"]
    store.close()
    store = SqliteStore(source.context_dir)
    with pytest.raises(Fenced):
        store.context(KEY, 1)
    store.close()


async def test_a_context_that_is_given_up_holds_nobody_up(nodes: tuple[NodeSettings, NodeSettings]):
    _, here = nodes
    cluster = a_cluster(claim=a_claim(attempt=2, gpu=None), runtime=an_order(startEmpty=True))
    async with running(here, cluster), a_gateway(here):
        assert (await prepare(here, name="agent-2")).error == ""
        assert move(cluster)["here"] is True


async def test_a_source_that_is_not_there_is_named_where_people_look(nodes: tuple[NodeSettings, NodeSettings]):
    _, here = nodes
    cluster = a_cluster(claim=a_claim(attempt=2, gpu=None), runtime=an_order())
    async with running(replace(here, prepare_seconds=1.5), cluster), a_gateway(here):
        error = (await prepare(here, name="agent-2")).error
        assert f"the context comes from node {SOURCE}" in error
        await eventually(lambda: condition(cluster, "Prepared") == ("False", "ContextOnItsWay"))
        order = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE) or {}
        found = {each["type"]: each for each in order["status"]["conditions"]}
        assert SOURCE in found["Prepared"]["message"]
