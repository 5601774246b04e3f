"""Our client on a real API server, and the same on the in-memory cluster: what tests rely on there is what the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aios_kube import ClusterClient, Object, Reflector, Selection, connect
from aios_kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, AGENTS, CONFIG_MAPS, PODS
from aios_localcluster import LocalCluster
from api.support import Space, agent

OTHER_UID = "7d9b7ab0-0000-4000-8000-000000000000"


@pytest.fixture(params=["server", "memory"])
async def api(request: pytest.FixtureRequest, cluster: LocalCluster, definitions: list[Object]) -> AsyncIterator[ClusterClient]:
    if request.param == "memory":
        yield FakeCluster()
        return
    real = await connect(cluster.kubeconfig, user_agent="tests")
    yield real
    await real.close()


@pytest.fixture
def namespace(space: Space) -> str:
    return space.namespace


def config(namespace: str, name: str = "x", labels: dict[str, str] | None = None, uid: str | None = None, **data: str) -> Object:
    metadata: Object = {"namespace": namespace, "name": name, **({"labels": labels} if labels else {})}
    if uid:
        metadata["uid"] = uid
    return {"metadata": metadata, "data": data}


async def test_create_get_delete(api: ClusterClient, namespace: str):
    made = await api.create(CONFIG_MAPS, config(namespace, a="1"), field_manager="m")
    assert (await api.get(CONFIG_MAPS, "x", namespace))["metadata"]["uid"] == made["metadata"]["uid"]
    with pytest.raises(AlreadyExists):
        await api.create(CONFIG_MAPS, config(namespace), field_manager="m")
    with pytest.raises(Conflict):
        await api.delete(CONFIG_MAPS, "x", namespace, uid=OTHER_UID)
    await api.delete(CONFIG_MAPS, "x", namespace, uid=made["metadata"]["uid"])
    for call in (api.get(CONFIG_MAPS, "x", namespace), api.delete(CONFIG_MAPS, "x", namespace)):
        with pytest.raises(NotFound):
            await call


async def test_apply_that_changes_nothing_keeps_the_version(api: ClusterClient, namespace: str):
    first = await api.apply(CONFIG_MAPS, config(namespace, a="1"), field_manager="m")
    again = await api.apply(CONFIG_MAPS, config(namespace, a="1"), field_manager="m")
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    changed = await api.apply(CONFIG_MAPS, config(namespace, a="2"), field_manager="m")
    assert int(changed["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])


async def test_apply_owns_its_fields_and_no_more(api: ClusterClient, namespace: str):
    await api.apply(CONFIG_MAPS, config(namespace, a="1", b="1"), field_manager="m")
    await api.apply(CONFIG_MAPS, config(namespace, c="1"), field_manager="other")
    after = await api.apply(CONFIG_MAPS, config(namespace, a="1"), field_manager="m")
    assert after["data"] == {"a": "1", "c": "1"}
    with pytest.raises(Conflict, match="other"):
        await api.apply(CONFIG_MAPS, config(namespace, a="1", c="2"), field_manager="m")
    forced = await api.apply(CONFIG_MAPS, config(namespace, a="1", c="2"), field_manager="m", force=True)
    assert forced["data"] == {"a": "1", "c": "2"}


@pytest.mark.parametrize("there", [True, False])
async def test_a_write_for_another_uid_is_a_conflict(api: ClusterClient, namespace: str, there: bool):
    if there:
        await api.create(CONFIG_MAPS, config(namespace, a="1"), field_manager="m")
    with pytest.raises(Conflict):
        await api.apply(CONFIG_MAPS, config(namespace, uid=OTHER_UID, a="2"), field_manager="m", force=True)
    error: type[ApiError] = Conflict if there else NotFound
    replaced: list[Object] = [{"op": "replace", "path": "/data", "value": {"a": "2"}}]
    patches: list[Any] = [{"data": {"a": "2"}}, replaced]
    for patch in patches:
        with pytest.raises(error):
            await api.patch(CONFIG_MAPS, "x", patch, namespace=namespace, field_manager="m", uid=OTHER_UID)
        if there:
            with pytest.raises(Conflict):
                await api.patch(CONFIG_MAPS, "x", patch, namespace=namespace, field_manager="m", resource_version="1")


async def test_patches_change_what_they_name(api: ClusterClient, namespace: str):
    made = await api.create(CONFIG_MAPS, config(namespace, a="1", b="1"), field_manager="m")
    after = await api.patch(CONFIG_MAPS, "x", {"data": {"a": None, "c": "1"}}, namespace=namespace, field_manager="m")
    assert after["data"] == {"b": "1", "c": "1"}
    whole: list[Object] = [{"op": "replace", "path": "/data", "value": {"z": "1"}}]
    after = await api.patch(CONFIG_MAPS, "x", whole, namespace=namespace, field_manager="m", uid=made["metadata"]["uid"])
    assert after["data"] == {"z": "1"}


async def test_status_has_its_own_door(api: ClusterClient, namespace: str):
    made = await api.create(AGENTS, {**agent("a"), "metadata": {"namespace": namespace, "name": "a"}}, field_manager="m")
    status = {"observedGeneration": 1, "attempt": 3}
    put: list[Object] = [{"op": "add", "path": "/status", "value": status}]
    where: Any = {"namespace": namespace, "field_manager": "m", "uid": made["metadata"]["uid"]}
    assert "status" not in await api.patch(AGENTS, "a", {"status": status}, **where)
    after = await api.patch(AGENTS, "a", put, subresource="status", **where)
    assert after["status"] == status
    again = await api.patch(AGENTS, "a", put, subresource="status", **where)
    assert again["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    edited = await api.patch(AGENTS, "a", {"spec": {"operatingMode": "Stopped"}}, **where)
    assert edited["metadata"]["generation"] == 2
    assert edited["status"] == status


async def test_a_finalizer_holds_an_object_and_its_removal_lets_it_go(api: ClusterClient, namespace: str):
    body = config(namespace)
    body["metadata"]["finalizers"] = ["aios.dev/release"]
    made = await api.create(CONFIG_MAPS, body, field_manager="m")
    await api.delete(CONFIG_MAPS, "x", namespace)
    held = await api.get(CONFIG_MAPS, "x", namespace)
    assert held["metadata"]["deletionTimestamp"]
    last = await api.patch(
        CONFIG_MAPS,
        "x",
        {"metadata": {"finalizers": []}},
        namespace=namespace,
        field_manager="m",
        uid=made["metadata"]["uid"],
        resource_version=held["metadata"]["resourceVersion"],
    )
    assert last["metadata"]["deletionTimestamp"]
    assert not last["metadata"].get("finalizers")
    with pytest.raises(NotFound):
        await api.get(CONFIG_MAPS, "x", namespace)


async def test_lists_by_labels_and_metadata_alone(api: ClusterClient, namespace: str):
    for name, color in (("a", "red"), ("b", "blue")):
        await api.create(CONFIG_MAPS, config(namespace, name, {"color": color}, key="value"), field_manager="m")
    page = await api.list(CONFIG_MAPS, Selection(namespace, labels="color=red"), metadata_only=True)
    assert [item["metadata"]["name"] for item in page.items] == ["a"]
    assert "data" not in page.items[0]
    full = await api.list(CONFIG_MAPS, Selection(namespace, labels="color"))
    assert [(item["kind"], item["data"]) for item in full.items] == [("ConfigMap", {"key": "value"})] * 2
    assert (await api.list(PODS, Selection(namespace))).items == []


async def test_a_watch_resumes_where_a_list_ended(api: ClusterClient, namespace: str):
    red = Selection(namespace, labels="color=red")
    start = (await api.list(CONFIG_MAPS, red)).resource_version
    await api.create(CONFIG_MAPS, config(namespace, "a", {"color": "red"}), field_manager="m")
    await api.create(CONFIG_MAPS, config(namespace, "b", {"color": "blue"}), field_manager="m")
    for name, color in (("a", "blue"), ("b", "red")):
        await api.patch(CONFIG_MAPS, name, {"metadata": {"labels": {"color": color}}}, namespace=namespace, field_manager="m")
    await api.delete(CONFIG_MAPS, "b", namespace)
    seen: list[tuple[str, str]] = []
    async with asyncio.timeout(60):
        async for event in api.watch(CONFIG_MAPS, red, resource_version=start):
            if event.type != "BOOKMARK":
                seen.append((event.type, event.object["metadata"]["name"]))
            if len(seen) == 4:
                break
    assert seen == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "b"), ("DELETED", "b")]


class Nothing:
    """A sink that keeps nothing."""

    def replace(self, objects: list[Object]) -> None: ...
    def upsert(self, obj: Object) -> None: ...
    def remove(self, obj: Object) -> None: ...


async def test_a_server_at_rest_is_heard_at_the_end_of_every_short_watch(api: ClusterClient, namespace: str):
    on_node = Selection(fields="spec.nodeName=somewhere")
    reflector = Reflector(api, AGENT_RUNTIMES, Nothing(), on_node, watch_seconds=3)
    task = asyncio.create_task(reflector.run())
    try:
        heard = []
        async with asyncio.timeout(60):
            while len(heard) < 3:
                if reflector.heard_seconds not in (None, *heard):
                    heard.append(reflector.heard_seconds)
                await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
