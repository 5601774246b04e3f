"""Dialogues with questions and the items that answer them: read from a file, in the layout of public conversation-memory benchmarks."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from aios_sidecar.context.items import Draft, Item, Role
from aios_sidecar.context.memory import numbered

UNANSWERABLE: Final = 5
"""The category of questions that nothing answers: no item can be recalled for them."""
_EVIDENCE: Final = re.compile(r"D:?\s*(\d+)\s*:\s*0*(\d+)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FORMS: Final = ("%I:%M %p on %d %B, %Y", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%d %B %Y", "%Y-%m-%d")


class InvalidDataset(ValueError):
    """The file is not in the layout; the message says where, and what must be there."""


@dataclass(frozen=True)
class Question:
    """Asked after the whole conversation."""

    text: str
    category: int
    gold: frozenset[int]
    """The items that answer it, by number."""


@dataclass(frozen=True)
class Dialogue:
    """One conversation as a log, and what is asked of it."""

    items: Sequence[Item]
    questions: Sequence[Question]


def load(path: Path) -> list[Dialogue]:
    """The dialogues of a file. Raises InvalidDataset."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InvalidDataset(f"{path} must be JSON: {problem}") from None
    if not isinstance(document, list) or not document:
        raise InvalidDataset(f"{path} must be a list of conversations")
    return [dialogue(each, f"{path.name}[{index}]") for index, each in enumerate(document)]


def dialogue(document: Any, where: str) -> Dialogue:
    """One entry of a dataset: `{conversation: {session_1: [{speaker, dia_id, text}], session_1_date_time, …}, qa: […]}`.

    Questions of category 5, and those whose evidence names nothing that is there, are left out.
    """
    if not isinstance(document, dict) or not isinstance(document.get("conversation"), dict) or not isinstance(document.get("qa"), list):
        raise InvalidDataset(f"{where} must have conversation (an object) and qa (a list)")
    conversation = document["conversation"]
    drafts: list[Draft] = []
    numbers: dict[tuple[int, int], int] = {}
    moment = _EPOCH
    speakers = (conversation.get("speaker_a"), conversation.get("speaker_b"))
    for session in sorted(int(match[1]) for key in conversation if (match := re.fullmatch(r"session_(\d+)", key))):
        moment = max(moment, _moment(conversation.get(f"session_{session}_date_time"), moment + timedelta(days=1)))
        for turn in conversation[f"session_{session}"]:
            place = _place(turn, f"{where}.session_{session}")
            numbers.setdefault(place, len(drafts) + 1)
            role = Role.ASSISTANT if turn["speaker"] == speakers[1] else Role.USER
            drafts.append(Draft(role, said(turn), session=f"session-{session}", author=turn["speaker"], time=moment))
    questions = []
    for each in document["qa"]:
        gold = frozenset(numbers[place] for place in evidence(each.get("evidence")) if place in numbers)
        if gold and each.get("category") != UNANSWERABLE:
            questions.append(Question(str(each["question"]), int(each.get("category", 0)), gold))
    return Dialogue(numbered(drafts, _EPOCH), questions)


def said(turn: Mapping[str, Any]) -> str:
    """What a turn says; a picture that it shows is known by its caption."""
    caption = turn.get("blip_caption")
    return f"{turn['text']} (image: {caption})" if caption else str(turn["text"])


def evidence(named: Any) -> list[tuple[int, int]]:
    """Session and turn of each id in a field that has one id or several, however they are written: `D1:3`, `D8:6; D9:17`, `D:11:26`."""
    texts = named if isinstance(named, list) else [named]
    return [(int(session), int(turn)) for text in texts for session, turn in _EVIDENCE.findall(str(text))]


def _place(turn: Any, where: str) -> tuple[int, int]:
    if not isinstance(turn, dict) or not all(isinstance(turn.get(field), str) for field in ("speaker", "dia_id", "text")):
        raise InvalidDataset(f"{where}: a turn must have speaker, dia_id and text")
    places = evidence(turn["dia_id"])
    if len(places) != 1:
        raise InvalidDataset(f"{where}: dia_id must be such as D1:3, not {turn['dia_id']}")
    return places[0]


def _moment(written: Any, otherwise: datetime) -> datetime:
    """When a session began; a day after the one before where that can't be read."""
    for form in _FORMS:
        try:
            return datetime.strptime(str(written).strip(), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return otherwise
