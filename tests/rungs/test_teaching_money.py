"""What a hosted teacher is paid: by what its answers were billed, up to the cap, and on under a higher."""

import json
import shutil
import time
from collections import Counter
from dataclasses import replace

import pytest

from rung.climb.hosted import at_lower_cap, capped
from rung.errors import TrainingError
from rung.records import RungResult
from rung.rungs import tuning
from rung.rungs.base import JOURNAL_FILE, SETTLED_FILE, WORK_FOLDER
from rung.rungs.distill import Distill
from rung.rungs.taught import FEWEST_ASKED, TAUGHT_FILE, affordable_inputs, scored_on_dev, teach
from rung.rungs.teacher import DRAWS, FIRST_DRAWS, teacher_system
from rung.rungs.teaching_money import PROBED, TEACHING_SHARE
from rung.runs import append_jsonl
from rung.system import copy
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows
from tests.fixtures_hosted import KEY, Hosted, as_asked, beside, topic, unlabelled
from tests.report.climb_fixture import synthetic_climb

THOUGHTS = 500
"""Tokens, billed before each answer."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    with Hosted(as_asked) as found:
        plain = found.completion

        def thinks(body: dict) -> dict:
            said = plain(body)
            said["usage"]["completion_tokens"] += THOUGHTS
            return said

        found.completion = thinks
        yield found


@pytest.fixture
def context(tiny, tmp_path, server):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(120)), tmp_path) as found:
        yield beside(found, server, tmp_path, unlabelled(40))


def capped_at(context, cap_usd: float):
    """The till under another cap, as a later start of the program has it."""
    context.pool.close()
    context.pool.till = replace(context.pool.till, cap_usd=cap_usd)
    return context.pool.till


ANSWER_USD = THOUGHTS * 4.0 / 1e6
"""At least, by the thoughts alone."""


def test_what_a_teacher_thinks_is_in_the_price_by_which_inputs_are_counted(context, server):
    till = capped_at(context, 60 * DRAWS * ANSWER_USD)
    teacher = teacher_system(context, str(context.task.teacher))
    scored = scored_on_dev(context, teacher)
    before, count = till.spent_usd, len(server.seen)
    left = till.cap_usd - before
    rows, short = affordable_inputs(context, teacher, scored)
    assert len(server.seen) - count == PROBED * FIRST_DRAWS, "the first tell that two draws are enough"
    assert 0.8 * TEACHING_SHARE * left < len(rows) * FIRST_DRAWS * ANSWER_USD < TEACHING_SHARE * left
    assert f"of ${till.cap_usd:g} is enough for {len(rows)} of 40 inputs; raise --api-usd" in short
    found = teach(context, teacher, rows, scored.seconds_per_answer, short)
    assert found.asked == len(found.rows) == len(rows) and found.short == short
    assert len(server.seen) - count == len(rows) * FIRST_DRAWS
    assert 0 < till.spent_usd - before <= TEACHING_SHARE * left


def test_a_teacher_whose_draws_disagree_is_asked_fewer_inputs_for_the_same_money(context, server):
    drawn: Counter[str] = Counter()

    def says(text: str, body: dict) -> str:
        drawn[text] += body["temperature"] > 0
        other = min({"billing", "delivery"} - {topic(text)})
        return json.dumps({"label": other}) if drawn[text] == 1 else as_asked(text, body)

    server.says = says
    till = capped_at(context, 60 * DRAWS * ANSWER_USD)
    teacher = teacher_system(context, str(context.task.teacher))
    scored = scored_on_dev(context, teacher)
    before = till.spent_usd
    left = till.cap_usd - before
    rows, short = affordable_inputs(context, teacher, scored)
    assert 0.8 * TEACHING_SHARE * left < len(rows) * DRAWS * ANSWER_USD < TEACHING_SHARE * left
    found = teach(context, teacher, rows, scored.seconds_per_answer, short)
    assert found.asked == len(found.rows) == len(rows) < 40
    assert till.spent_usd - before <= TEACHING_SHARE * left


def test_a_climb_that_is_taken_up_again_counts_the_same_inputs_and_pays_for_no_other(context, server):
    capped_at(context, 60 * DRAWS * ANSWER_USD)
    teacher = teacher_system(context, str(context.task.teacher))
    scored = scored_on_dev(context, teacher)
    rows, short = affordable_inputs(context, teacher, scored)
    count = len(server.seen)
    assert affordable_inputs(context, teacher, scored) == (rows, short)
    teach(context, teacher, rows, scored.seconds_per_answer, short)
    taught = len(server.seen)
    assert affordable_inputs(context, teacher, scored) == (rows, short)
    assert taught == len(server.seen) and count < taught


def test_a_cap_that_is_reached_on_the_way_ends_the_asking_and_keeps_what_is_complete(context, monkeypatch):
    monkeypatch.setattr("rung.rungs.taught.CHUNK_ROWS", 8)
    teacher = teacher_system(context, str(context.task.teacher))
    till = capped_at(context, context.pool.till.spent_usd + 25 * FIRST_DRAWS * ANSWER_USD)
    found = teach(context, teacher, context.unlabelled)
    assert found.asked == len(found.rows) == 20
    assert f"could pass the cap of ${till.cap_usd:g}" in found.short and "--api-usd" in found.short
    paid = till.spent_usd
    assert teach(context, teacher, context.unlabelled) == found and till.spent_usd == paid
    till = capped_at(context, 1.0)
    whole = teach(context, teacher, context.unlabelled)
    assert whole.asked == len(whole.rows) == 40 and not whole.short
    assert whole.rows[:20] == found.rows


def test_where_the_money_is_enough_for_no_input_it_says_so_and_nothing_is_settled(context):
    teacher = teacher_system(context, str(context.task.teacher))
    scored = scored_on_dev(context, teacher)
    capped_at(context, context.pool.till.spent_usd + 1.5 * DRAWS * ANSWER_USD)
    with pytest.raises(
        TrainingError, match=r"0 inputs asked, 0 answers kept; half of .*raise --api-usd"
    ) as no:
        Distill().build(context)
    failed = RungResult(rung="distill", order=4, failed=str(no.value))
    assert capped(replace(synthetic_climb(), results=(failed,)))
    assert not (context.folder / TAUGHT_FILE).exists()
    capped_at(context, 1.0)
    rows, short = affordable_inputs(context, teacher, scored)
    assert (len(rows), short) == (40, "")
    assert teach(context, teacher, rows).asked == 40


def test_a_higher_cap_goes_on_with_the_inputs_that_a_lower_one_left_out(context, server, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 1)
    till = capped_at(context, 60 * DRAWS * ANSWER_USD)
    with context.paying():
        made = Distill().build(context)
    (short,) = [note for note in made.notes if "--api-usd" in note]
    assert made.spent_usd == till.spent_usd > 0
    result = RungResult(rung="distill", order=4, notes=made.notes)
    assert not at_lower_cap(result, till)
    till = capped_at(context, 10 * till.cap_usd)
    assert at_lower_cap(result, till)
    shutil.rmtree(context.work)  # as a climb does once a rung is built
    with context.paying():
        made = Distill().build(replace(context, deadline=time.monotonic() + 600))
    assert f"teacher {context.task.teacher}: 40 inputs asked, 40 answers kept" in made.found
    assert short not in made.notes and not any("--api-usd" in note for note in made.notes)
    assert not any("isn't counted" in note for note in made.notes)
    assert made.spent_usd == till.spent_usd and "40 rows of " in made.what


def test_a_tune_that_has_begun_goes_on_with_its_rows_under_a_higher_cap(context, server):
    teacher = teacher_system(context, str(context.task.teacher))
    scored = scored_on_dev(context, teacher)
    capped_at(context, 60 * DRAWS * ANSWER_USD)
    first = teach(context, teacher, *_asked(context, teacher, scored))
    append_jsonl(context.folder / WORK_FOLDER / "training" / JOURNAL_FILE, [{"kind": "start"}])
    capped_at(context, 10.0)
    count, said = len(server.seen), len(context.reporter.lines)
    assert teach(context, teacher, *_asked(context, teacher, scored)) == first
    assert len(server.seen) == count and len(context.reporter.lines) == said


def begun_again(context) -> None:
    """As under a longer budget: nothing is settled or taught, and other rungs were paid all that was left."""
    for name in (SETTLED_FILE, TAUGHT_FILE):
        (context.folder / name).unlink()
    shutil.rmtree(context.work)
    till = context.pool.till
    till.lose("gpt", till.cap_usd - till.spent_usd)


def test_answers_that_were_paid_for_take_none_of_the_money_of_a_climb_again(context, server):
    capped_at(context, 60 * DRAWS * ANSWER_USD)
    teacher = teacher_system(context, str(context.task.teacher))
    scored = scored_on_dev(context, teacher)
    rows, *more = _asked(context, teacher, scored)
    first = teach(context, teacher, rows, *more)
    assert FEWEST_ASKED <= len(rows) < len(context.unlabelled)
    begun_again(context)
    said, count = len(context.reporter.lines), len(server.seen)
    assert Distill().skip(context) is None
    others = replace(context, unlabelled=context.unlabelled[::-1])
    assert "would cost about $" in Distill().skip(others), "what was paid for is other inputs"
    teacher = teacher_system(context, str(context.task.teacher))
    again, *more = _asked(context, teacher, scored)
    assert again == rows and "raise --api-usd" in more[-1]
    assert teach(context, teacher, again, *more).rows == first.rows
    assert len(server.seen) == count and len(context.reporter.lines) == said


def _asked(context, teacher, scored) -> tuple:
    rows, short = affordable_inputs(context, teacher, scored)
    return rows, scored.seconds_per_answer, short


def test_what_it_took_to_build_a_teacher_that_is_a_system_is_said_not_to_be_counted(
    context, tmp_path, monkeypatch
):
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 1)
    built = copy(teacher_system(context, str(context.task.teacher)), tmp_path / "built")
    before = context.pool.till.spent_usd
    task = context.task.model_copy(update={"teacher": str(built.folder)})
    with context.paying():
        made = Distill().build(replace(context, task=task))
    assert "what it took to build the teacher isn't counted" in made.notes
    assert made.spent_usd == pytest.approx(context.pool.till.spent_usd - before) and before > 0
