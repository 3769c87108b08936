"""What a System asks an engine, and how the engine's answer is read: one for each input, in order."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rung.calling import from_tags, in_tags, schema_of
from rung.engines.base import Choice, Completion, Engine, Progress, Request, no_progress
from rung.engines.trie import Trie
from rung.models.chat import Chat, Message
from rung.models.resolve import Model
from rung.models.tagged_calls import MARKERS, STOPS
from rung.records import Answer, Example
from rung.runs import storable
from rung.scoring.extract import read_answer
from rung.search import Passages
from rung.spec import USUAL_TOKENS, Spec
from rung.task.calls import functions_in, settled_calls, without_functions
from rung.wording import Shot, label_texts, messages, with_passages


def context_of(model: Model) -> int:
    """How many tokens a prompt and its answer may have together."""
    return min(model.context, model.limit)


def room_for_answer(spec: Spec, chat: Chat) -> int:
    """The tokens that the answer may need, of those that the context holds."""
    if spec.answer.form in ("words", "codes"):
        return max(map(len, candidates(spec, chat)))
    return spec.answer.max_tokens


def prompts_for(
    spec: Spec,
    chat: Chat,
    examples: Sequence[Example],
    shots: Sequence[Sequence[Shot]],
    limit: int = USUAL_TOKENS,
    passages: Sequence[Passages] | None = None,
) -> list[tuple[int, ...]]:
    """Prompt ids for each example, as `fitted` has them."""
    parts = zip(examples, shots, passages or [()] * len(examples), strict=True)
    return [fitted(spec, chat, example, some, limit, looked)[0] for example, some, looked in parts]


def fitted(  # noqa: PLR0913 (all that a prompt is made of)
    spec: Spec,
    chat: Chat,
    example: Example,
    shots: Sequence[Shot],
    limit: int,
    passages: Passages = (),
    after: Sequence[Message] = (),
) -> tuple[tuple[int, ...], Passages]:
    """One prompt, which goes on with the turns `after` the question, and the passages in it.

    Where it gets longer than `limit` tokens the first examples, which are the least like the question, are
    left out, then what came after the question, and then the last passages, which are the worst.
    """
    tools: list[dict[str, Any]] = []
    if spec.kind == "tool_call" and spec.style == "chat" and chat.takes_tools:
        # The template says how the model was taught to read its functions.
        tools = [{"type": "function", "function": one} for one in functions_in(example.context)]
        example = replace(example, context=without_functions(example.context))

    def rendered(shots: Sequence[Shot], passages: Passages, after: Sequence[Message]) -> tuple[int, ...]:
        told = messages(spec.instruction, with_passages(example, passages), shots)
        if spec.answer.written == "tagged":
            told = in_tags(told)
        return chat.render([*told, *after], style=spec.style, tools=tools)

    prompt = rendered(shots, passages, after)
    if len(prompt) <= limit or not (shots or after or passages):
        return prompt, passages
    alone = rendered((), (), ())
    if len(alone) > limit:
        return alone, ()
    while len(prompt) > limit:
        if shots:
            shots = shots[1:]
        elif after:
            after = ()
        else:
            passages = passages[:-1]
        prompt = rendered(shots, passages, after)
    return prompt, passages


def candidates(spec: Spec, chat: Chat) -> list[tuple[int, ...]]:
    """The token sequences that stand for the labels, in the labels' order."""
    if spec.answer.form == "codes":
        return [(code,) for code in spec.answer.codes]
    texts = label_texts(spec.labels)
    shown = [chat.shown_ids(text) for text in texts] if _shows_ends(spec) else []
    return shown if shown and all(shown) else [chat.answer_ids(text, spec.style) for text in texts]


def _shows_ends(spec: Spec) -> bool:
    """Whether an answer may end as those of the worked examples do."""
    return spec.answer.ends == "blank_line" and spec.style == "chat"


def ask(  # noqa: PLR0913 (all that calls of one kind may differ in)
    spec: Spec,
    chat: Chat,
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    progress: Progress = no_progress,
    *,
    every_label: bool = False,
    contexts: Sequence[str | None] = (),
    seeds: Sequence[int | None] = (),
    most: Sequence[int] = (),
) -> list[Answer]:
    """Put rendered prompts to an engine and read its answers as the Spec says.

    `contexts` are those of the questions, of which calls need them: the functions stand there. `most` are
    the tokens that may be written after each prompt, where the Spec's own limit isn't meant.
    What has a seed among `seeds`, one for each prompt, is drawn at the temperature of the Spec's steps.
    """
    if spec.answer.form in ("words", "codes"):
        options = candidates(spec, chat)
        trie = Trie(options)
        choices = engine.choose(prompts, options, progress=progress, exhaustive=every_label)
        return [answer_of_choice(spec, choice, trie, every_label) for choice in choices]
    told = list(contexts) or [None] * len(prompts)
    requests = [request_for(spec, chat, prompt, of) for prompt, of in zip(prompts, told, strict=True)]
    if spec.steps is not None:
        heat = spec.steps.temperature
        drawn = zip(requests, seeds, strict=True)
        requests = [r if seed is None else replace(r, temperature=heat, seed=seed) for r, seed in drawn]
    if most:
        requests = [replace(r, max_tokens=end) for r, end in zip(requests, most, strict=True)]
    written = engine.generate(requests, progress=progress)
    return [answer_of_completion(spec, one, of) for one, of in zip(written, told, strict=True)]


def request_for(spec: Spec, chat: Chat, prompt: tuple[int, ...], context: str | None = None) -> Request:
    """What an engine is asked to write after the prompt of a question with this context."""
    schema = spec.schema_ if spec.answer.form == "schema" else None
    tagged = spec.answer.written == "tagged"
    more = chat.break_ids() if _shows_ends(spec) and schema is not None else ()
    return Request(
        prompt=prompt,
        max_tokens=spec.answer.max_tokens,
        stop_ids=tuple(dict.fromkeys((*chat.stop_ids, *more, *((chat.call_end,) if tagged else ())))),
        # As text too: llama.cpp itself ends at the tokens alone that its file says end a text.
        stop=(*chat.stop_strings(spec.style), *(STOPS if tagged else ())),
        shown=MARKERS if tagged else (),
        schema=schema_of(context, spec.answer.most_calls) if spec.answer.form == "calls" else schema,
    )


def answer_of_choice(spec: Spec, choice: Choice, options: Trie, every_label: bool) -> Answer:
    """What an engine's choice among the labels says; `every_label`: it was to look at all of them.

    The chosen label's tokens are what counts as written. How many were evaluated for it is no measure: that
    depends on what the engine's cache held before.
    """
    if choice.failure:
        return Answer(text="", failure=choice.failure, latency_s=choice.latency_s)
    # A label without a probability is out of the question then, not just one that wasn't looked at.
    whole = every_label or options.branchings < 2
    label = spec.labels[choice.index]
    ranked = sorted(zip(spec.labels, choice.logprobs, strict=True), key=lambda pair: -pair[1])
    shares = [math.exp(value) for value in choice.logprobs] if whole else []
    total = math.fsum(shares)
    return Answer(
        text=label,
        value=label,
        probability=math.exp(choice.logprobs[choice.index]),
        options=tuple((name, math.exp(value)) for name, value in ranked[:5]),
        prompt_tokens=choice.prompt_tokens,
        completion_tokens=options.lengths[choice.index],
        latency_s=choice.latency_s,
        distribution=tuple(share / total for share in shares),
    )


def answer_of_completion(spec: Spec, completion: Completion, context: str | None = None) -> Answer:
    """What an engine wrote to a question with this context, read as the Spec says."""
    # Half a surrogate pair, which a model's bytes can spell, is text that no file can hold.
    text = storable(completion.text)
    # A number that was cut off in the middle reads as another one.
    cut = completion.truncated and spec.kind == "number" and spec.answer.form == "free"
    schema = schema_of(context, spec.answer.most_calls) if spec.kind == "tool_call" else spec.schema_
    if spec.answer.written == "tagged":
        text, value = from_tags(text, schema)
    else:
        value = None if cut else read_answer(text, kind=spec.kind, labels=spec.labels, schema=schema)
    if spec.kind == "tool_call" and isinstance(value, list):
        value = settled_calls(value, functions_in(context))
    return Answer(
        text=text,
        value=value,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens or len(completion.tokens),
        cached_tokens=completion.cached_tokens,
        written_tokens=completion.written_tokens,
        latency_s=completion.latency_s,
        failure=completion.failure,
        cut=completion.truncated,
    )
