"""What every engine that works on token ids must do. A new engine is added to ENGINES and nowhere else."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from rung.engines import start
from rung.engines.base import Completion, Engine, EngineSpec, Request
from rung.errors import EngineError
from rung.models.processor import multiplies_bf16
from tests.fixtures_models import llama_spec, torch_spec

CONTEXT = 512
AMX = "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def room(engine: Engine, true: float) -> float:
    """How far a log-probability may be off. Unlikely ones in bf16 hang on the shapes of products: 1.05 % was
    seen of torch's; in fp32 all ways to read one agree.
    """
    rounded = engine.name == "torch" and multiplies_bf16()
    unlikely = 0.0125 if rounded else 0.01 if AMX else 0.005
    return 0.05 if true > -10 else unlikely * abs(true)


ENGINES = {
    "fake": lambda: EngineSpec(engine="fake", context=CONTEXT),
    "llama": lambda: llama_spec(context=CONTEXT),
    "torch": lambda: torch_spec(context=CONTEXT),
}

PROMPTS = [(504, 3575, 282, 4649, 314), (28, 253, 1838), (504, 3575, 282, 4649, 35), (9,), (504, 3575, 282)]
CANDIDATES = [(260, 2), (260, 253, 2), (260, 253, 327, 2), (1838, 2), (198, 2)]


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        pytest.param("llama", marks=pytest.mark.models),
        pytest.param("torch", marks=pytest.mark.models),
    ],
)
def engine(request) -> Iterator[Engine]:
    engine = start(ENGINES[request.param]())
    yield engine
    engine.close()


def requests(count: int = len(PROMPTS), max_tokens: int = 4, **changes) -> list[Request]:
    cycle = itertools.islice(itertools.cycle(PROMPTS), count)
    return [Request(prompt=prompt, max_tokens=max_tokens, **changes) for prompt in cycle]


def log_normalised(values: list[float]) -> list[float]:
    total = math.log(math.fsum(map(math.exp, values)))
    return [value - total for value in values]


@pytest.fixture(scope="module")
def by_enumeration(engine: Engine) -> Callable[[tuple[int, ...]], list[float]]:
    return enumerated(engine)


def enumerated(engine: Engine) -> Callable[[tuple[int, ...]], list[float]]:
    """Constrained decoding node by node, from nothing but the engine's full-vocabulary log-probabilities."""

    @cache
    def node(path: tuple[int, ...], allowed: tuple[int, ...]) -> dict[int, float]:
        (logprobs,) = engine.next_logprobs([path], allowed)
        return dict(zip(allowed, log_normalised(logprobs), strict=True))

    def found(prompt: tuple[int, ...]) -> list[float]:
        result = []
        for candidate in CANDIDATES:
            total = 0.0
            for depth, token in enumerate(candidate):
                beside = {other[depth] for other in CANDIDATES if other[:depth] == candidate[:depth]}
                total += node(prompt + candidate[:depth], tuple(sorted(beside)))[token]
            result.append(total)
        return result

    return found


@pytest.fixture(scope="module")
def free(engine: Engine) -> Completion:
    """An answer that nothing but its limit stops."""
    (completion,) = engine.generate(requests(1, max_tokens=8))
    return completion


def test_the_table_holds_every_engine_that_works_on_token_ids():
    assert len(ENGINES) == 3


def test_it_says_its_name(engine):
    assert engine.name in ENGINES


def test_completions_come_in_the_order_of_their_requests(engine):
    alone = [engine.generate([request])[0] for request in requests()]
    together = engine.generate(requests())
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert [c.prompt_tokens for c in together] == [len(prompt) for prompt in PROMPTS]
    assert len({c.tokens for c in together}) > 1


def test_choices_come_in_the_order_of_their_prompts(engine):
    alone = [engine.choose([prompt], CANDIDATES)[0] for prompt in PROMPTS]
    together = engine.choose(PROMPTS, CANDIDATES)
    assert [c.index for c in together] == [c.index for c in alone]
    assert [c.prompt_tokens for c in together] == [len(prompt) for prompt in PROMPTS]


def test_nothing_asked_is_nothing_answered(engine):
    assert engine.generate([]) == []
    assert engine.choose([], CANDIDATES) == []
    assert engine.next_logprobs([], [1, 2]) == []
    assert engine.next_logprobs([PROMPTS[0]], []) == [[]]


def test_progress_ends_at_the_total(engine):
    for call in (
        lambda progress: engine.generate(requests(), progress=progress),
        lambda progress: engine.choose(PROMPTS, CANDIDATES, progress=progress),
    ):
        told: list[tuple[int, int]] = []
        call(lambda done, total: told.append((done, total)))  # noqa: B023 - called in this very round
        assert told[-1] == (len(PROMPTS), len(PROMPTS))
        assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_greedy_answers_are_the_same_every_time(engine):
    first, second = engine.generate(requests(9)), engine.generate(requests(9))
    assert [(c.text, c.tokens) for c in first] == [(c.text, c.tokens) for c in second]


def test_sampling_depends_on_the_seed_and_on_nothing_else(engine):
    first, again, other = (
        engine.generate(requests(1, 8, temperature=1.5, seed=seed))[0].tokens for seed in (5, 5, 6)
    )
    assert first == again != other


def test_an_answer_at_its_limit_is_said_to_be_truncated(engine):
    (completion,) = engine.generate(requests(1, max_tokens=1))
    assert completion.truncated
    assert len(completion.tokens) == 1


def test_the_log_probability_is_the_sum_over_the_tokens(engine):
    (completion,) = engine.generate(requests(1, max_tokens=4))
    context, total = PROMPTS[0], 0.0
    for token in completion.tokens:
        total += engine.next_logprobs([context], [token])[0][0]
        context += (token,)
    assert completion.logprob == pytest.approx(total, abs=0.05)


def test_a_stop_token_ends_the_answer_and_is_no_part_of_it(engine, free):
    stop = free.tokens[len(free.tokens) // 2]
    (stopped,) = engine.generate(requests(1, max_tokens=8, stop_ids=(stop,)))
    assert len(stopped.tokens) < len(free.tokens)
    assert stopped.tokens == free.tokens[: free.tokens.index(stop)]
    assert free.text.startswith(stopped.text)
    assert not stopped.truncated


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(engine, free):
    stop = free.text[len(free.text) // 2 :][:2]
    (stopped,) = engine.generate(requests(1, max_tokens=8, stop=(stop,)))
    assert stopped.text == free.text[: free.text.index(stop)]
    assert len(stopped.tokens) < len(free.tokens)
    assert not stopped.truncated


def test_probabilities_of_a_choice_sum_to_one_and_the_index_is_the_likeliest(engine):
    for choice in engine.choose(PROMPTS, [(260,), (253,), (1838,), (198,)]):
        assert math.fsum(map(math.exp, choice.logprobs)) == pytest.approx(1.0, abs=1e-4)
        assert choice.index == max(range(4), key=choice.logprobs.__getitem__)
        assert choice.failure is None


def test_a_choice_equals_decoding_node_by_node(engine, by_enumeration):
    for prompt, choice in zip(PROMPTS[:2], engine.choose(PROMPTS[:2], CANDIDATES), strict=True):
        expected = by_enumeration(prompt)
        assert math.fsum(map(math.exp, expected)) == pytest.approx(1.0, abs=1e-3)
        assert choice.index == max(range(len(CANDIDATES)), key=expected.__getitem__)
        for found, true in zip(choice.logprobs, expected, strict=True):
            assert found == -math.inf or found == pytest.approx(true, abs=room(engine, true))
        assert math.fsum(map(math.exp, choice.logprobs)) <= 1 + 1e-4


def test_an_exhaustive_choice_knows_every_candidate_and_is_the_same_choice(engine, by_enumeration):
    plain = engine.choose(PROMPTS, CANDIDATES)
    whole = engine.choose(PROMPTS, CANDIDATES, exhaustive=True)
    for one, other in zip(whole, plain, strict=True):
        assert one.index == other.index
        assert one.logprobs[one.index] == pytest.approx(other.logprobs[other.index], abs=0.02)
        assert math.fsum(map(math.exp, one.logprobs)) == pytest.approx(1.0, abs=1e-4)
        assert -math.inf not in one.logprobs
    for one, prompt in zip(whole[:2], PROMPTS, strict=False):
        for found, true in zip(one.logprobs, by_enumeration(prompt), strict=True):
            assert found == pytest.approx(true, abs=room(engine, true))


@pytest.mark.models
def test_in_fp32_every_way_to_read_a_candidate_agrees(monkeypatch):
    monkeypatch.setattr("rung.engines.device.multiplies_bf16", lambda: False)
    engine = start(ENGINES["torch"]())
    together = engine.choose(PROMPTS, CANDIDATES, exhaustive=True)
    likeliest = engine.choose(PROMPTS, CANDIDATES)
    for prompt, whole, quick in zip(PROMPTS, together, likeliest, strict=True):
        (alone,) = engine.choose([prompt], CANDIDATES, exhaustive=True)
        expected = enumerated(engine)(prompt)
        assert whole.logprobs == pytest.approx(expected, abs=1e-3)
        assert alone.logprobs == pytest.approx(expected, abs=1e-3)
        assert all(
            found in (-math.inf, pytest.approx(true, abs=1e-3))
            for found, true in zip(quick.logprobs, expected, strict=True)
        )
    engine.close()


def test_candidates_of_which_one_is_a_prefix_of_another_are_refused(engine):
    with pytest.raises(ValueError, match="prefix"):
        engine.choose(PROMPTS, [(1,), (1, 2)])


def test_next_log_probabilities_run_parallel_to_the_ids_asked_for(engine):
    ids = [198, 260, 253, 198]
    (row,) = engine.next_logprobs([PROMPTS[0]], ids)
    assert row[0] == row[3]
    assert row == pytest.approx([engine.next_logprobs([PROMPTS[0]], [i])[0][0] for i in ids], abs=0.02)
    assert math.fsum(math.exp(value) for value in row[:3]) < 1


def test_a_prompt_longer_than_the_context_fails_alone_and_names_both_lengths(engine):
    long = (9,) * (CONTEXT + 1)
    broken, fine = engine.generate([Request(prompt=long, max_tokens=4), *requests(1)])
    assert fine.failure is None
    assert fine.text
    assert broken.failure is not None
    assert str(CONTEXT) in broken.failure
    assert str(CONTEXT + 1) in broken.failure
    wrong, right = engine.choose([long, PROMPTS[0]], CANDIDATES)
    assert right.failure is None
    assert wrong.failure is not None
    assert set(wrong.logprobs) == {-math.inf}
    assert len(wrong.logprobs) == len(CANDIDATES)


def test_an_answer_is_held_to_its_schema(engine):
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "sure": {"type": "boolean"}},
        "required": ["kind", "sure"],
    }
    for completion in engine.generate(requests(3, max_tokens=30, schema=schema)):
        answer = json.loads(completion.text)
        assert answer.keys() == {"kind", "sure"}
        assert answer["kind"] in ("a", "b")


def test_an_answer_under_a_schema_is_whole_at_any_limit_or_the_fewest_tokens_are_named(engine):
    schema = {
        "type": "object",
        "properties": {"to": {"enum": ["a", "b"]}, "by": {"type": "string"}},
        "required": ["to", "by"],
    }
    found = engine.generate([r for limit in range(22) for r in requests(1, max_tokens=limit, schema=schema)])
    refused = [limit for limit, completion in enumerate(found) if completion.failure is not None]
    least = len(refused)
    assert 1 < least < 20
    assert refused == list(range(least))
    for completion in found[:least]:
        assert completion.failure is not None
        assert str(least) in completion.failure
        assert (completion.text, completion.tokens) == ("", ())
    for limit, completion in enumerate(found[least:], start=least):
        answer = json.loads(completion.text)
        assert answer.keys() == {"to", "by"}
        assert answer["to"] in ("a", "b")
        assert len(completion.tokens) <= limit


def test_a_stop_string_that_an_answer_under_a_schema_may_hold_is_refused(engine):
    with pytest.raises(EngineError, match="stop string"):
        engine.generate(requests(1, 6, schema={"type": "boolean"}, stop=("}",)))
    (fine,) = engine.generate(requests(1, 6, schema={"type": "boolean"}, stop=("\n\n",)))
    assert json.loads(fine.text) in (True, False)


def test_memory_is_a_number_of_mebibytes(engine):
    assert 0 <= engine.memory_mb() < 4096


@pytest.mark.parametrize(
    "name",
    [
        "fake",
        pytest.param("llama", marks=pytest.mark.models),
        pytest.param("torch", marks=pytest.mark.models),
    ],
)
def test_an_engine_can_be_closed_twice_and_then_refuses_work(name):
    engine = start(ENGINES[name]())
    assert not engine.closed
    engine.close()
    engine.close()
    assert engine.closed
    with pytest.raises(EngineError, match="closed"):
        engine.generate(requests(1))
