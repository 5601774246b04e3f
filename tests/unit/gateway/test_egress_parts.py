"""The parts of the way out, each alone: targets, names, ClientHellos, turns, the audit."""

import asyncio
import contextlib
import json
import threading
from ipaddress import ip_address

import pytest

from aios_sidecar.gateway.egress.audit import AuditFile
from aios_sidecar.gateway.egress.hello import HelloReader, NotTLS
from aios_sidecar.gateway.egress.names import ADDRESSES_LIMIT, SystemNames
from aios_sidecar.gateway.egress.target import Target, names_the_same, of_absolute, of_connect
from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.problems import Problem, ProblemKind
from aios_sidecar.gateway.settings import EgressLimits
from aios_sidecar.gateway.turns import Turns
from unit.gateway.test_tunnels import a_hello

# Targets


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        ("Api.Example.COM:443", "api.example.com", 443),
        ("api.example.com.:443", "api.example.com", 443),
        ("10.0.0.7:1", "10.0.0.7", 1),
        ("[::1]:65535", "::1", 65535),
        ("[2001:DB8::0:1]:443", "2001:db8::1", 443),
        ("[::ffff:10.0.0.7]:443", "10.0.0.7", 443),
    ],
)
def test_a_target_has_one_form(authority, host, port):
    assert of_connect(authority) == Target(host, port)


@pytest.mark.parametrize(
    "authority",
    [
        "",
        ":443",
        "x",
        "x:",
        "x:443:443",
        "x:-1",
        "x:+443",
        "x:４４３",
        "::1:443",
        "[::1%eth0]:443",
        "[10.0.0.7]:443",
        "[x]:443",
        "a b:443",
        "a%2e:443",
        "ünicode.example:443",
        "x\\@y:443",
        "x/y:443",
        "x?y:443",
        f"{'a' * 300}:443",
        "x.example..:443",
    ],
)
def test_what_is_no_target_is_refused(authority):
    with pytest.raises(Problem) as refused:
        of_connect(authority)
    assert refused.value.kind is ProblemKind.MALFORMED


def test_the_path_of_a_url_is_what_the_host_is_asked_for():
    for url, method, path in (
        ("http://x.example", "GET", "/"),
        ("http://x.example", "OPTIONS", "*"),
        ("http://x.example?a=/b", "GET", "/?a=/b"),
        ("HTTP://x.example//a/../b", "GET", "//a/../b"),
    ):
        assert of_absolute(url, method) == Target("x.example", 80, path)


def test_a_host_header_may_leave_out_the_port_that_is_the_schemes_own():
    target = of_absolute("http://x.example/", "GET")
    assert all(names_the_same(host, target) for host in ("x.example", "X.EXAMPLE:80", "x.example."))
    assert not any(names_the_same(host, target) for host in ("x.example:8080", "y.example", "x.example,x.example", ""))
    assert of_absolute("http://[::1]:80/", "GET").host_header == "[::1]"


# ClientHellos


def test_the_server_name_is_read_at_its_last_byte_whatever_the_pieces():
    hello = a_hello("Api.Example.com")
    for size in (1, 7, 100, len(hello)):
        reader = HelloReader(65536)
        complete = [reader.feed(hello[at : at + size]) for at in range(0, len(hello), size)]
        assert complete == [False] * (len(complete) - 1) + [True]
        assert (reader.server_name, bytes(reader.received)) == ("api.example.com", hello)


def test_a_name_that_no_host_has_is_no_tls_for_it():
    hello = a_hello("aaaaaaaa.example.com")
    for broken in (b"aaaa\xff\xfeaa", b"aaaa\x00aaa", b"aaaaaaa\x80"):
        reader = HelloReader(65536)
        with pytest.raises(NotTLS):
            reader.feed(hello.replace(b"aaaaaaaa", broken))


def test_a_hello_beyond_the_limit_is_not_kept():
    reader = HelloReader(1024)
    with pytest.raises(NotTLS, match="longer than 1024"):
        reader.feed(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(2000))


# Names


class Ask:
    """A resolver that answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let = threading.Event()

    def __call__(self, host):
        self.asked.append(host)
        self.let.wait(10)
        if host == "none.example":
            raise OSError("no such name")
        return (ip_address("203.0.113.1"),)


async def test_a_name_is_asked_for_once_by_all_who_wait_and_known_for_a_while():
    ask = Ask()
    names = SystemNames(EgressLimits(), ask)
    waiting = [asyncio.create_task(names.resolve("x.example", who)) for who in "abc"]
    await asyncio.sleep(0.05)
    ask.let.set()
    assert await asyncio.gather(*waiting) == [(ip_address("203.0.113.1"),)] * 3
    await names.resolve("x.example", "d")
    assert ask.asked == ["x.example"]
    names.close()


async def test_one_agent_can_not_have_all_the_lookups_and_is_told_so():
    ask = Ask()
    names = SystemNames(EgressLimits(lookups=2, resolve_seconds=0.1), ask)
    for host in ("a.example", "b.example"):
        with pytest.raises(Problem) as slow:
            await names.resolve(host, "greedy")
        assert slow.value.kind is ProblemKind.NAME_NOT_RESOLVED
    with pytest.raises(Problem) as greedy:
        await names.resolve("c.example", "greedy")
    assert greedy.value.kind is ProblemKind.TOO_MANY_LOOKUPS, "its threads are still busy, though nobody waits for them"
    other = asyncio.create_task(names.resolve("d.example", "other"))
    while "d.example" not in ask.asked:
        await asyncio.sleep(0.01)
    ask.let.set()
    await asyncio.gather(other, return_exceptions=True)  # on a busy machine it may be as late as the others
    while True:
        with contextlib.suppress(Problem):
            assert await names.resolve("c.example", "greedy"), "its threads are free again"
            break
        await asyncio.sleep(0.01)
    names.close()


async def test_while_most_threads_are_busy_an_agent_has_one_look_up_and_so_others_have_theirs():
    ask = Ask()
    names = SystemNames(EgressLimits(lookups=4, lookup_threads=8, resolve_seconds=5), ask)
    waiting = [asyncio.create_task(names.resolve(f"{number}.dead.example", "greedy")) for number in range(4)]
    await asyncio.sleep(0)
    for who in ("b", "c", "d", "e"):
        waiting.append(asyncio.create_task(names.resolve(f"{who}.dead.example", who)))
        await asyncio.sleep(0)
        with pytest.raises(Problem) as second:
            await names.resolve(f"second.{who}.dead.example", who)
        assert second.value.kind is ProblemKind.TOO_MANY_LOOKUPS
    ask.let.set()
    assert len(await asyncio.gather(*waiting)) == 8
    names.close()


async def test_a_name_without_an_address_is_a_problem_and_so_it_stays_for_a_moment():
    ask = Ask()
    ask.let.set()
    names = SystemNames(EgressLimits(), ask)
    for _ in range(2):
        with pytest.raises(Problem) as none:
            await names.resolve("none.example", "a")
        assert none.value.kind is ProblemKind.NAME_NOT_RESOLVED
    assert ask.asked == ["none.example"]
    names.close()


@pytest.mark.parametrize(("count", "refused"), [(ADDRESSES_LIMIT, False), (ADDRESSES_LIMIT + 1, True), (5000, True)])
async def test_a_name_with_more_addresses_than_are_checked_is_refused(count, refused):
    everyone = tuple(ip_address("203.0.0.0") + each for each in range(count))
    names = SystemNames(EgressLimits(), lambda host: everyone)
    for _ in range(2):
        if refused:
            with pytest.raises(Problem) as many:
                await names.resolve("x.example", "a")
            assert many.value.kind is ProblemKind.ADDRESS_DENIED
        else:
            assert await names.resolve("x.example", "a") == everyone
    names.close()


async def test_the_systems_resolver_is_asked_for_exactly_the_name_that_was_judged(monkeypatch):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *_, **__: asked.append(host) or [(0, 0, 0, "", ("203.0.113.1", 0))] * 2)
    names = SystemNames(EgressLimits())
    assert await names.resolve("x.example", "a") == (ip_address("203.0.113.1"),)
    assert asked == ["x.example."], "with a dot at its end, so that no search domain is tried"
    names.close()


# Turns


async def test_each_agent_has_one_turn_in_each_turn_of_the_loop():
    turns, order = Turns(), []

    async def work(who: str, slices: int) -> None:
        for _ in range(slices):
            await turns(who)
            order.append(who)

    await asyncio.gather(*(work("noisy", 5) for _ in range(10)), work("quiet", 5))
    last = max(index for index, who in enumerate(order) if who == "quiet")
    assert order[: last + 1].count("noisy") <= 7, "50 slices of the other agent wait, and hardly more than one goes before each of these"
    assert len(order) == 55


async def test_a_turn_that_nobody_waits_for_any_more_holds_nobody_up():
    turns = Turns()
    assert turns.take("a")
    waiting = [asyncio.create_task(turns("a")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), 60)


# Audit


async def test_the_audit_is_a_line_each_and_the_newest_are_kept(tmp_path):
    path = tmp_path / "egress.jsonl"
    audit = AuditFile(path, file_bytes=2000, files=3)
    for number in range(100):
        audit.note({"host": "x.example", "number": number, "word": "ü\n"})
        if number % 10 == 9:
            await asyncio.sleep(0)
            audit._flush()
            await audit._writing
    await audit.close()
    files = sorted(tmp_path.iterdir())
    assert [each.name for each in files] == ["egress.jsonl", "egress.jsonl.1", "egress.jsonl.2"]
    assert all(each.stat().st_size <= 2000 for each in files)
    numbers = [json.loads(line)["number"] for each in reversed(files) for line in each.read_text().splitlines()]
    assert numbers == list(range(100))[-len(numbers) :]
    assert (audit.dropped, audit.rotated_out) == (0, 100 - len(numbers))
    assert audit.rotated_out > 0


@pytest.mark.parametrize("files", [1, 2])
async def test_lines_that_go_with_the_oldest_file_are_counted_also_those_of_the_process_before(tmp_path, files):
    metrics, path = Metrics(), tmp_path / "egress.jsonl"
    for older in ("egress.jsonl", "egress.jsonl.1")[:files]:
        (tmp_path / older).write_text("{}\n" * 30)
    audit = AuditFile(path, file_bytes=100, files=files)
    metrics.egress.watch_audit(dropped_lines=lambda: audit.dropped, rotated_out_lines=lambda: audit.rotated_out)
    audit.note({"number": 1})
    await audit.close()
    assert path.read_text().count("\n") == 1
    assert len(list(tmp_path.iterdir())) == files
    assert metrics.registry.get_sample_value("aios_gateway_audit_rotated_out_lines") == 30
    assert metrics.registry.get_sample_value("aios_gateway_audit_dropped_lines") == 0


async def test_an_agent_that_writes_without_end_has_like_lines_in_one_and_others_have_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr("aios_sidecar.gateway.egress.audit.LINES_BURST", 10)
    path = tmp_path / "egress.jsonl"
    audit = AuditFile(path, file_bytes=1 << 20, files=3)
    for number in range(1000):
        host = "same.example" if number % 2 else f"other-{number}.example"
        audit.note({"uid": "noisy", "verdict": "deny", "reason": "NotAllowed", "host": host, "upBytes": 1, "downBytes": 2, "seconds": 0.5})
        if number % 100 == 0:
            audit.note(
                {"uid": "quiet", "verdict": "allow", "reason": "Done", "host": "x.example", "upBytes": 1, "downBytes": 2, "seconds": 1}
            )
    await audit.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["host"] for line in lines if line["uid"] == "quiet"] == ["x.example"] * 10
    assert not any("repeated" in line for line in lines if line["uid"] == "quiet")
    noisy = [line for line in lines if line["uid"] == "noisy"]
    folded = [line for line in noisy if "repeated" in line]
    assert len(noisy) < 10 + 50, "some for the time that this took, and one for each kind"
    assert sum(line.get("repeated", 1) for line in noisy) == 1000
    assert (sum(line["upBytes"] for line in noisy), sum(line["downBytes"] for line in noisy)) == (1000, 2000)
    assert max(folded, key=lambda line: line["repeated"] if line["host"] else 0)["host"] == "same.example"
    assert any(line["host"] is None and line["verdict"] == "deny" for line in folded), "of many hosts the rest is counted together"
    assert audit.dropped == 0


async def test_a_disk_that_does_not_answer_drops_lines_and_counts_them(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("aios_sidecar.gateway.egress.audit.PENDING_LIMIT", 10)
    audit = AuditFile(tmp_path / "no" / "such" / "place.jsonl", file_bytes=2000, files=3)
    for number in range(25):
        audit.note({"number": number})
    assert audit.dropped == 15
    await audit.close()
    assert audit.dropped == 25
    assert caplog.text.count("the audit can't be written") == 1
