"""The narrow Kubernetes client that the operator, the node agent and the CLI share.

`ClusterClient` (protocol.py) is all that our programs may ask of a cluster, in plain dicts. `connect` (client.py) opens the real one over
the `kubernetes` package's transport, `FakeCluster` (fake.py) is one in memory for unit tests. `Reflector` keeps a callback told of what
exists, `EventRecorder` writes events, `errors` is the tree of what can go wrong. Nothing here knows what an Agent is.
"""

from aios_kube.client import KubeClient, connect
from aios_kube.protocol import ALL, ClusterClient, Object, Page, Selection, WatchEvent
from aios_kube.reflector import Reflector, Sink
from aios_kube.resources import Resource
from aios_kube.transport import Speaker

__all__ = [
    "ALL",
    "ClusterClient",
    "KubeClient",
    "Object",
    "Page",
    "Reflector",
    "Resource",
    "Selection",
    "Sink",
    "Speaker",
    "WatchEvent",
    "connect",
]
