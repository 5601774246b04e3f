"""Connects to addresses that were checked, and to nothing else."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from aios_api.addresses import Address
from aios_sidecar.gateway.egress.target import Target
from aios_sidecar.gateway.problems import Problem, ProblemKind

ATTEMPTS_LIMIT: Final = 4
"""Addresses tried one after the other: a name with a dead first address still works, and one request does not scan a network."""


async def dial(target: Target, addresses: Sequence[Address], seconds: float) -> tuple[socket.socket, Address]:
    """A connection to the first of `addresses` that answers, on the target's port, and which one that is. Raises Problem."""
    tried = addresses[:ATTEMPTS_LIMIT]
    failure = "no answer"
    for address in tried:
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            async with asyncio.timeout(seconds / len(tried)):
                await asyncio.get_running_loop().sock_connect(connection, (str(address), target.port))
        except TimeoutError:
            connection.close()
        except OSError as error:
            connection.close()
            failure = error.strerror or failure
        except BaseException:
            connection.close()
            raise
        else:
            return connection, address
    raise Problem(ProblemKind.UNREACHABLE, f"{target.authority} can't be reached: {failure}.")
