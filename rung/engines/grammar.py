"""JSON Schemas as token masks: which tokens may come next in each row of a batch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rung.engines.base import Request
from rung.engines.schema import require_schema, tight
from rung.errors import EngineError
from rung.models.tokens import read_tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from tokenizers import Tokenizer


KEPT = 512
"""Schemas of which the compiled form is kept: those of functions may come with each question."""


class Grammars:
    """Compiled grammars of one tokenizer, the last KEPT of them for the next request with the same schema."""

    def __init__(self, tokenizer: "Tokenizer", vocabulary: int, ends: tuple[int, ...]) -> None:
        """`vocabulary` is how many tokens the model can write; the tokenizer may have fewer, or more.

        `ends` finish an answer whose request names no stop tokens of its own.
        """
        self._tokenizer, self._vocabulary, self._ends = tokenizer, vocabulary, ends
        # llguidance refuses to leave tokens out, and fills masks of all that it knows.
        self._known = max(vocabulary, tokenizer.get_vocab_size(with_added_tokens=True))
        self._tables: dict[tuple[int, ...], LLTokenizer] = {}
        self._compiled: dict[tuple[str, tuple[int, ...]], LLMatcher] = {}

    def ends(self, request: Request) -> tuple[int, ...]:
        """The tokens that finish the answer: the only ones that may come once the grammar is complete."""
        return request.stop_ids or (() if request.schema is None else self._ends)

    def matcher(self, request: Request) -> "LLMatcher | None":
        """A fresh matcher for the request's schema. Raises EngineError where it can't be enforced."""
        from llguidance import LLMatcher

        if request.schema is None:
            return None
        ends = self.ends(request)
        key = (json.dumps(request.schema), ends)
        if key not in self._compiled:
            require_schema(request.schema)
            text = LLMatcher.grammar_from_json_schema(json.dumps(tight(request.schema)))
            found = LLMatcher(self._table(ends), text)
            if found.is_error():
                raise EngineError(f"the JSON Schema can't be enforced: {found.get_error()}; simplify it")
            self._compiled[key] = found
            if len(self._compiled) > KEPT:
                self._compiled.pop(next(iter(self._compiled)))
            return found.deep_copy()
        return self._compiled[key].deep_copy()

    def allowed(self, matchers: "Sequence[LLMatcher | None]", width: int) -> NDArray[np.bool_] | None:
        """Which tokens may follow: [rows, width], all for rows without a grammar; None if no row has one."""
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        if not any(matchers):
            return None
        bits = allocate_token_bitmask(len(matchers), max(width, self._known))
        for row, matcher in enumerate(matchers):
            if matcher is not None:
                fill_next_token_bitmask(matcher, bits, row)
        return np.unpackbits(bits.view(np.uint8), axis=1, count=width, bitorder="little").view(np.bool_)

    def replayed(self, request: Request, tokens: Sequence[int]) -> NDArray[np.uint8] | None:
        """Which tokens the request's schema let through where each of `tokens` was drawn; None without one.

        Bits [tokens, vocabulary / 8], the lowest first. Raises EngineError for a token that it didn't.
        """
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        matcher = self.matcher(request)
        if matcher is None:
            return None
        bits = allocate_token_bitmask(len(tokens), self._known)
        for place, token in enumerate(tokens):
            fill_next_token_bitmask(matcher, bits, place)
            if not bits[place, token // 32] >> (token % 32) & 1:
                raise EngineError(
                    f"token {token} at place {place} isn't one that the JSON Schema lets through"
                )
            if place + 1 < len(tokens):
                matcher.consume_token(token)
        return bits.view(np.uint8)[:, : -(-self._vocabulary // 8)]

    def spellings(self) -> list[bytes]:
        """The bytes that each token adds to an answer, by id; none for tokens that steer the model."""
        table = next(iter(self._tables.values()), None) or self._table(self._ends or (0,))
        return [
            b"" if table.is_special_token(token) else table.decode_bytes([token])
            for token in range(self._vocabulary)
        ]

    def _table(self, ends: tuple[int, ...]) -> "LLTokenizer":
        from llguidance import LLTokenizer

        if not ends:
            raise EngineError(
                "the model names no token that ends an answer, so nothing would follow a complete JSON "
                "value: give the request's stop_ids"
            )
        if ends not in self._tables:
            try:
                self._tables[ends] = LLTokenizer(
                    self._tokenizer.to_str(), n_vocab=self._known, eos_token=list(ends)
                )
            except ValueError as error:
                raise EngineError(
                    f"no schema can be enforced in this vocabulary: {error}; use the model's GGUF file"
                ) from error
        return self._tables[ends]


def load_tokenizer(folder: Path | None) -> "Tokenizer":
    """The tokenizer of a weights folder. Raises EngineError where there is none, or a damaged one."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise EngineError(
            f"no tokenizer.json in {str(folder)!r}: the torch engine needs it to write text; choosing among "
            "labels works without"
        )
    try:
        return read_tokenizer(folder / "tokenizer.json")
    except Exception as error:  # tokenizers raises Exception itself
        raise EngineError(
            f"{str(folder / 'tokenizer.json')!r} is no tokenizer ({str(error)[:200]}): bring the model again"
        ) from error


def end_tokens(config: Any) -> tuple[int, ...]:
    """The tokens that end a text, as a transformers config names them: one, several or none."""
    named = config.get_text_config().eos_token_id
    if named is None:
        return ()
    return tuple(named) if isinstance(named, list | tuple) else (int(named),)
