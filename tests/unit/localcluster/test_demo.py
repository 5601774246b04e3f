"""What a person reads when the demo can't run."""

import sys

import pytest

from aios_localcluster import demo
from aios_localcluster.errors import CannotBuild


def test_what_is_missing_is_said_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def up() -> None:
        raise CannotBuild("Go 1.26.6 or newer is needed")

    monkeypatch.setattr(demo, "up", up)
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert demo.main() == 1
    assert capsys.readouterr().err == "\nGo 1.26.6 or newer is needed\n"
