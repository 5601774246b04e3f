"""The kubelet's side of the node agent: a DRA driver, and how the kubelet finds it, as two gRPC services on two Unix sockets."""

import asyncio
import logging
from pathlib import Path

import grpc

from aios_api.names import DRIVER, REQUEST_RUNTIME
from aios_sidecar.node import cdi
from aios_sidecar.node._proto import dra_pb2, dra_pb2_grpc, registration_pb2, registration_pb2_grpc
from aios_sidecar.node.claims import ClaimRef, PrepareFailed
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.preparer import Preparer
from aios_sidecar.node.reporter import Reporter
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import ClaimState

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0
"""For requests in progress when the program ends. One that waits for orders longer is asked again by the kubelet."""


class DRAService(dra_pb2_grpc.DRAPluginServicer):
    """The claims of one request are independent: each has its own answer, a failed one its own sentence."""

    def __init__(self, preparer: Preparer, reporter: Reporter, metrics: Metrics) -> None:
        self._preparer = preparer
        self._reporter = reporter
        self._metrics = metrics

    async def NodePrepareResources(  # noqa: N802  the kubelet's name
        self, request: dra_pb2.NodePrepareResourcesRequest, context: object
    ) -> dra_pb2.NodePrepareResourcesResponse:
        refs = [ClaimRef(claim.namespace, claim.name, claim.uid) for claim in request.claims]
        answers = await asyncio.gather(*map(self._prepare, refs))
        return dra_pb2.NodePrepareResourcesResponse(claims={ref.uid: answer for ref, answer in zip(refs, answers, strict=True)})

    async def NodeUnprepareResources(  # noqa: N802  the kubelet's name
        self, request: dra_pb2.NodeUnprepareResourcesRequest, context: object
    ) -> dra_pb2.NodeUnprepareResourcesResponse:
        refs = [ClaimRef(claim.namespace, claim.name, claim.uid) for claim in request.claims]
        answers = await asyncio.gather(*map(self._unprepare, refs))
        return dra_pb2.NodeUnprepareResourcesResponse(claims={ref.uid: answer for ref, answer in zip(refs, answers, strict=True)})

    async def _prepare(self, ref: ClaimRef) -> dra_pb2.NodePrepareResourceResponse:
        try:
            with self._metrics.request("prepare"):
                state = await self._preparer.prepare(ref)
        except PrepareFailed as error:
            log.warning("claim %s is not prepared: %s", ref, error)
            self._reporter.prepare_failed(ref, str(error))
            return dra_pb2.NodePrepareResourceResponse(error=str(error))
        except OSError as error:
            log.exception("claim %s is not prepared", ref)
            self._reporter.prepare_failed(ref, str(error))
            return dra_pb2.NodePrepareResourceResponse(error=f"the node could not prepare claim {ref}: {error}")
        self._reporter.prepare_succeeded(ref)
        log.info("claim %s is prepared", ref)
        return dra_pb2.NodePrepareResourceResponse(devices=devices(state))

    async def _unprepare(self, ref: ClaimRef) -> dra_pb2.NodeUnprepareResourceResponse:
        try:
            with self._metrics.request("unprepare"):
                await self._preparer.release(ref.uid)
        except (PrepareFailed, OSError) as error:
            log.exception("claim %s is not released", ref)
            return dra_pb2.NodeUnprepareResourceResponse(error=f"the node could not release claim {ref}: {error}")
        self._reporter.prepare_succeeded(ref)
        log.info("claim %s is released", ref)
        return dra_pb2.NodeUnprepareResourceResponse()


def devices(state: ClaimState) -> list[dra_pb2.Device]:
    """The claim's devices. CDI devices are named on the `runtime` request only: named twice, the runtime would apply them twice."""
    ids = [cdi.device_id(state.claim_uid), *([state.vendor_device] if state.vendor_device else [])]
    return [
        dra_pb2.Device(
            request_names=[device.request],
            pool_name=device.pool,
            device_name=device.device,
            share_id=device.share_id,
            cdi_device_ids=ids if device.request.partition("/")[0] == REQUEST_RUNTIME else [],
        )
        for device in state.devices
    ]


class RegistrationService(registration_pb2_grpc.RegistrationServicer):
    """Tells the kubelet's plug-in watcher who we are, and hears whether it took us."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint
        self.registered = False
        self.first_registered = asyncio.Event()
        """Set for good once the kubelet has taken the driver."""

    async def GetInfo(  # noqa: N802  the kubelet's name
        self, request: registration_pb2.InfoRequest, context: object
    ) -> registration_pb2.PluginInfo:
        return registration_pb2.PluginInfo(type="DRAPlugin", name=DRIVER, endpoint=str(self._endpoint), supported_versions=["v1.DRAPlugin"])

    async def NotifyRegistrationStatus(  # noqa: N802  the kubelet's name
        self, request: registration_pb2.RegistrationStatus, context: object
    ) -> registration_pb2.RegistrationStatusResponse:
        self.registered = request.plugin_registered
        if request.plugin_registered:
            self.first_registered.set()
            log.info("the kubelet has registered driver %s", DRIVER)
        else:
            log.error("the kubelet refused driver %s: %s", DRIVER, request.error)
        return registration_pb2.RegistrationStatusResponse()


class Plugin:
    """Both services, from `start` to `stop`."""

    def __init__(self, settings: NodeSettings, service: DRAService) -> None:
        self._settings = settings
        self._service = service
        self.registration = RegistrationService(settings.plugin_socket)
        self._servers: list[grpc.aio.Server] = []

    async def start(self) -> None:
        """The kubelet can call, and finds us: the driver's socket first, since it is called as soon as the other one appears."""
        driver, registration = grpc.aio.server(), grpc.aio.server()
        dra_pb2_grpc.add_DRAPluginServicer_to_server(self._service, driver)
        registration_pb2_grpc.add_RegistrationServicer_to_server(self.registration, registration)
        self._servers = [registration, driver]
        await _serve(driver, self._settings.plugin_socket)
        await _serve(registration, self._settings.registration_socket)

    async def stop(self) -> None:
        """No call is answered any more. The sockets' files stay: to the kubelet a missing one means that the driver was removed."""
        for server in self._servers:
            await server.stop(STOP_SECONDS)


async def _serve(server: grpc.aio.Server, path: Path) -> None:
    """gRPC deletes the file that it bound when it stops, so it binds one that is then renamed; an old one is replaced without a gap."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{temporary}")
    await server.start()
    temporary.chmod(0o600)
    temporary.rename(path)
