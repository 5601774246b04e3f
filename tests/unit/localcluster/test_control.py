"""The supervisor's socket, and how its components come and go."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_localcluster import control
from aios_localcluster.errors import LocalClusterError, NotRunning
from aios_localcluster.plan import Component, Plan
from aios_localcluster.supervisor import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, Supervisor


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A socket deeper than the address of a Unix socket may be, that answers with what it was asked."""
    path = tmp_path / ("d" * 120) / "control.sock"
    path.parent.mkdir()
    listener = control.listen(path)
    over = threading.Event()

    def handle(question: dict[str, Any]) -> dict[str, Any]:
        return {"error": "refused"} if question.get("verb") == "refuse" else {"asked": question}

    def serve() -> None:
        listener.settimeout(0.05)
        while not over.is_set():
            try:
                control.answer(listener, handle)
            except TimeoutError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    over.set()
    thread.join(5)
    listener.close()


def test_a_question_is_answered_whatever_the_depth_of_the_directory(served: Path):
    assert control.ask(served, verb="status") == {"asked": {"verb": "status"}}
    assert served.stat().st_mode & 0o777 == 0o600


def test_a_refusal_is_an_error_with_its_words(served: Path):
    with pytest.raises(LocalClusterError, match="refused"):
        control.ask(served, verb="refuse")


@pytest.mark.parametrize("garbage", [b"\n", b"no json\n", b"[]\n", b"half a line", b"\xff\xfe\n"])
def test_garbage_does_not_end_the_service(served: Path, garbage: bytes, monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_UNIX) as connection:
        monkeypatch.chdir(served.parent)
        connection.connect(served.name)
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        answered = connection.recv(4096)
        assert answered == b"" or "error" in json.loads(answered)
    assert control.ask(served, verb="still there") == {"asked": {"verb": "still there"}}


def test_nobody_at_the_socket_is_not_running(tmp_path: Path):
    with pytest.raises(NotRunning):
        control.ask(tmp_path / "control.sock", verb="status")


def a_supervisor(tmp_path: Path, *components: Component) -> Supervisor:
    words = {"identity": "", "hostname": "", "link": "", "subnet": "", "api_url": "https://127.0.0.1:1", "certificate_authority": "",
             "client_certificate": "", "client_key": "", "state": "", "private": "", "control": "", "holder": ""}  # fmt: skip
    return Supervisor(Plan(**words, binds={}, logs=str(tmp_path), environment={}, components=components), alive=-1)


def settle(supervisor: Supervisor, name: str) -> dict[str, Any]:
    """Wait for the component's end, as the supervisor's loop would."""
    until = time.monotonic() + 60
    while supervisor.all[name].pid is not None:
        assert time.monotonic() < until
        time.sleep(0.01)
        supervisor.reap()
    return supervisor.all[name].facts(time.monotonic())


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_component_that_ends_is_started_again_later_and_later(tmp_path: Path):
    supervisor = a_supervisor(tmp_path, Component("broken", python("print('out of order'); raise SystemExit(3)")))
    running = supervisor.all["broken"]
    waits = []
    for _ in range(8):
        running.not_before = 0
        supervisor.start_what_may_start()
        facts = settle(supervisor, "broken")
        waits.append(running.backoff_seconds)
    assert facts["last_end"] == "exit 3"
    assert facts["starts"] == 8
    assert waits[0] == 2 * FIRST_BACKOFF_SECONDS
    assert waits[-1] == LONGEST_BACKOFF_SECONDS
    assert (tmp_path / "broken.log").read_text().splitlines() == ["out of order"] * 8


def test_a_step_that_ended_well_is_done_and_opens_the_way(tmp_path: Path):
    step, after = Component("step", python("pass"), is_step=True), Component("after", python("pass"), after_step="step")
    supervisor = a_supervisor(tmp_path, step, after)
    supervisor.start_what_may_start()
    assert supervisor.all["after"].starts == 0
    assert settle(supervisor, "step")["state"] == "done"
    supervisor.start_what_may_start()
    assert (supervisor.all["step"].starts, supervisor.all["after"].starts) == (1, 1)
    settle(supervisor, "after")


def test_a_component_waits_for_its_path(tmp_path: Path):
    supervisor = a_supervisor(tmp_path, Component("late", python("pass"), after_path=str(tmp_path / "there")))
    supervisor.start_what_may_start()
    assert supervisor.all["late"].starts == 0
    (tmp_path / "there").touch()
    supervisor.start_what_may_start()
    assert supervisor.all["late"].starts == 1
    settle(supervisor, "late")


def test_a_stopped_component_is_not_started_until_it_is_asked_for(tmp_path: Path):
    supervisor = a_supervisor(tmp_path, Component("sleeper", python("import time; time.sleep(60)")))
    supervisor.start_what_may_start()
    supervisor.command({"verb": "stop", "component": "sleeper"})
    assert settle(supervisor, "sleeper")["state"] == "stopped"
    supervisor.start_what_may_start()
    assert supervisor.all["sleeper"].starts == 1
    supervisor.command({"verb": "start", "component": "sleeper"})
    supervisor.start_what_may_start()
    assert supervisor.all["sleeper"].starts == 2
    supervisor.command({"verb": "signal", "component": "sleeper", "signal": 9})
    assert settle(supervisor, "sleeper")["last_end"] == "signal SIGKILL"


def test_a_program_that_can_not_be_started_is_told_and_not_fatal(tmp_path: Path):
    supervisor = a_supervisor(tmp_path, Component("absent", (str(tmp_path / "no-such-program"),)))
    supervisor.start_what_may_start()
    facts = supervisor.all["absent"].facts(time.monotonic())
    assert facts["state"] == "waiting"
    assert "No such file" in facts["last_end"]


@pytest.mark.parametrize(
    "question", [{"verb": "restart", "component": "nobody"}, {"verb": "restart"}, {"verb": "sing", "component": "a"}, {}]
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, question: dict[str, Any]):
    supervisor = a_supervisor(tmp_path, Component("a", python("pass")))
    assert "error" in supervisor.command(question)
