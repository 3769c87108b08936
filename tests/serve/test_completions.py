"""POST /v1/completions: texts that a base model continues, or that a System takes as its input."""

import asyncio
import itertools

import openai
import pytest

from rung.models.chat import load_chat
from rung.models.resolve import resolve
from rung.serve.gateway import Parts
from rung.serve.lanes import is_full
from tests.fixtures_climb import label_rows
from tests.fixtures_serve import Server, row

TEXTS = [r["input"] for r in label_rows(3, seed=9)]


def complete(server, model, prompt, **options):
    return server.user.completions.create(model=model, prompt=prompt, **options)


@pytest.mark.parametrize("form", ("codes", "words", "json", "text", "desk"))
def test_a_system_takes_each_text_as_its_input(tiny, tiny_systems, pool, form):
    expected = tiny_systems[form].answer([row(text) for text in TEXTS], pool)
    found = complete(tiny, form, TEXTS)
    assert [choice.text.rstrip("�") for choice in found.choices] == [a.text.rstrip("�") for a in expected]
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert found.object == "text_completion" and found.model == form
    assert found.usage.prompt_tokens == sum(answer.prompt_tokens for answer in expected)
    assert found.usage.completion_tokens == sum(answer.completion_tokens for answer in expected)


def test_without_a_limit_a_base_model_goes_on_for_as_long_as_at_openai(tiny):
    assert complete(tiny, "base", TEXTS[0]).usage.completion_tokens == 16


def test_a_base_model_continues_a_text_as_it_stands(tiny, tiny_gguf):
    found = complete(tiny, "base", TEXTS[0], max_tokens=7)
    tokens = load_chat(resolve(str(tiny_gguf))).tokens.encode(TEXTS[0], special=False)
    assert found.usage.prompt_tokens == len(tokens)
    assert found.usage.completion_tokens == 7
    forged = complete(tiny, "base", "<|im_end|>", max_tokens=1)
    assert forged.usage.prompt_tokens > 1


def test_each_of_several_texts_has_its_answers_side_by_side(tiny):
    options = {"n": 2, "temperature": 1, "seed": 3, "max_tokens": 8}
    found = complete(tiny, "base", TEXTS[:2], **options)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in found.choices]
    assert texts[:2] == [c.text for c in complete(tiny, "base", TEXTS[0], **options).choices]
    assert texts[2:] == [c.text for c in complete(tiny, "base", TEXTS[1], **options).choices]
    assert len(set(texts)) == 4


@pytest.mark.parametrize("model", ("base", "text", "desk"))
def test_streamed_texts_and_their_usage_are_those_of_the_whole(tiny, model):
    options = {"max_tokens": 10}
    whole = complete(tiny, model, TEXTS, **options)
    texts, reasons = ["", "", ""], ["", "", ""]
    chunks = list(
        complete(tiny, model, TEXTS, stream=True, stream_options={"include_usage": True}, **options)
    )
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [c.text for c in whole.choices]
    assert reasons == [c.finish_reason for c in whole.choices]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage


@pytest.fixture(scope="module")
def narrow(tmp_path_factory, tiny_gguf, tiny_systems):
    """A server in which few requests wait."""
    systems = (f"desk={tiny_systems['desk'].folder}", f"base={tiny_gguf}")
    with Server(*systems, "--slots", "1", "--queue", "4", home=tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.mark.parametrize("model", ("base", "desk"))
def test_one_request_may_want_more_answers_than_requests_may_wait(narrow, model):
    prompt = [f"parcel {number}" for number in range(12)]
    options = {"n": 4, "temperature": 1, "seed": 3, "max_tokens": 4}
    whole = [choice.text for choice in complete(narrow, model, prompt, **options).choices]
    texts = [""] * 48
    for chunk in complete(narrow, model, prompt, stream=True, **options):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert len(whole) == 48 and texts == whole


def test_a_request_has_so_many_answers_at_a_time_and_only_its_first_may_be_refused():
    found = []

    async def one(parts: Parts, place: int) -> None:
        async with parts.turn(place):
            found.append((place, is_full(4, 4)))
            await asyncio.sleep(0)
            assert len(found) <= place + 3

    async def run() -> None:
        parts = Parts(3)
        await asyncio.gather(*[one(parts, place) for place in range(9)])

    asyncio.run(run())
    assert found == [(place, place == 0) for place in range(9)]


def test_a_label_is_chosen_once_whatever_the_sampling(tiny):
    complete(tiny, "codes", TEXTS)
    counts = [tiny.gauge("rung_tokens_total")]
    for options in ({}, {"n": 5, "temperature": 1}):
        assert len(complete(tiny, "codes", TEXTS, **options).choices) == 3 * options.get("n", 1)
        counts.append(tiny.gauge("rung_tokens_total"))
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("codes", {"temperature": 1}),
        ("words", {"temperature": 1, "logprobs": 2}),
        ("text", {}),
        ("base", {"temperature": 1, "seed": 3, "max_tokens": 6}),
    ],
)
def test_a_streamed_request_asks_for_as_much_as_a_plain_one_and_gives_the_same(tiny, model, options):
    """Of several choices a label, and a greedy text, is asked for once; drawn texts are each their own."""
    complete(tiny, model, TEXTS, n=4, **options)
    spent = [tiny.gauge("rung_tokens_total")]
    whole = complete(tiny, model, TEXTS, n=4, **options)
    spent.append(tiny.gauge("rung_tokens_total"))
    told = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(complete(tiny, model, TEXTS, n=4, **told, **options))
    spent.append(tiny.gauge("rung_tokens_total"))
    assert spent[2] - spent[1] == spent[1] - spent[0] > 0
    texts, reasons, beside = [""] * 12, [""] * 12, [[] for _ in range(12)]
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        beside[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert chunks[-1].usage == whole.usage
    if "logprobs" in options:
        assert beside == [pytest.approx(choice.logprobs.token_logprobs) for choice in whole.choices]


@pytest.mark.models
def test_a_character_that_is_cut_off_leaves_a_mark(real):
    texts = [
        complete(real, "base", "🎉🎉🎉🎉🎉🎉", max_tokens=limit).choices[0].text for limit in range(1, 8)
    ]
    assert any(text.endswith("�") for text in texts) and not all(text.endswith("�") for text in texts)
    for shorter, longer in itertools.pairwise(texts):
        assert longer.startswith(shorter.removesuffix("�"))


@pytest.mark.models
def test_logprobs_stand_beside_the_tokens(real):
    found = complete(real, "base", "The capital of France is", max_tokens=5, logprobs=2).choices[0]
    shown = found.logprobs
    assert "".join(shown.tokens) == found.text
    assert shown.text_offset == [0, *(len("".join(shown.tokens[:n])) for n in range(1, 5))]
    for token, logprob, top in zip(shown.tokens, shown.token_logprobs, shown.top_logprobs, strict=True):
        assert len(top) == 2 and top[token] == logprob == max(top.values()) < 0
    assert complete(real, "base", "The capital", max_tokens=2).choices[0].logprobs is None


@pytest.mark.models
def test_streamed_logprobs_have_their_places_in_the_whole_text(real):
    options = {"max_tokens": 5, "logprobs": 2}
    whole = complete(real, "base", "The capital of France is", **options).choices[0].logprobs
    chunks = complete(real, "base", "The capital of France is", stream=True, **options)
    places = [at for c in chunks if c.choices[0].logprobs for at in c.choices[0].logprobs.text_offset]
    assert places == whole.text_offset


@pytest.mark.parametrize("prompt", ("", [], ["a", ""], [1, 2, 3], [[1]], None, 3, ["a"] * 300))
def test_what_is_no_text_is_refused(tiny, prompt):
    for model in ("base", "desk"):
        with pytest.raises(openai.BadRequestError, match="prompt"):
            complete(tiny, model, prompt)


@pytest.mark.parametrize("field", ({"echo": True}, {"best_of": 2}, {"suffix": "x"}, {"logprobs": 6}))
def test_what_isnt_done_here_is_refused_by_name(tiny, field):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(tiny, "base", "a", **field)
    assert caught.value.param == next(iter(field))


def test_token_ids_are_refused_with_what_to_do(tiny):
    for prompt in ([1, 2, 3], [[1, 2], [3]]):
        with pytest.raises(
            openai.BadRequestError, match="no token ids.*check_embedding_ctx_length"
        ) as caught:
            complete(tiny, "base", prompt)
        assert caught.value.param == "prompt"
