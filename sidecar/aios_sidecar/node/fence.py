"""The fence of a pod: an nftables table in its network namespace, installed as one transaction and read back.

What leaves or enters is what stays on loopback, neighbour discovery (without which IPv6 interfaces complain; nothing else can be said
with it), and on each port that its owner exposes what comes in there and the replies to it. Everything else is dropped; on its way out it
is rejected, so that a connection fails at once instead of timing out. Nothing is forwarded. The pod can't change this: it has no
NET_ADMIN.

The loopback carries only what has an address of the pod as its sender. Anybody may send with another's (IPV6_FREEBIND needs no right);
a packet from there to an exposed port of the pod itself would make all that the port sends to that other a reply.

There is no word for "connections that exist": one that was made while the fence was away, or to a port that is exposed no more, ends with
the fence that stands now.
"""

import json
import subprocess
from collections.abc import Iterable
from typing import Any

from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.state import Opening

FAMILY, TABLE = "inet", "aios"
NFT_SECONDS = 10.0
"""nft takes milliseconds; it hangs only when the kernel does."""

Rule = dict[str, Any]


class FenceFailed(Exception):
    """The fence does not stand as it must; the message says what nft said or what was read back."""


def _match(left: Rule, right: Any, op: str = "==") -> Rule:
    return {"match": {"op": op, "left": left, "right": right}}


NO_OPENINGS: frozenset[Opening] = frozenset()

_PROTOCOLS = {"icmp": 1, "tcp": 6, "ipv6-icmp": 58}
"""IANA's numbers: nft writes a name instead where there is an /etc/protocols, and slim images have none."""
_NEIGHBOUR_DISCOVERY = ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"]
_DISCOVERY: list[Rule] = [_match({"payload": {"protocol": "icmpv6", "field": "type"}}, {"set": _NEIGHBOUR_DISCOVERY}), {"accept": None}]
_FLAGS: Rule = {"payload": {"protocol": "tcp", "field": "flags"}}
_IS_RELATED = _match({"ct": {"key": "state"}}, "related")


def _loopback(interface: str) -> list[list[Rule]]:
    """The loopback, first what may not be on it: later rules would let it through. A reset may: `reject` sends it as if from where a
    connection was to go, and connection tracking begins nothing with one."""
    on_it = _match({"meta": {"key": interface}}, "lo")
    is_reset = _match({"&": [_FLAGS, "rst"]}, "rst")
    pretends = _match({"fib": {"result": "type", "flags": ["saddr"]}}, "local", "!=")
    return [[on_it, is_reset, {"accept": None}], [on_it, pretends, {"drop": None}], [on_it, {"accept": None}]]


def _port(opening: Opening, field: str) -> Rule:
    return _match({"payload": {"protocol": opening.protocol.lower(), "field": field}}, opening.port)


def chains(openings: Iterable[Opening]) -> dict[str, list[list[Rule]]]:
    """The rules. Every chain drops what no rule of it lets through."""
    opened = sorted(openings, key=lambda opening: (opening.protocol, opening.port))
    # Errors about what came in: without "packet too big", a reply over a narrow link never arrives.
    errors = [
        [_match({"meta": {"key": "l4proto"}}, _PROTOCOLS[kind]), _IS_RELATED, {"accept": None}] for kind in ("icmp", "ipv6-icmp") if opened
    ]
    reply = _match({"ct": {"key": "direction"}}, "reply")
    return {
        "input": [
            *_loopback("iifname"),
            _DISCOVERY,
            *([_port(opening, "dport"), {"accept": None}] for opening in opened),
            *errors,
        ],
        "forward": [],
        "output": [
            *_loopback("oifname"),
            _DISCOVERY,
            *([_port(opening, "sport"), reply, {"accept": None}] for opening in opened),
            *errors,
            [_match({"meta": {"key": "l4proto"}}, _PROTOCOLS["tcp"]), {"reject": {"type": "tcp reset"}}],
            [{"reject": {"type": "icmpx", "expr": "port-unreachable"}}],
        ],
    }


def _objects(openings: Iterable[Opening]) -> list[Rule]:
    """The table, its chains and rules, in nft's JSON."""
    table: Rule = {"family": FAMILY, "name": TABLE}
    objects: list[Rule] = [{"table": table}]
    for name, rules in chains(openings).items():
        chain = {"family": FAMILY, "table": TABLE, "name": name, "type": "filter", "hook": name, "prio": 0, "policy": "drop"}
        objects.append({"chain": chain})
        objects.extend({"rule": {"family": FAMILY, "table": TABLE, "chain": name, "expr": rule}} for rule in rules)
    return objects


def _transaction(openings: Iterable[Opening]) -> bytes:
    """Replaces whatever table of our name is there: added so that it can be deleted, then added anew, all or nothing."""
    table: Rule = {"table": {"family": FAMILY, "name": TABLE}}
    commands = [{"add": table}, {"delete": table}, *({"add": item} for item in _objects(openings))]
    return json.dumps({"nftables": commands}).encode()


def ensure(namespace: NetworkNamespace, openings: frozenset[Opening] = NO_OPENINGS) -> bool:
    """The fence stands in the namespace, open on just these ports, and reads back so; whether it did not before. Raises FenceFailed."""
    if stands(namespace, openings):
        return False
    done = nft(namespace, ["-j", "-f", "-"], _transaction(openings))
    if done.returncode != 0:
        raise FenceFailed(f"nft could not install the fence: {_said(done)}")
    if not stands(namespace, openings):
        raise FenceFailed("the fence did not read back as it was written")
    return True


def stands(namespace: NetworkNamespace, openings: frozenset[Opening] = NO_OPENINGS) -> bool:
    """Whether the table in the namespace is the fence with these openings, rule by rule and nothing beside it. Raises FenceFailed when
    nft can't run."""
    done = nft(namespace, ["-j", "list", "table", FAMILY, TABLE])
    if done.returncode != 0:
        return False
    try:
        listed = json.loads(done.stdout)["nftables"]
    except (ValueError, KeyError, TypeError):
        raise FenceFailed(f"nft listed what can't be read: {done.stdout[:200]!r}") from None
    found = [item for item in listed if "metainfo" not in item]
    wanted = _objects(openings)
    return sorted(map(_plain, found)) == sorted(map(_plain, wanted)) and _rules_in_order(found) == _rules_in_order(wanted)


def _rules_in_order(objects: list[Rule]) -> dict[str, list[str]]:
    chains: dict[str, list[str]] = {}
    for item in objects:
        if "rule" in item:
            chains.setdefault(item["rule"]["chain"], []).append(_plain(item))
    return chains


def _plain(item: Any) -> str:
    """One spelling for what nft spells in several ways: sets and lists of words, a word alone or in a list, `in` and `==`, one flag among
    others, and numbers it gives to objects."""
    return json.dumps(_normal(item), sort_keys=True)


def _normal(item: Any) -> Any:
    if isinstance(item, str):
        return _PROTOCOLS.get(item, item)
    if isinstance(item, dict):
        if set(item) == {"set"}:
            return _normal(item["set"])
        if "right" in item and item.get("left") == {"&": [_FLAGS, item["right"]]}:
            return _normal(item | {"left": _FLAGS})
        return {key: "==" if key == "op" and value == "in" else _normal(value) for key, value in item.items() if key != "handle"}
    if isinstance(item, list):
        words = [_normal(part) for part in item]
        if not all(isinstance(word, str) for word in words):
            return words
        return words[0] if len(words) == 1 else sorted(words)
    return item


def nft(namespace: NetworkNamespace, arguments: list[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """nft in the namespace, to its end, whatever its exit status. Raises FenceFailed when it can't be run or hangs."""
    command = ["nsenter", f"--net=/proc/self/fd/{namespace.fd}", "nft", *arguments]
    try:
        return subprocess.run(command, input=given, capture_output=True, timeout=NFT_SECONDS, pass_fds=(namespace.fd,), check=False)
    except FileNotFoundError:
        raise FenceFailed("nsenter must be installed beside the node agent (util-linux)") from None
    except subprocess.TimeoutExpired:
        raise FenceFailed(f"nft did not end within {NFT_SECONDS:.0f} s") from None


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()[:500] or f"exit status {done.returncode}"
