"""`aiosctl bench context`: windows of a context: how good, how fast, how cheap for a provider's cache, and whether they keep their
promises.

With a dataset it reports the quality of windows over it, and nothing else. Without one it measures speed and promises on logs of its own,
and the quality over the test half of its own dialogues."""

from aios_bench import context_endpoint, context_promises, context_quality, context_store, context_windows, dialogue_maker, dialogues
from aios_bench.context_quality import Quality
from aios_bench.result import Options, Result, percentile
from aios_sidecar.context.scoring.embeddings import StaticTable, scorer_for

PROMISED_LOGS = 10_000
LARGE = 100_000
QUICK_LOGS = 300

METHOD_QUALITY = (
    "Per question and budget one window, in o200k tokens of lines with date and speaker. recall: the share of the items that answer"
    " the question that are in the window, averaged over questions; complete: all of them are. query sees only the question; "
    "hierarchical gives it 60 %; the others do not look at it. tokens_for_80_percent: the budget at which 80 % of the questions "
    "have all their items in. kept_at_N: the share of evidence in a window of N % of the history's tokens, by importance alone, no "
    "question known. Questions: {questions}; {origin}."
)
METHOD_SPEED = (
    "window_store_ms: 200 of {large} items from SQLite, one item appended before each, OpenAI format; window_endpoint_ms: the same "
    "over HTTP on loopback, from a gateway in a process of its own; query_*: 2,000 tokens for questions with names; "
    "query_*_embedding_ms: the same with the given table of vectors. prefix_reuse_percent: generated dialogues, turn by turn, 8,000 tokens "
    "with a core of 800, counted once the window is full. Promises: {windows:.0f} windows over {logs} random logs. Quality: as with a "
    "dataset, over the generated test half."
)


def bench(options: Options) -> Result:
    table = None if options.embeddings is None else StaticTable.load(options.embeddings)
    scorer = scorer_for(None, table)
    if options.dataset is not None:
        quality = context_quality.measure(dialogues.load(options.dataset), options.budgets, scorer)
        return _of(quality, METHOD_QUALITY.format(questions=quality.results[0]["questions"], origin=options.dataset.name), {})
    large, samples, logs = (5000, 20, QUICK_LOGS) if options.quick else (LARGE, 200, PROMISED_LOGS)
    half = dialogue_maker.TEST[:1] if options.quick else dialogue_maker.TEST
    made = [dialogues.dialogue(document, "generated") for document in dialogue_maker.dataset(half)]
    figures, taken = context_windows.speed(large, samples, table)
    taken["window_endpoint_ms"] = context_endpoint.window_ms(large, samples)
    figures["window_endpoint_ms_p50"] = round(percentile(taken["window_endpoint_ms"], 50), 2)
    stored, store_samples = context_store.figures(options.quick)
    figures |= {name: round(value, 2) for name, value in stored.items()}
    taken |= {name: [round(value, 3) for value in values] for name, values in store_samples.items()}
    figures["prefix_reuse_percent"] = context_windows.prefix_reuse(made)
    figures.update(context_promises.promises(logs))
    quality = context_quality.measure(made, options.budgets, scorer)
    result = _of(quality, METHOD_SPEED.format(large=large, windows=figures["windows"], logs=logs) + " " + context_store.METHOD, figures)
    return Result(result.figures, result.method, {**result.samples, **taken}, more=result.more, table=result.table)


def _of(quality: Quality, method: str, figures: dict[str, float]) -> Result:
    needed = dict(quality.tokens_for_80_percent)
    return Result(
        figures={**figures, **quality.figures, "tokens_for_80_percent": needed["query"]},
        method=method,
        more={"results": list(quality.results), "tokens_for_80_percent": needed["query"], "tokens_for_80_percent_by_strategy": needed},
        table=context_quality.table(quality),
    )
