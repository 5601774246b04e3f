"""What programs of ours may do in the API, by the rules of roles, and what they did there, by the API server's audit log."""

import json
from collections.abc import Iterator

from aios_localcluster.cluster import LocalCluster
from e2e.support import Object

Right = tuple[str, str, str]
"""Program, group and resource, verb."""


def granted(role: Object) -> Iterator[Right]:
    """A role has the name of the program that it is for."""
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            yield from ((role["metadata"]["name"], f"{group}/{resource}", verb) for resource in rule["resources"] for verb in rule["verbs"])


def recorded(cluster: LocalCluster) -> Iterator[tuple[Right, bool]]:
    """Each request of ours about an object, and whether it was allowed."""
    for path in sorted(cluster.layout.log("audit").parent.glob("audit*")):
        for line in path.read_text().rpartition("\n")[0].splitlines():  # what comes after the last end of a line is being written
            event = json.loads(line)
            about = event.get("objectRef")
            if about is not None:
                resource = f"{about.get('apiGroup', '')}/{about['resource']}" + (
                    f"/{about['subresource']}" if "subresource" in about else ""
                )
                program = event["user"]["username"].rpartition(":")[2]
                allowed = event.get("annotations", {}).get("authorization.k8s.io/decision") != "forbid"
                yield (program, resource, event["verb"]), allowed
