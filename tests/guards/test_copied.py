from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.guards import copied as module
from rung.guards.copied import copied
from rung.records import Answer, Example, Interval, Measurement, Prediction

LINE = "a lantern hung above the narrow door of the {} and nobody asked for whom it burned"
TRAIN = [Example(id=f"t{n}", input="x", output=LINE.format(word)) for n, word in enumerate(("inn", "mill"))]
OTHER = "the boats were late again, so we ate our bread on the quay and counted gulls, number {}"


def dev(answers, outputs):
    rows = [Example(id=str(n), input="x", output=output) for n, output in enumerate(outputs)]
    found = Measurement(
        system="s",
        split="dev",
        metric="style",
        score=0.5,
        interval=Interval(low=0, high=1),
        n=len(rows),
        failures=0,
        predictions=tuple(
            Prediction(example_id=str(n), answer=Answer(text=text, value=text), score=0.0)
            for n, text in enumerate(answers)
        ),
    )
    return found, rows


def test_a_training_output_said_again_is_a_copy_also_with_a_word_changed():
    answers = [LINE.format("Inn").upper(), LINE.format("barn"), OTHER.format(1), "a lantern"]
    found = copied(*dev(answers, [OTHER.format(n) for n in range(4)]), TRAIN)
    assert found is not None and (found.count, found.rows) == (2, 4)
    assert found.low < found.share == 0.5 < found.high and found.memorised


def test_what_the_row_wants_is_no_copy_and_neither_is_what_is_short():
    own = [LINE.format("inn"), "well said"]
    train = [*TRAIN, Example(id="s", input="x", output="well said")]
    found = copied(*dev(own, own), train)
    assert found is not None and found.count == 0 and not found.memorised


def test_few_copies_are_no_memory_and_broken_calls_are_not_looked_at():
    answers = [LINE.format("inn"), *(OTHER.format(n) for n in range(99))]
    measured, rows = dev(answers, ["something else altogether"] * 100)
    found = copied(measured, rows, TRAIN)
    assert found is not None and found.count == 1 and not found.memorised
    broken = tuple(replace(p, answer=replace(p.answer, failure="x")) for p in measured.predictions)
    assert copied(replace(measured, predictions=broken), rows, TRAIN) is None


@settings(max_examples=40)
@given(st.text(alphabet="abc ", min_size=30, max_size=60), st.text(alphabet="abc ", min_size=30, max_size=60))
def test_similarity_is_that_of_the_sets_of_runs(first, second):
    def runs(text):
        folded = " ".join(text.casefold().split())
        return {folded[at : at + 5] for at in range(len(folded) - 4)}, len(folded)

    (one, size), (two, other) = runs(first), runs(second)
    near = bool(one | two) and len(one & two) / len(one | two) >= module.NEAR
    wanted = near and min(size, other) >= module.FEWEST_CHARS
    train = [Example(id="t", input="x", output=second)]
    found = copied(*dev([first], ["zzzzz yyyyy xxxxx wwwww vvvvv"]), train)
    assert found is not None and found.count == int(wanted)


def test_nothing_learned_is_nothing_copied():
    found = copied(*dev([OTHER], [OTHER]), [])
    assert found is not None and found.share == pytest.approx(0.0)
