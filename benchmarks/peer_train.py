"""The peer of a training benchmark, in its own environment: TRL's SFTTrainer or a plain loop with PEFT.

A child of train_vs_trl.py and full_and_qlora.py. Variants:

    trl        SFTConfig as it comes; on a CPU it asks for use_cpu, and then weights are fp32 under bf16
               autocast, with gradient checkpointing
    trl-fp32   the same without autocast
    trl-bf16   weights in bf16
    trl-fast   weights in bf16, no gradient checkpointing
    plain      transformers and PEFT, weights in bf16, torch's AdamW, no checkpointing
    full       the plain loop without PEFT: every weight learns, in fp32
    packed     the plain loop over a GGUF file's weights left in their blocks, in fp32 otherwise
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import child

VARIANTS = ("trl", "trl-fp32", "trl-bf16", "trl-fast", "plain", "full", "packed")
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate")
RANK, ALPHA = 16, 32


class Clock:
    """Steps with their seconds, and dev losses taken while the clock stands still."""

    def __init__(self, job: dict[str, Any], network: Any) -> None:
        self.job, self.network = job, network
        self.steps: list[dict[str, float]] = []
        self.dev: list[tuple[int, float, float]] = []
        self.start = time.perf_counter()

    def step(self, tokens: int, rows: int) -> bool:
        """Note a step that ends now; whether the loss to reach is reached."""
        child.wait_for_gpu()
        seconds = time.perf_counter() - self.start
        self.steps.append({"seconds": seconds, "tokens": tokens, "rows": rows})
        every = self.job.get("every", 0)
        if every and len(self.steps) % every == 0:
            loss = child.dev_loss(self.network, self.job["dev"])
            self.dev.append((len(self.steps), sum(step["seconds"] for step in self.steps), loss))
        self.start = time.perf_counter()
        return bool(self.dev) and self.dev[-1][2] <= self.job.get("until_loss", -1.0)


def main() -> None:
    """Train as the job says and write what it took."""
    job = child.job()
    train = with_trl if job["variant"].startswith("trl") else plain
    try:
        child.finish(train(job), PACKAGES)
    except RefusedError as refusal:
        child.finish({"refusal": str(refusal)}, PACKAGES)


class RefusedError(Exception):
    """What the job asks for can't be done with these packages on this machine."""


def lora() -> Any:
    """The same adapter for every variant: all linear layers of the blocks, no dropout."""
    from peft import LoraConfig

    return LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def with_trl(job: dict[str, Any]) -> dict[str, Any]:
    """SFTTrainer on tokenised rows, or on conversations where the job has them."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    changes: dict[str, Any] = {}
    if job["variant"] in ("trl-bf16", "trl-fast"):
        changes["model_init_kwargs"] = {"dtype": "bfloat16"}
    if job["variant"] == "trl-fast":
        changes["gradient_checkpointing"] = False
    if job["variant"] == "trl-fp32":
        changes["bf16"] = False
    if "conversations" not in job:
        changes["completion_only_loss"] = True
    trainer = SFTTrainer(
        model=job["weights"],
        args=SFTConfig(
            output_dir=job["folder"],
            per_device_train_batch_size=job["batch"],
            learning_rate=job["rate"],
            max_steps=job["steps"],
            report_to="none",
            save_strategy="no",
            use_cpu=not torch.cuda.is_available(),
            seed=job["seed"],
            **changes,
        ),
        train_dataset=Dataset.from_list(
            job["conversations"] if "conversations" in job else [tokenised(row) for row in job["rows"]]
        ),
        peft_config=lora(),
    )
    network = trainer.model.get_base_model()
    first = first_trl_loss(trainer, job["first"]) if "first" in job else None
    clock = Clock(job, network)

    class Watch(TrainerCallback):
        """Tells the clock of every step."""

        seen = 0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen, rows = trainer._total_train_tokens, job["batch"]
            # The last token of an answer is only ever a target.
            control.should_training_stop |= clock.step(int(seen - self.seen) - rows, rows)
            self.seen = seen

    trainer.add_callback(Watch())
    trainer.train()
    lengths = [len(row["input_ids"]) - 1 for row in trainer.train_dataset]
    supervised = [sum(label != -100 for label in row["labels"][1:]) for row in trainer.train_dataset]
    return {
        "first_loss": first,
        "steps": clock.steps,
        "dev": clock.dev,
        "tokens_per_row": sum(lengths) / len(lengths),
        "supervised_per_row": sum(supervised) / len(supervised),
        "trainable": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }


def tokenised(row: child.Row) -> dict[str, list[int]]:
    """A row as SFTTrainer takes one that is tokenised already: it makes the labels of the mask."""
    prompt, answer = row
    return {
        "input_ids": [*prompt, *answer],
        "completion_mask": [0] * len(prompt) + [1] * len(answer),
    }


def first_trl_loss(trainer: Any, indices: Sequence[int]) -> float:
    """The untrained loss of these rows, by the trainer's own collator, autocast and loss."""
    import torch

    batch = trainer.data_collator([trainer.train_dataset[i] for i in indices])
    with torch.no_grad(), trainer.accelerator.autocast():
        loss = float(trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)))
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    return loss


def plain(job: dict[str, Any]) -> dict[str, Any]:
    """The loop of a tutorial: shuffled batches, AdamW, a constant rate."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(job["seed"])
    full = job["variant"] == "full"
    if job["variant"] == "packed":
        network = packed(Path(job["gguf"]))
    else:
        dtype = torch.float32 if full else torch.bfloat16
        network = AutoModelForCausalLM.from_pretrained(job["weights"], dtype=dtype)
    if torch.cuda.is_available():
        network.cuda()
    model = network if full else get_peft_model(network, lora())
    first = None
    if "first" in job:
        with torch.no_grad():
            batch = padded([job["rows"][i] for i in job["first"]])
            first = float(model(**to(network.device, batch)).loss)
    model.train()
    return {"first_loss": first} | trained(
        job, model, network, lambda batch: model(**to(network.device, batch)).loss
    )


def packed(path: Path) -> Any:
    """A GGUF model with its weights left in their blocks. Raises RefusedError where they come unpacked."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    network = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(), dtype=torch.float32
    )
    quantizer = network.hf_quantizer
    if not any(weight.dtype == torch.uint8 for weight in network.state_dict().values()):
        from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS

        packs = f"one of the architectures that it packs ({', '.join(sorted(GGUF_ARCHS))})"
        raise RefusedError(
            "transformers unpacked every weight, packed ones need "
            + ("the package kernels and one for this device" if quantizer.supported else packs)
        )
    if not quantizer.is_trainable:
        raise RefusedError(f"{type(quantizer).__name__} of transformers says that it isn't trainable")
    return network


def trained(
    job: dict[str, Any], model: Any, network: Any, loss_of: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """Train `model` for the job's steps."""
    import torch

    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=job["rate"])
    clock, batches = Clock(job, network), shuffled(job["rows"], job["batch"], job["seed"])
    for _ in range(job["steps"]):
        rows = next(batches)
        loss_of(padded(rows)).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if clock.step(sum(len(prompt) + len(answer) - 1 for prompt, answer in rows), len(rows)):
            break
    return {
        "steps": clock.steps,
        "dev": clock.dev,
        "trainable": sum(p.numel() for p in learning),
    }


def shuffled(rows: Sequence[child.Row], size: int, seed: int) -> Iterator[list[child.Row]]:
    """Whole batches for ever, the rows in a new order each time they are through."""
    generator = random.Random(seed)
    while True:
        order = list(rows)
        generator.shuffle(order)
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def to(device: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch where the model is."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def padded(rows: Sequence[child.Row]) -> dict[str, Any]:
    """Ids, mask and labels, padded on the right, the answers alone supervised."""
    import torch

    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, mask, labels = [], [], []
    for prompt, answer in rows:
        rest = width - len(prompt) - len(answer)
        ids.append([*prompt, *answer, *[0] * rest])
        mask.append([1] * (width - rest) + [0] * rest)
        labels.append([-100] * len(prompt) + [*answer] + [-100] * rest)
    names = ("input_ids", "attention_mask", "labels")
    return {name: torch.tensor(values) for name, values in zip(names, (ids, mask, labels), strict=True)}


if __name__ == "__main__":
    main()
