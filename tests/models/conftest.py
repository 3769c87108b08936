"""A very small llama with a vocabulary of its own, llama.cpp as the oracle, and the real catalog models."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rung.errors import ModelError
from rung.models.resolve import Model, resolve

SERVER = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.warmup, params.verbosity, params.port = 1024, 1, False, 0, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DATA = Path(__file__).parents[3] / "shared" / "data"


class LlamaCpp:
    """llama.cpp's own server on one model, in a child process."""

    def __init__(self, gguf: Path) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(gguf)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.child.stdout is not None
        self.url = ""
        for line in self.child.stdout:
            if line.startswith("http"):
                self.url = line.strip()
                break
        assert self.url, "llama.cpp did not start"

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def tokenize(self, text: str, *, special: bool, bos: bool = False) -> list[int]:
        body = {"content": text, "add_special": bos, "parse_special": special}
        return self.post("/tokenize", body)["tokens"]

    def top(self, prompt: list[int], count: int) -> dict[int, float]:
        body = {"prompt": prompt, "n_predict": 1, "n_probs": count, "temperature": 0}
        answer = self.post("/completion", body)
        return {item["id"]: item["logprob"] for item in answer["completion_probabilities"][0]["top_logprobs"]}

    def close(self) -> None:
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.wait(timeout=20)


@pytest.fixture(scope="session")
def llama_cpp() -> Iterator[Callable[[Path], LlamaCpp]]:
    """Start llama.cpp on a GGUF file, once per file."""
    started: dict[Path, LlamaCpp] = {}

    def start(gguf: Path) -> LlamaCpp:
        if gguf not in started:
            started[gguf] = LlamaCpp(gguf)
        return started[gguf]

    yield start
    for server in started.values():
        server.close()


@pytest.fixture(scope="session")
def small_vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges learned from this Python's own sources, blind to words: merges cross every border."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = Path(os.__file__).read_text(encoding="utf-8") + " 1234 567 12 3\n\n\n  4,5\r\n\r\n 66 " * 200
    tokenizer.train_from_iterator([text[i : i + 400] for i in range(0, len(text), 400)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [" ".join(pair) for pair in model["merges"]]


MakeGguf = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory, small_vocabulary) -> MakeGguf:
    """Write a one-layer llama with random weights; `pre` and `template` go into its metadata."""
    import gguf

    tokens, merges = small_vocabulary

    def make(pre: str = "smollm", template: str | None = CHATML, add_bos: bool = False) -> Path:
        path = tmp_path_factory.mktemp("gguf") / f"tiny-{pre}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name("tiny")
        writer.add_license("mit")
        writer.add_context_length(512)
        writer.add_embedding_length(64)
        writer.add_block_count(1)
        writer.add_feed_forward_length(96)
        writer.add_head_count(2)
        writer.add_head_count_kv(1)
        writer.add_rope_dimension_count(32)
        writer.add_rope_freq_base(10000.0)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
        writer.add_token_merges(merges)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(add_bos)
        if template is not None:
            writer.add_chat_template(template)
        random = np.random.default_rng(0)
        shapes = {
            "token_embd.weight": (len(tokens), 64),
            "output_norm.weight": (64,),
            "blk.0.attn_norm.weight": (64,),
            "blk.0.ffn_norm.weight": (64,),
            "blk.0.attn_q.weight": (64, 64),
            "blk.0.attn_k.weight": (32, 64),
            "blk.0.attn_v.weight": (32, 64),
            "blk.0.attn_output.weight": (64, 64),
            "blk.0.ffn_gate.weight": (96, 64),
            "blk.0.ffn_up.weight": (96, 64),
            "blk.0.ffn_down.weight": (64, 96),
        }
        for name, shape in shapes.items():
            writer.add_tensor(
                name, random.normal(1.0 if "norm" in name else 0.0, 0.3, shape).astype(np.float32)
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


@pytest.fixture(scope="session", params=["smollm2-135m", "gemma-3-270m"])
def catalog_model(request: pytest.FixtureRequest) -> Model:
    """Each generating model of the catalog; skipped with the reason where its weights can't be had."""
    try:
        return resolve(request.param)
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def real_texts() -> list[str]:
    """About 2,000 texts from the example data sets."""
    files = sorted(DATA.glob("*/train.jsonl"))
    if not files:
        pytest.skip(f"no data sets under {DATA}")
    texts: list[str] = []
    for file in files:
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for _, line in zip(range(50), lines, strict=False)]
        texts.extend(value for row in rows for value in row.values() if isinstance(value, str) and value)
    return texts
