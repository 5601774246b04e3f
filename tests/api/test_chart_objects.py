"""The chart's objects on a real API server: each is understood to the last field."""

from pathlib import Path

import yaml

from aios_localcluster import LocalCluster
from api.support import Object, kubectl


def test_every_object_is_understood_to_the_last_field(
    cluster: LocalCluster, chart_objects: list[Object], system_namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "chart.yaml"
    file.write_text(yaml.safe_dump_all(chart_objects))
    told = kubectl(cluster, "create", "--dry-run=server", "--validate=strict", "-f", str(file))
    assert len(told.splitlines()) == len(chart_objects)
