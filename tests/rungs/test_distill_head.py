"""A linear head that learns what a teacher answers, over HTTP and from a System of this machine."""

import time
from dataclasses import replace

import pytest

from rung.errors import TrainingError
from rung.rungs.distill import Distill
from rung.rungs.distill_head import DistillHead
from rung.rungs.head import Head
from rung.rungs.taught import (
    TAUGHT_FILE,
    affordable_inputs,
    inputs,
    is_paid,
    scored_on_dev,
    taught_usd,
    teach,
)
from rung.rungs.teacher import DRAWS, teacher_system
from rung.rungs.teaching_money import draw_usd
from rung.runs import read_json
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows
from tests.fixtures_hosted import KEY, Hosted, as_asked, beside, unlabelled

pytestmark = pytest.mark.models
FEW = 6


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
    """Few labelled rows, sixty inputs, and a teacher that knows the answers."""
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(120)), tmp_path) as found:
        named = beside(found, server, tmp_path, unlabelled(60))
        yield replace(named, train=found.train[:FEW], folder=found.folder.parent / "distill_head")


@pytest.fixture
def known(tiny, tmp_path):
    """The folder of a head that learned from all rows."""
    path = write_rows(tmp_path / "all.jsonl", label_rows(120))
    with opened(tiny, path, tmp_path / "all") as found:
        return str(Head().build(found).system.folder)


def test_a_head_learns_from_a_teacher_what_few_rows_do_not_tell(context, server):
    alone = Head().build(replace(context, folder=context.folder.parent / "head")).system
    made = DistillHead().build(context)
    ours, theirs = (context.measure(one, context.dev, "dev").score for one in (made.system, alone))
    assert ours > theirs
    assert (made.system.spec.rung, made.system.spec.engine) == ("distill_head", "head")
    assert made.what.startswith(f"60 rows of {server.name} beside {FEW}; ")
    assert made.found[0].startswith(f"teacher {server.name}") and "60 answers kept" in made.found[0]
    assert "the student" in made.found[1]


def test_what_a_head_was_taught_is_not_asked_or_paid_again_for_a_tune(context, server):
    DistillHead().build(context)
    count, spent = len(server.seen), context.pool.till.spent_usd
    context.pool.till.spent_for["distill_head"] = spent  # as it's noted in a climb
    tune = replace(context, folder=context.folder.parent / "distill")
    teacher = teacher_system(tune, str(tune.task.teacher))
    taught = teach(tune, teacher, inputs(tune), scored_on_dev(tune, teacher).seconds_per_answer)
    assert len(taught.rows) == 60
    assert (len(server.seen), context.pool.till.spent_usd) == (count, spent)
    assert taught_usd(tune, teacher) == spent > 0, "its answers cost a tune as much"
    assert taught_usd(context, teacher) == spent, "and each of them once"
    other = Head().build(replace(context, folder=context.folder.parent / "head")).system
    assert taught_usd(tune, other) == 0.0, "another teacher gave other answers"
    assert is_paid(tune) and not is_paid(replace(tune, folder=tune.folder.parent / "sft"))
    assert read_json(tune.folder / TAUGHT_FILE) == read_json(context.folder / TAUGHT_FILE)


def test_two_students_take_no_more_of_the_money_than_one(context, server):
    till = context.pool.till
    teacher = teacher_system(context, str(context.task.teacher))
    scored = scored_on_dev(context, teacher)
    each = draw_usd(context, scored)
    context.pool.close()
    context.pool.till = replace(till, cap_usd=till.spent_usd + 30 * DRAWS * each)
    rows, short = affordable_inputs(context, teacher, scored)
    assert 0 < len(rows) < 60 and short
    teach(context, teacher, rows, scored.seconds_per_answer, short)
    tune = replace(context, folder=context.folder.parent / "distill")
    assert affordable_inputs(tune, teacher, scored) == (rows, short)


def test_without_time_nothing_is_asked(context, server):
    late = replace(context, deadline=time.monotonic() + 5)
    assert DistillHead().outlook(late) is None
    with pytest.raises(TrainingError, match="nothing was asked: give more with --budget"):
        DistillHead().build(late)
    assert server.seen == []


def test_a_teacher_that_is_too_slow_is_refused_beforehand(context, known, monkeypatch):
    here = replace(context, task=context.task.model_copy(update={"teacher": known}))
    monkeypatch.setattr("rung.rungs.distill_head.evaluate.answers_of", lambda *_: ([], 60.0))
    monkeypatch.setattr("rung.rungs.distill_head.to_score", lambda *_: 0)
    told = DistillHead().outlook(here)
    assert told is not None and "takes about 1 m 00 s for an input and is asked 20" in (told.refusal or "")


def test_a_teacher_of_whom_nothing_holds_makes_no_head(context, server):
    server.says = lambda text, body: "I'd rather not say."
    with pytest.raises(TrainingError, match="the teacher taught nothing: 60 inputs asked, 0 answers kept"):
        DistillHead().build(context)


def test_a_head_needs_no_model_that_can_be_tuned_nor_rows_for_a_tune(context):
    few = replace(context, unlabelled=context.unlabelled[:30])
    assert "tuning needs at least 50" in (Distill().skip(few) or "")
    assert DistillHead().skip(few) is None


def test_how_long_a_teacher_of_this_machine_takes_is_foretold(context, known, server):
    assert DistillHead().outlook(context) is None and server.seen == [], "a hosted one is asked nothing"
    here = replace(context, task=context.task.model_copy(update={"teacher": known}))
    told = DistillHead().outlook(here)
    assert told is not None and 0 < told.least_s and told.low_s == told.seconds == told.high_s
    made = DistillHead().build(here)
    assert made.spent_usd == 0 and "what it took to build the teacher isn't counted" in made.notes
