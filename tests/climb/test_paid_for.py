"""What hosted models are paid for which rung: under another budget, and beside another on the same model."""

import json
from dataclasses import dataclass, replace

import pytest

from rung.climb.climb import Options, climb
from rung.engines.till import Till
from rung.rungs.teacher import drawn, teacher_system
from tests.climb.test_climb import Always, with_ladder
from tests.climb.test_hosted import write_task
from tests.fixtures_climb import Log, label_rows
from tests.fixtures_hosted import KEY, Hosted, as_asked


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    with Hosted(as_asked) as found:
        yield found


@dataclass
class Taught(Always):
    """A rung that has the teacher answer a few inputs, and others on the same model with more time."""

    def build(self, context):
        teacher = teacher_system(context, str(context.task.teacher))
        drawn(context, teacher, context.train[: 9 if context.seconds_left > 1000 else 5], 0)
        return replace(super().build(context), spent_usd=context.paid_usd)


def test_a_rung_has_cost_what_its_answers_were_paid_under_an_earlier_budget_too(
    tiny, tmp_path, server, monkeypatch
):
    names = with_ladder(monkeypatch, Taught("taught"), Always("one"))
    task = write_task(tmp_path / "task", tiny, server, label_rows(120), teacher=server.name)
    options = Options(out=tmp_path / "run", rungs=names, budget_s=600)
    first, _ = climb(task, options, Log())
    before = len(server.seen)
    second, run = climb(task, replace(options, budget_s=60_000), Log())
    assert (run / "earlier").exists() and 0 < len(server.seen) - before < before
    assert 0 < first.results[0].spent_usd < second.results[0].spent_usd
    assert second.results[0].spent_usd == pytest.approx(second.paid_usd)
    lines = [json.loads(line) for line in (run / "paid.jsonl").read_text().splitlines()]
    assert {line["rung"] for line in lines} == {"taught"} and len(lines) == len(server.seen)
    assert second.results[1].spent_usd == 0.0


def test_what_is_paid_for_one_rung_is_no_other_ones_though_the_model_is_the_same(tmp_path):
    till = Till(tmp_path / "paid.jsonl", 1.0, {})
    with till.paying("optimise"):
        till.lose("gpt", 0.25)
    with till.paying("api"):
        till.lose("gpt", 0.125)
    till.lose("gpt", 0.5)
    for found in (till, Till(till.path, 1.0, {})):
        assert found.spent_for == {"optimise": 0.25, "api": 0.125} and found.spent_usd == 0.875
