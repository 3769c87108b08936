"""What an export may be: its types, the files of each, and how it is loaded again to be proved."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from rung.asking import context_of
from rung.engines.base import Engine, EngineSpec
from rung.errors import ModelError, TaskError
from rung.models.chat import Message
from rung.models.weight_types import BLOCKS, MIXED, PLAIN
from rung.ship import go_template
from rung.ship.merged import TEMPLATE_FILE, FloatType, write_merged_folder
from rung.ship.modelfile import Modelfile
from rung.ship.parity import Loaded
from rung.ship.quantising import write_gguf, write_pair
from rung.ship.subject import Subject
from rung.ship.ways import WayName, label_names, roomy_tokens
from rung.system import ADAPTER_GGUF
from rung.training.lora_delta import deltas_by_module

Tokens: TypeAlias = tuple[int, ...]
Target = Literal["peft", "merged", "gguf", "ollama", "vllm", "hub-folder"]
Build: TypeAlias = Callable[[Subject, Path, str], Loaded]

ADAPTER, BASE = "adapter", "base"
"""Types beside those of weights: the adapter alone; the base's weights as they are."""
GGUF_TYPES: Final = (
    "q8_0",
    *(found.name for found in PLAIN),
    *(f.name for f in BLOCKS if f.name != "q8_0"),
    *MIXED,
)
FLOATS: Final = get_args(FloatType)
MODEL_FOLDER, ADAPTER_FOLDER = "model", "adapter"
MODELFILE = "Modelfile"
PLAIN_LORA: Final = (
    *("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "inference_mode"),
    *("bias", "use_rslora", "use_dora", "fan_in_fan_out"),
)
"""All that PEFT needs to be told: other settings of an adapter's file could name code."""
PREFIX: Final = (
    *("peft_type", "task_type", "num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers"),
    *("num_transformer_submodules", "encoder_hidden_size", "prefix_projection", "inference_mode"),
)
OLLAMA_WAYS: Final[Mapping[str, tuple[WayName, ...]]] = {
    "codes": ("written",),
    "words": ("written", "listed"),
}
"""Ollama has no call that scores labels."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A target: its types, the usual one first, and what makes its files in a folder.

    `prompted`: what a System without weights of its own can be exported as, too.
    """

    types: tuple[str, ...]
    build: Build
    prompted: bool = False


def write_peft(subject: Subject, out: Path, kind: str) -> Loaded:
    """The adapter as PEFT reads it, naming a base that can be loaded, and the prompt as a chat template."""
    from rung.engines.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_config
    from rung.engines.prefix import kind_and_config

    adapter = subject.adapter
    assert adapter is not None, "only tuned Systems have an adapter"
    if subject.system.adapter_form == "prefix":
        kept, given = PREFIX, kind_and_config(adapter)[1]
    else:
        kept, given = PLAIN_LORA, read_config(adapter)
    config = {key: given[key] for key in kept if key in given}
    config["base_model_name_or_path"] = subject.loadable_id or str(subject.weights)
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)
    (out / TEMPLATE_FILE).write_text(subject.frame.jinja, encoding="utf-8")
    return Loaded(
        engine=EngineSpec(
            engine="torch", weights=subject.weights, adapter=out, context=context_of(subject.model)
        ),
        prompts=_templated(subject.weights, subject.frame.jinja),
    )


def write_merged(subject: Subject, out: Path, kind: str) -> Loaded:
    """The merged weights as a transformers folder; the base's own where there is no adapter."""
    write_merged_folder(
        subject.weights,
        deltas_by_module(subject.adapter) if subject.adapter is not None else {},
        out,
        kind="f32" if kind == "f32" else "bf16",
        template=subject.frame.jinja,
        stop_ids=subject.chat.stop_ids,
    )
    return Loaded(
        engine=EngineSpec(engine="torch", weights=out, context=context_of(subject.model)),
        prompts=_templated(out, subject.frame.jinja),
    )


def write_hub_folder(subject: Subject, out: Path, kind: str) -> Loaded:
    """Merged weights, or the adapter alone."""
    if kind != ADAPTER:
        return write_merged(subject, out, kind)
    if subject.loadable_id is None:
        raise TaskError(
            f"the base model {subject.model.name!r} has no hub id by which its weights are loaded; use "
            "--type bf16"
        )
    return write_peft(subject, out, kind)


def write_vllm(subject: Subject, out: Path, kind: str) -> Loaded:
    """A model folder with the prompt as its template, and the adapter beside it where it isn't merged."""
    model = out / MODEL_FOLDER
    model.mkdir()
    ways: tuple[WayName, ...] = ("guided",) if subject.spec.answer.form == "words" else ("as_served",)
    if kind != ADAPTER:
        loaded = write_merged(subject, model, kind)
        return Loaded(engine=loaded.engine, prompts=loaded.prompts, ways=ways)
    adapter = out / ADAPTER_FOLDER
    adapter.mkdir()
    write_peft(subject, adapter, kind)
    write_merged_folder(
        subject.weights,
        {},
        model,
        kind="bf16",
        template=subject.frame.jinja,
        stop_ids=subject.chat.stop_ids,
    )
    engine = EngineSpec(engine="torch", weights=model, adapter=adapter, context=context_of(subject.model))
    return Loaded(engine=engine, prompts=_templated(model, subject.frame.jinja), ways=ways)


def write_gguf_folder(subject: Subject, out: Path, kind: str) -> Loaded:
    """One merged GGUF file that holds the prompt as its chat template; or the base's and the adapter."""
    file, adapter = out / gguf_name(subject, kind), None
    if kind == ADAPTER:
        file, adapter = out / gguf_name(subject, BASE), out / ADAPTER_GGUF
        write_pair(subject, file, adapter)
    else:
        write_gguf(subject, file, kind)
    return Loaded(engine=_llama(subject, file, adapter), prompts=_templated_by_llama(subject))


def write_ollama(subject: Subject, out: Path, kind: str) -> Loaded:
    """A merged GGUF, or the base's own, and a Modelfile.

    Not the base with an adapter: Ollama's own engine, which runs Gemma 3 among others, loads no LoRA.
    """
    form = subject.spec.answer.form
    if form in OLLAMA_WAYS and not readable(subject):
        raise TaskError(
            "the tokens of two labels can't be told apart as text, which Ollama gives; use --to vllm"
        )
    file = out / gguf_name(subject, kind)
    if kind != BASE:
        write_gguf(subject, file, kind)
    elif (base := subject.base_gguf) is not None:
        shutil.copyfile(base, file)
    else:
        raise ModelError(
            f"the base model {subject.model.name!r} is a folder of safetensors and Ollama takes a GGUF: "
            "convert it with llama.cpp's convert_hf_to_gguf.py and climb on that, or export --to vllm"
        )
    made = modelfile(subject, file.name)
    (out / MODELFILE).write_text(made.text, encoding="utf-8", newline="\n")
    ways = OLLAMA_WAYS.get(form, ("as_served",))
    return Loaded(engine=_llama(subject, file), prompts=_templated_by_go(subject, made), ways=ways)


def readable(subject: Subject) -> bool:
    """Whether what a server writes for a label is text, and another text for each."""
    names = label_names(subject.spec, subject.chat)
    return len(names) == len(subject.spec.labels) and all(name and "\ufffd" not in name for name in names)


def modelfile(subject: Subject, weights: str) -> Modelfile:
    """The Modelfile of a System whose weights lie beside it."""
    spec, chat = subject.spec, subject.chat
    stops = [chat.tokens.texts[token] for token in chat.stop_ids]
    if spec.answer.form != "schema":  # JSON ends by itself, and its white space may hold such a text
        stops = [*chat.stop_strings(spec.style), *stops]
    return Modelfile(
        weights=weights,
        frame=subject.frame,
        instruction=spec.instruction,
        stops=stops,
        context=context_of(subject.model),
        most_tokens=roomy_tokens(spec, chat),
        licence=licence_text(subject),
    )


def licence_text(subject: Subject) -> str:
    """What is known of the base's licence, on one line, whatever a System's file says."""
    if subject.licence_note is not None:
        return subject.licence_note
    named = "".join(c for c in subject.model.licence if c.isprintable() and c != '"')[:200]
    return f"The base model's licence: {named or 'unknown'}. Read it before you pass this on."


def gguf_name(subject: Subject, kind: str) -> str:
    """The name of the GGUF file of an export."""
    return f"{subject.name}-{kind}.gguf"


def _llama(subject: Subject, file: Path, adapter: Path | None = None) -> EngineSpec:
    return EngineSpec(engine="llama", gguf=file, adapter=adapter, context=context_of(subject.model))


def _templated(folder: Path, template: str) -> Callable[[Engine, Sequence[str]], list[Tokens]]:
    """Prompts as transformers and vLLM make them: the template filled in, then split by the tokenizer."""

    def prompts(engine: Engine, questions: Sequence[str]) -> list[Tokens]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": asked}],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
            )
            for asked in questions
        ]
        return [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]

    return prompts


def _templated_by_llama(subject: Subject) -> Callable[[Engine, Sequence[str]], list[Tokens]]:
    """Prompts as llama.cpp's server makes them of the template in its file."""

    def prompts(engine: Engine, questions: Sequence[str]) -> list[Tokens]:
        from rung.engines.llama import LlamaEngine

        assert isinstance(engine, LlamaEngine)
        texts = [engine.templated([{"role": "user", "content": asked}]) for asked in questions]
        return [_with_bos(subject, engine.tokens_of(text.removeprefix(subject.frame.bos))) for text in texts]

    return prompts


def _templated_by_go(subject: Subject, made: Modelfile) -> Callable[[Engine, Sequence[str]], list[Tokens]]:
    """Prompts as Ollama makes them of the Modelfile. Blanks at a text's ends have to be taken off before."""
    before = [Message(role="system", content=made.system)] if made.system is not None else []

    def prompts(engine: Engine, questions: Sequence[str]) -> list[Tokens]:
        from rung.engines.llama import LlamaEngine

        assert isinstance(engine, LlamaEngine)
        texts = [
            go_template.render(made.template, [*before, Message(role="user", content=asked.strip())])
            for asked in questions
        ]
        return [_with_bos(subject, engine.tokens_of(text)) for text in texts]

    return prompts


def _with_bos(subject: Subject, tokens: Tokens) -> Tokens:
    """What llama.cpp and Ollama put first by themselves where the model's file says so."""
    bos = subject.chat.tokens.bos_id
    return (bos, *tokens) if subject.chat.tokens.add_bos and bos is not None else tokens


RECIPES: Final[Mapping[Target, Recipe]] = {
    "peft": Recipe(types=(ADAPTER,), build=write_peft),
    "merged": Recipe(types=FLOATS, build=write_merged),
    "gguf": Recipe(types=(*GGUF_TYPES, ADAPTER), build=write_gguf_folder),
    "ollama": Recipe(types=GGUF_TYPES, build=write_ollama, prompted=True),
    "vllm": Recipe(types=(*FLOATS, ADAPTER), build=write_vllm, prompted=True),
    "hub-folder": Recipe(types=(*FLOATS, ADAPTER), build=write_hub_folder),
}
