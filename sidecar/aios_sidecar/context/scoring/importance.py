"""Importance without a question: what is concrete. Names, numbers, times, the first person and decisions are asked for later; questions and
small talk hardly ever.

On a public dialogue benchmark a tenth of the history chosen this way holds 2.7 times as much of what was later asked for as the newest
tenth does (docs/design/0007-context.md). What was asked for before is likely to be asked for again: base-level activation.
"""

import re
from datetime import datetime
from typing import Final, NamedTuple

from aios_sidecar.context.items import Accesses, Item

_NAME: Final = re.compile(r"(?<![.!?…:] )(?<!^)\b[A-Z][a-zà-ÿ]+")
_NUMBER: Final = re.compile(
    r"\d+|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|million|first|second|third|once|twice)\b",
    re.I,
)
_TIME: Final = re.compile(
    r"\b(?:yesterday|today|tomorrow|tonight|weeks?|weekends?|months?|years?|days?|mornings?|afternoons?|evenings?|nights?|ago|last|next|recently|"
    r"soon|since|until|january|february|march|april|may|june|july|august|september|october|november|december|mondays?|tuesdays?|wednesdays?|"
    r"thursdays?|fridays?|saturdays?|sundays?|summer|winter|spring|autumn|fall|\d{1,2}(?::\d\d)? ?[ap]m|\d{4}-\d\d-\d\d)\b",
    re.I,
)
_FIRST_PERSON: Final = re.compile(r"\b(?:I|I'm|I've|I'd|I'll|[Mm]y|[Ww]e|[Oo]ur|[Mm]ine|[Mm]e|[Uu]s)\b")
_DECISION: Final = re.compile(
    r"\b(?:decid\w+|decision|agreed?|chose\w*|choos\w+|bought|ordered|booked|signed|joined|started|finished|moved|adopted|accepted|rejected|"
    r"cancell?ed|promis\w+|plan(?:s|ned|ning)?|going to|must|never|always|will use|prefer\w*|approved|deadline)\b",
    re.I,
)
CAP: Final = 4
"""More of one feature than that adds nothing: a list of names is not the most important thing."""
NAME_WEIGHT: Final = 2.0
NUMBER_WEIGHT: Final = 1.0
TIME_WEIGHT: Final = 2.0
FIRST_PERSON_WEIGHT: Final = 0.5
DECISION_WEIGHT: Final = 1.0
QUESTION_WEIGHT: Final = -2.0
SPAN: Final = 12.0
"""The sum that counts as importance 1."""
DECAY: Final = 0.5
"""Of activation, as in ACT-R."""
ACTIVATION_WEIGHT: Final = 0.5
_HOUR: Final = 3600.0
_SOONEST_HOURS: Final = 1 / 60


class Features(NamedTuple):
    """What is concrete in a text, counted up to `CAP`."""

    names: int
    numbers: int
    times: int
    first_person: int
    decisions: int
    questions: int
    asks: bool
    """It ends with a question."""


def features(text: str) -> Features:
    return Features(
        min(CAP, len(_NAME.findall(text))),
        min(CAP, len(_NUMBER.findall(text))),
        min(CAP, len(_TIME.findall(text))),
        min(CAP, len(_FIRST_PERSON.findall(text))),
        min(CAP, len(_DECISION.findall(text))),
        min(2, text.count("?")),
        text.rstrip().endswith("?"),
    )


def concreteness(found: Features) -> float:
    """How much there is in a text that may be asked for later. About 0 to 1; below 0 for what only asks."""
    total = (
        NAME_WEIGHT * found.names
        + NUMBER_WEIGHT * found.numbers
        + TIME_WEIGHT * found.times
        + FIRST_PERSON_WEIGHT * found.first_person
        + DECISION_WEIGHT * found.decisions
        + QUESTION_WEIGHT * found.questions
    )
    return total / SPAN


def activation(accesses: Accesses, created: datetime, now: datetime) -> float:
    """How present an item is by its accesses, 0 to 1.

    Base-level learning of ACT-R (Anderson and Schooler 1991): the sum of t^-d over the times t since each access, here in hours and
    mapped by x/(1+x). Beyond the last times that are kept, Petrov's approximation (2006) spreads the accesses evenly between creation and
    the oldest."""
    count, last = accesses
    if count == 0 or not last:
        return 0.0
    since = [max(_SOONEST_HOURS, (now - moment).total_seconds() / _HOUR) for moment in last]
    total: float = sum(hours**-DECAY for hours in since)
    others, life, oldest = count - len(since), max(_SOONEST_HOURS, (now - created).total_seconds() / _HOUR), max(since)
    if others > 0 and life > oldest:
        total += others * (life ** (1 - DECAY) - oldest ** (1 - DECAY)) / ((1 - DECAY) * (life - oldest))
    return total / (1 + total)


def importance(item: Item, concrete: float, now: datetime) -> float:
    """What decides whether an item stays: its content (`concreteness`), or what the agent said of it, and how often it was asked for."""
    own = concrete if item.importance is None else item.importance
    return own + ACTIVATION_WEIGHT * activation(item.accesses, item.time, now)
