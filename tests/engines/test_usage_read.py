"""What servers bill, under the names that each has for cached tokens and for thoughts: never too little."""

from dataclasses import astuple

import pytest
from genai_prices import extract_usage
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engines.endpoint_wire import Usage, read_chat, read_usage
from rung.records import TokenPrice
from rung.scoring.cost import tokens_usd

OPENAI = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1536, "cache_write_tokens": 400, "audio_tokens": 0},
}
DEEPSEEK = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_cache_hit_tokens": 1920,
    "prompt_cache_miss_tokens": 86,
}
ANTHROPIC = {
    "input_tokens": 50,
    "output_tokens": 300,
    "cache_read_input_tokens": 1800,
    "cache_creation_input_tokens": 248,
}
LITELLM = {
    "prompt_tokens": 2098,
    "completion_tokens": 300,
    "total_tokens": 2398,
    "prompt_tokens_details": {"cached_tokens": 1800, "cache_creation_tokens": 248},
    "cache_read_input_tokens": 1800,
    "cache_creation_input_tokens": 248,
}
SHAPES = {
    "OpenAI": (OPENAI, (2006, 300, 1536, 400)),
    "OpenAI, nothing cached": ({"prompt_tokens": 11, "completion_tokens": 3}, (11, 3, 0, 0)),
    "DeepSeek": (DEEPSEEK, (2006, 300, 1920, 0)),
    "DeepSeek, which says it twice": (
        DEEPSEEK | {"prompt_tokens_details": {"cached_tokens": 1920}},
        (2006, 300, 1920, 0),
    ),
    "Moonshot": ({"prompt_tokens": 900, "completion_tokens": 8, "cached_tokens": 768}, (900, 8, 768, 0)),
    "Anthropic's own": (ANTHROPIC, (2098, 300, 1800, 248)),
    "Anthropic's endpoint for OpenAI's clients": (
        {"prompt_tokens": 50, "completion_tokens": 300, "prompt_tokens_details": None},
        (50, 300, 0, 0),
    ),
    "LiteLLM": (LITELLM, (2098, 300, 1800, 248)),
    "LiteLLM of old": (
        OPENAI | {"prompt_tokens_details": {"cached_tokens": 1536}, "cache_creation_input_tokens": 200},
        (2006, 300, 1536, 200),
    ),
    "DashScope": (
        OPENAI | {"prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 1024}},
        (2006, 300, 0, 1024),
    ),
    "a gateway that hands Anthropic's names on": (
        {"prompt_tokens": 50, "completion_tokens": 300}
        | {k: v for k, v in ANTHROPIC.items() if k.startswith("cache")},
        (2098, 300, 1800, 248),
    ),
    "one with details that know nothing of them": (
        {"prompt_tokens": 50, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 0}}
        | {k: v for k, v in ANTHROPIC.items() if k.startswith("cache")},
        (2098, 300, 1800, 248),
    ),
    "a prefix that was both read and written": (
        OPENAI | {"prompt_tokens_details": {"cached_tokens": 1536, "cache_write_tokens": 1900}},
        (2006, 300, 1536, 470),
    ),
    "OpenAI, thoughts among the answer": (
        OPENAI | {"completion_tokens_details": {"reasoning_tokens": 256}},
        (2006, 300, 1536, 400),
    ),
    "xAI": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {"cached_tokens": 6},
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        (32, 103, 6, 0),
    ),
    "xAI without a total": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 1,
            "completion_tokens_details": {"reasoning_tokens": 386},
        },
        (32, 387, 0, 0),
    ),
    "xAI behind a gateway that adds up for itself": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 1,
            "total_tokens": 33,
            "completion_tokens_details": {"reasoning_tokens": 386},
        },
        (32, 386, 0, 0),
    ),
    "Google, cut while it thought": (
        {"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81},
        (21, 60, 0, 0),
    ),
    "Google": ({"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 410}, (21, 389, 0, 0)),
    "a total with cached tokens that stand nowhere else": (
        {
            "prompt_tokens": 50,
            "completion_tokens": 300,
            "total_tokens": 2398,
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        (50, 300, 0, 0),
    ),
    "Anthropic's names beside a total of all": (
        {"prompt_tokens": 50, "completion_tokens": 300, "total_tokens": 2398}
        | {k: v for k, v in ANTHROPIC.items() if k.startswith("cache")},
        (2098, 300, 1800, 248),
    ),
    "more cached than there is": (
        {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}},
        (10, 3, 10, 0),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_tokens_are_read_as_each_provider_means_them(shape):
    told, expected = SHAPES[shape]
    assert astuple(read_usage(told)) == expected


@pytest.mark.parametrize(
    ("provider", "model", "flavour", "told"),
    [
        ("openai", "gpt-5-mini", "chat", OPENAI),
        ("openrouter", "openai/gpt-5-mini", "chat", OPENAI),
        ("azure", "gpt-5-mini", "chat", OPENAI),
        (
            "deepseek",
            "deepseek-chat",
            "chat",
            DEEPSEEK | {"prompt_tokens_details": {"cached_tokens": 1920}},
        ),
        ("moonshotai", "kimi-k3", "chat", OPENAI),
        ("anthropic", "claude-haiku-4-5", "default", ANTHROPIC),
    ],
)
def test_the_price_list_reads_the_same_counts_in_what_its_providers_say(provider, model, flavour, told):
    said = {"model": model, "usage": told}
    theirs = extract_usage(said, provider_id=provider, api_flavor=flavour).usage
    counts = (theirs.input_tokens, theirs.output_tokens, theirs.cache_read_tokens, theirs.cache_write_tokens)
    assert astuple(read_usage(told)) == tuple(count or 0 for count in counts)


@pytest.mark.parametrize("told", [None, [1, 2], "10", 7, {}, {"prompt_tokens": None}])
def test_what_says_nothing_bills_nothing(told):
    assert read_usage(told) == Usage()


@pytest.mark.parametrize("odd", ["12", -5, float("nan"), float("inf"), 10**400, [3], {"a": 1}])
def test_a_count_that_is_none_counts_nothing_and_takes_nothing_away(odd):
    details = {"cached_tokens": odd, "cache_write_tokens": odd}
    told = {"prompt_tokens": 10, "completion_tokens": odd, "prompt_tokens_details": details}
    assert read_usage(told) == Usage(prompt=10)
    message = {"choices": [{"message": {"content": "fine"}}], "usage": {"prompt_tokens": odd}}
    assert read_chat(message, 0.1).prompt_tokens == 0


COUNTS = st.integers(0, 5000)


@settings(deadline=None)
@given(COUNTS, COUNTS, COUNTS, st.booleans(), st.booleans())
def test_thoughts_are_billed_wherever_a_provider_counts_them(prompt, said, thoughts, beside, told_apart):
    """Beside the answer's tokens they are in the total; in a detail they may be told in either case."""
    told: dict = {
        "prompt_tokens": prompt,
        "completion_tokens": said if beside else said + thoughts,
        "total_tokens": prompt + said + thoughts,
    }
    if told_apart:
        told["completion_tokens_details"] = {"reasoning_tokens": thoughts}
    assert read_usage(told) == Usage(prompt=prompt, completion=said + thoughts)


PRICE = TokenPrice(
    input_usd_per_m=1.0, output_usd_per_m=4.0, cached_input_usd_per_m=0.1, cache_write_usd_per_m=1.25
)


@settings(deadline=None)
@given(COUNTS, COUNTS, COUNTS, st.booleans(), st.sampled_from(["with details", "empty details", "bare"]))
def test_no_gateway_is_billed_less_than_the_provider_behind_it_bills(fresh, read, created, counted, details):
    """Of `fresh`, `read` and `created` tokens; a gateway may count the latter among its prompt's, or not."""
    truth = tokens_usd(PRICE, fresh + read + created, 0, read, created)
    told: dict = {
        "prompt_tokens": fresh + (read + created if counted or details == "with details" else 0),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": created,
    }
    if details != "bare":
        told["prompt_tokens_details"] = {"cached_tokens": read if details == "with details" else 0}
    found = read_usage(told)
    assert tokens_usd(PRICE, found.prompt, 0, found.cached, found.written) >= truth - 1e-12
