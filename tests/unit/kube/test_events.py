"""Events are told once and then counted; their number is bounded."""

from datetime import UTC, datetime, timedelta

from aios_kube.errors import Unreachable
from aios_kube.events import EventRecorder, EventSettings, Regarding
from aios_kube.fake import FakeCluster
from aios_kube.resources import EVENTS

AGENT = Regarding("aios.dev/v1alpha1", "Agent", "ns", "a", "u1")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def a_recorder(**settings: float) -> tuple[FakeCluster, Clock, EventRecorder]:
    cluster, clock = FakeCluster(), Clock()
    return cluster, clock, EventRecorder(cluster, "aios.dev/operator", "op-1", clock, EventSettings(**settings))


def place(recorder: EventRecorder, note: str = "on n1", agent: Regarding = AGENT) -> None:
    recorder.record(agent, "Normal", "Placed", "Place", note)


async def test_an_event_carries_what_the_api_wants():
    cluster, _, recorder = a_recorder()
    place(recorder, "x" * 2000)
    await recorder.flush()
    [event] = cluster.all(EVENTS)
    assert event["regarding"]["uid"] == "u1"
    assert len(event["note"]) == 1024
    assert event["eventTime"] == "2026-01-01T00:00:00.000000Z"
    assert "series" not in event


async def test_a_note_has_no_more_bytes_than_the_server_takes_and_ends_with_a_whole_character():
    cluster, _, recorder = a_recorder()
    place(recorder, "x" + "→" * 1000)
    await recorder.flush()
    [event] = cluster.all(EVENTS)
    assert event["note"] == "x" + "→" * 341


async def test_repetition_counts_and_is_written_once_a_minute():
    cluster, clock, recorder = a_recorder()
    for _ in range(100):
        place(recorder)
        await recorder.flush()
        clock.forward(1)
    await recorder.flush()
    [event] = cluster.all(EVENTS)
    assert event["series"]["count"] == 61
    assert len(cluster.writes()) == 2


async def test_one_object_cannot_flood():
    cluster, _, recorder = a_recorder(distinct_per_object=3)
    for number in range(10):
        place(recorder, f"on n{number}")
    place(recorder, agent=Regarding("v1", "Node", "", "n1", "u2"))
    await recorder.flush()
    assert len(cluster.all(EVENTS)) == 4


async def test_memory_is_bounded_and_the_oldest_goes_first():
    _, _, recorder = a_recorder(remembered=10)
    for number in range(100):
        place(recorder, agent=Regarding("v1", "Pod", "ns", f"p{number}", f"u{number}"))
    assert len(recorder._told) == 10
    assert len(recorder._per_object) == 10


async def test_after_a_while_it_is_told_anew():
    cluster, clock, recorder = a_recorder(forget_seconds=600)
    place(recorder)
    await recorder.flush()
    clock.forward(601)
    place(recorder)
    await recorder.flush()
    assert len(cluster.all(EVENTS)) == 2


async def test_a_lost_event_stops_nothing(caplog):
    cluster, _, recorder = a_recorder()
    cluster.refuse.append(lambda call: Unreachable("down"))
    place(recorder)
    await recorder.flush()
    assert "is lost" in caplog.text
