"""The objects that the operator writes: held tight, pinned, marked as ours, and the user's template left whole otherwise."""

import copy
from typing import Any

import pytest

from aios_api import names
from aios_operator.decide.digest import spec_digest
from unit.decide.world import Object, World, agent


def written(raw: Object) -> tuple[Object, Object, World]:
    """The pod and claim of the first attempt."""
    world = World().node("n1", {"GPU-A": "80Gi"}).apply(raw)
    world.scheduler_sleeps = True
    world.settle()
    return world.get("Pod", "a-1"), world.get("ResourceClaim", "a-1"), world


TEMPLATE: dict[str, Any] = {
    "initContainers": [{"name": "first", "image": "i"}, {"name": "side", "image": "i", "restartPolicy": "Always"}],
    "containers": [
        {"name": "main", "image": "i", "securityContext": {"readOnlyRootFilesystem": True}, "resources": {"limits": {"cpu": "1"}}},
        {"name": "second", "image": "i"},
    ],
}


def test_every_container_is_held_tight_and_stands_behind_the_claim():
    pod, _, _ = written(agent("a", template=TEMPLATE))
    spec = pod["spec"]
    for container in (*spec["containers"], *spec["initContainers"]):
        assert container["resources"]["claims"] == [{"name": "aios"}]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["containers"][0]["resources"]["limits"] == {"cpu": "1"}
    assert spec["initContainers"][1]["restartPolicy"] == "Always"
    assert spec["resourceClaims"] == [{"name": "aios", "resourceClaimName": "a-1"}]


def test_the_pod_holds_no_token_no_names_and_no_addresses_of_services():
    spec = written(agent("a", restartPolicy="OnFailure"))[0]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert (spec["dnsPolicy"], spec["dnsConfig"]) == ("None", {"nameservers": ["127.0.0.1"]})
    assert spec["enableServiceLinks"] is False
    assert spec["restartPolicy"] == "OnFailure"
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_every_container_is_told_its_proxy_in_both_cases_beside_its_own_variables():
    template = {**TEMPLATE, "containers": [{"name": "main", "image": "i", "env": [{"name": "MINE", "value": "1"}]}]}
    spec = written(agent("a", template=template))[0]["spec"]
    for container in (*spec["containers"], *spec["initContainers"]):
        told = {variable["name"]: variable["value"] for variable in container["env"] if variable["name"] != "MINE"}
        proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:2489")
        assert told == proxy | dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost,::1")
    assert spec["containers"][0]["env"][0] == {"name": "MINE", "value": "1"}


def test_the_user_of_the_image_is_kept_where_the_template_names_none():
    assert "runAsNonRoot" not in written(agent("a"))[0]["spec"]["securityContext"]
    named = {"securityContext": {"runAsUser": 1000, "runAsNonRoot": True, "seccompProfile": {"type": "Localhost", "localhostProfile": "x"}}}
    kept = written(agent("a", template=named))[0]["spec"]["securityContext"]
    assert kept == named["securityContext"]


def test_the_node_is_in_each_of_the_users_terms_and_nothing_of_them_is_lost():
    zone = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}
    field = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n9"]}]}
    prefers = [{"weight": 1, "preference": zone}]
    node_affinity = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone, field]},
        "preferredDuringSchedulingIgnoredDuringExecution": prefers,
    }
    affinity = {"nodeAffinity": node_affinity, "podAntiAffinity": {"x": "kept"}}
    pinned = written(agent("a", template={"affinity": affinity}))[0]["spec"]["affinity"]
    here = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    terms = pinned["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{**zone, "matchFields": [here]}, {"matchFields": [*field["matchFields"], here]}]
    assert pinned["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] == prefers
    assert pinned["podAntiAffinity"] == {"x": "kept"}


def test_labels_and_annotations_of_the_template_are_kept_and_ours_and_the_mesh_opt_out_win():
    raw = agent("a")
    raw["spec"]["template"]["metadata"] = {"labels": {"team": "x", "sidecar.istio.io/inject": "true"}, "annotations": {"note": "y"}}
    pod, _, world = written(raw)
    labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
    assert (labels["team"], annotations["note"]) == ("x", "y")
    assert labels["sidecar.istio.io/inject"] == annotations["sidecar.istio.io/inject"] == "false"
    assert labels["linkerd.io/inject"] == annotations["linkerd.io/inject"] == "disabled"
    assert labels[names.LABEL_AGENT] == "a"
    assert labels[names.LABEL_AGENT_UID] == world.get("Agent", "a")["metadata"]["uid"]
    assert labels[names.LABEL_ATTEMPT] == "1"
    assert labels[names.LABEL_MANAGED_BY] == names.MANAGED_BY
    assert annotations[names.ANNOTATION_DIGEST] == world.get("AgentRuntime", "a")["spec"]["templateDigest"]


def test_the_template_itself_is_left_alone():
    raw = agent("a", template=copy.deepcopy(TEMPLATE))
    _, _, world = written(raw)
    assert world.get("Agent", "a")["spec"]["template"]["spec"] == TEMPLATE


def test_the_claim_asks_for_a_slot_and_a_share_of_exactly_the_chosen_gpu_in_whole_mebibytes():
    _, claim, world = written(agent("a", "1000M"))
    runtime, gpu = claim["spec"]["devices"]["requests"]
    assert (runtime["name"], gpu["name"]) == ("runtime", "gpu")
    assert (runtime["exactly"]["deviceClassName"], gpu["exactly"]["deviceClassName"]) == (names.RUNTIME_CLASS, names.GPU_CLASS)
    assert gpu["exactly"]["capacity"] == {"requests": {"memory": "954Mi"}}
    (selector,) = gpu["exactly"]["selectors"]
    expression = selector["cel"]["expression"]
    guard = f'"uuid" in device.attributes["{names.DRIVER}"]'
    assert expression.index(guard) < expression.index('== "GPU-A"'), "an attribute is read only where it is"
    assert f"contract == {names.CONTRACT_VERSION}" in runtime["exactly"]["selectors"][0]["cel"]["expression"]
    assert world.get("AgentRuntime", "a")["spec"]["gpu"]["memory"] == "954Mi"


def test_each_object_is_owned_by_the_one_before():
    pod, claim, world = written(agent("a", "1Gi"))
    runtime = world.get("AgentRuntime", "a")
    (owner,) = runtime["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("Agent", world.get("Agent", "a")["metadata"]["uid"], True)
    for obj in (pod, claim):
        (owner,) = obj["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("AgentRuntime", runtime["metadata"]["uid"], True)


def test_the_network_policy_lets_nothing_in_and_nothing_out_of_agents():
    _, _, world = written(agent("a"))
    spec = world.get("NetworkPolicy", "aios-agents")["spec"]
    assert spec["podSelector"] == {"matchExpressions": [{"key": names.LABEL_AGENT, "operator": "Exists"}]}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec
    assert "egress" not in spec


BASE = {"template": {"spec": {"containers": [{"name": "a", "image": "i"}]}}, "gpu": {"memory": "1Gi"}}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"operatingMode": "Stopped"}, True),
        ({"restartPolicy": "Always"}, True),
        ({"restartPolicy": "Never"}, False),
        ({"gpu": {"memory": "2Gi"}}, False),
        ({"gpu": None}, False),
        ({"template": {"spec": {"containers": [{"image": "i", "name": "a"}]}}}, True),
        ({"template": {"spec": {"containers": [{"image": "j", "name": "a"}]}}}, False),
    ],
)
def test_the_digest_changes_with_what_a_running_pod_can_not_be_given(change: dict[str, Any], same: bool):
    assert (spec_digest({**BASE, **change}) == spec_digest(BASE)) == same
