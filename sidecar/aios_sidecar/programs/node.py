"""`aios-node`: the node agent with the GPU inventory of this node and a worker for each GPU."""

import asyncio
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from aios_kube.client import connect
from aios_sidecar.node.agent import NodeAgent
from aios_sidecar.node.settings import InvalidSettings, NodeSettings, from_environment
from aios_sidecar.vram import settings as vram_settings
from aios_sidecar.vram.calibration import Calibration
from aios_sidecar.vram.inventory import NvmlInventory
from aios_sidecar.vram.settings import VramSettings
from aios_sidecar.vram.supervisor import Supervisor

log = logging.getLogger(__name__)


def main() -> None:
    """Runs until SIGTERM or SIGINT. Settings that can't be used end it with status 2 and the sentence that says which."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings, vram = from_environment(), vram_settings.from_environment()
    except (InvalidSettings, vram_settings.InvalidSettings) as error:
        print(f"aios-node: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    asyncio.run(_run(settings, vram))


async def _run(settings: NodeSettings, vram: VramSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    kubeconfig = os.environ.get("KUBECONFIG")
    client = await connect(Path(kubeconfig) if kubeconfig else None, user_agent="aios-node")
    inventory = NvmlInventory(withheld_mib=vram.withheld_mib)
    workers = Supervisor(inventory, vram, Calibration(vram, settings.state_dir / "contexts", time.monotonic))
    try:
        await NodeAgent(settings, client, inventory, workers, lambda: datetime.now(UTC)).run(stop)
    finally:
        await inventory.close()
        await client.close()
    log.info("ended; agents on this node go on")


if __name__ == "__main__":
    main()
