"""What a child process of a benchmark needs: its job, its result, its peak memory, and one dev loss.

Without rung, since peers run it in an environment of their own.
"""

import json
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Row = Sequence[Sequence[int]]
"""A prompt's ids and the answer's, the answer alone supervised."""


def job() -> dict[str, Any]:
    """What the parent asks for: the JSON file named first on the command line."""
    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))


def finish(result: dict[str, Any], packages: Sequence[str] = ()) -> None:
    """Write the result where the parent looks for it, with the peak memory and the versions of `packages`."""
    found = {name: _version(name) for name in packages}
    whole = {"gpu_mb": gpu_mb(), **result, "peak_mb": peak_mb(), "versions": found}
    Path(sys.argv[2]).write_text(json.dumps(whole), encoding="utf-8")


def peak_mb() -> float:
    """Most resident memory of this process so far, in MiB.

    Not ru_maxrss where the kernel tells better: that begins at the size of whoever started the process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def wait_for_gpu() -> None:
    """Until a GPU, if torch has one, has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gpu_mb() -> float:
    """The most GPU memory that torch held in this process, in MiB; 0 without torch or a GPU."""
    if "torch" not in sys.modules:
        return 0.0
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def dev_loss(network: Any, rows: Sequence[Row], size: int = 16) -> float:
    """Mean cross-entropy of the answers (nats per supervised token, softmax in fp32), any LoRA included.

    `network` is a causal language model of transformers; its own precision is kept.
    """
    import torch

    total, count, training = 0.0, 0, network.training
    network.eval()
    device = network.lm_head.weight.device
    with torch.inference_mode():
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            width = max(len(prompt) + len(answer) - 1 for prompt, answer in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            places, targets = [], []
            for row, (prompt, answer) in enumerate(batch):
                whole = [*prompt, *answer[:-1]]
                ids[row, : len(whole)] = torch.tensor(whole)
                places += [(row, len(prompt) - 1 + offset) for offset in range(len(answer))]
                targets += answer
            hidden = network.model(ids.to(device), use_cache=False).last_hidden_state
            logits = network.lm_head(hidden[tuple(torch.tensor(places).T)]).float()
            wanted = torch.tensor(targets, device=device)
            total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
            count += len(targets)
    network.train(training)
    return total / count


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
