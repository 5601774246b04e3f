"""What one Agent can do to another by what it sends: each kind of flood, and the times of the other's requests meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from aios_bench.egress.house import House, done
from aios_bench.egress.load import CRUMBS
from aios_bench.result import percentile

CONNECTIONS: Final = 64
"""As many as one Agent may have."""
QUIET_PER_SECOND: Final = 50
ROUNDS: Final = 3
HERE: Final = "127.0.0.1"

Flood = Callable[[float], Coroutine[Any, Any, Any]]


def floods(ports: Sequence[int], hosts: dict[str, int]) -> dict[str, Flood]:
    """By name: each lasts so many seconds, from an Agent of its own, whose connections may still be ending when the next begins."""
    port = iter(ports)
    http, crumbs = f"{HERE}:{hosts['http']}", f"{HERE}:{hosts['crumbs']}"
    upload = "POST {target} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    small = CRUMBS.decode()
    refused = f"GET http://refused.example.com:{hosts['http']}/ HTTP/1.1\r\nHost: refused.example.com:{hosts['http']}\r\n\r\n"

    def pester(first: str, again: str) -> Flood:
        own = next(port)
        return lambda seconds: done("pester", port=own, first=first, again=again, connections=CONNECTIONS, seconds=seconds)

    asking = next(port)
    return {
        "requests": lambda seconds: asked(asking, hosts["http"], seconds, connections=CONNECTIONS),
        "refusals": pester("", refused * 64),
        "small_chunks_up": pester(upload.format(target=f"http://{http}/", host=http), small),
        "small_chunks_down": pester(f"GET http://{crumbs}/ HTTP/1.1\r\nHost: {crumbs}\r\n\r\n", ""),
        "small_chunks_to_the_gateway": pester(upload.format(target="/v1/context/items", host="localhost"), small),
        "long_heads": pester("GET / HTTP/1.1\r\nHost: localhost\r\n", "X: y\r\n" * 64),
    }


async def asked(port: int, host: int, seconds: float, per_second: float = 0, connections: int = 16, direct: bool = False) -> Any:
    """Load on the host's HTTP port: through the gateway's `port`, or straight to it."""
    where = f"{HERE}:{host}"
    url = "/" if direct else f"http://{where}/"
    given = {"port": host if direct else port, "url": url, "host": where, "connections": connections}
    return await done("ask", **given, seconds=seconds, per_second=per_second)


async def measure(house: House, hosts: dict[str, int], seconds: float) -> tuple[dict[str, float], dict[str, list[float]]]:
    """How many times the 99th percentile of a quiet Agent's requests it is beside each flood; the middle of the rounds, and the worst."""
    quiet, *noisy = house.ports
    kinds = floods(noisy, hosts)
    ratios: dict[str, list[float]] = {name: [] for name in kinds}
    rate = 0.0
    for _ in range(ROUNDS):
        before = await _quiet(quiet, hosts, seconds)
        for name, flood in kinds.items():
            flooding = asyncio.create_task(flood(seconds * 2))
            await asyncio.sleep(seconds / 2)
            ratios[name].append(await _quiet(quiet, hosts, seconds) / before)
            result = await flooding
            if name == "requests":
                rate = len(result["ms"]) / result["seconds"]
    middle = {f"flood_{name}_p99_ratio": round(sorted(each)[ROUNDS // 2], 2) for name, each in ratios.items()}
    figures = {"flood_p99_ratio": max(middle.values()), **middle, "flood_requests_per_s": round(rate)}
    return figures, {f"flood_{name}_p99_ratio": [round(each, 2) for each in every] for name, every in ratios.items()}


async def _quiet(port: int, hosts: dict[str, int], seconds: float) -> float:
    return percentile((await asked(port, hosts["http"], seconds, QUIET_PER_SECOND, connections=4))["ms"], 99)
