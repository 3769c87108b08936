"""Scores corrected by people: which verdicts may correct which rung's, and how a sheet draws for it."""

import random
from collections import Counter
from dataclasses import replace
from statistics import fmean

import pytest

from rung.climb.corrected import FEWEST_CORRECTED, _corrected, sampled_scores
from rung.climb.sheet import draw
from rung.data.checked import Checked, read_checked
from rung.errors import DataError
from rung.records import Answer, Example
from rung.scoring.measure import measurement
from tests.fixtures_climb import write_rows

ROWS = {f"{n}": Example(id=f"{n}", input=f"question {n}", output=f"reply {n}") for n in range(40)}


def measured(rung, texts):
    """Answers that the judge has win, however they are."""
    answers = [Answer(text=text, value=1.0) for text in texts]
    return measurement(
        system=rung, split="dev", metric="judge", examples=list(ROWS.values()), answers=answers
    )


def person(number, text, drawn, better="other"):
    return Checked(
        input=f"question {number}", answer=text, other=f"reply {number}", better=better, drawn=drawn
    )


TEXTS = [f"text {n}" for n in ROWS]
DRAWN = [person(n, TEXTS[n], {"prompt": 30}) for n in range(30)]


def test_a_rung_is_corrected_by_its_own_sample_and_by_what_no_other_rung_was_drawn_for():
    found = measured("prompt", TEXTS)
    sample = dict.fromkeys(list(ROWS)[:30], (0.0, 1.0))
    assert sampled_scores("prompt", found, ROWS, DRAWN) == sample
    # The same answers word for word: which of them the two have in common is no random choice.
    assert sampled_scores("sft", found, ROWS, DRAWN) == {}
    both = [replace(one, drawn={**one.drawn, "sft": 30}) for one in DRAWN]
    assert sampled_scores("sft", found, ROWS, both) == sample
    by_hand = [replace(one, drawn={}) for one in DRAWN]
    assert sampled_scores("prompt", found, ROWS, by_hand) == {}
    assert sampled_scores("prompt", found, ROWS, [*DRAWN, *(replace(one, drawn={}) for one in DRAWN)])


def test_a_sample_that_was_marked_in_part_corrects_nothing():
    found = measured("prompt", TEXTS)
    assert sampled_scores("prompt", found, ROWS, DRAWN[1:]) == {}
    # Nor does one whose answers the rung doesn't give any more.
    assert sampled_scores("prompt", measured("prompt", ["new", *TEXTS[1:]]), ROWS, DRAWN) == {}


def test_a_small_sample_corrects_nothing():
    found = measured("prompt", TEXTS)
    for size, enough in ((FEWEST_CORRECTED, True), (FEWEST_CORRECTED - 1, False)):
        few = [replace(one, drawn={"prompt": size}) for one in DRAWN[:size]]
        assert bool(sampled_scores("prompt", found, ROWS, few)) == enough


@pytest.mark.parametrize("split", ["dev", "test"])
def test_rows_of_a_group_are_one_draw_to_a_corrected_score(split):
    texts = [f"text {n}" if n < 36 else f"reply {n}" for n in range(40)]
    found = replace(measured("prompt", texts), split=split)
    people = {f"{n}": (float(n // 4 % 2), 1.0) for n in range(30)}
    alone = _corrected(found, ROWS, people, ROWS)
    grouped = {name: replace(row, group=f"{int(name) // 4}") for name, row in ROWS.items()}
    wide = _corrected(found, grouped, people, grouped)
    assert wide.score == alone.score
    assert wide.high - wide.low > 1.3 * (alone.high - alone.low)
    own = {name: replace(row, group=name) for name, row in ROWS.items()}
    assert _corrected(found, own, people, own) == alone
    one = {name: replace(row, group="a") for name, row in ROWS.items()}
    assert (_corrected(found, one, people, one).low, _corrected(found, one, people, one).high) == (0.0, 1.0)


def test_each_rungs_part_of_a_sheet_is_a_random_sample_of_all_its_pairs():
    shared, own, other = ([f"{name}{n}" for n in range(40)] for name in ("shared", "own", "other"))
    pairs = {
        name: {key: {"answer": key} for key in keys}
        for name, keys in (("first", shared + own), ("second", shared + other))
    }
    shares = {"first": [], "second": []}
    for seed in range(200):
        drawn = draw(pairs, 60, random.Random(seed))
        assert len(drawn) == 60 == len({pair["answer"] for pair, _ in drawn})
        for name in pairs:
            mine = [pair["answer"] for pair, of in drawn if name in of]
            assert mine and all(key in pairs[name] for key in mine)
            shares[name].append(fmean(key.startswith("shared") for key in mine))
        assert Counter(of for _, of in drawn).keys() == {("first",), ("second",), ("first", "second")}
    # Half of each rung's pairs are shared; the mean of 200 samples strays by less than .01 by chance.
    assert {name: fmean(values) for name, values in shares.items()} == {
        name: pytest.approx(0.5, abs=0.03) for name in pairs
    }


def test_what_a_line_was_drawn_for_is_read_and_another_one_is_refused(tmp_path):
    line = {"input": "i", "answer": "a", "other": "b", "better": "tie"}
    (one,), _ = read_checked(write_rows(tmp_path / "a.jsonl", [{**line, "drawn": {"prompt": 30, "sft": 31}}]))
    assert one.drawn == {"prompt": 30, "sft": 31}
    for wrong in ("prompt", ["prompt"], {"prompt": 0}, {"prompt": True}, {"prompt": "30"}):
        with pytest.raises(DataError, match=r"b.jsonl:1: drawn: .* isn't what `rung judge sheet` wrote"):
            read_checked(write_rows(tmp_path / "b.jsonl", [{**line, "drawn": wrong}]))
