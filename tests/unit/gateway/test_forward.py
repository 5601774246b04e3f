"""Plain HTTP through the gateway: each request is judged for itself, and what the host gets can be read in one way only."""

import asyncio
import json
import re

import pytest

from unit.gateway.outside import Recorder, a_server, get, problem, the_rest

HERE = "127.0.0.1"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def test_a_request_that_a_rule_allows_reaches_the_host_by_the_name_that_was_judged(proxying):
    async with a_server(server := Recorder()) as port, proxying(f"http://api.example.com:{port}", f"http://{HERE}:{port}") as agent:
        agent.names.known["api.example.com"] = [HERE]
        response = await agent.ask(get(f"http://API.example.com:{port}/a?b=c", "X-Mine: 1"))
        assert response.startswith(b"HTTP/1.1 200")
        assert response.endswith(b"\r\n\r\nhi")
        head = server.received.split(b"\r\n")
        assert head[0] == b"GET /a?b=c HTTP/1.1"
        assert f"Host: api.example.com:{port}".encode() in head
        assert b"x-mine: 1" in head
        assert agent.names.asked == ["api.example.com"]
        assert agent.last("verdict", "reason", "host", "port", "binding", "rule", "generation", "address", "status") == (
            *("allow", "Done", "api.example.com", port, "b", "r0", 1, HERE, 200),
        )


async def test_what_no_rule_allows_is_denied_before_any_name_is_asked_for(proxying):
    async with proxying("http://api.example.com:80", "http://hidden.example.com:80") as agent:
        for url in (
            "http://other.example.com/",
            "http://api.example.com:8080/",
            "http://api.example.com.evil.example/",
            "http://localhost/",
        ):
            response = await agent.ask(get(url))
            assert response.startswith(b"HTTP/1.1 403")
            refusal = problem(response)
            assert refusal["reason"] == "EgressDenied"
            assert refusal["nextStep"]
            assert "hidden" not in str(refusal), "a denial says nothing of what is allowed"
            assert agent.last("verdict", "binding") == ("deny", None)
        assert agent.names.asked == []
        assert agent.egress.denied == 4


async def test_no_request_makes_a_long_line_of_the_audit_that_all_agents_share(proxying):
    host = ".".join(["a" * 63] * 3 + ["b" * 57, "com"])
    async with proxying(f"http://{host}:80") as agent:
        for method, url, allowed in (
            ("M" * 12_000, f"http://{host}/", True),
            ("M" * 12_000, f"http://{host[:-3]}org/{'p' * 2000}", False),
        ):
            refusal = problem(await agent.ask(get(url, method=method)))
            assert refusal["reason"] == ("NameNotResolved" if allowed else "EgressDenied")
            assert len(str(refusal)) < 1500
            (line,) = agent.audit.lines
            assert line["method"] == "M" * 40
            assert len(json.dumps(line)) < 1000
            agent.audit.lines.clear()


async def test_no_policy_yet_denies_everything_with_its_own_word(proxying):
    async with proxying(policy=None) as agent:
        response = await agent.ask(get("http://api.example.com/"))
        assert response.startswith(b"HTTP/1.1 503")
        assert problem(response)["reason"] == "PolicyNotLoaded"
        assert agent.last("verdict", "reason") == ("deny", "PolicyNotLoaded")


@pytest.mark.parametrize(
    "where", ["10.0.0.7", "169.254.169.254", "127.0.0.1", "::1", "fe80::1", "::ffff:10.0.0.7", "100.64.0.1", "0.0.0.0"]
)
async def test_a_name_that_leads_inside_is_refused_whatever_else_it_leads_to(proxying, where):
    async with proxying("http://api.example.com:80") as agent:
        agent.names.known["api.example.com"] = ["203.0.113.9", where]
        response = await agent.ask(get("http://api.example.com/"))
        assert (response.split()[1], problem(response)["reason"]) == (b"403", "AddressDenied")
        assert agent.last("verdict", "reason", "address") == ("deny", "AddressDenied", None)


async def test_a_name_that_is_rebound_between_two_requests_is_refused_the_second_time(proxying):
    rules = "http://api.example.com:{port}", "http://127.0.0.1/32:{port}"
    async with a_server(Recorder(CLOSING)) as port, proxying(*(rule.format(port=port) for rule in rules)) as agent:
        agent.names.known["api.example.com"] = [HERE]
        assert (await agent.ask(get(f"http://api.example.com:{port}/"))).startswith(b"HTTP/1.1 200")
        agent.names.known["api.example.com"] = ["127.0.0.2"]
        assert problem(await agent.ask(get(f"http://api.example.com:{port}/")))["reason"] == "AddressDenied"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "[::ffff:a00:1]",
        "169.254.169.254",
        "2130706433",
        "0x7f.1",
        "127.1",
        "017700000001",
    ],
)
async def test_addresses_in_every_spelling_are_denied_when_no_rule_names_them(proxying, host):
    async with proxying("http://api.example.com:80", "http://0.0.0.0/0:80", "http://::/0:80") as agent:
        response = await agent.ask(get(f"http://{host}/"))
        assert (response.split()[1], problem(response)["reason"]) == (b"403", "EgressDenied")


async def test_an_address_mapped_into_ipv6_is_judged_and_dialled_as_the_address_that_it_is(proxying):
    async with a_server(server := Recorder()) as port, proxying(f"http://{HERE}:{port}") as agent:
        assert (await agent.ask(get(f"http://[::ffff:127.0.0.1]:{port}/"))).startswith(b"HTTP/1.1 200")
        assert f"Host: 127.0.0.1:{port}".encode() in server.received


@pytest.mark.parametrize(
    "host", ["evil.example", "api.example.com:81", "", "api.example.com@evil.example", "api.example.com, evil.example"]
)
async def test_a_host_header_that_is_not_the_urls_is_refused(proxying, host):
    async with proxying("http://api.example.com:80", "http://evil.example:80") as agent:
        agent.names.known["api.example.com"] = ["203.0.113.9"]
        response = await agent.ask(get("http://api.example.com/", host=host))
        assert (response.split()[1], problem(response)["reason"]) == (b"403", "HostMismatch")
        assert agent.last("verdict", "reason") == ("deny", "HostMismatch")
        assert agent.names.asked == []


SMUGGLED = [
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5, 5\r\n\r\nhello",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: +5\r\n\r\nhello",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    b"POST {url} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    b"GET {url} HTTP/1.1\r\nHost: {host}\r\nX: a\r\n b\r\n\r\n",
    b"GET {url} HTTP/1.1\r\nHost: {host}\r\nX: a\rb\r\n\r\n",
    b"GET {url} HTTP/1.1\r\nHost: {host}\r\nX: a\nHost: evil.example\r\n\r\n",
    b"GET {url} HTTP/1.1\nHost: {host}\n\n",
    b"GET {url} HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n",
    b"GET {url} HTTP/1.1\r\nHost: {host}\r\n: x\r\n\r\n",
    b"GET {url} HTTP/1.1\r\nHost: {host}\r\nX: a\x00b\r\n\r\n",
    b"GET {url} HTTP/1.1\r\n\r\n",
    b"GET {url} x HTTP/1.1\r\nHost: {host}\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", SMUGGLED)
async def test_what_could_be_read_in_two_ways_reaches_nobody(proxying, request_bytes):
    async with a_server(server := Recorder()) as port, proxying(f"http://{HERE}:{port}") as agent:
        sent = request_bytes.replace(b"{url}", f"http://{HERE}:{port}/".encode()).replace(b"{host}", f"{HERE}:{port}".encode())
        reader, writer = await agent.connect()
        writer.write(sent + get(f"http://{HERE}:{port}/second"))
        response = await asyncio.wait_for(reader.read(), 60)
        assert response.split()[1] == b"400"
        assert response.count(b"HTTP/1.1 ") == 1, "nothing is read after what was not understood"
        assert b"second" not in server.received
        assert server.received.count(b"HTTP/1.1") <= 1, "at most the head, when it was the content that is wrong"
        writer.close()


@pytest.mark.parametrize(
    "url",
    ["http://api.example.com/#x", "http:///x", "http://", "http://[::1/", "http://a b/", "http://x:0/", "http://x:70000/", "http://x:1:2/"],
)
async def test_a_url_that_is_none_is_refused_and_the_connection_stays(proxying, url):
    async with proxying("http://api.example.com:80") as agent:
        response = await agent.exchange(get(url, host="api.example.com") + b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert response.split()[1] == b"400"
        assert agent.names.asked == []


async def test_hop_by_hop_headers_are_removed_both_ways(proxying):
    answer = (
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-End: 2\r\n"
        b"Content-Length: 2\r\n\r\nhi"
    )
    async with a_server(server := Recorder(answer)) as port, proxying(f"http://{HERE}:{port}") as agent:
        sent = ("Connection: keep-alive, X-Secret, Content-Length, Host", "X-Secret: 1", "Proxy-Authorization: Basic eA==", "TE: trailers")
        response = await agent.ask(
            get(f"http://{HERE}:{port}/", *sent, "Proxy-Connection: keep-alive", "Keep-Alive: 5", "Authorization: mine")
        )
        seen = {line.split(b":")[0].lower() for line in server.received.split(b"\r\n")[1:] if line}
        assert seen == {b"host", b"authorization", b"via"}
        names = {line.split(b":")[0].lower() for line in response.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
        assert names == {b"x-end", b"content-length"}


async def test_upgrade_is_refused(proxying):
    async with proxying("http://api.example.com:80") as agent:
        response = await agent.ask(get("http://api.example.com/", "Connection: Upgrade", "Upgrade: websocket"))
        assert problem(response)["reason"] == "UpgradeRefused"
        assert agent.names.asked == []


async def test_only_http_urls_are_forwarded(proxying):
    async with proxying("https://api.example.com:443", "http://api.example.com:443") as agent:
        for url in ("https://api.example.com/", "ftp://api.example.com/", "ws://api.example.com/"):
            assert problem(await agent.ask(get(url)))["reason"] == "EgressDenied"


async def test_one_connection_is_judged_request_by_request_and_keeps_its_upstream(proxying):
    async with a_server(server := Recorder()) as port, a_server(other := Recorder()) as second, proxying(f"http://{HERE}:{port}") as agent:
        reader, writer = await agent.connect()

        async def ask(to: int) -> bytes:
            writer.write(get(f"http://{HERE}:{to}/"))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            return head + await reader.readexactly(int(re.search(rb"ength: ([0-9]+)", head)[1]))

        for _ in range(3):
            assert (await ask(port)).startswith(b"HTTP/1.1 200")
        assert server.connections == 1
        assert (await ask(second)).startswith(b"HTTP/1.1 403")
        agent.allow(f"http://{HERE}:{second}")
        assert (await ask(port)).startswith(b"HTTP/1.1 403"), "the connection that was kept is of no use to a request that is denied"
        assert (await ask(second)).startswith(b"HTTP/1.1 200")
        assert (server.connections, other.connections) == (1, 1)
        writer.close()


async def test_a_kept_connection_that_a_change_forbids_ends_at_once(proxying):
    ended = asyncio.Event()

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await the_rest(reader)
        ended.set()

    async with a_server(answer_once) as port, proxying(f"http://{HERE}:{port}") as agent:
        reader, writer = await agent.connect()
        writer.write(get(f"http://{HERE}:{port}/"))
        await reader.readuntil(b"\r\n\r\n")
        assert agent.egress.open == 1
        agent.allow("http://api.example.com:80")
        assert agent.egress.open == 0
        await asyncio.wait_for(ended.wait(), 60)
        writer.close()


async def test_a_request_under_way_ends_when_a_change_forbids_it_and_goes_on_when_not(proxying):
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await reader.read()

    async with a_server(slow) as port, proxying(f"http://{HERE}:{port}") as agent:
        reader, writer = await agent.connect()
        writer.write(get(f"http://{HERE}:{port}/"))
        await asyncio.wait_for(reader.readuntil(b"ab"), 60)
        agent.allow("https://other.example.com:443", f"http://{HERE}:{port}")
        await asyncio.sleep(0.05)
        assert agent.egress.open == 1
        agent.allow("https://other.example.com:443")
        assert await asyncio.wait_for(reader.read(), 60) == b"", "the response is cut off, and seen to be"
        assert agent.last("verdict", "reason") == ("allow", "PolicyChanged")
        writer.close()


async def test_a_policy_that_changes_while_a_name_is_resolved_is_the_one_that_counts(proxying):
    async with a_server(server := Recorder()) as port, proxying(f"http://api.example.com:{port}", f"http://{HERE}:{port}") as agent:
        agent.names.known["api.example.com"], agent.names.wait = [HERE], asyncio.Event()
        asking = asyncio.create_task(agent.ask(get(f"http://api.example.com:{port}/")))
        while not agent.names.asked:
            await asyncio.sleep(0.01)
        agent.allow(f"http://{HERE}:{port}")
        agent.names.wait.set()
        assert problem(await asking)["reason"] == "EgressDenied"
        assert server.connections == 0
        assert agent.last("verdict", "reason") == ("deny", "EgressDenied")
        assert agent.egress.denied == 1


@pytest.mark.parametrize(
    ("request_line", "reason", "host"),
    [
        ("GET https://secure.example.com/x HTTP/1.1", "EgressDenied", "secure.example.com"),
        ("GET ftp://files.example.com HTTP/1.1", "EgressDenied", "files.example.com"),
        ("GET http://user:secret@api.example.com/ HTTP/1.1", "Malformed", "api.example.com"),
        ("CONNECT user:secret@api.example.com:443 HTTP/1.1", "Malformed", "api.example.com:443"),
        (f"GET http://{'a' * 4000}/ HTTP/1.1", "Malformed", "a" * 300),
    ],
)
async def test_what_is_refused_unread_is_a_denial_like_any_other(proxying, request_line, reason, host):
    async with proxying("http://api.example.com:80") as agent:
        answer = await agent.ask(f"{request_line}\r\nHost: api.example.com\r\n\r\n".encode())
        assert problem(answer)["reason"] == reason
        assert agent.last("verdict", "reason", "host") == ("deny", reason, host)
        assert agent.egress.denied == 1
        assert "secret" not in str(agent.audit.lines)


@pytest.mark.parametrize(
    ("request_line", "headers", "reason", "host"),
    [
        ("CONNECT api.example.com:443 HTTP/1.1", "Host: a\r\nHost: b", "Malformed", "api.example.com:443"),
        ("POST http://api.example.com/ HTTP/1.1", "Content-Length: 1\r\nTransfer-Encoding: chunked", "Malformed", "api.example.com"),
        ("GET http://api.example.com/ HTTP/1.1", "X: a\x00", "Malformed", "api.example.com"),
        ("GET http://api.example.com/ HTTP/1.1", "X: a\r\n" * 300, "HeadersTooLarge", "api.example.com"),
        ("GET http://api.example.com/ HTTP/2.0", "Host: a", "Malformed", "api.example.com"),
    ],
)
async def test_a_request_for_the_outside_that_can_not_be_read_is_a_denial_too(proxying, request_line, headers, reason, host):
    async with proxying("http://api.example.com:80") as agent:
        assert problem(await agent.ask(f"{request_line}\r\n{headers}\r\n\r\n".encode()))["reason"] == reason
        assert agent.last("verdict", "reason", "host") == ("deny", reason, host)
        assert problem(await agent.ask(f"GET /v1/agent HTTP/1.1\r\n{headers}\r\n\r\n".encode()))["reason"] == (
            reason if "2.0" not in request_line else "ForeignHost"
        )
        assert agent.egress.denied == 1, "what asks for nothing outside is none"


async def test_in_audit_mode_public_hosts_are_let_through_and_counted_and_inner_ones_are_not(proxying):
    async with proxying() as agent:
        agent.allow(audit=True)
        agent.names.known["inside.example.com"] = ["10.0.0.7"]
        assert problem(await agent.ask(get("http://inside.example.com/")))["reason"] == "AddressDenied"
        assert problem(await agent.ask(get("http://10.0.0.7/")))["reason"] == "EgressDenied"
        assert problem(await agent.ask(get("http://nowhere.example.com/")))["reason"] == "NameNotResolved"
        assert agent.last("verdict", "binding") == ("would_deny", None)
        assert agent.egress.would_deny == {"b": 1}, "what is denied is not let through"
        agent.allow()
        assert agent.egress.would_deny == {}, "of a binding that audits no longer nothing is told"


async def test_another_agents_socket_has_another_policy(proxying, serving):
    async with (
        a_server(Recorder()) as port,
        proxying(f"http://{HERE}:{port}") as agent,
        serving("other", agents=agent.agents, claim="bbbb") as other,
    ):
        assert (await agent.ask(get(f"http://{HERE}:{port}/"))).startswith(b"HTTP/1.1 200")
        assert (await other.exchange(get(f"http://{HERE}:{port}/"))).startswith(b"HTTP/1.1 403")


async def test_a_redirect_is_the_clients_own_to_follow_and_is_judged_anew(proxying):
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\nContent-Length: 0\r\n\r\n"
    async with a_server(Recorder(answer)) as port, proxying(f"http://{HERE}:{port}") as agent:
        response = await agent.ask(get(f"http://{HERE}:{port}/"))
        assert response.startswith(b"HTTP/1.1 302")
        location = re.search(rb"location: (\S+)", response, re.IGNORECASE)[1].decode()
        assert problem(await agent.ask(get(location)))["reason"] == "EgressDenied"
