"""The torch engine: transformers weights on this machine, bf16 where the processor multiplies it.

The numerical reference, and on CPUs the faster engine for long prompts and for choosing among labels.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from rung.engines import lora
from rung.engines import prefix as prefixes
from rung.engines.base import Choice, Completion, EngineSpec, Progress, Request, no_progress
from rung.engines.batch_room import DRAWN, RANKED, batch_room
from rung.engines.cores import available_cores
from rung.engines.decode import Decoder
from rung.engines.device import best_dtype, in_halves, moved, no_room, roomy_device
from rung.engines.held import HeldRows, empty_rows
from rung.engines.logits import logits_of, next_logits
from rung.engines.packed import Packed, packed
from rung.engines.parallel import portion, side_by_side, workers
from rung.engines.room import weight_bytes
from rung.engines.rows import Network, Rows, attention_windows, in_batches, pad_right, shared_prefix
from rung.engines.trie import Search, Trie
from rung.errors import EngineError
from rung.memory import give_back, within_memory
from rung.models.resolve import adapter_beside
from rung.models.weights import lost_weights, quiet

Tokens = tuple[int, ...]

PROMPT_TOKENS = 2048
"""Tokens of prompts that are read together."""
SEARCH_TOKENS = 8192
"""Tokens of prompts after which labels of several tokens are searched together: each of the search's steps
reads all weights, for any number of rows."""
ANSWER_TOKENS = 8192
"""Prompts and answers of rows that are written together: a step reads all weights, for any number of rows."""
MOST_ROWS = 64
"""Rows whose logits over the whole vocabulary are held at once."""


def load_model(
    folder: Path, dtype: torch.dtype | None = None, attention: str = "sdpa", device: str | None = None
) -> Network:
    """A causal language model from a safetensors folder, in eval mode.

    On the GPU when there is one with room for it, or on another `device`. `attention` is "sdpa" or "eager".
    Raises EngineError for a folder or an architecture that can't be used, or that lacks weights: those would
    be random; or that holds an adapter, too; and where memory is short. No code that comes with a model is
    ever run.
    """
    if (folder / lora.ADAPTER_CONFIG).exists():
        raise EngineError(adapter_beside(folder))
    kind = dtype or best_dtype()
    if why := no_room(weight_bytes(folder, kind), device):
        raise EngineError(f"{str(folder)!r} can't be loaded: {why}")
    try:
        with within_memory(), quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=kind,
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise EngineError(
            f"{str(folder)!r} can't be read as a language model: {' '.join(str(error).split())[:300]}; it "
            "must hold config.json and safetensors weights of an architecture that transformers knows"
        ) from None
    model, notes = loaded
    if lost := lost_weights(notes):
        raise EngineError(
            f"{str(folder)!r} lacks {len(lost)} weights of its architecture (first: {lost[:3]!r}): bring the "
            "model again, or name one whose weights fit its config.json"
        )
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    place = device or roomy_device(size)
    if place == "cpu" or not moved(model, place):
        if place == device != "cpu":
            raise EngineError(f"{str(folder)!r} can't be loaded: the memory of {device} is used up")
        for parameter in model.parameters():
            # Out of the mapped file, whose pages count as this process's as long as one tensor reads them.
            parameter.data = parameter.data.clone()
    model.eval()
    require_plain(model)
    give_back()
    return model


def load_adapter(model: Network, folder: Path) -> None:
    """Put a PEFT folder's LoRA or prefix on a model. ModelError where it can't be read or doesn't fit."""
    kind, _ = prefixes.kind_and_config(folder)
    (prefixes if kind == prefixes.KIND else lora).load(model, folder)


def require_plain(model: Network) -> None:
    """Raise EngineError unless logits are `lm_head` of `model`'s states and all layers are attention."""
    attention_windows(model.config)
    plain = hasattr(model, "model") and hasattr(model, "lm_head")
    if plain and not hasattr(model.model, "layers"):
        raise EngineError(
            f"the torch engine reads one stack of decoder blocks, and {model.config.model_type!r} has other "
            "parts, such as those for images; use a GGUF file of this model"
        )
    if plain:
        with torch.inference_mode():
            ids = torch.tensor([[0, 1, 2]], device=model.lm_head.weight.device)
            whole = model(ids).logits.float()
            parts = model.lm_head(model.model(ids).last_hidden_state).float()
            plain = torch.allclose(whole, parts, rtol=0.02, atol=0.02)
    if not plain:
        raise EngineError(
            f"the torch engine doesn't know how {model.config.model_type!r} turns its states into logits; "
            "use a GGUF file of this model with the llama engine"
        )


class TorchEngine:
    """Answers for one safetensors folder and at most one PEFT adapter. Not for several threads at once."""

    name = "torch"

    def __init__(self, spec: EngineSpec, model: Network = None) -> None:
        """`model` hands in weights that are loaded already, an adapter attached to them included."""
        self._threads = spec.threads or available_cores()
        torch.set_num_threads(self._threads)
        if model is None:
            if spec.weights is None:
                raise EngineError("the torch engine needs a folder of safetensors weights; none was given")
            model = load_model(spec.weights)
            if spec.adapter is not None:
                load_adapter(model, spec.adapter)
        self._model = model
        self.context = spec.context
        self.folder = spec.weights

    @property
    def model(self) -> Network:
        """The weights. Raises EngineError once the engine is closed."""
        if self._model is None:
            raise EngineError("this torch engine was closed; start another one")
        return self._model

    @property
    def closed(self) -> bool:
        """Whether it refuses all work from now on."""
        return self._model is None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.lm_head.weight.device

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.model, self.folder, self._packed)

    @cached_property
    def _packed(self) -> Packed | None:
        return packed(self.model)

    def generate(self, requests: Sequence[Request], *, progress: Progress = no_progress) -> list[Completion]:
        """Greedy or sampled completions in batches of like length; finished rows leave their batch.

        Raises EngineError before anything runs if a schema can't be enforced.
        """
        self._begin()
        done: dict[int, Completion] = {}
        lengths: list[int | None] = []
        refusals = [self._refusal(request.prompt) for request in requests]
        if None in refusals:
            self._decoder.check(requests)
        for index, request in enumerate(requests):
            room = self.context - len(request.prompt)
            refusal = refusals[index] or self._decoder.closings.refusal(request, room)
            if refusal is not None:
                done[index] = _failed_completion(request.prompt, f"generate: {refusal}")
            lengths.append(None if refusal else len(request.prompt) + min(request.max_tokens, room))
        prompts = [r.prompt for r, size in zip(requests, lengths, strict=True) if size is not None]
        progress(len(done), len(requests))
        prefix = shared_prefix(prompts)
        memory = self._remember(prefix)
        most = portion(MOST_ROWS, self.device)
        drawn = any(request.temperature > 0 for request in requests)
        holds = self._held_at_once(len(prefix), logits=DRAWN if drawn else RANKED)

        def answered(batch: list[int]) -> list[Completion]:
            return self._decoder.run([requests[i] for i in batch], self.context, memory, len(prefix))

        for batch in in_batches(lengths, len(prefix), portion(ANSWER_TOKENS, self.device), most, holds):
            done.update(zip(batch, in_halves(answered, batch), strict=True))
            progress(len(done), len(requests))
        return [done[i] for i in range(len(requests))]

    def choose(
        self,
        prompts: Sequence[Tokens],
        candidates: Sequence[Tokens],
        *,
        progress: Progress = no_progress,
        exhaustive: bool = False,
    ) -> list[Choice]:
        """Best-first search over the candidates' trie, a batch of prompts at a time.

        A failed Choice has no log-probability above -inf. Raises ValueError for candidates of which
        one is a prefix of another.
        """
        self._begin()
        trie = Trie(candidates)
        longest = max(map(len, candidates)) - 1
        done: dict[int, Choice] = {}
        lengths: list[int | None] = []
        for index, prompt in enumerate(prompts):
            refusal = self._refusal(prompt, longest)
            if refusal is not None:
                done[index] = _failed_choice(prompt, trie.size, f"choose: {refusal}")
            lengths.append(None if refusal else len(prompt) + longest)
        prefix = shared_prefix([p for p, size in zip(prompts, lengths, strict=True) if size is not None])
        memory = self._remember(prefix)
        progress(len(done), len(prompts))
        count = workers(self.device)
        over_packs = self._packed is not None  # settled before several threads ask for it

        def searched(batch: list[int]) -> list[Choice]:
            searches = [Search(trie, exhaustive=exhaustive) for _ in batch]
            return self._choose_batch([prompts[i] for i in batch], searches, trie, memory, len(prefix))

        def chosen(batch: list[int]) -> list[Choice]:
            return in_halves(searched, batch)

        together = PROMPT_TOKENS if trie.single_tokens or not over_packs else SEARCH_TOKENS
        together = portion(together, self.device) // count
        budget = _even(lengths, len(prefix), together, count)
        kept = not trie.single_tokens or (bool(prefix) and not over_packs)
        holds = self._held_at_once(len(prefix), kept=kept)
        batches = in_batches(lengths, len(prefix), budget, holds=holds)
        for batch, found in zip(batches, side_by_side(chosen, batches, count), strict=True):
            done.update(zip(batch, found, strict=True))
            progress(len(done), len(prompts))
        return [done[i] for i in range(len(prompts))]

    def let_through(self, request: Request, tokens: Tokens) -> NDArray[np.uint8] | None:
        """Which tokens a request's schema let through at each of a Completion's `drawn` ones.

        Bits [tokens, vocabulary / 8], the lowest first; None without a schema. Raises EngineError as
        `generate`, and for tokens that were drawn otherwise.
        """
        return self._decoder.grammars.replayed(request, tokens)

    def next_logprobs(self, prompts: Sequence[Tokens], token_ids: Sequence[int]) -> list[list[float]]:
        """Log-softmax over the whole vocabulary in fp32, read at `token_ids`.

        Raises EngineError if a prompt is empty or longer than the context.
        """
        self._begin()
        for index, prompt in enumerate(prompts):
            if (refusal := self._refusal(prompt)) is not None:
                raise EngineError(f"no log-probabilities after prompt {index}: {refusal}")
        wanted = torch.tensor(list(token_ids), dtype=torch.long, device=self.device)
        most = portion(PROMPT_TOKENS, self.device)
        found: dict[int, list[float]] = {}

        @torch.inference_mode()
        def read(batch: list[int]) -> list[list[float]]:
            hidden = self._last_hidden([prompts[i] for i in batch])
            total = next_logits(self.model, hidden).logsumexp(-1, keepdim=True)
            return (logits_of(self.model, hidden, wanted) - total).tolist()

        holds = self._held_at_once(0, kept=False, logits=RANKED)
        for batch in in_batches([len(p) for p in prompts], 0, most, MOST_ROWS, holds):
            found.update(zip(batch, in_halves(read, batch), strict=True))
        return [found[i] for i in range(len(prompts))]

    def memory_mb(self) -> float:
        """The weights, adapter included, in MiB: the process holds whatever else runs in it as well."""
        held = {t.data_ptr(): t for t in (*self.model.parameters(), *self.model.buffers())}
        return sum(t.numel() * t.element_size() for t in held.values()) / 2**20

    def close(self) -> None:
        """Drop the weights and refuse any further call."""
        self._model = None
        for made in ("_decoder", "_packed"):
            self.__dict__.pop(made, None)
        give_back()

    def _begin(self) -> None:
        """Be ready to answer on this thread. Raises EngineError once the engine is closed."""
        # Of each thread that asks: torch keeps their number apart, and another one may have loaded the model.
        torch.set_num_threads(self._threads)
        self.model.eval()

    def _refusal(self, prompt: Tokens, more: int = 0) -> str | None:
        """Why a prompt and `more` tokens can't be read, if so."""
        if not prompt:
            return "the prompt is empty"
        if len(prompt) + more >= self.context:
            return (
                f"the prompt has {len(prompt)} tokens and the context holds {self.context}: shorten it or "
                "raise the context"
            )
        return None

    def _held_at_once(
        self, shared: int, *, kept: bool = True, logits: int = 0
    ) -> Callable[[int, int], bool] | None:
        """Whether the GPU's memory holds so many rows of so many tokens of their own; None on a processor."""
        packs = self._packed is not None
        room = batch_room(self.model, self.device, packed=packs, shared=shared, kept=kept, logits=logits)
        return None if room is None else room.holds

    @torch.inference_mode()
    def _remember(self, prefix: Tokens) -> Rows | HeldRows | None:
        """One row that holds a shared prefix. EngineError where a GPU hasn't the memory for it."""
        if not prefix:
            return None
        with within_memory():
            memory = empty_rows(self.model, self._packed, 1)
            memory.feed([prefix])
        return memory

    def _last_hidden(self, rows: Sequence[Tokens], memory: Rows | HeldRows | None = None) -> torch.Tensor:
        """Hidden states [rows, width] after each row, all of which continue `memory`'s row."""
        if self._packed is not None:
            held = memory.memory() if isinstance(memory, HeldRows) else prefixes.memory_of(self.model)
            return self._packed.last(rows, held)
        if memory is not None:
            return memory.spread(len(rows)).feed(rows)
        # Padding stands on the right, where causal attention can't see it: no mask is needed.
        ids = pad_right(rows).to(self.device)
        hidden = self.model.model(ids, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]

    @torch.inference_mode()
    def _choose_batch(
        self,
        prompts: list[Tokens],
        searches: list[Search],
        trie: Trie,
        memory: Rows | HeldRows | None,
        shared: int,
    ) -> list[Choice]:
        start = time.perf_counter()
        evaluated = [len(p) for p in prompts]
        rows = [p[shared:] for p in prompts]
        paths = [search.next() for search in searches]
        if trie.single_tokens:
            self._feed(searches, paths, self._last_hidden(rows, memory), trie)
        else:
            held = memory.spread(len(rows)) if memory else empty_rows(self.model, self._packed, len(rows))
            held.feed(rows)
            while any(path is not None for path in paths):
                self._feed(searches, paths, held.peek([path or () for path in paths]), trie)
                evaluated = [n + len(path or ()) for n, path in zip(evaluated, paths, strict=True)]
                paths = [search.next() for search in searches]
        seconds = (time.perf_counter() - start) / len(prompts)
        results = [search.result() for search in searches]
        return [
            Choice(
                index=best,
                logprobs=logprobs,
                prompt_tokens=len(prompt),
                evaluated_tokens=tokens,
                latency_s=seconds,
            )
            for (best, logprobs), prompt, tokens in zip(results, prompts, evaluated, strict=True)
        ]

    def _feed(
        self, searches: list[Search], paths: Sequence[Tokens | None], hidden: torch.Tensor, trie: Trie
    ) -> None:
        """Give each search the logits of its open node's children."""
        groups: dict[Tokens, list[int]] = {}
        for place, path in enumerate(paths):
            if path is not None:
                groups.setdefault(path, []).append(place)
        for path, members in groups.items():
            children = torch.tensor(trie.children(path), device=self.device)
            logits = logits_of(self.model, hidden[members], children)
            for place, row in zip(members, logits.tolist(), strict=True):
                searches[place].feed(row)


def _even(lengths: Sequence[int | None], shared: int, budget: int, count: int) -> int:
    """The budget of new tokens, `budget` or less, with which `count` workers are done at about one time."""
    own = [length - shared for length in lengths if length is not None]
    rounds = -(-sum(own) // (budget * count))
    return min(budget, sum(own) // max(1, rounds * count) + max(own, default=0))


def _failed_completion(prompt: Tokens, failure: str) -> Completion:
    return Completion(
        text="",
        tokens=(),
        logprob=0.0,
        prompt_tokens=len(prompt),
        latency_s=0.0,
        failure=failure,
        final=True,
    )


def _failed_choice(prompt: Tokens, candidates: int, failure: str) -> Choice:
    return Choice(
        index=0,
        logprobs=(-math.inf,) * candidates,
        prompt_tokens=len(prompt),
        evaluated_tokens=0,
        latency_s=0.0,
        failure=failure,
    )
