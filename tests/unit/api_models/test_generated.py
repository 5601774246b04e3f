"""The committed files are those that follow from the models, and the chart's copies differ only by the chart's switches."""

import re
from pathlib import Path

import pytest
import yaml

from aios_api.crd import definitions
from aios_api.generate import differences, files, main
from aios_api.reasons import ConditionType, Reason

ROOT = Path(__file__).parents[3]
GENERATED = files()
WORDS = [*Reason, *ConditionType]


def test_the_committed_files_are_as_generated() -> None:
    assert "".join(differences(ROOT, GENERATED)) == ""


def test_check_says_what_differs_and_writing_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path), "--check"]) == 1
    assert "+  name: agents.aios.dev" in capsys.readouterr().out
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--root", str(tmp_path), "--check"]) == 0
    (tmp_path / "crds/aios.dev_agents.yaml").write_text("")
    assert main(["--root", str(tmp_path), "--check"]) == 1


def rendered(template: str, *, keep: bool, classes: str) -> dict[str, object]:
    """What Helm makes of our few constructs, with crds.enabled."""
    keeping = r"    \{\{- if \.Values\.crds\.keep \}\}\n(.*)\n    \{\{- end \}\}\n"
    template = re.sub(keeping, r"\1\n" if keep else "", template)
    template = template.replace("{{- if .Values.crds.enabled }}\n", "").removesuffix("{{- end }}\n")
    template = template.replace("{{ .Values.operator.allowedRuntimeClasses | toJson }}", classes)
    assert "{{" not in template
    document: dict[str, object] = yaml.safe_load(template)
    return document


@pytest.mark.parametrize("definition", definitions(), ids=lambda definition: str(definition["spec"]["names"]["kind"]))
def test_the_charts_copy_is_the_same_definition(definition: dict[str, dict[str, dict[str, str]]]) -> None:
    template = GENERATED[f"charts/kubeaios/templates/crds/{definition['spec']['names']['plural']}.yaml"]
    plain = rendered(template, keep=False, classes="[]")
    assert plain["metadata"] == {**definition["metadata"], "annotations": None}
    assert plain["spec"] == definition["spec"]
    assert rendered(template, keep=True, classes="[]")["metadata"] == {
        **definition["metadata"],
        "annotations": {"helm.sh/resource-policy": "keep"},
    }


def test_the_charts_runtime_classes_stand_in_the_rule() -> None:
    template = GENERATED["charts/kubeaios/templates/crds/agents.yaml"]
    assert """'rule': 'self in ["nvidia", "runc"]'""" in str(rendered(template, keep=False, classes='["nvidia", "runc"]'))


@pytest.mark.parametrize("word", WORDS, ids=lambda word: f"{type(word).__name__}.{word}")
def test_every_word_is_camel_case_has_a_sentence_and_a_place_in_the_reference(word: Reason | ConditionType) -> None:
    assert re.fullmatch("[A-Z][A-Za-z]+", word)
    assert word.name == word.value == str(word)
    assert word.sentence.endswith(".")
    page, anchor = word.anchor.split("#")
    assert anchor in re.findall("^### (.*)$", GENERATED[page].lower(), re.MULTILINE)
