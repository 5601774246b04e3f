"""A real API server with our definitions, for the whole tier; a namespace per test. No node: nothing runs here."""

import functools
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from aios_localcluster import API_ONLY, ClusterSettings, LocalCluster, build, host
from api.admission import Stage, installed, people
from api.callers import NAMESPACE
from api.support import Object, Space, connect, eventually

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


@pytest.fixture(scope="session")
def chart_objects(cluster: LocalCluster) -> list[Object]:
    """What helm would write, the definitions aside, which are there already."""
    if not build.is_built(build.MODULES["helm"], cluster.settings.cache):
        pytest.skip("helm is not built: python -m aios_localcluster.build helm")
    values = ["--set", "crds.enabled=false", "--set", "fakeGpus=x"]
    command = [str(cluster.helm_path), "template", "kubeaios", str(ROOT / "charts" / "kubeaios"), "--namespace", NAMESPACE, *values]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="session")
def system_namespace(client: httpx.Client) -> str:
    """The namespace of the release."""
    assert client.post("/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}}).status_code == 201
    return NAMESPACE


@pytest.fixture(scope="module")
def guarded(client: httpx.Client, chart_objects: list[Object], system_namespace: str) -> Iterator[httpx.Client]:
    """The chart's rights and admission policies are in force while a module's tests run."""
    with installed(client, chart_objects, system_namespace):
        yield client


@pytest.fixture
def stage(guarded: httpx.Client) -> Iterator[Stage]:
    """A namespace with people of several rights in it, behind the policies."""
    with people(guarded, f"guarded-{next(COUNTER)}") as made_here:
        yield made_here


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
