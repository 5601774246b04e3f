"""A real API server with our definitions, for the whole tier; a namespace per test. No node: nothing runs here."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from aios_localcluster import API_ONLY, ClusterSettings, LocalCluster, build, host
from api.support import Object, Space, connect

ROOT = Path(__file__).parents[2]
COUNTER = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    settings = ClusterSettings(name="api-tests", state_root=tmp_path_factory.mktemp("cluster"), components=API_ONLY)
    if reason := host.why_not(settings.has_node):
        pytest.skip(reason)
    if not build.is_built(build.MODULES["kubernetes"], settings.cache):
        pytest.skip("the cluster's programs are not built yet: python -m aios_localcluster.build kubernetes")
    with LocalCluster(settings) as running:
        yield running


@pytest.fixture(scope="session")
def definitions(cluster: LocalCluster) -> list[Object]:
    """Our CustomResourceDefinitions, as committed, Established on the API server and served."""
    written: list[Object] = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    with connect(cluster) as client:
        for definition in written:
            answer = client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=definition)
            assert answer.status_code == 201, answer.text
        for definition in written:
            spec = definition["spec"]
            path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
            eventually(functools.partial(is_served, client, path), f"{path} is served")
    return written


@pytest.fixture(scope="session")
def client(cluster: LocalCluster, definitions: list[Object]) -> Iterator[httpx.Client]:
    with connect(cluster) as connected:
        yield connected


@pytest.fixture
def space(client: httpx.Client) -> Iterator[Space]:
    yield from _namespace(client)


@pytest.fixture(scope="module")
def shared_space(client: httpx.Client) -> Iterator[Space]:
    """A namespace for tests that keep nothing in it."""
    yield from _namespace(client)


def _namespace(client: httpx.Client) -> Iterator[Space]:
    name = f"test-{next(COUNTER)}"
    assert client.post("/api/v1/namespaces", json={"metadata": {"name": name}}).status_code == 201
    yield Space(client, name)
    client.delete(f"/api/v1/namespaces/{name}")


def is_served(client: httpx.Client, path: str) -> bool:
    return client.get(path).status_code == 200


def eventually(holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Wait until `holds`; the API server needs a moment for what it learns from itself."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"after {seconds:.0f} s it must be true that {what}"
        time.sleep(0.05)
