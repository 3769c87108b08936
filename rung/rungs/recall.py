"""How far search finds what an answer needs, and whether that would help: recall@k and the oracle test."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

from rung.asking import fitted, room_for_answer
from rung.evaluate import CHUNK
from rung.records import Example, Gap, Json, MetricName, Passage
from rung.rungs.base import Context, Variant, strict_score
from rung.rungs.paces import SLACK, closing_s, paces
from rung.scoring.notation import score_text
from rung.scoring.scorers import SCORERS
from rung.search import DEPTH, PassageIndex, SearchKind, answer_parts, held_by_any, holds
from rung.spec import Spec
from rung.system import System
from rung.wording import embedded_text, with_passages

SEARCHES: tuple[SearchKind, ...] = get_args(SearchKind)
"""The cheapest first."""
RECALLED = (1, 3, 5, 8)
JUDGED_AT, LEAST_RECALL = 5, 0.7
"""Below this recall@5 a System's score says more of the search than of the model."""
SEARCHED_ROWS = 200
"""Rows by which a search is judged, where dev has no more."""
FEWEST_JUDGED = 20
"""Rows whose answers stand somewhere word for word: by fewer no search is told from another."""
ORACLE_ROWS, FEWEST_ORACLE_ROWS = 60, 20
ORACLE_SHARE = 0.2
"""Of the rung's time, at most."""
KNOWLEDGE_GAIN = 0.05
NOTHING_STANDS = "the answers hold no text or number that could stand in a passage"


@dataclass(frozen=True)
class Found:
    """What each kind of search finds for some rows: `ranked[search][row]`, the best passage first.

    The cheapest search comes first. Without passages' vectors there is the one by words alone.
    """

    context: Context
    rows: tuple[Example, ...]
    index: PassageIndex
    ranked: dict[SearchKind, list[list[int]]]

    @cached_property
    def parts(self) -> list[tuple[str, ...]]:
        """The texts of each row's output that could stand in a passage."""
        return [answer_parts(e.output, self.context.kind) for e in self.rows]

    @cached_property
    def asked(self) -> list[int]:
        """The rows whose answer could stand in passages."""
        return [row for row, parts in enumerate(self.parts) if parts]

    @cached_property
    def standing(self) -> list[int]:
        """Those whose answer does stand there, each part of it in some passage, found or not.

        Where an answer is worded otherwise than the documents are, no search finds its words.
        """
        parts = [(row, part) for row in self.asked for part in self.parts[row]]
        held = held_by_any(self.index.passages, [part for _, part in parts])
        lacking = {row for (row, _), there in zip(parts, held, strict=True) if not there}
        return [row for row in self.asked if row not in lacking]

    @property
    def widest(self) -> SearchKind:
        """The search that goes by most: both rankings fused, where there are both."""
        return "fused" if "fused" in self.ranked else "bm25"

    @property
    def tells(self) -> bool:
        """Whether there are rows enough by which one search is better than another."""
        return len(self.standing) >= FEWEST_JUDGED

    def recall(self, search: SearchKind, k: int) -> float:
        """The share of the rows whose answer stands in passages that have it in their first k, part by part.

        There has to be one such row.
        """
        hits = 0
        for row in self.standing:
            first = [self.index.passages[place] for place in self.ranked[search][row][:k]]
            hits += all(any(holds(one, part) for one in first) for part in self.parts[row])
        return hits / len(self.standing)

    def gold(self, row: int) -> Passage | None:
        """The best-ranked passage that holds all of a row's answer; None where none of the first 100 does."""
        for place in self.ranked[self.widest][row]:
            passage = self.index.passages[place]
            if all(holds(passage, part) for part in self.parts[row]):
                return passage
        return None

    @cached_property
    def answerable(self) -> list[tuple[Example, Passage]]:
        """The rows that a passage holds the answer to, with that passage."""
        long = self.context.too_long
        pairs = [(self.rows[row], self.gold(row)) for row in self.asked if self.rows[row].id not in long]
        return [(row, passage) for row, passage in pairs if passage is not None]

    @property
    def told(self) -> str:
        """Which rows these are, in words."""
        more = " and training" if len(self.rows) > len(self.context.dev) else ""
        return f"{len(self.asked)} dev{more} rows"


def found_for(context: Context, index: PassageIndex) -> Found:
    """Search in every way that the index allows for the dev rows, and for training rows where those are few.

    Passages were chosen by neither, so that both tell the same of a search.
    """
    more = random.Random(context.seed).sample(context.train, len(context.train))
    rows = (*context.dev, *more[: max(0, SEARCHED_ROWS - len(context.dev))])
    texts = [embedded_text(e) for e in rows]
    vectors = functools.cache(lambda: context.vectors(rows))
    searches: tuple[SearchKind, ...] = SEARCHES if index.vectors is not None else ("bm25",)
    ranked: dict[SearchKind, list[list[int]]] = {
        search: index.ranked(texts, search, DEPTH, lambda _: vectors()) for search in searches
    }
    return Found(context, rows, index, ranked)


def recall_notes(found: Found) -> list[str]:
    """recall@k of every search, and whether search is what limits."""
    if not found.asked:
        why = "a label isn't looked for in passages" if found.context.kind == "label" else NOTHING_STANDS
        return [f"no recall is told: {why}"]
    standing = f"the answers to {len(found.standing)} of {found.told} stand word for word in the documents"
    if not found.tells:
        return [f"no recall is told: {standing}, and {FEWEST_JUDGED} are needed to judge a search by"]
    best = max(found.recall(search, JUDGED_AT) for search in found.ranked)
    each = [
        f"{search} {' / '.join(score_text(found.recall(search, k), 'exact') for k in RECALLED)}"
        for search in found.ranked
    ]
    at = "/".join(map(str, RECALLED))
    notes = [f"recall@{at} ({standing}): {', '.join(each)}"]
    if best < LEAST_RECALL:
        notes.append(
            f"search, not the model, is what limits: recall@{JUDGED_AT} is {score_text(best, 'exact')} at "
            f"best, under {score_text(LEAST_RECALL, 'exact')}; {len(found.answerable)} of these answers "
            f"stand whole in one of the first {DEPTH} passages"
        )
    return notes


def oracle_pairs(context: Context, found: Found, spec: Spec) -> tuple[list[tuple[Example, Passage]], int]:
    """The first rows that a passage holds the answer to, with it, and how many were too long with it."""
    chat = context.pool.chat(context.model)
    limit = context.limit - room_for_answer(spec, chat)
    pairs: list[tuple[Example, Passage]] = []
    long = 0
    for row, right in found.answerable:
        if len(pairs) == ORACLE_ROWS:
            break
        if fitted(spec, chat, row, (), limit, [right])[1]:
            pairs.append((row, right))
        else:
            long += 1
    return pairs, long


def oracle_rows(context: Context, found: Found, variants: Sequence[Variant]) -> tuple[int, float]:
    """How many rows the oracle test asks twice (0: no time), and the seconds for that. Settled once."""

    def count() -> Json:
        pace = next((one for one in paces(context, variants) if one), None)
        rows = len(oracle_pairs(context, found, variants[0].system.spec)[0])
        while pace and rows and 2 * pace.seconds(rows, CHUNK) > ORACLE_SHARE * context.seconds_left:
            rows -= 1
        rows = rows if rows >= FEWEST_ORACLE_ROWS else 0
        return [rows, 2 * pace.seconds(rows, CHUNK) if pace else 0.0]

    kept = context.settled("rows of the oracle test, and its seconds", count)
    assert isinstance(kept, list), "written by this function"
    rows, seconds = kept
    assert isinstance(rows, int) and isinstance(seconds, float | int)
    return rows, float(seconds)


def oracle_rows_left(context: Context, found: Found, variants: Sequence[Variant], answer_s: float) -> int:
    """The same once the choice is made, by the seconds that an answer took there. Settled once.

    The first few rows, by which the time was foretold, are slow ones where an engine answers many together.
    """

    def count() -> Json:
        left_s = context.seconds_left - closing_s(context, variants)
        fit = int(left_s / (2 * SLACK * max(answer_s, 1e-6)))
        rows = min(fit, len(oracle_pairs(context, found, variants[0].system.spec)[0]))
        return rows if rows >= FEWEST_ORACLE_ROWS else 0

    kept = context.settled("rows of the oracle test after the choice", count)
    assert isinstance(kept, int), "written by this function"
    return kept


def oracle_test(context: Context, found: Found, bare: System, rows: int) -> tuple[str, Gap | None]:
    """The same rows without any passage and with the right one: what the best search of all would gain.

    `bare` has no retrieval. What was found, in words, and which gap that is; None where it can't be told.
    """
    if not found.asked:
        label = "of a label nobody can tell which passage is the right one"
        return f"no oracle test: {label if context.kind == 'label' else NOTHING_STANDS}", None
    pairs, long = oracle_pairs(context, found, bare.spec)
    left_out = f" ({long} that are too long with their passage left out)" if long else ""
    if not rows:
        few = f"the answers to {len(found.answerable)} of {found.told} stand in a passage{left_out}"
        return f"no oracle test: {few}, and at least {FEWEST_ORACLE_ROWS} have to be asked in time", None
    pairs = pairs[:rows]
    without = [row for row, _ in pairs]
    given = [replace(with_passages(row, [right]), id=f"{row.id} with {right.id}") for row, right in pairs]

    def scores() -> Json:
        asked = {"no passage": without, "the right passage": given}
        return [_score(context, bare, some, what) for what, some in asked.items()]

    kept = context.settled("oracle test", scores)
    assert isinstance(kept, list), "written by this function"
    none, oracle = (float(value) for value in kept if isinstance(value, float | int))
    return _oracle_note(context.bench.metric, none, oracle, f"{rows} rows{left_out}")


def _score(context: Context, bare: System, rows: Sequence[Example], what: str) -> float:
    return strict_score(context.measure_all(bare, rows, f"oracle test: {what}"), rows)


def _oracle_note(metric: MetricName, none: float, oracle: float, rows: str) -> tuple[str, Gap | None]:
    told = (
        f"oracle test on {rows}: {score_text(oracle, metric)} with the right passage in the prompt, "
        f"{score_text(none, metric)} without any"
    )
    if not SCORERS[metric].higher_is_better:
        return told, None
    if oracle - none > KNOWLEDGE_GAIN - 1e-9:
        return f"{told}: a knowledge gap, which documents can close", "knowledge"
    return f"{told}: a behaviour gap: documents don't help, a better prompt or a tune may", "behaviour"
