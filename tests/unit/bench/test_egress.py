"""Ways past the gateway: none is one, and the list would notice if one were."""

from aios_bench.egress import bypasses
from aios_bench.egress.bypasses import AGENT, FORBIDDEN, Attempt
from aios_bench.egress.house import a_house, a_policy


async def test_no_way_on_the_list_leads_past_a_gateway_that_runs():
    async with bypasses.two_hosts() as watched, a_house(4, None, bypasses.NAMES) as house:
        passed = await bypasses.try_all(house, watched)
    assert len(passed) > 60
    assert [name for name, reached in passed.items() if reached] == []


async def test_the_list_would_notice_a_way_that_leads_past():
    async with bypasses.two_hosts() as watched, a_house(4, None, bypasses.NAMES) as house:
        url = f"http://{FORBIDDEN}:{watched.port}/"
        attempt = Attempt("let through", f"GET {url} HTTP/1.1\r\nHost: {FORBIDDEN}:{watched.port}\r\n\r\n".encode())
        await bypasses.try_it(attempt, house.ports[AGENT])
        assert not watched.reached, "there is no policy yet"
        await house.load(a_policy(f"http://{FORBIDDEN}:{watched.port}"), [AGENT])
        await bypasses.try_it(attempt, house.ports[AGENT])
        assert watched.forbidden == 1
        watched.forget()
        await house.load(a_policy(f"tcp://127.0.0.1:{watched.port}"), [AGENT])
        connect = f"CONNECT 127.0.0.1:{watched.port} HTTP/1.1\r\nHost: x\r\n\r\n".replace("Host: x", f"Host: 127.0.0.1:{watched.port}")
        await bypasses.try_it(Attempt("a word in a tunnel", connect.encode(), b"canary"), house.ports[AGENT])
        assert watched.reached
