"""The local cluster's name server, asked as resolvers ask."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from aios_localcluster.cluster_dns import Services, Zone, serve


def service(name: str, address: str | None) -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": "models"}, "spec": {} if address is None else {"clusterIP": address}}


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    services = Services()
    services.replace([service("model", "10.1.2.3"), service("headless", "None"), service("external", None)])
    (tmp_path / "names.json").write_text(json.dumps({"api.example.com": ["10.9.9.9", "10.9.9.8"], "empty.example.com": []}))
    async with await serve(Zone(services, tmp_path / "names.json"), "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("ask", [dns.asyncquery.udp, dns.asyncquery.tcp])
@pytest.mark.parametrize(
    ("name", "kind", "code", "addresses"),
    [
        ("model.models.svc.cluster.local.", "A", dns.rcode.NOERROR, {"10.1.2.3"}),
        ("MODEL.models.svc.cluster.local.", "A", dns.rcode.NOERROR, {"10.1.2.3"}),
        ("model.models.svc.cluster.local.", "AAAA", dns.rcode.NOERROR, set()),
        ("headless.models.svc.cluster.local.", "A", dns.rcode.NXDOMAIN, set()),
        ("external.models.svc.cluster.local.", "A", dns.rcode.NXDOMAIN, set()),
        ("api.example.com.", "A", dns.rcode.NOERROR, {"10.9.9.9", "10.9.9.8"}),
        ("empty.example.com.", "A", dns.rcode.NOERROR, set()),
        ("elsewhere.example.com.", "A", dns.rcode.NXDOMAIN, set()),
    ],
)
async def test_answers(ask, name: str, kind: str, code: int, addresses: set[str], port: int):
    reply = await ask(dns.message.make_query(name, kind), "127.0.0.1", port=port, timeout=5)
    assert reply.rcode() == code
    assert {record.address for each in reply.answer for record in each} == addresses


def test_what_is_no_question_is_not_answered(tmp_path: Path):
    zone = Zone(Services(), tmp_path / "absent.json")
    assert zone.answer(b"") is None
    assert zone.answer(b"\x00" * 11) is None
    assert zone.answer(zone.answer(dns.message.make_query("a.example.com.", "A").to_wire()) or b"") is None, "an answer is no question"


def test_a_broken_file_of_names_knows_none(tmp_path: Path):
    (tmp_path / "names.json").write_text("{")
    assert Zone(Services(), tmp_path / "names.json").addresses("a.example.com") is None


def test_a_service_that_goes_is_known_no_more():
    services = Services()
    services.upsert(service("model", "10.1.2.3"))
    services.remove(service("model", "10.1.2.3"))
    assert services.addresses == {}
