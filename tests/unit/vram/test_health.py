"""What each group of Xids means, and what the driver's own word for a recovery does."""

import pytest

from aios_sidecar.contracts.worker import FaultGroup, Recovery
from aios_sidecar.vram.health import MEANINGS, meaning, recovery

GROUPS = [
    (
        FaultGroup.Application,
        (8, 11, 13, 25, 31, 32, 39, 40, 41, 43, 45, 60, 68, 69, 70, 75, 80, 82, 85, 86, 89, 94, 96, 105, 126, 135, 137, 139),
    ),
    (FaultGroup.Notice, (14, 37, 38, 44, 63, 66, 67, 92, 93, 106, 107, 121, 141, 154, 157, 160, 171, 172)),
    (FaultGroup.Degraded, (48, 64, 74, 109, 136, 144, 145, 146, 147, 148, 149, 150, 155, 156)),
    (FaultGroup.Broken, (46, 62, 79, 95, 110, 119, 120, 140, 143, 151, 158)),
    (FaultGroup.Unknown, (0, 1, 2, 15, 42, 54, 61, 78, 87, 142, 167, 169, 200, 999)),
]


@pytest.mark.parametrize(("group", "xid"), [(group, xid) for group, xids in GROUPS for xid in xids])
def test_an_xid_is_in_the_group_that_nvidia_s_catalogue_asks_for(group: FaultGroup, xid: int) -> None:
    assert meaning(xid).group is group


def test_every_known_xid_is_explained_and_in_one_group() -> None:
    assert all(each.what for each in MEANINGS.values())
    assert {each.group for each in MEANINGS.values()} == set(FaultGroup) - {FaultGroup.Unknown}
    tested = {xid for _, xids in GROUPS for xid in xids}
    assert {xid for xid, each in MEANINGS.items() if each.group in (FaultGroup.Degraded, FaultGroup.Broken)} <= tested


def test_what_is_ignored_has_no_consequence_whatever_it_is() -> None:
    for xid in (13, 79, 999):
        assert meaning(xid, (13, 79, 999)).group is FaultGroup.Notice
    assert meaning(79, (13,)).group is FaultGroup.Broken


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (0, Recovery.NoAction),
        (1, Recovery.Reset),
        (2, Recovery.Reboot),
        (3, Recovery.Drain),
        (4, Recovery.DrainAndReset),
        (5, Recovery.NoAction),
        (6, Recovery.Reset),
        (7, Recovery.Reboot),
        (99, Recovery.NoAction),
    ],
)
def test_the_drivers_word_for_a_recovery(action: int, expected: Recovery) -> None:
    assert recovery(action) is expected
