"""Passages of the task's documents in the prompt, looked up for each question."""

from dataclasses import replace

from rung.rungs.base import Built, Context, Outlook, Variant, no_room
from rung.rungs.instructions import answer_notes, answer_spec, instructions, spec_for
from rung.rungs.probe import race, under_each_engine
from rung.rungs.recall import (
    JUDGED_AT,
    RECALLED,
    SEARCHES,
    Found,
    found_for,
    oracle_rows,
    oracle_test,
    recall_notes,
)
from rung.rungs.rehearsal import outlook
from rung.rungs.variants import choose
from rung.runs import Shared, atomic_folder
from rung.search import PassageIndex, SearchKind, index_files, index_names, terms_of
from rung.spec import RetrievalSpec, Spec
from rung.system import Sources, System, save
from rung.wording import messages, passage_text

LOOK_THERE = "Parts of documents come first; take the answer from them where they have it."
SAMPLE = 200
"""Passages and rows by which it is judged how many fit a prompt."""


class Retrieval:
    """The k passages that a search ranks highest: by words (BM25), by sentence vectors, or by both."""

    name = "retrieval"

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
        """Test whether the right passage helps at all, then try every k that fits with the best search."""
        variants, found, note = _variants(context)
        rows, _ = oracle_rows(context, found, variants)
        oracle = oracle_test(context, found, _bare(context, variants[0].system), rows)
        chosen, trials, more = choose(context, variants)
        notes = (*oracle, *recall_notes(found), *answer_notes(context), note, *more)
        return Built(system=chosen.system, what=chosen.name, trials=trials, notes=notes)


def _variants(context: Context) -> tuple[list[Variant], Found, str]:
    """What is tried, under the engine that is faster with a middling number of passages; a note on that."""
    index = PassageIndex(
        passages=context.passages,
        terms=terms_of(context.passages),
        vectors=context.text_vectors([passage_text(one) for one in context.passages], "passages' vectors"),
    )
    found = found_for(context, index)
    room = _room(context)
    counts = [k for k in RECALLED if k <= min(room, len(context.passages))] or [1]
    tried: list[tuple[SearchKind, int]] = [(_best_search(found, room), k) for k in counts]
    middle = counts[len(counts) // 2]
    if not found.tells:
        tried.append(("bm25", middle))
    first = tried[0][0]
    shown, spec = RetrievalSpec(search=first, k=middle).said, _spec(context, first, middle)
    searches: list[SearchKind] = [search for search, _ in tried]
    files = {search: _kept(context, index, search) for search in dict.fromkeys(searches)}
    engine, note = race(context, shown, under_each_engine(context, "race", spec, files[first]))
    variants = []
    for search, k in tried:
        made = _spec(context, search, k).model_copy(update={"engine": engine})
        system = save(context.work / f"{search}-{k}", made, files[search])
        variants.append(Variant(name=RetrievalSpec(search=search, k=k).said, system=system))
    return variants, found, f"{shown}: {note}"


def _kept(context: Context, index: PassageIndex, search: SearchKind) -> Sources:
    """The index's files for a kind of search, written once for all variants."""
    folder = context.work / f"index-{search}"
    with atomic_folder(folder) as draft:
        for name, content in index_files(index, search).items():
            (draft / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return {name: Shared(folder / name) for name in index_names(search)}


def _best_search(found: Found, room: int) -> SearchKind:
    """The one with the highest recall, the cheapest of equals; both rankings where recall can't be told."""
    if not found.tells:
        return "fused"
    return max(SEARCHES, key=lambda search: found.recall(search, min(JUDGED_AT, room)))


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
