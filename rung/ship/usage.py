"""How an export is used, in words and commands for its README: what differs from target to target."""

import json
import shlex
from collections.abc import Sequence
from typing import Any, Final

from rung.asking import context_of
from rung.models.chat import Chat
from rung.ship.parity import Gate
from rung.ship.subject import Subject
from rung.ship.targets import ADAPTER, ADAPTER_FOLDER, BASE, MODEL_FOLDER, MODELFILE, Target, gguf_name
from rung.ship.ways import answer_tokens, choices, closed_schema, enum_schema, label_names, roomy_tokens
from rung.spec import Spec
from rung.system import ADAPTER_GGUF

SAMPLE: Final = "The text to answer"
LLAMA_BIAS: Final = 1000
"""Added to the logits of the labels' codes, it leaves no other token a chance and their order as it is."""
COMPACT: Final = '{"backend": "guidance", "disable_any_whitespace": true}'
"""vLLM holds JSON as the torch engine does: by llguidance, without white space."""


def usage(subject: Subject, target: Target, kind: str, gate: Gate) -> list[str]:
    """The lines of the README's section on use."""
    lines = {
        "peft": _peft,
        "merged": _merged,
        "gguf": _gguf,
        "ollama": _ollama,
        "vllm": _vllm,
        "hub-folder": _peft if kind == ADAPTER else _merged,
    }[target](subject, kind, gate)
    return [*lines, "", *_asking(subject), *_scored_as(subject, gate)]


def vllm_command(subject: Subject, kind: str) -> str:
    """The command that serves the folder, to be run in it."""
    from rung.engines.lora import read_config

    words = ["vllm", "serve", f"./{MODEL_FOLDER}", "--served-model-name", subject.name]
    if kind == ADAPTER:
        assert subject.adapter is not None, "only tuned Systems have an adapter"
        rank = read_config(subject.adapter)["r"]
        words[-1] = f"{subject.name}-base"
        words += ["--enable-lora", "--max-lora-rank", str(_vllm_rank(int(rank)))]
        words += ["--lora-modules", f"{subject.name}=./{ADAPTER_FOLDER}"]
    words += ["--max-model-len", str(context_of(subject.model))]
    words += ["--chat-template", f"./{MODEL_FOLDER}/chat_template.jinja"]
    words += ["--override-generation-config", '{"temperature": 0}']
    if subject.spec.answer.form == "schema":
        words += ["--structured-outputs-config", COMPACT]
    return shlex.join(words) + "\n"


def label_grammar(spec: Spec, chat: Chat) -> str:
    """The labels as a GBNF grammar, with the blank before them that some prompts leave to the answer."""
    names = " | ".join(json.dumps(name, ensure_ascii=False) for name in label_names(spec, chat))
    return f'root ::= " "? ({names})'


def _vllm_rank(rank: int) -> int:
    """The least of the ranks that vLLM has room for which holds this one."""
    return next((most for most in (1, 8, 16, 32, 64, 128, 256, 320, 512) if rank <= most), rank)


def _asking(subject: Subject) -> list[str]:
    """What the caller sends."""
    return [
        "Send one user turn with the text; where a row has a context, the context, an empty line and then "
        "the text. Take blanks off its ends. Text that spells a control token, such as the end of a turn, "
        "is read as one by these servers; rung reads it as text.",
    ]


def _scored_as(subject: Subject, gate: Gate) -> list[str]:
    """What was scored of answers in free text."""
    spec = subject.spec
    if spec.answer.form == "words" and gate.way == "written":
        return [
            "",
            "What the gate scored is the label that the text is, whatever its case and be it with blanks or "
            "underscores, or else the only one that it mentions.",
        ]
    if spec.answer.form != "free" or spec.kind not in ("number", "json"):
        return []
    said = "Answers are free text. What was scored of each is "
    if spec.kind == "number":
        return [
            "",
            f"{said}the first number behind its last `####`, or else the last number in it; of a rating such "
            "as 4/5 or 4 out of 5 that is the first of the two. A cut one has none.",
        ]
    said += "the JSON that it is, or else the first object or list in it"
    if spec.schema_ is None:
        return ["", f"{said}."]
    return ["", f"{said} that fits this schema:", *_json(spec.schema_)]


def _labels_table(subject: Subject) -> list[str]:
    """What the model writes for each label, unless that is always the label itself."""
    form = subject.spec.answer.form
    names = label_names(subject.spec, subject.chat) if form in ("codes", "words") else {}
    if form != "codes" and all(name == label for name, label in names.items()):
        return []
    said = "The model answers with one token, which" if form == "codes" else "What the model answers"
    return [
        "",
        f"{said} stands for a label:",
        "",
        "| written | label |",
        "|---|---|",
        *(f"| {code_text(name)} | {code_text(label)} |" for name, label in names.items()),
    ]


def _reading(subject: Subject) -> list[str]:
    """How an answer is read that a library's `generate` wrote."""
    spec = subject.spec
    if spec.answer.form == "codes":
        ids = json.dumps(list(spec.answer.codes))
        return [
            "",
            f"The System takes the likeliest of its labels' tokens {code_text(ids)} (in the order of the "
            "table): compare their logits after the prompt. Written freely, the first token is nearly "
            "always one of them.",
            *_labels_table(subject),
        ]
    if spec.answer.form == "words":
        said = "The System takes the likeliest of its labels, however long they are"
        if table := _labels_table(subject):
            return ["", f"{said}.", *table]
        return ["", f"{said}: {code_text(', '.join(spec.labels))}."]
    if spec.answer.form == "schema":
        said = "The System's answers are compact JSON, without white space, decoded under this schema:"
        return ["", said, *_json(closed_schema(spec))]
    return []


def _peft(subject: Subject, kind: str, gate: Gate) -> list[str]:
    base = code_text(subject.model.name)
    return [
        f"An adapter for the weights of {base}, de-quantised, with the SHA-256 "
        f"{subject.model.digest[:16]}…; what `adapter_config.json` names is where the model comes from. On "
        "other weights of it the answers differ somewhat, and were not measured. rung makes the very "
        "weights:",
        "",
        "```python",
        "from pathlib import Path",
        "",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        "from rung.models.resolve import resolve",
        "from rung.models.weights import dequantised",
        "",
        f"base = dequantised(resolve({json.dumps(subject.source)}))",
        'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ".")',
        "tokenizer = AutoTokenizer.from_pretrained(base)",
        'tokenizer.chat_template = Path("chat_template.jinja").read_text(encoding="utf-8")',
        *_generate(subject, own_settings=False),
        "```",
        *_reading(subject),
    ]


def _merged(subject: Subject, kind: str, gate: Gate) -> list[str]:
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        *_generate(subject, own_settings=True),
        "```",
        *_reading(subject),
    ]


def _generate(subject: Subject, *, own_settings: bool) -> list[str]:
    """The lines that ask the model. Without settings of its own it would have those of the base's folder."""
    most = answer_tokens(subject.spec, subject.chat)
    asked = [f"written = model.generate(**prompt, max_new_tokens={most})"]
    if not own_settings:
        ends = json.dumps(list(subject.chat.stop_ids))
        asked = [
            "written = model.generate(",
            f"    **prompt, max_new_tokens={most}, eos_token_id={ends},",
            "    do_sample=False, repetition_penalty=1.0,",
            ")",
        ]
    return [
        f'turns = [{{"role": "user", "content": "{SAMPLE}"}}]',
        "prompt = tokenizer.apply_chat_template(",
        '    turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
        *asked,
        'print(tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]


def _gguf(subject: Subject, kind: str, gate: Gate) -> list[str]:
    spec = subject.spec
    body: dict[str, Any] = {"max_tokens": roomy_tokens(spec, subject.chat), "temperature": 0}
    if spec.answer.form == "codes":
        body["logit_bias"] = {str(code): LLAMA_BIAS for code in spec.answer.codes}
    elif spec.answer.form == "schema":
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": closed_schema(spec)}}
    elif spec.answer.form == "words":
        body["grammar"] = label_grammar(subject.spec, subject.chat)
    files = ["-m", gguf_name(subject, BASE), "--lora", ADAPTER_GGUF]
    if kind != ADAPTER:
        files = ["-m", gguf_name(subject, kind)]
    said = [
        "The file holds its prompt as its chat template, so that llama.cpp's server needs nothing else:",
        "",
        "```sh",
        shlex.join(["llama-server", *files, "--jinja", "-c", str(context_of(subject.model))]),
        _curl("http://127.0.0.1:8080/v1/chat/completions", body),
        "```",
        *_labels_table(subject),
        "",
        "Of a conversation the user's last text is answered by itself. Send no system turn: llama.cpp would "
        "put its text before the user's first.",
    ]
    if spec.answer.form == "words":
        said += [
            "",
            "The grammar holds the answer to the labels, token by token; rung, and the proof below, take the "
            "likeliest label.",
        ]
    return said


def _ollama(subject: Subject, kind: str, gate: Gate) -> list[str]:
    spec, name = subject.spec, subject.name
    body: dict[str, Any] = {"model": name, "stream": False}
    if gate.way == "listed":
        body["format"] = enum_schema(spec, subject.chat)
    elif spec.answer.form == "schema":
        body["format"] = closed_schema(spec)
    said = [
        "```sh",
        shlex.join(["ollama", "create", name, "-f", MODELFILE]),
        _curl("http://127.0.0.1:11434/api/chat", body),
        "```",
    ]
    if spec.answer.form in ("codes", "words"):
        how = (
            "writes the label as a JSON string, held to the list of them by `format`"
            if gate.way == "listed"
            else "writes the answer freely, at temperature 0; it may be no label"
        )
        said += [
            "",
            "The System scores its labels and takes the likeliest. Ollama has no call for that, so here the "
            f"model {how}. The gate below measured this form. It tells no probability.",
            *_labels_table(subject),
        ]
    said += [
        "",
        "Each text is answered by itself, whatever stands before it in a conversation. Ollama itself was "
        "not run: the weights were asked through llama.cpp, with the prompts that the Modelfile's template "
        "gives.",
    ]
    return said


def _vllm(subject: Subject, kind: str, gate: Gate) -> list[str]:
    spec = subject.spec
    body: dict[str, Any] = {
        "model": subject.name,
        "max_tokens": answer_tokens(spec, subject.chat),
        "temperature": 0,
    }
    if spec.answer.form == "codes":
        body["allowed_token_ids"] = list(spec.answer.codes)
    elif spec.answer.form == "words":
        body["structured_outputs"] = {"choice": choices(spec, subject.chat)}
    elif spec.answer.form == "schema":
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": closed_schema(spec)},
        }
    elif stops := subject.chat.stop_strings(spec.style):
        body["stop"] = list(stops)
    return [
        "In this folder (the command is in `serve.sh` too):",
        "",
        "```sh",
        vllm_command(subject, kind).strip(),
        _curl("http://127.0.0.1:8000/v1/chat/completions", body),
        "```",
        *_labels_table(subject),
        *_vllm_answer(subject),
        "",
        "vLLM itself was not run: the weights were asked through transformers, with the prompts that the "
        "chat template gives.",
    ]


def _vllm_answer(subject: Subject) -> list[str]:
    """How an answer differs from one of the System, if it does."""
    spec = subject.spec
    if spec.answer.form == "words" and any(name.startswith(" ") for name in choices(spec, subject.chat)):
        return [
            "",
            "Each choice begins with a blank, as what was scored does, since the prompt ends without one: "
            "take it off the answer.",
        ]
    if spec.answer.form == "schema":
        return [
            "",
            "`--structured-outputs-config` keeps white space out of the JSON, as the System does: an "
            "answer's tokens might not do for both.",
        ]
    return []


def _curl(url: str, body: dict[str, Any]) -> str:
    whole = {**body, "messages": [{"role": "user", "content": SAMPLE}]}
    data = json.dumps(whole, ensure_ascii=False)
    return shlex.join(["curl", url, "-H", "Content-Type: application/json", "-d", _fenced(data)])


def _json(value: object) -> Sequence[str]:
    return ["", "```json", _fenced(json.dumps(value, indent=1, ensure_ascii=False)), "```"]


def _fenced(text: str) -> str:
    """JSON that doesn't end the block of Markdown that it stands in."""
    return text.replace("```", "\\u0060\\u0060\\u0060")


def code_text(text: str) -> str:
    """Foreign text as code in Markdown, on one line, also in a table."""
    plain = "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|").replace("`", "'")
    return f"`{plain}`" if plain.strip() else "(blank)"
