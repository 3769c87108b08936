"""On the way a tune's answers end where they're too long to be right, where that's all or nothing."""

from dataclasses import replace

import pytest

from rung.rungs import tune as module
from rung.rungs.sft import answer_forms
from rung.rungs.tune import Arm, Plan, Tune
from tests.fixtures_climb import make_tiny_gguf, opened, text_rows, write_rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def context(tiny, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", text_rows(80))
    with opened(tiny, data, tmp_path) as found:
        yield replace(found, bench=replace(found.bench, metric="exact"))


def test_what_is_too_long_to_be_right_is_cut_and_wrong_and_all_else_is_as_it_was(context, monkeypatch):
    monkeypatch.setattr(module, "LONG_TIMES", 1)
    monkeypatch.setattr(module, "LONG_MORE", 2)
    forms = answer_forms(context)
    ((form, spec),) = forms.items()
    arm, rows = Arm(form=form, rate=1e-3), context.dev[:12]
    plan = Plan(folder=context.work / "training", budget_s=600, reserve_s=0.0, seed=0)
    with Tune(context, forms, plan) as tune:
        whole = tune.answers(arm, rows)
        assert tune.pace.whole_s == tune.pace.answer_s == tune.pace.served_s
        bounds = tune._bounds(spec, rows)
        assert max(bounds) < spec.answer.max_tokens
        bounded = tune.answers(arm, rows, bounded=True)
        assert tune.pace.served_s == tune.pace.whole_s > tune.pace.answer_s
        pairs = list(zip(bounded, whole, bounds, strict=True))
        too_long = [before.completion_tokens > bound for _, before, bound in pairs]
        assert any(too_long), "an untaught model writes on"
        for (now, before, bound), long in zip(pairs, too_long, strict=True):
            assert now.completion_tokens <= bound
            assert (
                (now.value is None and now.cut)
                if long
                else (now.text, now.value) == (before.text, before.value)
            )
        monkeypatch.setattr(module, "LONG_MORE", 10_000)
        assert [a.text for a in tune.answers(arm, rows, bounded=True)] == [a.text for a in whole]
        assert tune.pace.whole_s == tune.pace.answer_s


def test_answers_that_may_be_partly_right_and_labels_have_no_such_end(context):
    forms = answer_forms(context)
    ((form, spec),) = forms.items()
    plan = Plan(folder=context.work / "training", budget_s=600, reserve_s=0.0, seed=0)
    with Tune(context, forms, plan) as tune:
        assert len(tune._bounds(spec, context.dev)) == len(context.dev)
        graded = replace(context, bench=replace(context.bench, metric="rouge_l"))
        tune.context = graded
        assert tune._bounds(spec, context.dev) == []
        tune.context = context
        words = spec.model_copy(update={"answer": spec.answer.model_copy(update={"form": "words"})})
        assert tune._bounds(words, context.dev) == []
