"""What the bench of bindings takes for an order that says so."""

import asyncio
import time
from typing import Any

from aios_bench.binding import Orders


def order(name: str, *hosts: str) -> dict[str, Any]:
    egress = {"egress": {"digest": "d", "bindings": [], "rules": [{"host": host} for host in hosts]}} if hosts else {}
    return {"metadata": {"name": name}, "spec": {"attempt": 1, **egress}}


async def test_each_agent_counts_from_the_request_to_its_own_order_and_no_other_policy_will_do():
    orders, began = Orders(), time.monotonic()
    orders.replace([order("a", "old.example.com"), order("b")])
    waiting = asyncio.create_task(orders.until(["a", "b"], frozenset({"new.example.com"}), began))
    orders.upsert(order("a", "new.example.com"))
    orders.upsert(order("b", "new.example.com", "old.example.com"))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    orders.upsert(order("b", "new.example.com"))
    first, second = await waiting
    assert 0 <= first < second
    orders.upsert(order("c"))
    assert len(await orders.until(["c"], frozenset(), began)) == 1, "without a policy nothing is reached"
