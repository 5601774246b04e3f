#!/usr/bin/env python3
"""An agent that does nothing yet but wait, and can look around from inside its pod. Standard library only.

agent                 idle until it is told to stop; with PRETENDED_VRAM set, as after `agent pretend`
agent whoami          what KubeAIOS says of this agent: GET $AIOS_URL/v1/agent
agent get URL         ask a URL directly, without the proxy, and say how that went
agent connect HOST PORT   open a TCP connection and say how that went
agent pretend MEMORY  have the fake driver library say that this agent uses so much VRAM (such as 6Gi); a real driver knows better
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_SECONDS = 5
FAKE_VRAM = Path("/tmp/aios-fake-vram")  # noqa: S108 - of this container alone
"""Where the fake driver library reads what processes use: a file for each, named by its number."""

# The agent's own endpoint is on the loopback of its pod: a proxy would be asked for somebody else's.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def idle() -> int:
    """Wait for SIGTERM or SIGINT. As process 1 of a container it would otherwise ignore them."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    print(f"{os.environ.get('AIOS_AGENT', 'an agent without KubeAIOS')} is up", flush=True)
    if memory := os.environ.get("PRETENDED_VRAM"):
        pretend(memory)
    stopped.wait()
    return 0


def pretend(memory: str) -> int:
    """The first process of the container is said to use so much of the GPU that this agent has booked."""
    with DIRECT.open(os.environ["AIOS_URL"] + "/v1/agent", timeout=TIMEOUT_SECONDS) as answer:
        gpu = json.load(answer).get("gpu")
    if gpu is None:
        print("this agent has no share of a GPU", file=sys.stderr)
        return 1
    FAKE_VRAM.mkdir(exist_ok=True)
    new = FAKE_VRAM / "1.new"
    new.write_text(f"gpu={gpu['uuid']} used={memory}\n")
    new.rename(FAKE_VRAM / "1")
    print(f"pretending to use {memory} of {gpu['uuid']}", flush=True)
    return 0


def get(url: str) -> int:
    """Print the answer; JSON is indented."""
    try:
        with DIRECT.open(url, timeout=TIMEOUT_SECONDS) as answer:
            body = answer.read().decode()
    except urllib.error.HTTPError as refused:
        print(f"{url}: {refused.code} {refused.read().decode()}")
        return 1
    except OSError as failed:
        print(f"{url}: {failed}")
        return 1
    with contextlib.suppress(ValueError):
        body = json.dumps(json.loads(body), indent=2)
    print(body)
    return 0


def connect(host: str, port: int) -> int:
    """Print whether a connection came about, and after how long."""
    began = time.monotonic()
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_SECONDS).close()
        outcome = "connected"
    except OSError as failed:
        outcome = failed.strerror or str(failed)
    print(f"{host} port {port}: {outcome} after {(time.monotonic() - began) * 1000:.0f} ms")
    return 0 if outcome == "connected" else 1


def main(arguments: list[str]) -> int:
    match arguments:
        case []:
            return idle()
        case ["whoami"]:
            return get(os.environ["AIOS_URL"] + "/v1/agent")
        case ["pretend", memory]:
            return pretend(memory)
        case ["get", url]:
            return get(url)
        case ["connect", host, port] if port.isdigit():
            return connect(host, int(port))
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
