"""What hosted models are paid for which rung: under another budget, and beside another on the same model."""

import json
import shutil
from dataclasses import dataclass, replace

import pytest

from rung.climb.below import is_out
from rung.climb.climb import Options, climb
from rung.engines.till import Till
from rung.rungs.api import Api, hosted_system, prompting, rival_of, unasked
from rung.rungs.bought import to_buy
from rung.rungs.instructions import answer_spec, spec_for
from rung.rungs.teacher import drawn, teacher_system
from rung.system import save
from tests.climb.test_climb import Always, with_ladder
from tests.climb.test_hosted import write_task
from tests.fixtures_climb import Log, label_rows, opened, write_rows
from tests.fixtures_hosted import KEY, Hosted, as_asked, beside


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


LONGER = "say the topic," + " please help with my parcel today" * 12


@pytest.fixture
def context(tiny, tmp_path, server):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(120)), tmp_path) as found:
        yield beside(found, server, tmp_path)


def with_prompt(context, instruction=LONGER):
    """The context of a climb whose best prompt has this instruction."""
    answer = answer_spec(context, constrained=True)
    spec = spec_for(context, "prompt", instruction=instruction, answer=answer)
    return replace(context, built={"prompt": save(context.folder / "prompt", spec, {})})


def climbed_again(context, cap_usd):
    """The context as under a longer budget: nothing is settled, and under another cap."""
    shutil.rmtree(context.folder)
    context.pool.close()
    context.pool.till = Till(context.pool.till.path, cap_usd, context.pool.till.prices)
    return context


def about(context):
    return [line for line in context.reporter.lines if line.startswith("api: about $")]


def test_answers_that_are_known_cost_nothing_more_and_all_others_do(context, server):
    with context.paying():
        Api().build(context)
    spent, count = context.pool.till.spent_usd, len(server.seen)
    again = climbed_again(context, spent)
    assert Api().skip(again) is None
    with again.paying():
        found = Api().build(again).system
    assert again.measure(found, again.dev, "again").score == 1.0
    assert (len(server.seen), again.pool.till.spent_usd, len(about(again))) == (count, spent, 1)


def test_what_was_paid_for_another_prompt_pays_for_no_answer_under_this_one(context, server):
    with context.paying():
        Api().build(context)
    spent, count = context.pool.till.spent_usd, len(server.seen)
    longer = with_prompt(climbed_again(context, 1.0))
    cost = Api().usd_per_1000(longer) * len(longer.dev) / 1000
    left = cost - spent / 2
    longer.pool.till = Till(longer.pool.till.path, spent + left, longer.pool.till.prices)
    assert f"would cost about ${cost:.4f} more and ${left:.4f} of " in Api().skip(longer)
    longer = with_prompt(climbed_again(context, 1.0))
    assert Api().skip(longer) is None and len(server.seen) == count
    with longer.paying():
        Api().build(longer)
    assert len(about(longer)) == 2
    assert f"api: about ${cost:.4f} for {len(longer.dev)} answers" in about(longer)[1]
    assert len(server.seen) - count == len(longer.dev)


@pytest.mark.parametrize("forms", [True, False])
def test_of_a_climb_that_was_killed_the_rest_is_to_be_paid_for(forms, context, server):
    if not forms:
        server.faults = [(400, {"error": {"message": "schema not supported"}}, {})]
    model, given = rival_of(context.task), prompting(context)
    system = hosted_system(context, model, given, "api")
    context.measure(system, context.dev[:10], "the first")
    spent, count = context.pool.till.spent_usd, len(server.seen)
    again = climbed_again(context, spent)
    to_ask = to_buy(again, lambda: unasked(again, model, given, "api"), again.dev)
    assert to_ask == [0] * 10 + [1] * (len(again.dev) - 10) and len(server.seen) == count
    assert "would cost about $" in Api().skip(again)


@pytest.mark.parametrize("told", [True, False])
def test_what_is_to_be_bought_anew_as_the_model_moved_is_foretold_as_that(told, context, server):
    Api().build(context)
    server.reports = "oracle-2027"
    drawn(context, teacher_system(context, server.name), context.train[:1], 0)
    path, spent = context.pool.till.path, context.pool.till.spent_usd
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if not told:
        # As a version before wrote them, which didn't say who answered.
        lines = [{key: value for key, value in line.items() if key not in ("url", "of")} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = climbed_again(context, spent)
    model, given = rival_of(again.task), prompting(again)
    count = len(server.seen)
    to_ask = to_buy(again, lambda: unasked(again, model, given, "api"), again.dev)
    assert to_ask == [int(told)] * len(again.dev) and len(server.seen) == count
    assert ("would cost about $" in (Api().skip(again) or "")) == told
    if told:
        again.pool.till.cap_usd = 1.0
        found = Api().build(again).system
        assert found.ref.digest.endswith(":oracle-2027") and len(server.seen) == count + len(again.dev)
        assert sum(to_buy(again, lambda: found, again.dev)) == 0


def test_time_is_kept_for_a_rung_whose_answers_may_be_known_though_no_money_is_left(context):
    longer = with_prompt(context)
    with longer.paying():
        Api().build(longer)
    again = climbed_again(context, context.pool.till.spent_usd)
    assert "would cost about $" in Api().skip(again), "under the plain prompt"
    assert not is_out(Api(), again.task, {"api"}, lambda: again)
    assert is_out(Api(), again.task, {"api"}, lambda: replace(again, folder=again.folder / "other"))
