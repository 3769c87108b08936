"""What is sent to llama.cpp's server and how its answers are read. Pure: no process, no network."""

import math
from collections.abc import Mapping, Sequence

from rung.engines.base import Request
from rung.engines.schema import grammar

BIAS = 128.0
"""Added to the logits of the tokens asked about; everything else becomes e⁻¹²⁸ times less likely."""
FORCED = 1e6
"""Added to the logit of a token that must be sampled; the model's own log-probabilities don't show it."""
EVERY_TOKEN = 1 << 24
"""More probabilities than any vocabulary has; the server gives all it has."""
DRAWN_SEED = 0xFFFFFFFF
"""With this seed the server draws one itself, another one each time."""
IN_ITS_PLACE = 0x9E3779B9
"""A seed far from those that are counted up from -1 or below."""

Wire = dict[str, object]


def completion_call(request: Request, room: int, slot: int, probabilities: int = 1) -> Wire:
    """The body of a /completion call that answers `request` within `room` tokens.

    Beside each token stand the `probabilities` likeliest ones.
    """
    body: Wire = {
        **_common(request.prompt, slot),
        "n_predict": min(request.max_tokens, room),
        "n_probs": probabilities,
        "temperature": request.temperature,
        "samplers": ["temperature", "top_p"] if request.top_p < 1 else ["temperature"],
        "top_p": request.top_p,
        "seed": IN_ITS_PLACE if (seed := request.seed & 0xFFFFFFFF) == DRAWN_SEED else seed,
        "stop": list(request.stop),
    }
    if request.shown:
        body["preserved_tokens"] = list(request.shown)
    if request.schema is not None:
        body["grammar"] = grammar(request.schema, request.stop_ids)
    return body


def top_call(prompt: Sequence[int], count: int, slot: int, forced: int) -> Wire:
    """Ask for the `count` likeliest next tokens with the model's own log-probabilities.

    `forced` is sampled, a token of whole characters: the server gives no probabilities after others.
    """
    return _next_call(prompt, count, slot, [[forced, FORCED]])


def among_call(prompt: Sequence[int], token_ids: Sequence[int], slot: int) -> Wire:
    """Ask for the next-token distribution restricted to `token_ids`, exactly, in one evaluation.

    An equal bias on all of them leaves their ratios as they are and drowns every other token.
    """
    biases = [[token, BIAS] for token in token_ids]
    return {**_next_call(prompt, len(token_ids), slot, biases), "post_sampling_probs": True}


def read_top(answer: Mapping) -> dict[int, float]:
    """Log-probability by token id from the answer to a `top_call`; NaN where the model computes no number."""
    top = answer["completion_probabilities"][0]["top_logprobs"]
    return {entry["id"]: _number(entry["logprob"]) for entry in top}


def read_among(answer: Mapping, token_ids: Sequence[int]) -> list[float] | None:
    """Log-probabilities of `token_ids` among themselves, NaN as above; None if the answer doesn't hold them.

    That is so when the token that was sampled ends inside a multi-byte character, and when the model's
    logits lie so far apart that other tokens were not drowned.
    """
    steps = answer.get("completion_probabilities")
    if not steps:
        return None
    found = {entry["id"]: _number(entry["prob"]) for entry in steps[0]["top_probs"]}
    if not found.keys() <= set(token_ids):
        return None
    return [math.log(found[token]) if found.get(token) else -math.inf for token in token_ids]


def read_logprob(answer: Mapping, kept: int) -> float:
    """Sum of the model's log-probabilities over the first `kept` tokens.

    NaN where the server leaves one out, as for a token that ends inside a multi-byte character.
    """
    steps = (answer.get("completion_probabilities") or [])[:kept]
    if [step["id"] for step in steps] != list(answer["tokens"][:kept]):
        return math.nan
    return math.fsum(_number(step["logprob"]) for step in steps)


def _number(value: float | None) -> float:
    """JSON has no NaN: the server writes null."""
    return math.nan if value is None else value


def first_stop(tokens: Sequence[int], stop_ids: Sequence[int]) -> int:
    """How many tokens come before the first stop token; all of them without one."""
    return next((place for place, token in enumerate(tokens) if token in stop_ids), len(tokens))


def _next_call(prompt: Sequence[int], count: int, slot: int, biases: list[list[float]]) -> Wire:
    return {
        **_common(prompt, slot),
        "n_predict": 1,
        "n_probs": count,
        "samplers": [],
        "temperature": 1.0,
        "seed": 0,
        "logit_bias": biases,
    }


def _common(prompt: Sequence[int], slot: int) -> Wire:
    return {"prompt": list(prompt), "id_slot": slot, "cache_prompt": True, "return_tokens": True}
