"""An Agent is deleted whose context is to be erased then: a node agent and a gateway, and an API server in memory."""

from pathlib import Path

from aios_kube.resources import AGENT_RUNTIMES, AGENTS, EVENTS
from aios_sidecar.context.items import Draft, Role
from aios_sidecar.context.sqlite.reclaim import MARK
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey
from node.support import (
    AGENT_UID,
    NAMESPACE,
    a_claim,
    a_cluster,
    a_gateway,
    a_runtime,
    eventually,
    prepare,
    running,
    settings_in,
    uid,
    unprepare,
)

KEY = AgentKey(NAMESPACE, "agent", AGENT_UID)
NEIGHBOUR = AgentKey(NAMESPACE, "neighbour", uid(9))
SECRET = "sesquipedalian"
ERASE = {"context": {"reclaim": "Erase"}}


def raw(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


async def test_a_context_goes_with_its_agent_also_when_nobody_was_there_to_see_it_and_no_other_does(directory: Path, hook: Path):
    here = settings_in(directory, hook, leftover_seconds=0.05)
    cluster = a_cluster(claim=a_claim(gpu=None), runtime=a_runtime(gpu=None, **ERASE))
    cluster.put(AGENTS, {"metadata": {"namespace": NAMESPACE, "name": "agent", "uid": AGENT_UID}, "spec": ERASE})
    store = SqliteStore(here.context_dir)
    for key, text in ((KEY, SECRET), (NEIGHBOUR, "mine")):
        store.context(key, 1).append([Draft(Role.USER, text)])
    store.close()
    mark = here.context_dir / AGENT_UID / MARK
    async with running(here, cluster), a_gateway(here):
        assert (await prepare(here)).error == ""
        await eventually(mark.exists)
        await unprepare(here)
        cluster.remove(AGENT_RUNTIMES, "agent", NAMESPACE)
        await eventually(lambda: [call for call in cluster.calls if call.resource == AGENTS])
        assert SECRET.encode() in raw(here.context_dir), "its Agent is there"
    cluster.remove(AGENTS, "agent", NAMESPACE)
    async with running(here, cluster), a_gateway(here):
        await eventually(lambda: not mark.parent.exists())
        await eventually(lambda: [each for each in cluster.all(EVENTS) if each["reason"] == "ContextErased"])
    assert SECRET.encode() not in raw(here.context_dir)
    store = SqliteStore(here.context_dir)
    assert store.agents() == [NEIGHBOUR]
    store.close()
    (event,) = [each for each in cluster.all(EVENTS) if each["reason"] == "ContextErased"]
    assert event["regarding"]["uid"] == AGENT_UID
    assert "1 items" in event["note"]
