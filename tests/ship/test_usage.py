"""What a README says of foreign text: labels, schemas and names that try to be more than text."""

import shlex

import pytest

from rung.models.chat import load_chat
from rung.models.resolve import resolve
from rung.ship.subject import load_subject
from rung.ship.targets import modelfile
from rung.ship.usage import code_text, label_grammar, usage, vllm_command
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, ref_to, save
from tests.fixtures_ship import make_gguf


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a|b", "`a\\|b`"), ("a\nb", "`a b`"), ("`x`", "`'x'`"), (" ", "(blank)"), ("<b>", "`<b>`")],
)
def test_foreign_text_is_code_on_one_line(text, shown):
    assert code_text(text) == shown


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return make_gguf(tmp_path_factory.mktemp("usage") / "model.gguf")


def subject(gguf, folder, **changes):
    fields = {
        "rung": "prompt",
        "task": "../../x; rm -rf ~",
        "kind": "json",
        "schema_": {"type": "object", "title": "```\n# no heading"},
        "engine": "llama",
        "model": ref_to(resolve(str(gguf)), str(gguf)),
        "instruction": "Extract.",
        "answer": AnswerSpec(form="schema"),
        **changes,
    }
    return load_subject(save(folder, Spec(**fields), {}), Pool())


def test_a_tasks_name_is_fit_for_files_and_commands(gguf, tmp_path):
    found = subject(gguf, tmp_path / "system")
    assert found.name == "x-rm--rf"
    assert shlex.split(vllm_command(found, "bf16"))[:5] == [
        "vllm",
        "serve",
        "./model",
        "--served-model-name",
        "x-rm--rf",
    ]


def test_a_schema_ends_no_block_of_the_readme(gguf, tmp_path):
    from types import SimpleNamespace

    found = subject(gguf, tmp_path / "system")
    for target in ("ollama", "vllm", "gguf", "merged"):
        lines = "\n".join(usage(found, target, "bf16", SimpleNamespace(way="as_served"))).splitlines()
        fences = [line for line in lines if line.startswith("```")]
        assert len(fences) % 2 == 0 and not any(
            "no heading" in line and line.startswith("#") for line in lines
        )


def test_a_label_with_quotes_is_one_word_of_the_grammar(gguf, tmp_path):
    labels = ('say "hi"', "b")
    found = subject(
        gguf, tmp_path / "s", kind="label", labels=labels, schema_=None, answer=AnswerSpec(form="words")
    )
    assert label_grammar(found.spec, load_chat(found.model)) == 'root ::= " "? ("say \\"hi\\"" | "b")'


def test_the_licence_of_an_unknown_model_is_told_in_its_own_words_and_no_more(gguf, tmp_path):
    from dataclasses import replace

    found = subject(gguf, tmp_path / "system")
    assert (
        modelfile(found, "x.gguf").licence
        == "The base model's licence: mit. Read it before you pass this on."
    )
    other = replace(found, model=replace(found.model, licence='x"""\nFROM evil'))
    assert (
        "FROM ./x.gguf" in modelfile(other, "x.gguf").text
        and "\nFROM evil" not in modelfile(other, "x.gguf").text
    )
