"""Rows that stand on both sides of a split, or several times on one: equal, near, or of one group."""

from collections.abc import Sequence

import numpy as np

from rung.checks.base import (
    SHOWN_ROWS,
    Outcome,
    Subject,
    by_share,
    finding,
    on_one_side,
    rows_text,
    such_as,
)
from rung.data.near import COSINE, JACCARD, LONG_RUN, RUN, known_runs, nearest_of, rows_alike_in
from rung.records import Example
from rung.task.outputs import canonical, shown

REPEATS_WARN = 0.01
NEAR_REPEATS = 0.05
NEAR_WARN, NEAR_BLOCK = 0.01, 0.05
"""Of the test rows."""
SEMANTIC_SHARE = 0.05


def repeats(subject: Subject) -> Outcome:
    """Rows with the input and the answers of another one of their part, white space and case aside."""
    found: list[Example] = []
    seen: set[tuple[int, int, str, str | None]] = set()
    ends = np.cumsum([len(subject.splits.train), len(subject.splits.dev)])
    for place in subject.asked_again.tolist():
        row = subject.rows[place]
        part = int(np.searchsorted(ends, place, "right"))
        key = (part, int(subject.first_asked[place]), canonical(row.output), row.rejected)
        if key in seen:
            found.append(row)
        seen.add(key)
    share = len(found) / len(subject.rows)
    if share <= REPEATS_WARN:
        return []
    message = (
        f"rows that repeat another one: {rows_text(len(found))} ({share:.1%}), {such_as(found)}; they weigh "
        "double in training and in scores: `rung check --fix OUT` keeps one of each"
    )
    return [finding("repeats", "warn", message, found)]


def leaks(subject: Subject) -> Outcome:
    """Training inputs that a given test holds too; they were taken out of train and dev."""
    nearly = {row.id for row, _ in subject.near_test or ()}
    removed = [row for row in subject.splits.removed if row.id not in nearly]
    if not removed:
        return []
    message = (
        f"inputs of the given test that {subject.task.data.train.name} holds too: {rows_text(len(removed))}, "
        f"{such_as(removed)}; taken out of train and dev, the test is kept as given"
    )
    return [finding("leaks", "warn", message, removed)]


def near_repeats(subject: Subject) -> Outcome:
    """Rows outside the test that are nearly the same: they stand on one side, and a few teach as much."""
    learned = {row.id: row for row in subject.learned}
    near = [(whole, [one for one in whole if one in learned]) for whole in subject.near]
    groups = [kept for _, kept in near if len(kept) > 1]
    rows = [learned[kept[0]] for kept in groups]
    count = sum(map(len, groups))
    share = count / max(1, len(subject.learned))
    if share <= NEAR_REPEATS:
        return []
    parted = sum(not on_one_side(len(whole), len(subject.split)) for whole, kept in near if len(kept) > 1)
    sides = "each group is on one side of the split"
    if parted:
        sides = f"{parted:,} of them too large to be kept on one side of the split"
    message = (
        f"rows that are nearly the same as another ({JACCARD:.0%} of their characters' 5-grams): "
        f"{rows_text(count)} ({share:.1%}) in {len(groups):,} groups, the largest of "
        f"{max(map(len, groups)):,}; {sides}; a few rows of each teach as much"
    )
    return [finding("near_repeats", "info", message, rows)]


def near_leaks(subject: Subject) -> Outcome:
    """Test rows of which train or dev holds a version with hardly a character changed.

    Those of a given test were taken out of train and dev, unless they were most of the rows.
    """
    test, learned = subject.splits.test, subject.learned
    removed = {row.id for row in subject.splits.removed}
    if subject.near_test is not None and all(row.id in removed for row, _ in subject.near_test):
        return _taken_out(subject, subject.near_test)
    if not test:
        return []
    hits = [
        (test[place], learned[other])
        for place, other in rows_alike_in(test, learned, progress=subject.progress).items()
    ]
    grave = by_share(len(hits) / len(test), warn=NEAR_WARN, block=NEAR_BLOCK)
    if grave is None:
        return []
    rows = [row for row, _ in hits]
    message = (
        f"test rows that train or dev holds nearly the same: {rows_text(len(hits))} "
        f"({len(hits) / len(test):.1%}), such as {hits[0][0].where} beside {hits[0][1].where}: they measure "
        f"memory; {_way_out(subject)}"
    )
    return [finding("near_leaks", grave, message, rows, _pairs(hits))]


def _taken_out(subject: Subject, pairs: Sequence[tuple[Example, Example]]) -> Outcome:
    """The rows that are in no part since the given test nearly holds them."""
    if not pairs:
        return []
    share = len({other.id for _, other in pairs}) / len(subject.splits.test)
    message = (
        f"inputs that the given test holds nearly the same: {rows_text(len(pairs))} of "
        f"{subject.task.data.train.name}, such as {pairs[0][0].where} beside {pairs[0][1].where}; taken out "
        "of train and dev, the test is kept as given"
    )
    grave = by_share(share, warn=NEAR_WARN, block=1.0) or "info"
    return [finding("near_leaks", grave, message, [row for row, _ in pairs], _pairs(pairs))]


def _pairs(pairs: Sequence[tuple[Example, Example]]) -> list[str]:
    return [f"{a.where} {shown(a.input)} ~ {b.where} {shown(b.input)}" for a, b in pairs[:SHOWN_ROWS]]


def semantic_leaks(subject: Subject) -> Outcome:
    """Test rows whose sentence vector is close to that of a row in train or dev: paraphrases."""
    if subject.embed is None:
        return "the model of the sentence vectors isn't here: rung models --fetch minilm-l6"
    test, learned = subject.splits.test, subject.learned
    if not test or not learned:
        return []
    known = np.concatenate(
        [subject.embed(part) for part in (subject.splits.train, subject.splits.dev) if part]
    )
    cosine, where = nearest_of(subject.embed(test), known)
    hits = [place for place in np.argsort(-cosine, kind="stable") if cosine[place] >= COSINE]
    share = len(hits) / len(test)
    if share <= SEMANTIC_SHARE:
        return []
    message = (
        f"test rows that say nearly the same as one in train or dev (cosine of {COSINE} and more): "
        f"{rows_text(len(hits))} ({share:.1%}); the score is one of rows like those learned from, and "
        "less will be right where people ask otherwise"
    )
    details = [
        f"{cosine[place]:.3f} {test[place].where} {shown(test[place].input)} ~ "
        f"{learned[where[place]].where} {shown(learned[where[place]].input)}"
        for place in hits[:SHOWN_ROWS]
    ]
    return [finding("semantic_leaks", "warn", message, [test[place] for place in hits], details)]


def known_text(subject: Subject) -> Outcome:
    """Long test inputs that share long runs of words with train or dev."""
    test = subject.splits.test
    places = known_runs([row.input for row in test], (row.input for row in subject.learned))
    if not places:
        return []
    rows = [test[place] for place in places]
    message = (
        f"long test inputs with {LONG_RUN} words in a row that train or dev holds, or half made of runs of "
        f"{RUN}: {rows_text(len(rows))}, {such_as(rows)}; give rows from one text one `group`, and leave the "
        "test out to have it carved by that"
    )
    return [finding("known_text", "warn", message, rows)]


def _way_out(subject: Subject) -> str:
    if subject.splits.test_given:
        return (
            "the test holds most of the rows so, and they were left in: leave the test out to have one "
            "carved, or go on with --accept near_leaks"
        )
    return "give them one `group`"


def shared_groups(subject: Subject) -> Outcome:
    """Groups (a user, a document) with rows in a given test and outside of it."""
    sealed = {example.group for example in subject.splits.test} - {None}
    rows = [example for example in subject.learned if example.group in sealed]
    if not rows:
        return []
    message = (
        f"groups of the given test that {subject.task.data.train.name} holds too: {rows_text(len(rows))}, "
        f"{such_as(rows)} (group {shown(rows[0].group)}): scores would be too good; leave the test out to "
        "have one carved by group, or go on with --accept shared_groups"
    )
    return [finding("shared_groups", "block", message, rows)]
