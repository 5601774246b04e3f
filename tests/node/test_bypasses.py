"""What a hostile program in an agent's namespace can send to its gateway, behind the real fence: nothing of it leads past the policy."""

import asyncio
import json
import sys
from pathlib import Path

from aios_bench.egress import bypasses
from aios_bench.egress.house import a_policy
from node.support import Pod, a_cluster, ask, eventually, prepare, running, settings_in
from node.test_egress import a_host, asked, egress_status, order, with_egress
from node.test_restarts import gateway

EVERY_WAY = """
import asyncio
from aios_bench.egress import bypasses

async def try_them() -> int:
    tried = [each for each in bypasses.attempts(PORT) if each.agent == bypasses.AGENT]
    some = asyncio.Semaphore(16)

    async def one(attempt):
        async with some:
            await bypasses.try_it(attempt, 2489)

    await asyncio.gather(*map(one, tried))
    return len(tried)

print(asyncio.run(try_them()))
"""
KEEP = """
import http.client, sys
kept = http.client.HTTPConnection("127.0.0.1", 2489, timeout=60)
def ask():
    kept.request("GET", sys.argv[1])
    answer = kept.getresponse()
    answer.read()
    print(answer.status, flush=True)
ask()
sys.stdin.readline()
ask()
"""
FOLLOW = "from aios_bench.egress import bypasses; print(bypasses.follow(2489, PORT))"


async def test_no_way_on_the_list_leads_past_the_gateway_from_inside_the_namespace(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    resolver = ("-m", "aios_bench.egress.worker", json.dumps(bypasses.NAMES))
    async with bypasses.two_hosts() as watched, gateway(settings.gateway_socket, resolver):
        policy = a_policy(*bypasses.rules(watched.port))
        cluster = a_cluster(runtime=with_egress(policy))
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually(lambda: egress_status(cluster).get("policyDigest") == policy.digest)

            def inside(code: str) -> int:
                return int(pod.python(code.replace("PORT", str(watched.port))))

            allowed = f"http://{bypasses.ALLOWED}:{watched.port}/"
            assert await asyncio.to_thread(asked, pod, allowed) == (200, "ok"), "what a rule names is reached"
            assert await asyncio.to_thread(inside, EVERY_WAY) > 50
            assert watched.forbidden == 0
            assert bypasses.WORD.encode() not in watched.received
            assert await asyncio.to_thread(inside, FOLLOW) == 403
            assert watched.forbidden == 0
            pipe = asyncio.subprocess.PIPE
            keeping = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", pod.name, sys.executable, "-c", KEEP, allowed), stdin=pipe, stdout=pipe
            )
            assert keeping.stdin is not None
            assert keeping.stdout is not None
            assert await asyncio.wait_for(keeping.stdout.readline(), 60) == b"200\n"
            watched.forget()
            less = a_policy(f"http://{bypasses.ALLOWED}:{watched.port + 1 if watched.port < 65_535 else 1}", generation=2)
            order(cluster, less)
            await eventually(lambda: egress_status(cluster).get("policyDigest") == less.digest)
            out, _ = await asyncio.wait_for(keeping.communicate(b"\n"), 60)
            assert out == b"403\n", "a connection that was kept is judged anew"
            assert not watched.received
            direct = f"import socket; socket.create_connection(({pod.outside4!r}, {watched.port}), 2)"
            assert pod.run("python3", "-c", direct).returncode != 0, "and there is no way beside it"


async def test_what_an_agent_asks_before_there_is_a_gateway_waits_for_it_and_is_judged(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    with a_host(pod.outside4) as port, a_host(pod.outside4) as other:
        cluster = a_cluster(runtime=with_egress(a_policy(f"http://{pod.outside4}:{port}")))
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            urls = [f"http://{pod.outside4}:{each}/" for each in (port, other)]
            early = [asyncio.create_task(asyncio.to_thread(asked, pod, url)) for url in urls]
            await asyncio.sleep(0.5)
            assert not any(each.done() for each in early), "nobody answers, and there is no way beside it"
            async with gateway(settings.gateway_socket):
                assert await asyncio.gather(*early) == [(200, "outside"), (403, "EgressDenied")]
