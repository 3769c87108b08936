import json
from dataclasses import replace

import numpy as np
import pytest

from rung.calibration import CALIBRATION_FILE, read_calibration
from rung.climb.calibrating import Answered, calibrate, calibration_of, judged
from rung.climb.climb import Options, climb, load_climb
from rung.errors import EngineError
from rung.evaluate import Store
from rung.records import Answer, Example, Interval, Measurement, Prediction, RungResult
from rung.report import summary
from rung.scoring.reliability import calibration_score
from rung.spec import Spec
from rung.system import System, save
from tests.climb.test_climb import Always, with_ladder
from tests.fixtures_climb import Log, label_rows, make_tiny_gguf, write_rows

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """A climb of a head that gives every row the same answer, and of one that fails."""
    folder = tmp_path_factory.mktemp("climbed")
    model = make_tiny_gguf(folder / "tiny.gguf")
    task = write_rows(folder / "topics.jsonl", label_rows(270))
    with pytest.MonkeyPatch.context() as patch:
        rungs = with_ladder(patch, Always("one"), Always("two", fault=EngineError("it died")))
        options = Options(models=(str(model),), out=folder / "run", rungs=rungs, budget_s=600)
        return climb(task, options, Log())


def measured(split, answers, rows) -> Measurement:
    pairs = zip(rows, answers, strict=True)
    return Measurement(
        system="s",
        split=split,
        metric="accuracy",
        score=0.5,
        interval=Interval(low=0, high=1),
        n=len(rows),
        failures=0,
        predictions=tuple(Prediction(example_id=row.id, answer=answer, score=1.0) for row, answer in pairs),
    )


def split_of(name: str, count: int, seed: int, group: bool = False):
    """Rows of three labels, answers that are much too sure, and the answers' whole distributions."""
    dice = np.random.default_rng(seed)
    z = dice.normal(0, 1.5, (count, 3))
    true, sure = (np.exp(f * z) / np.exp(f * z).sum(1, keepdims=True) for f in (1.0, 3.0))
    rows = [
        Example(
            id=f"{name}{i}",
            input=f"{name}{i}",
            output=LABELS[dice.choice(3, p=true[i])],
            group=f"{name}g{i // 4}" if group else None,
        )
        for i in range(count)
    ]
    answers = [
        Answer(
            text=LABELS[row.argmax()],
            value=LABELS[row.argmax()],
            probability=float(row.max()),
            distribution=tuple(row.tolist()),
        )
        for row in sure
    ]
    return rows, answers


def set_up(tmp_path, keep=True, group=False):
    dev, dev_answers = split_of("dev", 200, 0, group)
    test, test_answers = split_of("test", 200, 1)
    spec = Spec(rung="head", task="t", kind="label", labels=LABELS, engine="head", features="tfidf")
    system = save(tmp_path / "system", spec, {})
    store = Store(tmp_path / "answers")
    for rows, answers in ((dev, dev_answers), (test, test_answers)):
        kept = [a if keep else replace(a, distribution=()) for a in answers]
        store.append(system.digest, list(zip(rows, kept, strict=True)), 1.0)
    result = RungResult(
        rung="head",
        order=0,
        dev=measured("dev", dev_answers, dev),
        test=measured("test", test_answers, test),
    )
    return system, result, Answered(dev=dev, test=test, store=store)


def test_the_winner_carries_the_calibration_that_its_dev_answers_gave(climbed):
    result, run = climbed
    one, failed = result.results
    assert failed.calibration is None
    found = one.calibration
    assert found is not None and found.rows == 54 and found.every_label
    assert found.dev is not None and found.test is not None
    assert [score.n for score in (*found.dev, *found.test)] == [54] * 4
    for folder in (run / "winner", run / one.folder):
        system = System.load(folder)
        assert system.digest == one.system
        assert system.calibration == found
    assert load_climb(run) == result


def test_distributions_lie_beside_the_answers_and_not_in_the_climb(climbed):
    result, run = climbed
    one = result.results[0]
    kept = Store(run / "answers").distributions(one.system)
    for prediction in (*one.dev.predictions, *one.test.predictions):
        assert prediction.answer.distribution == ()
        assert max(kept[prediction.example_id]) == pytest.approx(prediction.answer.probability, abs=1e-6)
        assert sum(kept[prediction.example_id]) == pytest.approx(1.0, abs=1e-6)


def test_a_run_of_before_still_loads_and_reads(climbed, tmp_path):
    result, run = climbed
    old = json.loads((run / "climb.json").read_text())
    for one in old["results"]:
        del one["calibration"]
        for split in ("dev", "test"):
            for prediction in (one[split] or {"predictions": ()})["predictions"]:
                del prediction["answer"]["distribution"], prediction["answer"]["raw_probability"]
    (tmp_path / "climb.json").write_text(json.dumps(old))
    loaded = load_climb(tmp_path)
    assert loaded.results[0] == replace(result.results[0], calibration=None)
    assert summary.calibrations(loaded) == [] != summary.calibrations(result)


def test_a_system_that_gives_no_probabilities_has_no_calibration(tmp_path):
    system, result, answered = set_up(tmp_path)
    free = save(tmp_path / "free", Spec(rung="prompt", task="t", kind="text", engine="llama"), {})
    found = calibrate([result, replace(result, rung="prompt")], {"head": system, "prompt": free}, answered)
    assert [one.calibration is None for one in found] == [False, True]
    assert read_calibration(system.folder, system.digest) == system.calibration == found[0].calibration
    assert not (free.folder / CALIBRATION_FILE).exists()


def test_dev_answers_that_are_too_sure_are_cooled_and_the_test_shows_it(tmp_path):
    system, result, answered = set_up(tmp_path)
    found = calibration_of(system, result, answered)
    assert found.map.method == "temperature" and found.map.temperature == pytest.approx(3.0, rel=0.2)
    assert found.rows == 200 and found.every_label
    for before, after in (found.dev, found.test):
        assert after.ece < before.ece / 2 and after.log_loss < before.log_loss


def test_nothing_is_fitted_on_test_rows(tmp_path):
    system, result, answered = set_up(tmp_path)
    found = calibration_of(system, result, answered)
    other = replace(answered, test=[replace(row, output="a") for row in answered.test])
    wrong = calibration_of(system, result, other)
    assert replace(wrong, test=None) == replace(found, test=None)
    assert wrong.test != found.test
    unopened = calibration_of(system, replace(result, test=None), answered)
    assert unopened == replace(found, test=None)


def test_the_rows_that_it_was_fitted_on_are_named_by_a_digest(tmp_path):
    system, result, answered = set_up(tmp_path)
    found = calibration_of(system, result, answered)
    row = replace(answered.dev[0], output="b" if answered.dev[0].output == "a" else "a")
    other = calibration_of(system, result, replace(answered, dev=[row, *answered.dev[1:]]))
    assert other.rows_digest != found.rows_digest
    half = replace(result.dev, predictions=result.dev.predictions[:100])
    stopped = calibration_of(system, replace(result, dev=half), answered)
    assert stopped.rows == 100 and stopped.rows_digest != found.rows_digest


def test_without_all_labels_probabilities_the_answers_alone_are_calibrated(tmp_path):
    system, result, answered = set_up(tmp_path, keep=False)
    found = calibration_of(system, result, answered)
    assert found.map.method == "platt" and not found.every_label
    before, after = found.test
    assert after.ece < before.ece / 2


def test_groups_stay_on_one_side_of_a_fold_and_broken_calls_are_left_out(tmp_path):
    system, result, answered = set_up(tmp_path, group=True)
    first, *others = result.dev.predictions
    broken = replace(first, answer=Answer(text="", failure="choose: died"), score=None)
    dev = replace(result.dev, predictions=(broken, *others))
    one = judged(LABELS, answered.dev, dev, answered.store.distributions(system.digest))
    assert one.rows == 199 and one.table.shape == (199, 3)
    assert len(set(one.groups)) == 50


def test_rows_that_ask_the_same_are_one_draw_in_a_calibrations_bins_and_its_error_by_chance():
    rows, answers = split_of("dev", 60, 3)
    fours = [answer for answer in answers for _ in range(4)]

    def scored(asks):
        copies = [
            replace(row, id=f"{row.id}.{time}", input=f"{row.id}{asks(time)}")
            for row in rows
            for time in range(4)
        ]
        return calibration_score(judged(LABELS, copies, measured("dev", fours, copies), {}))

    same, other = scored(lambda time: ""), scored(lambda time: f".{time}")
    assert same.ece_15 == other.ece_15 and same.ece_15_by_chance > 1.5 * other.ece_15_by_chance
    for one, free in zip(same.reliability, other.reliability, strict=True):
        assert one.rows == free.rows == 16
        assert one.interval.high - one.interval.low > 1.4 * (free.interval.high - free.interval.low)


def test_a_label_that_the_system_never_saw_is_a_wrong_answer(tmp_path):
    system, result, answered = set_up(tmp_path)
    rows = [replace(row, output="unseen") for row in answered.dev]
    one = judged(LABELS, rows, result.dev, answered.store.distributions(system.digest))
    assert not one.right.any() and set(one.gold) == {-1}
    calibration_of(system, result, replace(answered, dev=rows))


def test_an_answer_is_right_whatever_form_of_unicode_and_blanks_its_rows_label_has():
    outputs = ("e\u0301", "a\u00a0 b", "c")
    rows = [Example(id=str(at), input=f"question {at}", output=output) for at, output in enumerate(outputs)]
    answers = [Answer(text=label, value=label, probability=0.9) for label in ("é", "a b", "é")]
    found = judged(("a b", "é"), rows, measured("dev", answers, rows), {})
    assert found.right.tolist() == [True, True, False]
