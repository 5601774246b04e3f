"""What is written for the components, and what the settings refuse."""

import base64
import datetime
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from aios_localcluster import certificates, configuration, files
from aios_localcluster.network import ClusterNetwork
from aios_localcluster.plan import Plan
from aios_localcluster.settings import API_ONLY, FULL, ClusterSettings, environment_settings

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
NETWORK = ClusterNetwork(IPv4Network("10.150.0.0/16"))
PROGRAMS = configuration.Programs(
    kubernetes=Path("/b/k"), containerd=Path("/b/c"), helm=Path("/b/h"), kwok=Path("/b/w"), pause=Path("/b/p")
)


@pytest.fixture
def api_only(tmp_path: Path) -> ClusterSettings:
    return ClusterSettings(name="unit", state_root=tmp_path, components=API_ONLY)


def test_each_component_is_planned_once_and_in_the_order_of_its_start(tmp_path: Path):
    full = configuration.components(ClusterSettings(state_root=tmp_path, components=FULL), NETWORK, PROGRAMS)
    names = [component.name for component in full]
    assert names == [*FULL[:4], "containerd", "images", "kubelet", "kube-proxy", "cluster-dns"]
    assert [component.name for component in full if component.is_step] == ["images"]


def test_an_api_without_a_node_has_no_part_of_one(api_only: ClusterSettings):
    assert [component.name for component in configuration.components(api_only, NETWORK, PROGRAMS)] == list(API_ONLY)


def test_the_kubelet_waits_for_api_containerd_and_the_sandbox_image(tmp_path: Path):
    planned = configuration.components(ClusterSettings(state_root=tmp_path), NETWORK, PROGRAMS)
    kubelet = next(component for component in planned if component.name == "kubelet")
    assert (kubelet.after_api, kubelet.after_path, kubelet.after_step) == (True, configuration.CONTAINERD_SOCKET, "images")


def test_the_api_server_authorizes_nodes_and_roles_and_advertises_the_node_address(api_only: ClusterSettings):
    server = configuration.components(api_only, NETWORK, PROGRAMS)[1]
    assert {"--authorization-mode=Node,RBAC", "--advertise-address=10.150.0.2", "--service-cluster-ip-range=10.150.128.0/20"} <= set(
        server.argv
    )
    assert not any("token-auth" in argument for argument in server.argv)


def test_the_schedulers_client_is_not_limited_to_its_default():
    client = configuration.scheduler_configuration(Path("/k"))["clientConnection"]
    assert (client["qps"], client["burst"]) == (2000, 4000)


def test_containerd_runs_where_negative_oom_scores_are_refused():
    runtime = tomllib.loads(configuration.containerd_configuration("/usr/sbin/runc"))["plugins"]["io.containerd.cri.v1.runtime"]
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["containerd"]["runtimes"]["runc"]["options"]["BinaryName"] == "/usr/sbin/runc"


def test_the_kubelet_accepts_cgroup_v1_and_nobody_without_a_name(api_only: ClusterSettings):
    kubelet = configuration.kubelet_configuration(api_only.layout, NETWORK)
    assert (kubelet["failCgroupV1"], kubelet["cgroupDriver"]) == (False, "cgroupfs")
    assert kubelet["authentication"]["anonymous"] == {"enabled": False}
    assert kubelet["authorization"] == {"mode": "Webhook"}


def test_a_plan_read_back_is_the_plan(api_only: ClusterSettings):
    plan = files.write(api_only, NETWORK, PROGRAMS, NOW)
    plan.write(api_only.layout.plan)
    assert Plan.read(api_only.layout.plan) == plan


def test_every_client_has_a_certificate_with_the_name_that_rbac_knows(api_only: ClusterSettings):
    files.write(api_only, NETWORK, PROGRAMS, NOW)
    expected = {
        "kube-controller-manager": ("system:kube-controller-manager", []),
        "kube-scheduler": ("system:kube-scheduler", []),
        "kubelet": ("system:node:unit-node", ["system:nodes"]),
        "kube-proxy": ("system:kube-proxy", []),
    }
    for component, (user, groups) in expected.items():
        path = api_only.layout.configuration / f"{component}.kubeconfig"
        assert path.stat().st_mode & 0o777 == 0o600
        config = yaml.safe_load(path.read_text())
        assert config["clusters"][0]["cluster"]["server"] == "https://10.150.0.2:6443"
        subject = x509.load_pem_x509_certificate(base64.b64decode(config["users"][0]["user"]["client-certificate-data"])).subject
        assert [each.value for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [user]
        assert [each.value for each in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == groups


def test_the_api_servers_certificate_is_for_the_node_the_service_and_its_names(api_only: ClusterSettings):
    files.write(api_only, NETWORK, PROGRAMS, NOW)
    certificate = x509.load_pem_x509_certificate((api_only.layout.certificates / "apiserver.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(each) for each in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "10.150.0.2", "10.150.128.1"}
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)


def test_authorities_outlive_a_restart_and_leaf_certificates_do_not(api_only: ClusterSettings):
    folder = api_only.layout.certificates
    files.write(api_only, NETWORK, PROGRAMS, NOW)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    files.write(api_only, NETWORK, PROGRAMS, NOW + datetime.timedelta(days=300))
    second = {path.name: path.read_bytes() for path in folder.iterdir()}
    kept = {name for name in first if first[name] == second[name]}
    assert kept == {"ca.crt", "ca.key", "etcd-ca.crt", "etcd-ca.key", "service-account.key"}


def test_a_certificate_is_signed_by_its_authority_and_by_no_other():
    ours, other = certificates.new_authority("ours", NOW), certificates.new_authority("other", NOW)
    leaf = x509.load_pem_x509_certificate(certificates.issue(ours, NOW, "someone").certificate)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(ours.certificate))
    with pytest.raises(ValueError):
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(other.certificate))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "Not_A_Label"}, "name must be a DNS label"),
        ({"name": "x" * 41}, "at most 40 characters"),
        ({"components": ("etcd", "kube-apiserver", "kubelet")}, "must contain containerd"),
        ({"components": ("etcd",)}, "must contain kube-apiserver"),
        ({"components": ("etcd", "kube-apiserver", "kube-magic")}, "not kube-magic"),
        ({"subnet": "10.0.0.0/24"}, "subnet must be an IPv4 network with a prefix of 16 bits"),
    ],
)
def test_settings_that_can_not_work_are_refused(wrong: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        ClusterSettings(**wrong)  # type: ignore[arg-type]


def test_a_state_directory_names_root_and_cluster():
    settings = environment_settings({"AIOS_CACHE": "/c"}, "ignored", Path("/srv/clusters/mine"))
    assert (settings.layout.root, settings.name, settings.cache) == (Path("/srv/clusters/mine"), "mine", Path("/c"))


def test_clusters_of_one_name_in_two_places_share_nothing_in_the_kernel(tmp_path: Path):
    one, two = (ClusterSettings(state_root=tmp_path / place).layout for place in ("one", "two"))
    assert one.identity != two.identity
    assert one.link != two.link
    assert len(one.link) <= 15
