"""Lets containers in: what must be true of a pod before a container of an agent may start. The hook's questions are answered here."""

import asyncio
import logging
from collections.abc import Iterable

from aios_kube.errors import ApiError, NotFound
from aios_kube.protocol import ClusterClient
from aios_kube.resources import RESOURCE_CLAIMS
from aios_sidecar.cgroups import containers_of
from aios_sidecar.node import netns
from aios_sidecar.node.claims import reserved_pod
from aios_sidecar.node.endpoints import Endpoints
from aios_sidecar.node.fence import FenceFailed
from aios_sidecar.node.leftovers import Leftovers
from aios_sidecar.node.live import LiveClaim, LiveClaims
from aios_sidecar.node.netns import NamespaceGone, NetworkNamespace
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.prober import FenceLeaks, FenceUntried, Prober
from aios_sidecar.node.sandbox import OCIState, Processes
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import StateFiles
from aios_sidecar.node.waiting import Turns, to_the_end

log = logging.getLogger(__name__)


class Refused(Exception):
    """This container must not start; the sentence ends in the pod's events."""


class NoAnswer(Exception):
    """Nobody can say now; the hook asks again."""


class Gate:
    """Answers for one node. Questions about one claim are answered one after the other."""

    def __init__(
        self,
        settings: NodeSettings,
        client: ClusterClient,
        orders: Orders,
        files: StateFiles,
        claims: LiveClaims,
        endpoints: Endpoints,
        processes: Processes,
        prober: Prober,
        leftovers: Leftovers,
        turns: Turns,
    ) -> None:
        self._settings = settings
        self._client = client
        self._orders = orders
        self._files = files
        self._claims = claims
        self._endpoints = endpoints
        self._processes = processes
        self._prober = prober
        self._leftovers = leftovers
        self._turns = turns

    async def admit(self, claim_uid: str, oci: OCIState, asking_pid: int) -> None:
        """The container may start: its pod is the claim's, fenced, and its listeners are open. Raises Refused or NoAnswer."""
        async with self._turns.at(claim_uid):
            live = self._claims.get(claim_uid)
            if live is None:
                raise Refused(f"claim {claim_uid} is not prepared on node {self._settings.node_name}")
            self._require_order(live)
            await self._require_pod(live, oci)
            await self._leftovers.end_former(live)
            try:
                namespace = NetworkNamespace.of_process(oci.pid)
            except NamespaceGone as error:
                raise Refused(f"the container's process has no network namespace that can be opened: {error}") from None
            with namespace:
                self._require_own_namespace(namespace, asking_pid)
                await to_the_end(self._let_in(live, oci.pod_uid, oci.pid, namespace))

    async def take_back(self, claim_uid: str, pod_uid: str, pids: Iterable[int]) -> None:
        """A pod that runs, and of which nothing was known any more, is behind its fence, with its listeners open, and known. `pids` are
        of its processes. One that the hook has brought meanwhile stays as it is. Raises Refused and OSError."""
        async with self._turns.at(claim_uid):
            live = self._claims.get(claim_uid)
            if live is None:
                raise Refused(f"claim {claim_uid} is not prepared on node {self._settings.node_name}")
            if live.state.pod_uid is not None:
                return
            self._require_order(live)
            await self._leftovers.end_former(live)
            for pid in pids:
                try:
                    namespace = NetworkNamespace.of_process(pid)
                except NamespaceGone:
                    continue
                with namespace:
                    # Read again once the namespace is held: the pid may have become another's.
                    if all(container.pod_uid != pod_uid for container in containers_of(pid)):
                        continue
                    if namespace.identity in netns.identities(self._settings.host_namespace_paths):
                        continue
                    await to_the_end(self._let_in(live, pod_uid, pid, namespace))
                    return
            raise Refused(f"no process of pod {pod_uid} is left in a network namespace of its own")

    def _require_order(self, live: LiveClaim) -> None:
        """The order still stands, as far as it was heard; without the API server, what was prepared is believed."""
        if not self._orders.heard:
            return
        state = live.state
        order = self._orders.get(state.runtime_uid)
        if order is None:
            raise Refused(
                f"AgentRuntime {state.namespace}/{state.agent} does not order anything on node {self._settings.node_name} any more"
            )
        if order.spec.claim_name != state.claim_name:
            raise Refused(f"AgentRuntime {state.namespace}/{state.agent} orders claim {order.spec.claim_name} now, not {state.claim_name}")

    async def _require_pod(self, live: LiveClaim, oci: OCIState) -> None:
        state = live.state
        if (oci.pod_namespace, oci.pod_name) != (state.namespace, state.pod_name):
            raise Refused(
                f"claim {state.claim_name} is for pod {state.namespace}/{state.pod_name}, not for {oci.pod_namespace}/{oci.pod_name}"
            )
        if state.pod_uid is not None:  # verified before its first container; a claim serves one pod in its life
            if state.pod_uid != oci.pod_uid:
                raise Refused(f"claim {state.claim_name} serves the pod with uid {state.pod_uid}, not {oci.pod_uid}")
            return
        try:
            async with asyncio.timeout(self._settings.api_seconds):
                claim = await self._client.get(RESOURCE_CLAIMS, state.claim_name, state.namespace)
        except NotFound:
            raise Refused(f"claim {state.namespace}/{state.claim_name} does not exist any more") from None
        except (ApiError, TimeoutError) as error:
            raise NoAnswer(
                f"the API server can't say for which pod claim {state.claim_name} is reserved: {error or 'no answer in time'}"
            ) from error
        if claim["metadata"]["uid"] != state.claim_uid:
            raise Refused(f"claim {state.namespace}/{state.claim_name} is another one now: it was deleted and made anew")
        if reserved_pod(claim, oci.pod_uid) != state.pod_name:
            raise Refused(f"claim {state.claim_name} is not reserved for pod {state.pod_name} with uid {oci.pod_uid}")

    def _require_own_namespace(self, namespace: NetworkNamespace, asking_pid: int) -> None:
        """The hook itself runs where the runtime does, on the host: a third way to know the host's namespace beside the settings' two."""
        known = netns.identities(self._settings.host_namespace_paths)
        try:
            with NetworkNamespace.of_process(asking_pid) as asking:
                known |= {asking.identity}
        except NamespaceGone as error:
            raise NoAnswer(f"the hook that asked has ended: {error}") from None
        if namespace.identity in known:
            raise Refused("an agent's pod must have a network namespace of its own, this one uses the host's (hostNetwork must be false)")

    async def _let_in(self, live: LiveClaim, pod_uid: str, pid: int, namespace: NetworkNamespace) -> None:
        """Fence, state, listeners. The state names the pod only behind a fence that stands and was tried."""
        try:
            await self._endpoints.raise_fence(live, namespace)
            await self._prober.before_start(live, namespace, pod_uid)
            sandbox = self._processes.sandbox(pid, namespace, live.state.sandbox)
        except (FenceFailed, FenceLeaks, FenceUntried, NamespaceGone) as error:
            raise Refused(str(error)) from None
        state = live.state.with_pod(pod_uid, sandbox)
        await asyncio.to_thread(self._files.write, state)
        self._claims.put(state)
        self._endpoints.open_socket(live)
        await self._endpoints.open_loopback(live, namespace)
        log.info("a container of pod %s/%s (uid %s) was let in, behind the fence", state.namespace, state.pod_name, pod_uid)
