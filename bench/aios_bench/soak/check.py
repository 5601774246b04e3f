"""What was lost, left over or doubled, once the faults have ended and everything is to be as it was asked for."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections import Counter
from typing import Any

from aios_api import names
from aios_bench.faults.cluster.ground import Ground
from aios_bench.faults.scenario import Outcome
from aios_bench.start import SPACE
from aios_localcluster import LocalCluster
from aios_localcluster.kubeaios import NAMESPACE

SETTLE_SECONDS = 300
KINDS = ("agentruntimes", "pods", "resourceclaims")
OURS = ("/run/aios", "/var/lib/aios", "/var/run/cdi")
BOOKED = re.compile(r"^aios_operator_gpu_vram_booked_bytes\{[^}]*\} (\S+)$", re.MULTILINE)

Objects = list[dict[str, Any]]


async def objects(ground: Ground, kind: str) -> Objects:
    return list(json.loads(await ground.kubectl("-n", SPACE, "get", kind, "-o", "json"))["items"])


def unready(agents: Objects, wanted: set[str]) -> set[str]:
    ready = {
        each["metadata"]["name"]
        for each in agents
        if any(c["type"] == "Ready" and c["status"] == "True" for c in each.get("status", {}).get("conditions", ()))
    }
    return wanted - ready


async def answered(ground: Ground) -> None:
    """The API server is ready. Raises TimeoutError when it does not become so."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            await ground.kubectl("get", "--raw", "/readyz")
            return
        except subprocess.CalledProcessError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the API server is not ready: {error.stderr}") from error
            await asyncio.sleep(1)


async def settled(ground: Ground, wanted: set[str]) -> set[str]:
    """Who of them is not ready in that time."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        missing = unready(await objects(ground, "agents"), wanted)
        if not missing or time.monotonic() > deadline:
            return missing
        await asyncio.sleep(2)


async def what_there_is(ground: Ground, wanted: set[str]) -> Outcome:
    """Each Agent has one order, one pod, one claim, and nothing else has any, once those that were just deleted have gone."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        outcome = await _what_there_is(ground, wanted)
        if not outcome.broken or time.monotonic() > deadline:
            return outcome
        await asyncio.sleep(2)


async def _what_there_is(ground: Ground, wanted: set[str]) -> Outcome:
    lost, left, notes = 0, 0, list[str]()
    for kind in KINDS:
        of = Counter(each["metadata"]["labels"][names.LABEL_AGENT] for each in await objects(ground, kind))
        lost += len(wanted - of.keys())
        more = {name: number - (name in wanted) for name, number in of.items() if number > (name in wanted)}
        left += sum(more.values())
        notes += [f"no {kind} of {name}" for name in sorted(wanted - of.keys())] + [f"{kind} too many of {name}" for name in sorted(more)]
    return Outcome(objects_lost=lost, orphans=left, notes=tuple(notes))


async def bookings(ground: Ground) -> Outcome:
    """What the deciding operator says is booked, against the sum of claims."""
    claims = 0
    for claim in await objects(ground, "resourceclaims"):
        for result in claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", ()):
            claims += _bytes(result.get("consumedCapacity", {}).get("memory", "0"))
    leader = await ground.kubectl("-n", NAMESPACE, "get", "lease", "aios-operator", "-o", "jsonpath={.spec.holderIdentity}")
    text = await ground.kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{leader}:9486/proxy/metrics")
    booked = sum(int(float(number)) for number in BOOKED.findall(text))
    return Outcome(bytes_misbooked=abs(booked - claims), notes=(f"{booked} bytes are booked, {claims} in claims",))


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi|Ti|)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"": 0, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[unit]


def files(cluster: LocalCluster) -> set[str]:
    """Of ours on the node: state, sockets, CDI. Contexts are not among them: they outlive their Agents."""
    found = cluster.node_exec(["find", *OURS, "-not", "-type", "d", "-not", "-path", "/var/lib/aios/context/*"])
    return set(found.splitlines())


async def nothing_left(ground: Ground, before: set[str]) -> Outcome:
    """After every Agent was deleted."""
    await ground.kubectl("-n", SPACE, "delete", "agents", "--all", "--wait=false")
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        left = [f"{kind} {each['metadata']['name']}" for kind in ("agents", *KINDS) for each in await objects(ground, kind)]
        left += sorted(await asyncio.to_thread(files, ground.cluster) - before)
        if not left or time.monotonic() > deadline:
            return Outcome(orphans=len(left), notes=tuple(f"left over: {each}" for each in left[:20]))
        await asyncio.sleep(2)
