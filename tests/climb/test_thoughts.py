"""Models whose templates open every answer with a thought: a climb says that it is closed."""

from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.climb.steps import bases
from rung.models.chat import THOUGHT_CLOSED
from tests.fixtures_climb import OPEN, Log, label_rows, make_tiny_gguf, write_rows


def test_a_model_whose_thoughts_are_closed_is_said_to_be_one(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", label_rows(60))
    thinking = make_tiny_gguf(tmp_path / "thinking.gguf", template=OPEN)
    usual = make_tiny_gguf(tmp_path / "usual.gguf")
    lines = []
    for model in (thinking, usual):
        log = Log()
        (found,) = bases(prepare(rows, Options(models=(str(model),))).task, log)
        lines.append((found.label, log.lines))
    assert lines == [("thinking", [f"thinking: {THOUGHT_CLOSED}"]), ("usual", [])]
