"""Health of our kinds for Argo CD (Lua) and Flux (CEL), on objects that a real cluster had and on those that an operator would write."""

import json
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml
from lupa import LuaRuntime

GITOPS = Path(__file__).parents[3] / "examples" / "gitops"
RECORDED = json.loads((Path(__file__).parents[1] / "cli" / "recorded.json").read_text())
SCRIPT = (GITOPS / "argocd" / "health.lua").read_text()


def argo(obj: dict[str, Any]) -> str:
    """What Argo CD would show."""
    lua = LuaRuntime(unpack_returned_tuples=True, register_eval=False)

    def table(value: Any) -> Any:
        if isinstance(value, dict):
            return lua.table_from({key: table(each) for key, each in value.items()})
        return lua.table_from([table(each) for each in value]) if isinstance(value, list) else value

    lua.globals().obj = table(obj)
    return str(lua.execute(SCRIPT)["status"])


def flux(obj: dict[str, Any]) -> str:
    """As Flux: failed first, then current, else in progress; a status that is not there yet is in progress."""
    (kustomization,) = yaml.safe_load_all((GITOPS / "flux" / "kustomization.yaml").read_text())
    (exprs,) = [each for each in kustomization["spec"]["healthCheckExprs"] if each["kind"] == obj["kind"]]
    context = {"metadata": obj["metadata"], "spec": obj["spec"], "status": obj.get("status") or {}}
    for word in ("failed", "current"):
        if cel.evaluate(exprs[word], context) is True:
            return word
    return "inProgress"


def said(kind: str, status: str = "True", reason: str = "Because") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-11-23T05:49:00Z"}


def an(kind: str, *conditions: dict[str, str], seen: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"name": "x", "generation": 1},
        "spec": spec,
        "status": {"observedGeneration": seen, "conditions": list(conditions)},
    }


READY, NOT_READY = said("Ready"), said("Ready", "False", "Starting")

CASES = {
    "ready": (an("Agent", said("Accepted"), READY), "Healthy", "current"),
    "starting": (an("Agent", said("Accepted"), NOT_READY, said("Reconciling")), "Progressing", "inProgress"),
    "not seen yet": (an("Agent", READY, seen=0), "Progressing", "inProgress"),
    "refused": (an("Agent", said("Accepted", "False"), NOT_READY, said("Stalled")), "Degraded", "failed"),
    "completed": (an("Agent", NOT_READY, said("Completed")), "Healthy", "current"),
    "failed for good": (an("Agent", NOT_READY, said("Completed", reason="Failed")), "Degraded", "failed"),
    "stopped": (an("Agent", said("Ready", "False", "Stopped"), operatingMode="Stopped"), "Suspended", "current"),
    "stopping": (
        an("Agent", said("Ready", "False", "Stopping"), said("Reconciling"), operatingMode="Stopped"),
        "Progressing",
        "inProgress",
    ),
    "past its deadline": (an("Agent", NOT_READY, said("DeadlineExceeded")), "Suspended", "current"),
    "a binding in force": (an("ToolBinding", said("Accepted"), READY), "Healthy", "current"),
    "a binding on its way": (an("ToolBinding", said("Accepted"), NOT_READY), "Progressing", "inProgress"),
    "a broken binding": (an("ToolBinding", said("Accepted", "False"), NOT_READY), "Degraded", "failed"),
    "a quota in force": (an("GPUQuota", said("InForce")), "Healthy", "current"),
    "a second quota": (an("GPUQuota", said("InForce", "False")), "Degraded", "failed"),
}


@pytest.mark.parametrize("case", CASES)
def test_argo_cd_and_flux_say_the_same(case: str):
    obj, health, word = CASES[case]
    assert (argo(obj), flux(obj)) == (health, word)


@pytest.mark.parametrize("kind", ["Agent", "ToolBinding", "GPUQuota"])
def test_who_was_not_spoken_of_yet_is_on_its_way(kind: str):
    fresh = {"kind": kind, "metadata": {"name": "x", "generation": 1}, "spec": {}}
    assert (argo(fresh), flux(fresh)) == ("Progressing", "inProgress")


def test_agents_of_a_real_cluster():
    agents = {each["metadata"]["name"]: {"kind": "Agent", **each} for each in RECORDED["agents"]}
    assert argo(agents["researcher"]) == "Healthy"
    assert flux(agents["researcher"]) == "current"
    assert {argo(each) for name, each in agents.items() if name == "big"} == {"Progressing"}


def test_the_settings_of_argo_cd_carry_the_script():
    config = yaml.safe_load((GITOPS / "argocd" / "argocd-cm.yaml").read_text())
    assert set(config["data"]) == {f"resource.customizations.health.aios.dev_{kind}" for kind in ("Agent", "ToolBinding", "GPUQuota")}
    assert set(config["data"].values()) == {SCRIPT}
