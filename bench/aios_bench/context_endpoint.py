"""Windows as an agent gets them: over HTTP, from a gateway in a process of its own."""

import asyncio
import http.client
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from aios_bench.egress.house import House, a_policy

BATCH = 200
TEXT = "Ann told Bob on Tuesday that shipment {} of 42 crates will reach Rotterdam by the end of the month."
CALL = {
    "budget": 80_000,
    "model": "gpt-4o",
    "format": "openai",
    "strategy": {"type": "sliding", "trigger": {"items": 220}, "keep": {"items": 200}},
}


def window_ms(large: int, samples: int) -> list[float]:
    """Milliseconds for windows of 200 to 220 items out of `large`, one item appended before each."""
    with tempfile.TemporaryDirectory(prefix=".bench-context-", dir=Path.cwd()) as directory:
        return asyncio.run(_measured(Path(directory), large, samples))


async def _measured(directory: Path, large: int, samples: int) -> list[float]:
    # A Unix socket's path must be short: the house stands in the machine's own directory for such things, the contexts on the disk.
    with tempfile.TemporaryDirectory(prefix="aios-") as short:
        environment = {"AIOS_GATEWAY_CONTEXT_DIR": str(directory / "contexts")}
        async with House(Path(short), 1, environment).open(a_policy("http://127.0.0.1:80"), {}) as house:
            return await asyncio.to_thread(_ask, house.ports[0], large, samples)


def _ask(port: int, large: int, samples: int) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for start in range(0, large, BATCH):
        _post(connection, "items", {"items": _items(start, min(BATCH, large - start)), "durability": "relaxed"})
    _post(connection, "window", CALL)
    taken = []
    for number in range(samples):
        _post(connection, "items", {"items": _items(large + number, 1), "durability": "relaxed"})
        began = time.perf_counter()
        answer = _post(connection, "window", CALL)
        taken.append(1000 * (time.perf_counter() - began))
        assert 200 <= len(json.loads(answer)["messages"]) <= 220
    connection.close()
    return taken


def _items(start: int, count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": TEXT.format(number)} for number in range(start, start + count)]


def _post(connection: http.client.HTTPConnection, path: str, document: dict[str, Any]) -> bytes:
    connection.request("POST", f"/v1/context/{path}", json.dumps(document), {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    if response.status >= 300:
        raise RuntimeError(f"{path} was answered with {response.status}: {body.decode(errors='replace')}")
    return body
