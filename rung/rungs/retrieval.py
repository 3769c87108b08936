"""Passages of the task's documents in the prompt, looked up for each question."""

from collections.abc import Sequence
from dataclasses import replace

from rung.evaluate import VECTORS_FOLDER
from rung.rungs.base import Built, Context, Outlook, Variant, no_room
from rung.rungs.instructions import answer_notes, answer_spec, instructions, spec_for
from rung.rungs.probe import race, under_each_engine
from rung.rungs.recall import (
    JUDGED_AT,
    RECALLED,
    Found,
    found_for,
    oracle_rows,
    oracle_rows_left,
    oracle_test,
    recall_notes,
)
from rung.rungs.rehearsal import outlook
from rung.rungs.variants import choose
from rung.runs import Shared, atomic_folder
from rung.scoring.notation import duration_text
from rung.search import PassageIndex, SearchKind, index_files, index_names, terms_of
from rung.spec import RetrievalSpec, Spec
from rung.system import Sources, System, save
from rung.task import Task
from rung.wording import messages, passage_text

LOOK_THERE = "Parts of documents come first; take the answer from them where they have it."
SAMPLE = 200
"""Passages and rows by which it is judged how many fit a prompt."""
VECTORS_SHARE = 0.3
"""Of the rung's time, that the passages' vectors may take: by words alone, search takes none."""
TIMED_PASSAGES, FEWEST_TIMED = 64, 256
"""Passages by which that time is told, and how many have to lack vectors for it to matter."""


class Retrieval:
    """The k passages that a search ranks highest: by words (BM25), by sentence vectors, or by both."""

    name = "retrieval"

    def embeds(self, task: Task) -> bool:
        """Passages are looked up by them, too."""
        return task.data.documents is not None

    def skip(self, context: Context) -> str | None:
        """There have to be documents, and room for a passage beside the question."""
        if reason := no_room(context, learns=False):
            return reason
        if not context.passages:
            return "no documents are given; name a file or a folder of them as data.documents in task.yaml"
        if _room(context) < 1:
            return f"one passage and a question don't fit a prompt of {context.limit:,} tokens"
        return None

    def outlook(self, context: Context) -> Outlook | None:
        """By a few rows with each number of passages, and the oracle test before them."""
        variants, found, _ = _variants(context)
        told = outlook(context, variants)
        _, oracle_s = oracle_rows(context, found, variants)
        return told and replace(
            told,
            seconds=told.seconds + oracle_s,
            low_s=told.low_s + oracle_s,
            high_s=told.high_s + oracle_s,
        )

    def build(self, context: Context) -> Built:
        """Test whether the right passage helps at all, then try every k that fits with the best search.

        Where the test didn't fit beforehand it's made afterwards, if there is time left.
        """
        variants, found, more = _variants(context)
        rows, _ = oracle_rows(context, found, variants)
        bare = _bare(context, variants[0].system)
        oracle, gap = oracle_test(context, found, bare, rows)
        chosen, trials, told = choose(context, variants)
        if not rows and found.asked:
            answer_s = next(trial.seconds / trial.n for trial in trials if trial.chosen)
            rows = oracle_rows_left(context, found, variants, answer_s)
            oracle, gap = oracle_test(context, found, bare, rows)
        return Built(
            system=chosen.system,
            what=chosen.name,
            trials=trials,
            found=(oracle, *recall_notes(found)),
            notes=(*answer_notes(context), *more, *told),
            gap=gap,
        )


def _variants(context: Context) -> tuple[list[Variant], Found, list[str]]:
    """What is tried, under the engine that is faster with a middling number of passages; notes on that."""
    texts = [passage_text(one) for one in context.passages]
    too_long = _too_long_to_embed(context, texts)
    index = PassageIndex(
        passages=context.passages,
        terms=terms_of(context.passages),
        vectors=context.text_vectors(texts, "passages' vectors") if too_long is None else None,
    )
    found = found_for(context, index)
    room = _room(context)
    counts = [k for k in RECALLED if k <= min(room, len(context.passages))] or [1]
    tried: list[tuple[SearchKind, int]] = [(_best_search(found, room), k) for k in counts]
    middle = counts[len(counts) // 2]
    first = tried[0][0]
    if not found.tells and first != "bm25":
        tried.append(("bm25", middle))
    shown, spec = RetrievalSpec(search=first, k=middle).said, _spec(context, first, middle)
    searches: list[SearchKind] = [search for search, _ in tried]
    files = {search: _kept(context, index, search) for search in dict.fromkeys(searches)}
    backend, note = race(context, shown, under_each_engine(context, "race", spec, files[first]))
    variants = []
    for search, k in tried:
        made = backend.runs(_spec(context, search, k))
        system = save(context.work / f"{search}-{k}", made, files[search])
        variants.append(Variant(name=RetrievalSpec(search=search, k=k).said, system=system))
    return variants, found, [f"{shown}: {note}", *([too_long] if too_long else [])]


def _too_long_to_embed(context: Context, texts: Sequence[str]) -> str | None:
    """Why the passages get no vectors: by some of them, all would take too long. Settled once."""
    embedder = context.pool.embedder

    def told() -> str | None:
        missing = embedder.missing(texts, context.bench.store.folder.parent / VECTORS_FOLDER)
        if missing < FEWEST_TIMED:
            return None
        some = texts[:: len(texts) // TIMED_PASSAGES][:TIMED_PASSAGES]
        embedder.embed(some[:1])  # brings and loads the model
        before_s = context.seconds_left
        embedder.embed(some)
        needed_s = (before_s - context.seconds_left) / len(some) * missing
        spare_s = max(0.0, VECTORS_SHARE * context.seconds_left)
        if needed_s <= spare_s:
            return None
        return (
            f"searched by words alone: the vectors of {missing:,} passages would take about "
            f"{duration_text(needed_s)}, and {duration_text(spare_s)} of the budget can be spared for them; "
            "raise --budget"
        )

    bar = context.reporter.begin("passages' vectors: how fast they are made", None)
    try:
        found = context.settled("why the passages have no vectors", told)
    finally:
        context.reporter.end(bar)
    assert found is None or isinstance(found, str), "written by this function"
    return found


def _kept(context: Context, index: PassageIndex, search: SearchKind) -> Sources:
    """The index's files for a kind of search, written once for all variants."""
    folder = context.work / f"index-{search}"
    with atomic_folder(folder) as draft:
        for name, content in index_files(index, search).items():
            (draft / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return {name: Shared(folder / name) for name in index_names(search)}


def _best_search(found: Found, room: int) -> SearchKind:
    """The one with the highest recall, the cheapest of equals; where recall can't be told, all rankings."""
    if not found.tells:
        return found.widest
    return max(found.ranked, key=lambda search: found.recall(search, min(JUDGED_AT, room)))


def _spec(context: Context, search: SearchKind, k: int) -> Spec:
    spec = spec_for(
        context,
        "retrieval",
        instruction=_instruction(context),
        answer=answer_spec(context, constrained=True),
    )
    vectors = context.vectors_ref if search != "bm25" else None
    return spec.model_copy(update={"retrieval": RetrievalSpec(search=search, k=k), "vectors": vectors})


def _instruction(context: Context) -> str:
    return f"{instructions(context)['strict']} {LOOK_THERE}"


def _bare(context: Context, system: System) -> System:
    """The same System without any search, for the oracle test."""
    spec = system.spec.model_copy(update={"retrieval": None, "vectors": None, "files": {}})
    return save(context.work / "bare", spec, {})


def _room(context: Context) -> int:
    """How many passages of a middling length fit beside a long question (95th percentile) and its answer."""
    chat = context.pool.chat(context.model)
    rows = [e for e in (*context.dev, *context.train) if e.id not in context.too_long][:SAMPLE]
    asked = sorted(len(chat.render(messages(_instruction(context), row))) for row in rows)
    some = context.passages[:: max(1, len(context.passages) // SAMPLE)]
    sizes = sorted(len(chat.answer_ids(passage_text(one) + "\n\n")) for one in some)
    taken = asked[int(0.95 * (len(asked) - 1))] + answer_spec(context, constrained=True).max_tokens
    return max(0, (context.limit - taken) // max(1, sizes[len(sizes) // 2]))
