"""The ways of asking an export, on an engine whose distribution is known."""

import math
from collections.abc import Sequence

import pytest

from rung.engines.base import Choice, Completion, EngineSpec, Request, no_progress
from rung.engines.llama import LlamaEngine
from rung.engines.trie import Search, Trie
from rung.models.chat import Chat, load_chat
from rung.models.resolve import resolve
from rung.ship.usage import LLAMA_BIAS, label_grammar
from rung.ship.ways import WAYS, answer_tokens, as_served, enum_schema, guided, label_names, listed, written
from rung.spec import AnswerSpec, Spec
from tests.fixtures_ship import LABELS, make_gguf


class Table:
    """An engine whose next token is drawn from a table: path → token → probability."""

    name = "fake"

    def __init__(
        self, prompt: tuple[int, ...], table: dict[tuple[int, ...], dict[int, float]], text: str = ""
    ):
        self.prompt, self.table, self.text = prompt, table, text
        self.asked: list[Request] = []

    def next_logprobs(
        self, prompts: Sequence[tuple[int, ...]], token_ids: Sequence[int]
    ) -> list[list[float]]:
        rows = [self.table[prompt[len(self.prompt) :]] for prompt in prompts]
        return [[math.log(row.get(token, 1e-9)) for token in token_ids] for row in rows]

    def choose(self, prompts, candidates, *, progress=no_progress, exhaustive=False) -> list[Choice]:
        found = []
        for prompt in prompts:
            search = Search(trie := Trie(candidates))
            while (path := search.next()) is not None:
                search.feed(self.next_logprobs([prompt + path], trie.children(path))[0])
            index, logprobs = search.result()
            found.append(
                Choice(index=index, logprobs=logprobs, prompt_tokens=1, evaluated_tokens=1, latency_s=0.0)
            )
        return found

    def generate(self, requests: Sequence[Request], *, progress=no_progress) -> list[Completion]:
        self.asked += requests
        return [
            Completion(text=self.text, tokens=(1,), logprob=0.0, prompt_tokens=1, latency_s=0.0)
            for _ in requests
        ]

    def memory_mb(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Chat:
    return load_chat(resolve(str(make_gguf(tmp_path_factory.mktemp("ways") / "model.gguf"))))


def spec(form, codes: tuple[int, ...] = ()) -> Spec:
    answer = AnswerSpec(form=form, codes=codes)
    return Spec(
        rung="sft", task="t", kind="label", labels=LABELS, engine="llama", style="terse", answer=answer
    )


def codes(chat: Chat) -> tuple[int, ...]:
    return tuple(chat.answer_ids(label, "terse")[0] for label in LABELS)


def test_there_are_four_ways():
    assert list(WAYS) == ["as_served", "written", "listed", "guided"]


def test_a_guided_answer_takes_the_likeliest_token_each_time_and_may_miss_the_likeliest_label(chat):
    """`cb` begins with the likelier token, but `a` is the likelier label: .6 × .5 < .4."""
    labels = ("cb", "cd", "a")
    a, c = (chat.tokens.encode(text, special=False)[0] for text in ("a", "c"))
    ends = [chat.answer_ids(label, "terse") for label in labels]
    two = spec("words").model_copy(update={"labels": labels})
    table = {(): {c: 0.6, a: 0.4}, (c,): {ends[0][1]: 0.51, ends[1][1]: 0.49}}
    engine = Table((7,), table)
    assert [answer.value for answer in guided(two, chat, engine, [(7,)])] == ["cb"]
    assert [answer.value for answer in as_served(two, chat, engine, [(7,)])] == ["a"]


def test_a_code_is_read_as_the_label_that_it_stands_for_and_other_text_as_none(chat):
    names = label_names(spec("codes", codes(chat)), chat)
    assert list(names.values()) == list(LABELS)
    engine = Table((7,), {}, text=f" {list(names)[1]}")
    (found,) = written(spec("codes", codes(chat)), chat, engine, [(7,)])
    assert found.value == LABELS[1]
    assert engine.asked[0].max_tokens == answer_tokens(spec("codes", codes(chat)), chat) == 1
    engine.text = "something"
    assert written(spec("codes", codes(chat)), chat, engine, [(7,)])[0].value is None


def test_a_listed_label_is_asked_for_by_a_schema_and_read_from_json(chat):
    engine = Table((7,), {}, text='"delivery"')
    (found,) = listed(spec("words"), chat, engine, [(7,)])
    assert found.value == "delivery"
    assert (
        engine.asked[0].schema == enum_schema(spec("words"), chat) == {"type": "string", "enum": list(LABELS)}
    )
    engine.text = '"deli'
    assert listed(spec("words"), chat, engine, [(7,)])[0].value is None


def test_llama_cpps_endpoint_with_what_the_readme_sends_gives_labels_and_by_codes_the_one_that_scores_best(
    chat, tmp_path
):
    one = spec("codes", codes(chat))
    engine = LlamaEngine(
        EngineSpec(engine="llama", gguf=make_gguf(tmp_path / "m.gguf"), context=256, parallel=1, threads=1)
    )
    names = label_names(one, chat)
    texts = [f"{word} please" for word in ("refund", "parcel", "password", "invoice", "late", "tax")]
    try:
        for text in texts:
            turns = [{"role": "user", "content": text}]
            prompt = engine.tokens_of(engine.templated(turns))
            (wanted,) = as_served(one, chat, engine, [prompt])
            body = {
                "messages": turns,
                "max_tokens": 1,
                "temperature": 0,
                "logit_bias": {str(code): LLAMA_BIAS for code in one.answer.codes},
            }
            said = engine._post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
            assert names[said.strip()] == wanted.value
            del body["logit_bias"]
            body |= {"max_tokens": 20, "grammar": label_grammar(spec("words"), chat)}
            said = engine._post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
            assert said.strip() in LABELS
    finally:
        engine.close()


def test_labels_whose_codes_read_alike_are_seen(chat):
    same = (codes(chat)[0],) * 3
    assert len(label_names(spec("codes", same), chat)) == 1
