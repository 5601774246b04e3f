"""The words of a question that say what it is about."""

import re
from typing import Final, NamedTuple

_WORD: Final = re.compile(r"\w+(?:['’]\w+)?")
_TIME_QUESTION: Final = re.compile(r"\s*(?:when\b|what (?:date|year|month|day|time)\b|how long\b|since when\b)", re.I)
_EMPTY: Final = """
a about above after again against ago all also am an and any are as at be because been before being below between both but by can
cannot could d did do does doing done down during each few for from further had happen happened happening has have having he her here
hers him his how i if in into is it its just ll long m many may me might mine more most much must my no nor not now of off on once
only or other our ours out over own re s same shall she should so some such t than that the their theirs them then there these they
this those through to too under until up us ve very was we were what when where which while who whom whose why will with would you
your yours
"""
EMPTY_WORDS: Final = frozenset(_EMPTY.split())
"""Words that say nothing of what is asked. English; other languages lose a little precision and no recall."""


class Question(NamedTuple):
    """What a question is about."""

    words: tuple[str, ...]
    """In lower case, each once, empty words left out."""
    asks_when: bool


def parse(question: str) -> Question:
    found = (re.sub(r"['’]s?$|['’].*$", "", word.lower()) for word in _WORD.findall(question))
    words = tuple(dict.fromkeys(word for word in found if word and word not in EMPTY_WORDS))
    return Question(words, _TIME_QUESTION.match(question) is not None)
