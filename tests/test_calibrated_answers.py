import json
from dataclasses import replace

import numpy as np
import pytest

import rung
from rung.answering import distribution
from rung.calibration import CALIBRATION_FILE, calibrated_answers, read_calibration, write_calibration
from rung.errors import EngineError, SystemFolderError, TaskError
from rung.models.head import counted, fit_tfidf, head_files
from rung.models.resolve import resolve
from rung.records import Answer, Calibration, CalibrationMap, Example
from rung.scoring.calibration import before_and_after, fitted
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, System, copy, keep_calibration, ref_to, save
from tests.fixtures_climb import make_tiny_gguf
from tests.scoring.test_calibration import rows

TEXTS = ["the parcel is late", "no parcel came", "I forgot my password", "the invoice is wrong"]
LABELS = ["delivery", "delivery", "login", "billing"]
ASKED = [Example(id=text, input=text, output=None) for text in (*TEXTS, "my password is late")]
WORDS = ("ab c", "ab d", "ab e", "xy")
"""Three of them begin alike."""


def hot(temperature: float = 3.0) -> Calibration:
    by = CalibrationMap(method="temperature", temperature=temperature)
    return Calibration(map=by, rows=190, rows_digest="d", every_label=True, note="for a test")


def platt() -> Calibration:
    return replace(hot(), map=CalibrationMap(method="platt", slope=0.5, intercept=0.1), every_label=False)


@pytest.fixture
def head(tmp_path) -> System:
    made = fit_tfidf(counted(TEXTS), LABELS, 1.0, 0)
    spec = Spec(rung="head", task="t", kind="label", labels=made.labels, engine="head", features="tfidf")
    return save(tmp_path / "head", spec, head_files(made))


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> System:
    gguf = make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    spec = Spec(
        rung="prompt",
        task="t",
        kind="label",
        labels=WORDS,
        engine="torch",
        model=ref_to(resolve(str(gguf)), str(gguf)),
        style="terse",
        answer=AnswerSpec(form="words"),
    )
    return save(tmp_path_factory.mktemp("made") / "words", spec, {})


def changed(folder, **changes) -> None:
    path = folder / CALIBRATION_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_calibration_is_the_same_after_writing_and_reading(head):
    judged = rows(120, sharper=2.0)
    by, note = fitted(judged)
    whole = replace(
        hot(), map=by, note=note, dev=before_and_after(judged, None), test=before_and_after(judged, by)
    )
    keep_calibration(head, whole)
    assert head.calibration == whole
    assert System.load(head.folder).calibration == whole


def test_a_system_without_one_has_none(head):
    assert System.load(head.folder).calibration is None


def test_the_digest_is_the_same_with_and_without_and_a_copy_takes_it_along(head, tmp_path):
    before = head.digest
    keep_calibration(head, hot())
    twin = copy(System.load(head.folder), tmp_path / "winner")
    assert twin.digest == System.load(head.folder).digest == before
    assert System.load(tmp_path / "winner").calibration == twin.calibration == hot()
    copy(
        save(tmp_path / "bare", head.spec, {n: head.folder / n for n in head.spec.files}), tmp_path / "winner"
    )
    assert System.load(tmp_path / "winner").calibration is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / CALIBRATION_FILE).write_text("{"), "isn't a calibration"),
        (lambda folder: (folder / CALIBRATION_FILE).write_bytes(b"\xff\xfe"), "isn't a calibration"),
        (lambda folder: changed(folder, format=2), "at format"),
        (lambda folder: changed(folder, run_this="code"), "at run_this"),
        (lambda folder: changed(folder, calibration={}), r"at calibration\.map"),
        (lambda folder: changed(folder, system="f" * 16), "belongs to the System 'ffffffffffffffff'"),
        (lambda folder: changed(folder, digest="0"), "was changed since it was written"),
    ],
)
def test_a_damaged_changed_or_foreign_calibration_is_refused_with_the_way_out(head, damage, said):
    keep_calibration(head, hot())
    damage(head.folder)
    with pytest.raises(SystemFolderError, match=rf"calibration\.json' .*{said}.*; remove it"):
        System.load(head.folder)


@pytest.mark.parametrize(
    "by",
    [
        CalibrationMap(method="temperature", temperature=0.0),
        CalibrationMap(method="temperature", temperature=float("inf")),
        CalibrationMap(method="platt", slope=-1.0),
        CalibrationMap(method="platt", intercept=float("nan")),
        CalibrationMap(method="isotonic"),
        CalibrationMap(method="isotonic", knots=((0.5, 0.9), (0.4, 0.95))),
        CalibrationMap(method="isotonic", knots=((0.4, 0.9), (0.5, 0.5))),
        CalibrationMap(method="isotonic", knots=((0.4, 0.9), (0.5, 1.5))),
    ],
)
def test_a_map_of_numbers_that_mean_nothing_is_refused(head, by):
    write_calibration(head.folder, head.digest, replace(hot(), map=by))
    with pytest.raises(SystemFolderError, match="can't be used"):
        read_calibration(head.folder, head.digest)


def test_an_answer_has_the_calibrated_probability_and_the_raw_one_beside_it(head):
    with rung.load(head.folder) as answer:
        raw = answer.ask("no parcel")
    keep_calibration(head, hot())
    with rung.load(head.folder) as answer:
        found = answer.ask("no parcel")
        (batched,) = answer.batch(["no parcel"])
    assert raw.raw_probability is None
    assert found.value == raw.value and found.raw_probability == raw.probability
    expected = np.power(raw.distribution, 1 / 3)
    assert found.distribution == pytest.approx(expected / expected.sum())
    assert found.options[0] == (found.value, found.probability)
    assert [name for name, _ in found.options] == [name for name, _ in raw.options]
    assert replace(batched, latency_s=0) == replace(found, latency_s=0)


def test_what_is_stored_and_scored_is_raw(head):
    keep_calibration(head, hot())
    with Pool() as pool:
        (answer,) = System.load(head.folder).answer(ASKED[:1], pool)
    assert answer.raw_probability is None and answer.probability == max(answer.distribution)


def test_every_labels_probability_is_known_from_a_head(head):
    with Pool() as pool:
        found = distribution(head, ASKED, pool)
    assert len(found) == len(ASKED)
    for one, label in zip(found, LABELS, strict=False):
        assert len(one) == 3 and sum(one) == pytest.approx(1.0)
        assert head.spec.labels[int(np.argmax(one))] == label


def test_labels_in_words_that_begin_alike_have_all_probabilities_where_they_are_asked_for(words):
    with Pool() as pool:
        plain = words.answer(ASKED, pool)
        whole = words.answer(ASKED, pool, every_label=True)
        found = distribution(words, ASKED, pool)
    assert any(not answer.distribution for answer in plain)
    for one, other, share in zip(plain, whole, found, strict=True):
        assert other.value == one.value and other.probability == pytest.approx(one.probability, abs=1e-5)
        assert len(other.options) == 4 and min(other.distribution) > 0
        assert share == other.distribution and sum(share) == pytest.approx(1.0, abs=1e-12)


def test_labels_of_which_no_two_begin_alike_have_all_probabilities_anyway(words, tmp_path):
    flat = save(tmp_path / "flat", words.spec.model_copy(update={"labels": ("ab", "cd", "xy")}), {})
    with Pool() as pool:
        (answer,) = flat.answer(ASKED[:1], pool)
        (whole,) = flat.answer(ASKED[:1], pool, every_label=True)
    assert answer.distribution == pytest.approx(whole.distribution) and len(answer.distribution) == 3


def test_an_answer_alone_is_calibrated_without_the_other_labels_and_names_none(words):
    bare = Answer(text="xy", value="xy", probability=0.9, options=(("xy", 0.9), ("ab c", 0.05)))
    (found,) = calibrated_answers([bare], platt().map, WORDS)
    assert found.probability == pytest.approx(1 / (1 + np.exp(-(0.5 * np.log(9) + 0.1))))
    assert found.options == (("xy", found.probability),) and found.raw_probability == 0.9
    whole = replace(bare, distribution=(0.05, 0.03, 0.02, 0.9))
    (known,) = calibrated_answers([whole], platt().map, WORDS)
    assert known.probability == pytest.approx(found.probability, abs=1e-6)
    assert sum(known.distribution) == pytest.approx(1.0)


def test_answers_without_probabilities_stay_as_they_are():
    broken, free = Answer(text="", failure="choose: died"), Answer(text="so", value="so")
    assert calibrated_answers([broken, free], hot().map, WORDS) == [broken, free]


def test_a_system_that_writes_freely_has_no_probabilities_to_give(words, tmp_path):
    free = save(tmp_path / "free", words.spec.model_copy(update={"answer": AnswerSpec(form="free")}), {})
    with Pool() as pool, pytest.raises(TaskError, match="gives no probabilities"):
        distribution(free, ASKED, pool)


def test_a_broken_call_has_no_distribution(words):
    long = Example(id="long", input="much too long " * 5000, output=None, where="rows.jsonl:7")
    with Pool() as pool, pytest.raises(EngineError, match=r"no probabilities for rows\.jsonl:7"):
        distribution(words, [ASKED[0], long], pool)
