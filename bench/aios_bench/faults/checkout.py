"""Worlds that the tests of this checkout have, for scenarios: they are not part of any package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[3] / "tests"


def of_tests(module: str) -> Any:
    """A module below tests/, such as `unit.operator.world`."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    return importlib.import_module(module)
