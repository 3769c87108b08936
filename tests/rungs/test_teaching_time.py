"""How long distill is said to take: by its teacher's pace on a few rows and by that of sft's tune."""

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rung.errors import TrainingError
from rung.rungs.base import Context
from rung.rungs.distill import LEAST_S, Distill
from rung.rungs.length import PACE_FILE
from rung.rungs.taught import scored_on_dev, to_score
from rung.rungs.teaching_time import HOLDS, ON_POLICY, RACED, Lessons, Paces, foreseen, on_policy_alone
from rung.runs import write_json
from rung.spec import AnswerSpec, Spec
from rung.system import System, ref_to, save
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, text_rows, write_rows
from tests.fixtures_hosted import KEY, Hosted, as_asked, beside, unlabelled

PACES = Paces(teacher_s=0.1, learn_s=0.02, answer_s=0.02)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    with Hosted(as_asked) as found:
        yield found


@pytest.fixture
def context(tiny, tmp_path, server):
    """A task whose teacher is a server, and a System of sft whose tune's pace is known."""
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(120)), tmp_path) as found:
        found.folder.mkdir()
        yield after_sft(beside(found, server, tmp_path, unlabelled(40)), tmp_path)


def after_sft(context: Context, folder) -> Context:
    spec = Spec(rung="sft", task="topics", kind="label", labels=context.labels, engine="fake")
    sft = save(folder / "rungs" / "sft" / "system", spec, {})
    write_json(sft.folder.parent / PACE_FILE, {"learn_s": 0.02, "answer_s": 0.02})
    return replace(context, built={"sft": sft})


def taught_by(context: Context, teacher) -> Context:
    task = context.task.model_copy(update={"teacher": str(teacher)})
    return replace(context, task=task)


def teacher_in(context: Context, folder) -> System:
    """A System that chooses among the labels by their probabilities."""
    spec = Spec(
        rung="prompt",
        task="topics",
        kind="label",
        labels=context.labels,
        engine="llama",
        model=ref_to(context.model, str(context.model.gguf)),
        answer=AnswerSpec(form="words"),
    )
    return save(folder / "bigger", spec, {})


def kept(context: Context) -> dict[str, int]:
    folder = context.bench.store.folder
    return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.exists() else {}


def lessons(context: Context, tmp_path, **changes) -> Lessons:
    given = Lessons(
        teacher=teacher_in(context, tmp_path), inputs=40, fewest=20, scored=20, forms=2, on_policy=False
    )
    return replace(given, **changes)


def left(context: Context, seconds: float) -> Context:
    return replace(context, deadline=time.monotonic() + seconds)


def test_a_hosted_teacher_is_asked_nothing_beforehand_and_foretells_nothing(context, server):
    assert Distill().skip(context) is None and Distill().outlook(context) is None
    assert server.seen == [] and kept(context) == {}


def test_a_teacher_of_this_machine_is_asked_a_few_rows_whose_answers_stay(context, tmp_path):
    given = taught_by(context, teacher_in(context, tmp_path).folder)
    told = Distill().outlook(given)
    assert told is not None and told.refusal is None
    assert 0 < told.least_s <= told.low_s <= told.seconds <= told.high_s <= 600
    before = kept(given)
    assert before, "what it was asked is kept"
    again = Distill().outlook(given)
    assert kept(given) == before and again is not None and again.least_s == told.least_s
    scored = scored_on_dev(given, System.load(tmp_path / "bigger"))
    assert scored.n == to_score(given, System.load(tmp_path / "bigger"))


def test_without_a_tune_of_sft_or_the_least_time_nothing_is_foretold_or_asked(context, tmp_path):
    given = taught_by(context, teacher_in(context, tmp_path).folder)
    assert Distill().outlook(replace(given, built={})) is None
    assert Distill().outlook(left(given, LEAST_S - 1)) is None
    assert kept(given) == {}
    with pytest.raises(TrainingError, match="are left to teach and to tune in"):
        Distill().build(given)


def test_a_teacher_whose_fewest_answers_do_not_fit_is_refused_as_it_would_be_then(context, tmp_path):
    told = foreseen(left(context, 120.0), lessons(context, tmp_path), replace(PACES, teacher_s=2.5))
    assert told.refusal is not None
    assert "takes about 2.5 s for an input and is asked 20 at least, and 1 m 10 s of" in told.refusal
    longer = foreseen(left(context, 200.0), lessons(context, tmp_path), replace(PACES, teacher_s=2.5))
    assert longer.refusal is None


def test_a_teacher_that_leaves_no_time_to_tune_in_is_refused(context, tmp_path):
    told = foreseen(left(context, 96.0), lessons(context, tmp_path, inputs=400, scored=0), PACES)
    assert told.refusal == (
        "the teacher's answers would take about 40 s and leave 42 s to tune in; at least 45 s are needed: "
        "give more with --budget, or name a quicker teacher"
    )
    given = lessons(context, tmp_path, inputs=400, scored=0)
    assert foreseen(left(context, 96.0), given, replace(PACES, teacher_s=0.01)).refusal is None


def test_more_inputs_take_longer_and_two_more_seeds_longer_still(context, tmp_path):
    few, many = (
        foreseen(left(context, 600.0), lessons(context, tmp_path, inputs=inputs), PACES)
        for inputs in (20, 400)
    )
    assert few.low_s <= few.seconds < many.seconds <= many.high_s and few.by == many.by == HOLDS
    best: Any = SimpleNamespace(rung="head")
    beside = foreseen(left(replace(context, best=best), 600.0), lessons(context, tmp_path), PACES)
    assert beside.by == f"{HOLDS}, and whether two more seeds are drawn"
    assert beside.high_s > foreseen(left(context, 600.0), lessons(context, tmp_path), PACES).high_s


def test_what_is_kept_for_the_teachers_probabilities_is_foreseen_as_taken(context, tmp_path):
    alone = foreseen(left(context, 600.0), lessons(context, tmp_path), PACES)
    told = foreseen(left(context, 600.0), lessons(context, tmp_path, on_policy=True), PACES)
    assert told.seconds > alone.seconds + 100 and told.low_s <= alone.seconds
    assert told.high_s == pytest.approx(600.0, abs=5) and told.by == f"{HOLDS}, and {ON_POLICY}"
    short = foreseen(left(context, 200.0), lessons(context, tmp_path, on_policy=True), PACES)
    assert short.by == HOLDS, "too little is left for that"


def test_a_teacher_that_writes_is_asked_a_third_time_where_its_answers_disagree(tiny, tmp_path):
    path = write_rows(tmp_path / "texts.jsonl", text_rows(120))
    with opened(tiny, path, tmp_path, unlabelled=unlabelled(100, kind="text")) as context:
        writes = save(tmp_path / "w", Spec(rung="prompt", task="t", kind="text", engine="fake"), {})
        given = lessons(context, tmp_path, teacher=writes, inputs=100, scored=0, forms=1)
        told = foreseen(left(context, 600.0), given, PACES)
        assert told.high_s - told.seconds == pytest.approx(100 * PACES.teacher_s, abs=1)
        reworded = foreseen(left(replace(context, unlabelled=()), 600.0), given, PACES)
        assert reworded.seconds == pytest.approx(told.high_s, abs=1) and reworded.high_s < told.high_s + 1


def test_a_teacher_for_whom_engines_have_yet_to_race_is_not_refused_by_the_pace_of_one(context, tmp_path):
    writes = save(tmp_path / "w", Spec(rung="prompt", task="t", kind="text", engine="llama"), {})
    slow, short = replace(PACES, teacher_s=0.9), left(context, 95.0)
    few, enough = (lessons(context, tmp_path, teacher=writes, inputs=n, scored=0) for n in (63, 64))
    assert "takes about 2.7 s for an input" in str(foreseen(short, few, slow).refusal)
    told = foreseen(short, enough, slow)
    assert told.refusal is None and told.by.startswith(RACED) and told.low_s < told.seconds


def test_sft_is_gone_on_with_alone_where_there_is_no_time_for_enough_answers(context, tmp_path):
    told = on_policy_alone(left(context, 300.0), lessons(context, tmp_path), PACES)
    assert told.low_s == pytest.approx(20 * 0.1 + (len(context.dev) + 40) * 0.02)
    assert told.low_s < told.seconds < told.high_s == pytest.approx(300.0, abs=5)
    assert told.by == ON_POLICY and told.refusal is None
