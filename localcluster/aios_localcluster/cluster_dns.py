"""The cluster's name server: Services by their names, and further names that a person or a test gives in a file.

It runs on the node beside the kubelet, which tells pods its address; agents have no resolver and never ask it. It asks nobody else: names
that it does not know do not exist.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from aios_kube import connect, resources
from aios_kube.protocol import Object
from aios_kube.reflector import Reflector

log = logging.getLogger(__name__)

DOMAIN = "cluster.local"
PORT = 53
TTL_SECONDS = 5
QUERY_BYTES = 4096
TCP_SECONDS = 5.0


@dataclass
class Services:
    """What exists: a reflector's sink. Headless Services have no address here."""

    addresses: dict[str, str] = field(default_factory=dict)

    def replace(self, objects: list[Object]) -> None:
        self.addresses = {}
        for each in objects:
            self.upsert(each)

    def upsert(self, obj: Object) -> None:
        address = obj["spec"].get("clusterIP")
        if address and address != "None":
            self.addresses[_name(obj)] = address
        else:
            self.remove(obj)

    def remove(self, obj: Object) -> None:
        self.addresses.pop(_name(obj), None)


def _name(obj: Object) -> str:
    return f"{obj['metadata']['name']}.{obj['metadata']['namespace']}.svc.{DOMAIN}"


@dataclass
class Zone:
    """All names, and the answers to questions about them."""

    services: Services
    file: Path
    """JSON: names to lists of IPv4 addresses. It is read at each question; absent means none."""

    def addresses(self, name: str) -> list[str] | None:
        """None when there is no such name."""
        if (address := self.services.addresses.get(name)) is not None:
            return [address]
        try:
            given = json.loads(self.file.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as problem:
            log.warning("%s must be a JSON object of names: %s", self.file, problem)
            return None
        found = given.get(name)
        return None if found is None else [str(each) for each in found]

    def answer(self, wire: bytes) -> bytes | None:
        """What is said to this question; None when it is none that can be answered."""
        try:
            asked = dns.message.from_wire(wire)
        except (dns.exception.DNSException, struct.error):
            return None
        if len(asked.question) != 1 or asked.flags & dns.flags.QR:
            return None
        question = asked.question[0]
        reply = dns.message.make_response(asked, recursion_available=True)
        reply.flags |= dns.flags.AA
        found = self.addresses(question.name.to_text(omit_final_dot=True).lower())
        if found is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.A and found:
            reply.answer.append(dns.rrset.from_text(question.name, TTL_SECONDS, "IN", "A", *found))
        return reply.to_wire()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # the loop's own class does not say so before Python 3.12

    def datagram_received(self, data: bytes, address: tuple[str | int, int]) -> None:
        if (reply := self._zone.answer(data)) is not None:
            self._transport.sendto(reply, address)


async def serve(zone: Zone, host: str, port: int = PORT) -> asyncio.Server:
    """Answers at `host`, over UDP and TCP, from now on; closing the server ends TCP, and the loop's end ends both."""

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TCP_SECONDS):
                (length,) = struct.unpack(">H", await reader.readexactly(2))
                reply = zone.answer(await reader.readexactly(min(length, QUERY_BYTES)))
                if reply is not None:
                    writer.write(struct.pack(">H", len(reply)) + reply)
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, OSError) as problem:
            log.debug("a question was not asked to its end: %s", problem)
        finally:
            writer.close()

    server = await asyncio.start_server(stream, host, port)
    bound = server.sockets[0].getsockname()[1]
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Datagrams(zone), (host, bound))
    return server


async def run(kubeconfig: Path, host: str, file: Path) -> None:
    """Serves until cancelled."""
    services = Services()
    client = await connect(kubeconfig, user_agent="aios-cluster-dns")
    reflector = Reflector(client, resources.SERVICES, services)
    async with await serve(Zone(services, file), host):
        await reflector.run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="cluster-dns", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--names", type=Path, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(run(given.kubeconfig, given.host, given.names))


if __name__ == "__main__":
    main()
