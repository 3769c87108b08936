"""What a README has others run and send: the room, the schema and the choices that were measured."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rung.asking import candidates
from rung.engines.schema import accepts, tight
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from rung.records import Example
from rung.ship.card import _limits
from rung.ship.subject import Subject, load_subject
from rung.ship.targets import Target, modelfile, write_peft
from rung.ship.usage import usage, vllm_command
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, ref_to, save
from tests.fixtures_ship import LABELS, make_gguf, make_tuned

GATE: Any = SimpleNamespace(way="as_served")
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
    "required": ["a"],
}
HOSTILE = {"do_sample": True, "temperature": 50.0, "top_k": 0, "repetition_penalty": 9.0, "eos_token_id": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("requests")


@pytest.fixture(scope="module")
def gguf(folder) -> Path:
    return make_gguf(folder / "model.gguf")


@pytest.fixture(scope="module")
def plain(folder) -> Path:
    """A base without a chat template."""
    return make_gguf(folder / "plain.gguf", template=None)


def subject(gguf: Path, folder: Path, context: int | None = None, **changes) -> Subject:
    """A System that a prompt made; `context` is what its model was trained for, in tokens."""
    fields = {
        "rung": "prompt",
        "task": "topics",
        "kind": "json",
        "schema_": SCHEMA,
        "engine": "llama",
        "model": ref_to(resolve(str(gguf)), str(gguf)),
        "instruction": "Extract.",
        "answer": AnswerSpec(form="schema", max_tokens=100),
        **changes,
    }
    pool = Pool()
    if context is not None:
        model = replace(resolve(str(gguf)), context=context)
        pool.models[model.digest] = model
    return load_subject(save(folder, Spec(**fields), {}), pool)


def commands(found: Subject, target) -> list[list[str]]:
    """The words of each command in the README's first block."""
    text = "\n".join(usage(found, target, "bf16", GATE))
    return [shlex.split(line) for line in text.split("```sh\n")[1].split("```")[0].splitlines()]


def body(found: Subject, target) -> dict:
    """What the README sends to the server."""
    *_, sent = commands(found, target)
    return json.loads(sent[-1])


def schema_of(sent: dict) -> dict:
    return sent["format"] if "format" in sent else sent["response_format"]["json_schema"]["schema"]


@pytest.mark.parametrize("tokens", [256, 4096])
def test_an_export_has_the_context_that_its_system_was_scored_with(gguf, tmp_path, tokens):
    found = subject(gguf, tmp_path / "system", 8192, context_tokens=tokens)
    assert f"PARAMETER num_ctx {tokens}\n" in modelfile(found, "x.gguf").text
    assert f"--max-model-len {tokens} " in vllm_command(found, "bf16")
    server, _ = commands(found, "gguf")
    assert server[server.index("-c") + 1] == str(tokens)
    assert f"room for {tokens:,} tokens" in "\n".join(_limits(found, "gguf", "bf16", GATE, None))
    usual = subject(gguf, tmp_path / "usual", 8192)
    assert "--max-model-len 2048 " in vllm_command(usual, "bf16")


@pytest.mark.parametrize("target", ["gguf", "ollama", "vllm"])
def test_json_is_held_to_the_closed_schema_that_was_measured(gguf, tmp_path, target):
    found = subject(gguf, tmp_path / "system")
    sent = schema_of(body(found, target))
    assert {**sent, "x-guidance": {"whitespace_flexible": False}} == tight(SCHEMA)
    assert accepts(SCHEMA, '{"a":"x","c":1}') and not accepts(sent, '{"a":"x","c":1}')
    page = "\n".join(usage(found, "merged", "bf16", GATE))
    assert '"additionalProperties": false' in page and "compact JSON" in page


def test_vllm_is_told_to_write_compact_json_and_needs_no_more_tokens_than_the_system(gguf, tmp_path):
    found = subject(gguf, tmp_path / "system")
    server, _ = commands(found, "vllm")
    told = json.loads(server[server.index("--structured-outputs-config") + 1])
    assert told == {"backend": "guidance", "disable_any_whitespace": True}
    assert body(found, "vllm")["max_tokens"] == 100
    free = subject(gguf, tmp_path / "free", kind="text", schema_=None, answer=AnswerSpec(form="free"))
    assert "--structured-outputs-config" not in vllm_command(free, "bf16")


def test_servers_that_let_json_have_white_space_get_twice_the_tokens_and_the_limits_say_so(gguf, tmp_path):
    found = subject(gguf, tmp_path / "system")
    free = subject(
        gguf, tmp_path / "free", kind="text", schema_=None, answer=AnswerSpec(form="free", max_tokens=100)
    )
    assert body(found, "gguf")["max_tokens"] == 200 and body(free, "gguf")["max_tokens"] == 100
    assert "PARAMETER num_predict 200\n" in modelfile(found, "x.gguf").text
    assert "PARAMETER num_predict 100\n" in modelfile(free, "x.gguf").text
    cases: list[tuple[Target, Subject, bool]] = [
        ("gguf", found, True),
        ("ollama", found, True),
        ("vllm", found, False),
        ("gguf", free, False),
    ]
    for target, one, is_said in cases:
        said = "\n".join(_limits(one, target, "bf16", GATE, None))
        assert ("2 times the 100 tokens" in said) == is_said


def test_no_text_that_white_space_may_hold_ends_json(plain, tmp_path):
    found = subject(plain, tmp_path / "system")
    free = subject(plain, tmp_path / "free", kind="text", schema_=None, answer=AnswerSpec(form="free"))
    (stop, *_) = free.chat.stop_strings("chat")
    assert stop == "\n\n" and f'PARAMETER stop """{stop}"""' in modelfile(free, "x.gguf").text
    assert stop not in modelfile(found, "x.gguf").text.split("PARAMETER", 1)[1]


def test_vllm_chooses_among_the_very_tokens_that_were_scored_also_after_a_plain_prompt(plain, gguf, tmp_path):
    changes = {"kind": "label", "labels": LABELS, "schema_": None, "answer": AnswerSpec(form="words")}
    for base, lead in ((plain, " "), (gguf, "")):
        found = subject(base, tmp_path / base.stem, **changes)
        choices = body(found, "vllm")["structured_outputs"]["choice"]
        assert choices == [lead + label for label in LABELS]
        tokens = found.chat.tokens
        scored = [option[:-1] for option in candidates(found.spec, found.chat)]
        assert [tuple(tokens.encode(text, special=False)) for text in choices] == scored
        page = "\n".join(usage(found, "vllm", "bf16", GATE))
        assert ("take it off" in page) == (lead == " ")


def test_llama_cpps_server_is_told_to_run_the_template_in_the_file(gguf, tmp_path):
    server, _ = commands(subject(gguf, tmp_path / "system"), "gguf")
    assert server[0] == "llama-server" and "--jinja" in server


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_code_beside_an_adapter_answers_as_the_system_whatever_the_bases_own_settings(
    gguf, folder, tmp_path, monkeypatch, capsys
):
    """A base's `generation_config.json` may sample, weigh down what was said, and end elsewhere."""
    base = tmp_path / "base"
    shutil.copytree(dequantised(resolve(str(gguf))), base)
    (base / "generation_config.json").write_text(json.dumps(HOSTILE))
    made = make_tuned(gguf, folder / "tuned", form="free", kind="text", labels=())
    model = resolve(str(base))
    spec = made.spec.model_copy(update={"model": ref_to(model, str(base))})
    system = save(tmp_path / "system", spec, {name: made.folder / name for name in made.spec.files})
    with Pool() as pool:
        found = load_subject(system, pool)
        (wanted,) = system.answer([Example(id="1", input="The text to answer", output=None)], pool)
    (tmp_path / "out").mkdir()
    write_peft(found, tmp_path / "out", "adapter")
    page = "\n".join(usage(found, "peft", "adapter", GATE))
    code = page.split("```python\n")[1].split("```")[0]
    assert f"eos_token_id={list(found.chat.stop_ids)}" in code
    monkeypatch.chdir(tmp_path / "out")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == wanted.text.strip() != ""
    said = _limits(found, "peft", "adapter", GATE, None)
    (line,) = [line for line in said if "folder on the machine that exported it" in line]
    assert line.startswith("- `adapter_config.json` and the code above name the base's folder")
    assert "change it before you pass this on" in line
