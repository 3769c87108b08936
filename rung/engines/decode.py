"""Batched decoding in torch: one key/value cache per batch, finished rows dropped, JSON Schema as a mask."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import DynamicCache

from rung.engines.base import Completion, Request
from rung.engines.schema import require_schema, tight
from rung.errors import EngineError
from rung.records import Json


@dataclass
class _Row:
    index: int
    request: Request
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    matcher: object = None
    stopped: bool = False


class Decoder:
    """Completes batches of requests with one model."""

    def __init__(self, model, folder: Path | None) -> None:
        """`folder` holds tokenizer.json, needed to read text and to constrain it."""
        from tokenizers import Tokenizer

        if folder is None:
            raise EngineError("the torch engine can't write text without the tokenizer's folder")
        self.model = model
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.device = model.lm_head.weight.device
        self._grammar_tokenizer = None

    @torch.inference_mode()
    def run(self, requests: list[Request]) -> list[Completion]:
        """All rows step by step; padded on the left so that every row's next token is in the last column."""
        start = time.perf_counter()
        rows = [_Row(i, r, matcher=self._matcher(r.schema)) for i, r in enumerate(requests)]
        longest = max(len(r.prompt) for r in requests)
        ids = torch.tensor([[0] * (longest - len(r.prompt)) + list(r.prompt) for r in requests]).to(
            self.device
        )
        mask = torch.tensor([[0] * (longest - len(r.prompt)) + [1] * len(r.prompt) for r in requests])
        mask = mask.to(self.device)
        cache = DynamicCache(config=self.model.config)
        live = rows
        finished: list[Completion | None] = [None] * len(rows)
        generators = {r.index: torch.Generator().manual_seed(r.request.seed) for r in rows}
        while live:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            hidden = self.model.model(
                ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
            logits = self.model.lm_head(hidden).float().cpu()
            for row, row_logits in zip(live, logits, strict=True):
                self._step(row, row_logits, generators[row.index])
            keep = [i for i, row in enumerate(live) if not row.stopped]
            for row in live:
                if row.stopped:
                    finished[row.index] = self._completion(row, time.perf_counter() - start)
            if len(keep) < len(live):
                live = [live[i] for i in keep]
                chosen = torch.tensor(keep, dtype=torch.long, device=self.device)
                cache.batch_select_indices(chosen)
                mask = mask[chosen]
            if live:
                ids = torch.tensor([[row.tokens[-1]] for row in live], device=self.device)
                mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        return [c for c in finished if c is not None]

    def _step(self, row: _Row, logits: torch.Tensor, generator: torch.Generator) -> None:
        request = row.request
        if row.matcher is not None:
            logits = self._constrain(row, logits)
        logprobs = logits.log_softmax(-1)
        if request.temperature > 0:
            weights = (logits / request.temperature).softmax(-1)
            token = int(torch.multinomial(weights, 1, generator=generator))
        else:
            token = int(logits.argmax())
        row.logprob += float(logprobs[token])
        if token in request.stop_ids:
            row.stopped = True
            return
        row.tokens.append(token)
        if row.matcher is not None:
            row.matcher.consume_token(token)  # type: ignore[attr-defined]
            row.stopped = row.matcher.is_stopped()  # type: ignore[attr-defined]
        if len(row.tokens) >= request.max_tokens:
            row.stopped = True
        elif request.stop and any(s in self._text(row.tokens[-16:]) for s in request.stop):
            row.stopped = True

    def _constrain(self, row: _Row, logits: torch.Tensor) -> torch.Tensor:
        import llguidance.torch as masks

        bitmask = masks.allocate_token_bitmask(1, logits.shape[-1])
        masks.fill_next_token_bitmask(row.matcher, bitmask, 0)  # type: ignore[arg-type]
        allowed = logits[None].clone()
        masks.apply_token_bitmask_inplace(allowed, bitmask)
        return allowed[0]

    def _matcher(self, schema: Json):
        if schema is None:
            return None
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer
        from transformers import PreTrainedTokenizerFast

        if self._grammar_tokenizer is None:
            fast = PreTrainedTokenizerFast(tokenizer_object=self.tokenizer)
            eos = self.model.config.eos_token_id
            self._grammar_tokenizer = from_tokenizer(
                fast, n_vocab=self.model.config.vocab_size, eos_token=eos if isinstance(eos, int) else eos[0]
            )
        require_schema(schema)
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(tight(schema)))
        matcher = LLMatcher(self._grammar_tokenizer, grammar)
        if matcher.is_error():
            raise EngineError(f"the JSON Schema can't be enforced: {matcher.get_error()}; simplify it")
        return matcher

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def _completion(self, row: _Row, seconds: float) -> Completion:
        text = self._text(row.tokens)
        for stop in row.request.stop:
            text = text.split(stop)[0]
        return Completion(
            text=text,
            tokens=tuple(row.tokens),
            logprob=row.logprob,
            prompt_tokens=len(row.request.prompt),
            latency_s=seconds,
            truncated=len(row.tokens) >= row.request.max_tokens,
        )
