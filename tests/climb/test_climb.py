import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from rung import evaluate
from rung.climb.climb import Options, climb, load_climb
from rung.errors import EngineError, RunError, RungError
from rung.records import Example
from rung.rungs import LADDER, seeds, tuning
from rung.rungs.base import Built
from rung.spec import Spec
from rung.system import Pool, System, save
from tests.fixtures_climb import (
    Log,
    call_rows,
    constant_head,
    json_rows,
    label_rows,
    text_rows,
    write_rows,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def options(tiny, tmp_path) -> Options:
    return Options(models=(str(tiny),), out=tmp_path / "run", rungs=("prompt",), budget_s=600)


def no_engine(monkeypatch):
    def refuse(spec, till=None):
        raise AssertionError(f"an engine was started: {spec.engine}")

    monkeypatch.setattr("rung.system.start", refuse)


@pytest.mark.models
@pytest.mark.parametrize(("features", "memory"), [("tfidf", (0.01, 1)), ("minilm", (80, 120))])
def test_a_climb_ends_with_a_verdict_a_record_and_a_winner_that_answers(
    features, memory, task, options, monkeypatch
):
    monkeypatch.setattr("rung.rungs.head.REGULARISATION", {features: (1.0,)})
    result, run = climb(task, replace(options, rungs=("head", "prompt")), Log())
    assert result.decision.kind == "clear_winner" and result.decision.chosen == "head"
    assert "Ship head" in result.decision.sentence
    assert load_climb(run) == result
    assert [r.rung for r in result.results] == ["head", "prompt"]
    assert (result.n_train, result.n_dev, result.n_test, result.openings) == (162, 54, 54, 1)
    with Pool() as pool:
        (answer,) = System.load(run / "winner").answer(
            [Example(id="1", input="my password is locked", output=None)], pool
        )
    assert answer.value == "login"
    head = result.results[0]
    assert head.dev is not None and head.test is not None
    assert head.dev.score > 0.9 and 0 < head.dev.p50_s <= head.dev.p95_s
    assert memory[0] < head.dev.memory_mb < memory[1]
    assert head.usd_per_1000 > 0 and head.build_s > 0
    assert result.constant is not None and result.constant.beaten
    assert result.constant.score + result.constant.gain == pytest.approx(head.test.score)


def test_the_checks_of_a_climb_bring_no_model_that_no_rung_needs(task, options, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    result, _ = climb(task, options, Log())
    left_out = {run.name for run in result.checks if run.left_out}
    assert {"semantic_leaks", "label_errors"} <= left_out
    assert not (tmp_path / "cache" / "models").exists()


def test_a_tune_can_win_the_climb(task, options, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 5)
    monkeypatch.setattr(seeds, "CLOSE", 0)  # so that no more seeds are drawn
    result, run = climb(task, replace(options, rungs=("prompt", "sft"), forgetting=False), Log())
    assert (result.decision.kind, result.decision.chosen) == ("clear_winner", "sft")
    sft = result.results[1]
    assert sft.parity is not None and sft.parity.agreement >= 0.99
    assert System.load(run / "winner").digest == sft.system
    assert not (run / "rungs" / "sft" / "work").exists()


def test_the_same_climb_again_is_read_from_disk(task, options, monkeypatch):
    first, run = climb(task, options, Log())
    written = (run / "climb.json").stat().st_mtime_ns
    no_engine(monkeypatch)
    log = Log()
    second, _ = climb(task, options, log)
    assert second == first and second.openings == 1
    assert "is complete: nothing was run again" in log.text
    assert (run / "climb.json").stat().st_mtime_ns == written


def test_a_finished_climb_gets_a_winner_that_is_gone_again(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"))
    first, run = climb(task, replace(options, rungs=names), Log())
    shutil.rmtree(run / "winner")
    log = Log()
    second, _ = climb(task, replace(options, rungs=names), log)
    assert second == first and System.load(run / "winner").digest == first.results[0].system
    assert "nothing was run again" in log.text and "was gone: it is one again" in log.text
    shutil.rmtree(run / "winner")
    shutil.rmtree(run / "rungs")
    log = Log()
    third, _ = climb(task, replace(options, rungs=names), log)
    assert third == first and not (run / "winner").exists()
    assert "is gone and can't be had again" in log.text


def test_a_climb_without_its_last_file_is_put_together_from_the_answers_on_disk(task, options, monkeypatch):
    first, run = climb(task, options, Log())
    (run / "climb.json").unlink()
    no_engine(monkeypatch)
    second, _ = climb(task, options, Log())
    measured = {"seconds": 0.0, "reading_peak_mb": 0.0, "test_peak_mb": 0.0}
    assert replace(second, **measured) == replace(first, **measured)
    assert second.seconds >= first.seconds


def test_two_climbs_from_scratch_take_the_same_choices(task, options, tmp_path):
    first, _ = climb(task, options, Log())
    settled = (tmp_path / "run" / "rungs" / "prompt" / "settled.jsonl").read_bytes()
    again = tmp_path / "again" / "rungs" / "prompt"
    # The race of the engines is the clock's to decide; everything else is repeated.
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "run.json").write_bytes((tmp_path / "run" / "run.json").read_bytes())
    again.mkdir(parents=True)
    (again / "settled.jsonl").write_bytes(settled)
    second, _ = climb(task, replace(options, out=tmp_path / "again"), Log())
    assert second.results[0].system == first.results[0].system
    assert second.decision == first.decision
    assert [p.answer.value for p in second.results[0].dev.predictions] == [
        p.answer.value for p in first.results[0].dev.predictions
    ]


def test_dev_rows_bounds_the_rows_to_choose_by_and_the_rest_is_learned_from(task, options):
    result, _ = climb(task, replace(options, dev_rows=20), Log())
    assert (result.n_dev, result.n_train + result.n_dev + result.n_test) == (20, 270)
    assert result.results[0].dev is not None and result.results[0].dev.n == 20


@dataclass
class Always:
    """A rung that gives every row one label; it may fail to be built, or break when it is asked."""

    name: str
    label: str = "billing"
    fault: Exception | None = None
    breaks: bool = False

    def skip(self, context):
        return None

    def build(self, context):
        if self.fault is not None:
            raise self.fault
        engine = "llama" if self.breaks else "head"
        labels = ("billing", "two") if self.name == "billing" else ("billing", self.name)
        spec = Spec(rung=self.name, task="t", kind="label", labels=labels, engine=engine, features="tfidf")
        if self.breaks:
            spec = spec.model_copy(update={"model": context.ref})
        return Built(
            system=save(context.work / "s", spec, constant_head(self.label, spec.labels)), what="one"
        )


def with_ladder(monkeypatch, *rungs):
    monkeypatch.setattr("rung.climb.options.LADDER", rungs)
    return tuple(rung.name for rung in rungs)


def test_a_rung_that_fails_fails_alone_and_is_shown(task, options, monkeypatch):
    names = with_ladder(
        monkeypatch, Always("one"), Always("two", fault=EngineError("it died")), Always("three")
    )
    log = Log()
    result, run = climb(task, replace(options, rungs=names), log)
    assert [r.failed for r in result.results] == [None, "it died", None]
    assert "two failed: it died" in log.text
    assert result.decision.chosen == "one"
    assert not (run / "rungs" / "two" / "result.json").exists()


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")


def test_a_rung_for_which_a_gpu_has_too_little_memory_fails_alone_and_says_what_to_do(
    task, options, monkeypatch
):
    names = with_ladder(monkeypatch, Always("one"), Always("two", fault=FULL), Always("three"))
    result, run = climb(task, replace(options, rungs=names), Log())
    one, two, three = result.results
    assert one.dev is not None and three.dev is not None and two.dev is None
    for way in ("memory is used up", "qlora", "shorter rows", "a smaller model", "--rungs"):
        assert way in str(two.failed)
    assert json.loads((run / "rungs" / "two" / "failed.json").read_text()) == {"failed": two.failed}


def test_a_fault_of_rung_is_no_want_of_memory(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one", fault=RuntimeError("an illegal memory access")))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        climb(task, replace(options, rungs=names), Log())


def test_a_gpu_whose_memory_runs_out_on_the_test_leaves_a_note(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Always("two", label="two"))
    plain = evaluate.measure

    def measured(system, rows, bench, *, split, **more):
        if split == "test" and system.spec.rung == "two":
            raise FULL
        return plain(system, rows, bench, split=split, **more)

    monkeypatch.setattr(evaluate, "measure", measured)
    result, _ = climb(task, replace(options, rungs=names, test_all=True), Log())
    one, two = result.results
    assert one.test is not None and two.test is None
    assert two.notes[-1].startswith("no test score: the GPU's memory is used up")


def test_a_rung_whose_system_breaks_on_dev_fails_alone(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Always("two", breaks=True))

    def refuse(spec, till=None):
        raise EngineError("no engine starts")

    monkeypatch.setattr("rung.system.start", refuse)
    result, _ = climb(task, replace(options, rungs=names), Log())
    assert result.results[1].failed == "no engine starts" and result.results[1].dev is None
    assert result.decision.chosen == "one"


def test_a_run_folder_that_cannot_be_written_ends_the_climb_and_not_the_rung(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Always("two", fault=RunError("disk full")))
    with pytest.raises(RunError, match="disk full"):
        climb(task, replace(options, rungs=names), Log())


def test_when_no_rung_can_be_built_all_reasons_are_given(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one", fault=EngineError("it died")))
    with pytest.raises(RungError, match="no rung could be built: one: it died"):
        climb(task, replace(options, rungs=names), Log())


def test_the_test_is_opened_for_the_rungs_that_the_verdict_needs_and_counted(task, options, monkeypatch):
    names = with_ladder(
        monkeypatch, Always("one"), Always("two", label="two"), Always("three", label="three")
    )
    chosen = replace(options, rungs=names)
    result, run = climb(task, chosen, Log())
    assert [r.test is not None for r in result.results] == [True, False, False]
    assert result.openings == 1
    everything, same = climb(task, replace(chosen, test_all=True), Log())
    assert same == run
    assert [r.test is not None for r in everything.results] == [True, True, True]
    assert everything.openings == 2
    assert climb(task, replace(chosen, test_all=True), Log())[0].openings == 2
    lines = [json.loads(line) for line in (run / "test_openings.jsonl").read_text().splitlines()]
    assert [line["opening"] for line in lines] == [1, 2, 2]


def test_looks_at_the_same_test_rows_by_runs_in_one_place_add_up(task, options, monkeypatch, tmp_path):
    chosen = replace(options, rungs=with_ladder(monkeypatch, Always("one")))
    assert climb(task, chosen, Log())[0].openings == 1
    assert climb(task, replace(chosen, out=tmp_path / "again"), Log())[0].openings == 2
    assert climb(task, replace(chosen, out=tmp_path / "other" / "run"), Log())[0].openings == 1
    (tmp_path / "run" / "test_openings.jsonl").write_text("damaged\n")
    assert climb(task, replace(chosen, out=tmp_path / "third"), Log())[0].openings == 2
    assert climb(task, replace(chosen, out=tmp_path / "fourth", seed=5), Log())[0].openings == 1


def test_a_rung_that_is_taken_up_again_has_only_the_rest_of_its_share(task, options, monkeypatch):
    left = []

    class Head(Always):
        def build(self, context):
            left.append(context.seconds_left)
            return super().build(context)

    names = with_ladder(monkeypatch, Head("head"), Always("one"))
    chosen = replace(options, rungs=names, budget_s=100.0)
    _, run = climb(task, chosen, Log())
    for name in names:
        (run / "rungs" / name / "result.json").unlink()
    (run / "climb.json").unlink()
    (run / "clock.json").write_text(json.dumps({"seconds": 20.0, "building": {"head": 20.0}}))
    climb(task, chosen, Log())
    assert 30 < left[0] < 41 and left[1] < 20.1


def test_under_50_test_rows_there_are_scores_but_no_verdict_and_no_winner(tmp_path, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Always("two", label="two"))
    few = write_rows(tmp_path / "few.jsonl", label_rows(60))
    log = Log()
    result, run = climb(few, replace(options, rungs=names), log)
    assert (result.decision.kind, result.decision.chosen, result.winner) == ("no_verdict", None, None)
    assert result.results[0].test is not None
    assert "12 test rows are fewer than the 50" in result.decision.sentence
    assert "warn: 12 rows to test on: scores are shown, no verdict" in log.text
    assert not (run / "winner").exists()


def test_the_time_of_an_interrupted_climb_is_counted_on(task, options, monkeypatch):
    with_ladder(monkeypatch, Always("one"), Always("two", fault=RunError("pulled the plug")))
    chosen = replace(options, rungs=("one", "two"))
    with pytest.raises(RunError):
        climb(task, chosen, Log())
    clock = options.out / "clock.json"
    spent = json.loads(clock.read_text())["seconds"]
    assert spent > 0
    clock.write_text('{"seconds": 1000, "building": {"two": 300}}')
    with_ladder(monkeypatch, Always("one"), Always("two"))
    log = Log()
    result, _ = climb(task, chosen, log)
    assert result.seconds > 1000 and "going on with" in log.text
    assert [r.build_s > 300 for r in result.results] == [False, True]


def test_a_rungs_system_that_was_changed_afterwards_is_named_with_the_way_out(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"))
    _, run = climb(task, replace(options, rungs=names), Log())
    (run / "climb.json").unlink()
    (run / "rungs" / "one" / "system" / "head.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"was changed.*have the rung built again, remove '.*rungs/one'"):
        climb(task, replace(options, rungs=names), Log())


@pytest.mark.parametrize("name", ["climb.json", "rungs/one/result.json", "clock.json", "test_openings.jsonl"])
def test_a_damaged_file_of_a_run_is_named(name, task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"))
    _, run = climb(task, replace(options, rungs=names), Log())
    if name != "climb.json":
        (run / "climb.json").unlink()
    (run / name).write_text('{"rung": 1}\n' if name.endswith("l") else '{"rung"')
    way = "line 1: opening: Field required; .*take it out" if name.endswith("l") else "remove it"
    with pytest.raises(RunError, match=f"{name}.*{way} and run the same command again"):
        climb(task, replace(options, rungs=names, test_all=name == "climb.json"), Log())


def test_rows_on_which_the_rungs_differ_are_dev_rows(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Always("two", label="two"))
    result, _ = climb(task, replace(options, rungs=names), Log())
    assert 0 < len(result.disagreements) <= 30
    assert all([name for name, _, _ in row.answers] == ["one", "two"] for row in result.disagreements)
    assert all(row.target == "billing" for row in result.disagreements)


@pytest.mark.parametrize("rows", [json_rows, text_rows, call_rows])
def test_other_kinds_of_output_climb_too(rows, options, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", rows(60))
    result, _ = climb(data, options, Log())
    found = result.results[0]
    assert found.failed is None and found.dev is not None and found.dev.failures == 0
    assert result.kind == {json_rows: "json", text_rows: "text", call_rows: "tool_call"}[rows]


def test_the_ladder_of_a_climb_is_the_one_ladder():
    from rung.climb import options as module

    assert module.LADDER is LADDER


def test_two_climbs_at_once_in_one_folder_are_kept_apart(task, options, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from rung.runs import held\n"
        "with held(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(options.out)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None and child.stdout.readline() == b"in\n"
    with pytest.raises(RunError, match="another climb is at work"):
        climb(task, options, Log())
    child.kill()
    child.wait()
    child.stdout.close()
