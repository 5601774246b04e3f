"""Says what is wrong on one node: what should be there and is not, what is there and should not be, who speaks where he must not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aios_bench.faults.scenario import Outcome


@dataclass(frozen=True)
class Held:
    """A claim that the kubelet has prepared and not released."""

    agent: str
    booked_bytes: int
    pod: str | None = None
    """The pod that runs for it; None while none does."""


@dataclass(frozen=True)
class Look:
    """What a look at the node found, by claim where it is a claim's."""

    states: frozenset[str] = frozenset()
    """State files that can be believed."""
    known: frozenset[str] = frozenset()
    """Claims whose state names their pod: without that nobody looks at its fence, nor at what it uses."""
    cdi_files: frozenset[str] = frozenset()
    """CDI files that are as they must be."""
    directories: frozenset[str] = frozenset()
    strays: tuple[str, ...] = ()
    """Files that are neither: of writes that were cut short, or damaged and not set aside; tables outside of pods."""
    fenced: Mapping[str, bool] = field(default_factory=dict)
    """By claim, whether the fence stands in its pod's network namespace and is as it must be."""
    voices: Mapping[str, str] = field(default_factory=dict)
    """By place (`socket <claim>`, `loopback <pod>`), the Agent that answers there."""
    booked_bytes: int = 0
    """As the node agent says."""
    prepared: int = 0
    """Claims, as the node agent says."""
    served: int = 0
    """Agents, as the gateway says."""
    workers: int = 1
    """Processes that watch a GPU."""
    gpus: int = 1


def judge(held: Mapping[str, Held], look: Look) -> Outcome:
    """What is wrong, counted, with a sentence for each. Nothing is, when every number is 0."""
    lost = [f"claim {uid} has no {what}" for what, found in _files(look) for uid in held.keys() - found]
    orphans = [f"a {what} of claim {uid} is left" for what, found in _files(look) for uid in found - held.keys()]
    orphans += [f"{stray} is left" for stray in look.strays]
    unfenced = [f"pod {claim.pod} is not behind its fence" for uid, claim in held.items() if claim.pod and not look.fenced.get(uid, False)]
    lost += [f"nothing is known of pod {claim.pod}" for uid, claim in held.items() if claim.pod and uid not in look.known]
    expected = _expected(held)
    lost += [f"{agent} is not answered at {place}" for place, agent in expected.items() if place not in look.voices]
    doubled = [
        f"{agent} is answered at {place}, which is {expected.get(place, 'nobody')}'s"
        for place, agent in look.voices.items()
        if expected.get(place) != agent
    ]
    for what, number in (("claims are prepared", look.prepared), ("agents are served", look.served)):
        (orphans if number > len(held) else lost).extend([f"{number} {what}, not {len(held)}"] * abs(number - len(held)))
    if look.workers != look.gpus:
        (orphans if look.workers > look.gpus else lost).append(f"{look.workers} processes watch {look.gpus} GPUs")
    booked = sum(claim.booked_bytes for claim in held.values())
    misbooked = [f"{look.booked_bytes} bytes are booked, the claims hold {booked}"] if look.booked_bytes != booked else []
    return Outcome(
        objects_lost=len(lost),
        orphans=len(orphans),
        double_identities=len(doubled),
        unfenced_starts=len(unfenced),
        bytes_misbooked=abs(look.booked_bytes - booked),
        notes=(*lost, *orphans, *doubled, *unfenced, *misbooked),
    )


def _files(look: Look) -> tuple[tuple[str, frozenset[str]], ...]:
    return ("state file", look.states), ("CDI file", look.cdi_files), ("directory", look.directories)


def _expected(held: Mapping[str, Held]) -> dict[str, str]:
    voices = {f"socket {uid}": claim.agent for uid, claim in held.items()}
    return voices | {f"loopback {claim.pod}": claim.agent for claim in held.values() if claim.pod}
