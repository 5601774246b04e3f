"""Writes the facts: `AgentRuntime.status` of each order, when it changed, again and again until it is written. Nothing waits for it."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

from aios_api.meta import Condition
from aios_api.names import CONTRACT_VERSION, FIELD_MANAGER_NODE
from aios_api.quantity import format_bytes
from aios_kube.backoff import Backoff
from aios_kube.errors import ApiError, NotFound
from aios_kube.protocol import ClusterClient
from aios_kube.resources import AGENT_RUNTIMES
from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.node import conditions
from aios_sidecar.node.claims import ClaimRef
from aios_sidecar.node.egress import EgressSeen
from aios_sidecar.node.live import LiveClaim, LiveClaims
from aios_sidecar.node.moves import Moves
from aios_sidecar.node.orders import Order, Orders
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.waiting import first_of

log = logging.getLogger(__name__)

Status = dict[str, Any]


class Reporter:
    """Level-triggered: what is true now is compared with what the status says; one write per order at a time."""

    def __init__(
        self,
        settings: NodeSettings,
        client: ClusterClient,
        orders: Orders,
        claims: LiveClaims,
        moves: Moves,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._client = client
        self._orders = orders
        self._claims = claims
        self._moves = moves
        self._clock = clock
        self._failures: dict[ClaimRef, tuple[Condition, ...]] = {}
        self._written: dict[str, Status] = {}
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def prepare_failed(self, ref: ClaimRef, message: str) -> None:
        """The order for this claim, if there is one, shows why it could not be prepared."""
        self._failures[ref] = conditions.keep_times(conditions.failed(message, self._clock()), self._failures.get(ref, ()))
        self._changed.set()

    def prepare_succeeded(self, ref: ClaimRef) -> None:
        """What failed before is no longer true: the claim is prepared, or released."""
        self._failures.pop(ref, None)

    async def run(self) -> None:
        """Until cancelled. What is being written then is left to the next program."""
        try:
            while True:
                changes = (self._claims.next_change(), self._orders.next_change(), self._moves.next_change(), self._changed)
                self._changed.clear()
                for order in self._orders.all():
                    if order.uid not in self._writing and self._due(order) is not None:
                        self._writing[order.uid] = asyncio.create_task(
                            self._write(order.uid), name=f"status {order.namespace}/{order.name}"
                        )
                self._forget({order.uid for order in self._orders.all()})
                await first_of(*changes)
        finally:
            for task in self._writing.values():
                task.cancel()

    async def _write(self, uid: str) -> None:
        failures, backoff = 0, Backoff(first_seconds=0.5)
        try:
            while (order := self._orders.get(uid)) is not None and (status := self._due(order)) is not None:
                body = {"metadata": {"namespace": order.namespace, "name": order.name, "uid": uid}, "status": status}
                try:
                    await self._client.apply(AGENT_RUNTIMES, body, field_manager=FIELD_MANAGER_NODE, force=True, subresource="status")
                except NotFound as error:
                    log.info("AgentRuntime %s/%s is gone, its status is not written: %s", order.namespace, order.name, error)
                    self._written[uid] = status
                except ApiError as error:  # a conflict too: another of that name, of which we shall hear, or others who write at once
                    failures += 1
                    log.warning("the status of AgentRuntime %s/%s is not written yet: %s", order.namespace, order.name, error)
                    await asyncio.sleep(backoff.wait(failures, random.random, error.retry_after_seconds))
                else:
                    failures = 0
                    self._written[uid] = status
        finally:
            del self._writing[uid]

    def _due(self, order: Order) -> Status | None:
        """The status to be written; None when it says so already, or when there is nothing to say."""
        known = self._written.get(order.uid, order.status)
        live = self._prepared_for(order)
        if live is not None:
            known_conditions = tuple(map(Condition.model_validate, known.get("conditions") or ()))
            if known.get("claimUID") == live.state.claim_uid:
                self._claims.correct(live, known_conditions)
            status = self._status(order.spec.attempt, live.state.claim_uid, live.state.pod_uid, live.conditions)
            status |= _seen(live)
            if (used := _used(live, known)) is not None:
                status["gpu"] = used
            if (egress := (live.egress or EgressSeen.written(known, live.state.claim_uid)).status()) is not None:
                status["egress"] = egress
            if (context := _context(live, known)) is not None:
                status["context"] = context
        elif (waits := self._moves.awaited(order)) is not None:
            before = tuple(map(Condition.model_validate, known.get("conditions") or ())) if known.get("claimUID") == waits.uid else ()
            found = conditions.waiting_for_context(self._moves.message(order), self._clock())
            status = self._status(order.spec.attempt, waits.uid, None, conditions.keep_times(found, before))
        else:
            failure = self._failure_of(order)
            if failure is None:
                return None
            ref, found = failure
            status = self._status(order.spec.attempt, ref.uid, None, found)
        if (move := self._moves.status(order)) is not None:
            status["move"] = move
        return None if status == known else status

    def _prepared_for(self, order: Order) -> LiveClaim | None:
        for live in self._claims:
            if live.state.runtime_uid == order.uid and live.state.attempt == order.spec.attempt:
                return live
        return None

    def _failure_of(self, order: Order) -> tuple[ClaimRef, tuple[Condition, ...]] | None:
        for ref, found in self._failures.items():
            if (ref.namespace, ref.name) == (order.namespace, order.spec.claim_name):
                return ref, found
        return None

    def _status(self, attempt: int, claim_uid: str, pod_uid: str | None, found: tuple[Condition, ...]) -> Status:
        status: Status = {
            "nodeName": self._settings.node_name,
            "attempt": attempt,
            "claimUID": claim_uid,
            "contractVersion": CONTRACT_VERSION,
            "conditions": [condition.model_dump(by_alias=True, exclude_none=True) for condition in found],
        }
        return {**status, "podUID": pod_uid} if pod_uid else status

    def _forget(self, present: set[str]) -> None:
        self._moves.forget()
        for uid in set(self._written) - present:
            del self._written[uid]
        names = {(order.namespace, order.spec.claim_name) for order in self._orders.all()}
        for ref in [ref for ref in self._failures if (ref.namespace, ref.name) not in names]:
            del self._failures[ref]


def _seen(live: LiveClaim) -> Status:
    """Where the fence is open, and what trying it from inside has found."""
    seen: Status = {}
    if live.facts.openings:
        ordered = sorted(live.facts.openings, key=lambda opening: (opening.port, opening.protocol))
        seen["exposed"] = [{"port": opening.port, "protocol": opening.protocol} for opening in ordered]
    if live.facts.probe is not None:
        seen["probe"] = live.facts.probe.model_dump(by_alias=True, exclude_none=True)
    return seen


def _context(live: LiveClaim, known: Status) -> Status | None:
    """What is in the context. Before the gateway's first word stands what was written of the same claim."""
    if live.context is not None:
        return live.context.model_dump(by_alias=True, exclude_none=True)
    return known.get("context") if known.get("claimUID") == live.state.claim_uid else None


def _used(live: LiveClaim, known: Status) -> Status | None:
    """What is used of the share. Before our first reading stands what the node agent before us wrote of the same pod."""
    if live.state.gpu is None:
        return None
    if live.used_mib is not None:
        return {"uuid": live.state.gpu.uuid, "used": format_bytes(live.used_mib * MIB)}
    same = live.facts.watched is None and (known.get("claimUID"), known.get("podUID")) == (live.state.claim_uid, live.state.pod_uid)
    return known.get("gpu") if same else None
