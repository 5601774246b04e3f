"""The models as programs use them."""

import pytest
from pydantic import ValidationError

from aios_api.agent import AgentSpec, InvalidSpec, Pending, parse_spec
from aios_api.meta import MAX_MESSAGE
from aios_api.runtime import AgentRuntimeSpec

TEMPLATE = {"spec": {"containers": [{"name": "agent", "image": "example"}]}}


def test_a_small_spec_has_the_defaults_that_the_schema_has() -> None:
    spec = parse_spec({"template": TEMPLATE})
    assert (spec.restart_policy, spec.operating_mode, spec.gpu) == ("Always", "Running", None)
    assert spec.template == TEMPLATE


def test_what_cannot_be_read_is_named_as_the_user_wrote_it() -> None:
    with pytest.raises(InvalidSpec) as refusal:
        parse_spec({"gpu": {"memory": 5, "models": ["a", 7]}, "restartPolicy": "Sometimes", "extra": 1})
    message = str(refusal.value)
    for field in ("spec.template", "spec.gpu.memory", "spec.gpu.models[1]", "spec.restartPolicy", "spec.extra"):
        assert f"{field}: " in message


@pytest.mark.parametrize("spec", [None, "text", []])
def test_a_spec_that_is_no_object_is_refused(spec: object) -> None:
    with pytest.raises(InvalidSpec, match=r"^spec: "):
        parse_spec(spec)


def test_a_message_that_is_too_long_is_cut_and_shows_it() -> None:
    pending = Pending(reason="NoNodes", message="x" * 10_000, smallestChange="", since="2026-01-01T00:00:00Z")
    assert len(pending.message) == MAX_MESSAGE
    assert pending.message.endswith("x…")


def test_models_are_written_as_they_stand_on_the_wire() -> None:
    order = {"agentUID": "u", "attempt": 1, "templateDigest": "d", "nodeName": "n", "claimName": "a-1", "podName": "a-1"}
    assert AgentRuntimeSpec.model_validate(order).model_dump(by_alias=True, exclude_none=True) == order


def test_a_model_does_not_change() -> None:
    spec = AgentSpec(template=TEMPLATE)
    with pytest.raises(ValidationError, match="frozen"):
        spec.restart_policy = "Never"
