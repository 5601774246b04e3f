"""A gateway as it is shipped, but for its resolver: names lead where the first argument (JSON) says."""

import asyncio
import ipaddress
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Hashable
from dataclasses import dataclass

from aios_api.addresses import Address
from aios_sidecar.gateway.main import serve
from aios_sidecar.gateway.problems import Problem, ProblemKind
from aios_sidecar.gateway.settings import Settings


@dataclass(frozen=True)
class FixedNames:
    """A resolver that was told everything."""

    known: dict[str, list[str]]

    async def resolve(self, host: str, who: Hashable) -> tuple[Address, ...]:
        if host not in self.known:
            raise Problem(ProblemKind.NAME_NOT_RESOLVED, f"{host} has no address.")
        return tuple(ipaddress.ip_address(each) for each in self.known[host])


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(Settings.from_environment(os.environ), stop, FixedNames(json.loads(sys.argv[1])))


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(main())
