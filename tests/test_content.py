from dataclasses import replace

import numpy as np
import pytest

from rung.content import content_kept, floor_of
from rung.records import Answer, Example

TOPICS = [f"topic{n}" for n in range(30)]


def vector_of(text: str) -> np.ndarray:
    """One axis for each topic that a text names, and a little of an axis of their own for all."""
    found = np.array([1.0 * (topic in text.split()) for topic in TOPICS] + [0.3])
    return found / np.linalg.norm(found)


def embed(texts):
    return np.array([vector_of(text) for text in texts])


ROWS = [Example(id=str(n), input="x", output=f"{topic} in fine words") for n, topic in enumerate(TOPICS)]


def answers(texts):
    return [Answer(text=text, value=text) for text in texts]


def test_an_answer_about_its_row_is_kept_and_a_fine_one_about_another_row_is_not():
    own = answers(f"{topic} said otherwise" for topic in TOPICS)
    kept, mean = content_kept(ROWS, own, embed)
    assert kept == own and mean == pytest.approx(1.0)
    shifted = answers(ROWS[(n + 1) % 30].output for n in range(30))
    lost, mean = content_kept(ROWS, shifted, embed)
    assert [a.value for a in lost] == [None] * 30 and mean < 0.2
    assert [a.text for a in lost] == [a.text for a in shifted], "what was said stays"


def test_the_same_good_line_for_every_row_is_worth_that_row_alone():
    kept, _ = content_kept(ROWS, answers([ROWS[3].output] * 30), embed)
    assert [n for n, a in enumerate(kept) if a.value is not None] == [3]


def test_gold_is_kept_even_where_all_rows_say_the_same():
    rows = [replace(row, output="topic1") for row in ROWS]
    kept, _ = content_kept(rows, answers(["topic1"] * 30), embed)
    assert all(a.value == "topic1" for a in kept)


def test_broken_calls_stay_broken_and_count_for_nothing():
    broken = [replace(a, failure="x", value=None) for a in answers(["-"] * 30)]
    assert content_kept(ROWS, broken, embed) == (broken, 0.0)
    some = [broken[0], *answers(row.output for row in ROWS[1:])]
    kept, mean = content_kept(ROWS, some, embed)
    assert kept[0].failure == "x" and mean == pytest.approx(1.0)


def test_the_floor_is_what_unrelated_outputs_share():
    unit = embed([row.output for row in ROWS])
    cosines = sorted(float(unit[a] @ unit[b]) for a in range(30) for b in range(30) if a != b)
    assert floor_of(unit) == pytest.approx(np.quantile(cosines, 0.95))
    assert floor_of(unit[:5]) == -1.0
