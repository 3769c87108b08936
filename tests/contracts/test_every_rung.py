"""What every rung must do. A new rung is added to LADDER and its reasons to skip to SKIPS, nowhere else."""

import re
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest

from rung.evaluate import PACED_ROWS
from rung.models.resolve import resolve
from rung.records import Example, Splits
from rung.rungs import LADDER, optimise, reinforcing, reward_gate, tuning
from rung.rungs.base import SETTLED_FILE, Context, Following, Foreseen, Outlook, Rung, no_start
from rung.system import System
from rung.task import Tuning
from tests.fixtures_climb import (
    TASKS,
    make_tiny_gguf,
    opened,
    preferred,
    write_rows,
)
from tests.fixtures_hosted import Hosted, as_asked, beside, unlabelled

pytestmark = pytest.mark.usefixtures("toy_rates")

EMBEDDING = {"head", "few_shot", "retrieval", "distill_head"}
"""Rungs that need the weights of the embedding model."""
RUNGS = [
    pytest.param(r, id=r.name, marks=[pytest.mark.models] if r.name in EMBEDDING else []) for r in LADDER
]
REINFORCED = 170
"""Rows that leave a hundred for training."""
SEARCHING = {"optimise", "workflow"}
"""Rungs that ask many answers of a row: their tests have fewer rows, and the engine's noise may show."""
ROWS, FEWER_ROWS = 88, 60
"""Of each three are to learn from: a tune wants fifty."""
KIND = {"reinforce": "json"}
"""What a rung answers in the tests that want one kind: labels, but for those that labels teach nothing."""
WITHOUT = {
    **dict.fromkeys(
        ("head", "distill_head"),
        dict.fromkeys(("json", "text", "tool_call"), "a linear layer gives labels and numbers alone"),
    ),
    "reinforce": {
        "text": "rouge_l is no reward",
        "tool_call": "8 answers to each of so many prompts that hold functions would take a minute",
    },
}
"""Kinds that a rung isn't built for here, and why."""


def with_other_layers(context: Context) -> Context:
    """On a model whose layers aren't all attention, as Qwen3.5's."""
    import gguf

    path = context.work / "other.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "qwen35")
    writer.add_tensor("blk.0.ssm_a", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return replace(context, model=resolve(str(path)))


LACKING = {
    "not all of its layers are attention": with_other_layers,
    "qlora needs no_such_package .*: pip install": lambda c: with_task(c, tuning=Tuning(method="qlora")),
}
SKIPS = {
    "head": {"the output is text": lambda c: with_kind(c, "text")},
    "prompt": {"none of the .* rows fits": lambda c: replace(c, too_long=every_id(c))},
    "few_shot": {
        "none of the .* rows fits": lambda c: replace(c, too_long=every_id(c)),
        "7 training rows; .* at least 8": lambda c: replace(c, train=c.train[:7]),
        "one worked example and a question don't fit": lambda c: replace(c, train=long_rows(c.train)),
    },
    "optimise": {
        "none of the .* rows fits": lambda c: replace(c, too_long=every_id(c)),
        "7 training rows; .* at least 8": lambda c: replace(untaught(c), train=c.train[:7]),
        "19 training rows; .* at least 20": lambda c: replace(c, train=c.train[:19]),
        "one worked example and a question don't fit": lambda c: replace(
            untaught(c), train=long_rows(c.train)
        ),
    },
    "workflow": {"none of the .* rows fits": lambda c: replace(c, too_long=every_id(c))},
    "retrieval": {
        "none of the .* rows fits": lambda c: replace(c, too_long=every_id(c)),
        "no documents are given": lambda c: replace(c, passages=()),
        "one passage and a question don't fit": lambda c: replace(c, passages=long_passages(c.passages)),
    },
    "sft": {
        "none of the .* rows fits": lambda c: replace(c, too_long=every_id(c)),
        "49 training rows; tuning needs at least 50": lambda c: replace(c, train=c.train[:49]),
        **LACKING,
    },
    "distill_head": {
        "the output is text": lambda c: with_kind(c, "text"),
        "no teacher is named": lambda c: with_task(c, teacher=None),
        "no inputs for the teacher.*rung synth": lambda c: replace(c, unlabelled=()),
        "OPENAI_API_KEY isn't set": lambda c: with_task(c, teacher="openai:gpt-5-mini"),
        "the price of .* isn't known": lambda c: without_prices(c),
    },
    "distill": {
        "no teacher is named": lambda c: with_task(c, teacher=None),
        "none of the .* rows fits": lambda c: replace(c, too_long=every_id(c)),
        "no inputs for the teacher.*rung synth": lambda c: replace(c, unlabelled=()),
        "49 rows and inputs; tuning needs at least 50": lambda c: replace(
            c, train=c.train[:9], unlabelled=c.unlabelled[:40]
        ),
        "OPENAI_API_KEY isn't set": lambda c: with_task(c, teacher="openai:gpt-5-mini"),
        "the price of .* isn't known": lambda c: without_prices(c),
        **LACKING,
    },
    "api": {
        "no hosted model is named": lambda c: with_task(c, models=c.task.models[:1]),
        "ANTHROPIC_API_KEY isn't set": lambda c: with_task(c, models=("x", "anthropic:claude-haiku-4-5")),
        "the price of .* isn't known": lambda c: without_prices(c),
        r"would cost about \$0.0.* more and \$0.0000 of \$0 are left": lambda c: without_money(c),
    },
    "preference": {
        "none of the .* rows fits": lambda c: replace(c, too_long=every_id(c)),
        "49 training rows have a rejected answer; at least 50": lambda c: replace(c, train=c.train[:49]),
        "tuning.method full makes none; take lora": lambda c: with_task(c, tuning=Tuning(method="full")),
        "no preferences: neither rejected answers nor": lambda c: replace(c, train=unrejected(c.train)),
        "5[23] training answers are judged to be good and 9 to be bad; .* 50 .* 10 of them bad": lambda c: (
            replace(c, train=unrejected(c.train), undesirable=c.train[:9])
        ),
    },
    "reinforce": {
        "none of the .* rows fits": lambda c: replace(c, too_long=every_id(c)),
        "the answer is a label: sft's loss is already": lambda c: with_kind(c, "label"),
        "the metric rouge_l can't tell of one answer alone": lambda c: with_metric(c, "rouge_l"),
        "99 training rows; reinforcement needs at least 100": lambda c: replace(c, train=c.train[:99]),
    },
}


def with_kind(context: Context, kind) -> Context:
    output = context.task.output.model_copy(update={"kind": kind})
    return replace(context, task=context.task.model_copy(update={"output": output}))


def with_metric(context: Context, metric) -> Context:
    return replace(with_kind(context, "text"), bench=replace(context.bench, metric=metric))


def with_task(context: Context, **changes) -> Context:
    return replace(context, task=context.task.model_copy(update=changes))


def untaught(context: Context) -> Context:
    """Without a model that reflects: a search at random, and no forecast is lost."""
    return with_task(context, teacher=None)


def without_prices(context: Context) -> Context:
    assert context.pool.till is not None
    context.pool.till = replace(context.pool.till, prices={})
    return context


def without_money(context: Context) -> Context:
    assert context.pool.till is not None
    context.pool.till = replace(context.pool.till, cap_usd=0.0)
    return context


def every_id(context: Context) -> frozenset[str]:
    return frozenset(e.id for e in (*context.train, *context.dev))


def long_rows(rows):
    return tuple(replace(e, input=f"{e.input} " * 50) for e in rows)


def long_passages(passages):
    return tuple(replace(one, text=f"{one.text} " * 50) for one in passages)


def unrejected(rows):
    return tuple(replace(e, rejected=None) for e in rows)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def server():
    with Hosted(as_asked) as found:
        yield found


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "RUNG_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """A tune goes through its rows twice, whatever their time allows; other searches are as short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "MOST_EPOCHS", 2)
        patch.setattr(reinforcing, "MOST_STEPS", 4)
        patch.setattr(reinforcing, "FEWEST_STEPS", 4)
        patch.setattr(reinforcing, "PROMPTS", 2)
        patch.setattr(reward_gate, "MOST_PROMPTS", 20)
        patch.setattr(reward_gate, "FEWEST_PROMPTS", 20)
        patch.setattr(optimise, "CANDIDATES", 6)
        yield


def kind_of(rung: Rung) -> str:
    return KIND.get(rung.name, "label")


def rows_of(rung: Rung, kind: str) -> list[dict]:
    """Rows of a kind, with preferences, for a rung and those that it goes on from."""
    if rung.name == "reinforce":
        return preferred(TASKS[kind](REINFORCED))
    count = FEWER_ROWS if rung.name in SEARCHING else ROWS
    return preferred(TASKS[kind](count))


def suited(rung: Rung, context: Context) -> Context:
    """A search goes without a model that reflects."""
    return untaught(context) if rung.name == "optimise" else context


@pytest.fixture
def context(request, tiny, tmp_path, server):
    """That of the test's rung; labels where it has none."""
    rung = request.node.callspec.params["rung"]
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", rows_of(rung, kind_of(rung))), tmp_path) as found:
        yield beside(found, server, tmp_path, unlabelled(40))


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """The same with room for prompts that hold functions."""
    return make_tiny_gguf(tmp_path_factory.mktemp("roomy") / "tiny.gguf", context=2048)


@pytest.fixture(scope="module")
def foreseen() -> dict[str, list[Outlook | None]]:
    """What rungs that tell how long they will take said right before they were built, and right after."""
    return {}


@pytest.fixture(scope="module")
def built(tiny, roomy, tmp_path_factory, server, foreseen):
    """Each rung built once for each kind of output; the context that it was built in stays open.

    It's asked beforehand how long it will take, and once more afterwards, for the kind that is looked at.
    """
    kept = {}
    stack = []

    def earlier(rung: Rung, kind: str):
        """What the rung goes on from, if anything."""
        if not isinstance(rung, Following):
            return {}
        (first,) = [one for one in LADDER if one.name == rung.after]
        return {rung.after: build(first, kind)[1].system}

    def build(rung: Rung, kind: str):
        if (rung.name, kind) not in kept:
            folder = tmp_path_factory.mktemp(f"{rung.name}-{kind}")
            model = roomy if kind == "tool_call" else tiny
            opening = opened(model, write_rows(folder / "topics.jsonl", rows_of(rung, kind)), folder)
            stack.append(opening)
            inputs = unlabelled(40, kind=kind)
            context = beside(opening.__enter__(), server, folder, inputs)
            context = suited(rung, replace(context, built=earlier(rung, kind)))
            asked = isinstance(rung, Foreseen) and kind == kind_of(rung)
            before = rung.outlook(context) if asked else None
            kept[rung.name, kind] = (context, rung.build(context))
            if asked:
                foreseen[rung.name] = [before, rung.outlook(context)]
        return kept[rung.name, kind]

    yield build
    for opening in reversed(stack):
        opening.__exit__(None, None, None)


def test_the_ladder_has_its_rungs_cheapest_first():
    assert [rung.name for rung in LADDER] == [
        *("head", "prompt", "few_shot", "retrieval", "optimise"),
        *("workflow", "distill_head", "sft", "distill", "preference", "reinforce", "api"),
    ]
    assert SKIPS.keys() == {rung.name for rung in LADDER}


def test_a_rung_is_given_no_test_rows():
    held = {field.name: field.type for field in fields(Context)}
    assert held.keys() == {
        *("task", "train", "dev", "too_long", "model", "folder", "bench", "reporter", "deadline", "seed"),
        *("undesirable", "dev_undesirable", "passages", "rival", "best", "built", "retrieval"),
        *("no_gain", "unlabelled"),
    }
    assert Splits not in held.values()


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_that_applies_gives_no_reason_to_skip_it(rung, context):
    assert rung.skip(context) is None


@pytest.mark.parametrize(
    ("rung", "reason"),
    [pytest.param(r, reason, id=f"{r.name}: {reason}") for r in LADDER for reason in SKIPS[r.name]],
)
def test_a_rung_that_does_not_apply_says_why(rung, reason, context, monkeypatch):
    monkeypatch.setattr("rung.rungs.sft.FOUR_BIT_PACKAGE", "no_such_package")
    said = rung.skip(SKIPS[rung.name][reason](context))
    assert said is not None and re.search(reason, said)


@pytest.mark.parametrize("rung", [r for r in RUNGS if isinstance(r.values[0], Following)])
def test_a_rung_that_goes_on_from_another_needs_it(rung, context):
    said = no_start(rung, context)
    assert said is not None and f"the System of {rung.after}, and this run has none" in said
    assert f"--rungs {rung.after},{rung.name}" in said
    names = [one.name for one in LADDER]
    assert names.index(rung.after) < names.index(rung.name)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_makes_a_system_that_answers_every_dev_row_and_with_a_label_where_it_is_one(rung, built):
    context, made = built(rung, kind_of(rung))
    answers = made.system.answer(context.dev, context.pool)
    assert len(answers) == len(context.dev)
    assert all(a.failure is None for a in answers)
    if context.kind == "label":
        assert all(a.value in context.labels or a.value is None for a in answers)
    assert made.system.spec.rung == rung.name and made.what


@pytest.mark.parametrize("rung", RUNGS)
def test_the_chosen_trial_is_marked_and_none_scored_better(rung, built):
    context, made = built(rung, kind_of(rung))
    (chosen,) = [trial for trial in made.trials if trial.chosen]
    whole = [trial.score for trial in made.trials if trial.n == len(context.dev)]
    assert chosen.n == len(context.dev) and chosen.score == pytest.approx(max(whole), abs=0.051)


@pytest.mark.parametrize("rung", RUNGS)
def test_the_score_of_the_chosen_trial_is_that_of_the_system(rung, built):
    context, made = built(rung, kind_of(rung))
    (chosen,) = [trial for trial in made.trials if trial.chosen]
    assert context.measure(made.system, context.dev, "again").score == chosen.score


@pytest.mark.parametrize("rung", RUNGS)
def test_a_system_that_is_loaded_again_gives_the_same_answers(rung, built):
    context, made = built(rung, kind_of(rung))
    before = made.system.answer(context.dev, context.pool)
    again = System.load(made.system.folder)
    assert again.digest == made.system.digest
    after = again.answer(context.dev, context.pool)
    assert [a.value for a in after] == [a.value for a in before]


@pytest.mark.parametrize("rung", RUNGS)
def test_the_same_rows_and_seed_make_the_same_system_once_the_clock_has_spoken(
    rung, built, tiny, tmp_path, server
):
    context, made = built(rung, kind_of(rung))
    path = write_rows(tmp_path / "topics.jsonl", rows_of(rung, kind_of(rung)))
    with opened(tiny, path, tmp_path, built=context.built) as fresh:
        fresh.folder.mkdir()
        shutil.copy(context.folder / SETTLED_FILE, fresh.folder)
        if rung.name in SEARCHING:
            # Among so many answers of a random model one is a near-tie, which another batch may turn.
            shutil.copytree(context.bench.store.folder, fresh.bench.store.folder)
        again = rung.build(suited(rung, beside(fresh, server, tmp_path, context.unlabelled)))
    assert again.system.digest == made.system.digest
    assert [(t.name, t.score, t.n, t.chosen) for t in again.trials] == [
        (t.name, t.score, t.n, t.chosen) for t in made.trials
    ]
    assert again.notes == made.notes


@pytest.mark.parametrize("kind", ["json", "number", "text", "tool_call"])
@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_answers_other_kinds_of_output_too(rung, kind, built):
    if why := WITHOUT.get(rung.name, {}).get(kind):
        pytest.skip(why)
    context, made = built(rung, kind)
    assert rung.skip(context) is None
    answers = made.system.answer(context.dev, context.pool)
    assert all(a.failure is None for a in answers)
    types = {"json": dict, "number": (int, float), "text": str, "tool_call": list}[kind]
    assert all(a.value is None or isinstance(a.value, types) for a in answers)
    if kind == "number":
        assert all(0 <= a.value <= 999 for a in answers if isinstance(a.value, (int, float)))
    if kind == "json":
        assert all(list(a.value) == ["topic", "first"] for a in answers if isinstance(a.value, dict))


@pytest.mark.parametrize("rung", RUNGS)
def test_the_rows_outputs_are_never_part_of_a_question(rung, built):
    context, made = built(rung, kind_of(rung))
    blind = [Example(id=e.id, input=e.input, output=None) for e in context.dev]
    given = made.system.answer(context.dev, context.pool)
    assert [a.value for a in made.system.answer(blind, context.pool)] == [a.value for a in given]


@pytest.mark.parametrize("rung", [r for r in RUNGS if isinstance(r.values[0], Foreseen)])
def test_what_a_rung_foresees_is_positive_and_settles_what_it_is_built_from(rung, built, foreseen):
    context, _ = built(rung, kind_of(rung))
    told, again = foreseen[rung.name]
    if rung.name in ("distill_head", "distill"):
        assert told is None, "a hosted teacher is asked nothing beforehand"
        return
    assert told is not None and told.least_s >= 0
    assert told.low_s <= told.seconds <= told.high_s
    # A hosted model is done where the first rows are all: it isn't paid to be timed.
    assert (told.low_s > 0 and told.least_s > 0) or (rung.name == "api" and len(context.dev) <= PACED_ROWS)
    assert again is not None and (rung.name == "head" or again.least_s == told.least_s)
