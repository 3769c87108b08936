"""The torch engine: transformers weights on this machine, bf16 where the processor has it.

The numerical reference, and on CPUs the faster engine for long prompts and for choosing among labels.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging as transformers_logging

from rung.engines import lora
from rung.engines.base import Choice, Completion, EngineSpec, Progress, Request, no_progress
from rung.engines.cores import available_cores
from rung.engines.decode import Decoder
from rung.engines.trie import Search, Trie
from rung.errors import EngineError

TOKENS_PER_BATCH = 2048
SHORTEST_SHARED_PREFIX = 8


def best_dtype() -> torch.dtype:
    """bf16 where this machine multiplies it clearly faster than fp32 (a 50 ms probe), else fp32."""
    if torch.cuda.is_available():
        return torch.bfloat16
    timings = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(256, 576, dtype=dtype), torch.ones(576, 576, dtype=dtype)
        left @ right
        start = time.perf_counter()
        for _ in range(5):
            left @ right
        timings[dtype] = time.perf_counter() - start
    faster = timings[torch.bfloat16] < 0.8 * timings[torch.float32]
    return torch.bfloat16 if faster else torch.float32


def load_model(folder: Path, dtype: torch.dtype | None = None, attention: str = "sdpa"):
    """A causal language model from a safetensors folder, in eval mode, on the GPU when there is one."""
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype or best_dtype(), attn_implementation=attention, use_safetensors=True
    )
    model.generation_config.pad_token_id = model.config.pad_token_id
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


class TorchEngine:
    """Answers for one safetensors folder and at most one PEFT adapter."""

    name = "torch"

    def __init__(self, spec: EngineSpec, model: torch.nn.Module | None = None) -> None:
        """`model` hands in weights that are loaded already, an adapter attached to them included."""
        torch.set_num_threads(spec.threads or available_cores())
        if model is None:
            if spec.weights is None:
                raise EngineError("the torch engine needs a folder of safetensors weights; none was given")
            model = load_model(spec.weights)
            if spec.adapter is not None:
                lora.load(model, spec.adapter)
        self.model = model
        self.context = spec.context
        self.folder = spec.weights

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.lm_head.weight.device

    def generate(self, requests: Sequence[Request], *, progress: Progress = no_progress) -> list[Completion]:
        """Greedy or sampled completions in batches of like length; finished rows leave their batch."""
        decoder = Decoder(self.model, self.folder)
        done: list[Completion | None] = [None] * len(requests)
        for batch in self._batches([r.prompt for r in requests], reserve=max_tokens_of(requests)):
            for index, completion in zip(batch, decoder.run([requests[i] for i in batch]), strict=True):
                done[index] = completion
            progress(sum(d is not None for d in done), len(done))
        return [d or _too_long(r.prompt, self.context) for d, r in zip(done, requests, strict=True)]

    def choose(
        self,
        prompts: Sequence[tuple[int, ...]],
        candidates: Sequence[tuple[int, ...]],
        *,
        progress: Progress = no_progress,
    ) -> list[Choice]:
        """Best-first search over the candidates' trie, a batch of prompts at a time."""
        trie = Trie(candidates)
        done: list[Choice | None] = [None] * len(prompts)
        prefix = shared_prefix(prompts)
        with torch.inference_mode():
            memory = self._prefix_cache(prefix) if prefix else None
            for batch in self._batches(prompts, reserve=max(map(len, candidates)), shared=len(prefix)):
                start = time.perf_counter()
                rows = [prompts[i][len(prefix) :] for i in batch]
                found = self._choose_batch(rows, trie, memory, len(prefix))
                seconds = (time.perf_counter() - start) / len(batch)
                for index, (search, evaluated) in zip(batch, found, strict=True):
                    best, logprobs = search.result()
                    done[index] = Choice(
                        index=best,
                        logprobs=logprobs,
                        prompt_tokens=len(prompts[index]),
                        evaluated_tokens=evaluated,
                        latency_s=seconds,
                    )
                progress(sum(d is not None for d in done), len(done))
        return [d or _no_choice(p, len(candidates), self.context) for d, p in zip(done, prompts, strict=True)]

    def next_logprobs(
        self, prompts: Sequence[tuple[int, ...]], token_ids: Sequence[int]
    ) -> list[list[float]]:
        """Log-softmax over the whole vocabulary in fp32, read at `token_ids`."""
        wanted = torch.tensor(list(token_ids), device=self.device)
        rows: list[list[float]] = [[]] * len(prompts)
        with torch.inference_mode():
            for batch in self._batches(prompts):
                hidden = self._last_hidden([prompts[i] for i in batch])
                logprobs = self.model.lm_head(hidden).float().log_softmax(-1)[:, wanted]
                for index, row in zip(batch, logprobs.tolist(), strict=True):
                    rows[index] = row
        return rows

    def memory_mb(self) -> float:
        """Resident memory of this process, which holds the weights, in MiB."""
        return psutil.Process().memory_info().rss / 2**20

    def close(self) -> None:
        """Drop the weights."""
        self.model = torch.nn.Module()

    def _batches(
        self, prompts: Sequence[Sequence[int]], *, reserve: int = 0, shared: int = 0
    ) -> list[list[int]]:
        """Indices of the prompts that fit the context, by length, about TOKENS_PER_BATCH to a batch."""
        fitting = [i for i, p in enumerate(prompts) if p and len(p) + reserve <= self.context]
        fitting.sort(key=lambda i: len(prompts[i]))
        batches: list[list[int]] = []
        for index in fitting:
            length = len(prompts[index]) - shared + reserve
            if not batches or length * (len(batches[-1]) + 1) > TOKENS_PER_BATCH:
                batches.append([])
            batches[-1].append(index)
        return batches

    def _prefix_cache(self, prefix: tuple[int, ...]) -> DynamicCache:
        ids = torch.tensor([prefix], device=self.device)
        return self.model.model(ids, use_cache=True).past_key_values

    def _last_hidden(self, prompts: list[tuple[int, ...]]) -> torch.Tensor:
        """Hidden states [rows, width] after each prompt's last token. Rows are padded on the right,
        where causal attention can't see them, so no mask is needed."""
        ids = pad_right(prompts).to(self.device)
        hidden = self.model.model(ids, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(prompts)), torch.tensor([len(p) - 1 for p in prompts])]

    def _choose_batch(
        self, rows: list[tuple[int, ...]], trie: Trie, memory: DynamicCache | None, shared: int
    ) -> list[tuple[Search, int]]:
        searches = [Search(trie) for _ in rows]
        evaluated = [len(r) + shared for r in rows]
        paths = [search.next() for search in searches]
        if all(path is None or not path for path in paths) and trie.single_tokens and memory is None:
            self._feed(searches, paths, self._last_hidden(rows), trie)
            return list(zip(searches, evaluated, strict=True))
        runner = _Continuation(self.model, rows, memory, shared)
        while any(path is not None for path in paths):
            hidden = runner.after([path or () for path in paths])
            for i, path in enumerate(paths):
                evaluated[i] += len(path or ())
            self._feed(searches, paths, hidden, trie)
            paths = [search.next() for search in searches]
        return list(zip(searches, evaluated, strict=True))

    def _feed(self, searches: list[Search], paths: list, hidden: torch.Tensor, trie: Trie) -> None:
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, path in enumerate(paths):
            if path is not None:
                groups.setdefault(tuple(path), []).append(i)
        for path, members in groups.items():
            children = torch.tensor(trie.children(path), device=self.device)
            logits = (hidden[members] @ self.model.lm_head.weight[children].t()).float()
            for i, row in zip(members, logits.log_softmax(-1).tolist(), strict=True):
                searches[i].feed(row)


class _Continuation:
    """Prompts run once; any short continuation of them can then be read off, again and again."""

    def __init__(self, model, rows: list[tuple[int, ...]], memory: DynamicCache | None, shared: int) -> None:
        self.model = model
        self.lengths = torch.tensor([len(r) for r in rows])
        self.shared = shared
        self.device = model.lm_head.weight.device
        ids = pad_right(rows).to(self.device)
        self.width = ids.shape[1]
        self.cache = expand(memory, len(rows)) if memory is not None else DynamicCache(config=model.config)
        self.kept = torch.cat(
            [torch.ones(len(rows), shared, dtype=torch.long), _mask(self.lengths, self.width)], dim=1
        ).to(self.device)
        positions = (shared + torch.arange(self.width)).expand(len(rows), -1).to(self.device)
        hidden = self._run(ids, self.kept, positions)
        self.at_end = hidden[torch.arange(len(rows)), self.lengths - 1]

    def after(self, paths: list[tuple[int, ...]]) -> torch.Tensor:
        """Hidden states [rows, width] after each prompt followed by its path (maybe empty)."""
        longest = max(map(len, paths))
        if longest == 0:
            return self.at_end
        ids = pad_right(paths).to(self.device)
        sizes = torch.tensor([len(p) for p in paths])
        mask = torch.cat([self.kept, _mask(sizes, longest).to(self.device)], dim=1)
        positions = (self.shared + self.lengths[:, None] + torch.arange(longest)).to(self.device)
        hidden = self._run(ids, mask, positions)
        self.cache.crop(-longest)
        last = hidden[torch.arange(len(paths)), (sizes - 1).clamp(min=0)]
        return torch.where((sizes == 0)[:, None].to(self.device), self.at_end, last)

    def _run(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.model.model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        ).last_hidden_state


def max_tokens_of(requests: Sequence[Request]) -> int:
    """The longest answer that any of the requests may have."""
    return max((r.max_tokens for r in requests), default=0)


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest prefix that all prompts share and none consists of; empty where it wouldn't pay."""
    if len(prompts) < 2:
        return ()
    low, high = min(prompts), max(prompts)
    size = 0
    while size < min(len(low), len(high)) - 1 and low[size] == high[size]:
        size += 1
    size = min(size, min(map(len, prompts)) - 1)
    return low[:size] if size >= SHORTEST_SHARED_PREFIX else ()


def pad_right(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Token ids [rows, longest], zeros behind the shorter ones."""
    longest = max(max(map(len, rows)), 1)
    return torch.tensor([list(r) + [0] * (longest - len(r)) for r in rows])


def expand(cache: DynamicCache, rows: int) -> DynamicCache:
    """The keys and values of one row, seen as `rows` equal rows (no copy until they grow)."""
    grown = DynamicCache()
    for index, layer in enumerate(cache.layers):
        grown.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
    return grown


def _mask(lengths: torch.Tensor, width: int) -> torch.Tensor:
    return (torch.arange(width) < lengths[:, None]).long()


def _too_long(prompt: Sequence[int], context: int) -> Completion:
    return Completion(
        text="",
        tokens=(),
        logprob=0.0,
        prompt_tokens=len(prompt),
        latency_s=0.0,
        failure=_length_message(len(prompt), context),
    )


def _no_choice(prompt: Sequence[int], candidates: int, context: int) -> Choice:
    return Choice(
        index=0,
        logprobs=(float("-inf"),) * candidates,
        prompt_tokens=len(prompt),
        evaluated_tokens=0,
        latency_s=0.0,
        failure=_length_message(len(prompt), context),
    )


def _length_message(tokens: int, context: int) -> str:
    return f"prompt: {tokens} tokens and the answer don't fit the context of {context}"
