"""What an OpenAI-compatible endpoint is sent and how its answers are read. Pure: no network."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from rung.engines.base import Completion
from rung.errors import EngineError
from rung.records import Json
from rung.runs import storable

WRITTEN = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
"""What OpenAI and OpenRouter, LiteLLM, and DashScope call the tokens of a prompt that a cache takes in."""
MOST_TOKENS = 10**12
"""What says more, or what is no number at all, counts nothing."""


def chat_url(url: str) -> httpx.URL:
    """The chat-completions address for a base URL, with or without its /v1; credentials in it are refused."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        # Neither the URL nor the reason is shown: a password may be in either.
        raise EngineError(
            "the endpoint's URL can't be read: check its host and port, as in http://host:8000/v1"
        ) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise EngineError(f"{url!r} is not an http or https URL of an endpoint")
    if parsed.userinfo:
        raise EngineError(f"the URL of {parsed.host!r} holds a user or password: use the key's variable")
    path = parsed.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return parsed.copy_with(path=path)


def response_format(schema: Json) -> Json:
    """`schema` as OpenAI's structured outputs take it."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def label_schema(labels: Sequence[str]) -> Json:
    """An object with one key, `label`, that is one of `labels` (servers want an object at the top)."""
    return {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(labels)}},
        "required": ["label"],
        "additionalProperties": False,
    }


def read_label(text: str, labels: Sequence[str]) -> str:
    """The label that `text` names, as JSON or bare, in any case; `text` itself where it names none."""
    try:
        value = json.loads(text)
        named = value["label"]
    except (ValueError, TypeError, KeyError):
        named = text
    bare = str(named).strip().strip("\"'`.*").strip().casefold()
    found = [label for label in labels if label.casefold() == bare]
    exact = [label for label in found if label == named]
    return (exact or found or [text])[0]


def read_chat(answer: Mapping, latency_s: float) -> Completion:
    """The completion in a server's answer; one that holds no text has a `failure`, and may be billed.

    KeyError, IndexError, TypeError or ValueError where it isn't one.
    """
    choice = answer["choices"][0]
    said = dict(choice["message"]).get("content")
    reason = choice.get("finish_reason")
    text = said if isinstance(said, str) and reason != "content_filter" else None
    silent = text is None or (not text and reason == "length")
    usage = read_usage(answer.get("usage"))
    return Completion(
        text=storable(text or ""),
        tokens=(),
        logprob=math.nan,
        prompt_tokens=usage.prompt,
        latency_s=latency_s,
        truncated=reason == "length",
        failure=f"the model gave no text (finish reason {reason!r})" if silent else None,
        final=silent,
        completion_tokens=usage.completion,
        cached_tokens=usage.cached,
        written_tokens=usage.written,
        reported=storable(str(answer.get("model") or "")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens that a server bills. Those `cached` and those `written` to its cache are among the prompt's."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    written: int = 0


def read_usage(told: Json) -> Usage:
    """What an answer's `usage` says, 0 for what it doesn't, under whichever names cached tokens have there.

    OpenAI's `prompt_tokens_details`, DeepSeek's `prompt_cache_hit_tokens` and Moonshot's bare `cached_tokens`
    are parts of `prompt_tokens`, and so is what LiteLLM says again beside such details. Anthropic's own names
    stand beside its `input_tokens`, and are added where no details show that they were: a gateway that had
    counted them is billed too much then, rather than too little.
    """
    if not isinstance(told, Mapping):
        return Usage()
    prompt = _count(told, "prompt_tokens", "input_tokens")
    completion = _count(told, "completion_tokens", "output_tokens")
    given = told.get("prompt_tokens_details")
    details = given if isinstance(given, Mapping) else {}
    cached = _count(details, "cached_tokens") or _count(told, "prompt_cache_hit_tokens", "cached_tokens")
    read, created = _count(told, "cache_read_input_tokens"), _count(told, "cache_creation_input_tokens")
    written = _count(details, *WRITTEN)
    counted = bool(cached or written == created) and read in (0, cached) and read + created <= prompt
    if (read or created) and not counted:
        prompt, cached, written = prompt + read + created, read, created
    cached = min(prompt, cached)
    # Both may be of one prefix, which isn't written where it was read.
    written = min(prompt - cached, written or created)
    return Usage(prompt=prompt, completion=completion, cached=cached, written=written)


def _count(told: Mapping, *names: str) -> int:
    """The first of these that is a number which tokens may have."""
    found = (told.get(name) for name in names)
    return next((int(one) for one in found if isinstance(one, int | float) and 0 <= one < MOST_TOKENS), 0)


def unsupported_parameter(response: httpx.Response) -> str:
    """Which of `temperature` and `max_tokens` a 400 answer says the model doesn't take; empty if neither."""
    try:
        error = response.json()["error"]
        named = error["param"] if str(error["code"]).startswith("unsupported") else ""
    except (ValueError, KeyError, TypeError):
        return ""
    return named if named in ("temperature", "max_tokens") else ""


def retry_after_s(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or a date); None if absent or unreadable."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
