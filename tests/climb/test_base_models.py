"""Base models where texts are to sound like an author: advised, and asked and tuned without a template."""

import json
from dataclasses import replace

import pytest

from rung.asking import prompts_for
from rung.checks.examine import examined, report_of
from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.rungs.few_shot import few_shot_instruction
from rung.rungs.instructions import answer_spec, spec_for
from rung.rungs.rendered import rendered
from rung.rungs.sft import answer_forms
from rung.wording import Shot, question
from tests.fixtures_climb import make_tiny_gguf, opened, text_rows, write_rows


def styled(folder, models=(), metric="style"):
    write_rows(folder / "rows.jsonl", text_rows(60))
    lines = ["data: {train: rows.jsonl}", "output: {kind: text}", f"metric: {metric}"]
    lines += [f"models: {json.dumps(list(models))}"] if models else []
    (folder / "task.yaml").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("models", "metric", "advised"),
    [
        ((), "style", True),
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
    prepared = prepare(styled(tmp_path), Options())
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
