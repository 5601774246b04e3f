"""What the tests of the node share. They need root and network namespaces; without, they say so in one line."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.played import Played, cgroup_root
from node.support import GPU_A, NATIVE, Pod, a_pod, make_hook, short_directory


def missing() -> str | None:
    """Why pods can't be played here; None when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    tools = [tool for tool in ("ip", "nft", "nsenter", "make", "cc") if not shutil.which(tool)]
    if tools:
        return f"{tools[0]} is not installed"
    done = subprocess.run(["unshare", "--net", "nft", "add", "table", "inet", "aiosprobe"], capture_output=True, check=False)
    return None if done.returncode == 0 else "this machine allows no network namespaces with nftables"


@pytest.fixture(scope="session")
def node_tools() -> None:
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def hook(node_tools: None) -> Iterator[Path]:
    """The hook, compiled from its source."""
    with short_directory() as directory:
        yield make_hook(directory)


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def pod(node_tools: None) -> Iterator[Pod]:
    with a_pod(1) as found:
        yield found


@pytest.fixture
def driver(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake driver's description, of GPU_A; workers load its libraries. It is changed by `rewrite`."""
    subprocess.run(["make", "-s", "-C", str(NATIVE), "fakes", f"OUT={directory}/native"], check=True)
    file = directory / "gpus.conf"
    file.write_text(f'gpu uuid={GPU_A.uuid} model="Fake H100" memory=80Gi reserved=1Gi\nprograms proc=/proc\n')
    monkeypatch.setenv("AIOS_FAKE_GPUS", str(file))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{directory}/native")
    return file


@pytest.fixture
def play(node_tools: None) -> Iterator[Callable[[str], Played]]:
    root = cgroup_root()
    if root is None:
        pytest.skip("this machine lets nobody make cgroups")
    made: list[Played] = []

    def new(pod_uid: str) -> Played:
        made.append(Played(root, pod_uid, len(made) + 1))
        return made[-1]

    yield new
    for each in made:
        each.close()
