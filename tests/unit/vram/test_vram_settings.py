"""What is kept back of a GPU, and settings that can't be used."""

import pytest

from aios_sidecar.vram.settings import InvalidSettings, VramSettings, from_environment


def test_what_is_kept_back_is_the_worker_and_the_margin():
    assert VramSettings(worker_mib=100, margin_mib=200).withheld_mib == 300
    assert from_environment({"AIOS_GPU_MARGIN_MIB": "0"}).withheld_mib == 0
    assert from_environment({"AIOS_CONTEXT_MIB": "300", "AIOS_CONTEXTS": "2"}) == VramSettings(context_mib=300, contexts=2)
    assert from_environment({"AIOS_IGNORED_XIDS": "109, 74,109"}) == VramSettings(ignored_xids=(74, 109))
    with pytest.raises(InvalidSettings, match="AIOS_IGNORED_XIDS must be whole numbers from 1 to 999"):
        from_environment({"AIOS_IGNORED_XIDS": "74,none"})


@pytest.mark.parametrize(("name", "text"), [("AIOS_GPU_MARGIN_MIB", "-1"), ("AIOS_CONTEXT_MIB", "half"), ("AIOS_CONTEXTS", "0")])
def test_a_setting_that_can_not_be_used_is_named(name, text):
    with pytest.raises(InvalidSettings, match=f"{name} must be a whole number"):
        from_environment({name: text})


def test_who_is_above_the_share_is_stopped_within_two_seconds():
    s = VramSettings()
    assert s.read_seconds + s.grace_seconds <= 1.5, "half a second is left for the shot"
