"""The threat model is as good as its links: every row names a test, and every test that it names is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "security" / "threat-model.md"
NAMED = re.compile(r"`((?:[\w/]+\.py)?)(?:::)?((?:test_\w+)?)`")


def functions_in(path: Path) -> set[str]:
    defs = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, defs) and node.name.startswith("test_")}


TESTS = {path.relative_to(ROOT).as_posix(): functions_in(path) for path in (ROOT / "tests").rglob("test_*.py")}


def named(text: str) -> list[tuple[str, str]]:
    """Files, as a path or a name alone, and tests; of each pair one may be empty."""
    return [(file, test) for file, test in NAMED.findall(text) if file.rpartition("/")[2].startswith("test_") or test]


def rows() -> list[str]:
    """Those of the tables that say what stops what."""
    part = PAGE.read_text().partition("## What stops what")[2].partition("## What is not stopped")[0]
    return [
        line for line in part.splitlines() if line.startswith("| ") and not line.startswith(("| tried |", "| what happens |", "| --- |"))
    ]


def test_every_row_names_a_test() -> None:
    assert len(rows()) > 30
    assert [row for row in rows() if not named(row.rstrip("| ").rpartition("|")[2])] == []


def test_every_test_that_is_named_is_there() -> None:
    missing = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for file, test in named(page.read_text()):
            places = [tests for path, tests in TESTS.items() if f"/{path}".endswith(f"/{file}")] if file else list(TESTS.values())
            if not places or (test and not any(test in tests for tests in places)):
                missing.append(f"{page.name}: {file}::{test}")
    assert missing == []
