"""Which kubeconfig, context and namespace a command means."""

import os
from pathlib import Path

import click
import pytest
import yaml

from aios_cli import cluster
from aios_cli.cluster import chosen_kubeconfig


def kubeconfig(path: Path, namespace: str | None = None) -> Path:
    context = {"cluster": "c", "user": "u", **({"namespace": namespace} if namespace else {})}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "prod",
        "contexts": [{"name": "prod", "context": context}, {"name": "lab", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1"}}],
        "users": [{"name": "u", "user": {}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_option_wins_over_the_environment_over_the_local_cluster_over_the_home(tmp_path):
    given, named, local = (kubeconfig(tmp_path / name) for name in ("given", "named", "local"))
    standard = kubeconfig(tmp_path / ".kube" / "config")
    environment = {"KUBECONFIG": str(named)}
    assert chosen_kubeconfig(str(given), environment, local, tmp_path) == given
    assert chosen_kubeconfig(None, environment, local, tmp_path) == named
    assert chosen_kubeconfig(None, {}, local, tmp_path) == local
    assert chosen_kubeconfig(None, {}, None, tmp_path) == standard


def test_of_several_files_in_kubeconfig_those_that_exist_count(tmp_path):
    one, two = kubeconfig(tmp_path / "one"), kubeconfig(tmp_path / "two")
    several = os.pathsep.join([str(one), str(tmp_path / "missing"), str(two)])
    assert str(chosen_kubeconfig(None, {"KUBECONFIG": several}, None, tmp_path)) == os.pathsep.join([str(one), str(two)])


def test_a_file_that_is_not_there_is_an_error_and_not_another_cluster(tmp_path):
    local = kubeconfig(tmp_path / "local")
    with pytest.raises(click.ClickException, match="KUBECONFIG must name a file that exists: /nowhere"):
        chosen_kubeconfig(None, {"KUBECONFIG": "/nowhere"}, local, tmp_path)
    with pytest.raises(click.ClickException, match="--kubeconfig must name a file that exists"):
        chosen_kubeconfig("/nowhere", {}, local, tmp_path)
    with pytest.raises(click.ClickException, match="no cluster: give --kubeconfig"):
        chosen_kubeconfig(None, {}, None, tmp_path)


def test_the_namespace_is_the_option_or_that_of_the_context_or_default(tmp_path):
    path = str(kubeconfig(tmp_path / "k", namespace="team"))
    assert cluster.target(path, None, None).namespace == "team"
    assert cluster.target(path, None, "other").namespace == "other"
    assert cluster.target(path, "lab", None).namespace == "default"
    assert cluster.target(path, "lab", None).context == "lab"
    with pytest.raises(click.ClickException, match="--context must be one of lab, prod"):
        cluster.target(path, "typo", None)


def test_a_file_that_is_no_kubeconfig_is_named(tmp_path):
    path = tmp_path / "k"
    path.write_text("{}")
    with pytest.raises(click.ClickException, match="must be a kubeconfig"):
        cluster.target(str(path), None, None)


def test_a_cluster_that_does_not_answer_is_one_message(tmp_path):
    path = kubeconfig(tmp_path / "k")
    path.write_text(path.read_text().replace("https://192.0.2.1", "http://127.0.0.1:9"))
    to = cluster.target(str(path), None, None)

    async def ask() -> None:
        from aios_kube.resources import AGENTS

        async with cluster.connected(to) as client:
            await client.list(AGENTS)

    with pytest.raises(click.ClickException, match=r"prod \(.*\) does not answer"):
        cluster.run(ask(), to)
