"""A tune that would learn from something else than it began with begins anew, and the climb goes on."""

import json
import shutil
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch

from rung.climb.climb import Options, climb
from rung.climb.rebuilding import in_training
from rung.errors import EngineError, OtherLessonError, RunError
from rung.rungs import tuning
from rung.rungs.base import JOURNAL_FILE, Built, Context, Outlook
from rung.rungs.lesson import LESSON_FILE, of_the_same_lesson
from rung.rungs.sft import Sft
from rung.runs import append_jsonl, read_jsonl
from rung.system import System
from rung.training.checkpoint import Checkpoint
from tests.climb.test_climb import with_ladder
from tests.climb.test_curve import Counting
from tests.climb.test_stopping import Counts
from tests.fixtures_climb import Log, label_rows, write_rows
from tests.rungs.test_looking_up import looked_up


@pytest.fixture
def options(tiny, tmp_path) -> Options:
    return Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600, forgetting=False)


def trained(context: Context, reads: str, how: str = "lora", size: int = 3) -> int:
    """Begin a tune that reads this, or go on with it; how often it was begun by its journal."""
    training = context.work / "training"
    append_jsonl(training / JOURNAL_FILE, [{"kind": "batch"}])
    begun = len(read_jsonl(training / JOURNAL_FILE))
    with of_the_same_lesson(context, training / "arm", reads, [how]):
        Checkpoint(training / "arm", [torch.zeros(size)], f"{reads} {how}").close()
    return begun


@dataclass
class Below(Counts):
    """A rung that a fault of the moment may end."""

    broken: bool = True

    def build(self, context: Context) -> Built:
        if self.broken:
            raise EngineError("it was killed for memory")
        return super().build(context)


@dataclass
class Learns(Counts):
    """A rung that trains on what the rungs below it are; it may be interrupted in that."""

    halted: bool = True
    begun: list[int] = field(default_factory=list)
    given: list[float] = field(default_factory=list)
    how: str = "lora"
    size: int = 3

    def build(self, context: Context) -> Built:
        self.given.append(context.seconds_left)
        self.begun.append(trained(context, ", ".join(sorted(context.built)), self.how, self.size))
        if self.halted:
            raise KeyboardInterrupt
        return super().build(context)


def interrupted(task, options, *rungs) -> None:
    """A climb whose second rung is killed in training, and then of what was done 300 s before."""
    with pytest.raises(KeyboardInterrupt):
        climb(task, options, Log())
    clock = {"seconds": 310.0, "building": {rungs[1].name: 300.0, rungs[0].name: 1.0}}
    (options.out / "clock.json").write_text(json.dumps(clock))
    rungs[0].broken = rungs[1].halted = False


@pytest.fixture
def rungs(monkeypatch, options):
    """A rung that broke, a tune above it that was killed, and one that is still to come."""
    made = Below("below"), Learns("tune"), Counts("last")
    with_ladder(monkeypatch, *made)
    return made


def test_a_tune_begins_anew_where_a_rung_below_it_was_built_since(task, options, rungs):
    options = replace(options, rungs=tuple(rung.name for rung in rungs))
    interrupted(task, options, *rungs)
    log = Log()
    found, _ = climb(task, options, log)
    assert [result.failed for result in found.results] == [None, None, None]
    assert rungs[1].begun == [1, 1], "of the second time the first is forgotten"
    assert "tune begins anew: what it learns from has changed" in log.lines
    assert 130 < rungs[1].given[-1] < (600 - 310) / 2, "what was lost isn't taken from the new share"


def test_a_tune_goes_on_where_nothing_below_it_has_changed(task, options, rungs):
    options = replace(options, rungs=tuple(rung.name for rung in rungs))
    interrupted(task, options, *rungs)
    rungs[0].broken = True
    log = Log()
    climb(task, options, log)
    assert rungs[1].begun == [1, 2] and "begins anew" not in log.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"how": "qlora, blocks"}, "computed as lora and is as qlora, blocks now: go on as it was begun, or"),
        ({"size": 4}, "another digest, shapes .*; remove "),
        ({}, r"another digest \(' lora', now 'below lora'\); remove "),
    ],
)
def test_where_anything_else_has_changed_or_may_have_the_climb_ends_and_nothing_is_lost(
    task, options, rungs, changed, said
):
    options = replace(options, rungs=tuple(rung.name for rung in rungs))
    interrupted(task, options, *rungs)
    training = options.out / "rungs" / "tune" / "work" / "training"
    if not changed:
        (training / "arm" / LESSON_FILE).unlink()  # as an earlier version began it
    for name, value in changed.items():
        setattr(rungs[1], name, value)
    before = (training / "arm" / "state.bin").read_bytes()
    for _ in range(2):
        with pytest.raises(RunError, match=f"training state of .*{said}") as raised:
            climb(task, options, Log())
        assert not isinstance(raised.value, OtherLessonError)
        assert f"remove {str(training)!r} to have it begun anew" in str(raised.value)
    assert (training / "arm" / "state.bin").read_bytes() == before and in_training(training.parents[1])
    shutil.rmtree(training)
    found, _ = climb(task, options, Log())
    assert found.results[1].dev is not None and rungs[1].begun[-1] == 1, "the message is true"


def test_a_state_that_an_earlier_version_began_is_gone_on_with_and_its_lesson_known_from_then_on(
    task, options, rungs
):
    options = replace(options, rungs=tuple(rung.name for rung in rungs))
    interrupted(task, options, *rungs)
    kept = options.out / "rungs" / "tune" / "work" / "training" / "arm" / LESSON_FILE
    kept.unlink()
    rungs[0].broken = rungs[1].halted = True
    with pytest.raises(KeyboardInterrupt):
        climb(task, options, Log())
    assert rungs[1].begun == [1, 2] and kept.exists()


@dataclass
class InCourses(Counts):
    """A rung that trains twice, beside a teacher the second time; it may be interrupted in that."""

    beside: str = "one"
    halted: bool = True
    begun: list[tuple[int, int]] = field(default_factory=list)

    def build(self, context: Context) -> Built:
        apart = replace(context, folder=context.work / "on-policy")
        self.begun.append((trained(context, "rows"), trained(apart, self.beside)))
        if self.halted:
            raise KeyboardInterrupt
        return super().build(context)


def test_where_a_part_of_a_rung_learns_from_something_else_its_other_tune_stays(task, options, monkeypatch):
    names = with_ladder(monkeypatch, rung := InCourses("tune"))
    options = replace(options, rungs=names)
    with pytest.raises(KeyboardInterrupt):
        climb(task, options, Log())
    rung.beside, rung.halted = "other", False
    log = Log()
    climb(task, options, log)
    # Of the first tune the second start went on with its journal, and so did the one after it was forgotten.
    assert rung.begun == [(1, 1), (3, 1)]
    assert "tune, on-policy, begins anew: what it learns from has changed" in log.lines


def test_one_that_is_killed_while_it_is_forgotten_is_begun_anew_by_the_next_start(
    task, options, rungs, monkeypatch
):
    def killed(*_args, **_more):
        raise KeyboardInterrupt

    options = replace(options, rungs=tuple(rung.name for rung in rungs))
    interrupted(task, options, *rungs)
    folder = options.out / "rungs" / "tune"
    with monkeypatch.context() as dying:
        dying.setattr("rung.climb.rebuilding.shutil", SimpleNamespace(rmtree=killed))
        with pytest.raises(KeyboardInterrupt):
            climb(task, options, Log())
    assert not in_training(folder), "no score is kept beside a state that is gone"
    found, _ = climb(task, options, Log())
    assert found.results[1].dev is not None and not (folder / "work").exists()


class Unsteady(Counts):
    """A rung that never trains on the same twice."""

    def build(self, context: Context) -> Built:
        for reads in ("one", "other"):
            trained(context, reads)
        return super().build(context)


def test_one_that_is_never_the_same_ends_the_climb_and_is_not_begun_for_ever(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Unsteady("tune"))
    with pytest.raises(
        OtherLessonError, match="another digest .*'one lora', now 'other lora'.*: what it learns"
    ):
        climb(task, replace(options, rungs=names), Log())


@dataclass
class InParts(Counting):
    """A rung that trains in its curve; it may be interrupted in that."""

    reads: str = "one"
    halted: bool = True

    def build(self, context: Context) -> Built:
        if "curve" in context.folder.parts:
            trained(context, self.reads)
            if self.halted:
                raise KeyboardInterrupt
        return super().build(context)


def test_a_point_of_a_curve_begins_anew_too(task, options, monkeypatch):
    names = with_ladder(monkeypatch, rung := InParts())
    options = replace(options, rungs=names, curve=True)
    with pytest.raises(KeyboardInterrupt):
        climb(task, options, Log())
    rung.reads, rung.halted = "other", False
    log = Log()
    found, _ = climb(task, options, log)
    assert [point.rows for point in found.curves[0].points] == [40, 81, 162]
    assert "head on 25% of the rows begins anew: " in log.text and "on 50% of the rows begins" not in log.text


class LooksUp:
    """A rung that looks up passages, finds that the model lacks facts, and fits no ten minutes."""

    name = "retrieval"

    def skip(self, context: Context) -> str | None:
        return None

    def outlook(self, context: Context) -> Outlook:
        return Outlook(seconds=2.0, low_s=1.5, high_s=5.0, least_s=1000.0)

    def build(self, context: Context) -> Built:
        system = looked_up(context, context.work / "looked-up")
        return Built(system=system, what="two passages", gap="knowledge")


@dataclass
class Bars(Log):
    """A log of where each bar began; it may interrupt a tune in its second step."""

    begun: list[tuple[str, int]] = field(default_factory=list)
    halts: bool = False

    def begin(self, what: str, total: int | None, done: int = 0) -> int:
        self.begun.append((what, done))
        return super().begin(what, total, done)

    def advance(self, handle: int, done: int, extra: str = "") -> None:
        if self.halts and self.is_training(self.bars[handle - 1]) and done > 1:
            raise KeyboardInterrupt

    def is_training(self, bar: str) -> bool:
        return bar.startswith("sft: ") and not bar.endswith(" dev rows")


def test_a_tune_that_began_without_passages_reads_those_that_more_time_found(
    tiny, tmp_path, options, monkeypatch
):
    write_rows(tmp_path / "rows.jsonl", label_rows(270))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Billing\n\nAn invoice is for billing.")
    task = tmp_path / "task.yaml"
    task.write_text("data: {train: rows.jsonl, documents: docs}\nname: topics\n")
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 2)
    options = replace(options, rungs=with_ladder(monkeypatch, LooksUp(), Sft()))
    with pytest.raises(KeyboardInterrupt):
        climb(task, options, Bars(halts=True))
    assert in_training(options.out / "rungs" / "sft")
    log = Bars()
    found, run = climb(task, replace(options, budget_s=6000), log)
    retrieval, sft = found.results
    assert retrieval.gap == "knowledge" and sft.failed is None
    assert "sft begins anew" in log.text
    assert next(done for what, done in log.begun if log.is_training(what)) == 0
    assert System.load(run / str(sft.folder)).spec.retrieval is not None
