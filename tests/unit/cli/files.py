"""Small directories of manifests."""

from pathlib import Path
from typing import Any

import yaml

from aios_api.names import API_VERSION

TEMPLATE = {"spec": {"containers": [{"name": "agent", "image": "registry.example.com/agent:1"}]}}


def agent(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "Agent", "metadata": {"name": name, "labels": labels}, "spec": {"template": TEMPLATE}}


def binding(name: str, *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One that selects `team: a`."""
    spec = {"agentSelector": {"matchLabels": {"team": "a"}}, "egress": list(rules), **more}
    return {"apiVersion": API_VERSION, "kind": "ToolBinding", "metadata": {"name": name}, "spec": spec}


def rule(name: str, host: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "host": host, **more}


def write(directory: Path, *objects: dict[str, Any], name: str = "all.yaml") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(yaml.safe_dump_all(objects))
    return directory
