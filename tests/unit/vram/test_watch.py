"""Who is stopped, and above all who is not."""

from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.contracts.worker import Use
from aios_sidecar.vram.ledger import Ledger
from aios_sidecar.vram.watch import Watch


def use(used_mib: int, claim: str = "aa", allowed_mib: int = 100) -> Use:
    return Use(
        claim_uid=claim, booked_bytes=80 * MIB, allowed_bytes=allowed_mib * MIB, used_bytes=used_mib * MIB, processes=1, containers=("x",)
    )


def ledger(*uses: Use, unattributed_mib: int = 0) -> Ledger:
    return Ledger(uses, unattributed_mib * MIB, 0)


def a_watch() -> Watch:
    return Watch(grace_seconds=1.0, stale_seconds=1.0)


def stopped(watch: Watch, *readings: tuple[float, Ledger]) -> list[tuple[float, str]]:
    return [(at, excess.use.claim_uid) for at, read in readings for excess in watch.judge(read, at)]


def every_quarter(read: Ledger, until: float, begin: float = 0.0) -> list[tuple[float, Ledger]]:
    return [(begin + n / 4, read) for n in range(int((until - begin) * 4) + 1)]


def test_an_excess_that_lasts_for_the_grace_is_told_with_what_was_used():
    watch = a_watch()
    assert stopped(watch, *every_quarter(ledger(use(101)), 0.75)) == []
    (excess,) = watch.judge(ledger(use(140)), 1.0)
    assert (excess.use.used_bytes, excess.seconds) == (140 * MIB, 1.0)


def test_use_up_to_the_last_allowed_byte_is_within_the_share():
    assert stopped(a_watch(), *every_quarter(ledger(use(100)), 30)) == []


def test_a_peak_shorter_than_the_grace_is_forgiven():
    peaks = [(n / 4, ledger(use(200 if n % 4 else 50))) for n in range(60)]
    assert stopped(a_watch(), *peaks) == []


def test_the_neighbour_is_never_stopped():
    both = ledger(use(5000, "aa"), use(100, "bb"))
    assert {claim for _, claim in stopped(a_watch(), *every_quarter(both, 10))} == {"aa"}


def test_what_can_not_be_attributed_stops_nobody():
    assert stopped(a_watch(), *every_quarter(ledger(use(100), unattributed_mib=50_000), 30)) == []


def test_readings_with_a_gap_between_them_prove_nothing():
    over = ledger(use(200))
    assert stopped(a_watch(), (0.0, over), (5.0, over), (10.0, over)) == []
    assert stopped(a_watch(), (0.0, over), (0.75, over), (5.0, over), (5.5, over), (6.0, over)) == [(6.0, "aa")]


def test_an_excess_that_goes_on_is_told_again_after_another_grace():
    assert stopped(a_watch(), *every_quarter(ledger(use(200)), 2.25)) == [(1.0, "aa"), (2.0, "aa")]


def test_a_share_that_ended_and_came_back_begins_anew():
    over = ledger(use(200))
    assert stopped(a_watch(), (0.0, over), (0.5, ledger()), (1.0, over), (1.5, over)) == []
