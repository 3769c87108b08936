"""The endpoint engine: any OpenAI-compatible URL. It takes messages, since it names no token ids.

The key is read from an environment variable for each request and appears in no message or record. It goes to
the host that it is meant for alone.
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn, TypeAlias, TypeVar

import httpx

from rung.engines.base import Choice, Completion, EngineSpec, Progress, Request, no_progress
from rung.engines.endpoint_bills import Bills
from rung.engines.endpoint_calls import UNASKED, Offer
from rung.engines.endpoint_client import Client
from rung.engines.endpoint_waits import Tries, Waits
from rung.engines.endpoint_wire import (
    chat_url,
    is_gone,
    is_of_forms,
    is_too_large,
    label_schema,
    may_be_of_temperature,
    read_chat,
    read_label,
    refuses_tools,
    response_format,
    spoken,
    unsupported_parameter,
    used_up,
    without_thoughts,
)
from rung.engines.key_hosts import HOST_VARIABLE, is_meant_for
from rung.engines.till import Till
from rung.engines.work import Refused, run_batch
from rung.errors import EngineError
from rung.models.hosted import OTHER_KEY
from rung.records import Json
from rung.runs import digest_of

Messages: TypeAlias = Sequence[tuple[str, str]]
"""(role, content) pairs: `system`, `user`, `assistant`."""
T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""Those from 520 to 524 are Cloudflare's, before which many servers lie."""
HOPELESS = {401: "refused the key in", 403: "does not allow what was asked with the key in"}
SENT = (httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError)
"""Faults that come once the request is out: the server may have worked for it, and bill that."""
BEHIND = frozenset({502, 504, 520, 524})
"""What a gateway says where the server behind it gave no answer: that one may have worked for it, too."""
BACKOFF_S = 0.5
"""Before the second try, doubled before each further one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """How an answer is drawn, and which draw of several it is: the till keeps each."""

    temperature: float = 0.0
    number: int = 0


class _LimitRenamed(Exception):
    """The model takes another limit than it was sent, under which an answer may cost more."""


class _NoCompletion(Exception):
    """What the server answered, and may bill, is no chat completion."""


GREEDY = Draw()
UNTOLD_REFUSALS = 3
"""After so many that don't say why, and no answer in a form, the server is taken not to know forms."""
REASONING_TOKENS = 4096
"""Added to the limit of models that think first (those that take `max_completion_tokens` only, or that had
no word out at their limit): their thoughts count as part of the answer."""


class EndpointEngine:
    """Chat completions from one model behind one URL, at most `spec.parallel` in flight.

    A call is tried `attempts` times: again after 429, 5xx, a broken connection, no word within
    `request_limit_s`, or an answer that isn't JSON, waiting as long as Retry-After says or else
    `backoff_s` (BACKOFF_S) doubled each time, with jitter. A Retry-After, and a 429 without one, holds back
    every call; at a 429 the count of a call's tries begins anew where another call was answered since its
    last one. With a `till`, answers that were paid for are taken from there, and its cap is kept to.
    """

    name = "endpoint"

    def __init__(
        self,
        spec: EngineSpec,
        *,
        till: Till | None = None,
        request_limit_s: float = 120.0,
        attempts: int = 5,
        backoff_s: float | None = None,
    ):
        """Nothing is sent yet. Raises EngineError without an URL or a model, or a price for the till."""
        if not spec.url or not spec.model:
            raise EngineError(f"an endpoint needs an URL and a model; got {spec.url!r} and {spec.model!r}")
        self._url = chat_url(spec.url)
        self._place = f"{self._url.host}{self._url.path} ({spec.model})"
        self._model = spec.model
        self._parallel = spec.parallel
        self._key_variable = spec.key_variable
        self._named = frozenset[str]() if till is None else till.named
        self._till = till
        self._bills = Bills(till, spec.url, spec.model, self._place) if till is not None else None
        self._limit_s = request_limit_s
        self._waits = Waits(self._place, attempts, BACKOFF_S if backoff_s is None else backoff_s)
        self._unsupported: set[str] = set()
        self._temperatures_taken: set[Json] = set()
        self._thinks = False
        self._forms_taken: set[str] = set()
        self._forms_not_taken: set[str] = set()
        self._forms_refused = 0
        self._client = Client(request_limit_s)

    def chat(
        self, messages: Messages, *, max_tokens: int, schema: Json = None, draw: Draw = GREEDY
    ) -> Completion:
        """The answer to one conversation; see `chat_many`."""
        return self.chat_many([messages], max_tokens=max_tokens, schema=schema, draw=draw)[0]

    def chat_many(
        self,
        conversations: Sequence[Messages],
        *,
        max_tokens: int,
        schema: Json = None,
        draw: Draw = GREEDY,
        progress: Progress = no_progress,
        of: str = "",
    ) -> list[Completion]:
        """The answer to each conversation, in order; a call that breaks has `failure` set.

        `schema` goes out as `response_format`; whether it is kept is up to the server, and one that refuses
        it is asked without. Token counts are those the server bills. An answer that was paid for and is of
        another model than `of`, by its own report, is asked for anew, but for one that was before. Raises
        EngineError if the key or the model is refused, or where nothing is answered any more.
        """
        form = None if schema is None else response_format(schema)

        def call(messages: Messages) -> Completion:
            body = self._body(spoken(messages), max_tokens, draw.temperature)
            return self._formed(body, form, draw.number, of)

        return self._run(conversations, call, progress)

    def label_many(
        self,
        conversations: Sequence[Messages],
        labels: Sequence[str],
        *,
        max_tokens: int = 64,
        draw: Draw = GREEDY,
        progress: Progress = no_progress,
        of: str = "",
    ) -> list[Completion]:
        """For each conversation a completion whose text is one of `labels`, where the answer names one.

        The server is held to the labels by a JSON Schema; one that refuses schemas is asked in plain
        text, and an answer that is no label is left as it came, without thoughts before it. `of`: as in
        `chat_many`.
        """
        form = response_format(label_schema(labels))

        def call(messages: Messages) -> Completion:
            body = self._body(spoken(messages), max_tokens, draw.temperature)
            found = self._formed(body, form, draw.number, of)
            return replace(found, text=read_label(without_thoughts(found.text), labels))

        return self._run(conversations, call, progress)

    def call_many(
        self,
        conversations: Sequence[Sequence[Json]],
        offers: Sequence[Offer],
        *,
        max_tokens: int,
        draw: Draw = GREEDY,
        progress: Progress = no_progress,
        of: str = "",
    ) -> list[Completion]:
        """For each conversation, in the protocol's own messages, a completion whose text is calls as JSON.

        The functions of its offer go out as `tools`, and have their own names in calls again. `[]` where none
        are offered, which isn't sent, or an answer has words alone. What refuses `tools` is a failure.
        """

        def call(asked: tuple[Sequence[Json], Offer]) -> Completion:
            messages, offered = asked
            if not offered.tools:
                return UNASKED
            body = self._body(messages, max_tokens, draw.temperature) | offered.body
            # What is kept has the names that were sent: other functions may have been sent under them.
            found = self._formed(body, None, draw.number, of)
            return found if found.failure else replace(found, text=offered.named(found.text))

        return self._run([*zip(conversations, offers, strict=True)], call, progress)

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

    @property
    def closed(self) -> bool:
        """Whether it refuses all work from now on."""
        return self._waits.stopped.is_set()

    def close(self) -> None:
        """Drop the connections, once nobody reads from them; calls that wait to be tried again give up.

        What is bought out of a till and doesn't come soon counts as paid. Raises RunError where that can't be
        written.
        """
        self._waits.stopped.set()
        try:
            if self._bills is not None:
                self._bills.close()
        finally:
            self._client.close()

    def _no_tokens(self, method: str) -> NoReturn:
        raise EngineError(
            f"{method}: {self._place} takes messages, not token ids: use chat_many or label_many, "
            "or a local engine"
        )

    def _run(
        self, conversations: Sequence[T], call: Callable[[T], Completion], progress: Progress
    ) -> list[Completion]:
        def one(index: int) -> Completion:
            start = time.perf_counter()
            try:
                with self._client.asked():
                    return call(conversations[index])
            except Refused as refusal:
                return Completion(
                    text="",
                    tokens=(),
                    logprob=math.nan,
                    prompt_tokens=0,
                    latency_s=time.perf_counter() - start,
                    failure=f"chat: {self._place}: {refusal}",
                    final=refusal.status is not None,
                )

        if self._waits.stopped.is_set():
            raise EngineError(f"the endpoint engine for {self._place} was closed; start another one")
        return run_batch(
            range(len(conversations)),
            one,
            workers=self._parallel,
            progress=progress,
            interrupt=self.close,
        )

    def _body(self, messages: Sequence[Json], max_tokens: int, temperature: float) -> dict[str, Json]:
        return {
            "model": self._model,
            "messages": [*messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }

    def _formed(self, body: dict[str, Json], form: Json, draw: int, of: str) -> Completion:
        """The answer in a form; without it where the server takes none, or not for this conversation."""
        if self._till is not None and self._till.asks_nothing:
            return self._paid_for(body, form, draw, of)
        name = digest_of(form)
        if form is None or "response_format" in self._unsupported or name in self._forms_not_taken:
            return self._ask(body, draw, of)
        try:
            answer = self._ask({**body, "response_format": form}, draw, of)
            self._forms_taken.add(name)
            return answer
        except Refused as refusal:
            if refusal.status not in (400, 404, 422):
                raise
            reason = str(refusal)
        answer = self._ask(body, draw, of)
        self._forms_refused += 1
        told = is_of_forms(reason)
        if (told or self._forms_refused >= UNTOLD_REFUSALS) and not self._forms_taken:
            self._unsupported.add("response_format")
        if told and name not in self._forms_taken:
            self._forms_not_taken.add(name)
        return answer

    def _paid_for(self, body: dict[str, Json], form: Json, draw: int, of: str) -> Completion:
        """The answer that was paid for, in a form or without. Raises Refused where none was."""
        assert self._till is not None, "without a till nothing is paid for"
        for sent in ([] if form is None else [{**body, "response_format": form}]) + [body]:
            if (known := self._till.known(self._asked(sent, draw), of)) is not None:
                return known
        raise Refused("no answer was paid for")

    def _asked(self, body: dict[str, Json], draw: int) -> str:
        """What the till keeps the answer under."""
        return digest_of([str(self._url), body, draw])

    def _ask(self, body: dict[str, Json], draw: int, of: str) -> Completion:
        """One conversation's answer, paid for once. Raises EngineError at the till's cap."""
        asked = self._asked(body, draw)
        if self._till is not None and (known := self._till.known(asked, of)) is not None:
            return known
        while True:
            roomy = self._thinks or "max_tokens" in self._unsupported
            try:
                answer = self._bought(body, asked, of, roomy)
            except _LimitRenamed:
                continue  # it refused the other name, which costs nothing; what this one may cost is more
            if roomy or not _is_all_thoughts(answer):
                return answer
            self._thinks = True  # once for each call that was under way: the next one has room

    def _bought(self, body: dict[str, Json], asked: str, of: str, roomy: bool) -> Completion:
        """The answer; `roomy`: with room for thoughts before it.

        Where there is a till it's kept there as that to `asked`, but for one that another is to be asked for.
        """
        limit = int(str(body["max_tokens"])) + (REASONING_TOKENS if roomy else 0)
        sent = self._limited(body, limit)
        if self._bills is None:
            return self._tried(sent)
        with self._bills.opened(len(json.dumps(sent)), limit) as bill:
            answer = self._tried(sent, partial(self._bills.lose, bill))
            self._bills.keep(bill, asked if roomy or not _is_all_thoughts(answer) else "", answer, of)
        return answer

    def _limited(self, body: dict[str, Json], limit: int) -> dict[str, Json]:
        """`body` with this limit, under the name that the model takes it by."""
        if "max_tokens" not in self._unsupported:
            return {**body, "max_tokens": limit}
        sent = {key: value for key, value in body.items() if key != "max_tokens"}
        return {**sent, "max_completion_tokens": limit}

    def _tried(self, body: dict[str, Json], lost: Callable[[], None] = lambda: None) -> Completion:
        """One conversation's answer, after as many tries as are allowed. `latency_s` is of the last try.

        `lost` is told of each try that the server may have worked for and that brought nothing. Raises
        EngineError where nobody is answered any more, or not before long.
        """
        tries = Tries(self._waits)
        while True:
            tries.begin()
            start = time.perf_counter()
            try:
                response = self._send(body)
                if response.status_code not in RETRIED:
                    found = _completion(response, time.perf_counter() - start, calls="tools" in body)
                    self._waits.answered(body)
                    return self._placed(found)
                if response.status_code in BEHIND:
                    lost()
                tries.put_off(response, self._said(response))
            except httpx.TransportError as error:
                late = isinstance(error, httpx.TimeoutException)
                broke = f"the connection broke: {type(error).__name__}"
                tries.broke(f"no answer within {self._limit_s:g} s" if late else broke)
                if isinstance(error, SENT):
                    lost()
            except (_NoCompletion, httpx.DecodingError) as error:
                tries.broke(f"the answer is not a chat completion: {error}")
                lost()
            tries.wait()

    def _placed(self, found: Completion) -> Completion:
        """The completion, whose failure says where it came from."""
        if found.failure is None:
            return found
        return replace(found, failure=f"chat: {self._place}: {found.failure}")

    def _send(self, body: dict[str, Json]) -> httpx.Response:
        """Post, and again without a parameter of which the server says that it doesn't take it.

        Models that think refuse two, one answer after the other. Raises EngineError where no request can
        succeed, Refused where this one can't, _LimitRenamed where it can with another limit.
        """
        key = self._key()
        response = self._posted(body, {"Authorization": f"Bearer {key}"} if key else {})
        status = response.status_code
        if why := used_up(response):
            raise EngineError(f"{self._place}: {why}, and run the same command again")
        if status in HOPELESS:
            other = f"for other hosts by {HOST_VARIABLE}" if self._held() else "not set"
            state = "set" if key else other
            raise EngineError(
                f"{self._place} {HOPELESS[status]} {self._key_variable}, which is {state} (status {status})"
            )
        if status == 404 and is_gone(response, body, self._waits.taken):
            said = self._said(response)
            raise EngineError(f"{self._place} is not there: check the URL and the model's name ({said})")
        never = is_too_large(response) or ("tools" in body and refuses_tools(response))
        if (status not in RETRIED and not response.is_success) or never:
            raise Refused(self._said(response), status)
        return response

    def _posted(self, body: dict[str, Json], headers: dict[str, str]) -> httpx.Response:
        """What the server says to a body, or to one without what it doesn't take.

        Where a refusal speaks of a temperature that nothing was answered at yet, the request goes out without
        one: if that is answered, no other has one.
        """
        sent, doubted = self._adapted(body), False
        response = self._client.post(self._url, sent, headers)
        while response.status_code == 400:
            parameter = unsupported_parameter(response)
            if parameter in sent:
                self._unsupported.add(parameter)
                if parameter == "max_tokens":
                    raise _LimitRenamed
            elif sent.get("temperature") in (None, *self._temperatures_taken):
                break
            elif may_be_of_temperature(response):
                doubted = True
            else:
                break
            sent = {key: value for key, value in sent.items() if key != "temperature"}
            response = self._client.post(self._url, sent, headers)
        if response.is_success and "temperature" in sent:
            self._temperatures_taken.add(sent["temperature"])
        elif response.is_success and doubted:
            self._unsupported.add("temperature")
        return response

    def _key(self) -> str:
        """The key as it is set now, empty for none, and for one that is for other hosts.

        Raises EngineError for one that no request can carry, and for a host that may be a stranger's.
        """
        key = self._held()
        if not (key.isascii() and key.isprintable()):
            raise EngineError(
                f"{self._place}: {self._key_variable} holds characters that no key has (other quotes, a line "
                "break, a letter with an accent): copy the key again"
            )
        if key and self._key_variable == OTHER_KEY and not is_meant_for(self._url, self._named):
            return ""
        return key

    def _held(self) -> str:
        return os.environ.get(self._key_variable, "").strip()

    def _adapted(self, body: dict[str, Json]) -> dict[str, Json]:
        """`body` without a temperature if this server has refused one."""
        return {k: v for k, v in body.items() if k != "temperature" or k not in self._unsupported}

    def _said(self, response: httpx.Response) -> str:
        """Status and start of the body, without the key should the server repeat it."""
        key = self._key()
        text = response.text.replace(key, "…") if key else response.text
        return f"status {response.status_code}: {' '.join(text.split())[:300]}"


def _is_all_thoughts(answer: Completion) -> bool:
    """Whether a model that thinks first reached the limit before it had a word out."""
    return answer.failure is not None and answer.truncated


def _completion(response: httpx.Response, latency_s: float, *, calls: bool) -> Completion:
    """The answer that a response holds, to what offers functions or not. Raises _NoCompletion for none."""
    try:
        return read_chat(response.json(), latency_s, calls=calls)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise _NoCompletion(type(error).__name__) from error
