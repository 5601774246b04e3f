"""Our parser against the API server's: whatever we accept it accepts, with the same value; whatever it refuses we refuse."""

import re
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_api.quantity import MAX, MIB, InvalidQuantity, format_bytes, mebibytes, parse, parse_bytes
from api.support import DRY_RUN, Object, Space, agent, refusal

BATCH = 40
PEBI = 1 << 50
CANONICAL = re.compile(r"[1-9][0-9]*(\.[0-9]+)?[KMGTPE]i")
"""Binary quantities that the API server writes anew; what begins with a sign or a 0 it may leave as it came."""
shaped = st.from_regex(r"[+-]?([0-9]{0,20}\.?[0-9]{0,12})([eE][+-]?[0-9]{0,3}|[numkKMGTPE]?i?)", fullmatch=True)
garbled = st.text("0123456789.+-eEinumkKMGTP _", max_size=20)
texts = st.one_of(shaped, garbled, st.integers(0, MAX).map(format_bytes))
once_per_batch = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def accepted(text: str) -> Fraction | None:
    """The number, or None where we refuse the text."""
    try:
        return parse(text)
    except InvalidQuantity:
        return None


def limits(space: Space, quantities: list[str]) -> tuple[int, Object]:
    """What the API server makes of built-in quantities: the status, and the answer."""
    maximum = {f"example.com/q{number}": quantity for number, quantity in enumerate(quantities)}
    body = {"metadata": {"name": "x"}, "spec": {"limits": [{"type": "Container", "max": maximum}]}}
    answer = space.client.post(f"/api/v1/namespaces/{space.namespace}/limitranges", params=DRY_RUN, json=body)
    return answer.status_code, answer.json()


def stricter_on_purpose(text: str) -> bool:
    """Whether the text is of those that the API server lets pass and we do not, as our parser's documentation lists them."""
    try:
        parse(text)
    except InvalidQuantity as said:
        out_of_range = any(
            why in str(said) for why in ("must not be negative", "must be at most 9223372036854775807", "must have an exponent")
        )
        return out_of_range or text != text.strip() or re.fullmatch(r"[+-]?\.?([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?", text) is not None
    return False


@once_per_batch
@given(st.lists(texts, min_size=BATCH, max_size=BATCH))
def test_what_we_accept_the_api_server_accepts_with_the_same_value(shared_space: Space, batch: list[str]) -> None:
    ours = [text for text in batch if accepted(text) is not None]
    status, answer = limits(shared_space, ours)
    assert status == 201, (ours, answer)
    canonical = answer["spec"]["limits"][0].get("max", {})
    for number, text in enumerate(ours):
        seen = canonical[f"example.com/q{number}"]
        assert parse_bytes(seen) == parse_bytes(text), (text, seen)
        if CANONICAL.fullmatch(text) and parse(text).denominator == 1 and parse_bytes(text) >= 1024:
            assert seen == format_bytes(parse_bytes(text))


@once_per_batch
@given(st.lists(texts, min_size=8, max_size=8))
def test_what_we_refuse_the_api_server_refuses_too_or_we_say_why_not(shared_space: Space, batch: list[str]) -> None:
    for text in batch:
        if accepted(text) is None and limits(shared_space, [text])[0] != 400:
            assert stricter_on_purpose(text), text


@settings(once_per_batch, max_examples=200)
@given(texts.filter(lambda text: 0 < len(text) <= 32))
def test_an_agents_memory_is_accepted_exactly_when_it_can_be_booked(shared_space: Space, text: str) -> None:
    number = accepted(text)
    answer = shared_space.create(agent(gpu={"memory": text}))
    if number is not None and MIB <= number <= 8 * PEBI:
        assert answer.status_code == 201, (text, answer.text)
        assert mebibytes(text) >= 1
    else:
        assert "spec.gpu.memory: Invalid value" in refusal(answer)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ("0", "memory must be at least 1Mi"),
        ("1048575", "memory must be at least 1Mi"),
        ("-16Gi", "memory must be at least 1Mi"),
        ("8193Pi", "memory must be at most 8Pi"),
        ("1e99", "memory must be at most 8Pi"),
        ("16 Gi", "memory must be a Kubernetes quantity such as 16Gi"),
        (" 16Gi", "memory must be a Kubernetes quantity"),
        ("1_000Mi", "memory must be a Kubernetes quantity"),
        ("16GB", "memory must be a Kubernetes quantity"),
        ("1e3Ki", "memory must be a Kubernetes quantity"),
        ("NaN", "memory must be a Kubernetes quantity"),
        ("", "spec.gpu.memory"),
        (16, "spec.gpu.memory in body must be of type string"),
        ("1" * 33, "spec.gpu.memory: Too long"),
    ],
)
def test_memory_that_cannot_be_is_refused_with_what_must_be_true(shared_space: Space, memory: object, message: str) -> None:
    assert message in refusal(shared_space.create(agent(gpu={"memory": memory})))


@pytest.mark.parametrize("memory", ["1Mi", "1048576", "1.5Gi", "16G", "+16Gi", "8Pi", "1e9", "16384Mi"])
def test_memory_that_can_be_is_kept_as_it_was_written(shared_space: Space, memory: str) -> None:
    assert shared_space.create(agent(gpu={"memory": memory})).json()["spec"]["gpu"]["memory"] == memory
