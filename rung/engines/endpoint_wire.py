"""What an OpenAI-compatible endpoint is sent and how its answers are read. Pure: no network."""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from rung.engines.base import Completion
from rung.engines.endpoint_calls import NO_CALLS, calls_text
from rung.errors import EngineError
from rung.records import Json
from rung.runs import storable

WRITTEN = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
"""What OpenAI and OpenRouter, LiteLLM, and DashScope call the tokens of a prompt that a cache takes in."""
MOST_TOKENS = 10**12
"""What says more, or what is no number at all, counts nothing."""
CREDIT = re.compile(
    r"credit balance|available credits|spending limit|exceeded_current_quota"
    r"|insufficient[ _](?:\w+[ _]){0,2}(?:credit|balance|quota|fund)",
    re.IGNORECASE,
)
"""What providers say where the money of an account is used up."""
RETRY_DELAY = re.compile(r'retryDelay\\*"\s*:\s*\\*"(\d{1,9}(?:\.\d{1,9})?)s')
"""Google's Retry-After, which stands in the body."""
A_DAY = "PerDay"
"""In Google's name of a limit; the delay beside it is that of another."""
TOOLS = re.compile(r"\btools?\b", re.IGNORECASE)
OF_TOOLS = re.compile(r"\b(?:tool|function)s?(?:_|\b)", re.IGNORECASE)
"""The same in words for functions, and in names of fields such as `tool_choice`."""
NEVER = re.compile(r"--jinja|unsupported|n[o'’]t support|failed to parse tools", re.IGNORECASE)
"""How servers say that they never take something."""
TEMPLATE_FAULT = re.compile(
    r"jinja exception|(?<!parse error )\bat (?:row|line) \d+, column \d+", re.IGNORECASE
)
"""How llama.cpp says that a chat template can't be filled; a parse error is of JSON, and may pass."""


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


def spoken(turns: Sequence[tuple[str, str]]) -> list[Json]:
    """(role, content) pairs as messages."""
    return [{"role": role, "content": content} for role, content in turns]


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
    except (ValueError, TypeError, KeyError, RecursionError):
        named = text
    bare = str(named).strip().strip("\"'`.*").strip().casefold()
    found = [label for label in labels if label.casefold() == bare]
    exact = [label for label in found if label == named]
    return (exact or found or [text])[0]


def without_thoughts(text: str) -> str:
    """What an answer says after the thoughts that some servers leave in it; nothing where those were cut."""
    if not text.lstrip().startswith("<think>"):
        return text
    return text.partition("</think>")[2].lstrip()


def read_chat(answer: Mapping, latency_s: float, *, calls: bool = False) -> Completion:
    """The completion in a server's answer; one that holds no text has a `failure`, and may be billed.

    Nor does one hold any that was cut while the model thought. Where it was offered functions `calls` is
    true, and its calls are its text, as JSON: none where it has words alone, unless these were cut. KeyError,
    IndexError, TypeError or ValueError where it isn't one.
    """
    choice = answer["choices"][0]
    message = dict(choice["message"])
    said, reason = message.get("content"), choice.get("finish_reason")
    text = said if isinstance(said, str) else None
    if calls:
        text = calls_text(message) or (text if reason == "length" else NO_CALLS)
    if reason == "content_filter":
        text = None
    silent = text is None or (reason == "length" and not without_thoughts(text))
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
    counted them is billed too much then, rather than too little. Thoughts are among the completion's tokens
    at OpenAI; at xAI and Google they stand beside them, and in the total alone.
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
    completion += _thoughts_beside(told, prompt + completion, completion)
    return Usage(prompt=prompt, completion=completion, cached=cached, written=written)


def _thoughts_beside(told: Mapping, counted: int, completion: int) -> int:
    """Tokens of thoughts that are billed as the completion's, and aren't among those."""
    given = told.get("completion_tokens_details")
    details = given if isinstance(given, Mapping) else {}
    thoughts, total = _count(details, "reasoning_tokens"), _count(told, "total_tokens")
    if not total:
        return thoughts if thoughts > completion else 0  # more than all of it can't be a part of it
    beside = max(0, total - counted)
    if "reasoning_tokens" in details:
        beside = min(beside, thoughts)
    return max(beside, thoughts - completion)


def _count(told: Mapping, *names: str) -> int:
    """The first of these that is a number which tokens may have."""
    found = (told.get(name) for name in names)
    return next((int(one) for one in found if isinstance(one, int | float) and 0 <= one < MOST_TOKENS), 0)


def is_of_forms(reason: str) -> bool:
    """Whether a refusal is of what the answer is to be held to, and not of one answer that missed it."""
    return any(word in reason for word in ("response_format", "schema")) and "failed_generation" not in reason


def unsupported_parameter(response: httpx.Response) -> str:
    """Which of `temperature` and `max_tokens` a 400 answer says the model doesn't take; empty if neither.

    As OpenAI names it, or in words: `max_tokens` where another name is to be sent instead. A limit that is
    too large is another refusal.
    """
    error = _error(response)
    if isinstance(error, Mapping) and str(error.get("code")).startswith("unsupported"):
        named = str(error.get("param"))
        if named in ("temperature", "max_tokens"):
            return named
    renamed = all(word in response.text for word in ("max_tokens", "max_completion_tokens", "instead"))
    return "max_tokens" if renamed else ""


def may_be_of_temperature(response: httpx.Response) -> bool:
    """Whether a refusal speaks of a temperature; providers have no common words for one they don't take."""
    return "temperature" in (_words(response).strip() or response.text).lower()


def refuses_tools(response: httpx.Response) -> bool:
    """Whether a server says of functions, as of a fault of its own, that it takes none: so llama.cpp does.

    It says so in words of few kinds, which are of one request where it can't read the functions of that one,
    or quotes the line of a chat template that can't write them. All else that comes as a fault may pass.
    """
    if response.status_code != 500 or not isinstance(error := _error(response), Mapping):
        return False
    said = str(error.get("message", ""))
    return bool(TEMPLATE_FAULT.search(said) or (TOOLS.search(said) and NEVER.search(said)))


def is_gone(response: httpx.Response, sent: Collection[str], taken: Collection[str]) -> bool:
    """Whether a 404 is of the model, and not of a form or of functions that stood beside the words.

    `sent` are the keys of the body, `taken` those of bodies that were answered before. Who never took
    functions may refuse them so, with or without a word of them; without one, and before there is any answer,
    nobody was there.
    """
    if "tools" not in sent:
        return "response_format" not in sent
    return "tools" in taken or not (taken or OF_TOOLS.search(_words(response)))


def used_up(response: httpx.Response) -> str:
    """What of an account's is used up by a refusal, and what to do; empty where it says no such thing."""
    status = response.status_code
    if status == 402 or (status in (400, 403, 429) and CREDIT.search(_words(response))):
        return "the account's credit or quota is used up; add credit or use another key"
    if status == 429 and "retry-after" not in response.headers and A_DAY in response.text:
        return "what the account may ask in a day is used up; wait for the next day, or use another key"
    return ""


def is_too_large(response: httpx.Response) -> bool:
    """Whether a 429 is of this request alone, which has more tokens than a minute allows: it never passes."""
    return response.status_code == 429 and "request too large" in response.text.lower()


def _error(response: httpx.Response) -> Json:
    """What a refusal's body has as `error`, Google's in a list; the body itself where it has none."""
    try:
        told = response.json()
    except (ValueError, RecursionError):
        return response.text
    first = told[0] if isinstance(told, list) and told else told
    return first.get("error", first) if isinstance(first, dict) else first


def _words(response: httpx.Response) -> str:
    """A refusal's words; of a 400 without what it may repeat of a conversation or an answer."""
    error = _error(response)
    if response.status_code != 400 or not isinstance(error, Mapping):
        return response.text
    return " ".join(str(error.get(name, "")) for name in ("message", "code", "type", "param"))


def wait_told_s(response: httpx.Response) -> float | None:
    """Seconds to wait by a Retry-After header, or as Google says it; None where neither can be read."""
    told_s = retry_after_s(response.headers.get("retry-after"))
    if told_s is not None:
        return told_s
    found = RETRY_DELAY.search(response.text)
    return float(found[1]) if found else None


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
