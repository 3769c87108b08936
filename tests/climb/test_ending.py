"""The end of a climb: rungs without a test score, and what the same command tries again."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from rung.climb.decide import decide
from rung.climb.ending import UNTESTED, is_complete, tried_again, with_dev
from rung.climb.hosted import at_lower_cap
from rung.climb.options import Options
from rung.climb.ordering import candidates
from rung.climb.stored import CLIMB_FILE
from rung.engines.key_hosts import UNNAMED
from rung.engines.till import Till
from rung.records import Answer, Climb, Example, RungResult
from rung.scoring.measure import measurement
from rung.task import DataFiles, Task
from tests.report.climb_fixture import synthetic_climb

ROWS = tuple(Example(id=f"r{at:03}", input=f"q{at}", output="yes") for at in range(200))
WHY = "$0.9 was paid: raise --api-usd"
NAMES = ("prompt", "sft", "api")


def scored(rung, split, right, start=0):
    answers = [Answer(text="", value="yes" if start <= at < start + right else "no") for at in range(200)]
    return measurement(system=rung, split=split, metric="accuracy", examples=ROWS, answers=answers)


def result(rung, dev, test, start=0):
    """A rung with so many right on dev and test; None where it was opened in vain, 0 where it wasn't."""
    return RungResult(
        rung=rung,
        order=NAMES.index(rung),
        system=rung,
        dev=scored(rung, "dev", dev, start),
        test=scored(rung, "test", test) if test else None,
        notes=(f"{UNTESTED}{WHY}",) if test is None else (),
    )


def ended(results, tmp_path):
    task = Task(data=DataFiles(train=tmp_path / "rows.jsonl"))
    targets = {e.id: e.output for e in ROWS}
    dev, test = (
        decide(candidates(results, split, task), targets=targets, groups=None, seed=0, split=split)
        for split in ("dev", "test")
    )
    return with_dev(test, dev, results), dev


def test_without_a_test_score_of_the_rung_that_dev_chose_the_cheapest_is_no_winner(tmp_path):
    found, dev = ended([result("prompt", 100, 100), result("api", 180, None)], tmp_path)
    assert dev.chosen == "api"
    assert (found.kind, found.chosen, found.comparisons) == ("no_verdict", None, ())
    assert found.sentence == (
        f"No verdict: api, chosen on dev, has no test score ({WHY}); scores on the test: prompt .500."
    )


def test_without_a_test_score_of_the_best_on_dev_the_verdict_stays_undecided(tmp_path):
    found, dev = ended([result("prompt", 150, 150), result("api", 154, None, start=20)], tmp_path)
    assert (dev.kind, dev.chosen, dev.best) == ("undecided", "prompt", "api") and dev.rows_needed
    assert (found.kind, found.chosen, found.best, found.rows_needed) == ("undecided", "prompt", "api", None)
    assert found.sentence.startswith(
        f"Undecided: api, the best on dev, has no test score ({WHY}). Without it: ship prompt: .750 on 200 "
        "test rows. On dev: undecided between"
    )


def test_where_dev_gives_no_verdict_a_rung_without_a_test_score_keeps_the_test_from_one(tmp_path):
    results = [result("prompt", 100, 100), result("sft", 150, 150), result("api", 150, None)]
    test = ended(results[:2], tmp_path)[0]
    dev = replace(test, kind="no_verdict", chosen=None, best=None)
    found = with_dev(test, dev, results)
    assert (found.kind, found.chosen) == ("undecided", "sft")
    assert found.sentence.startswith(f"Undecided: api has no test score ({WHY}). Without it: ship sft")


def test_a_cheapest_rung_without_a_test_score_is_named_and_decides_nothing(tmp_path):
    found, _ = ended([result("prompt", 100, None), result("sft", 180, 180)], tmp_path)
    assert (found.kind, found.chosen) == ("clear_winner", "sft")
    assert found.sentence.startswith("Ship sft: .900 on 200 test rows. On dev: ship sft")
    assert found.sentence.endswith(f" prompt has no test score ({WHY}).")


def test_what_was_opened_for_one_rung_alone_is_said_to_be(tmp_path):
    found, _ = ended([result("prompt", 180, 180), result("sft", 100, 0)], tmp_path)
    assert "200 test rows, which were opened for it alone. On dev: ship prompt" in found.sentence


def test_a_rung_whose_calls_break_on_dev_does_not_ship_by_being_the_only_one_that_is_tested(tmp_path):
    answers = [Answer(text="", value="yes") for _ in range(180)]
    answers += [Answer(text="", failure="it died") for _ in range(20)]
    broken = measurement(system="prompt", split="dev", metric="accuracy", examples=ROWS, answers=answers)
    slow = ("p95 900 ms is over 300 ms",)
    results = [
        replace(result("prompt", 180, 180), dev=broken),
        replace(result("sft", 150, 0), over_limits=slow),
    ]
    found, dev = ended(results, tmp_path)
    assert dev.kind == "no_verdict"
    assert (found.kind, found.chosen) == ("no_verdict", None)
    assert found.sentence == f"{dev.sentence} On the test prompt has .900."


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"skipped": "openai:gpt can't be asked: OPENAI_API_KEY isn't set in the environment"}, True),
        ({"failed": "api.openai.com/v1 (gpt) refused the key in OPENAI_API_KEY, which is set"}, True),
        ({"failed": "api.openai.com/v1: another try could pass the cap of $1: raise --api-usd"}, False),
        ({"notes": (f"{UNTESTED}it died",)}, True),
        ({"notes": (f"{UNTESTED}{WHY}",)}, False),
        ({"failed": "can't get the weights of 'minilm-l6'", "weights_missing": True}, True),
        ({"failed": "the teacher taught nothing: try again with other rows"}, False),
        ({"failed": "the tune collapsed"}, False),
        ({"skipped": "12 training rows; tuning needs at least 32"}, False),
    ],
)
def test_a_rung_that_something_else_kept_from_its_score_is_tried_again(changes, again, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    task = Task(data=DataFiles(train=tmp_path / "rows.jsonl"), models=["smollm2-135m", "openai:gpt"])
    climb = synthetic_climb()
    climb = replace(climb, results=(climb.results[0], RungResult(rung="api", order=7, **changes)))
    (tmp_path / CLIMB_FILE).write_bytes(TypeAdapter(Climb).dump_json(climb))
    options = Options(api_usd=0.0)
    assert is_complete(tmp_path, options, task) != again
    assert tried_again(tmp_path, task) == (": api is tried again" if again else "")
    if "skipped" in changes:
        monkeypatch.delenv("OPENAI_API_KEY")
        assert is_complete(tmp_path, options, task)


@pytest.mark.parametrize(("cap_usd", "again"), [(1.0, False), (2.0, True), (10.0, True), (0.5, False)])
def test_a_rung_that_was_built_to_the_cap_is_built_again_under_a_higher_one(cap_usd, again, tmp_path):
    till = Till(tmp_path / "paid.jsonl", cap_usd, {})
    till.spent_usd = 0.99
    note = "the search ended early: one more could pass the cap of $1; they are kept: raise --api-usd"
    kept = RungResult(rung="optimise", order=3, notes=(note,))
    assert at_lower_cap(kept, till) == again
    assert not at_lower_cap(replace(kept, notes=("seed 0",)), till)
    assert not at_lower_cap(kept, None)


def test_a_rung_whose_host_nobody_had_named_is_tried_again_once_it_is(tmp_path, monkeypatch):
    why = f"teachers.example isn't named in this command or its task, and RUNG_API_KEY {UNNAMED}"
    task = Task(data=DataFiles(train=tmp_path / "rows.jsonl"), models=["smollm2-135m"])
    climb = synthetic_climb()
    climb = replace(climb, results=(climb.results[0], RungResult(rung="distill", order=7, skipped=why)))
    (tmp_path / CLIMB_FILE).write_bytes(TypeAdapter(Climb).dump_json(climb))
    monkeypatch.delenv("RUNG_API_HOST", raising=False)
    assert tried_again(tmp_path, task) == ""
    monkeypatch.setenv("RUNG_API_HOST", "https://teachers.example")
    assert tried_again(tmp_path, task) == ": distill is tried again"
