"""The review of a change in reach, in the CI of a repository for GitOps: the script, and the steps of the workflow as they stand there."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from unit.cli.files import agent, binding, rule, write

REVIEW = Path(__file__).parents[3] / "examples" / "gitops" / "review"
WORKFLOW: dict[Any, Any] = yaml.safe_load((REVIEW / "reach.yaml").read_text())
STEPS: list[dict[str, Any]] = WORKFLOW["jobs"]["reach"]["steps"]
APPROVAL = "contains(github.event.pull_request.labels.*.name, 'reach-approved')"
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")


def inside(made: dict[str, Any]) -> dict[str, Any]:
    return {**made, "metadata": {**made["metadata"], "namespace": "research"}}


X = inside(agent("x", team="a"))
ONE = inside(binding("b", rule("r", "api.example.com")))
TWO = inside(binding("b", rule("r", "api.example.com"), rule("s", "new.example.com")))
WIDE = inside(binding("b", rule("r", "api.example.com"), {"name": "s", "cidr": "0.0.0.0/0", "scheme": "tcp", "ports": [22]}))
BROKEN = inside(binding("b", {"name": "r"}))


@dataclass
class Run:
    """One run of the workflow's own steps in `directory`, beside a `gh` that keeps what it was asked."""

    directory: Path
    action: str = "opened"
    old_base: str = ""
    labels: tuple[str, ...] = ()
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def step(self, name: str) -> int:
        """The exit code of the step whose id is `name`."""
        (step,) = [each for each in STEPS if each.get("id") == name]
        output = self.directory / f"output-{name}"
        output.touch()
        tools = self.directory / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "gh").write_text(f'#!/bin/sh\necho "$@" >>{self.directory}/asked\n')
        (tools / "gh").chmod(0o755)
        env = {name: self._value(text) for name, text in step.get("env", {}).items()}
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=self.directory, env={**env, "PATH": path, "GITHUB_OUTPUT": str(output)}, check=False
        )
        self.outputs[name] = dict(line.split("=", 1) for line in output.read_text().splitlines())
        return done.returncode

    def _value(self, text: str) -> str:
        """Of an expression; there are no others in the file than these."""
        expression = text.removeprefix("${{ ").removesuffix(" }}")
        if expression.startswith("steps."):
            _, step, _, name = expression.split(".")
            return self.outputs.get(step, {}).get(name, "")
        return {
            "github.token": "token",
            "github.repository": "example/agents",
            "github.event.pull_request.number": "7",
            "github.event.action": self.action,
            "github.event.changes.base.ref.from": self.old_base,
            APPROVAL: str("reach-approved" in self.labels).lower(),
        }[expression]

    def all_steps(self) -> int:
        """As the runner does: in turn, until one fails. Those that check out and install are done already."""
        return next((code for each in STEPS if "id" in each and (code := self.step(each["id"]))), 0)

    @property
    def asked(self) -> list[str]:
        asked = self.directory / "asked"
        return asked.read_text().splitlines() if asked.exists() else []

    @property
    def comment(self) -> str:
        return (self.directory / "comment.md").read_text()


def reach(tmp_path: Path, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> tuple[int, str]:
    base, head, out = write(tmp_path / "base", *before), write(tmp_path / "head", *after), tmp_path / "out.md"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run([REVIEW / "reach.sh", base, head, out], env={"PATH": path}, check=False, capture_output=True)
    return done.returncode, out.read_text() if out.exists() else ""


@pytest.mark.parametrize(
    ("after", "code", "told"),
    [
        (ONE, 0, "no agent gains or loses a destination"),
        (TWO, 3, "| `research/x` | gains | `https://new.example.com:443` | `b` / `s` |"),
        (WIDE, 4, "1 gained, 1 of these ask for a second look"),
        (BROKEN, 1, ""),
    ],
)
def test_the_script_ends_as_the_difference_does_and_writes_the_comment(after: dict[str, Any], code: int, told: str, tmp_path: Path):
    ended, comment = reach(tmp_path, [X, ONE], [X, after])
    assert (ended, told in comment) == (code, True)
    assert bool(comment) == (code != 1)


def a_checkout(tmp_path: Path, before: list[dict[str, Any]], after: list[dict[str, Any]], meanwhile: list[dict[str, Any]]) -> Path:
    """A directory with `head`: a branch with `after`, and a script that lets all through, merged into main, which got `meanwhile`."""
    origin = tmp_path / "origin"

    def git(*arguments: str) -> None:
        subprocess.run([*GIT, *arguments], cwd=origin, check=True, capture_output=True)

    def commit(objects: list[dict[str, Any]], name: str) -> None:
        write(origin / "teams", *objects, name=name)
        git("add", "-A")
        git("commit", "-qm", "change", "--allow-empty")

    (origin / "review").mkdir(parents=True)
    shutil.copy(REVIEW / "reach.sh", origin / "review")
    git("init", "-q")
    commit(before, "all.yaml")
    git("checkout", "-qb", "change")
    (origin / "review" / "reach.sh").write_text("#!/bin/sh\nexit 0\n")
    commit(after, "all.yaml")
    git("checkout", "-q", "main")
    commit(meanwhile, "more.yaml")
    git("merge", "-q", "--no-ff", "-m", "merge", "change")
    runner = tmp_path / "runner"
    subprocess.run([*GIT, "clone", "-q", "--depth", "2", f"file://{origin}", runner / "head"], check=True, capture_output=True)
    return runner


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
@pytest.mark.parametrize(
    ("after", "labels", "code"),
    [(TWO, (), 0), (WIDE, (), 1), (WIDE, ("reach-approved",), 0)],
)
def test_the_workflow_compares_with_what_it_would_be_merged_into_and_comments(
    after: dict[str, Any], labels: tuple[str, ...], code: int, tmp_path: Path
):
    others = inside(binding("others", rule("r", "other.example.com")))
    run = Run(a_checkout(tmp_path, [X, ONE], [X, after], [others]), "labeled", labels=labels)
    assert run.all_steps() == code
    assert run.asked == ["pr comment 7 --body-file comment.md --edit-last --create-if-none"]
    assert "1 gained" in run.comment
    assert "other.example.com" not in run.comment, "that is main's own by now"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_manifests_with_errors_fail_the_workflow_without_a_comment_and_end_an_approval(tmp_path: Path):
    run = Run(a_checkout(tmp_path, [X, ONE], [X, BROKEN], []), "synchronize", labels=("reach-approved",))
    assert run.all_steps() != 0
    assert run.asked == ["pr edit 7 --remove-label reach-approved"]


@pytest.mark.parametrize("code", ["1", "2", "126", "127"])
def test_a_script_that_ends_with_anything_but_a_verdict_fails_the_workflow(code: str, tmp_path: Path):
    (tmp_path / "base" / "review").mkdir(parents=True)
    (tmp_path / "base" / "review" / "reach.sh").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "base" / "review" / "reach.sh").chmod(0o755)
    assert Run(tmp_path).step("reach") != 0


@pytest.mark.parametrize(
    ("action", "old_base", "labels", "passes"),
    [
        ("labeled", "", ("reach-approved",), True),
        ("labeled", "", ("docs",), False),
        ("unlabeled", "", (), False),
        ("opened", "", (), False),
        ("edited", "", ("reach-approved",), True),
        ("synchronize", "", ("reach-approved",), False),
        ("reopened", "", ("reach-approved",), False),
        ("edited", "feature", ("reach-approved",), False),
    ],
)
def test_an_approval_is_for_what_was_there_when_it_was_given(
    action: str, old_base: str, labels: tuple[str, ...], passes: bool, tmp_path: Path
):
    run = Run(tmp_path, action, old_base, labels, {"reach": {"code": "4"}})
    assert run.step("approval") == 0
    assert (run.step("judgement") == 0) == passes
    ended = not passes and "reach-approved" in labels
    assert run.asked == (["pr edit 7 --remove-label reach-approved"] if ended else [])


def test_an_approval_that_can_not_be_taken_back_fails_the_workflow(tmp_path: Path):
    run = Run(tmp_path, "synchronize", labels=("reach-approved",))
    (tmp_path / "asked").mkdir()
    assert run.step("approval") != 0


def test_the_workflow_runs_on_every_event_that_changes_what_would_be_merged_or_who_approved_it():
    trigger = WORKFLOW[True]["pull_request"]  # `on` is a boolean in YAML 1.1
    assert set(trigger) == {"types"}, "a filter by path or branch leaves changes out, and a required check without a report"
    assert set(trigger["types"]) == {"opened", "synchronize", "reopened", "edited", "labeled", "unlabeled"}
    assert WORKFLOW["permissions"] == {"contents": "read", "pull-requests": "write"}


def test_no_step_puts_what_a_pull_request_says_into_a_program():
    assert not [each["run"] for each in STEPS if "${{" in each.get("run", "")]
    assert not [each for each in STEPS if "if" in each], "a step that is left out passes"
