"""Names to addresses. Only here, and only for hosts that a policy allows: an agent has no resolver of its own."""

import asyncio
import ipaddress
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from aios_api.addresses import Address
from aios_sidecar.gateway.problems import Problem, ProblemKind
from aios_sidecar.gateway.settings import EgressLimits

FOUND_SECONDS: Final = 5.0
FAILED_SECONDS: Final = 2.0
"""How long an answer is used again. The system's resolver tells no time to live; this spares a busy agent from asking for each request."""
CACHE_LIMIT: Final = 4096
ADDRESSES_LIMIT: Final = 256
"""Of one name: each is checked, and nobody waits long for it. One with more is refused, since some of them would go unseen."""


class Names(Protocol):
    """Resolves host names."""

    async def resolve(self, host: str, who: Hashable) -> tuple[Address, ...]:
        """Every address of `host`, at least one, asked for by `who`. Raises Problem."""


def _ask(host: str) -> tuple[Address, ...]:
    """The system's resolver. The dot at the end keeps its search domains out: a name that was judged is the name that is asked for."""
    found = socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found)
    return tuple(addresses)


class SystemNames:
    """The system's resolver in threads. One agent has at most `limits.lookups` of them at once, awaited or not; and only one while more
    than half of all are busy, so that a few agents with dead name servers leave threads to the others."""

    def __init__(self, limits: EgressLimits, ask: Callable[[str], tuple[Address, ...]] = _ask) -> None:
        self._seconds = limits.resolve_seconds
        self._lookups = limits.lookups
        self._thread_count = limits.lookup_threads
        self._ask = ask
        self._threads = ThreadPoolExecutor(limits.lookup_threads, thread_name_prefix="names")
        self._loop = asyncio.get_running_loop()
        self._busy: Counter[Hashable] = Counter()
        self._under_way: dict[str, asyncio.Future[tuple[Address, ...]]] = {}
        self._known: OrderedDict[str, tuple[float, tuple[Address, ...]]] = OrderedDict()

    async def resolve(self, host: str, who: Hashable) -> tuple[Address, ...]:
        known = self._known.get(host)
        if known is None or known[0] < self._loop.time():
            try:
                async with asyncio.timeout(self._seconds):
                    addresses = await asyncio.shield(self._asked(host, who))
            except TimeoutError:
                raise Problem(ProblemKind.NAME_NOT_RESOLVED, f"{host} was not resolved within {self._seconds:g} seconds.") from None
        else:
            addresses = known[1]
        if not addresses:
            raise Problem(ProblemKind.NAME_NOT_RESOLVED, f"{host} has no address.")
        if len(addresses) > ADDRESSES_LIMIT:
            raise Problem(ProblemKind.ADDRESS_DENIED, f"{host} has more than {ADDRESSES_LIMIT} addresses.")
        return addresses

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _asked(self, host: str, who: Hashable) -> "asyncio.Future[tuple[Address, ...]]":
        """The answer to come; one question for all who ask for the same host meanwhile."""
        answer = self._under_way.get(host)
        if answer is None:
            crowded = len(self._under_way) >= self._thread_count // 2
            if self._busy[who] >= (1 if crowded else self._lookups):
                raise Problem(
                    ProblemKind.TOO_MANY_LOOKUPS,
                    f"An agent may have {self._lookups} names resolved at once, and one while many others wait for theirs.",
                    {"Retry-After": "1"},
                )
            self._busy[who] += 1
            answer = self._under_way[host] = asyncio.ensure_future(self._answer(host, who))
        return answer

    async def _answer(self, host: str, who: Hashable) -> tuple[Address, ...]:
        try:
            addresses = await self._loop.run_in_executor(self._threads, self._ask, host)
        except (OSError, UnicodeError, ValueError):  # no such name, no server, a name that the resolver does not take
            addresses = ()
        finally:
            del self._under_way[host]
            self._busy[who] -= 1
            if not self._busy[who]:
                del self._busy[who]
        self._known[host] = self._loop.time() + (FOUND_SECONDS if addresses else FAILED_SECONDS), addresses[: ADDRESSES_LIMIT + 1]
        self._known.move_to_end(host)
        if len(self._known) > CACHE_LIMIT:
            self._known.popitem(last=False)
        return addresses
