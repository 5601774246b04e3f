"""An error in the log is a bug of ours, and fails the test, unless the test is about it."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def errors_expected() -> None:
    """The test makes one happen."""


@pytest.fixture(autouse=True)
def no_errors(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    if "errors_expected" not in request.fixturenames:
        errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
        assert errors == []
