"""Logs of every kind for property tests: sessions that run at once, calls in parallel, results that are late, missing, doubled or without
a call, pins, erased items, names and ids that providers refuse, texts in many scripts."""

from hypothesis import strategies as st

from aios_sidecar.context.items import Accesses, Draft, Item, Kind, Role
from aios_sidecar.context.memory import DAWN, numbered
from aios_sidecar.context.reader import Forks

WORDS = (
    "Anna",
    "trip",
    "paid 30 €",
    "yesterday",
    "I decided",
    "why?",
    "naïve",
    "東京",
    "🎉",
    "\n",
    "[x]",
    "/",
    "<|endoftext|>",
    "ok",
    "!",
    " ",
    "",
)
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join) | st.text(max_size=20)
sessions = st.sampled_from(["main", "main", "side"])
ids = st.sampled_from(["c1", "c2", "c3", "call/4 ä", "call_4__"])
authors = st.none() | st.sampled_from(["Anna", "Jean-Luc Ödön", "bot <1>"])
results = st.builds(lambda s, i, t: Draft(Role.TOOL, t, Kind.TOOL_RESULT, s, call_id=i), sessions, ids, texts)
calls = st.builds(
    lambda s, i, n, t: Draft(Role.ASSISTANT, ({"type": "tool_call", "name": n, "arguments": {"q": t}},), Kind.TOOL_CALL, s, call_id=i),
    sessions,
    ids,
    st.sampled_from(["search", "web.find page"]),
    texts,
)
messages = st.builds(
    lambda s, r, a, t: Draft(r, t, session=s, author=a), sessions, st.sampled_from([Role.USER, Role.ASSISTANT, Role.SYSTEM]), authors, texts
)
others = st.builds(
    lambda s, k, t: Draft(Role.USER, ({"type": "text", "text": t}, {"type": "data", "mediaType": "image/png", "data": "AAAA"}), k, s),
    sessions,
    st.sampled_from([Kind.OBSERVATION, Kind.NOTE]),
    texts,
)
drafts = st.one_of(messages, messages, calls, results, others)


@st.composite
def logs(draw: st.DrawFn, max_size: int = 24) -> list[Item]:
    """Up to `max_size` items as a Reader shows them."""
    items = numbered(draw(st.lists(drafts, max_size=max_size)), DAWN)
    pins = draw(st.sets(st.integers(1, max(1, len(items))), max_size=3))
    erased = draw(st.sets(st.integers(1, max(1, len(items))), max_size=2))
    asked = draw(st.sets(st.integers(1, max(1, len(items))), max_size=3))
    return [
        item._replace(
            pinned=item.seq in pins,
            erased=item.seq in erased,
            accesses=Accesses(2, (item.time, item.time)) if item.seq in asked else item.accesses,
        )
        for item in items
    ]


@st.composite
def forks(draw: st.DrawFn, items: list[Item]) -> Forks:
    """Whether the session `side` of such a log is a fork of `main`, and from where: what they share is from before its own items."""
    first = next((item.seq for item in items if item.session == "side"), len(items) + 1)
    shared = [item.seq for item in items if item.session == "main" and item.seq < first]
    return {"side": ("main", draw(st.sampled_from(shared)))} if shared and draw(st.booleans()) else {}
