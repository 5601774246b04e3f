"""Removing the chart removes the Agents first, with no other rights than it needs, and it can be installed again."""

import json

import yaml

from aios_localcluster import kubeaios
from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import kubectl
from e2e.rights import granted, recorded
from e2e.support import Space, namespace


def test_removing_the_chart_removes_agents_first_and_leaves_nothing_behind(installed: tuple[LocalCluster, dict[str, str]]):
    cluster, tags = installed
    with namespace(cluster, "test-uninstall", tags["example"]) as space:
        space.apply(space.agent("a", memory="4Gi"))
        space.ready("a")
        hooks = yaml.safe_load_all(kubeaios.helm(cluster, "get", "hooks", kubeaios.RELEASE, "--namespace", kubeaios.NAMESPACE))
        rights = {right for each in hooks if each and each["kind"] in ("ClusterRole", "Role") for right in granted(each)}
        kubeaios.uninstall(cluster)
        asked = {(right, allowed) for right, allowed in recorded(cluster) if right[0] == "aios-uninstall"}
        assert asked == {(right, True) for right in rights}, "what the removal may do is what it does"
        assert json.loads(kubectl(cluster, "get", "pods,resourceclaims", "-n", space.name, "-o", "json"))["items"] == []
        assert json.loads(kubectl(cluster, "get", "deviceclasses", "-o", "json"))["items"] == []
        kubeaios.install(cluster, print, kubeaios.FAKE_GPUS)
        again: Space = space
        again.apply(again.agent("b", memory="4Gi"))
        again.ready("b")
        again.kubectl("delete", "agents", "--all")
