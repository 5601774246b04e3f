"""The fence of a pod: an nftables table in its network namespace, installed as one transaction and read back.

What leaves or enters is what stays on loopback, what belongs to a connection that was let through, and neighbour discovery
(without which IPv6 interfaces complain; nothing else can be said with it). Everything else is dropped; on its way out it is
rejected, so that a connection fails at once instead of timing out. Nothing is forwarded. The pod can't change this: it has no
NET_ADMIN.
"""

import json
import subprocess
from typing import Any

from aios_sidecar.node.netns import NetworkNamespace

FAMILY, TABLE = "inet", "aios"
NFT_SECONDS = 10.0
"""nft takes milliseconds; it hangs only when the kernel does."""

Rule = dict[str, Any]


class FenceFailed(Exception):
    """The fence does not stand as it must; the message says what nft said or what was read back."""


def _match(left: Rule, right: Any) -> Rule:
    return {"match": {"op": "==", "left": left, "right": right}}


_TCP = 6
"""IANA's number of the protocol: nft writes a name instead where there is an /etc/protocols, and slim images have none."""
_NEIGHBOUR_DISCOVERY = ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"]
_KNOWN = (
    [_match({"ct": {"key": "state"}}, {"set": ["established", "related"]}), {"accept": None}],
    [_match({"payload": {"protocol": "icmpv6", "field": "type"}}, {"set": _NEIGHBOUR_DISCOVERY}), {"accept": None}],
)
CHAINS: dict[str, tuple[list[Rule], ...]] = {
    "input": ([_match({"meta": {"key": "iifname"}}, "lo"), {"accept": None}], *_KNOWN),
    "forward": (),
    "output": (
        [_match({"meta": {"key": "oifname"}}, "lo"), {"accept": None}],
        *_KNOWN,
        [_match({"meta": {"key": "l4proto"}}, _TCP), {"reject": {"type": "tcp reset"}}],
        [{"reject": {"type": "icmpx", "expr": "port-unreachable"}}],
    ),
}
"""Every chain drops what no rule of it lets through."""


def _objects() -> list[Rule]:
    """The table, its chains and rules, in nft's JSON."""
    table: Rule = {"family": FAMILY, "name": TABLE}
    objects: list[Rule] = [{"table": table}]
    for name, rules in CHAINS.items():
        chain = {"family": FAMILY, "table": TABLE, "name": name, "type": "filter", "hook": name, "prio": 0, "policy": "drop"}
        objects.append({"chain": chain})
        objects.extend({"rule": {"family": FAMILY, "table": TABLE, "chain": name, "expr": rule}} for rule in rules)
    return objects


def _transaction() -> bytes:
    """Replaces whatever table of our name is there: added so that it can be deleted, then added anew, all or nothing."""
    table: Rule = {"table": {"family": FAMILY, "name": TABLE}}
    commands = [{"add": table}, {"delete": table}, *({"add": item} for item in _objects())]
    return json.dumps({"nftables": commands}).encode()


def ensure(namespace: NetworkNamespace) -> bool:
    """The fence stands in the namespace and reads back as written; whether it did not stand before. Raises FenceFailed."""
    if stands(namespace):
        return False
    done = _nft(namespace, ["-j", "-f", "-"], _transaction())
    if done.returncode != 0:
        raise FenceFailed(f"nft could not install the fence: {_said(done)}")
    if not stands(namespace):
        raise FenceFailed("the fence did not read back as it was written")
    return True


def stands(namespace: NetworkNamespace) -> bool:
    """Whether the table in the namespace is the fence, rule by rule and nothing beside it. Raises FenceFailed when nft can't run."""
    done = _nft(namespace, ["-j", "list", "table", FAMILY, TABLE])
    if done.returncode != 0:
        return False
    try:
        listed = json.loads(done.stdout)["nftables"]
    except (ValueError, KeyError, TypeError):
        raise FenceFailed(f"nft listed what can't be read: {done.stdout[:200]!r}") from None
    found = [item for item in listed if "metainfo" not in item]
    return sorted(map(_plain, found)) == sorted(map(_plain, _objects())) and _rules_in_order(found) == _rules_in_order(_objects())


def _rules_in_order(objects: list[Rule]) -> dict[str, list[str]]:
    chains: dict[str, list[str]] = {}
    for item in objects:
        if "rule" in item:
            chains.setdefault(item["rule"]["chain"], []).append(_plain(item))
    return chains


def _plain(item: Any) -> str:
    """One spelling for what nft spells in several ways: sets and lists of words, `in` and `==`, and numbers it gives to objects."""
    return json.dumps(_normal(item), sort_keys=True)


def _normal(item: Any) -> Any:
    if item == "tcp":
        return _TCP
    if isinstance(item, dict):
        if set(item) == {"set"}:
            return _normal(item["set"])
        return {key: "==" if key == "op" and value == "in" else _normal(value) for key, value in item.items() if key != "handle"}
    if isinstance(item, list):
        words = [_normal(part) for part in item]
        return sorted(words) if all(isinstance(word, str) for word in words) else words
    return item


def _nft(namespace: NetworkNamespace, arguments: list[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = ["nsenter", f"--net=/proc/self/fd/{namespace.fd}", "nft", *arguments]
    try:
        return subprocess.run(command, input=given, capture_output=True, timeout=NFT_SECONDS, pass_fds=(namespace.fd,), check=False)
    except FileNotFoundError:
        raise FenceFailed("nsenter must be installed beside the node agent (util-linux)") from None
    except subprocess.TimeoutExpired:
        raise FenceFailed(f"nft did not end within {NFT_SECONDS:.0f} s") from None


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()[:500] or f"exit status {done.returncode}"
