"""What agents and users could write, at random, for a while: nothing crashes or hangs, and nothing is allowed that no rule allows."""

import asyncio
import copy
import ipaddress
import json
import logging
import random
import socket
import ssl
from contextlib import suppress
from typing import Any

from aios_api.egress import Verdict, compile_policy, read_binding
from aios_sidecar.gateway.egress.hello import HelloReader, NotTLS
from property.fuzz import HERE, a_gateway, mutate, rounds
from unit.gateway.outside import Names, a_server
from unit.gateway.test_tunnels import a_hello

# Requests

REQUESTS = [
    b"GET http://{a}/x HTTP/1.1\r\nHost: {a}\r\n\r\n",
    b"POST http://{a}/ HTTP/1.1\r\nHost: {a}\r\nContent-Length: 5\r\n\r\nhello",
    b"POST http://{a}/ HTTP/1.1\r\nHost: {a}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET http://allowed.example.com:{p}/ HTTP/1.1\r\nHost: allowed.example.com:{p}\r\nConnection: close\r\n\r\n",
    b"GET http://{c}/ HTTP/1.1\r\nHost: {c}\r\n\r\n",
    b"CONNECT {a} HTTP/1.1\r\nHost: {a}\r\n\r\nhello",
    b"CONNECT {c} HTTP/1.1\r\nHost: {c}\r\n\r\n",
    b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\n\r\n",
]
TOKENS = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00", b"\xff", b"@", b"#", b"?", b"/", b"\\", b"%2e", b"[", b"]", b"[::1]"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"http://", b"https://", b"GET ", b"CONNECT ", b"::ffff:127.0.0.2"),
    *(b"127.0.0.2", b"127.2", b"0x7f.2", b"canary.example.com", b"\r\n\r\n", b"GET http://{c}/ HTTP/1.1\r\nHost: {c}\r\n\r\n"),
    *(b"\r\nContent-Length: 0", b"\r\nContent-Length: 5", b"\r\nTransfer-Encoding: chunked", b"\r\nHost: {c}", b"\r\n folded"),
    *(b"\r\nUpgrade: h2c", b"\r\nExpect: 100-continue", b"\r\nConnection: Host", b"0\r\n\r\n", b"5\r\nhello\r\n"),
]


async def test_no_request_crashes_the_gateway_or_reaches_what_no_rule_names(chance, caplog):
    reached: list[bytes] = []
    canary: list[bytes] = []

    async def allowed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            reached.append(data)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * data.count(b"\r\n\r\n"))

    async def forbidden(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        canary.append(await reader.read(65536))

    async with a_server(allowed) as port:
        rules = f"http://allowed.example.com:{port}", f"http://{HERE}:{port}", f"tcp://{HERE}:{port}"
        names = Names({"allowed.example.com": [HERE], "canary.example.com": ["127.0.0.2"]})
        with socket.create_server(("127.0.0.2", port)) as listener:
            second = await asyncio.start_server(forbidden, sock=listener)
            caplog.set_level(logging.ERROR)

            def filled(text: bytes) -> bytes:
                here, there = f"{HERE}:{port}".encode(), f"127.0.0.2:{port}".encode()
                return text.replace(b"{a}", here).replace(b"{c}", there).replace(b"{p}", str(port).encode())

            tokens = [filled(token) for token in TOKENS]
            async with a_gateway(names, *rules) as gateway:
                for _ in rounds():
                    sent = b"".join(mutate(filled(chance.choice(REQUESTS)), chance, tokens) for _ in range(chance.choice((1, 1, 2, 3))))
                    with suppress(ConnectionError):
                        await gateway.exchange(sent)
                    assert not canary, sent
                    assert not caplog.records, (sent, caplog.text)
                    for line in gateway.audit.lines:
                        assert line["verdict"] in ("allow", "deny"), sent
                        if line["verdict"] == "allow":
                            assert (line["host"], line["port"]) in ((HERE, port), ("allowed.example.com", port)), (sent, line)
                            assert line["rule"], (sent, line)
                        if line["address"] is not None:
                            assert line["address"] == HERE, (sent, line)
                    gateway.audit.lines.clear()
                    reached.clear()
            second.close()


# ClientHellos


def test_no_bytes_crash_the_reader_of_server_names_or_make_it_see_a_name_that_is_not_there(chance):
    hellos = [a_hello(name) for name in ("allowed.example.com", "a.b", "x" * 60 + ".example.com", None)]
    tokens = [b"\x00", b"\xff", b"\x16\x03\x01", b"\x00\x00", b"allowed.example.com", b"\x01\x00", b"\x16\x03\x03\x40\x00", bytes(40)]
    unraisable: list[Any] = []
    hook, sys_hook = unraisable.append, __import__("sys")
    before, sys_hook.unraisablehook = sys_hook.unraisablehook, hook
    try:
        for _ in rounds():
            sent = mutate(chance.choice(hellos), chance, tokens)
            reader = HelloReader(16384)
            at = 0
            try:
                while at < len(sent):
                    size = chance.choice((1, 5, 50, 5000))
                    if reader.feed(sent[at : at + size]):
                        break
                    at += size
                else:
                    continue
            except NotTLS:
                continue
            assert reader.server_name is None or reader.server_name.encode() in _without_records(sent).lower(), sent
        assert all(isinstance(each.exc_value, UnicodeDecodeError) for each in unraisable)
    finally:
        sys_hook.unraisablehook = before


def _without_records(sent: bytes) -> bytes:
    """The handshake, without the headers of the records that carry it; all of it as it is, too."""
    carried, rest = b"", sent
    while len(rest) >= 5:
        length = int.from_bytes(rest[3:5], "big")
        carried, rest = carried + rest[5 : 5 + length], rest[5 + length :]
    return sent + carried


# Policies

HOSTS = ["api.example.com", "*.example.com", "*.a.example.com", "example.com", "a.api.example.com", "localhost", "*.com", "*", ""]
HOSTS += ["10.0.0.1", "A.example.com"]
CIDRS = ["10.0.0.0/8", "10.0.0.7", "0.0.0.0/0", "::/0", "::1/128", "127.0.0.0/8", "203.0.113.0/24", "169.254.169.254", "10.0.0.1/8", "x"]
CIDRS += ["::ffff:10.0.0.0/104"]
JUNK: list[Any] = [None, "", 0, -1, [], {}, "x", True, 1.5, ["a"], {"a": 1}, "https", "tcp", 443, [443], [0], ["443"], "Audit", "\x00", "é"]


def a_binding(name: str, chance: random.Random) -> dict[str, Any]:
    rules = []
    for number in range(chance.randrange(4)):
        rule: dict[str, Any] = {"name": f"r{number}", chance.choice(("host", "cidr")): None}
        where = next(key for key in rule if key != "name")
        rule[where] = chance.choice(HOSTS if where == "host" else CIDRS)
        if chance.random() < 0.7:
            rule["ports"] = chance.choice(([443], [80, 443], [5432], [0], [], [70000], [443, 443]))
        if chance.random() < 0.7:
            rule["scheme"] = chance.choice(("https", "http", "tcp", "ftp"))
        rules.append(rule)
    spec: dict[str, Any] = {"agentSelector": {"matchLabels": {"team": chance.choice("ab")}}, "egress": rules}
    if chance.random() < 0.2:
        spec["mode"] = chance.choice(("Audit", "Enforce", "Off"))
    made = {"metadata": {"name": name, "generation": chance.randrange(1, 9)}, "spec": spec}
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        _spoil(made["spec"], chance)
    return made


def _spoil(part: Any, chance: random.Random) -> None:
    """Something in it becomes something else, or goes."""
    while isinstance(part, dict | list) and part:
        key = chance.choice(list(part)) if isinstance(part, dict) else chance.randrange(len(part))
        if not isinstance(part[key], dict | list) or chance.random() < 0.3:
            if chance.random() < 0.3:
                del part[key]
            else:
                part[key] = copy.deepcopy(chance.choice(JUNK))
            return
        part = part[key]


def says(raw: dict[str, Any], scheme: str, host: str, port: int) -> bool:
    """Whether a binding's own words allow this, read as simply as can be."""
    for rule in raw["spec"].get("egress") or []:
        wanted = rule.get("scheme", "https")
        ports = rule.get("ports") or {"https": [443], "http": [80]}.get(wanted, [])
        if port not in ports or not (wanted == scheme or (scheme == "https" and wanted == "tcp")):
            continue
        if (name := rule.get("host")) is not None:
            if name == host or (name.startswith("*.") and host.partition(".")[2] == name[2:]):
                return True
        else:
            with suppress(ValueError):
                if ipaddress.ip_address(host) in ipaddress.ip_network(rule["cidr"]):
                    return True
    return False


PUBLIC = ["8.8.8.8", "203.0.113.9", "2001:db8::1"]
ASKED = ["api.example.com", "a.example.com", "a.b.example.com", "a.api.example.com", "example.com", "x.com", "localhost", "a..example.com"]
ASKED += [*PUBLIC, "10.0.0.7", "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.7", "10.0.0.07", "db.svc.cluster.local"]


def test_no_bindings_crash_the_compiler_or_allow_what_none_of_them_says(chance):
    previous = None
    for number in rounds():
        raw = [a_binding(f"b{n}", chance) for n in range(chance.randrange(4))]
        given = json.dumps(raw)
        labels = {"team": chance.choice("ab")}
        bindings = [read_binding(each) for each in raw]
        policy = compile_policy(bindings, labels)
        later = compile_policy(bindings, labels, previous)
        gone = {(rule.binding, rule.rule) for rule in later.rules} - {(each.name, rule) for each in bindings for rule in each.rules}
        assert not gone, (given, "a rule that its binding has no longer is in force")
        previous = policy
        if number % 3:
            continue
        selected = [each for each, read in zip(raw, bindings, strict=True) if read.spec is not None and read.selects(labels)]
        for host in ASKED:
            for scheme, port in (("https", 443), ("http", 80), ("tcp", 5432), ("https", 5432)):
                decision = policy.judge(scheme, host, port)
                plain = decision.host if decision.address is None else str(decision.address)
                if decision.verdict is Verdict.Allowed:
                    assert any(says(each, scheme, plain, port) for each in selected), (given, labels, scheme, host, port)
                elif decision.verdict is Verdict.WouldDeny:
                    assert any(each["spec"].get("mode") == "Audit" for each in selected), (given, labels, host)
                    assert decision.address is None or host in PUBLIC, (given, labels, host)
                else:
                    assert not decision.allowed
                for inner in ("10.0.0.7", "127.0.0.1", "169.254.169.254", "::1", "fd00::1"):
                    if decision.allowed and decision.address is None and policy.address_allowed(decision, inner):
                        assert any(says(each, decision.scheme, inner, port) for each in selected), (given, labels, host, inner)


def test_the_clienthello_of_this_python_is_read(chance):
    """That the fuzzing above begins with something that is right."""
    assert ssl.OPENSSL_VERSION_INFO >= (1, 1, 1)
    for name in ("allowed.example.com", None):
        reader = HelloReader(16384)
        assert reader.feed(a_hello(name))
        assert reader.server_name == name
