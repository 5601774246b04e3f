"""What the tests of the node share. They need root and network namespaces; without, they say so in one line."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.support import Pod, a_pod, make_hook, short_directory


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
