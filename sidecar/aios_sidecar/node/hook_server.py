"""Where the OCI hook asks: `<claim uid>\\n<OCI state>` in, one line out, `ok` or `refused <reason>`. No line means: ask again."""

import asyncio
import logging
import os
import socket
import struct

from aios_sidecar.node.gate import Gate, NoAnswer, Refused
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.sandbox import InvalidOCIState, parse_oci_state
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import UID

log = logging.getLogger(__name__)

QUESTION_BYTES = (1 << 20) + 64
"""As much as the hook itself sends at most: 1 MiB of state behind a line with the uid."""
QUESTION_SECONDS = 5.0
"""The hook has everything at hand before it connects."""


class HookServer:
    """Only root may ask: who the hook speaks for is in the question, not in the socket."""

    def __init__(self, settings: NodeSettings, gate: Gate, metrics: Metrics) -> None:
        self._settings = settings
        self._gate = gate
        self._metrics = metrics
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        path = self._settings.hook_socket
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._answer, sock=listener)
        temporary.rename(path)

    async def stop(self) -> None:
        """No question is taken any more; the hooks that ask find nobody and ask the next node agent."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid, uid = _peer(writer)
        try:
            if uid != os.geteuid():
                log.warning("a process of user %d asked on %s and was not answered", uid, self._settings.hook_socket)
                return
            async with asyncio.timeout(QUESTION_SECONDS):
                question = await _read_to_end(reader)
            with self._metrics.request("hook"):
                async with asyncio.timeout(self._settings.hook_seconds):
                    await self._admit(question, pid)
            writer.write(b"ok\n")
        except Refused as error:
            log.warning("a container was refused: %s", error)
            writer.write(f"refused {' '.join(str(error).split())}\n".encode())
        except (NoAnswer, TimeoutError, OSError) as error:
            log.warning("a question of the hook stays unanswered and will be asked again: %s", error or "it took too long")
        finally:
            writer.close()

    async def _admit(self, question: bytes, asking_pid: int) -> None:
        claim, found, state = question.partition(b"\n")
        claim_uid = claim.decode(errors="replace")
        if not found or not UID.fullmatch(claim_uid):
            raise Refused("the question must begin with the uid of a claim")
        try:
            oci = parse_oci_state(state)
        except InvalidOCIState as error:
            raise Refused(str(error)) from None
        await self._gate.admit(claim_uid, oci, asking_pid)


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while part := await reader.read(1 << 16):
        parts.append(part)
        if sum(map(len, parts)) > QUESTION_BYTES:
            raise Refused(f"the question is longer than {QUESTION_BYTES} bytes")
    return b"".join(parts)


def _peer(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """Process and user at the other end, as the kernel recorded them."""
    connection: socket.socket = writer.get_extra_info("socket")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(pid), int(uid)
