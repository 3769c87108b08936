import random
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import near, sketches
from rung.data.near import (
    AT_ONCE,
    JACCARD,
    LONG_TEXT,
    alike,
    alike_in,
    known_runs,
    like_vectors,
    nearest_of,
    rows_alike,
    rows_alike_in,
)
from rung.data.sketches import SHINGLE, as_groups, distinct
from rung.records import Example

WORDS = "parcel courier late address box lost refund invoice charge price account password code blue".split()


def sentence(dice, count=12):
    return " ".join(dice.choices(WORDS, k=count))


def altered(text, dice, letters):
    """The text with so many of its letters changed."""
    found = list(text)
    for place in dice.sample(range(len(found)), letters):
        found[place] = "#"
    return "".join(found)


@cache
def shingles(text):
    return frozenset(text.lower()[at : at + SHINGLE] for at in range(len(text) - SHINGLE + 1))


def jaccard(one, other):
    """By the definition, on folded text of some length."""
    shared = len(shingles(one) & shingles(other))
    return shared / (len(shingles(one)) + len(shingles(other)) - shared)


def collection(seed, count=120):
    dice = random.Random(seed)
    texts = [sentence(dice) for _ in range(count)]
    return texts + [altered(dice.choice(texts), dice, dice.randint(0, 4)) for _ in range(count)]


def test_groups_hold_no_text_without_a_like_one_and_miss_hardly_any():
    missed = pairs = 0
    for seed in range(4):
        texts = collection(seed)
        group_of = {place: number for number, group in enumerate(alike(texts)) for place in group}
        for place in group_of:
            others = [o for o in group_of if group_of[o] == group_of[place] and o != place]
            assert max(jaccard(texts[place], texts[other]) for other in others) >= JACCARD
        for one, other in combinations(range(len(texts)), 2):
            if jaccard(texts[one], texts[other]) >= JACCARD:
                pairs += 1
                missed += group_of.get(one, -1) != group_of.get(other, -2)
    assert pairs > 200 and missed / pairs < 0.03


def test_equal_texts_are_always_found_case_and_spaces_aside():
    texts = ["Where is it?", "no", "where  IS it?", "NO", "other", "where is it?"]
    assert alike(texts) == [[0, 2, 5], [1, 3]]
    assert alike_in(["other ", "new", "No"], texts) == {0: 4, 2: 1}


def test_a_text_is_found_among_stored_ones_with_letters_changed():
    dice = random.Random(5)
    stored = [sentence(dice) for _ in range(300)]
    asked = [altered(text, dice, 1) for text in stored] + [sentence(dice) for _ in range(100)]
    found = alike_in(asked, stored)
    expected = {place for place, text in enumerate(asked) if any(jaccard(text, s) >= JACCARD for s in stored)}
    assert set(found) <= expected and len(expected - set(found)) <= 0.03 * len(expected)
    assert all(jaccard(asked[place], stored[other]) >= JACCARD for place, other in found.items())


@given(st.lists(st.text(max_size=30), max_size=12))
@settings(deadline=None)
def test_any_text_can_be_looked_at(texts):
    for group in alike(texts):
        assert len(group) > 1 and group == sorted(set(group))
    assert all(place < len(texts) for place in alike_in(texts, texts[::-1]))
    assert len(alike_in(texts, texts)) == len(texts)


def test_like_vectors_are_all_pairs_over_the_cosine_across_blocks():
    dice = np.random.default_rng(0)
    vectors = dice.normal(size=(AT_ONCE + 50, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = np.triu(vectors @ vectors.T, 1)
    found = like_vectors(vectors, 0.95)
    assert {(a, b) for _, a, b in found} == set(zip(*map(list, np.nonzero(whole >= 0.95)), strict=True))
    best, where = nearest_of(vectors, vectors[:40])
    np.testing.assert_allclose(best, (vectors @ vectors[:40].T).max(1), atol=1e-6)
    assert (where == (vectors @ vectors[:40].T).argmax(1)).mean() > 0.999


def test_long_texts_are_known_by_their_runs_of_words():
    dice = random.Random(0)
    numbers = [str(n) for n in range(10_000)]
    known = dice.sample(numbers, 60)
    fresh = dice.sample(numbers, 60)
    one_run = [*fresh[:20], *known[5:18], *fresh[20:40]]
    too_short_a_run = [*fresh[:20], *known[5:17], *fresh[20:40]]
    half = [*known[:8], *fresh[:6], *known[20:28]] + [*fresh[6:9], *known[40:48]]
    short = known[:13]
    texts = [" ".join(words) for words in (one_run, too_short_a_run, half, short, fresh)]
    assert len(half) >= LONG_TEXT > len(short)
    assert known_runs(texts, [" ".join(known)]) == [0, 2]


def test_groups_are_the_places_of_one_root():
    assert as_groups([0, 1, 1, 4, 4, 5, 1]) == [[1, 2, 6], [3, 4]]
    assert as_groups([2, 1, 2]) == [[0, 2]]
    assert as_groups([]) == []


def test_distinct_texts_come_in_order_each_with_those_that_equal_it():
    first, which = distinct(iter(["b", "a", "b", "", "a"]), 5)
    assert first.tolist() == [0, 1, 3]
    assert which.tolist() == [0, 1, 0, 2, 1]


def test_of_many_texts_the_likeliest_candidates_are_enough(monkeypatch):
    texts = collection(3, count=400)
    whole, whole_in = alike(texts), alike_in(texts[:350], texts[350:])
    monkeypatch.setattr(sketches, "MANY", 100)
    assert alike(texts) == whole
    assert alike_in(texts[:350], texts[350:]) == whole_in


def test_of_many_texts_that_differ_by_a_number_none_is_put_beside_an_unlike_one(monkeypatch):
    dice = random.Random(3)
    texts = [f"your parcel with the long number {dice.randrange(10**6)} is late again" for _ in range(400)]
    whole = {place: set(group) for group in alike(texts) for place in group}
    monkeypatch.setattr(sketches, "MANY", 100)
    few = alike(texts)
    assert all(set(group) <= whole[group[0]] for group in few)
    assert sum(map(len, few)) >= 0.6 * len(whole)


def test_a_text_among_many_is_beside_few_candidates_however_many_share_its_bands(monkeypatch):
    monkeypatch.setattr(sketches, "MANY", 100)
    banded = np.zeros((3, 300), np.uint64)
    banded[1, 200:] = np.arange(100)
    others = dict(sketches.earlier(banded))
    assert others[5] == [0, 1, 2, 3, 4] and 0 not in others
    assert len(others[299]) == sketches.LIKELIEST
    assert all(len(found) == sketches.LIKELIEST for found in sketches.among(banded[:, :4], banded))


def test_rows_are_alike_under_the_same_context_only_and_a_first_under_another_hides_none():
    def row(context, text):
        return Example(id=text + context, input=text, context=context or None, output="x")

    stored = [
        row("a", "where is my blue parcel"),
        row("b", "where is my blue parcel!"),
        row("", "other words"),
    ]
    asked = [row("b", "where is my blue parcel"), row("c", "where is my blue parcel"), row("", "Other words")]
    assert rows_alike_in(asked, stored) == {0: 1, 2: 2}
    assert rows_alike([*stored, *asked]) == [[1, 3], [2, 5]]


def test_thousands_of_rows_of_one_template_are_not_compared_each_with_each(monkeypatch):
    dice = random.Random(9)
    texts = [
        f"Your parcel with the long number {dice.randrange(10**8, 10**9)} is late again" for _ in range(3000)
    ]
    looks = []
    monkeypatch.setattr(near, "jaccard", lambda one, other: looks.append(1) or sketches.jaccard(one, other))
    alike(texts)
    assert 0 < len(looks) < 100 * len(texts)
    looks.clear()
    alike_in(texts[:500], texts[500:])
    assert 0 < len(looks) < 100 * 500


DATED = {
    "numbers": "You are a support bot. Today is 2026-03-{day:02} 10:{day:02}.",
    "a stamp": "You are a support bot (2026-03-{day:02}T10:{day:02}:07.5Z)",
    "dots": "Date: {day}.3.2026, time: 9:{day:02}. You are a support bot.",
    "words": "You are a support bot. It is Tuesday, March {day}, 2026 at 10:{day:02} AM",
    "words, the day first": "You are a support bot. Today Date: {day} Mar 2026\nBe kind.",
}


@pytest.mark.parametrize("written", DATED)
def test_the_date_of_a_logged_chat_does_not_hide_a_question_that_is_asked_again(written):
    dice = random.Random(1)
    inputs = [sentence(dice) for _ in range(20)]
    inputs[13] = inputs[4]
    rows = [
        Example(id=f"{day}", input=text, context=DATED[written].format(day=day), output="x")
        for day, text in enumerate(inputs, start=1)
    ]
    assert rows_alike(rows) == [[4, 13]]
    assert rows_alike_in(rows[10:], rows[:10]) == {3: 4}


@pytest.mark.parametrize(
    "material",
    [
        "The shop has {n} lamps.",
        "| 2026-01-{n:02} | 3 |\n| 2026-02-01 | 4 |",
        "Open from {n}:00 on.",
        "Version 1.2.{n} of the program",
    ],
)
def test_a_text_or_a_table_that_differs_makes_another_question(material):
    rows = [
        Example(id=f"{n}", input="What does it say?", context=material.format(n=n), output="x")
        for n in range(1, 9)
    ]
    assert rows_alike(rows) == [] and rows_alike_in(rows[:4], rows[4:]) == {}
