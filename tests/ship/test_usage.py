"""What a README says of use: of labels, schemas and names that try to be more than text, and of answers."""

import json
import shlex
from types import SimpleNamespace
from typing import cast

import pytest

from rung.models.chat import load_chat
from rung.models.resolve import resolve
from rung.ship.parity import Gate
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


def page(found, target, way: str = "as_served") -> str:
    """What the README of an export says of its use."""
    return "\n".join(usage(found, target, "bf16", cast(Gate, SimpleNamespace(way=way))))


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
    found = subject(gguf, tmp_path / "system")
    for target in ("ollama", "vllm", "gguf", "merged"):
        lines = page(found, target).splitlines()
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


SERVERS = ("ollama", "vllm", "gguf", "merged")


def of_labels(gguf, folder, *labels: str):
    return subject(gguf, folder, kind="label", labels=labels, schema_=None, answer=AnswerSpec(form="words"))


@pytest.mark.parametrize("target", SERVERS)
def test_what_is_written_for_a_label_in_words_is_listed_beside_the_label(gguf, tmp_path, target):
    found = of_labels(gguf, tmp_path / "s", "card_arrival", "tax")
    said = page(found, target)
    assert "| written | label |" in said and "one token" not in said
    assert "| `card arrival` | `card_arrival` |\n| `tax` | `tax` |" in said
    assert "| written | label |" not in page(of_labels(gguf, tmp_path / "plain", "card", "tax"), target)


def test_a_label_that_is_written_freely_is_said_to_be_read_in_the_text_and_one_of_a_list_is_not(
    gguf, tmp_path
):
    found = of_labels(gguf, tmp_path / "s", "card_arrival", "tax")
    told = "or else the only one that it mentions"
    assert told in page(found, "ollama", "written") and told not in page(found, "ollama", "listed")


@pytest.mark.parametrize("target", SERVERS)
def test_what_was_scored_of_free_text_is_said(gguf, tmp_path, target):
    free = AnswerSpec(form="free")
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}

    def said(kind, **changes) -> str:
        return page(subject(gguf, tmp_path / f"{kind}{len(changes)}", kind=kind, **changes), target)

    number = said("number", schema_={"type": "number"}, answer=free)
    assert "behind its last `####`, or else the last number in it" in number and "schema" not in number
    assert "of a rating such as 4/5 or 4 out of 5 that is the first of the two" in number
    text = said("json", schema_=schema, answer=free)
    assert "the first object or list in it that fits this schema:" in text
    (told,) = [block for block in text.split("```")[1::2] if block.startswith("json\n")]
    assert json.loads(told.removeprefix("json")) == schema
    assert "or list in it." in said("json", schema_=None, answer=free, labels=())
    held, words = said("json", schema_=schema), said("text", schema_=None, answer=free)
    assert "free text" not in held and "free text" not in words
