import json
import math
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engines.base import EngineSpec, Request
from rung.engines.decode import drawn
from rung.engines.grammar import Grammars
from rung.engines.held import HeldRows
from rung.engines.logits import logits_of, next_logits
from rung.engines.torch import TorchEngine, load_model
from rung.errors import EngineError
from tests.fixtures_models import torch_spec
from tests.fixtures_tiny import DEVICE, END, VOCABULARY, reference_logprobs, tiny, tiny_folder, tiny_tokenizer

CONTEXT = 128
PROMPTS = [(5, 6, 7), tuple(range(20, 40)), (250,), (9, 9, 9, 9, 1), tuple(range(100, 111))]
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["rare", "tea"]},
        "name": {"type": "string", "maxLength": 5},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "sure": {"type": "boolean"},
    },
    "required": ["kind", "name", "n", "sure"],
    "additionalProperties": False,
}
TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module", params=["llama", "gemma"])
def engine(request, tmp_path_factory) -> TorchEngine:
    model = tiny(request.param)
    folder = tiny_folder(tmp_path_factory.mktemp(request.param), model)
    spec = EngineSpec(engine="torch", weights=folder, context=CONTEXT, threads=torch.get_num_threads())
    return TorchEngine(spec, model=model)


def greedy(model, prompt, count: int) -> list[int]:
    """transformers' own greedy answer, the end token left out."""
    ids = torch.tensor([prompt], device=DEVICE)
    with torch.inference_mode():
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, pad_token_id=END
        )
    answer = found[0, len(prompt) :].tolist()
    return answer[: answer.index(END)] if END in answer else answer


def ask(prompt=PROMPTS[0], max_tokens: int = 24, **changes) -> Request:
    return Request(prompt=prompt, max_tokens=max_tokens, stop_ids=(END,), **changes)


def test_greedy_answers_of_a_batch_are_those_of_transformers_alone(engine):
    expected = [greedy(engine.model, prompt, 24) for prompt in PROMPTS]
    found = engine.generate([ask(prompt) for prompt in PROMPTS])
    assert [list(c.tokens) for c in found] == expected
    assert [c.text for c in found] == [TOKENIZER.decode(tokens) for tokens in expected]
    assert [c.truncated for c in found] == [len(tokens) == 24 for tokens in expected]
    assert [c.prompt_tokens for c in found] == [len(prompt) for prompt in PROMPTS]


def test_a_shared_prefix_changes_no_answer(engine):
    prefix = tuple(range(60, 80))
    prompts = [prefix + prompt for prompt in PROMPTS]
    found = engine.generate([ask(prompt, 10) for prompt in prompts])
    assert [list(c.tokens) for c in found] == [greedy(engine.model, prompt, 10) for prompt in prompts]


@settings(deadline=None, max_examples=10)
@given(limits=st.lists(st.integers(0, 12), min_size=1, max_size=6), data=st.data())
def test_rows_that_end_at_different_times_answer_as_they_do_alone(engine, limits, data):
    requests = [ask(data.draw(st.sampled_from(PROMPTS)), limit) for limit in limits]
    together = engine.generate(requests)
    for request, completion in zip(requests, together, strict=True):
        assert list(completion.tokens) == greedy(engine.model, request.prompt, 12)[: request.max_tokens]
        assert completion.failure is None
        assert completion.truncated == (len(completion.tokens) == request.max_tokens)


def test_a_stop_token_ends_the_row_and_isnt_in_the_answer(engine):
    free = greedy(engine.model, PROMPTS[1], 24)
    stop = free[7]
    request = Request(prompt=PROMPTS[1], max_tokens=24, stop_ids=(END, stop))
    (found,) = engine.generate([request])
    assert list(found.tokens) == free[: free.index(stop)]
    assert not found.truncated


def test_the_log_probability_is_the_models_own_summed_over_the_answer_alone(engine):
    free = greedy(engine.model, PROMPTS[1], 24)
    stopped = Request(prompt=PROMPTS[1], max_tokens=24, stop_ids=(free[7],))
    for request in (ask(PROMPTS[1], 5), stopped, ask(PROMPTS[1], 60, schema=SCHEMA)):
        (found,) = engine.generate([request])
        logprobs = reference_logprobs(engine.model, request.prompt + found.tokens)
        own = [logprobs[len(request.prompt) + k - 1, t].item() for k, t in enumerate(found.tokens)]
        assert found.logprob == pytest.approx(math.fsum(own), abs=1e-8)


def test_an_answer_ends_where_the_context_does(engine):
    long = (9,) * (CONTEXT - 4)
    (found,) = engine.generate([Request(prompt=long, max_tokens=50)])
    assert len(found.tokens) == 4
    assert found.truncated


def test_the_first_stop_string_cuts_whatever_its_length_and_wherever_tokens_part(engine):
    (free,) = engine.generate([Request(prompt=PROMPTS[3], max_tokens=60)])
    text = free.text
    for start, size in ((0, 1), (3, 2), (10, 25), (30, 3), (len(text) - 1, 1)):
        stop = text[start : start + size]
        late = text[-2:]
        (found,) = engine.generate(
            [Request(prompt=PROMPTS[3], max_tokens=60, stop=(late, "never said", stop))]
        )
        cut = min(text.find(stop), text.find(late))
        assert found.text == text[:cut]
        assert not found.truncated
        assert found.tokens == free.tokens[: len(found.tokens)]
        assert len(TOKENIZER.decode(list(found.tokens))) >= cut
        assert not found.tokens or len(TOKENIZER.decode(list(found.tokens[:-1]))) < cut


def test_sampling_follows_the_distribution_and_the_seed(engine):
    requests = [ask(PROMPTS[0], 1, temperature=1.3, seed=seed) for seed in range(2000)]
    found = [c.tokens[0] if c.tokens else END for c in engine.generate(requests)]
    assert found[:50] == [c.tokens[0] if c.tokens else END for c in engine.generate(requests[:50])]
    logprobs = reference_logprobs(engine.model, PROMPTS[0])[-1]
    expected = (logprobs / 1.3).softmax(-1)
    for token in expected.topk(3).indices.tolist():
        share, true = found.count(token) / len(found), expected[token].item()
        assert abs(share - true) < 4 * math.sqrt(true * (1 - true) / len(found)) + 1e-3


def test_a_prompt_that_is_asked_several_times_is_read_once_and_answered_as_if_alone(engine, monkeypatch):
    order = [0, 1, 0, 2, 1, 0]
    alone = [engine.generate([ask(PROMPTS[place], 12)])[0] for place in range(3)]
    fed, feed = [], HeldRows.feed

    def counted(rows, tokens):
        fed.append(len(tokens))
        return feed(rows, tokens)

    monkeypatch.setattr(HeldRows, "feed", counted)
    found = engine.generate([ask(PROMPTS[place], 12) for place in order])
    assert fed[0] == 3 and fed[1] == len(order)
    for place, one in zip(order, found, strict=True):
        assert (one.tokens, one.prompt_tokens) == (alone[place].tokens, len(PROMPTS[place]))
        assert one.logprob == pytest.approx(alone[place].logprob, abs=1e-4)


def test_the_answers_to_a_schema_parse_and_validate_and_end_with_the_value(engine):
    requests = [ask(prompt, 80, schema=SCHEMA) for prompt in PROMPTS]
    requests += [ask(PROMPTS[0], 80, schema=SCHEMA, temperature=2.0, seed=seed) for seed in range(8)]
    found = engine.generate(requests)
    for completion in found:
        assert completion.failure is None
        assert not completion.truncated
        assert END not in completion.tokens
        jsonschema.validate(json.loads(completion.text), SCHEMA)
        assert completion.text == TOKENIZER.decode(list(completion.tokens))
    assert len({c.text for c in found}) > 5


def test_without_stop_tokens_the_models_own_end_closes_a_schema(engine):
    for schema in ({"type": "integer", "minimum": 0, "maximum": 999}, SCHEMA):
        (found,) = engine.generate(
            [Request(prompt=PROMPTS[0], max_tokens=80, schema=schema, temperature=1.0)]
        )
        assert not found.truncated
        jsonschema.validate(json.loads(found.text), schema)
        assert END not in found.tokens


def test_an_answer_cut_inside_a_schema_is_truncated_and_one_that_just_fits_is_not(engine):
    (whole,) = engine.generate([ask(max_tokens=80, schema=SCHEMA)])
    count = len(whole.tokens)
    (fits,) = engine.generate([ask(max_tokens=count, schema=SCHEMA)])
    assert (fits.text, fits.truncated) == (whole.text, False)
    (cut,) = engine.generate([ask(max_tokens=count - 1, schema=SCHEMA)])
    assert cut.truncated
    assert len(cut.tokens) <= count - 1
    jsonschema.validate(json.loads(cut.text), SCHEMA)


def test_rows_with_and_without_a_schema_share_a_batch(engine):
    other = {"enum": ["rat", "tar", "art"]}
    requests = [
        ask(PROMPTS[0], 80, schema=SCHEMA),
        ask(PROMPTS[1], 8),
        ask(PROMPTS[2], 80, schema=other),
        ask(PROMPTS[3], 80, schema=SCHEMA),
    ]
    together = engine.generate(requests)
    alone = [engine.generate([request])[0] for request in requests]
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert json.loads(together[2].text) in other["enum"]
    assert list(together[1].tokens) == greedy(engine.model, PROMPTS[1], 8)


def test_what_cannot_be_enforced_is_refused_before_anything_runs(engine):
    told = []
    with pytest.raises(EngineError, match="uniqueItems"):
        engine.generate(
            [ask(), ask(schema={"type": "array", "uniqueItems": True})], progress=lambda *a: told.append(a)
        )
    assert told == []


def test_once_the_value_is_whole_only_its_continuation_and_the_requests_stop_tokens_may_come():
    grammars = Grammars(TOKENIZER, VOCABULARY, ends=(END,))
    digits = {TOKENIZER.token_to_id(c) for c in "0123456789"}
    for stop_ids, ends in (((), {END}), ((5, 6), {5, 6})):
        request = Request(prompt=(1,), max_tokens=5, schema={"type": "integer"}, stop_ids=stop_ids)
        matcher = grammars.matcher(request)
        first = grammars.allowed([None, matcher], VOCABULARY)
        assert first[0].all()
        assert set(np.flatnonzero(first[1])) == digits | {TOKENIZER.token_to_id("-")}
        matcher.consume_token(TOKENIZER.token_to_id("7"))
        assert set(np.flatnonzero(grammars.allowed([matcher], VOCABULARY)[0])) == digits | ends
        fresh = grammars.allowed([grammars.matcher(request)], VOCABULARY)
        assert np.array_equal(fresh[0], first[1])
    assert grammars.allowed([None, None], VOCABULARY) is None


def test_a_model_without_an_end_token_needs_the_requests():
    grammars = Grammars(TOKENIZER, VOCABULARY, ends=())
    with pytest.raises(EngineError, match="stop_ids"):
        grammars.matcher(Request(prompt=(1,), max_tokens=5, schema={"type": "integer"}))


@pytest.mark.parametrize("more", [1, 40])
def test_tokens_beyond_those_that_the_model_can_write_leave_an_answer_as_it_is(tmp_path, more):
    """As in Gemma 3 1B's files, or where somebody has added one that pads and left the weights alone."""
    usual, larger = (tiny_folder(tmp_path / name, tiny()) for name in ("usual", "larger"))
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens([f"<more {number}>" for number in range(more)])
    assert tokenizer.get_vocab_size() == VOCABULARY + more
    tokenizer.save(str(larger / "tokenizer.json"))
    request = ask(max_tokens=80, schema=SCHEMA)
    (expected,), (found,) = (
        TorchEngine(
            EngineSpec(engine="torch", weights=folder, context=CONTEXT, threads=torch.get_num_threads()),
            model=tiny(),
        ).generate([request])
        for folder in (usual, larger)
    )
    assert (found.tokens, found.failure) == (expected.tokens, None)
    jsonschema.validate(json.loads(found.text), SCHEMA)
    before, after = (Grammars(one, VOCABULARY, (END,)) for one in (TOKENIZER, tokenizer))
    assert np.array_equal(
        after.replayed(request, found.tokens[:9]), before.replayed(request, found.tokens[:9])
    )
    assert after.spellings() == before.spellings() and len(after.spellings()) == VOCABULARY


def test_text_needs_a_tokenizer(tmp_path):
    engine = TorchEngine(EngineSpec(engine="torch", weights=tmp_path, threads=1), model=tiny())
    with pytest.raises(EngineError, match=r"no tokenizer\.json"):
        engine.generate([ask()])
    assert len(engine.choose([(1, 2)], [(3,), (4,)])) == 1


def test_logits_near_the_top_are_exact_in_bf16():
    model = tiny(dtype=torch.bfloat16)
    with torch.inference_mode():
        hidden = model.model(torch.tensor([PROMPTS[1]], device=DEVICE)).last_hidden_state[0]
        rounded, sharp = model.lm_head(hidden).float(), next_logits(model, hidden)
        true = hidden.double() @ model.lm_head.weight.double().t()
        top = true.argmax(-1, keepdim=True)
        assert (rounded - true).gather(1, top).abs().max() > 0.005
        assert (sharp - true).gather(1, top).abs().max() < 1e-4
        assert torch.equal(sharp.argmax(-1), true.argmax(-1))
        few = torch.tensor([7, 250], device=DEVICE)
        assert (logits_of(model, hidden, few) - true[:, few]).abs().max() < 1e-4


@pytest.mark.models
def test_greedy_answers_of_a_real_model_are_those_of_transformers():
    spec = torch_spec()
    engine = TorchEngine(spec, model=load_model(spec.weights, dtype=torch.float32))
    prompts = [(504, 3575, 282, 4649, 314), (28, 253, 1838), (9,) * 30]
    found = engine.generate([Request(prompt=p, max_tokens=6, stop_ids=(2,)) for p in prompts])
    for prompt, completion in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt], device=DEVICE)
        with torch.inference_mode():
            whole = engine.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=6,
                eos_token_id=2,
                pad_token_id=2,
            )
        expected = whole[0, len(prompt) :].tolist()
        assert list(completion.tokens) == (expected[: expected.index(2)] if 2 in expected else expected)


def row_of(seed, temperature=1.0, top_p=1.0):
    request = Request(prompt=PROMPTS[0], max_tokens=1, temperature=temperature, top_p=top_p)
    return SimpleNamespace(request=request, generator=torch.Generator().manual_seed(seed))


def test_what_a_row_draws_hangs_on_no_other_row():
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(1))
    kinds = [(1.0, 1.0), (0.3, 1.0), (1.5, 0.9), (1.0, 0.2)]
    together = drawn(logits, [row_of(seed, *kinds[seed % 4]) for seed in range(40)])
    alone = [drawn(logits[seed : seed + 1], [row_of(seed, *kinds[seed % 4])])[0] for seed in range(40)]
    assert together == alone
    assert len(set(together)) > 10


def test_what_is_drawn_hangs_on_no_model_that_is_loaded_elsewhere():
    """transformers sets torch's default type for the whole process meanwhile."""
    logits = torch.randn(4000, 60, generator=torch.Generator().manual_seed(1))
    rows = [row_of(seed, 0.7) for seed in range(len(logits))]
    found, usual = drawn(logits, rows), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        again = drawn(logits, [row_of(seed, 0.7) for seed in range(len(logits))])
    finally:
        torch.set_default_dtype(usual)
    assert again == found


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_tokens_are_drawn_as_often_as_they_are_likely_and_masked_ones_never(top_p):
    shares = torch.tensor([0.0, 0.45, 0.0, 0.36, 0.14, 0.05, 0.0])
    count = 20_000
    found = drawn(shares.log().expand(count, -1), [row_of(seed, top_p=top_p) for seed in range(count)])
    kept = shares if top_p == 1 else torch.tensor([0.0, 0.45, 0.0, 0.36, 0.0, 0.0, 0.0])
    wanted = kept / kept.sum()
    seen = torch.bincount(torch.tensor(found), minlength=7) / count
    assert (seen[wanted == 0] == 0).all()
    # Four standard errors.
    assert ((seen - wanted).abs() <= 4 * (wanted * (1 - wanted) / count).sqrt()).all()
