"""The admission policies as the chart writes them: closed when in doubt, in force, and saying the same as the code."""

import json
import re
from typing import Any

from aios_api import names, template


def policy(release: Any, name: str) -> str:
    """All of one policy, as text."""
    return json.dumps(release.one("ValidatingAdmissionPolicy", name)["spec"]).replace('\\"', '"')


def test_every_policy_is_in_force_and_refuses_when_it_can_not_tell(release: Any) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in release.of("ValidatingAdmissionPolicy")}
    bindings = {each["spec"]["policyName"]: each["spec"] for each in release.of("ValidatingAdmissionPolicyBinding")}
    assert policies.keys() == bindings.keys()
    assert {spec["failurePolicy"] for spec in policies.values()} == {"Fail"}
    assert {tuple(spec["validationActions"]) for spec in bindings.values()} == {("Deny",)}
    for name, spec in policies.items():
        assert all(each["reason"] == "Forbidden" for each in spec["validations"]), f"{name}: what is refused so is tried again"


def test_policies_name_what_the_code_names(release: Any) -> None:
    everything = " ".join(policy(release, each["metadata"]["name"]) for each in release.of("ValidatingAdmissionPolicy"))
    for name in (names.GPU_CLASS, names.RUNTIME_CLASS):
        assert f'"{name}"' in policy(release, "aios-claims")
        assert f'"deviceclass.resource.kubernetes.io/{name}"' in policy(release, "aios-extended-resources")
    assert f'"{names.RESERVED_PREFIX}"' in policy(release, "aios-marks")
    assert f'"{names.MANAGED_BY}"' in everything
    assert names.node_lease_name("") in policy(release, "aios-node-own-node")


def test_the_final_pod_is_held_to_what_the_template_may_say(release: Any) -> None:
    text = policy(release, "aios-agent-pods")
    assert sorted(re.findall(r"has\(v\.(\w+)\)", text)) == sorted(template.ALLOWED_VOLUMES)
    assert json.dumps(list(template.COUNTED_RESOURCES)) in text
    assert f'"{names.AGENT_DIR}/"' in text


def test_allowed_runtime_classes_hold_for_the_final_pod_too(chart: Any, release: Any) -> None:
    assert 'orValue("") in [""]' in policy(release, "aios-agent-pods")
    allowing = chart.render({"operator": {"allowedRuntimeClasses": ["crun"]}})
    assert 'orValue("") in ["","crun"]' in policy(allowing, "aios-agent-pods")
