"""What one Agent may say, on a real API server: every refused field is refused with a message that names it and says what must be true."""

from typing import Any

import pytest

from api.support import Space, agent, container, refusal, with_field

POD = "spec.template.spec"
FIRST = f"{POD}.containers[0]"
FREE: dict[str, Any] = {"any": "thing"}
VOLUMES = (
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
)
MORE_VOLUMES = (
    "glusterfs",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
)
APPARMOR = "container.apparmor.security.beta.kubernetes.io/main"
NODE_AFFINITY: dict[str, Any] = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": []}]}}
PROXIES = ("HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "no_proxy")

REFUSED: list[tuple[str, Any, str]] = [
    # the pod
    (f"{POD}.hostNetwork", True, "hostNetwork must not be true"),
    (f"{POD}.hostPID", True, "hostPID must not be true"),
    (f"{POD}.hostIPC", True, "hostIPC must not be true"),
    (f"{POD}.automountServiceAccountToken", True, "automountServiceAccountToken must not be true"),
    (f"{POD}.setHostnameAsFQDN", True, "setHostnameAsFQDN must not be true"),
    (f"{POD}.nodeName", "node-a", "nodeName must not be set"),
    (f"{POD}.schedulerName", "mine", "schedulerName must not be set"),
    (f"{POD}.schedulingGates", [FREE], "schedulingGates must not be set"),
    (f"{POD}.workloadRef", FREE, "workloadRef must not be set"),
    (f"{POD}.schedulingGroup", FREE, "schedulingGroup must not be set"),
    (f"{POD}.evictionResponders", [FREE], "evictionResponders must not be set"),
    (f"{POD}.priority", 7, "priority must not be set"),
    (f"{POD}.priorityClassName", "system-node-critical", "priorityClassName must not begin with system-"),
    (f"{POD}.preemptionPolicy", "Never", "preemptionPolicy must not be set"),
    (f"{POD}.overhead", {"cpu": "1"}, "overhead must not be set"),
    (f"{POD}.restartPolicy", "Never", "restartPolicy must not be set: set spec.restartPolicy of the Agent"),
    (f"{POD}.activeDeadlineSeconds", 5, "activeDeadlineSeconds must not be set"),
    (f"{POD}.resourceClaims", [FREE], "resourceClaims must not be set"),
    (f"{POD}.resources", FREE, "resources must not be set: set resources on the containers"),
    (f"{POD}.ephemeralContainers", [FREE], "ephemeralContainers must not be set"),
    (f"{POD}.dnsPolicy", "Default", "dnsPolicy must not be set"),
    (f"{POD}.dnsConfig", FREE, "dnsConfig must not be set"),
    (f"{POD}.subdomain", "x", "subdomain must not be set"),
    (f"{POD}.hostnameOverride", "x", "hostnameOverride must not be set"),
    (f"{POD}.readinessGates", [FREE], "readinessGates must not be set"),
    (f"{POD}.serviceAccount", "x", "serviceAccount must not be set: set serviceAccountName"),
    (f"{POD}.runtimeClassName", "kata", "runtimeClassName must be absent or one of"),
    (f"{POD}.os.name", "windows", "os.name must be linux"),
    (f"{POD}.securityContext.sysctls", [FREE], "sysctls must not be set"),
    (f"{POD}.securityContext.seccompProfile", {"type": "Unconfined"}, "seccompProfile.type must be RuntimeDefault or Localhost"),
    (f"{POD}.initContainers", [container()], "initContainers must not have the name of one of the containers"),
    # volumes
    (f"{POD}.volumes", [{"name": "v", "hostPath": {"path": "/"}}], "volumes[0].hostPath: Forbidden: hostPath must not be set"),
    *((f"{POD}.volumes", [{"name": "v", kind: FREE}], f"{kind} must not be set") for kind in (*VOLUMES, *MORE_VOLUMES)),
    *(
        (f"{POD}.volumes", [{"name": "v", "projected": {"sources": [{kind: FREE}]}}], f"projected {kind} must not be set")
        for kind in ("serviceAccountToken", "podCertificate")
    ),
    # labels and annotations
    ("spec.template.metadata", {"labels": {"aios.dev/agent": "x"}}, "labels must not begin with aios.dev/"),
    ("spec.template.metadata", {"annotations": {"aios.dev/x": "x"}}, "annotations must not begin with aios.dev/"),
    ("spec.template.metadata", {"annotations": {"cdi.k8s.io/x": "x"}}, "annotations must not begin with cdi.k8s.io/"),
    (
        "spec.template.metadata",
        {"annotations": {APPARMOR: "unconfined"}},
        "annotations must not begin",
    ),
]

# Of every container, init containers too.
REFUSED_OF_CONTAINERS: list[tuple[str, Any, str]] = [
    ("securityContext.privileged", True, "privileged must not be true"),
    ("securityContext.allowPrivilegeEscalation", True, "allowPrivilegeEscalation must not be true"),
    ("securityContext.capabilities.add", ["NET_BIND_SERVICE"], "capabilities.add must be empty"),
    ("securityContext.procMount", "Unmasked", "procMount must be Default"),
    ("securityContext.seccompProfile", {"type": "Unconfined"}, "seccompProfile.type must be RuntimeDefault or Localhost"),
    ("securityContext.appArmorProfile", {"type": "Unconfined"}, "appArmorProfile.type must be RuntimeDefault or Localhost"),
    ("securityContext.runAsUser", 0, "runAsUser must not be 0"),
    ("securityContext.runAsNonRoot", False, "runAsNonRoot must not be false"),
    ("securityContext.windowsOptions", {"hostProcess": True}, "windowsOptions must not be set"),
    ("securityContext.seLinuxOptions", {"type": "spc_t"}, "seLinuxOptions.type must be absent or one of"),
    ("securityContext.seLinuxOptions", {"user": "system_u"}, "seLinuxOptions.user must not be set"),
    ("securityContext.seLinuxOptions", {"role": "system_r"}, "seLinuxOptions.role must not be set"),
    ("ports", [{"containerPort": 80, "hostPort": 80}], "hostPort must not be set"),
    ("ports", [{"containerPort": 80, "hostIP": "0.0.0.0"}], "hostIP must not be set"),
    *(
        (f"livenessProbe.{kind}", {"port": 8080, "host": "other"}, f"livenessProbe.{kind}.host: Forbidden: host must not be set")
        for kind in ("httpGet", "tcpSocket")
    ),
    *(
        (f"lifecycle.{hook}", {kind: FREE}, f"{kind} must not be set")
        for hook in ("postStart", "preStop")
        for kind in ("httpGet", "tcpSocket")
    ),
    ("restartPolicyRules", [FREE], "restartPolicyRules must not be set"),
    ("resizePolicy", [FREE], "resizePolicy must not be set"),
    ("resources", {"claims": [{"name": "x"}]}, "resources.claims must not be set"),
    ("resources", {"limits": {"nvidia.com/gpu": 1}}, "resources must name only cpu, memory and ephemeral-storage"),
    ("resources", {"requests": {"deviceclass.resource.kubernetes.io/gpu.aios.dev": 1}}, "resources must name only cpu, memory"),
    ("resources", {"requests": {"cpu": "-1"}}, "resources must not be negative"),
    ("resources", {"requests": {"memory": "much"}}, "resources must be quantities"),
    *(("env", [{"name": name, "value": "x"}], f"env must not name {name}") for name in ("AIOS_URL", "NVIDIA_VISIBLE_DEVICES", *PROXIES)),
    ("envFrom", [{"prefix": "AIOS_", "secretRef": {"name": "x"}}], "envFrom.prefix must not begin with AIOS_"),
    *(
        ("volumeMounts", [{"name": "v", "mountPath": path}], "mountPath must not be at or below /run/aios")
        for path in ("/run/aios", "/run/aios/", "/run/aios/agent.sock", "/var/run/aios")
    ),
    *(
        ("volumeMounts", [{"name": "v", "mountPath": path}], "mountPath must be an absolute path")
        for path in ("run/aios", "//run/aios", "/run//aios", "/run/./aios", "/x/../run/aios", "/run/aios/..", "/a:b")
    ),
    *(
        ("terminationMessagePath", path, "terminationMessagePath must not be at or below /run/aios")
        for path in ("/run/aios/agent.sock", "/var/run/aios/x")
    ),
    ("terminationMessagePath", "/x/../run/aios/x", "terminationMessagePath must be an absolute path"),
    ("volumeMounts", [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}], "mountPropagation must not be Bidirectional"),
]

ALLOWED: list[tuple[str, Any]] = [
    (f"{POD}.hostUsers", False),
    (f"{POD}.hostNetwork", False),
    (f"{POD}.automountServiceAccountToken", False),
    (f"{POD}.serviceAccountName", "puller"),
    (f"{POD}.imagePullSecrets", [{"name": "registry"}]),
    (f"{POD}.nodeSelector", {"zone": "a"}),
    (f"{POD}.tolerations", [{"key": "gpu", "operator": "Exists"}]),
    (
        f"{POD}.affinity",
        {"nodeAffinity": NODE_AFFINITY},
    ),
    (f"{POD}.topologySpreadConstraints", [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]),
    (f"{POD}.securityContext", {"runAsUser": 1000, "runAsNonRoot": True, "fsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}}),
    (f"{POD}.volumes", [{"name": "v", "emptyDir": {}}, {"name": "w", "projected": {"sources": [{"configMap": {"name": "x"}}]}}]),
    (f"{POD}.volumes", [{"name": "v", "image": {"reference": "localhost/model:1"}}]),
    (f"{POD}.initContainers", [container(name="first"), container(name="sidecar", restartPolicy="Always")]),
    (f"{FIRST}.env", [{"name": "MY_AIOS", "value": "x"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
    (f"{FIRST}.volumeMounts", [{"name": "v", "mountPath": "/run/aiosx"}, {"name": "v", "mountPath": "/data/..hidden"}]),
    (f"{FIRST}.terminationMessagePath", "/dev/shm/last-words"),
    (f"{POD}.priorityClassName", "important"),
    (f"{FIRST}.readinessProbe", {"exec": {"command": ["true"]}, "periodSeconds": 5}),
    (f"{FIRST}.lifecycle", {"preStop": {"sleep": {"seconds": 1}}, "postStart": {"exec": {"command": ["true"]}}}),
    (f"{FIRST}.resources", {"requests": {"cpu": 1, "memory": "2Gi"}, "limits": {"cpu": "1500m", "ephemeral-storage": "1e9"}}),
    (f"{FIRST}.ports", [{"containerPort": 80, "name": "http"}]),
    (f"{FIRST}.securityContext", {"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}),
    ("spec.template.metadata", {"labels": {"app": "x", "example.com/aios.dev": "y"}, "annotations": {"note": "z"}}),
    ("spec.gpu", {"memory": "16Gi", "models": ["H200", "B200"]}),
    ("spec.restartPolicy", "OnFailure"),
    ("spec.operatingMode", "Stopped"),
    ("spec.activeDeadlineSeconds", 3600),
]


def named(case: tuple[Any, ...]) -> str:
    return f"{case[0].removeprefix(POD + '.')}={case[1]}"[:70]


@pytest.mark.parametrize("case", REFUSED, ids=named)
def test_what_an_agents_pod_may_not_have_is_refused_by_name(shared_space: Space, case: tuple[str, Any, str]) -> None:
    path, value, message = case
    said = refusal(shared_space.create(with_field(agent(), path, value)))
    assert message in said
    assert path.split("[")[0] in said


@pytest.mark.parametrize("kind", ["containers", "initContainers"])
@pytest.mark.parametrize("case", REFUSED_OF_CONTAINERS, ids=named)
def test_what_a_container_may_not_have_is_refused_by_name(shared_space: Space, kind: str, case: tuple[str, Any, str]) -> None:
    path, value, message = case
    body = agent() if kind == "containers" else with_field(agent(), f"{POD}.initContainers", [container(name="first")])
    said = refusal(shared_space.create(with_field(body, f"{POD}.{kind}[0].{path}", value)))
    assert message in said
    assert f"{POD}.{kind}[0].{path}".split(".securityContext.capabilities")[0] in said


def test_a_container_restarts_as_its_agent_says_and_an_init_container_only_as_a_sidecar(shared_space: Space) -> None:
    assert "restartPolicy of a container must not be set" in refusal(
        shared_space.create(with_field(agent(), f"{FIRST}.restartPolicy", "Always"))
    )
    once = with_field(agent(), f"{POD}.initContainers", [container(name="first", restartPolicy="OnFailure")])
    assert "restartPolicy of an init container must be absent or Always" in refusal(shared_space.create(once))


@pytest.mark.parametrize("case", ALLOWED, ids=named)
def test_what_an_agents_pod_may_have_is_kept_as_it_was_written(shared_space: Space, case: tuple[str, Any]) -> None:
    path, value = case
    body = with_field(agent(), path, value)
    answer = shared_space.create(body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"] == {"restartPolicy": "Always", "operatingMode": "Running", "priority": 0, **body["spec"]}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{POD}.containers", [], "spec.template.spec.containers in body should have at least 1 items"),
        (POD, {}, "spec.template.spec.containers: Required value"),
        ("spec.template", {}, "spec.template.spec: Required value"),
        (f"{POD}.containers", [{"name": "main"}], "spec.template.spec.containers[0].image: Required value"),
        (f"{POD}.containers", [container(image="")], "spec.template.spec.containers[0].image"),
        (f"{POD}.containers", [{"image": "x"}], "spec.template.spec.containers[0].name: Required value"),
        (f"{POD}.containers", [container(), container()], "spec.template.spec.containers[1]: Duplicate value"),
        (f"{POD}.containers", [container(name=f"c{n}") for n in range(17)], "must have at most 16 items"),
        ("spec.restartPolicy", "Sometimes", 'supported values: "Always", "OnFailure", "Never"'),
        ("spec.activeDeadlineSeconds", 0, "spec.activeDeadlineSeconds in body should be greater than or equal to 1"),
        ("spec.activeDeadlineSeconds", "soon", "spec.activeDeadlineSeconds"),
        ("spec.operatingMode", "Paused", 'supported values: "Running", "Stopped"'),
        ("spec.gpu", {}, "spec.gpu.memory: Required value"),
        ("spec.gpu", {"memory": "1Gi", "models": []}, "spec.gpu.models"),
        ("spec.gpu", {"memory": "1Gi", "models": ["H200", "H200"]}, "spec.gpu.models[1]: Duplicate value"),
    ],
)
def test_what_is_missing_or_unknown_is_named(shared_space: Space, path: str, value: Any, message: str) -> None:
    assert message in refusal(shared_space.create(with_field(agent(), path, value)))


@pytest.mark.parametrize("path", [f"{POD}.hostNetwerk", f"{FIRST}.comand", "spec.gpus", f"{POD}.volumes[0].hostDir"])
def test_a_field_that_nobody_knows_is_not_passed_on(shared_space: Space, path: str) -> None:
    body = with_field(with_field(agent(), f"{POD}.volumes", [{"name": "v", "emptyDir": {}}]), path, "x")
    answer = shared_space.create(body)
    assert answer.status_code == 400
    assert f'unknown field "{path}"' in answer.json()["message"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 52, None),
        ("0-agent", None),
        ("a" * 53, "metadata.name must have at most 52 characters"),
        ("an.agent", "metadata.name must not contain a dot"),
    ],
)
def test_a_name_leaves_room_for_the_attempt(shared_space: Space, name: str, message: str | None) -> None:
    answer = shared_space.create(agent(name))
    if message is None:
        assert answer.status_code == 201, answer.text
    else:
        assert message in refusal(answer)


def test_the_largest_template_is_checked_in_time(shared_space: Space) -> None:
    """The API server stops rules that cost too much; the bounds in the schema keep every template below that."""
    variables = [{"name": f"VARIABLE_{number}", "value": "x"} for number in range(256)]
    mounts = [{"name": "v", "mountPath": f"/{number}/{'x' * 900}"} for number in range(16)]
    body = agent(
        template={"spec": {"containers": [container(name=f"c{number}", env=variables, volumeMounts=mounts) for number in range(16)]}}
    )
    answer = shared_space.create(body)
    assert answer.status_code == 201, answer.text[:500]
