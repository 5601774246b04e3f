"""The pod template of an Agent: the part of a Pod that a user may say, and for the rest a sentence why not.

Closed by construction: a field that is not named here is unknown to the API server, so a field that Kubernetes adds tomorrow is not in an
agent's pod before somebody has thought about it. What is named and refused carries a rule with its reason. The rules are at least as strict
as the `restricted` Pod Security standard; only the image's own user is left alone where the template names none.
"""

from aios_api import names
from aios_api.schema import INT_OR_STRING, RULES, Schema, boolean, choice, free, integer, listing, mapping, node, rule, struct, text

MAX_CONTAINERS = 16
MAX_ARGUMENT = 131_072  # the longest single argument or variable that Linux hands to a program

ALLOWED_RUNTIME_CLASSES = "[]"
"""The CEL list in the rule of `runtimeClassName`; the chart puts its value `operator.allowedRuntimeClasses` in its place."""

OUR_VARIABLES = (
    "NVIDIA_VISIBLE_DEVICES",
    *(v for name in ("HTTP", "HTTPS", "ALL", "NO") for v in (f"{name}_PROXY", f"{name.lower()}_proxy")),
)
OUR_VARIABLE_PREFIX = "AIOS_"
COUNTED_RESOURCES = ("cpu", "memory", "ephemeral-storage")
ALLOWED_VOLUMES = ("configMap", "secret", "downwardAPI", "projected", "emptyDir", "persistentVolumeClaim", "ephemeral", "csi", "image")
REFUSED_VOLUMES = (
    *("awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo"),
    *("glusterfs", "iscsi", "nfs", "photonPersistentDisk", "portworxVolume", "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume"),
)


def pod_template() -> Schema:
    """The schema of `Agent.spec.template`."""
    metadata = struct(
        {"labels": _keys(text(63), "labels"), "annotations": _keys(text(65_536), "annotations")},
        description="Labels and annotations of the pod. Those that KubeAIOS needs are added.",
    )
    return struct(
        {"metadata": metadata, "spec": _pod_spec()},
        required=["spec"],
        description="The pod to run. KubeAIOS adds the claim, the hardening and the fence; what it decides itself must not be set here.",
    )


def _keys(values: Schema, field: str) -> Schema:
    """Labels or annotations of the pod, without those that are ours or that speak to the container runtime."""
    prefixes = {
        names.RESERVED_PREFIX: "they are how KubeAIOS knows its own",
        "cdi.k8s.io/": "devices reach an agent by its claim only",
        "container.apparmor.security.beta.kubernetes.io/": "use securityContext.appArmorProfile",
    }
    return mapping(
        values,
        64,
        *(rule(f"self.all(key, !key.startsWith('{p}'))", f"{field} must not begin with {p}: {why}") for p, why in prefixes.items()),
    )


def refused(kind: Schema, field: str, why: str) -> Schema:
    """A field that must be absent. It is declared so that its absence can be explained."""
    return {**kind, RULES: [rule("false", f"{field} must not be set: {why}")]}


def never(field: str, why: str) -> Schema:
    """A switch that may be written as false, which it is anyway."""
    return boolean(rule("!self", f"{field} must not be true: {why}"))


def _pod_spec() -> Schema:
    word, number, anything, several = text(253), integer(-(2**31), 2**31 - 1), free(), listing(free(), 64)
    chosen = "the operator chooses the node"
    no_names = "an agent has no way to a name server; names are resolved on the node"
    ours = {
        "nodeName": refused(word, "nodeName", f"{chosen}; narrow the choice with nodeSelector or affinity"),
        "schedulerName": refused(word, "schedulerName", "agents are booked by the cluster's default scheduler"),
        "schedulingGates": refused(several, "schedulingGates", "the operator creates the pod when there is a place for it"),
        "workloadRef": refused(anything, "workloadRef", f"{chosen}, one agent at a time"),
        "schedulingGroup": refused(anything, "schedulingGroup", f"{chosen}, one agent at a time"),
        "evictionResponders": refused(several, "evictionResponders", "the operator replaces what is evicted"),
        "priority": refused(number, "priority", "it follows from priorityClassName"),
        "preemptionPolicy": refused(word, "preemptionPolicy", "it follows from priorityClassName"),
        "overhead": refused(anything, "overhead", "it follows from runtimeClassName"),
        "restartPolicy": refused(word, "restartPolicy", "set spec.restartPolicy of the Agent"),
        "activeDeadlineSeconds": refused(number, "activeDeadlineSeconds", "an attempt that ended by it would be started again"),
        "resourceClaims": refused(several, "resourceClaims", "the operator adds the Agent's claim; ask for a share of a GPU with spec.gpu"),
        "resources": refused(anything, "resources", "set resources on the containers; that is what is counted"),
        "ephemeralContainers": refused(several, "ephemeralContainers", "they are added to a running pod, for example with kubectl debug"),
        "dnsPolicy": refused(word, "dnsPolicy", no_names),
        "dnsConfig": refused(anything, "dnsConfig", no_names),
        "subdomain": refused(word, "subdomain", "what an agent exposes is reached by the Service of its name"),
        "hostnameOverride": refused(word, "hostnameOverride", "the pod is named after its Agent and attempt"),
        "setHostnameAsFQDN": never("setHostnameAsFQDN", "an agent has no domain"),
        "readinessGates": refused(
            several, "readinessGates", "whether an agent is ready is said by its containers, its fence and its listeners"
        ),
        "serviceAccount": refused(word, "serviceAccount", "set serviceAccountName"),
        "automountServiceAccountToken": never("automountServiceAccountToken", "an agent holds no token of the Kubernetes API"),
        "hostNetwork": never("hostNetwork", "the fence stands in the pod's own network namespace"),
        "hostPID": never("hostPID", "an agent must not see the processes of its node"),
        "hostIPC": never("hostIPC", "an agent must not share memory with its node"),
    }
    allowed = {
        "containers": _containers("The containers of the agent, all of one trust.", _main_container(), min_items=1),
        "initContainers": _containers(
            "Run before the others, or as sidecars (restartPolicy: Always) beside them. Fields as in containers.", _init_container()
        ),
        "volumes": listing(_volume(), 32, keys=["name"]),
        "imagePullSecrets": listing(struct({"name": text(253)}, required=["name"]), 16, keys=["name"]),
        "serviceAccountName": text(253, description="Gives pull secrets; its token is not mounted."),
        "terminationGracePeriodSeconds": integer(0, 86_400),
        "nodeSelector": mapping(text(63), 32),
        "affinity": _affinity(),
        "tolerations": listing(_toleration(), 32),
        "topologySpreadConstraints": listing(free(), 16),
        "priorityClassName": text(
            253,
            rule(
                "!self.startsWith('system-')",
                "priorityClassName must not begin with system-: those are for what a node can't do without, which others are ended for",
            ),
        ),
        "runtimeClassName": text(
            253,
            rule(
                f"self in {ALLOWED_RUNTIME_CLASSES}",
                "runtimeClassName must be absent or one of the chart's operator.allowedRuntimeClasses: not every runtime keeps the fence",
            ),
        ),
        "hostname": text(63),
        "hostAliases": listing(free(), 64),
        "hostUsers": boolean(),
        "shareProcessNamespace": boolean(),
        "enableServiceLinks": boolean(),
        "os": struct({"name": text(16, rule("self == 'linux'", "os.name must be linux"))}, required=["name"]),
        "securityContext": _security_context(pod=True),
    }
    once = rule(
        "!has(self.initContainers) || self.initContainers.all(i, self.containers.all(c, c.name != i.name))",
        "initContainers must not have the name of one of the containers",
        path=".initContainers",
        reason="FieldValueInvalid",
    )
    return struct(allowed | ours, once, required=["containers"], description="The pod's spec, as in a Pod, as far as an agent may say it.")


def _containers(description: str, container: Schema, min_items: int = 0) -> Schema:
    return listing(container, MAX_CONTAINERS, keys=["name"], min_items=min_items, description=description)


def _main_container() -> Schema:
    why = "set spec.restartPolicy of the Agent"
    restart = {
        "restartPolicy": refused(text(16), "restartPolicy of a container", why),
        "restartPolicyRules": refused(listing(free(), 20), "restartPolicyRules", why),
    }
    return _container(restart)


def _init_container() -> Schema:
    always = text(16, rule("self == 'Always'", "restartPolicy of an init container must be absent or Always"))
    rules = refused(listing(free(), 20), "restartPolicyRules", "an init container runs once, or always")
    return _container({"restartPolicy": always, "restartPolicyRules": rules})


def _container(restart: dict[str, Schema]) -> Schema:
    return struct(
        {
            "name": text(63, min_length=1),
            "image": text(1024, min_length=1),
            "imagePullPolicy": choice("Always", "IfNotPresent", "Never"),
            "command": listing(text(MAX_ARGUMENT), 512),
            "args": listing(text(MAX_ARGUMENT), 512),
            "workingDir": text(4096),
            "env": listing(_variable(), 256, keys=["name"]),
            "envFrom": listing(_variables_from(), 32),
            "resources": _resources(),
            "resizePolicy": refused(listing(free(), 8), "resizePolicy", "a running agent's pod is not resized"),
            "ports": listing(_port(), 64),
            "volumeMounts": listing(_mount(), 64, keys=["mountPath"]),
            "volumeDevices": listing(free(), 32),
            "livenessProbe": _probe(),
            "readinessProbe": _probe(),
            "startupProbe": _probe(),
            "lifecycle": struct({"postStart": _hook(), "preStop": _hook(), "stopSignal": text(32)}),
            "securityContext": _security_context(pod=False),
            "terminationMessagePath": _path_in_container("terminationMessagePath"),
            "terminationMessagePolicy": choice("File", "FallbackToLogsOnError"),
            "stdin": boolean(),
            "stdinOnce": boolean(),
            "tty": boolean(),
            **restart,
        },
        required=["name", "image"],
    )


def _variable() -> Schema:
    said = "is set by KubeAIOS"
    listed = ", ".join(f"'{name}'" for name in OUR_VARIABLES)
    return struct(
        {
            "name": text(
                256,
                rule(
                    f"!self.startsWith('{OUR_VARIABLE_PREFIX}') && !(self in [{listed}])",
                    f"env must not name {OUR_VARIABLE_PREFIX}…, NVIDIA_VISIBLE_DEVICES or a proxy variable: that {said}",
                    message_expression=f"'env must not name ' + self + ': that {said}'",
                ),
                min_length=1,
            ),
            "value": text(MAX_ARGUMENT),
            "valueFrom": free(),
        },
        required=["name"],
    )


def _variables_from() -> Schema:
    prefix = text(
        256,
        rule(
            f"!self.startsWith('{OUR_VARIABLE_PREFIX}')",
            f"envFrom.prefix must not begin with {OUR_VARIABLE_PREFIX}: those are KubeAIOS's own",
        ),
    )
    return struct({"prefix": prefix, "configMapRef": free(), "secretRef": free()})


def _resources() -> Schema:
    listed = ", ".join(f"'{name}'" for name in COUNTED_RESOURCES)
    quantity = node(
        None,
        rules=[
            rule("isQuantity(string(self))", "resources must be quantities such as 500m or 2Gi", reason="FieldValueInvalid"),
            rule(
                "!isQuantity(string(self)) || !quantity(string(self)).isLessThan(quantity('0'))",
                "resources must not be negative",
                reason="FieldValueInvalid",
            ),
        ],
        maxLength=64,
        **INT_OR_STRING,
    )
    counted = mapping(
        quantity,
        16,
        rule(
            f"self.all(name, name in [{listed}])",
            "resources must name only cpu, memory and ephemeral-storage; ask for a share of a GPU with spec.gpu",
        ),
    )
    claims = refused(listing(free(), 16), "resources.claims", "the operator adds the Agent's claim to every container")
    return struct({"requests": counted, "limits": counted, "claims": claims})


def _port() -> Schema:
    return struct(
        {
            "name": text(15),
            "containerPort": integer(1, 65_535),
            "protocol": choice("TCP", "UDP", "SCTP"),
            "hostPort": integer(0, 65_535, rule("self == 0", "hostPort must not be set: what an agent exposes is reached by its Service")),
            "hostIP": refused(text(45), "hostIP", "an agent has no port on its node"),
        },
        required=["containerPort"],
    )


def _path_in_container(field: str) -> Schema:
    """Where something is mounted: at its own place, and not at ours."""
    at = names.AGENT_DIR
    return text(
        1024,
        rule(
            "self.startsWith('/') && !self.contains(':') && !self.contains('//')"
            " && !(self + '/').contains('/./') && !(self + '/').contains('/../')",
            f"{field} must be an absolute path without ':', '//', '.' and '..'",
            reason="FieldValueInvalid",
        ),
        rule(
            f"!(self + '/').startsWith('{at}/') && !(self + '/').startsWith('/var{at}/')",
            f"{field} must not be at or below {at}: there the agent finds its socket",
        ),
        min_length=1,
    )


def _mount() -> Schema:
    return struct(
        {
            "name": text(63, min_length=1),
            "mountPath": _path_in_container("mountPath"),
            "readOnly": boolean(),
            "recursiveReadOnly": choice("Disabled", "IfPossible", "Enabled"),
            "mountPropagation": text(
                32, rule("self != 'Bidirectional'", "mountPropagation must not be Bidirectional: what an agent mounts stays in its pod")
            ),
            "subPath": text(4096),
            "subPathExpr": text(4096),
        },
        required=["name", "mountPath"],
    )


def _volume() -> Schema:
    one_of = "a volume must be one of " + ", ".join(ALLOWED_VOLUMES)
    allowed = {kind: free() for kind in ALLOWED_VOLUMES if kind != "projected"} | {"projected": _projected()}
    others = {kind: refused(free(), kind, one_of) for kind in REFUSED_VOLUMES}
    host = {"hostPath": refused(free(), "hostPath", f"an agent must not see the files of its node; {one_of}")}
    return struct({"name": text(63, min_length=1)} | allowed | host | others, required=["name"])


def _projected() -> Schema:
    source = {"secret": free(), "configMap": free(), "downwardAPI": free(), "clusterTrustBundle": free()}
    tokens = {
        kind: refused(free(), f"projected {kind}", "an agent holds no credential of the Kubernetes API")
        for kind in ("serviceAccountToken", "podCertificate")
    }
    return struct({"defaultMode": integer(0, 0o777), "sources": listing(struct(source | tokens), 32)})


def _probe() -> Schema:
    seconds = integer(0, 86_400)
    times = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "terminationGracePeriodSeconds")
    counts = {kind: integer(0, 1000) for kind in ("successThreshold", "failureThreshold")}
    host = refused(text(253), "host", "the kubelet asks the agent, and nobody else in its place")
    port = node(None, maxLength=15, **INT_OR_STRING)
    header = struct({"name": text(256), "value": text(4096)}, required=["name", "value"])
    http = {"path": text(4096), "port": port, "host": host, "scheme": choice("HTTP", "HTTPS"), "httpHeaders": listing(header, 32)}
    network = {
        "httpGet": struct(http, required=["port"]),
        "tcpSocket": struct({"port": port, "host": host}, required=["port"]),
        "grpc": struct({"port": integer(1, 65_535), "service": text(253)}, required=["port"]),
    }
    return struct({"exec": free()} | dict.fromkeys(times, seconds) | counts | network)


def probe_rules() -> list[Schema]:
    """Rules of `Agent.spec`: the kubelet asks over the network only where something comes in at all."""
    return [
        rule(
            f"!has(self.template.spec.{field}) || self.template.spec.{field}.all(c, !has(c.{probe}) || ({_asks_exposed(f'c.{probe}')}))",
            f"{probe} of {field} must use exec, or a TCP port of spec.expose: nothing else comes in, the kubelet's own requests neither",
            path=f".template.spec.{field}",
        )
        for field in ("containers", "initContainers")
        for probe in ("livenessProbe", "readinessProbe", "startupProbe")
    ]


def _asks_exposed(probe: str) -> str:
    """A port may be given by its name in the container."""

    def exposed(port: str) -> str:
        return f"(has(self.expose) && self.expose.exists(e, e.protocol == 'TCP' && e.port == {port}))"

    def named_or_number(port: str) -> str:
        named = f"(has(c.ports) && c.ports.exists(p, has(p.name) && p.name == string({port}) && {exposed('p.containerPort')}))"
        return f"(type({port}) == int ? {exposed(f'int({port})')} : {named})"

    asked = [f"(!has({probe}.{kind}) || {named_or_number(f'{probe}.{kind}.port')})" for kind in ("httpGet", "tcpSocket")]
    return " && ".join([*asked, f"(!has({probe}.grpc) || {exposed(f'{probe}.grpc.port')})"])


def _hook() -> Schema:
    why = "the fence lets no such request through; use exec or sleep"
    return struct({"exec": free(), "sleep": free()} | {kind: refused(free(), kind, why) for kind in ("httpGet", "tcpSocket")})


def _security_context(*, pod: bool) -> Schema:
    identity = integer(0, 2**31 - 1)
    shared = {
        "runAsUser": integer(0, 2**31 - 1, rule("self != 0", "runAsUser must not be 0: an agent is not root")),
        "runAsGroup": identity,
        "runAsNonRoot": boolean(rule("self", "runAsNonRoot must not be false")),
        "seccompProfile": _profile("seccompProfile"),
        "appArmorProfile": _profile("appArmorProfile"),
        "seLinuxOptions": _selinux(),
        "windowsOptions": refused(free(), "windowsOptions", "agents run on Linux"),
    }
    if pod:
        return struct(
            {
                **shared,
                "supplementalGroups": listing(identity, 64),
                "supplementalGroupsPolicy": choice("Merge", "Strict"),
                "fsGroup": identity,
                "fsGroupChangePolicy": choice("OnRootMismatch", "Always"),
                "seLinuxChangePolicy": choice("Recursive", "MountOption"),
                "sysctls": refused(listing(free(), 16), "sysctls", "the network namespace of an agent is the fence's"),
            }
        )
    added = listing(text(64), 64, rule("size(self) == 0", "capabilities.add must be empty: every capability is dropped"))
    return struct(
        {
            **shared,
            "privileged": never("privileged", "a privileged container is not kept apart"),
            "allowPrivilegeEscalation": never("allowPrivilegeEscalation", "an agent keeps the rights it starts with"),
            "capabilities": struct({"add": added, "drop": listing(text(64), 64)}),
            "procMount": text(16, rule("self == 'Default'", "procMount must be Default")),
            "readOnlyRootFilesystem": boolean(),
        }
    )


def _profile(field: str) -> Schema:
    kind = text(32, rule("self in ['RuntimeDefault', 'Localhost']", f"{field}.type must be RuntimeDefault or Localhost"))
    return struct({"type": kind, "localhostProfile": text(4096)}, required=["type"])


def _selinux() -> Schema:
    kinds = ("container_t", "container_init_t", "container_kvm_t", "container_engine_t")
    listed = ", ".join(f"'{kind}'" for kind in ("", *kinds))
    absent = {field: text(256, rule("self == ''", f"seLinuxOptions.{field} must not be set")) for field in ("user", "role")}
    kind = text(256, rule(f"self in [{listed}]", f"seLinuxOptions.type must be absent or one of {', '.join(kinds)}"))
    return struct({"type": kind, "level": text(256), **absent})


def _affinity() -> Schema:
    """Node affinity in full, since the operator reads it; affinity to pods is kube-scheduler's alone."""
    requirement = struct(
        {
            "key": text(317),
            "operator": choice("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
            "values": listing(text(253), 64),
        },
        required=["key", "operator"],
    )
    term = struct({"matchExpressions": listing(requirement, 16), "matchFields": listing(requirement, 16)})
    required = struct({"nodeSelectorTerms": listing(term, 16, min_items=1)}, required=["nodeSelectorTerms"])
    node_affinity = struct(
        {"requiredDuringSchedulingIgnoredDuringExecution": required, "preferredDuringSchedulingIgnoredDuringExecution": listing(free(), 16)}
    )
    return struct({"nodeAffinity": node_affinity, "podAffinity": free(), "podAntiAffinity": free()})


def _toleration() -> Schema:
    return struct(
        {
            "key": text(317),
            "operator": choice("Exists", "Equal", "Lt", "Gt"),
            "value": text(253),
            "effect": choice("NoSchedule", "PreferNoSchedule", "NoExecute"),
            "tolerationSeconds": integer(-(2**63), 2**63 - 1),
        }
    )
