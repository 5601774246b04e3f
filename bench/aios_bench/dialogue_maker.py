"""Generated dialogues with questions, in the layout of `dialogues`: two people talk over many sessions, and tell, change and correct facts.

Seeds below `TEST_FROM` are for choosing weights, those from there on for reporting. Names and the values of facts are drawn by the seed.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final

from aios_bench.dialogue_facts import OTHERS, RELATIONS, SMALL_TALK, SPEAKERS, WHEN, Relation

TEST_FROM: Final = 5
"""The first seed of the test half."""
TRAIN: Final = range(TEST_FROM)
TEST: Final = range(TEST_FROM, 2 * TEST_FROM)
SESSIONS: Final = 20
SMALL_TALK_TURNS: Final = (14, 24)
"""Of a session, beside its facts."""
MULTI_HOP, TEMPORAL, OPEN, SINGLE_HOP = 1, 2, 3, 4
"""Categories, as the public benchmarks number them."""
_START: Final = datetime(2024, 2, 3, 18, 20)


@dataclass
class _Told:
    """A fact and the turns that tell it."""

    relation: Relation
    speaker: int
    value: str
    ids: list[str]


@dataclass
class _Maker:
    random: Random
    names: tuple[str, str]
    sessions: list[list[dict[str, str]]] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)

    def say(self, speaker: int, template: str, **values: str) -> str:
        """The turn is in the last session; its id comes back."""
        text = template.format(
            me=self.names[speaker],
            you=self.names[1 - speaker],
            p=self.random.choice(OTHERS),
            w=self.random.choice(WHEN),
            **{"v": "", "o": "", **values},
        )
        session = self.sessions[-1]
        place = f"D{len(self.sessions)}:{len(session) + 1}"
        session.append({"speaker": self.names[speaker], "dia_id": place, "text": text[0].upper() + text[1:]})
        return place

    def small_talk(self, turns: int) -> None:
        for number in range(turns):
            self.say(number % 2, self.random.choice(SMALL_TALK))

    def tell(self, speaker: int, relation: Relation, value: str) -> _Told:
        line = self.random.choice(relation.told)
        if isinstance(line, str):
            return _Told(relation, speaker, value, [self.say(speaker, line, v=value)])
        self.say(1 - speaker, line[0])
        return _Told(relation, speaker, value, [self.say(speaker, line[1], v=value)])

    def ask(self, category: int, templates: tuple[str, ...], told: _Told, evidence: list[str], answer: str) -> None:
        if templates:
            question = self.random.choice(templates).format(s=self.names[told.speaker])
            self.questions.append({"question": question, "answer": answer, "evidence": evidence, "category": category})


def make(seed: int) -> dict[str, Any]:
    """One conversation and its questions; the same for the same seed."""
    random = Random(seed)  # noqa: S311  reproducible, not secret
    maker = _Maker(random, SPEAKERS[seed % len(SPEAKERS)])
    agenda = _agenda(random)
    told: dict[tuple[int, int], list[_Told]] = {}
    for session in range(SESSIONS):
        maker.sessions.append([])
        maker.small_talk(random.randrange(2, 6))
        for kind, speaker, index in agenda[session]:
            relation = RELATIONS[index]
            _happen(maker, kind, speaker, relation, told.setdefault((speaker, index), []))
            maker.small_talk(random.randrange(1, 5))
        maker.small_talk(random.randrange(*SMALL_TALK_TURNS) // 2)
    for facts in told.values():
        _ask(maker, facts)
    random.shuffle(maker.questions)
    moments = [_START + timedelta(days=9 * number + random.randrange(5), minutes=random.randrange(240)) for number in range(SESSIONS)]
    conversation: dict[str, Any] = {"speaker_a": maker.names[0], "speaker_b": maker.names[1]}
    for number, (turns, moment) in enumerate(zip(maker.sessions, moments, strict=True), 1):
        conversation[f"session_{number}"] = turns
        conversation[f"session_{number}_date_time"] = f"{moment:%I:%M %p} on {moment.day} {moment:%B, %Y}"
    return {"sample_id": f"generated-{seed}", "conversation": conversation, "qa": maker.questions}


def dataset(seeds: range) -> list[dict[str, Any]]:
    return [make(seed) for seed in seeds]


def _agenda(random: Random) -> list[list[tuple[str, int, int]]]:
    """What happens in which session: facts of both speakers, later changes and corrections, and what is told of others."""
    agenda: list[list[tuple[str, int, int]]] = [[] for _ in range(SESSIONS)]
    for index, relation in enumerate(RELATIONS):
        for speaker in (0, 1):
            first = random.randrange(SESSIONS - 6)
            agenda[first].append(("tell", speaker, index))
            if relation.changed and random.random() < 0.7:
                agenda[random.randrange(first + 1, SESSIONS)].append(("change", speaker, index))
            elif relation.several:
                agenda[random.randrange(first + 1, SESSIONS)].append(("tell", speaker, index))
            elif random.random() < 0.3:
                agenda[random.randrange(first, SESSIONS)].append(("correct", speaker, index))
        for _ in range(2 if relation.about_others else 0):
            agenda[random.randrange(SESSIONS)].append(("other", random.randrange(2), index))
    for session in agenda:
        random.shuffle(session)
        session.sort(key=lambda each: each[0] != "tell")  # a fact is told before it changes in the same session
    return agenda


def _happen(maker: _Maker, kind: str, speaker: int, relation: Relation, facts: list[_Told]) -> None:
    fresh = [value for value in relation.values if value not in {told.value for told in facts}]
    value = maker.random.choice(fresh)
    match kind:
        case "tell":
            facts.append(maker.tell(speaker, relation, value))
        case "change":
            place = maker.say(speaker, maker.random.choice(relation.changed), v=value, o=facts[-1].value)
            facts.append(_Told(relation, speaker, value, [place]))
        case "correct":
            maker.say(1 - speaker, "You said it was {v}, right?", v=value)
            facts[-1].ids.append(maker.say(speaker, "No, no, {v}. You are mixing things up.", v=facts[-1].value))
        case "other":
            maker.say(speaker, maker.random.choice(relation.about_others), v=value)


def _ask(maker: _Maker, facts: list[_Told]) -> None:
    """What can be asked once all is told."""
    first, last = facts[0], facts[-1]
    relation = first.relation
    if len(facts) == 1:
        maker.ask(SINGLE_HOP, relation.asked, first, first.ids[:1], first.value)
        maker.ask(TEMPORAL, relation.when, first, first.ids[:1], "")
        maker.ask(OPEN, relation.open, first, first.ids[:1], "")
    elif relation.several and not relation.changed:
        everything = [place for told in facts for place in told.ids]
        maker.ask(MULTI_HOP, relation.several, first, everything, ", ".join(told.value for told in facts))
    else:
        maker.ask(SINGLE_HOP, relation.asked_now, last, last.ids, last.value)
        maker.ask(MULTI_HOP, relation.asked_before, last, [*first.ids[:1], *last.ids[:1]], first.value)
        maker.ask(TEMPORAL, relation.when, last, last.ids, "")
