"""Answers drawn in groups for a step of reinforcement: rung's decoder beside transformers' `generate`.

    python benchmarks/rollouts.py --prompt 50 --groups 8 --answers 8 --tokens 40

TRL's GRPO trainer draws by `generate` where no vLLM runs, as on a CPU. Random token ids, so that only lengths
matter; every answer has the same number of tokens, which flatters `generate`: it goes on with rows that have
ended, and rung drops them. Both sides have a LoRA of rank 16 on all linear layers, bf16 and the same threads.
"""

import random
import time
from pathlib import Path

import torch
from common import median, options, print_machine, spread, table

VOCABULARY = 40_000


def main() -> None:
    """Both sides in turn, in one process; the first draw of each isn't counted."""
    parser = options(__doc__, folder=False)
    parser.add_argument("--prompt", type=int, default=50, help="tokens of a prompt")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--answers", type=int, default=8, help="to each prompt")
    parser.add_argument("--tokens", type=int, default=40, help="of an answer")
    given = parser.parse_args()
    print_machine()
    from rung.models.resolve import resolve
    from rung.models.weights import dequantised

    weights = dequantised(resolve("smollm2-135m"))
    draw = random.Random(0)
    prompts = [
        tuple(draw.randrange(100, VOCABULARY) for _ in range(given.prompt)) for _ in range(given.groups)
    ]
    asked = [prompt for prompt in prompts for _ in range(given.answers)]
    sides = {"transformers generate, peft": theirs(weights, asked, given.tokens)}
    sides["rung"] = ours(weights, asked, given.tokens)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(given.runs + 1):
        for name, drawn in sides.items():
            start = time.perf_counter()
            count = drawn()
            seconds = time.perf_counter() - start
            assert count == len(asked) * given.tokens, "each side writes the same number of tokens"
            if run:
                found[name].append(count / seconds)
    base = median(found["transformers generate, peft"])
    rows = [[name, spread(speeds), f"{median(speeds) / base:.2f}"] for name, speeds in found.items()]
    table(["side", "tokens/s, median (range)", "ratio"], rows)


def theirs(weights: Path, asked: list[tuple[int, ...]], tokens: int):
    """A function that draws by transformers, and gives the number of tokens."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.bfloat16)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(plain, config).eval()
    ids = torch.tensor(asked)

    def drawn() -> int:
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
            )
        return (found.shape[1] - ids.shape[1]) * len(asked)

    return drawn


def ours(weights: Path, asked: list[tuple[int, ...]], tokens: int):
    """The same by rung."""
    from rung.engines import lora
    from rung.engines.base import EngineSpec, Request
    from rung.engines.torch import TorchEngine, load_model

    model = load_model(weights)
    lora.attach(model, rank=16, alpha=32, seed=0)
    spec = EngineSpec(engine="torch", weights=weights, context=2048, threads=torch.get_num_threads())
    engine = TorchEngine(spec, model=model)
    # Without a token to stop at an answer has all of its tokens.
    requests = [
        Request(prompt=prompt, max_tokens=tokens, temperature=1.0, seed=place)
        for place, prompt in enumerate(asked)
    ]

    def drawn() -> int:
        return sum(len(one.drawn) for one in engine.generate(requests))

    return drawn


if __name__ == "__main__":
    main()
