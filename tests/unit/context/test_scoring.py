"""What answers a question, in small logs and in large ones, and what matters without one."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_sidecar.context.items import Accesses, Draft, Role
from aios_sidecar.context.memory import DAWN, MemoryReader
from aios_sidecar.context.scoring import QueryScorer, words
from aios_sidecar.context.scoring.base import Known, Scored
from aios_sidecar.context.scoring.importance import activation, concreteness, features
from aios_sidecar.context.scoring.query import COMMON_ITEMS, WHOLE_LOG_ITEMS

LATER = DAWN + timedelta(days=10)


def said(text: str, author: str = "Anna", session: str = "main") -> Draft:
    return Draft(Role.USER, text, session=session, author=author)


def filler(count: int) -> list[Draft]:
    return [said(f"Nothing new here, entry {n}.") for n in range(count)]


def best(drafts: list[Draft], question: str, session: str | None = None) -> list[Scored]:
    return list(QueryScorer().score(question, MemoryReader.of(drafts), Known(), session))


@pytest.mark.parametrize("size", [100, WHOLE_LOG_ITEMS + 500])
def test_the_item_with_the_words_comes_first_and_its_neighbours_after_it(size: int):
    drafts = filler(size)
    drafts[50] = said("Who watches the lighthouse now?", "Ben")
    drafts[51] = said("My uncle does.")
    ranked = best(drafts, "Who is the keeper of the lighthouse?")
    assert ranked[0].seq == 51
    assert ranked[1].seq == 52
    assert ranked[1].parts["neighbours"] > 0
    assert "words" not in ranked[1].parts
    assert all(scored.score == pytest.approx(sum(scored.values)) for scored in ranked)


def test_in_a_large_log_only_what_is_near_a_hit_is_named():
    drafts = filler(WHOLE_LOG_ITEMS + 500)
    drafts[1000] = said("The lighthouse is red.")
    assert {scored.seq for scored in best(drafts, "lighthouse?")} == set(range(998, 1005))


def test_neighbours_are_those_of_the_session_also_when_two_run_at_once():
    for size in (50, WHOLE_LOG_ITEMS):
        drafts = [said(f"Entry {n}.", session=("a", "b")[n % 2]) for n in range(2 * size)]
        drafts[40] = said("Have you seen the lighthouse?", session="a")
        ranked = {scored.seq: scored for scored in best(drafts, "What of the lighthouse?")}
        assert ranked[43].parts["neighbours"] > 0
        assert 42 not in ranked or "neighbours" not in ranked[42].parts


def test_a_word_that_is_everywhere_separates_nothing():
    drafts = [said(f"The project goes on, entry {n}.") for n in range(COMMON_ITEMS + 50)]
    drafts[30] = said("Whoever it was, the lighthouse is safe.")
    ranked = best(drafts, "Does the project have a lighthouse?")
    assert ranked[0].seq == 31
    assert sum("words" in scored.parts for scored in ranked) == 1


def test_items_that_ask_are_worth_less_than_items_that_tell():
    ranked = best([said("What colour is the roof?"), said("The colour of the roof is red.")], "Which colour has the roof?")
    assert [scored.seq for scored in ranked] == [2, 1]


def test_a_question_for_a_time_prefers_what_names_one():
    ranked = best([said("The parade was loud."), said("The parade was in June.")], "When was the parade?")
    assert ranked[0].seq == 2
    assert ranked[0].parts["time"] > 0


def test_nothing_is_named_of_an_empty_log_or_another_session():
    assert best([], "lighthouse?") == []
    assert [scored.seq for scored in best([said("lighthouse"), said("lighthouse", session="side")], "lighthouse?", "side")] == [2]


def test_what_is_appended_later_is_known_too():
    known, scorer = Known(), QueryScorer()
    drafts = filler(20)
    list(scorer.score("lighthouse?", MemoryReader.of(drafts), known, None))
    ranked = list(scorer.score("lighthouse?", MemoryReader.of([*drafts, said("A lighthouse!")]), known, None))
    assert ranked[0].seq == 21


def test_a_session_that_was_empty_is_looked_at_again():
    """A fork has the name of no session before, and begins with older items."""
    known, scorer = Known(), QueryScorer()
    drafts = filler(3)
    assert list(scorer.score("entry?", MemoryReader.of(drafts), known, "fork")) == []
    forked = [draft._replace(session="fork") for draft in drafts]
    assert len(list(scorer.score("entry?", MemoryReader.of(forked), known, "fork"))) == 3


@given(st.text(max_size=60))
def test_any_question_is_answered(question: str):
    ranked = best([said("One."), said("Two.", session="side")], question)
    assert [scored.score for scored in ranked] == sorted((scored.score for scored in ranked), reverse=True)


def test_the_words_of_a_question_are_those_that_say_what_it_is_about():
    assert words.parse("When did Anna's brother move to Porto?") == words.Question(("anna", "brother", "move", "porto"), True)
    assert words.parse("Who is it?").words == ()


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ("We met Maria in Porto.", "We met someone somewhere."),
        ("It cost 30 euros.", "It cost a lot."),
        ("I will call tomorrow.", "I will call."),
        ("I painted the door.", "Someone painted the door."),
        ("They decided to wait.", "They liked to wait."),
        ("It is blue.", "Is it blue?"),
    ],
)
def test_what_is_concrete_is_more_important(more: str, less: str):
    assert concreteness(features(more)) > concreteness(features(less))


def test_activation_rises_with_use_and_fades_with_time():
    once = Accesses(1, (LATER - timedelta(hours=5),))
    assert activation(Accesses(), DAWN, LATER) == 0
    assert 0 < activation(once, DAWN, LATER + timedelta(days=9)) < activation(once, DAWN, LATER) < 1
    assert activation(Accesses(2, (*once.last, *once.last)), DAWN, LATER) > activation(once, DAWN, LATER)
    assert activation(Accesses(50, once.last * 8), DAWN, LATER) > activation(Accesses(8, once.last * 8), DAWN, LATER)
