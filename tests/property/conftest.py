"""Chance for the fuzzers."""

import random

import pytest

from property.fuzz import a_chance


@pytest.fixture
def chance() -> random.Random:
    return a_chance()
