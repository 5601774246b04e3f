"""Selectors read as the API server reads them."""

import pytest

from aios_kube.selectors import matches_fields, matches_labels


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, True),
        ("", True),
        ("a=1", True),
        ("a==1,b=2", True),
        ("a=2", False),
        ("a!=2", True),
        ("c!=2", True),
        ("a", True),
        ("!a", False),
        ("!c", True),
        ("a in (1, 2),b notin (3)", True),
        ("a in (2)", False),
        ("app.io/x-y=z", True),
    ],
)
def test_labels(selector, expected):
    assert matches_labels(selector, {"metadata": {"labels": {"a": "1", "b": "2", "app.io/x-y": "z"}}}) is expected


@pytest.mark.parametrize("selector", ["a=(", "a in 1", "=b", "a b"])
def test_nonsense_is_refused(selector):
    with pytest.raises(ValueError, match="must be"):
        matches_labels(selector, {"metadata": {"labels": {}}})


def test_fields():
    pod = {"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}}
    assert matches_fields("spec.nodeName=n1,metadata.name!=q", pod)
    assert matches_fields("spec.driver=", pod)
    assert not matches_fields("spec.nodeName!=n1", pod)
