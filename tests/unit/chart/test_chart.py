"""What the chart installs, and what it refuses to install."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from aios_api import names
from aios_operator.settings import OperatorSettings
from aios_operator.settings import from_environment as operator_settings
from aios_sidecar.gateway.settings import Settings as GatewaySettings
from aios_sidecar.node.settings import NodeSettings, from_environment
from aios_sidecar.vram.settings import from_environment as vram_settings

Object = dict[str, Any]
WORKLOADS = (("Deployment", "aios-operator"), ("DaemonSet", "aios-node"), ("DaemonSet", "aios-gateway"), ("Job", "aios-uninstall"))
FAKE = 'gpu uuid=GPU-00000000-0000-0000-0000-00000000000a model="NVIDIA L40S" memory=48Gi\n'


def test_lint_is_strict_and_clean(chart: Any) -> None:
    done = chart.helm("lint", "--strict", "--quiet", str(chart.path))
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize(("kind", "name"), [workload for workload in WORKLOADS if workload[1] != "aios-node"])
def test_all_but_the_node_agent_meet_the_restricted_standard(release: Any, kind: str, name: str) -> None:
    pod, only = release.pod(kind, name), release.container(kind, name)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert only["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize(("kind", "name"), WORKLOADS)
def test_service_links_stay_out_of_the_environment(release: Any, kind: str, name: str) -> None:
    assert release.pod(kind, name)["enableServiceLinks"] is False


def test_the_gateway_has_no_token_and_two_directories(release: Any) -> None:
    pod = release.pod("DaemonSet", "aios-gateway")
    assert pod["automountServiceAccountToken"] is False
    assert release.one("ServiceAccount", "aios-gateway")["automountServiceAccountToken"] is False
    directories = [str(GatewaySettings().node_socket.parent), str(NodeSettings("x").context_dir)]
    assert list(release.host_paths("DaemonSet", "aios-gateway").values()) == directories
    subjects = [subject["name"] for each in release if each["kind"].endswith("RoleBinding") for subject in each["subjects"]]
    assert "aios-gateway" not in subjects


def test_node_agent_and_gateway_agree_on_the_user_of_the_gateway(chart: Any) -> None:
    for given, expected in ((None, NodeSettings("x").gateway_uid), ({"gateway": {"runAsUser": 70_001}}, 70_001)):
        release = chart.render(given)
        assert release.pod("DaemonSet", "aios-gateway")["securityContext"]["runAsUser"] == expected
        assert release.environment("DaemonSet", "aios-node")["AIOS_GATEWAY_UID"] == str(expected)


def test_the_node_agent_understands_its_environment(release: Any) -> None:
    given = release.environment("DaemonSet", "aios-node")
    settings = from_environment(given)
    defaults = NodeSettings(settings.node_name)
    assert (settings.kubelet_dir, settings.cdi_dir, settings.slots) == (defaults.kubelet_dir, defaults.cdi_dir, defaults.slots)
    assert settings.vendor_cdi_dirs == defaults.vendor_cdi_dirs
    assert given["AIOS_NODE_NAME"] == "spec.nodeName"
    assert settings.namespace == "metadata.namespace"


def test_node_agent_and_gateway_have_the_same_mute_time(chart: Any) -> None:
    for given, expected in ((None, NodeSettings("x").mute_seconds), ({"muteSeconds": 90}, 90)):
        release = chart.render(given)
        assert from_environment(release.environment("DaemonSet", "aios-node")).mute_seconds == expected
        assert GatewaySettings.from_environment(release.environment("DaemonSet", "aios-gateway")).mute_seconds == expected


def test_how_often_fences_are_tried_and_when_a_node_is_given_up_are_values(chart: Any) -> None:
    values = {"lostMarginSeconds": 75, "node": {"probeSeconds": 60}}
    for given, probe, margin in ((None, NodeSettings("x").probe_seconds, OperatorSettings().lost_margin_seconds), (values, 60, 75)):
        release = chart.render(given)
        assert from_environment(release.environment("DaemonSet", "aios-node")).probe_seconds == probe
        assert operator_settings(release.environment("Deployment", "aios-operator")).lost_margin_seconds == margin


def test_the_gateway_understands_its_environment(release: Any) -> None:
    settings = GatewaySettings.from_environment(release.environment("DaemonSet", "aios-gateway"))
    assert settings.metrics_port == release.container("DaemonSet", "aios-gateway")["ports"][0]["containerPort"]
    assert settings.context_dir == NodeSettings("x").context_dir


def test_only_gateways_reach_the_port_where_contexts_are_fetched(chart: Any) -> None:
    release = chart.render({"gateway": {"movePort": 9500}})
    settings = GatewaySettings.from_environment(release.environment("DaemonSet", "aios-gateway"))
    ports = {port["name"]: port["containerPort"] for port in release.container("DaemonSet", "aios-gateway")["ports"]}
    assert (settings.move_host, settings.move_port) == ("status.podIP", ports["moves"])
    assert ports["moves"] == 9500
    spec = release.one("NetworkPolicy", "aios-gateway")["spec"]
    labels = release.one("DaemonSet", "aios-gateway")["spec"]["selector"]["matchLabels"]
    assert spec["podSelector"]["matchLabels"] == labels
    (watched, moved) = spec["ingress"]
    assert ([port["port"] for port in watched["ports"]], "from" in watched) == (["http"], False)
    assert ([port["port"] for port in moved["ports"]], moved["from"]) == (["moves"], [{"podSelector": {"matchLabels": labels}}])


def test_the_audit_is_written_where_there_is_room_for_it(chart: Any) -> None:
    for given, size in ((None, "256Mi"), ({"gateway": {"audit": {"fileMiB": 100, "files": 3}}}, "348Mi")):
        release = chart.render(given)
        settings = GatewaySettings.from_environment(release.environment("DaemonSet", "aios-gateway"))
        mounts = {mount["name"]: mount["mountPath"] for mount in release.container("DaemonSet", "aios-gateway")["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in release.pod("DaemonSet", "aios-gateway")["volumes"]}
        assert settings.audit_file is not None
        assert str(settings.audit_file.parent) == mounts["audit"]
        assert volumes["audit"]["emptyDir"]["sizeLimit"] == size
    assert (settings.audit_file_bytes, settings.audit_files) == (100 << 20, 3)


def test_what_is_internal_and_who_resolves_are_the_clusters_to_say(chart: Any) -> None:
    dns = {"nameservers": ["203.0.113.53"], "options": [{"name": "ndots", "value": "1"}]}
    release = chart.render({"gateway": {"internalCIDRs": ["198.51.100.0/24", "2001:db8::/48"], "dnsPolicy": "None", "dnsConfig": dns}})
    settings = GatewaySettings.from_environment(release.environment("DaemonSet", "aios-gateway"))
    assert settings.internal_cidrs == ("198.51.100.0/24", "2001:db8::/48")
    mounts = {mount["name"]: mount["mountPath"] for mount in release.container("DaemonSet", "aios-gateway")["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in release.pod("DaemonSet", "aios-gateway")["volumes"]}
    assert settings.ranges_file == Path(mounts["ranges"]) / names.CLUSTER_RANGES_KEY
    assert volumes["ranges"]["configMap"] == {"name": names.CLUSTER_RANGES, "optional": True}
    assert "data" not in release.one("ConfigMap", names.CLUSTER_RANGES), "it is the operator's, and no upgrade takes it away"
    pod = release.pod("DaemonSet", "aios-gateway")
    assert (pod["dnsPolicy"], pod["dnsConfig"]) == ("None", dns)


def test_the_operator_understands_its_environment(release: Any) -> None:
    settings = operator_settings(release.environment("Deployment", "aios-operator"))
    assert settings.http_port == release.container("Deployment", "aios-operator")["ports"][0]["containerPort"]
    assert settings.uninstall_seconds < release.one("Job", "aios-uninstall")["spec"]["activeDeadlineSeconds"]


def test_every_directory_of_the_node_agent_is_where_the_host_has_it(chart: Any) -> None:
    release = chart.render({"node": {"kubeletDir": "/var/lib/k0s/kubelet", "cdiDir": "/run/cdi"}})
    settings = from_environment(release.environment("DaemonSet", "aios-node"))
    host, mounts = release.host_paths("DaemonSet", "aios-node"), release.mounts("DaemonSet", "aios-node")
    assert all(mounts[name] == path for name, path in host.items())
    for path in (
        settings.plugin_dir,
        settings.registration_socket,
        settings.cdi_dir,
        settings.run_dir,
        settings.state_dir,
        settings.gateway_socket,
    ):
        assert any(path.is_relative_to(mounted) for mounted in host.values()), path


@pytest.mark.parametrize("name", ["aios-node", "aios-gateway"])
def test_a_tainted_node_still_has_its_sidecar(release: Any, name: str) -> None:
    pod = release.pod("DaemonSet", name)
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"


def test_only_the_node_agent_is_privileged(release: Any) -> None:
    privileged = [name for kind, name in WORKLOADS if release.container(kind, name)["securityContext"].get("privileged")]
    assert privileged == ["aios-node"]
    propagating = [mount for mount in release.container("DaemonSet", "aios-node")["volumeMounts"] if "mountPropagation" in mount]
    assert propagating == []


def test_a_new_operator_is_there_before_an_old_one_ends(chart: Any, release: Any) -> None:
    spec = release.one("Deployment", "aios-operator")["spec"]
    assert (spec["replicas"], spec["strategy"]["rollingUpdate"]) == (2, {"maxUnavailable": 0, "maxSurge": 1})
    assert chart.render({"operator": {"replicas": 1}}).one("Deployment", "aios-operator")["spec"]["replicas"] == 1


def test_operators_have_the_rights_to_their_lease_where_they_look_for_it_and_to_no_other(release: Any) -> None:
    settings = operator_settings(release.environment("Deployment", "aios-operator"))
    assert (settings.lease_namespace, settings.identity) == ("metadata.namespace", "metadata.name")
    assert settings.mute_seconds == float(release.environment("DaemonSet", "aios-node")["AIOS_MUTE_SECONDS"])
    role = release.one("Role", "aios-operator")
    assert [(rule.get("resourceNames"), rule["verbs"]) for rule in role["rules"]] == [
        ([names.MANAGED_BY], ["get", "patch"]),
        ([names.CLUSTER_RANGES], ["get", "patch"]),
        (None, ["list", "delete"]),
        (None, ["create"]),
    ]
    assert {each["metadata"]["namespace"] for each in (role, release.one("Lease", names.MANAGED_BY))} == {"aios-system"}
    assert not any("coordination.k8s.io" in rule["apiGroups"] for rule in release.one("ClusterRole", "aios-operator")["rules"])


@pytest.mark.parametrize(("name", "kind"), [(names.GPU_CLASS, names.KIND_GPU), (names.RUNTIME_CLASS, names.KIND_RUNTIME)])
def test_device_classes_ask_for_an_attribute_only_where_it_is(release: Any, name: str, kind: str) -> None:
    (selector,) = release.one("DeviceClass", name)["spec"]["selectors"]
    domain = f'device.attributes["{names.DRIVER}"]'
    assert selector["cel"]["expression"].split(" && ") == [
        f'device.driver == "{names.DRIVER}"',
        f'"{names.ATTRIBUTE_KIND}" in {domain}',
        f'{domain}.{names.ATTRIBUTE_KIND} == "{kind}"',
    ]


def test_fake_gpus_reach_the_node_agent_and_are_announced(chart: Any) -> None:
    release = chart.render({"fakeGpus": FAKE})
    assert release.one("ConfigMap", "aios-fake-gpus")["data"] == {"gpus": FAKE}
    given = release.environment("DaemonSet", "aios-node")
    mounts = release.mounts("DaemonSet", "aios-node")
    assert Path(given["AIOS_FAKE_GPUS"]) == Path(mounts["fake-gpus"]) / "gpus"
    assert given["LD_LIBRARY_PATH"] == "/opt/aios/fakes"
    assert "FAKE GPUS" in chart.notes({"fakeGpus": FAKE})
    assert "FAKE GPUS" not in chart.notes({})


def test_a_model_for_meaning_is_mounted_read_only_where_the_gateway_looks(chart: Any) -> None:
    source = {"hostPath": {"path": "/opt/models/static", "type": "Directory"}}
    release = chart.render({"gateway": {"embeddingsVolume": source}})
    (volume,) = (each for each in release.pod("DaemonSet", "aios-gateway")["volumes"] if each["name"] == "embeddings")
    assert volume == {"name": "embeddings", **source}
    (mount,) = (each for each in release.container("DaemonSet", "aios-gateway")["volumeMounts"] if each["name"] == "embeddings")
    settings = GatewaySettings.from_environment(release.environment("DaemonSet", "aios-gateway"))
    assert mount["readOnly"]
    assert str(settings.embeddings_dir) == mount["mountPath"]
    without = chart.render({})
    assert "embeddings" not in without.mounts("DaemonSet", "aios-gateway")
    assert GatewaySettings.from_environment(without.environment("DaemonSet", "aios-gateway")).embeddings_dir is None


def test_ignored_xids_reach_the_node_agent(chart: Any) -> None:
    release = chart.render({"node": {"ignoredXids": [74, 109]}})
    assert vram_settings(release.environment("DaemonSet", "aios-node")).ignored_xids == (74, 109)


def test_a_real_driver_library_is_one_file_of_the_host(chart: Any) -> None:
    release = chart.render({"node": {"driverLibraryDir": "/usr/lib/x86_64-linux-gnu"}})
    volumes = {volume["name"]: volume for volume in release.pod("DaemonSet", "aios-node")["volumes"]}
    assert volumes["driver"]["hostPath"] == {"path": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "type": "File"}
    assert volumes["driver-cuda"]["hostPath"] == {"path": "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "type": "File"}
    environment = release.environment("DaemonSet", "aios-node")
    mounts = release.mounts("DaemonSet", "aios-node")
    assert {Path(mounts[name]).parent for name in ("driver", "driver-cuda")} == {Path(environment["LD_LIBRARY_PATH"])}
    assert vram_settings(environment).calibrate
    assert "AIOS_FAKE_GPUS" not in environment
    without = chart.render({"node": {"driverLibraryDir": "/usr/lib/x86_64-linux-gnu", "calibrateContext": False}})
    assert "driver-cuda" not in without.mounts("DaemonSet", "aios-node")
    assert not vram_settings(without.environment("DaemonSet", "aios-node")).calibrate


def test_definitions_can_be_left_to_others_and_are_kept_by_default(chart: Any) -> None:
    assert not chart.render({"crds": {"enabled": False}}).of("CustomResourceDefinition")
    for keep in (True, False):
        crds = chart.render({"crds": {"keep": keep}}).of("CustomResourceDefinition")
        kinds = (names.AGENTS, names.AGENT_RUNTIMES, names.GPU_QUOTAS, names.TOOL_BINDINGS)
        assert {crd["metadata"]["name"] for crd in crds} == {f"{plural}.{names.GROUP}" for plural in kinds}
        assert all(("helm.sh/resource-policy" in (crd["metadata"].get("annotations") or {})) is keep for crd in crds)


def test_allowed_runtime_classes_stand_in_the_rule_of_the_api(chart: Any) -> None:
    release = chart.render({"operator": {"allowedRuntimeClasses": ["crun", "runc-debug"]}})
    assert 'self in ["crun","runc-debug"]' in json.dumps(release.one("CustomResourceDefinition", "agents.aios.dev")).replace('\\"', '"')


def test_agents_go_before_the_release_does(release: Any) -> None:
    hooks = [each for each in release if "helm.sh/hook" in (each["metadata"].get("annotations") or {})]
    assert {each["metadata"]["annotations"]["helm.sh/hook"] for each in hooks} == {"pre-delete"}
    weight = {each["kind"]: int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in hooks}
    assert weight["Job"] > max(weight[kind] for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"))
    assert release.container("Job", "aios-uninstall")["command"] == ["aios-operator", "uninstall"]


def test_whoever_uninstalls_is_told_what_to_do_when_the_operator_can_not_run(chart: Any) -> None:
    notes = chart.notes({})
    assert "helm uninstall --no-hooks" in notes
    assert names.FINALIZER in notes


def test_pod_monitors_only_when_asked_for(chart: Any, release: Any) -> None:
    assert not release.of("PodMonitor")
    asked = chart.render({"metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}})
    monitors = asked.of("PodMonitor")
    assert len(monitors) == 3
    assert all(monitor["metadata"]["labels"]["release"] == "prometheus" for monitor in monitors)


def test_every_namespaced_object_is_in_the_namespace_of_the_release(chart: Any, release: Any) -> None:
    admission = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    cluster_wide = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "DeviceClass", *admission}
    assert {each["metadata"].get("namespace") for each in release if each["kind"] not in cluster_wide} == {chart.namespace}


REFUSALS: list[tuple[Object, str]] = [
    ({"fakeGpus": FAKE, "node": {"driverLibraryDir": "/usr/lib"}}, "fakeGpus and node.driverLibraryDir exclude one another"),
    ({"node": {"kubeletDir": "var/lib/kubelet"}}, 'node.kubeletDir must be an absolute path of the host below /, not "var/lib/kubelet".'),
    ({"node": {"kubeletDir": "/"}}, 'node.kubeletDir must be an absolute path of the host below /, not "/".'),
    ({"node": {"cdiDir": ""}}, 'node.cdiDir must be an absolute path of the host below /, not "".'),
    (
        {"node": {"driverLibraryDir": "lib"}},
        'node.driverLibraryDir must be an absolute path of the host below /, or empty for no GPU, not "lib".',
    ),
    ({"gateway": {"runAsUser": 0}}, "gateway.runAsUser must not be 0: the gateway reads everything that agents write"),
    ({"operator": {"allowedRuntimeClasses": ["crun", "gvisor"]}}, "gvisor does not obey the fence"),
    ({"operator": {"allowedRuntimeClasses": ["kata-qemu"]}}, "kata-qemu does not obey the fence"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSALS, ids=[json.dumps(values) for values, _ in REFUSALS])
def test_values_that_cannot_be_are_refused_in_a_sentence(chart: Any, values: Object, sentence: str) -> None:
    assert sentence in chart.refusal(values)


def test_an_older_kubernetes_is_refused_and_a_preview_of_the_oldest_is_not(chart: Any) -> None:
    assert "KubeAIOS needs Kubernetes 1.36 or newer" in chart.refusal(None, "--kube-version", "1.35.9")
    assert chart.render(None, "--kube-version", "1.36.0-rc.0")
    assert chart.render(None, "--kube-version", "v1.37.2")


SCHEMA_REFUSALS: list[tuple[Object, str]] = [
    ({"fakegpus": "x"}, "additional properties 'fakegpus' not allowed"),
    ({"node": {"driverLibDir": "/x"}}, "at '/node': additional properties 'driverLibDir' not allowed"),
    ({"node": {"slots": 0}}, "at '/node/slots': minimum"),
    ({"node": {"ignoredXids": ["79"]}}, "at '/node/ignoredXids/0'"),
    ({"node": {"slots": "many"}}, "at '/node/slots'"),
    ({"operator": {"image": ""}}, "at '/operator/image': minLength"),
    ({"muteSeconds": 5}, "at '/muteSeconds': minimum"),
    ({"operator": {"replicas": 0}}, "at '/operator/replicas': minimum"),
    ({"node": {"replicas": 2}}, "additional properties 'replicas' not allowed"),
    ({"gateway": {"resources": {"limit": {}}}}, "additional properties 'limit' not allowed"),
    ({"crds": {"keep": "yes"}}, "at '/crds/keep'"),
    ({"imagePullPolicy": "Sometimes"}, "at '/imagePullPolicy'"),
    ({"metrics": {"podMonitor": {"interval": "soon"}}}, "at '/metrics/podMonitor/interval'"),
]


@pytest.mark.parametrize(("values", "sentence"), SCHEMA_REFUSALS, ids=[json.dumps(values) for values, _ in SCHEMA_REFUSALS])
def test_the_schema_names_the_value_that_it_refuses(chart: Any, values: Object, sentence: str) -> None:
    assert sentence in chart.refusal(values)


def test_every_object_of_the_schema_is_closed_and_every_default_has_its_place(chart: Any) -> None:
    schema = json.loads((chart.path / "values.schema.json").read_text())
    defaults = yaml.safe_load((chart.path / "values.yaml").read_text())

    def walk(part: Any, value: Any, path: str) -> None:
        if isinstance(part, dict) and "properties" in part:
            assert part["additionalProperties"] is False, path
            for name, child in part["properties"].items():
                if path or name != "global":
                    assert name in value, f"{path}/{name} is in the schema and not in values.yaml"
                    walk(child, value[name], f"{path}/{name}")

    walk(schema, defaults, "")
