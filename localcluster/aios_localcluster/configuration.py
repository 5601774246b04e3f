"""The configuration of every component, as pure functions from settings, network and places."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aios_localcluster import cluster_dns, ours, simulation
from aios_localcluster.certificates import Pair
from aios_localcluster.network import ClusterNetwork
from aios_localcluster.plan import Component
from aios_localcluster.settings import RELEASE_NAMESPACE, ClusterSettings, Layout

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
KUBELET_DIR = Path("/var/lib/kubelet")
CONTAINERD_DIR = Path("/var/lib/containerd")
CNI_DIR = Path("/etc/cni/net.d")
"""Where the node has them; they are the cluster's own directories, whatever the host has there."""
PAUSE_IMAGE = "localhost/kubeaios/pause:1"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KUBECONFIGS = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")


@dataclass(frozen=True)
class Programs:
    """The directories with what was built."""

    kubernetes: Path
    containerd: Path
    helm: Path
    kwok: Path
    pause: Path


def kubeconfig(url: str, cluster: str, user: str, authority: bytes, pair: Pair) -> str:
    """A kubeconfig with everything inside it, so that it may be copied."""
    encoded = {
        "authority": base64.b64encode(authority).decode(),
        "certificate": base64.b64encode(pair.certificate).decode(),
        "key": base64.b64encode(pair.key).decode(),
    }
    name = f"kubeaios-{cluster}"
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": url, "certificate-authority-data": encoded["authority"]}}],
            "users": [
                {"name": user, "user": {"client-certificate-data": encoded["certificate"], "client-key-data": encoded["key"]}},
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
        },
        sort_keys=False,
    )


def kubelet_configuration(layout: Layout, network: ClusterNetwork) -> dict[str, Any]:
    """One node on cgroup v1 or v2 that keeps every image and evicts nobody before memory is really short."""
    pki = layout.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "failSwapOn": False,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet-server.key"),
        "clusterDNS": [str(network.node)],
        "clusterDomain": cluster_dns.DOMAIN,
        # The host's name server must not leak into pods.
        "resolvConf": str(layout.configuration / "resolv.conf"),
        # Images can't be pulled again where there is no registry: never collect them, and let a full disk show itself.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        # What ended is started again at once, however often it did: programs are killed here to see what becomes of others.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        # Ask the API as fast as needed: a test starts many pods at once.
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
    }


def scheduler_configuration(kubeconfig_path: Path) -> dict[str, Any]:
    """kube-scheduler with its client's limit raised.

    A pod with claims costs about four requests, so the default of 50 requests per second binds 12 pods per second at best: 200 pods took
    16.3 s, and 3.8 s with this limit, on two cores (docs/local-cluster.md).
    """
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(kubeconfig_path), "qps": 2000, "burst": 4000},
    }


def audit_policy() -> dict[str, Any]:
    """What programs of the release ask of the API, and nobody else: who, which verb, which kind; no contents."""
    programs = [
        f"system:serviceaccount:{RELEASE_NAMESPACE}:{name}" for name in ("aios-operator", "aios-node", "aios-gateway", "aios-uninstall")
    ]
    rules = [{"level": "Metadata", "users": programs}, {"level": "None"}]
    return {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}


def proxy_configuration(kubeconfig_path: Path, network: ClusterNetwork, node_name: str) -> dict[str, Any]:
    """kube-proxy with nftables. Connection tracking keeps the kernel's limits, which a namespace may not change."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": str(network.pods),
        "hostnameOverride": node_name,
        "conntrack": {"maxPerCore": 0, "min": 0},
        "clientConnection": {"kubeconfig": str(kubeconfig_path)},
    }


def containerd_configuration(runc: str) -> str:
    """containerd for one kubelet. Where it writes is private to the cluster, so the usual places are the right ones."""
    return f"""\
version = 3
root = "{CONTAINERD_DIR}"
state = "/run/containerd"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE a negative OOM score can't be set, and runc would end with "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  enable_cdi = true
  cdi_spec_dirs = ["/etc/cdi", "/run/cdi"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
    conf_dir = "{CNI_DIR}"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{runc}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"
"""


def cni_configuration(network: ClusterNetwork) -> dict[str, Any]:
    """A veth pair per pod, routed. A bridge would need the br_netfilter module for Services between its own pods; a route does not."""
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": str(network.pods)}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
        ],
    }


def _flags(**values: object) -> list[str]:
    return [f"--{key.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]


def components(settings: ClusterSettings, network: ClusterNetwork, programs: Programs) -> tuple[Component, ...]:
    """What runs, in the order of its start."""
    layout = settings.layout
    every = (
        _etcd(layout, programs),
        _api_server(layout, network, programs),
        _controller_manager(layout, network, programs),
        _scheduler(layout, programs),
        *_node(settings, network, programs),
        *_simulated(settings, programs),
    )
    simulated = ("kwok", "simulation") if settings.kwok_nodes else ()
    wanted = {*settings.components, *(("images", "cluster-dns") if settings.has_node else ()), *simulated}
    return tuple(component for component in every if component.name in wanted)


def _etcd(layout: Layout, programs: Programs) -> Component:
    pki = layout.certificates
    flags = _flags(
        data_dir=layout.etcd,
        listen_client_urls="https://127.0.0.1:2379",
        advertise_client_urls="https://127.0.0.1:2379",
        listen_peer_urls="http://127.0.0.1:2380",
        initial_advertise_peer_urls="http://127.0.0.1:2380",
        initial_cluster="default=http://127.0.0.1:2380",
        # hostNetwork pods share this loopback interface: without a certificate of etcd's own authority nobody gets in.
        client_cert_auth=True,
        trusted_ca_file=pki / "etcd-ca.crt",
        cert_file=pki / "etcd.crt",
        key_file=pki / "etcd.key",
    )
    # What a power cut would lose is a test cluster; a sync per write would cost seconds on slow disks.
    return Component("etcd", (str(programs.kubernetes / "etcd"), *flags, "--unsafe-no-fsync"))


def _api_server(layout: Layout, network: ClusterNetwork, programs: Programs) -> Component:
    pki = layout.certificates
    flags = _flags(
        etcd_servers="https://127.0.0.1:2379",
        etcd_cafile=pki / "etcd-ca.crt",
        etcd_certfile=pki / "apiserver-etcd.crt",
        etcd_keyfile=pki / "apiserver-etcd.key",
        secure_port=6443,
        advertise_address=network.node,
        client_ca_file=pki / "ca.crt",
        tls_cert_file=pki / "apiserver.crt",
        tls_private_key_file=pki / "apiserver.key",
        kubelet_certificate_authority=pki / "ca.crt",
        kubelet_client_certificate=pki / "apiserver-kubelet.crt",
        kubelet_client_key=pki / "apiserver-kubelet.key",
        kubelet_preferred_address_types="InternalIP",
        authorization_mode="Node,RBAC",
        # As in clusters that are careful about owners: who names one that blocks the deletion needs the right to its finalizers.
        enable_admission_plugins="NodeRestriction,OwnerReferencesPermissionEnforcement",
        audit_policy_file=layout.configuration / "audit.yaml",
        audit_log_path=layout.log("audit"),
        audit_log_maxsize=64,
        audit_log_maxbackup=2,
        service_account_issuer="https://kubernetes.default.svc",
        service_account_signing_key_file=pki / "service-account.key",
        service_account_key_file=pki / "service-account.key",
        service_cluster_ip_range=network.services,
        allow_privileged=True,
    )
    return Component("kube-apiserver", (str(programs.kubernetes / "kube-apiserver"), *flags))


def _controller_manager(layout: Layout, network: ClusterNetwork, programs: Programs) -> Component:
    pki, own = layout.certificates, layout.configuration / "kube-controller-manager.kubeconfig"
    flags = _flags(
        kubeconfig=own,
        authentication_kubeconfig=own,
        authorization_kubeconfig=own,
        service_account_private_key_file=pki / "service-account.key",
        use_service_account_credentials=True,
        root_ca_file=pki / "ca.crt",
        cluster_signing_cert_file=pki / "ca.crt",
        cluster_signing_key_file=pki / "ca.key",
        service_cluster_ip_range=network.services,
        cluster_cidr=network.pods,
        leader_elect=False,
        # As for the scheduler: 20 requests per second are too few when a test makes hundreds of objects.
        kube_api_qps=500,
        kube_api_burst=1000,
    )
    return Component("kube-controller-manager", (str(programs.kubernetes / "kube-controller-manager"), *flags), after_api=True)


def _scheduler(layout: Layout, programs: Programs) -> Component:
    own = layout.configuration / "kube-scheduler.kubeconfig"
    flags = _flags(config=layout.configuration / "kube-scheduler.yaml", authentication_kubeconfig=own, authorization_kubeconfig=own)
    return Component("kube-scheduler", (str(programs.kubernetes / "kube-scheduler"), *flags), after_api=True)


def _node(settings: ClusterSettings, network: ClusterNetwork, programs: Programs) -> tuple[Component, ...]:
    layout = settings.layout
    config = layout.configuration
    import_images = (
        str(programs.containerd / "ctr"),
        "--address",
        CONTAINERD_SOCKET,
        "-n",
        "k8s.io",
        "images",
        "import",
        str(layout.pause_image),
    )
    kubelet = _flags(
        config=config / "kubelet.yaml",
        kubeconfig=config / "kubelet.kubeconfig",
        hostname_override=settings.node_name,
        node_ip=network.node,
    )
    proxy = _flags(config=config / "kube-proxy.yaml", hostname_override=settings.node_name)
    names = _flags(kubeconfig=layout.kubeconfig, host=network.node, names=layout.names)
    return (
        Component("containerd", (str(programs.containerd / "containerd"), "--config", str(config / "containerd.toml"))),
        Component("images", import_images, after_path=CONTAINERD_SOCKET, is_step=True),
        Component(
            "kubelet", (str(programs.kubernetes / "kubelet"), *kubelet), after_api=True, after_path=CONTAINERD_SOCKET, after_step="images"
        ),
        Component("kube-proxy", (str(programs.kubernetes / "kube-proxy"), *proxy), after_api=True),
        Component("cluster-dns", ours.argv("cluster_dns", *names), after_api=True),
    )


def _simulated(settings: ClusterSettings, programs: Programs) -> tuple[Component, ...]:
    layout = settings.layout
    kwok = _flags(
        kubeconfig=layout.kubeconfig,
        config=layout.configuration / "kwok.yaml",
        manage_nodes_with_label_selector=f"{simulation.LABEL}={simulation.VALUE}",
        node_lease_duration_seconds=simulation.LEASE_SECONDS,
    )
    own = simulation.component_argv(layout.kubeconfig, settings.kwok_nodes, settings.gpus_per_node)
    return (
        Component("kwok", (str(programs.kwok / "kwok"), *kwok), after_api=True),
        Component("simulation", own, after_api=True),
    )


def write_node_files(settings: ClusterSettings, network: ClusterNetwork, runc: str) -> None:
    """Write what the components' flags name, for a cluster with or without a node."""
    layout = settings.layout
    config = layout.configuration
    (config / "cni").mkdir(parents=True, exist_ok=True)
    (config / "resolv.conf").write_text("")
    (config / "cni" / "10-pods.conflist").write_text(_json(cni_configuration(network)))
    (config / "containerd.toml").write_text(containerd_configuration(runc))
    # JSON is YAML, and the components read either.
    (config / "kubelet.yaml").write_text(_json(kubelet_configuration(layout, network)))
    (config / "kube-scheduler.yaml").write_text(_json(scheduler_configuration(config / "kube-scheduler.kubeconfig")))
    (config / "audit.yaml").write_text(_json(audit_policy()))
    (config / "kwok.yaml").write_text(simulation.stages())
    (config / "kube-proxy.yaml").write_text(_json(proxy_configuration(config / "kube-proxy.kubeconfig", network, settings.node_name)))


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"
