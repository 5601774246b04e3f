"""The programs that agents really use, through the gateway, against a server with an authority of its own."""

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from unit.gateway.clients import ANSWERS, CLIENTS, environment, server_code
from unit.gateway.outside import Authority

HERE, HOST = "127.0.0.1", "api.example.com"


def why_not(client: str) -> str | None:
    """Why the client can't be tried on this machine."""
    if client in ("curl", "git", "node") and not shutil.which(client):
        return f"there is no {client} here"
    if client == "node" and not Path(os.environ.get("NODE_PATH", "/usr/share/nodejs"), "undici").exists():
        return "node has no undici with a ProxyAgent here (package node-undici)"
    if client in ("httpx", "requests", "openai") and importlib.util.find_spec(client) is None:
        return f"the package {client} is missing"
    return None


@asynccontextmanager
async def a_host(certificate: Path) -> AsyncIterator[dict[str, int]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", server_code(), HERE, str(certificate), "0", "0"), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_finds_its_way_out_and_is_refused_elsewhere(proxying, tmp_path, client):
    if reason := why_not(client):
        pytest.skip(reason)
    authority = Authority(tmp_path)
    authority.server(HOST)
    async with a_host(tmp_path / f"{HOST}.pem") as ports:
        tls, plain = ports["tls"], ports["plain"]
        rules = f"https://{HOST}:{tls}", f"https://{HERE}:{tls}", f"http://{HOST}:{plain}", f"http://{HERE}:{plain}"
        async with proxying(*rules) as agent:
            agent.names.known[HOST] = [HERE]
            given = {
                **os.environ,
                **environment(f"http://{HERE}:{agent.port}", str(authority.path)),
                "TLS_URL": f"https://{HOST}:{tls}",
                "PLAIN_URL": f"http://{HOST}:{plain}",
                "OTHER_URL": f"https://other.example.com:{tls}",
            }
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CLIENTS[client]), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=given
            )
            out, errors = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode == 0, errors.decode()
            assert json.loads(out) == {"tls": ANSWERS[client], "plain": ANSWERS[client], "refused": True}
            assert {line["host"] for line in agent.audit.lines if line["verdict"] == "deny"} == {"other.example.com"}
            assert agent.names.asked.count("other.example.com") == 0
