"""A real Kubernetes on one machine, from Go modules, for tests, benches and the demo.

`build` compiles etcd, Kubernetes, containerd and Helm once into a cache outside the tree, `host` installs what Debian packages bring, and
`LocalCluster` runs one cluster inside namespaces of its own: one supervisor is the first process of a PID namespace, with its own mounts,
network and cgroups. So a cluster ends when its supervisor ends, however that happens, and `down` only has to remove cgroups and files.
"""

from aios_localcluster.cluster import LocalCluster
from aios_localcluster.errors import LocalClusterError
from aios_localcluster.settings import API_ONLY, FULL, ClusterSettings

__all__ = ["API_ONLY", "FULL", "ClusterSettings", "LocalCluster", "LocalClusterError"]
