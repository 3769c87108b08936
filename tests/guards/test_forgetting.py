"""The guards on a real tune of a tiny model: through its engines, its adapter and its files."""

import json
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from rung.climb.guarding import Guarding, guarded
from rung.engines import device, lora
from rung.engines.torch import load_model
from rung.errors import EngineError
from rung.evaluate import measure
from rung.guards import forgetting as gate
from rung.guards.fit import collapse, gap, overfit
from rung.guards.gate import guards, labels_alone
from rung.guards.items import general_items
from rung.models.weights import dequantised
from rung.records import Answer, Example, Interval, Measurement, Prediction, RungResult, Stopped
from rung.records.guarded import Forgetting
from rung.rungs.learned_files import torch_files
from rung.rungs.sft import answer_forms
from rung.runs import read_jsonl
from rung.system import ADAPTER_FOLDER, save
from rung.training.full import TUNED_FILE
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows
from tests.fixtures_tiny import randomise


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def context(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(160)), tmp_path) as found:
        yield found


@pytest.fixture
def few(monkeypatch):
    """Every 15th item alone: the tests that count none."""
    ask_every(15, monkeypatch)


def ask_every(nth: int, monkeypatch) -> None:
    """With short answers: this model ends none by itself."""
    items = [replace(item, tokens=min(16, item.tokens)) for item in general_items()[::nth]]
    monkeypatch.setattr(gate, "general_items", lambda: items)
    monkeypatch.setattr(gate, "spread_items", lambda: items[::2])


def tuned(context, size: float, name: str = "tuned"):
    """A System whose adapter is random numbers of a size, under torch."""
    model = load_model(dequantised(context.model))
    lora.attach(model, rank=4, alpha=8, seed=0)
    randomise(model, size)
    folder = context.folder / f"adapter-{name}"
    lora.save(model, folder, base="tiny")
    spec = answer_forms(context)["words"].model_copy(update={"engine": "torch"})
    files = {f"{ADAPTER_FOLDER}/{p.name}": p for p in sorted(folder.iterdir())}
    return save(context.folder / name, spec, files)


def test_a_tune_that_changed_nothing_passes(context, monkeypatch):
    ask_every(5, monkeypatch)  # of fewer than 45 none lost says too little
    same = gate.forgetting(context, tuned(context, 0.0, "same"))
    assert same.verdict == "pass" and same.reasons == () and same.left_out == ()
    assert same.items is not None and (same.items.won, same.items.lost, same.items.n) == (0, 0, 60)
    for read in (same.general, same.prose, same.task):
        assert read is not None and read.kl < 1e-6


def test_a_tune_that_wrecks_its_base_is_blocked(context, few):
    wrecked = gate.forgetting(context, tuned(context, 1.0))
    assert wrecked.verdict == "block" and wrecked.general.kl > 0.5 and wrecked.prose.kl > 0.5


def tuned_whole(context, size: float, name: str):
    """The same with whole weights, from which the base's differ by random numbers of a size."""
    folder = context.folder / f"tuned-{name}"
    folder.mkdir(parents=True)
    dice = torch.Generator().manual_seed(1)
    weights = {f"{n}.weight": layer.weight for n, layer in lora.block_linears(base_of(context))}
    moved = {n: w + size * torch.randn(w.shape, generator=dice).to(w) for n, w in weights.items()}
    save_file({n: w.detach().contiguous() for n, w in moved.items()}, folder / TUNED_FILE)
    spec = answer_forms(context)["words"].model_copy(update={"engine": "torch"})
    return save(context.folder / name, spec, torch_files(context, folder))


def test_where_it_matters_that_labels_forgot_is_told_by_what_was_learned(context):
    whole, adapted = tuned_whole(context, 0.0, "same"), tuned(context, 0.0)
    assert labels_alone(whole).endswith("that matters where other requests reach its weights")
    assert "its weights are merged or other requests reach its adapter" in labels_alone(adapted)


def base_of(context):
    return load_model(dequantised(context.model))


def test_whole_weights_that_are_the_bases_forgot_nothing(context, few):
    same = gate.forgetting(context, tuned_whole(context, 0.0, "same"))
    assert (same.items.won, same.items.lost, same.items.n) == (0, 0, 20)
    assert all(read is not None and read.kl < 1e-6 for read in (same.general, same.prose, same.task))


def test_whole_weights_that_are_noise_are_blocked(context, few):
    wrecked = gate.forgetting(context, tuned_whole(context, 0.5, "wrecked"))
    assert wrecked.verdict == "block" and wrecked.general.kl > 0.5


def test_the_base_is_asked_once_and_the_tune_goes_on_where_it_was(context, few, monkeypatch):
    system = tuned(context, 0.3)
    first = gate.forgetting(context, system)
    (kept,) = (context.folder.parent / "cache" / "general").glob("*.jsonl")
    answers = context.folder / gate.ANSWERS_FILE
    lines = read_jsonl(answers)
    assert len(read_jsonl(kept)) == len(lines) == 20
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines[:5]) + '{"torn', encoding="utf-8")
    asked = []
    real = gate._ask

    def counted(who, items, known):
        asked.append((who.who, len(items)))
        return real(who, items, known)

    monkeypatch.setattr(gate, "_ask", counted)
    again = gate.forgetting(context, system)
    assert replace(again, seconds=0) == replace(first, seconds=0)
    assert {who for who, n in asked if n} == {"the tune"} and sum(n for _, n in asked) == 15


def test_the_base_is_asked_anew_by_another_program_and_where_answers_end_elsewhere(context, few, monkeypatch):
    system = tuned(context, 0.0)
    gate.forgetting(context, system)
    (kept,) = (context.folder.parent / "cache" / "general").glob("*.jsonl")
    assert len(read_jsonl(kept)) == 20
    monkeypatch.setattr(gate, "version", lambda name: "9.9")
    gate.forgetting(context, system)
    assert len(read_jsonl(kept)) == 40
    chat = context.pool.chat(context.model)
    again = replace(context.pool.chats[context.model.digest], stop_ids=(*chat.stop_ids, 7))
    monkeypatch.setitem(context.pool.chats, context.model.digest, again)
    gate.forgetting(context, system)
    assert len(read_jsonl(kept)) == 60


def test_without_time_nothing_is_measured_and_nothing_passes(context):
    late = replace(context, deadline=time.monotonic() - 1)
    found = gate.forgetting(late, tuned(context, 0.3))
    assert found.verdict == "unknown" and found.items is None and found.prose is None
    assert any("no time" in why for why in found.left_out)
    resumed = gate.forgetting(context, tuned(context, 0.3))
    assert resumed.verdict == "unknown", "a climb that is taken up again takes the same choices"


def scored(score: float, half: float, metric="accuracy", n: int = 100) -> Measurement:
    return Measurement(
        system="s",
        split="dev",
        metric=metric,
        score=score,
        interval=Interval(low=score - half, high=score + half),
        n=n,
        failures=0,
        predictions=(),
    )


def test_a_gap_is_that_of_two_independent_scores():
    found = gap(scored(0.9, 0.03), scored(0.7, 0.04), 0.1)
    assert (found.gap, found.low, found.high) == pytest.approx((0.2, 0.15, 0.25)) and found.clear
    assert not gap(scored(0.78, 0.01), scored(0.7, 0.01), 0.1).clear, "clear, but not large"
    assert not gap(scored(0.9, 0.3), scored(0.7, 0.2), 0.1).clear, "large, but not clear"
    errors = gap(scored(1.0, 0.1, "mae"), scored(3.0, 0.1, "mae"), 0.5)
    assert errors.gap == 2.0 and errors.clear


def test_the_gap_of_rates_is_newcombes():
    """Newcombe 1998, method 10, worked out by statsmodels from the same Wilson intervals."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    from rung.scoring.stats import wilson

    def rate(k: int, n: int) -> Measurement:
        return replace(scored(k / n, 0.0), interval=wilson(k, n), n=n)

    found = gap(rate(180, 200), rate(60, 80), 0.1)
    low, high = confint_proportions_2indep(180, 200, 60, 80, compare="diff", method="newcomb")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def said(answers: list[str]) -> Measurement:
    rows = [
        Prediction(example_id=str(n), answer=Answer(text=a, value=a), score=1.0)
        for n, a in enumerate(answers)
    ]
    return replace(scored(0.5, 0.1), predictions=tuple(rows))


def rows_of(outputs: list[str]) -> list[Example]:
    return [Example(id=str(n), input="x", output=o) for n, o in enumerate(outputs)]


@pytest.mark.parametrize(
    ("answers", "outputs", "fell"),
    [
        (["a"] * 95 + ["b"] * 5, ["a", "b"] * 50, True),
        (["a"] * 95 + ["b"] * 5, ["a"] * 95 + ["b"] * 5, False),
        (["a"] * 90 + ["b"] * 10, ["a", "b"] * 50, False),
    ],
)
def test_one_answer_to_nearly_everything_is_a_collapse_unless_the_rows_are_so(answers, outputs, fell):
    found = collapse(said(answers), rows_of(outputs))
    assert found.collapsed == fell and found.answer == "a"
    assert found.low < found.share < found.high


def test_training_rows_are_asked_of_the_system_itself(context):
    system = tuned(context, 0.3)
    dev = measure(system, context.dev, context.bench, split="dev")
    found = overfit(context, system, dev)
    assert found is not None and found.rows == len(context.train) and found.dev == dev.score
    assert found.train == measure(system, context.train, context.bench, split="train").score
    late = replace(context, deadline=time.monotonic() - 1, folder=context.folder / "late")
    assert overfit(late, system, dev) is None


def result_of(dev: Measurement) -> RungResult:
    return RungResult(rung="sft", order=3, dev=dev)


@pytest.mark.parametrize(("limit", "out"), [("warn", 0), ("block", 1)])
def test_a_tune_that_forgot_is_warned_of_and_is_out_where_the_task_wants_that(context, limit, out, few):
    system = tuned(context, 1.0)
    dev = measure(system, context.dev, context.bench, split="dev")
    by = Guarding(deadline=time.monotonic() + 300, forget=True, limit=limit)
    found = guarded(result_of(dev), system, context, by)
    assert found.guards.forgetting.verdict == "block"
    (warning,) = (w for w in found.guards.warnings if "it forgot: it" in w)
    assert context.kind == "label" and warning.endswith("other requests reach its adapter")
    assert len(found.over_limits) == out
    stopped = replace(result_of(dev), stopped=Stopped(rows=1, of=2, rival="head", worse=True))
    assert guarded(stopped, system, context, by) is stopped
    left = guarded(result_of(dev), system, context, replace(by, forget=False))
    assert left.guards.forgetting is None and left.over_limits == ()


def test_an_engine_that_breaks_in_a_guard_fails_no_rung(context, monkeypatch):
    system = tuned(context, 0.3)
    dev = measure(system, context.dev, context.bench, split="dev")

    def broken(*_):
        raise EngineError("it died")

    monkeypatch.setattr("rung.guards.gate.forgetting", broken)
    found = guards(context, system, dev, forget=True)
    assert isinstance(found.forgetting, Forgetting) and found.forgetting.verdict == "unknown"
    assert "it died" in found.forgetting.left_out[0] and found.warnings == ()


def test_a_gpu_whose_memory_runs_out_in_a_guard_fails_no_rung(context, monkeypatch):
    system = tuned(context, 0.3)
    dev = measure(system, context.dev, context.bench, split="dev")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr("rung.guards.gate.forgetting", full)
    monkeypatch.setattr("rung.guards.gate.overfit", full)
    found = guards(context, system, dev, forget=True)
    assert found.forgetting is not None and found.forgetting.verdict == "unknown"
    assert "the GPU's memory is used up" in found.forgetting.left_out[0] and found.overfit is None


def test_the_gate_tells_once_of_what_it_reads_and_asks_on_the_processor_for_want_of_a_gpus_room(
    context, few, monkeypatch
):
    there = device.Found(gpu="cuda:0", dtype=device.best_dtype())
    monkeypatch.setattr(device, "found", lambda: there)
    monkeypatch.setattr(device, "free_bytes", lambda name: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name=None: (0, 2**36))
    monkeypatch.setattr(context.pool, "say", context.reporter.say)
    system = tuned(context, 0.0)
    assert gate.forgetting(context, system).left_out == ()
    told = [line.split(": the weights in ")[0] for line in context.reporter.lines if "cuda:0" in line]
    assert sorted(told) == sorted(["tiny", str(system.adapter), "sft, its forgetting gate"])


def test_a_rung_that_kept_the_tune_below_it_has_what_was_found_of_that_one(context, monkeypatch, few):
    start = tuned(context, 1.0)
    beside = replace(context, built={"sft": start})
    dev = measure(start, context.dev, context.bench, split="dev")
    by = Guarding(deadline=time.monotonic() + 300, forget=True, limit="block")
    below = guarded(result_of(dev), start, context, by)

    def looked_again(*_, **__):
        raise AssertionError("it was looked at before")

    upon = replace(result_of(dev), rung="reinforce", upon="sft")
    kept = save(context.folder / "kept", renamed(start), {n: start.folder / n for n in start.spec.files})
    other = tuned(context, 0.5, "other")
    with monkeypatch.context() as patch:
        patch.setattr("rung.climb.guarding.guards", looked_again)
        found = guarded(upon, kept, beside, by, [below])
        assert found.guards == below.guards and found.over_limits == below.over_limits != ()
        for system, given, results in [
            (other, beside, [below]),
            (kept, context, [below]),
            (kept, beside, []),
            (kept, beside, [replace(below, guards=replace(below.guards, forgetting=unknown()))]),
        ]:
            with pytest.raises(AssertionError, match="looked at before"):
                guarded(upon, system, given, by, results)


def renamed(system):
    return system.spec.model_copy(update={"rung": "reinforce", "files": {}})


def unknown():
    return Forgetting(verdict="unknown", reasons=(), left_out=("reading prose: no time",), seconds=1.0)
