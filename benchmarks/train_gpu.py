"""LoRA steps on one NVIDIA GPU: rung's Trainer, its other ways of running, and peers on the same rows.

    python benchmarks/train_gpu.py ../shared/data/banking77 --batch 32 --steps 60
    python benchmarks/train_gpu.py ../shared/data/banking77 --shape 1b --tokens 512 --batch 16
    python benchmarks/train_gpu.py ../shared/data/banking77 --shape 8b --variants rung dora qlora --peers

`rung` is what a climb runs, `eager` the same without CUDA graphs, `transformers` its loop over transformers'
own passes with padding, `compiled` those through torch.compile, `liger` with Liger's kernels where they are
installed; peer_train.py says what the others are. With `--variants` other ways to tune that a task may name
run, too, each at its middle rate. Same token ids, LoRA (r = 16, all linear layers), batch and rate, bf16
but where a peer's default is another. `--shape` takes random weights of a larger model in
place of the default one, `--tokens` joins rows until each has so many. Prints tokens a second (those that go
through the model and aren't padding), the most GPU memory that torch held, and the last dev loss. Exit status
2 without an NVIDIA GPU.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import peer_train
from common import in_child, median, options, print_machine, spread, table, tuning_rows, with_peer
from train_gpu_child import METHODS, OURS

WARM = 10
RATE = 5e-4
SHAPES = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
"""Those of Llama 3.2 1B and Llama 3.1 8B."""


def main() -> None:
    """Every variant in turn, each in a fresh process."""
    parser = options(__doc__)
    with_peer(parser)
    parser.add_argument("--form", choices=["codes", "words"], default="words")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this size")
    parser.add_argument("--tokens", type=int, default=0, help="of a row, at least")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--variants", nargs="+", choices=(*OURS, *METHODS), default=list(OURS))
    parser.add_argument(
        "--peers", nargs="*", choices=peer_train.VARIANTS, default=["trl", "trl-fast", "plain"]
    )
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no NVIDIA GPU that torch can use is here: nothing was measured", file=sys.stderr)
        sys.exit(2)
    data = tuning_rows(given.folder, given.form)
    if given.tokens:
        data |= {part: joined(data[part], given.tokens) for part in ("rows", "dev")}
    with tempfile.TemporaryDirectory() as folder:
        if given.shape:
            data["weights"] = str(random_weights(SHAPES[given.shape], Path(folder)))
        job = {**data, "dev": data["dev"][:200], "batch": given.batch, "steps": given.steps, "rate": RATE}
        job["every"] = given.steps
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*given.variants, *given.peers)}
        for number in range(given.runs):
            for name, runs in found.items():
                script = "train_gpu_child.py" if name in given.variants else "peer_train.py"
                python = sys.executable if name in given.variants else given.peer_python
                runs.append(in_child(script, job | {"variant": name, "seed": number}, python))
                print(f"{number + 1}, {name}: {cells(runs[-1:], 1.0)[0]} tokens/s", file=sys.stderr)
    print_machine(next((found[name][0]["versions"] for name in given.peers), None))
    print(torch.cuda.get_device_name())
    head = ("variant", "tokens/s", f"ratio of {given.variants[0]}", "GPU MiB", "dev loss", "first step, s")
    first = median(speeds(found[given.variants[0]]))
    table(head, [[name, *cells(runs, first)] for name, runs in found.items()])


def speeds(runs: list[dict[str, Any]]) -> list[float]:
    """Tokens a second of each run: the median of its steps but for the first."""
    return [median([step["tokens"] / step["seconds"] for step in run["steps"][WARM:]]) for run in runs]


def cells(runs: list[dict[str, Any]], first: float) -> list[str]:
    """A variant's line of the table."""
    if "refusal" in runs[0]:
        return [runs[0]["refusal"], "–", "–", "–", "–"]
    found = speeds(runs)
    return [
        spread(found, ",.0f"),
        f"{first / median(found):.2f}",
        f"{median([run['gpu_mb'] for run in runs]):,.0f}",
        f"{median([run['dev'][-1][2] for run in runs]):.4f}",
        f"{median([run['steps'][0]['seconds'] for run in runs]):.1f}",
    ]


def joined(rows: list, tokens: int) -> list:
    """Rows of at least so many tokens: prompts one after the other, with the last one's answer."""
    made: list = []
    prompt: list[int] = []
    for own, answer in rows:
        prompt = [*prompt, *own]
        if len(prompt) + len(answer) >= tokens:
            made.append((prompt, answer))
            prompt = []
    return made


def random_weights(sizes: dict[str, Any], folder: Path) -> Path:
    """A folder with a Llama of these sizes in bf16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(LlamaConfig(**sizes))
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
