"""Prepares claims for the kubelet and undoes it: orders are waited for, everything else is local and may be repeated."""

import asyncio
import contextlib
import logging
import shutil

from aios_api.names import DRIVER
from aios_kube.errors import ApiError, NotFound
from aios_kube.protocol import ClusterClient
from aios_kube.resources import RESOURCE_CLAIMS
from aios_sidecar.contracts.gpus import Inventory
from aios_sidecar.node import cdi
from aios_sidecar.node.claims import ClaimRef, NotYet, PrepareFailed, order_of, prepared
from aios_sidecar.node.endpoints import Endpoints
from aios_sidecar.node.files import remove, remove_leftovers
from aios_sidecar.node.live import LiveClaims
from aios_sidecar.node.moves import Moves
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import UID, ClaimState, StateFiles
from aios_sidecar.node.waiting import Turns, first_of, to_the_end

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 1.0
"""A claim is not watched: its allocation is looked for this often while Prepare waits."""


class Preparer:
    """The kubelet's two requests. At most one of them works on a claim at a time; a release ends the preparations that still wait."""

    def __init__(
        self,
        settings: NodeSettings,
        client: ClusterClient,
        orders: Orders,
        inventory: Inventory,
        files: StateFiles,
        claims: LiveClaims,
        endpoints: Endpoints,
        turns: Turns,
        moves: Moves,
    ) -> None:
        self._settings = settings
        self._client = client
        self._orders = orders
        self._inventory = inventory
        self._files = files
        self._claims = claims
        self._endpoints = endpoints
        self._turns = turns
        self._moves = moves
        self._calls: dict[str, set[asyncio.Task[ClaimState]]] = {}

    async def prepare(self, ref: ClaimRef) -> ClaimState:
        """The claim is prepared, and stays so until it is released. Raises PrepareFailed."""
        if not UID.fullmatch(ref.uid):
            raise PrepareFailed(f"claim {ref}: {ref.uid!r} is not a uid")
        call = asyncio.create_task(self._prepare(ref), name=f"prepare {ref}")
        calls = self._calls.setdefault(ref.uid, set())
        calls.add(call)
        try:
            return await call
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            raise PrepareFailed(f"claim {ref} was released while it was being prepared") from None
        finally:
            calls.discard(call)
            if not calls:
                self._calls.pop(ref.uid, None)

    async def release(self, claim_uid: str) -> None:
        """Nothing of the claim is left on the node. Asks nobody; a claim that is not prepared is released already."""
        if not UID.fullmatch(claim_uid):
            raise PrepareFailed(f"{claim_uid!r} is not the uid of a claim")
        for call in tuple(self._calls.get(claim_uid, ())):
            call.cancel()
        async with self._turns.at(claim_uid):
            await to_the_end(self._undo(claim_uid))

    async def clear(self, claim_uid: str) -> None:
        """Nothing is left of a claim that is not prepared; one that is, or is just being, stays."""
        async with self._turns.at(claim_uid):
            if self._claims.get(claim_uid) is None and claim_uid not in self._calls:
                await to_the_end(self._undo(claim_uid))

    def restore_files(self) -> list[str]:
        """After a start: every readable state is known, with CDI file and directory. The claims whose state was set aside are returned."""
        remove_leftovers(self._settings.claims_dir, "*")
        remove_leftovers(self._settings.cdi_dir, f"{DRIVER}-*")
        damaged = []
        for uid in self._files.uids():
            try:
                state = self._files.read(uid)
            except Exception as error:  # noqa: BLE001  whatever is wrong with one file, the other claims must be restored
                log.error("the state of claim %s can't be used: %s", uid, error)
                damaged.append(uid)
                with contextlib.suppress(OSError):
                    log.error("it is kept as %s", self._files.set_aside(uid))
                continue
            if state is not None:
                self._claims.put(state)
                self._restore_files_of(state)
        return damaged

    def _restore_files_of(self, state: ClaimState) -> None:
        """On a disk that takes nothing containers of this claim can't start, and inspections try it again; those that run go on."""
        try:
            self._settings.agent_dir(state.claim_uid).mkdir(parents=True, exist_ok=True, mode=0o755)
            cdi.put(self._settings, state)
        except OSError as error:
            log.error("the files of claim %s are not restored: %s", state.claim_name, error)

    async def _prepare(self, ref: ClaimRef) -> ClaimState:
        known = self._claims.get(ref.uid)
        state = known.state if known else await self._wait_for_order(ref)
        async with self._turns.at(ref.uid):
            return await to_the_end(self._settle(state))

    async def _wait_for_order(self, ref: ClaimRef) -> ClaimState:
        """The claim as it is to be prepared. Waits for what may still come, as long as the kubelet's call allows."""
        missing: Exception = PrepareFailed(f"the API server did not answer about claim {ref}")
        try:
            async with asyncio.timeout(self._settings.prepare_seconds):
                while True:
                    change = self._orders.next_change()
                    try:
                        return await self._ask(ref)
                    except NotFound:
                        raise PrepareFailed(f"claim {ref} does not exist") from None
                    except (NotYet, ApiError) as error:
                        missing = error
                    await first_of(change, self._moves.next_change(), seconds=LOOK_AGAIN_SECONDS)
        except TimeoutError:
            raise PrepareFailed(f"{missing} (waited {self._settings.prepare_seconds:.0f} s)") from missing

    async def _ask(self, ref: ClaimRef) -> ClaimState:
        claim = await self._client.get(RESOURCE_CLAIMS, ref.name, ref.namespace)
        order = order_of(ref, claim, self._orders, self._settings.node_name)
        report = await self._inventory.read()
        state = prepared(ref, claim, order, report.gpus, self._settings.node_name)
        self._moves.require(ref, order)
        if state.gpu is None or state.gpu.fake:
            return state
        try:
            device = await asyncio.to_thread(cdi.vendor_device, self._settings.vendor_cdi_dirs, state.gpu.uuid)
        except cdi.VendorDeviceMissing as error:
            raise PrepareFailed(str(error)) from None
        return state.model_copy(update={"vendor_device": device})

    async def _settle(self, state: ClaimState) -> ClaimState:
        """State first: from it everything that follows is made again, whenever this program stops."""
        live = self._claims.get(state.claim_uid)
        if live is None:
            await asyncio.to_thread(self._files.write, state)
            live = self._claims.put(state)
        self._endpoints.open_socket(live)
        await asyncio.to_thread(cdi.put, self._settings, live.state)
        return live.state

    async def _undo(self, claim_uid: str) -> None:
        """State last: as long as something is left, so is the knowledge of it."""
        await asyncio.to_thread(remove, self._settings.cdi_file(claim_uid))
        self._claims.drop(claim_uid)  # the gateway hears of it, and both sides close the listeners
        await asyncio.to_thread(shutil.rmtree, self._settings.agent_dir(claim_uid), ignore_errors=True)
        await asyncio.to_thread(self._files.remove, claim_uid)
