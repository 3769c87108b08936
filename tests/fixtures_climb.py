"""What the tests of whole climbs share: a language model of 60,000 weights, small tasks, and a log."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.evaluate import Bench, Store
from rung.models.resolve import resolve
from rung.models.tagged_calls import MARKERS
from rung.records import Passage
from rung.rungs.base import Context
from rung.system import Pool

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPEN = CHATML.replace("assistant\n'", "assistant\n<think>\n'")
"""Qwen3 Thinking 2507's form: every answer begins with a thought."""
WIDTH, LAYERS, INNER, HEADS = 32, 2, 64, 2
TOPICS = {
    "billing": ("invoice", "refund", "charge", "price", "receipt", "tax"),
    "delivery": ("parcel", "courier", "late", "address", "box", "lost"),
    "login": ("password", "account", "code", "email", "locked", "sign"),
}
FILLERS = ("please", "my", "the", "again", "today", "help", "with", "was", "is", "about")


@dataclass
class Log:
    """A reporter that remembers what it was told, and when which bar was begun."""

    lines: list[str] = field(default_factory=list)
    bars: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def begin(self, what: str, total: int | None, done: int = 0) -> int:
        self.bars.append(what)
        return len(self.bars)

    def advance(self, handle: int, done: int, extra: str = "") -> None:
        pass

    def end(self, handle: int) -> None:
        pass

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def label_rows(count: int, seed: int = 0) -> list[dict]:
    """Rows whose label is the topic that their words come from; no two are the same."""
    dice = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = list(TOPICS)[len(rows) % len(TOPICS)]
        words = [*dice.sample(TOPICS[label], 2), *dice.sample(FILLERS, 3)]
        dice.shuffle(words)
        rows[" ".join(words)] = label
    return [{"input": text, "output": label} for text, label in rows.items()]


def constant_head(label, labels):
    import numpy as np

    from rung.models.head import Head, head_files

    bias = np.array([9.0 * (name == label) for name in labels])
    return head_files(
        Head(
            features="tfidf",
            labels=labels,
            weights=np.zeros((len(labels), 2)),
            bias=bias,
            vocabularies=(("a",), ("b",)),
            idf=(np.ones(1), np.ones(1)),
        )
    )


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def add_vocabulary(writer: Any, marks: int | None = None) -> int:
    """The tiny vocabulary as a GGUF file's tokenizer; how many tokens it has.

    With `marks`, a type of token, it has those that mark FunctionGemma's calls, too.
    """
    tokens, merges = tiny_vocabulary()
    more = () if marks is None else MARKERS
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*tokens, *more])
    plain = len(tokens) - len(SPECIAL)
    writer.add_token_types([3] * len(SPECIAL) + [1] * plain + [marks or 1] * len(more))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return len(tokens) + len(more)


def make_tiny_gguf(
    path: Path,
    context: int = 512,
    template: str | None = CHATML,
    marks: int | None = None,
    width: int = WIDTH,
) -> Path:
    """A llama with random weights and a vocabulary of its own: the same bytes every time."""
    import gguf

    inner = width * INNER // WIDTH
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    size = add_vocabulary(writer, marks)
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)
    dice = np.random.default_rng(0)
    shapes = {"token_embd.weight": (size, width), "output_norm.weight": (width,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (width,),
                "ffn_norm": (width,),
                "attn_q": (width, width),
                "attn_k": (width, width),
                "attn_v": (width, width),
                "attn_output": (width, width),
                "ffn_gate": (inner, width),
                "ffn_up": (inner, width),
                "ffn_down": (width, inner),
            }.items()
        }
    for name, shape in shapes.items():
        mean, spread = (1.0, 0.0) if "norm" in name else (0.0, 0.15)
        writer.add_tensor(name, dice.normal(mean, spread, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_tiny_gguf_in_blocks(path: Path, kind: str) -> Path:
    """The same model with the matrices of its decoder blocks in a type of blocks, such as `q4_1`."""
    from rung.models.gguf_file import write_merged
    from rung.models.resolve import read_header
    from rung.models.weight_types import WRITTEN
    from rung.training.lora_delta import Delta

    plain = make_tiny_gguf(path.with_suffix(".plain.gguf"))
    nothing = {
        tensor.name: Delta(
            a=np.zeros((1, tensor.shape[1]), np.float32),
            b=np.zeros((tensor.shape[0], 1), np.float32),
            scale=1.0,
        )
        for tensor in read_header(plain).tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2
    }
    write_merged(plain, nothing, path, wanted=WRITTEN[kind], changes={})
    return path


def tiny_vocabulary() -> tuple[list[str], list[str]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = [*FILLERS, *TOPICS, *(word for words in TOPICS.values() for word in words)]
    tokenizer.train_from_iterator([f"{word} {word} {word}\n" for word in words] * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [" ".join(pair) for pair in model["merges"]]


def number_rows(count: int) -> list[dict]:
    """Rows that ask how many words they have, with one decimal that is always the same."""
    return [
        {"input": row["input"], "output": 5.5 if i % 2 else 12.0} for i, row in enumerate(label_rows(count))
    ]


def json_rows(count: int) -> list[dict]:
    """Rows whose answer is an object; its keys don't stand in alphabetical order."""
    return [
        {"input": row["input"], "output": {"topic": row["output"], "first": row["input"].split()[0]}}
        for row in label_rows(count)
    ]


def text_rows(count: int) -> list[dict]:
    """Rows to be answered in words, each with a context."""
    return [
        {"input": row["input"], "context": f"This is about {row['output']}.", "output": row["input"].upper()}
        for row in label_rows(count)
    ]


def topic_passages() -> tuple[Passage, ...]:
    """What documents say of the topics; every label, and what the other tasks ask for, stands in one."""
    return tuple(
        Passage(id=f"{topic}.md#1", title=topic, text=f"{' '.join(words)}: that is {topic}, 5.5 or 12.")
        for topic, words in TOPICS.items()
    )


def call_rows(count: int) -> list[dict]:
    """Conversations that end in one call of a function that the row offers, with its default left out."""
    topic = {"properties": {"topic": {"enum": list(TOPICS)}, "most": {"default": 5}}, "required": ["topic"]}
    find = {"name": "find", "parameters": topic}
    ask = {"name": "ask", "parameters": {"properties": {"at": {"type": "string"}}, "required": ["at"]}}
    rows = []
    for at, row in enumerate(label_rows(count)):
        name, given = ("find", {"topic": row["output"]}) if at % 2 else ("ask", {"at": "desk"})
        call = {"type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        answer = {"role": "assistant", "content": None, "tool_calls": [call]}
        offered = (find, ask) if at % 3 == 0 else ((find,) if at % 2 else (ask,))
        tools = [{"type": "function", "function": one} for one in offered]
        rows.append({"messages": [{"role": "user", "content": row["input"]}, answer], "tools": tools})
    return rows


TASKS = {
    "label": label_rows,
    "json": json_rows,
    "number": number_rows,
    "text": text_rows,
    "tool_call": call_rows,
}
"""Rows of every kind of output."""


def preferred(rows: list[dict]) -> list[dict]:
    """The same rows, each output preferred to that of the next row; a call to one with other arguments."""
    if all("messages" in row for row in rows):
        return [_preferred_call(row) for row in rows]
    outputs = [row["output"] for row in rows]
    others = [*outputs[1:], outputs[0]]
    return [
        {
            "prompt": row["input"],
            "chosen": row["output"],
            "rejected": other,
            **({"context": row["context"]} if "context" in row else {}),
        }
        for row, other in zip(rows, others, strict=True)
    ]


def _preferred_call(row: dict) -> dict:
    *asked, chosen = row["messages"]
    function = chosen["tool_calls"][0]["function"]
    given = json.loads(function["arguments"])
    # A default that is given says nothing, in the chosen answer or in the other.
    worse = {"at": "door"} if "at" in given else {"topic": "login", "most": 5}
    worse |= {"topic": "billing"} if given.get("topic") == "login" else {}
    call = {"type": "function", "function": {**function, "arguments": json.dumps(worse)}}
    rejected = {**chosen, "tool_calls": [call]}
    return {"prompt": asked, "chosen": [chosen], "rejected": [rejected], "tools": row["tools"]}


def judged(rows: list[dict]) -> list[dict]:
    """The same rows, every second one with an answer that is judged to be bad."""
    others = [row["output"] for row in rows[1:]] + [rows[0]["output"]]
    return [
        {"prompt": row["input"], "completion": other if n % 2 else row["output"], "label": n % 2 == 0}
        for n, (row, other) in enumerate(zip(rows, others, strict=True))
    ]


@contextmanager
def opened(model: Path, data: Path, folder: Path, **changes: Any) -> Iterator[Context]:
    """What a rung is given in a climb of `data` on `model`; `changes` replace parts of it.

    Sentence vectors have the pool's one thread from the start: a few short texts come out otherwise, in their
    last digits, before an engine has set it than after.
    """
    import torch

    torch.set_num_threads(1)
    found = resolve(str(model))
    prepared = prepare(data, Options(models=(str(model),), dev_rows=40))
    assert prepared.task.metric is not None
    with Pool(models={found.digest: found}, threads=1, parallel=4) as pool:
        context = Context(
            task=prepared.task,
            train=prepared.splits.train,
            dev=prepared.splits.dev,
            passages=topic_passages(),
            undesirable=prepared.splits.undesirable,
            dev_undesirable=prepared.splits.dev_undesirable,
            model=found,
            folder=folder / "rung",
            bench=Bench(pool=pool, store=Store(folder / "answers"), metric=prepared.task.metric),
            reporter=Log(),
            deadline=time.monotonic() + 600,
            seed=0,
        )
        yield replace(context, **changes)
