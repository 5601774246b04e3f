"""What is done about state that is lost: pods that run here are taken back or ended, and what belongs to no claim any more is removed."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from aios_api.names import CDI_KIND
from aios_kube.errors import ApiError, NotFound
from aios_kube.protocol import ClusterClient
from aios_kube.resources import RESOURCE_CLAIMS
from aios_sidecar.cgroups import pods_of
from aios_sidecar.node.claims import ClaimRef, Object, PrepareFailed, reserved_pod
from aios_sidecar.node.gate import Gate, NoAnswer, Refused
from aios_sidecar.node.live import LiveClaim, LiveClaims
from aios_sidecar.node.orders import Order, Orders
from aios_sidecar.node.preparer import Preparer
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.shots import kill_pod
from aios_sidecar.node.state import UID

log = logging.getLogger(__name__)

Pods = Callable[[], Mapping[str, list[int]]]
"""The processes of each pod that has one here, by its uid."""


class Recovery:
    """`recover` once after a start, then `sweep` in a task. Both only once orders were heard."""

    def __init__(
        self,
        settings: NodeSettings,
        client: ClusterClient,
        orders: Orders,
        claims: LiveClaims,
        preparer: Preparer,
        gate: Gate,
        pods: Pods = pods_of,
    ) -> None:
        self._settings = settings
        self._client = client
        self._orders = orders
        self._claims = claims
        self._preparer = preparer
        self._gate = gate
        self._pods = pods

    async def recover(self, damaged: list[str]) -> list[str]:
        """Claims whose state was set aside, or is not there though their pods run, are prepared anew from what the API server says of
        them, and their pods are behind their fences again, or ended. The damaged ones that no order names are returned."""
        missing, running = set(damaged), await asyncio.to_thread(self._pods)
        known = {(live.state.runtime_uid, live.state.attempt) for live in self._claims}
        for order in self._orders.all():
            if (order.uid, order.spec.attempt) in known or not (missing or order.status.get("podUID") in running):
                continue
            try:
                claim = await self._client.get(RESOURCE_CLAIMS, order.spec.claim_name, order.namespace)
                uid, pod_uid = claim["metadata"]["uid"], _pod_of(claim, order, running)
                if uid in missing or pod_uid is not None:
                    await self._preparer.prepare(ClaimRef(order.namespace, order.spec.claim_name, uid))
                    missing.discard(uid)
                if pod_uid is not None:
                    await self._take_back(order, uid, pod_uid, running[pod_uid])
            except (ApiError, PrepareFailed, OSError) as error:
                log.warning("claim %s/%s is not recovered: %s", order.namespace, order.spec.claim_name, error)
        return sorted(missing)

    async def _take_back(self, order: Order, claim_uid: str, pod_uid: str, pids: list[int]) -> None:
        """A pod that can't be held goes: the kubelet makes its sandbox anew, and its containers start behind the hook."""
        try:
            await self._gate.take_back(claim_uid, pod_uid, pids)
            log.warning("pod %s/%s ran and nothing was known of it: it is known again", order.namespace, order.spec.pod_name)
        except (Refused, NoAnswer, OSError) as error:
            killed = await asyncio.to_thread(kill_pod, pod_uid)
            log.error("pod %s/%s ran unknown: %s; its %d processes were killed", order.namespace, order.spec.pod_name, error, killed)

    async def sweep(self) -> None:
        """Until cancelled: every `sweep_seconds` nothing is left of claims that are gone, though the kubelet never released them."""
        while True:
            for uid in await asyncio.to_thread(self._left_over):
                await self._preparer.clear(uid)
            for live in list(self._claims):
                if not self._orders.stands(live.state.runtime_uid, live.state.attempt) and await self._is_gone(live):
                    log.warning("claim %s/%s is gone, and its pod: released", live.state.namespace, live.state.claim_name)
                    await self._preparer.release(live.state.claim_uid)
            await asyncio.sleep(self._settings.sweep_seconds)

    def _left_over(self) -> list[str]:
        """Claims that have files here and no state."""
        prefix = f"{CDI_KIND.partition('/')[0]}-"
        found = {path.stem.removeprefix(prefix) for path in self._settings.cdi_dir.glob(f"{prefix}*.json")}
        found |= {path.name for path in (self._settings.run_dir / "agents").iterdir()}
        return sorted(uid for uid in found if UID.fullmatch(uid) and self._claims.get(uid) is None)

    async def _is_gone(self, live: LiveClaim) -> bool:
        """A claim that is gone never comes back under its uid, and the hook lets no container of it in any more."""
        state = live.state
        try:
            claim = await self._client.get(RESOURCE_CLAIMS, state.claim_name, state.namespace)
            if claim["metadata"]["uid"] == state.claim_uid:
                return False
        except NotFound:
            pass
        except ApiError:
            return False
        return state.pod_uid is None or state.pod_uid not in await asyncio.to_thread(self._pods)


def _pod_of(claim: Object, order: Order, running: Mapping[str, list[int]]) -> str | None:
    """The pod of this order for which the claim is reserved, if it runs here."""
    return next((uid for uid in running if reserved_pod(claim, uid) == order.spec.pod_name), None)
