"""What every back end of the context store does, whichever it is."""

import threading
from datetime import timedelta

import pytest

from aios_sidecar.context.errors import Conflict, ContextError, Fenced, LimitReached, NotThere
from aios_sidecar.context.items import Accesses, Draft, InvalidItem, Kind, Role, Usage
from aios_sidecar.context.limits import Limits
from aios_sidecar.context.store import Appended, Scope, in_ranges, ranges
from unit.context.support import KEY, call, kept, read, said, texts


def test_items_come_back_as_they_were_with_numbers_and_times(store, clock):
    context = store.context(KEY, 1)
    drafts = [
        Draft(Role.USER, "hello, Łódź", author="ann", labels={"topic": "trip"}, tokens={"o200k": 3}),
        Draft(Role.USER, ({"type": "text", "text": "look"}, {"type": "data", "mediaType": "image/png", "data": "AA=="}), session="b"),
        *call("c1"),
        Draft(Role.ASSISTANT, "they met", Kind.SUMMARY, derived_from=(1, 2)),
    ]
    assert context.append(drafts[:-1]) == Appended(1, 4)
    drafts[-1] = drafts[-1]._replace(time=clock.now + timedelta(minutes=4))
    assert context.append(drafts[-1:]) == Appended(5, 5)
    items = read(context, lambda reader: reader.range(1, 5))
    assert [item.seq for item in items] == [1, 2, 3, 4, 5]
    for item, draft in zip(items, drafts, strict=True):
        for name in ("role", "kind", "content", "session", "author", "call_id", "derived_from", "labels", "tokens"):
            assert getattr(item, name) == getattr(draft, name)
        assert (item.pinned, item.importance, item.erased, item.accesses) == (False, None, False, Accesses())
    assert items[4].time == drafts[4].time
    context.append([Draft(Role.USER, "late", time=items[4].time - timedelta(days=9))])
    assert read(context, lambda reader: reader.by_seq([6]))[0].time == items[4].time, "time never goes back"


def test_reading_by_place_session_call_and_source(store):
    context = store.context(KEY, 1)
    context.append([*said("1", "2", "3"), *said("4", "5", session="b"), *call("c")])
    context.append([Draft(Role.ASSISTANT, "s", Kind.SUMMARY, derived_from=(2, 4))])
    with context.reading() as reader:
        assert texts(reader.newest(2, before=4)) == ["2", "3"]
        assert texts(reader.newest(2, session="b")) == ["4", "5"]
        assert texts(reader.oldest(2, after=1)) == ["2", "3"]
        assert texts(reader.oldest(9, session="b", after=4)) == ["5"]
        assert reader.newest(0) == reader.oldest(0) == reader.newest(5, session="none") == []
        assert texts(reader.range(2, 4)) == ["2", "3", "4"]
        assert texts(reader.range(2, 4, "main")) == ["2", "3"]
        assert texts(reader.by_seq([3, 1, 99, 3])) == ["1", "3"]
        (made, found) = reader.by_seq([6, 7])
        assert [item.seq for item in reader.answers(made)] == [7]
        assert reader.call_of(found) == made
        assert texts(reader.made_from([4])) == ["s"]
        assert texts(reader.neighbours(2, 1)) == ["1", "3"]
        assert texts(reader.neighbours(4, 5)) == ["5"]
        assert reader.neighbours(99, 5) == []
        assert (reader.count(), reader.count("b"), reader.count("none"), reader.last_seq()) == (8, 2, 0, 8)
        assert [(each.name, each.items, each.first, each.last) for each in reader.sessions()] == [("main", 6, 1, 8), ("b", 2, 4, 5)]


def test_a_search_finds_by_stems_best_first_and_what_was_appended_a_moment_ago(store):
    context = store.context(KEY, 1)
    context.append([*said("the dogs ran home", "cats sleep", "a dog, a dog and a dog", "nothing"), *said("dogs again", session="b")])
    with context.reading() as reader:
        assert [hit.seq for hit in reader.search(["dog"], 2)] == [3, 5]
        assert [hit.seq for hit in reader.search(["dog"], 9, session="b")] == [5]
        assert {hit.seq for hit in reader.search(["dogs", "sleeping"], 9)} == {1, 2, 3, 5}
        scores = [hit.score for hit in reader.search(["dog", "cat"], 9)]
        assert scores == sorted(scores, reverse=True)
        assert reader.document_frequencies(["dogs", "cat", "bird", "?"]) == {"dogs": 3, "cat": 1, "bird": 0, "?": 0}
        assert reader.search(['" OR *', "NEAR("], 5) == reader.search([], 5) == reader.search(["dog"], 0) == []
    context.append(call("Rotterdam"))
    with context.reading() as reader:
        assert {hit.seq for hit in reader.search(["rotterdam"], 5)} == {6, 7}


def test_a_reader_sees_one_moment(store):
    context = store.context(KEY, 1)
    context.append(said("1"))
    with context.reading() as reader:
        assert reader.count() == 1
        other = threading.Thread(target=context.append, args=(said("2"),))
        other.start()
        other.join()
        assert texts(reader.newest(5)) == ["1"]
    assert kept(context) == ["1", "2"]


def test_an_idempotency_key_appends_once_and_only_the_same(store):
    context = store.context(KEY, 1)
    context.append(said("0"))
    assert context.append(said("a", "b"), key="k") == Appended(2, 3)
    assert context.append(said("a", "b"), key="k") == Appended(2, 3, replayed=True)
    assert context.append(said("a", "b"), key="other") == Appended(4, 5)
    with pytest.raises(Conflict, match="other items"):
        context.append(said("a", "c"), key="k")
    assert kept(context) == ["0", "a", "b", "a", "b"]
    with pytest.raises(ContextError, match="1 to 128 printable"):
        context.append(said("x"), key="")


def test_a_batch_is_whole_or_not_at_all_and_says_which_item_is_wrong(store):
    context = store.context(KEY, 1, Limits(item_bytes=10, batch=3))
    with pytest.raises(InvalidItem, match=r"items\[1\].content must have at most 10 bytes, not 11"):
        context.append(said("ok", "x" * 11))
    with pytest.raises(InvalidItem, match="items must be 1 to 3"):
        context.append(said(*"abcd"))
    with pytest.raises(InvalidItem, match="derivedFrom must name items that there are"):
        context.append([*said("a"), Draft(Role.ASSISTANT, "s", Kind.SUMMARY, derived_from=(2,))])
    assert kept(context) == []
    assert context.describe().last_seq == 0


def test_pins_and_importance_are_said_of_items_and_taken_back(store):
    context = store.context(KEY, 1, Limits(pins=2, content_bytes=100))
    context.append(said("1", "2", "3", "y" * 60))
    context.pin([1, 3])
    context.pin([1])
    context.weigh([2], 0.5)
    with context.reading() as reader:
        assert texts(reader.pinned()) == ["1", "3"]
        assert [item.importance for item in reader.range(1, 3)] == [None, 0.5, None]
    assert context.describe().pinned == 2
    with pytest.raises(LimitReached, match="at most 2 items may be pinned"):
        context.pin([2])
    context.pin([1, 2], pinned=False)
    with pytest.raises(LimitReached, match="half of 100 bytes"):
        context.pin([4])
    with pytest.raises(NotThere, match="no item 9"):
        context.pin([1, 9])
    with pytest.raises(InvalidItem, match="importance must be 0 to 1"):
        context.weigh([1], 1.5)
    assert texts(read(context, lambda reader: reader.pinned())) == ["3"]
    assert texts(read(context, lambda reader: reader.pinned("b"))) == []


def test_accesses_are_counted_with_their_last_times(store):
    context = store.context(KEY, 1)
    context.append(said("1", "2"))
    for _ in range(10):
        context.accessed([1, 99])
    first, second = (item.accesses for item in read(context, lambda reader: reader.range(1, 2)))
    assert first.times == 10
    assert len(first.last) == 8
    assert list(first.last) == sorted(first.last, reverse=True)
    assert second == Accesses()


def test_usage_and_state_are_kept_beside_the_log(store, clock):
    context = store.context(KEY, 1)
    report = Usage("gpt", clock.now, 3, {"message": 400}, 120)
    context.report(report)
    context.report(report._replace(tokens=130))
    context.keep_state({"window": "v1"})
    context.keep_state({"window": "v2", "other": "x"})
    with context.reading() as reader:
        assert reader.usage("gpt") == [report, report._replace(tokens=130)]
        assert reader.usage("claude") == []
        assert (reader.state("window"), reader.state("other"), reader.state("none")) == ("v2", "x", None)


def test_vectors_are_kept_of_items_that_are_there(store):
    context = store.context(KEY, 1)
    context.append(said("1", "2"))
    context.keep_vectors("mini", {1: b"a", 2: b"b", 9: b"c"})
    context.keep_vectors("mini", {1: b"d"})
    assert read(context, lambda reader: reader.vectors("mini", [1, 2, 9])) == {1: b"d", 2: b"b"}
    assert read(context, lambda reader: reader.vectors("mini", [2])) == {2: b"b"}
    assert read(context, lambda reader: reader.vectors("other", [1])) == {}
    context.erase(Scope(items=(1,)))
    assert read(context, lambda reader: reader.vectors("mini", [1, 2])) == {2: b"b"}
    context.keep_vectors("other", {2: b"e"})
    assert read(context, lambda reader: reader.vectors("other", [2])) == {2: b"e"}
    assert read(context, lambda reader: reader.vectors("mini", [2])) == {}, "an item has one vector: a changed model's takes its place"


def test_a_fork_goes_on_from_an_item_and_shares_what_was_before(store):
    context = store.context(KEY, 1, Limits(sessions=3))
    context.append(said("1", "2", "3"))
    context.fork(2, "b")
    assert [each.name for each in read(context, lambda reader: reader.sessions())] == ["main", "b"]
    context.append(said("4", session="b"))
    context.fork(4, "c")
    context.append(said("5", session="c"))
    context.append(said("6"))
    with context.reading() as reader:
        assert texts(reader.oldest(9, session="b")) == ["1", "2", "4"]
        assert texts(reader.newest(3, session="c")) == ["2", "4", "5"]
        assert texts(reader.newest(9, session="c")) == ["1", "2", "4", "5"]
        assert texts(reader.newest(9, session="main")) == ["1", "2", "3", "6"]
        assert texts(reader.range(2, 5, "c")) == ["2", "4", "5"]
        assert (reader.count("b"), reader.count("c"), reader.count()) == (3, 4, 6)
        assert [hit.seq for hit in reader.search(["3", "2"], 9, session="c")] == [2]
    with pytest.raises(Conflict, match="there is a session b"):
        context.fork(1, "b")
    with pytest.raises(NotThere):
        context.fork(99, "d")
    with pytest.raises(LimitReached, match="3 sessions"):
        context.fork(1, "d")
    with pytest.raises(LimitReached, match="3 sessions"):
        context.append(said("x", session="d"))


@pytest.mark.parametrize(
    ("scope", "left"),
    [
        (Scope(items=(1,)), ["b", "c", "d"]),
        (Scope(items=(2, 99)), ["a", "c", "d"]),
        (Scope(session="other"), ["a", "b", "d", "of a", "of that"]),
        (Scope(author="ann"), ["b", "c", "of a", "of that"][:2]),
        (Scope(label=("who", "eve")), ["a", "b", "c", "of a", "of that"]),
        (Scope(everything=True), []),
    ],
)
def test_an_erasure_takes_what_is_named_and_all_that_was_made_from_it(store, scope, left):
    context = store.context(KEY, 1)
    context.append(said("a", author="ann"))
    context.append(said("b"))
    context.append(said("c", session="other"))
    context.append(said("d", author="ann", labels={"who": "eve"}))
    context.append([Draft(Role.ASSISTANT, "of a", Kind.SUMMARY, derived_from=(1,))])
    context.append([Draft(Role.ASSISTANT, "of that", Kind.SUMMARY, derived_from=(5,))])
    context.keep_state({"window": "a"})
    if scope == Scope(items=(2, 99)):
        left = [*left, "of a", "of that"]
    receipt = context.erase(scope)
    assert kept(context) == left
    assert receipt.items == 6 - len(left) == sum(len(each) for each in in_ranges(receipt.seqs))
    assert context.describe().erased == receipt.items
    assert context.describe().items == len(left)
    with context.reading() as reader:
        assert reader.state("window") is None
        assert reader.last_seq() == 6
        assert {hit.seq for hit in reader.search(["a", "b", "c", "d", "of"], 9)} == {item.seq for item in reader.oldest(9)}
    assert context.append(said("next")) == Appended(7, 7), "numbers are never used twice"


def test_a_summary_that_comes_after_the_erasure_of_its_source_is_refused(store):
    context = store.context(KEY, 1)
    context.append(said("secret", "open"))
    context.erase(Scope(items=(1,)))
    with pytest.raises(Conflict, match="item 1, which was erased"):
        context.append([Draft(Role.ASSISTANT, "the secret", Kind.SUMMARY, derived_from=(1, 2))])
    assert context.append([Draft(Role.ASSISTANT, "open", Kind.SUMMARY, derived_from=(2,))]) == Appended(3, 3)


def test_an_erasure_forgets_the_keys_of_what_was_erased_and_no_others(store):
    context = store.context(KEY, 1)
    context.append(said("a", "b"), key="erased")
    context.append(said("c"), key="kept")
    context.erase(Scope(items=(2,)))
    assert context.append(said("c"), key="kept") == Appended(3, 3, replayed=True)
    assert context.append(said("a", "b"), key="erased") == Appended(4, 5)


def test_an_erasure_names_exactly_one_scope():
    for given in ({}, {"session": "a", "author": "b"}, {"items": (1,), "everything": True}):
        with pytest.raises(ContextError, match="exactly one"):
            Scope(**given)


def test_an_earlier_attempt_may_read_and_no_longer_write(store):
    first = store.context(KEY, 1)
    first.append(said("1"))
    second = store.context(KEY, 2)
    second.append(said("2"))
    for write in (
        lambda: first.append(said("x")),
        lambda: first.pin([1]),
        lambda: first.fork(1, "f"),
        lambda: first.erase(Scope(everything=True)),
    ):
        with pytest.raises(Fenced, match="attempt 2 of this agent writes"):
            write()
    with pytest.raises(Fenced):
        store.context(KEY, 1)
    assert kept(first) == ["1", "2"]
    assert (second.describe().first_attempt, second.describe().fence) == (1, 2)


def test_agents_are_strangers_to_one_another(store):
    one, other = store.context(KEY, 1), store.context(KEY._replace(uid="77"), 1)
    one.append(said("mine"))
    assert kept(other) == []
    assert other.describe().items == 0


def test_many_threads_append_and_nothing_is_lost_or_doubled(store):
    contexts = [store.context(KEY._replace(uid=f"agent-{number}"), 1) for number in range(3)]

    def work(number: int) -> None:
        for turn in range(20):
            contexts[number % 3].append(said(f"{number}.{turn}.a", f"{number}.{turn}.b"), durable=turn % 5 == 0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, context in enumerate(contexts):
        found = kept(context)
        assert sorted(found) == sorted(f"{n}.{t}.{x}" for n in range(number, 9, 3) for t in range(20) for x in "ab")
        for n in range(number, 9, 3):
            own = [text for text in found if text.startswith(f"{n}.")]
            assert own == [f"{n}.{t}.{x}" for t in range(20) for x in "ab"], "a thread's own order is the log's"
        assert all(first[:-1] == second[:-1] for first, second in zip(found[::2], found[1::2], strict=True)), "a batch is never split"


def test_what_is_submitted_is_done_and_a_refusal_is_told(store):
    context = store.context(KEY, 1)
    done = [context.submit(said(str(number))) for number in range(50)]
    assert [each.result(10).first for each in done] == list(range(1, 51))
    refused = context.submit([Draft(Role.ASSISTANT, "s", Kind.SUMMARY, derived_from=(999,))])
    with pytest.raises(InvalidItem):
        refused.result(10)
    with pytest.raises(InvalidItem):
        context.submit([])


@pytest.mark.parametrize("numbers", [[], [1], [1, 2, 3], [5, 1, 2, 9, 8]])
def test_ranges_say_the_same_in_short(numbers):
    assert sorted(number for each in in_ranges(ranges(numbers)) for number in each) == sorted(numbers)
