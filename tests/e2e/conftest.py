"""One real cluster for the whole tier, with the chart installed by Helm and two fake GPUs; a namespace per test."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_localcluster import kubeaios
from aios_localcluster.cluster import LocalCluster
from aios_localcluster.host import why_not
from e2e.support import Space, namespace

COUNTER = itertools.count(1)

TURNS = {"test_localcluster": -1, "test_rights": 1, "test_uninstall": 2}
"""The first compares the whole machine before and after, so that nothing else may run; the last two look at what the others led to, and
remove what they use."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        return TURNS.get(item.path.stem, 0)

    ours = [index for index, item in enumerate(items) if item.path.is_relative_to(Path(__file__).parent)]
    for index, item in zip(ours, sorted((items[index] for index in ours), key=turn), strict=True):
        items[index] = item


@pytest.fixture(scope="session")
def bare_cluster() -> Iterator[LocalCluster]:
    """A cluster of the tests' own, beside one that a person may have running."""
    if reason := why_not():
        pytest.skip(reason)
    cluster = LocalCluster(name="e2e")
    cluster.down()
    cluster.up(print)
    yield cluster
    if "AIOS_KEEP_CLUSTER" not in os.environ:
        cluster.down()


@pytest.fixture(scope="session")
def installed(bare_cluster: LocalCluster) -> tuple[LocalCluster, dict[str, str]]:
    """The cluster with KubeAIOS, and the image tags by name."""
    return bare_cluster, kubeaios.install(bare_cluster, print, kubeaios.FAKE_GPUS)


@pytest.fixture
def cluster(installed: tuple[LocalCluster, dict[str, str]]) -> LocalCluster:
    return installed[0]


@pytest.fixture
def space(installed: tuple[LocalCluster, dict[str, str]]) -> Iterator[Space]:
    cluster, tags = installed
    with namespace(cluster, f"test-{next(COUNTER)}", tags["example"]) as made:
        yield made
        made.kubectl("delete", "agents", "--all", "--timeout=60s")
        made.nothing_left()
