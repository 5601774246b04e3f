"""Drafts made ready in the caller's thread, so that the one thread that writes an agent's file has little left to do."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aios_sidecar.context.errors import ContextError
from aios_sidecar.context.items import Draft, InvalidItem, check, encode_content, microseconds, overhead, text_of
from aios_sidecar.context.limits import Limits
from aios_sidecar.context.store import KEY_LENGTH


class Ready(NamedTuple):
    """One draft and what is written of it."""

    draft: Draft
    time: int | None
    content: str
    content_bytes: int
    """With what else of it takes room: see `items.weight`."""
    text: str


class Batch(NamedTuple):
    """The drafts of one append, with the digest that an idempotency key stands for."""

    ready: Sequence[Ready]
    key: str | None
    digest: bytes
    content_bytes: int


def prepare(drafts: Sequence[Draft], key: str | None, limits: Limits) -> Batch:
    """Raises InvalidItem for a draft that can't be kept, with its place in the batch; ContextError for a key or a batch that can't be."""
    if not 0 < len(drafts) <= limits.batch:
        raise InvalidItem(f"items must be 1 to {limits.batch} in one append, not {len(drafts)}")
    if key is not None and not (0 < len(key) <= KEY_LENGTH and key.isprintable()):
        raise ContextError(f"an idempotency key must have 1 to {KEY_LENGTH} printable characters")
    ready, total = [], 0
    for index, draft in enumerate(drafts):
        try:
            size = check(draft, limits.item_bytes) + overhead(draft)
        except InvalidItem as error:
            raise InvalidItem(str(error) if len(drafts) == 1 else f"items[{index}].{error}") from None
        total += size
        time = None if draft.time is None else microseconds(draft.time)
        content = encode_content(draft.content)
        ready.append(Ready(draft, time, content, size, content if isinstance(draft.content, str) else text_of(draft.content)))
    return Batch(ready, key, b"" if key is None else _digest(ready), total)


def _digest(ready: Sequence[Ready]) -> bytes:
    digest = hashlib.sha256()
    for each in ready:
        draft = each.draft
        fields = (draft.role, draft.kind, draft.session, draft.author, draft.call_id, draft.derived_from, each.time, each.content)
        digest.update(json.dumps([*fields, dict(draft.labels), dict(draft.tokens)], sort_keys=True).encode())
    return digest.digest()


def compact(values: Mapping[str, object] | tuple[int, ...]) -> str | None:
    """JSON of what is not empty."""
    if not values:
        return None
    return json.dumps(values if isinstance(values, tuple) else dict(values), ensure_ascii=False, separators=(",", ":"))
