"""Writes everything that a cluster reads when it starts: certificates, configuration, the sandbox image, the plan."""

import datetime
import platform
from ipaddress import IPv4Address

from aios_localcluster import certificates, configuration, host, images
from aios_localcluster.certificates import Pair
from aios_localcluster.configuration import Programs
from aios_localcluster.network import ClusterNetwork
from aios_localcluster.plan import Plan
from aios_localcluster.settings import ClusterSettings

API_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost")


def write(settings: ClusterSettings, network: ClusterNetwork, programs: Programs, now: datetime.datetime) -> Plan:
    """Write the files below the state directory; returns the plan, which the caller writes last.

    Authorities and the service accounts' key stay what they were in an earlier start; everything else is made anew.
    """
    layout = settings.layout
    for folder in (layout.certificates, layout.configuration, layout.logs, layout.etcd, layout.private, layout.root / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    layout.etcd.chmod(0o700)
    _certificates(settings, network, now)
    configuration.write_node_files(settings, network, host.find("runc") or "runc")
    if settings.has_node:
        archive = images.single_program_archive(programs.pause / "pause", configuration.PAUSE_IMAGE, platform.machine())
        layout.pause_image.write_bytes(archive)
    pki = layout.certificates
    return Plan(
        identity=layout.identity,
        hostname=settings.node_name,
        link=layout.link,
        subnet=str(network.subnet),
        api_url=network.api_url,
        certificate_authority=str(pki / "ca.crt"),
        client_certificate=str(pki / "admin.crt"),
        client_key=str(pki / "admin.key"),
        state=str(layout.root),
        private=str(layout.private),
        binds={
            # Real directories of a disk, not of an overlay: containerd makes overlays of its own there, and the kubelet measures its disk.
            str(configuration.KUBELET_DIR): str(layout.private / "kubelet"),
            str(configuration.CONTAINERD_DIR): str(layout.private / "containerd"),
            str(configuration.CNI_DIR): str(layout.configuration / "cni"),
        },
        logs=str(layout.logs),
        control=str(layout.control),
        holder=str(layout.holder),
        environment={
            "PATH": f"{programs.containerd}:{configuration.SYSTEM_PATH}",
            "HOME": "/root",
            "TMPDIR": str(layout.root / "tmp"),
        },
        components=configuration.components(settings, network, programs),
    )


def _certificates(settings: ClusterSettings, network: ClusterNetwork, now: datetime.datetime) -> None:
    layout = settings.layout
    folder = layout.certificates
    folder.chmod(0o700)
    authority = certificates.load_or_make_authority(folder, "ca", now)
    etcd_authority = certificates.load_or_make_authority(folder, "etcd-ca", now)
    if not (folder / "service-account.key").exists():
        certificates.write_private(folder / "service-account.key", certificates.new_key())

    def signed(by: Pair, file: str, user: str, *groups: str, names: tuple[str, ...] = (), local: bool = False, node: bool = False) -> Pair:
        addresses = [*([IPv4Address("127.0.0.1")] if local else []), *([network.node] if node else [])]
        if file == "apiserver":
            addresses.append(network.api_service)
        pair = certificates.issue(by, now, user, groups, names=names, addresses=addresses)
        pair.write(folder, file)
        return pair

    signed(etcd_authority, "etcd", "etcd", names=("localhost",), local=True)
    signed(etcd_authority, "apiserver-etcd", "kube-apiserver")
    signed(authority, "apiserver", "kube-apiserver", names=API_NAMES, local=True, node=True)
    signed(authority, "apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters")
    signed(authority, "kubelet-server", f"system:node:{settings.node_name}", "system:nodes", names=(settings.node_name,), node=True)
    clients = {
        "admin": signed(authority, "admin", "kubernetes-admin", "system:masters"),
        "kube-controller-manager": signed(authority, "kube-controller-manager", "system:kube-controller-manager"),
        "kube-scheduler": signed(authority, "kube-scheduler", "system:kube-scheduler"),
        "kubelet": signed(authority, "kubelet", f"system:node:{settings.node_name}", "system:nodes"),
        "kube-proxy": signed(authority, "kube-proxy", "system:kube-proxy"),
    }
    for name, pair in clients.items():
        path = layout.kubeconfig if name == "admin" else layout.configuration / f"{name}.kubeconfig"
        user = "admin" if name == "admin" else f"system:{name}"
        text = configuration.kubeconfig(network.api_url, settings.name, user, authority.certificate, pair)
        certificates.write_private(path, text.encode())
