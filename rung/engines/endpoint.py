"""The endpoint engine: any OpenAI-compatible URL. It takes messages, since it names no token ids.

The key is read from an environment variable for each request and appears in no message or record.
"""

import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeAlias

import httpx

from rung.engines.base import Choice, Completion, EngineSpec, Progress, Request, no_progress
from rung.engines.endpoint_wire import (
    chat_url,
    label_schema,
    read_chat,
    response_format,
    retry_after_s,
    unsupported_parameter,
)
from rung.engines.work import Refused, run_batch
from rung.errors import EngineError
from rung.records import Json

Messages: TypeAlias = Sequence[tuple[str, str]]
"""(role, content) pairs: `system`, `user`, `assistant`."""

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
HOPELESS = {401: "refused the key in", 403: "does not allow what was asked with the key in"}
LONGEST_WAIT_S = 60.0


class EndpointEngine:
    """Chat completions from one model behind one URL, at most `spec.parallel` in flight.

    A call is tried `attempts` times: again after 429, 5xx, a broken connection, no answer within
    `request_limit_s`, or an answer that isn't JSON, waiting as long as Retry-After says or else
    `backoff_s` doubled each time, with jitter.
    """

    name = "endpoint"

    def __init__(
        self,
        spec: EngineSpec,
        *,
        key_variable: str = "OPENAI_API_KEY",
        request_limit_s: float = 120.0,
        attempts: int = 5,
        backoff_s: float = 0.5,
    ):
        """Nothing is sent yet. Raises EngineError without an URL or a model."""
        if not spec.url or not spec.model:
            raise EngineError(f"an endpoint needs an URL and a model; got {spec.url!r} and {spec.model!r}")
        self._url = chat_url(spec.url)
        self._place = f"{self._url.host}{self._url.path} ({spec.model})"
        self._model = spec.model
        self._parallel = spec.parallel
        self._key_variable = key_variable
        self._limit_s = request_limit_s
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._unsupported: set[str] = set()
        self._stopped = threading.Event()
        self._client = httpx.Client(timeout=request_limit_s)

    def chat(
        self, messages: Messages, *, max_tokens: int, schema: Json = None, temperature: float = 0.0
    ) -> Completion:
        """The answer to one conversation; see `chat_many`."""
        return self.chat_many([messages], max_tokens=max_tokens, schema=schema, temperature=temperature)[0]

    def chat_many(
        self,
        conversations: Sequence[Messages],
        *,
        max_tokens: int,
        schema: Json = None,
        temperature: float = 0.0,
        progress: Progress = no_progress,
    ) -> list[Completion]:
        """The answer to each conversation, in order; a call that breaks has `failure` set.

        `schema` goes out as `response_format`; whether it is kept is up to the server. Token counts are
        those the server bills. Raises EngineError if the key or the model is refused.
        """
        form = None if schema is None else response_format(schema)

        def call(messages: Messages) -> Completion:
            return self._ask(self._body(messages, max_tokens, temperature, form))

        return self._run(conversations, call, progress)

    def label_many(
        self,
        conversations: Sequence[Messages],
        labels: Sequence[str],
        *,
        max_tokens: int = 64,
        progress: Progress = no_progress,
    ) -> list[Completion]:
        """For each conversation a completion whose text is one of `labels`, where the answer names one.

        The server is held to the labels by a JSON Schema; one that refuses schemas is asked in plain
        text, and an answer that is no label is left as it came.
        """
        form = response_format(label_schema(labels))

        def call(messages: Messages) -> Completion:
            try:
                if "response_format" not in self._unsupported:
                    return self._ask(self._body(messages, max_tokens, 0.0, form), labels)
            except Refused as refusal:
                if refusal.status not in (400, 404, 422):
                    raise
            answer = self._ask(self._body(messages, max_tokens, 0.0, None), labels)
            self._unsupported.add("response_format")
            return answer

        return self._run(conversations, call, progress)

    def generate(self, requests: Sequence[Request], *, progress: Progress = no_progress) -> list[Completion]:
        """Raises EngineError: an endpoint takes messages."""
        self._no_tokens("generate")

    def choose(
        self,
        prompts: Sequence[tuple[int, ...]],
        candidates: Sequence[tuple[int, ...]],
        *,
        progress: Progress = no_progress,
        exhaustive: bool = False,
    ) -> list[Choice]:
        """Raises EngineError: an endpoint takes messages."""
        self._no_tokens("choose")

    def next_logprobs(
        self, prompts: Sequence[tuple[int, ...]], token_ids: Sequence[int]
    ) -> list[list[float]]:
        """Raises EngineError: an endpoint takes messages."""
        self._no_tokens("next_logprobs")

    def memory_mb(self) -> float:
        """0: the weights are elsewhere."""
        return 0.0

    def close(self) -> None:
        """Drop the connections; calls that wait to be tried again give up."""
        self._stopped.set()
        self._client.close()

    def _no_tokens(self, method: str) -> NoReturn:
        raise EngineError(
            f"{method}: {self._place} takes messages, not token ids: use chat_many or label_many, "
            "or a local engine"
        )

    def _run(
        self, conversations: Sequence[Messages], call: Callable[[Messages], Completion], progress: Progress
    ) -> list[Completion]:
        def one(index: int) -> Completion:
            start = time.perf_counter()
            try:
                return call(conversations[index])
            except Refused as refusal:
                return Completion(
                    text="",
                    tokens=(),
                    logprob=math.nan,
                    prompt_tokens=0,
                    latency_s=time.perf_counter() - start,
                    failure=f"chat: {self._place}: {refusal}",
                )

        if self._stopped.is_set():
            raise EngineError(f"the endpoint engine for {self._place} was closed; start another one")
        return run_batch(
            range(len(conversations)),
            one,
            workers=self._parallel,
            progress=progress,
            interrupt=self.close,
        )

    def _body(self, messages: Messages, max_tokens: int, temperature: float, form: Json) -> dict[str, Json]:
        body: dict[str, Json] = {
            "model": self._model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        return body if form is None else {**body, "response_format": form}

    def _ask(self, body: dict[str, Json], labels: Sequence[str] = ()) -> Completion:
        """One conversation's answer, after as many tries as are allowed. `latency_s` is of the last try."""
        reason = ""
        tried = 0
        while True:
            tried += 1
            start = time.perf_counter()
            # Unseeded: no result depends on it, and clients with one seed would retry in step.
            wait_s = self._backoff_s * 2 ** (tried - 1) * random.SystemRandom().uniform(0.5, 1.5)
            try:
                response = self._send(body)
                if response.status_code not in RETRIED:
                    return read_chat(response.json(), time.perf_counter() - start, labels)
                reason = self._said(response)
                wait_s = retry_after_s(response.headers.get("retry-after")) or wait_s
            except httpx.TimeoutException:
                reason = f"no answer within {self._limit_s:g} s"
            except httpx.TransportError as error:
                reason = f"the connection broke: {type(error).__name__}"
            except (ValueError, KeyError, TypeError, IndexError) as error:
                reason = f"the answer is not a chat completion: {type(error).__name__}"
            if tried == self._attempts or wait_s > LONGEST_WAIT_S or self._stopped.wait(wait_s):
                raise Refused(f"{reason} (tried {tried} times)")

    def _send(self, body: dict[str, Json]) -> httpx.Response:
        """Post once, or twice where the server says which parameter it doesn't take.

        Raises EngineError where no request can succeed, Refused where this one can't.
        """
        key = os.environ.get(self._key_variable, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        response = self._client.post(self._url, json=self._adapted(body), headers=headers)
        if response.status_code == 400 and (parameter := unsupported_parameter(response)) in body:
            self._unsupported.add(parameter)
            response = self._client.post(self._url, json=self._adapted(body), headers=headers)
        status = response.status_code
        if status in HOPELESS:
            state = "set" if key else "not set"
            raise EngineError(
                f"{self._place} {HOPELESS[status]} {self._key_variable}, which is {state} (status {status})"
            )
        if status == 404 and "response_format" not in body:
            raise EngineError(f"{self._place} is not there (status 404): check the URL and the model's name")
        if status not in RETRIED and not response.is_success:
            raise Refused(self._said(response), status)
        if status == 429 and "insufficient_quota" in response.text:
            raise EngineError(f"{self._place}: the account's quota is used up; add credit or use another key")
        return response

    def _adapted(self, body: dict[str, Json]) -> dict[str, Json]:
        """`body` without what this server has refused; the newer name for the token limit if it was that."""
        body = {**body}
        if "temperature" in self._unsupported:
            del body["temperature"]
        if "max_tokens" in self._unsupported:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return body

    def _said(self, response: httpx.Response) -> str:
        """Status and start of the body, without the key should the server repeat it."""
        key = os.environ.get(self._key_variable, "")
        text = response.text.replace(key, "…") if key else response.text
        return f"status {response.status_code}: {' '.join(text.split())[:300]}"
