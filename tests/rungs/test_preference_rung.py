"""The rung preference on a tiny model: what it learns from, what it keeps, and that it can be killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rung
from rung import system as systems
from rung.errors import EngineError, TrainingError
from rung.evaluate import Store
from rung.records import Example
from rung.rungs import following, preferring, seeds, sft, tuning
from rung.rungs.following import Outcome, _why_close, built_on
from rung.rungs.preference import Preference
from rung.rungs.preferred import material
from rung.rungs.rendered import rendered_rejected
from rung.rungs.sft import Sft
from rung.runs import file_digest
from rung.system import System
from rung.training.loop import Trainer
from tests.fixtures_climb import Log, judged, label_rows, make_tiny_gguf, opened, preferred, write_rows

pytestmark = pytest.mark.usefixtures("toy_rates")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def tuned(tiny, tmp_path_factory):
    """Systems of sft by kind of rows, each made once, with so few steps that there's more to learn."""
    made = {}

    def of(kind: str) -> System:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            path = write_rows(folder / "rows.jsonl", ROWS[kind])
            with pytest.MonkeyPatch.context() as patch, opened(tiny, path, folder) as context:
                patch.setattr(tuning, "MOST_EPOCHS", 2)
                made[kind] = Sft().build(context).system
        return made[kind]

    return of


ROWS = {
    "pairs": preferred(label_rows(160)),
    "judged": judged(label_rows(240)),
}


@pytest.fixture
def begin(tiny, tuned, tmp_path):
    """Opens a context of the rung on rows of a kind."""
    stack = []

    def of(kind: str, name: str = "a", **changes):
        folder = tmp_path / name
        path = write_rows(tmp_path / f"{kind}.jsonl", ROWS[kind])
        opening = opened(tiny, path, folder, built={"sft": tuned(kind)}, **changes)
        stack.append(opening)
        return opening.__enter__()

    yield of
    for opening in reversed(stack):
        opening.__exit__(None, None, None)


@pytest.fixture(scope="module")
def whole(tiny, tuned, tmp_path_factory):
    """The rung on pairs from start to end: its context, what it made, and how often its bars were moved."""
    folder, counting = tmp_path_factory.mktemp("whole"), Ending(-1, stop)
    path = write_rows(folder / "pairs.jsonl", ROWS["pairs"])
    with opened(tiny, path, folder, built={"sft": tuned("pairs")}, reporter=counting) as context:
        made = Preference().build(context)
        yield context, made, counting.moved


def journal(context) -> list[dict]:
    path = context.work / "training" / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_shipped_is_never_worse_on_dev_than_the_start(whole):
    context, made, _ = whole
    start = context.built["sft"]
    ours, theirs = (context.measure(one, context.dev, "again").score for one in (made.system, start))
    assert ours >= theirs and made.upon == "sft"
    if ours == theirs:
        assert "as it was" in made.what
        files = made.system.spec.files
        assert files == start.spec.files and made.system.digest != start.digest
    assert made.system.spec == start.spec.model_copy(
        update={"rung": "preference", "files": made.system.spec.files, "engine": made.system.spec.engine}
    )
    learned = len(material(context, start.spec).items)
    assert f"learned from {learned} pairs" in made.notes
    assert any("fewer than 300" in note for note in made.notes)
    (said,) = [told for told in made.found if told.startswith("preference accuracy on dev")]
    last = [record for record in journal(context) if record["kind"] == "margins"][-1]
    assert f"of {len(context.dev)} pairs" in said and last["pairs"] == len(context.dev)
    assert made.passes == pytest.approx(last["step"] * 16 / learned)


def test_two_more_seeds_are_foreseen_where_the_start_answered_all_dev_rows(begin):
    context = begin("pairs")
    alone = Preference().outlook(context)
    context.measure_all(context.built["sft"], context.dev, "the start")
    beside = Preference().outlook(context)
    assert alone is not None and beside is not None
    assert (beside.low_s, beside.seconds) == (alone.low_s, alone.seconds), "rows are read once"
    assert alone.low_s < alone.seconds == alone.high_s < beside.high_s
    (course,) = (record for record in journal(context) if record["kind"] == "course")
    assert alone.low_s == course["soonest_s"], "the start is kept then: nothing is proved or answered anew"
    assert alone.seconds > course["tuning_s"] + course["closing_s"]
    assert alone.by == preferring.KEEPS and beside.by.endswith("and whether two more seeds are drawn")


def test_a_step_that_is_better_on_dev_is_shipped_as_another_adapter(begin, monkeypatch):
    # A start that learned the opposite: what it has wrong, pairs can mend.
    as_gained(monkeypatch, 0.0)
    context = begin("pairs")
    start = weakened(context, -1.0)
    context = replace(context, built={"sft": start})
    made = Preference().build(context)
    ours, theirs = (context.measure(one, context.dev, "again").score for one in (made.system, start))
    assert ours > theirs and made.upon == "sft", made.trials
    assert made.parity is not None and made.parity.clear_disagreements == 0
    assert (
        made.system.spec.files["adapter/adapter_model.safetensors"]
        != start.spec.files["adapter/adapter_model.safetensors"]
    )
    best = [record for record in journal(context) if record["kind"] == "best"][-1]
    assert f"{best['step']} steps of {preferring.BATCH} from sft's adapter on" in made.what
    values = [answer.value for answer in made.system.answer(context.dev, context.pool)]
    with rung.load(made.system.folder) as asked:
        assert [answer.value for answer in asked.batch([e.input for e in context.dev])] == values


def weakened(context, times: float = 0.05) -> System:
    """The System of sft with an adapter that has so many times its effect, under torch alone."""
    from safetensors.torch import load_file, save

    start = context.built["sft"]
    files = {name: start.folder / name for name in start.spec.files if name.startswith("adapter/")}
    weights = "adapter/adapter_model.safetensors"
    tensors = load_file(files[weights])
    less = save({k: v * (times if "lora_B" in k else 1) for k, v in tensors.items()}, {"format": "pt"})
    spec = start.spec.model_copy(update={"engine": "torch"})
    return systems.save(context.folder.parent / "weak", spec, {**files, weights: less})


def as_gained(patch: pytest.MonkeyPatch, close: float) -> None:
    """The rates and sizes at which preferences gain much; a gain under so many times the least is close."""
    patch.setattr(preferring, "RATES", (1e-3, 2e-3))
    patch.setattr(preferring, "BATCH", 2)
    patch.setattr(seeds, "CLOSE", close)


def by_torch_alone(patch: pytest.MonkeyPatch) -> None:
    """What gains isn't proved under llama.cpp."""
    patch.setattr(sft, "without_llama", lambda context, adapter: "torch alone is asked here")


@pytest.fixture(scope="module")
def course(tiny, tuned, tmp_path_factory) -> Path:
    """The folder of a rung whose start learned the opposite: it gained, by one seed, as no gain was close."""
    folder = tmp_path_factory.mktemp("course")
    path = write_rows(folder / "pairs.jsonl", ROWS["pairs"])
    with (
        pytest.MonkeyPatch.context() as patch,
        opened(tiny, path, folder / "a", built={"sft": tuned("pairs")}) as context,
    ):
        as_gained(patch, 0.0)
        by_torch_alone(patch)
        made = Preference().build(replace(context, built={"sft": weakened(context, -1.0)}))
    assert made.seeds is None
    return folder / "a"


@pytest.fixture
def gained(begin, course, tmp_path, monkeypatch):
    """That course to be gone on from, where any gain is called close."""
    as_gained(monkeypatch, 1e9)
    by_torch_alone(monkeypatch)
    shutil.copytree(course, tmp_path / "a")
    return replace(begin("pairs"), built={"sft": System.load(tmp_path / "a" / "weak")})


def test_a_small_gain_is_tried_with_two_more_seeds_and_the_median_ships(gained):
    made = Preference().build(gained)
    assert made.seeds is not None and len(made.seeds.scores) == 3
    assert made.seeds.scores[made.seeds.chosen] == sorted(made.seeds.scores)[1]
    folders = [gained.work / name / "best" for name in ("training", "seed-1", "seed-2")]
    digests = [file_digest(folder / "adapter_model.safetensors") for folder in folders]
    assert len(set(digests)) == 3, "the rows came in another order"
    assert made.system.spec.files["adapter/adapter_model.safetensors"] == digests[made.seeds.chosen]
    assert [t.name for t in made.trials[-4:-1]] == [
        f"seed {number}" + (", the median" if number == made.seeds.chosen else "") for number in range(3)
    ]
    assert any("over sft is under twice the smallest detectable gain" in note for note in made.notes)
    steps = {folder.name: trained(folder) for folder in (gained.work / "seed-1", gained.work / "seed-2")}
    best = [record for record in journal(gained) if record["kind"] == "best"][-1]
    assert set(steps.values()) == {(best["arm"], best["step"])}
    again = Preference().build(gained)
    assert again.seeds == made.seeds and again.system.spec.files == made.system.spec.files


def trained(folder: Path) -> tuple[str, int]:
    """The arm and the steps of the adapter that a seed kept."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    (best,) = [line for line in lines if line["kind"] == "best"]
    return best["arm"], best["step"]


def test_without_time_for_two_more_seeds_the_first_one_ships_and_that_is_said(gained, monkeypatch):
    monkeypatch.setattr(preferring, "seconds_again", lambda state, steps: 1e6)
    made = Preference().build(gained)
    assert made.seeds is None and not (gained.work / "seed-1").exists()
    (said,) = [note for note in made.notes if note.startswith("one seed only: ")]
    assert "over sft is under twice" in said and said.endswith("and the budget hasn't that")
    assert made.system.spec.files != gained.built["sft"].spec.files


def test_the_start_is_kept_where_the_median_of_three_seeds_is_no_better(gained, monkeypatch):
    start = gained.built["sft"]
    monkeypatch.setattr(seeds, "CLOSE", 0.0)
    first = Preference().build(gained)
    assert first.seeds is None and first.system.spec.files != start.spec.files, "no gain is close"
    monkeypatch.setattr(seeds, "CLOSE", 1e9)
    best, weak = gained.work / "training" / "best", start.adapter
    assert weak is not None
    lucky = Outcome(adapter=best, what="", passes=1.0, trials=(), notes=(), again=lambda number: weak)
    made = built_on(gained, start, "preference", lucky)
    assert made.system.spec.files == start.spec.files and made.seeds is None
    assert "the median of three seeds is no better on dev than sft, whose adapter is kept" in made.notes
    assert [t.name for t in made.trials][:3] == ["seed 0", "seed 1", "seed 2, the median"]


def test_where_other_seeds_cannot_be_scored_the_first_one_ships(gained, monkeypatch):
    def capped(*_):
        raise EngineError("the cap is reached; raise --api-usd")

    monkeypatch.setattr(following, "seed_scores", capped)
    made = Preference().build(gained)
    assert made.seeds is None and made.system.spec.files != gained.built["sft"].spec.files
    assert "one seed only: the others couldn't be scored (the cap is reached; raise --api-usd)" in made.notes


def test_where_the_median_seed_cannot_be_proved_the_first_one_ships(gained, monkeypatch):
    proved, summed_up = sft.settled_system, seeds.summed_up

    def apart(context, spec, adapter):
        if adapter.parent.name != "training":
            raise TrainingError("the engines give other answers")
        return proved(context, spec, adapter)

    monkeypatch.setattr(seeds, "summed_up", lambda *scores: replace(summed_up(*scores), chosen=1))
    monkeypatch.setattr(sft, "settled_system", apart)
    made = Preference().build(gained)
    first = file_digest(gained.work / "training" / "best" / "adapter_model.safetensors")
    assert made.seeds is None and made.system.spec.files["adapter/adapter_model.safetensors"] == first
    (said,) = [note for note in made.notes if note.startswith("one seed only")]
    assert said.endswith("couldn't be proved (the engines give other answers)")
    assert not any(trial.name.startswith("seed ") for trial in made.trials)


def test_what_is_not_trained_again_says_that_it_is_one_seed(gained):
    start = gained.built["sft"]
    apart = replace(gained, folder=gained.folder / "reinforce")
    one = Outcome(adapter=gained.work / "training" / "best", what="", passes=1.0, trials=(), notes=())
    made = built_on(apart, start, "reinforce", one)
    (said,) = [note for note in made.notes if note.startswith("one seed only: ")]
    assert said.endswith("and another course would take as long as this one") and made.seeds is None
    assert made.system.spec.rung == "reinforce" and made.system.spec.files != start.spec.files


def test_a_gain_over_a_start_that_was_stopped_needs_no_more_seeds(gained, monkeypatch):
    start = gained.built["sft"]
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "CLOSE", 0.0)
        made = Preference().build(gained)
    assert _why_close(gained, made.system, start) is not None
    empty = replace(gained.bench, store=Store(gained.folder / "other answers"))
    unknown = replace(gained, bench=empty)
    unknown.measure(start, unknown.dev[:16], "the first rows")
    assert _why_close(unknown, made.system, start) is None
    assert len(empty.store.load(start.digest)) == 16, "nothing more was asked"


def test_a_course_that_is_cut_short_reaches_its_rate(begin, monkeypatch):
    context, rates = begin("pairs"), []
    plain = Trainer._adamw

    def noted(trainer, rate):
        rates.append(rate)
        plain(trainer, rate)

    monkeypatch.setattr(Trainer, "_adamw", noted)
    monkeypatch.setattr(preferring, "BATCH", 1)
    (context.work / "training").mkdir(parents=True)
    cut = {"kind": "course", "rates": 1, "evaluations": 1, "steps": 6, "rows": 8}
    cut |= {"tuning_s": 1.0, "closing_s": 1.0}
    (context.work / "training" / "journal.jsonl").write_text(json.dumps(cut) + "\n")
    Preference().build(context)
    rate = preferring.RATES[0]
    # A pass has a hundred steps here, and ten of them to warm up in.
    assert rates == pytest.approx([rate] * 4 + [2 / 3 * rate, 1 / 3 * rate])


def test_an_arm_whose_better_answers_fall_is_stopped_and_not_scored(begin, monkeypatch):
    monkeypatch.setattr(preferring, "MOST_FALL", -1e9)
    context = begin("pairs")
    made = Preference().build(context)
    stopped = [note for note in made.notes if "the log-probability of better answers on dev" in note]
    assert len(stopped) == len(preferring.RATES)
    assert [r["step"] for r in journal(context) if r["kind"] == "score"] == [0]
    assert "as it was" in made.what
    # One System under two names is asked once.
    assert context.bench.store.name(made.system.digest) == context.built["sft"].digest


def test_judged_answers_are_learned_from_and_told_apart_on_dev(begin):
    context = begin("judged")
    assert context.undesirable and context.dev_undesirable and Preference().skip(context) is None
    found = material(context, context.built["sft"].spec)
    assert sum(found.desirable) == len(context.train)
    assert len(found.desirable) - sum(found.desirable) == len(context.undesirable)
    made = Preference().build(context)
    assert any(f"and {len(context.undesirable)} others" in note for note in made.notes)
    last = [record for record in journal(context) if record["kind"] == "margins"][-1]
    assert last["pairs"] == min(len(context.dev), len(context.dev_undesirable)) > 10
    assert last["right"] > last["pairs"] / 2


def test_answers_that_could_never_be_given_are_left_out(begin):
    context = begin("pairs")
    spec = context.built["sft"].spec
    rows = [replace(context.train[0], rejected=text) for text in ("billing", "delivery", "login", "weather")]
    found = rendered_rejected(context, spec, [*rows, replace(rows[0], rejected=None)])
    assert [one is None for one in found] == [False, False, False, True, True]
    words = spec.model_copy(
        update={"kind": "json", "answer": spec.answer.model_copy(update={"form": "schema"})}
    )
    free = words.model_copy(update={"answer": spec.answer.model_copy(update={"form": "free"})})
    broken = [Example(id="a", input="x", output={"a": 1}, rejected='{"a": ')]
    assert rendered_rejected(context, words, broken) == [None]
    (kept,) = rendered_rejected(context, free, broken)
    chat = context.pool.chat(context.model)
    assert kept is not None and kept.answer == chat.answer_ids('{"a":', "terse")
    (spelled,) = rendered_rejected(context, words, [replace(broken[0], rejected='{ "a": 2 }')])
    assert spelled is not None and spelled.answer == chat.answer_ids('{"a":2}', "terse")
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 3}}, "required": ["a"]}
    closed = words.model_copy(update={"schema_": schema})
    told = [replace(broken[0], rejected=text) for text in ('{"a": 2}', '{"a": 4}', '{"b": 2}')]
    assert [one is None for one in rendered_rejected(context, closed, told)] == [False, True, True]
    number = closed.model_copy(update={"kind": "number", "schema_": {"type": "number", "minimum": 0}})
    told = [replace(broken[0], output=1, rejected=text) for text in ("2.5", "-3.75")]
    assert [one is None for one in rendered_rejected(context, number, told)] == [False, True]
    same = replace(context, train=(replace(context.train[0], rejected=str(context.train[0].output)),))
    assert material(same, spec).items == [] and material(same, spec).left_out == 1


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from rung.rungs.preference import Preference
from rung.system import System
from tests.fixtures_climb import opened
from tests.rungs.test_preference_rung import Ending
model, data, folder, start, most, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
kill = Ending(int(most), lambda: os.kill(os.getpid(), signal.SIGKILL))
built = {"sft": System.load(Path(start))}
with opened(Path(model), Path(data), Path(folder), built=built, reporter=kill) as context:
    Preference().build(context)
"""


class Stopped(Exception):
    pass


def stop() -> None:
    raise Stopped


class Ending(Log):
    """Ends the rung when its bars were moved so often."""

    def __init__(self, most: int, end: Callable[[], None]) -> None:
        super().__init__()
        self.moved, self.most, self.end_it = 0, most, end

    def advance(self, handle: int, done: int, extra: str = "") -> None:
        self.moved += 1  # by several threads at once: a number may be passed over
        if 0 < self.most <= self.moved:
            self.end_it()


def test_a_rung_that_is_stopped_or_killed_wherever_it_is_goes_on_to_the_same_system(
    begin, tiny, tuned, whole
):
    uninterrupted, expected, moved = whole
    context = begin("pairs", "killed")
    with pytest.raises(Stopped):
        Preference().build(replace(context, reporter=Ending(1 + moved // 20, stop)))
    places = [tiny, context.task.data.train, context.folder.parent, tuned("pairs").folder]
    root, limits = Path(__file__).parents[2], [2 * moved // 5, torch.get_num_threads()]
    child = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, (*places, *limits))],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=120,
    )
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(Stopped):
        Preference().build(replace(context, reporter=Ending(1 + moved // 10, stop)))
    made = Preference().build(context)
    # Which engine is faster is a matter of the clock, and of each run.
    assert made.system.spec.files == expected.system.spec.files
    trials = [[(t.name, t.score) for t in one.trials[:-1]] for one in (made, expected)]
    assert trials[0] == trials[1]
    assert made.passes == expected.passes
    kept = ("score", "margins", "best", "reference")
    for one, other in zip(
        *([r for r in journal(each) if r["kind"] in kept] for each in (uninterrupted, context)), strict=True
    ):
        assert {**one, "pace": None, "row_s": 0} == {**other, "pace": None, "row_s": 0}


@pytest.mark.parametrize("left", [0, 9])
def test_pairs_of_which_too_few_can_be_learned_from_are_refused_with_the_reason(left, begin):
    context = begin("pairs")
    train = tuple(
        replace(e, rejected="I don't know") if at >= left else e for at, e in enumerate(context.train)
    )
    assert Preference().skip(replace(context, train=train)) is None
    said = (
        rf"^{left} training rows have a rejected answer; at least 50 .* rows were left out: too long, equal"
    )
    with pytest.raises(TrainingError, match=said):
        Preference().build(replace(context, train=train))


def test_judged_answers_that_are_all_of_one_kind_are_refused(begin):
    context = begin("judged")
    strange = tuple(replace(e, output="weather") for e in context.undesirable)
    with pytest.raises(TrainingError, match="all answers that can be learned from are desirable"):
        Preference().build(replace(context, undesirable=strange))
