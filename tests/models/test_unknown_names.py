"""Names that no model has: what is said of them, and by which commands."""

from pathlib import Path

import pytest

from rung.cli.main import run
from rung.errors import ModelError
from rung.models.resolve import at_hand, resolve
from tests.fixtures_climb import label_rows, write_rows

HOSTED = "or a hosted model as 'openai:NAME' or 'anthropic:NAME'"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("gpt-5-mini", "openai:gpt-5-mini"),
        ("GPT-4o", "openai:GPT-4o"),
        ("o1", "openai:o1"),
        ("o3-mini", "openai:o3-mini"),
        ("o4-mini", "openai:o4-mini"),
        ("claude-haiku-4-5", "anthropic:claude-haiku-4-5"),
    ],
)
def test_a_name_like_a_hosted_models_is_answered_with_how_that_is_written_first(
    name: str, written: str
) -> None:
    with pytest.raises(ModelError) as refused:
        resolve(name)
    assert str(refused.value).startswith(f"no model {name!r}: a hosted one is written {written!r}. Here ")


@pytest.mark.parametrize("name", ["nosuch", "o3x", "gpt2", "gpt-oss-20b", "weights/here.gguf"])
def test_every_other_name_is_told_the_forms_of_hosted_ones_at_the_end(name: str) -> None:
    with pytest.raises(ModelError, match="there's no such file or folder") as refused:
        resolve(name)
    assert str(refused.value).startswith(f"no model {name!r}: there's no")
    assert str(refused.value).endswith(HOSTED)


@pytest.mark.parametrize("name", ["nosuch", "smolm2-135m"])
def test_a_word_that_names_no_model_is_unknown_rather_than_not_here(name: str) -> None:
    with pytest.raises(ModelError, match=f"^no model '{name}': "):
        at_hand(name)


@pytest.mark.parametrize("name", ["none.gguf", "models/none", "openai:gpt-5-mini", "http://localhost:1/v1"])
def test_a_file_that_is_elsewhere_and_a_hosted_model_are_not_here(name: str) -> None:
    assert at_hand(name) is None


def test_a_check_refuses_an_unknown_model_as_a_climb_does(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(Path("rows.jsonl"), label_rows(60))
    said = set[str]()
    for command in ("check", "climb"):
        assert run([command, "rows.jsonl", "--models", "nosuch"]) == 2
        said.add(capsys.readouterr().err.rstrip("\n").split("\n")[-1])
    (line,) = said
    assert line.startswith("error: no model 'nosuch': ")
