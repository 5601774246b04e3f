"""The chart's admission policies on a real API server: whose write of orders, facts, claims and network is refused, and whose is not."""

from __future__ import annotations

import httpx
import pytest

from aios_api import names
from aios_operator.decide import objects as desired
from api.admission import Stage, allocation, changed, rights_in_the_cluster, user
from api.callers import CLAIM_CONTROLLER, Caller, claims_of, denied, made, path_of
from api.support import Object, eventually

SLICES = "/apis/resource.k8s.io/v1/resourceslices"


# --- orders and facts ---


def test_orders_are_the_operators_whatever_a_role_of_the_namespace_allows(stage: Stage) -> None:
    _, order = stage.ordered()
    again = stage.order(stage.agent("b"))
    for caller in (stage.owner, stage.admin, stage.node_agent("one")):
        answer = caller.create(again)
        assert answer.status_code == 403
    assert "made by the operator of KubeAIOS and by nobody else" in denied(stage.owner.create(again), "aios-orders")
    elsewhere = {"spec": {**order["spec"], "attempt": 2, "claimName": "a-2", "podName": "a-2", "nodeName": "two"}}
    assert "change the Agent" in denied(stage.owner.patch(order, elsewhere), "aios-orders")
    made(stage.operator.patch(order, elsewhere))
    assert stage.editor.patch(order, elsewhere).status_code == 403, "by its role already"


def test_an_order_is_not_given_to_another_owner(stage: Stage) -> None:
    of, order = stage.ordered()
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": of["metadata"]["uid"][:-1] + "0"}
    denied(stage.owner.patch(order, {"metadata": {"ownerReferences": [*order["metadata"]["ownerReferences"], owner]}}), "aios-orders")
    made(stage.owner.patch(order, {"metadata": {"finalizers": ["example.com/mine"]}}))


def test_who_may_delete_may_delete_an_order(stage: Stage) -> None:
    _, order = stage.ordered()
    made(stage.owner.delete(order))


def test_facts_come_from_the_node_agent_of_the_orders_node(stage: Stage) -> None:
    _, order = stage.ordered()
    facts = {"status": {"contractVersion": names.CONTRACT_VERSION}}
    made(stage.node_agent("one").patch(order, facts, "status"))
    assert "for its own node (two)" in denied(stage.node_agent("two").patch(order, facts, "status"), "aios-node-facts")
    assert "bound to a pod on a node" in denied(stage.node_agent(None).patch(order, facts, "status"), "aios-node-facts")
    for caller in (stage.owner, stage.admin):
        assert "the node agent of its node and by nobody else" in denied(caller.patch(order, facts, "status"), "aios-node-facts")
    impostor = Caller(stage.client, stage.owner.user, stage.node_agent("one").extra)
    denied(impostor.patch(order, facts, "status"), "aios-node-facts")


def test_a_real_token_of_a_node_agent_says_its_node(stage: Stage, system_namespace: str) -> None:
    """A token as the kubelet gets it for the pod; nothing is impersonated."""
    client = stage.client
    made(client.post("/api/v1/nodes", json={"metadata": {"name": "one"}}))
    spec = {"nodeName": "one", "serviceAccountName": "aios-node", "containers": [{"name": "c", "image": "i"}]}
    pods = f"/api/v1/namespaces/{system_namespace}/pods"
    pod = made(client.post(pods, json={"metadata": {"name": "aios-node-x"}, "spec": spec}))
    try:
        bound = {"apiVersion": "v1", "kind": "Pod", "name": "aios-node-x", "uid": pod["metadata"]["uid"]}
        path = f"/api/v1/namespaces/{system_namespace}/serviceaccounts/aios-node/token"
        tokens = [
            made(client.post(path, json={"spec": {"boundObjectRef": to, "expirationSeconds": 600}}))["status"]["token"]
            for to in (bound, None)
        ]
        assert claims_of(tokens[0])["kubernetes.io"]["node"]["name"] == "one"
        answers = {}
        for node in ("one", "two"):
            _, order = stage.ordered(f"on-{node}")
            made(stage.operator.keeping().patch(order, {"spec": {**order["spec"], "attempt": 2, "nodeName": node} | of_attempt(order, 2)}))
            for number, token in enumerate(tokens):
                answers[node, number] = patched_with(stage, token, order).status_code
        assert answers == {("one", 0): 200, ("one", 1): 403, ("two", 0): 403, ("two", 1): 403}
    finally:
        client.delete(f"{pods}/aios-node-x")
        client.delete("/api/v1/nodes/one")


def of_attempt(order: Object, attempt: int) -> Object:
    return dict.fromkeys(("claimName", "podName"), f"{order['metadata']['name']}-{attempt}")


def patched_with(stage: Stage, token: str, order: Object) -> httpx.Response:
    """The status written by whoever holds the token, without the administrator's certificate."""
    path = path_of("AgentRuntime", stage.namespace, order["metadata"]["name"], "status")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
    with httpx.Client(base_url=stage.client.base_url, verify=False, trust_env=False) as plain:
        return plain.patch(path, headers=headers, json={"status": {"contractVersion": names.CONTRACT_VERSION}})


def test_what_people_read_is_written_by_the_operator(stage: Stage) -> None:
    of = stage.agent()
    says = {"status": {"attempt": 7}}
    made(stage.operator.patch(of, says, "status"))
    for caller in (stage.owner, stage.admin):
        assert "written by the operator of KubeAIOS and by nobody else" in denied(caller.patch(of, says, "status"), "aios-statuses")
    made(stage.editor.patch(of, {"spec": {"priority": 5}}))
    for kind, spec, status in (
        ("GPUQuota", {"agents": 3}, {"observedGeneration": 7}),
        ("ToolBinding", {}, {"observedGeneration": 7}),
    ):
        body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"name": "x", "namespace": stage.namespace}, "spec": spec}
        kept = made(stage.admin.keeping().create(body))
        made(stage.operator.patch(kept, {"status": status}, "status"))
        for caller in (stage.owner, stage.admin):
            denied(caller.patch(kept, {"status": status}, "status"), "aios-statuses")


# --- claims ---


def test_our_device_classes_are_claimed_by_the_operator_and_by_nobody_else(stage: Stage) -> None:
    of, order = stage.ordered("a", gpu={"memory": "1Gi"})
    made(stage.operator.create(stage.claim(of, order)))
    plain = stage.foreign_claim()
    made(stage.editor.create(plain))
    for caller in (stage.editor, stage.owner, stage.admin, stage.scheduler):
        for device_class in (names.GPU_CLASS, names.RUNTIME_CLASS):
            said = denied(caller.create(stage.foreign_claim(device_class=device_class)), "aios-claims")
            assert "apply an Agent with spec.gpu" in said
    alternatives = [{"name": name, "deviceClassName": name} for name in ("gpu.example.com", names.GPU_CLASS)]
    hidden = changed(
        plain,
        "spec|devices|requests",
        [{"name": "r", "firstAvailable": [{**each, "name": f"n{n}"} for n, each in enumerate(alternatives)]}],
    )
    denied(stage.editor.create(hidden), "aios-claims")


def test_no_template_names_our_classes(stage: Stage) -> None:
    for device_class, refused in (("gpu.example.com", False), (names.GPU_CLASS, True)):
        claim = stage.foreign_claim("t", device_class)
        template = {**claim, "kind": "ResourceClaimTemplate", "spec": {"spec": claim["spec"]}}
        answer = stage.editor.create(template)
        assert (answer.status_code == 403) is refused, answer.text
    denied(answer, "aios-claims")


def test_an_older_version_of_the_api_is_no_way_around(stage: Stage) -> None:
    served = {v["version"] for v in stage.client.get("/apis/resource.k8s.io").json()["versions"]}
    body = stage.foreign_claim(device_class=names.GPU_CLASS)
    for version in served:
        old = {**body, "apiVersion": f"resource.k8s.io/{version}"}
        if version == "v1beta1":
            old["spec"] = {"devices": {"requests": [{"name": "r", "deviceClassName": names.GPU_CLASS}]}}
        path = f"/apis/resource.k8s.io/{version}/namespaces/{stage.namespace}/resourceclaims"
        denied(stage.owner.send("POST", path, old), "aios-claims")


def test_a_booking_of_ours_is_written_by_who_may_write_it_everywhere(stage: Stage) -> None:
    claim, pod = stage.running()
    booked = allocation(user(pod))
    made(stage.scheduler.keeping().patch(claim, booked, "status"))
    forged = {"status": {"reservedFor": []}}
    assert stage.owner.patch(claim, forged, "status").status_code in (403, 422), (
        "the API server itself asks for a right in the whole cluster"
    )
    with rights_in_the_cluster(stage.owner, "resource.k8s.io", "resourceclaims/binding", "patch"):
        eventually(lambda: stage.owner.patch(claim, forged, "status").status_code == 403, "the right is in force")
        said = denied(stage.owner.patch(claim, forged, "status"), "aios-bookings")
        assert "who may do so in every namespace" in said
    controller = Caller(stage.client, CLAIM_CONTROLLER)
    made(controller.patch(claim, {"status": {"reservedFor": None}}, "status"))


def test_a_claim_is_not_taken_away_from_under_a_pod(stage: Stage) -> None:
    """Who edits a namespace may write its claims: without the finalizer a delete would free the share while the pod still has it."""
    claim, pod = stage.running()
    protect = {"metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]}}
    made(stage.scheduler.keeping().patch(claim, protect))
    made(stage.scheduler.keeping().patch(claim, allocation(user(pod)), "status"))
    for caller in (stage.editor, stage.owner):
        for finalizers in (None, ["example.com/mine"]):
            said = denied(caller.patch(claim, {"metadata": {"finalizers": finalizers}}), "aios-claims")
            assert "taken away by the claim controller when the pod has ended" in said
        made(caller.patch(claim, {"metadata": {"finalizers": [*protect["metadata"]["finalizers"], "example.com/mine"]}}))
        made(caller.delete(claim))
    stage.editor.keeping().delete(claim)
    assert stage.admin.get(claim), "it waits for the pod's end"
    stage.editor.keeping().send("DELETE", path_of("Pod", stage.namespace, "a-1"), {"gracePeriodSeconds": 0})
    eventually(lambda: stage.admin.get(claim) is None, "the claim controller lets it go")


def test_our_claim_is_reserved_for_no_other_pod(stage: Stage) -> None:
    claim, pod = stage.running()
    stranger = made(stage.editor.keeping().create(stage.foreign_pod()))
    said = denied(stage.scheduler.patch(claim, allocation(user(pod), user(stranger)), "status"), "aios-bookings")
    assert "for the Agent's own pod and for no other" in said


def test_our_devices_are_booked_for_no_other_claim(stage: Stage) -> None:
    """A class of somebody else may select our driver; then kube-scheduler itself tries it."""
    claim = made(stage.editor.keeping().create(stage.foreign_claim()))
    pod = made(stage.editor.keeping().create(stage.foreign_pod(resourceClaims=[{"name": "x", "resourceClaimName": "other"}])))
    said = denied(stage.scheduler.patch(claim, allocation(user(pod), request="r"), "status"), "aios-bookings")
    assert "are booked for claims of the operator of KubeAIOS and for no others" in said
    made(stage.scheduler.patch(claim, allocation(user(pod), driver="gpu.example.com", request="r"), "status"))


# --- marks ---


@pytest.mark.parametrize(
    "key", [names.LABEL_AGENT, names.LABEL_AGENT_UID, names.LABEL_ATTEMPT, "aios.dev/anything", names.LABEL_MANAGED_BY]
)
def test_our_labels_are_set_by_nobody_else(stage: Stage, key: str) -> None:
    value = names.MANAGED_BY if key == names.LABEL_MANAGED_BY else "a"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": stage.namespace},
        "spec": {"ports": [{"port": 1}]},
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": stage.namespace},
        "spec": {"podSelector": {}},
    }
    for body in (stage.foreign_pod(), stage.foreign_claim(), service, policy):
        made(stage.owner.create(body))
        denied(stage.owner.create(changed(body, "metadata|labels", {key: value})), "aios-marks")
    kept = made(stage.owner.keeping().create(stage.foreign_pod()))
    denied(stage.editor.patch(kept, {"metadata": {"labels": {key: value}}}), "aios-marks")
    denied(stage.owner.patch(kept, {"metadata": {"labels": {key: value}}}, "status"), "aios-marks")
    made(stage.editor.patch(kept, {"metadata": {"labels": {"team": "x", names.LABEL_MANAGED_BY: "me"}}}))


def test_our_labels_and_annotations_stay_as_they_are(stage: Stage) -> None:
    claim, pod = stage.running()
    for obj in (claim, pod):
        for label in (names.LABEL_AGENT, names.LABEL_MANAGED_BY, names.LABEL_ATTEMPT):
            for value in ("9", None):
                denied(stage.owner.patch(obj, {"metadata": {"labels": {label: value}}}), "aios-marks")
        made(stage.owner.patch(obj, {"metadata": {"labels": {"team": "x"}, "annotations": {"note": "y"}}}))
    denied(stage.owner.patch(pod, {"metadata": {"annotations": {names.ANNOTATION_DIGEST: "x"}}}), "aios-marks")
    denied(stage.owner.patch(pod, {"metadata": {"annotations": {names.ANNOTATION_DIGEST: None}}}), "aios-marks")
    made(stage.operator.patch(pod, {"metadata": {"annotations": {names.ANNOTATION_NUDGED: "2026-01-01T00:00:00Z"}}}))


def test_the_standard_of_a_namespace_is_not_its_own_peoples_to_change(stage: Stage) -> None:
    path, key = f"/api/v1/namespaces/{stage.namespace}", "pod-security.kubernetes.io/enforce"

    def labelled(caller: Caller, labels: Object, subresource: str = "") -> httpx.Response:
        return caller.send("PATCH", path + subresource, {"metadata": {"labels": labels}}, "application/merge-patch+json")

    made(labelled(stage.admin.keeping(), {key: "baseline"}))
    for value in ("privileged", None):
        for subresource in ("", "/status"):
            assert "by who may update every namespace" in denied(labelled(stage.owner, {key: value}, subresource), "aios-namespaces")
        made(labelled(stage.admin, {key: value}))
    denied(labelled(stage.owner, {"pod-security.kubernetes.io/enforce-version": "v1.0"}), "aios-namespaces")
    made(labelled(stage.owner, {"team": "x"}))


def test_a_binding_carries_no_mark_to_its_pod(stage: Stage) -> None:
    pod = made(stage.editor.keeping().create(stage.foreign_pod()))
    target = {"target": {"apiVersion": "v1", "kind": "Node", "name": "one"}}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"], "namespace": stage.namespace}, **target}
    made(stage.scheduler.create(binding, "binding", of="Pod"))
    for where in ("labels", "annotations"):
        marked = changed(binding, f"metadata|{where}", {"aios.dev/agent": "a"})
        denied(stage.owner.create(marked, "binding", of="Pod"), "aios-marks")


# --- the network ---


def test_the_network_policy_of_agents_is_the_operators(stage: Stage) -> None:
    policy = desired.network_policy(stage.namespace)
    for name in (policy["metadata"]["name"], "aios-expose-a"):
        mine = {**policy, "metadata": {"namespace": stage.namespace, "name": name}}
        assert "choose another name" in denied(stage.editor.create(mine), "aios-network")
    kept = made(stage.operator.keeping().create(policy))
    opened = {"spec": {"egress": [{}]}}
    assert "change the Agent" in denied(stage.editor.patch(kept, opened), "aios-network")
    assert "as long as there are Agents" in denied(stage.editor.delete(kept), "aios-network")
    made(stage.operator.patch(kept, opened))
    made(stage.operator.delete(kept))
    own = {**policy, "metadata": {"namespace": stage.namespace, "name": "own"}}
    made(stage.editor.delete(made(stage.editor.keeping().create(own))))


def test_a_service_of_an_agent_is_the_operators(stage: Stage) -> None:
    of = stage.agent()
    owner = {"apiVersion": names.API_VERSION, "kind": "Agent", "name": "a", "uid": of["metadata"]["uid"], "controller": True}
    metadata = {
        "name": "a",
        "namespace": stage.namespace,
        "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_AGENT: "a"},
        "ownerReferences": [owner],
    }
    spec = {"selector": {names.LABEL_AGENT: "a"}, "ports": [{"name": "http", "port": 80}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    with rights_in_the_cluster(stage.operator, "", "services", "create"):
        eventually(lambda: stage.operator.create(service).status_code == 201, "the right is in force")
        kept = made(stage.operator.keeping().create(service))
    assert "change the Agent" in denied(stage.editor.patch(kept, {"spec": {"selector": {"app": "other"}}}), "aios-network")
    made(stage.editor.patch(kept, {"metadata": {"annotations": {"note": "x"}}}))
    made(stage.editor.delete(kept))
    plain = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "mine", "namespace": stage.namespace},
        "spec": {"ports": [{"port": 1}]},
    }
    made(stage.editor.patch(made(stage.editor.keeping().create(plain)), {"spec": {"selector": {"app": "x"}}}))


# --- nodes ---


def resource_slice(node: str, driver: str = names.DRIVER, name: str = "a-slice") -> Object:
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    spec = {"nodeName": node, "driver": driver, "pool": pool, "devices": []}
    return {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec}


def test_a_node_agent_publishes_for_its_node_and_its_driver_alone(stage: Stage) -> None:
    own = stage.node_agent("one")
    made(own.send("POST", SLICES, resource_slice("one")))
    assert "for its own node (one) and for no other" in denied(own.send("POST", SLICES, resource_slice("another")), "aios-node-own-node")
    said = denied(own.send("POST", SLICES, resource_slice("one", "gpu.example.com")), "aios-node-own-node")
    assert "of its driver gpu.aios.dev and of no other" in said
    unbound = stage.node_agent(None).send("POST", SLICES, resource_slice("one"))
    assert "the token must be bound to a pod on a node" in denied(unbound, "aios-node-own-node")


def test_a_node_agent_withdraws_only_what_its_node_published_and_a_kubelet_may_too(stage: Stage) -> None:
    assert stage.client.post(SLICES, json=resource_slice("one", name="of-one")).status_code == 201
    try:
        denied(stage.node_agent("another").send("DELETE", f"{SLICES}/of-one"), "aios-node-own-node")
        made(stage.node_agent("one").send("DELETE", f"{SLICES}/of-one"))
        made(Caller(stage.client, "system:node:one").send("DELETE", f"{SLICES}/of-one"))
    finally:
        stage.client.delete(f"{SLICES}/of-one")


def test_a_node_agent_renews_its_own_lease_alone(stage: Stage, system_namespace: str) -> None:
    def lease(name: str) -> Object:
        metadata = {"name": name, "namespace": system_namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": {"holderIdentity": "one"}}

    own, another = lease(names.node_lease_name("one")), lease(names.node_lease_name("two"))
    made(stage.node_agent("one").create(own))
    for body in (another, lease("aios-operator")):
        assert "for its own node (one)" in denied(stage.node_agent("one").create(body), "aios-node-own-node")
        made(stage.admin.keeping().create(body))
        assert stage.node_agent("one").patch(body, {"spec": {"holderIdentity": "one"}}).status_code == 403
        made(stage.admin.keeping().delete(body))


# --- what goes on as before ---


def test_the_garbage_collector_takes_what_an_agent_owned(stage: Stage) -> None:
    of, order = stage.ordered()
    claim = made(stage.operator.keeping().create(stage.claim(of, order)))
    pod = made(stage.operator.keeping().create(stage.pod(of, order)))
    stage.editor.keeping().delete(of)
    for obj in (order, claim, pod):
        eventually(lambda obj=obj: stage.admin.get(obj) is None, f"{obj['kind']} is gone")  # it looks for new kinds every 30 s


def test_the_garbage_collector_may_make_orphans(stage: Stage) -> None:
    """In its name: when it does so by itself depends on what its watches have told it by then."""
    _, order = stage.ordered()
    collector = Caller(stage.client, "system:serviceaccount:kube-system:generic-garbage-collector")
    owner = order["metadata"]["ownerReferences"][0]
    made(collector.patch(order, {"metadata": {"ownerReferences": [{**owner, "blockOwnerDeletion": False}]}}))
    made(collector.patch(order, {"metadata": {"ownerReferences": None}}))


def test_the_garbage_collector_waits_in_the_foreground(stage: Stage) -> None:
    of, order = stage.ordered()
    stage.editor.keeping().delete(of, "Foreground")
    eventually(lambda: stage.admin.get(of) is None and stage.admin.get(order) is None, "both are gone")


def test_a_namespace_goes_with_everything_in_it(stage: Stage) -> None:
    stage.running()
    made(stage.operator.keeping().create(desired.network_policy(stage.namespace)))
    assert stage.client.delete(f"/api/v1/namespaces/{stage.namespace}").status_code == 200
    eventually(lambda: stage.client.get(f"/api/v1/namespaces/{stage.namespace}").status_code == 404, "the namespace is gone")


def test_pods_and_claims_of_others_are_as_free_as_before(stage: Stage) -> None:
    claim = made(stage.editor.keeping().create(stage.foreign_claim("same")))
    pod = made(stage.editor.keeping().create(stage.foreign_pod("same", resourceClaims=[{"name": "x", "resourceClaimName": "same"}])))
    made(stage.scheduler.keeping().patch(claim, allocation(user(pod), driver="gpu.example.com", request="r"), "status"))
    made(Caller(stage.client, CLAIM_CONTROLLER).patch(claim, {"status": {"reservedFor": None, "allocation": None}}, "status"))
    made(stage.editor.patch(pod, {"metadata": {"labels": {"app": "x"}}}))
    privileged = stage.foreign_pod("host", hostNetwork=True, volumes=[{"name": "h", "hostPath": {"path": "/"}}])
    made(stage.editor.create(privileged))
