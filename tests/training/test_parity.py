import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.engines.base import EngineSpec
from rung.engines.fake import FakeEngine, bytes_of
from rung.engines.torch import TorchEngine
from rung.errors import TrainingError
from rung.records import Parity
from rung.training.parity import (
    LOGPROB_ROWS,
    Reference,
    clearly_apart,
    compare,
    per_row,
    positions,
    single_tokens,
)
from tests.fixtures_tiny import tiny

PROMPTS = [bytes_of(f"question {n}") for n in range(60)]
LABELS = [bytes_of(word + "\n") for word in ("yes", "yet", "no", "maybe")]
answers = st.lists(st.integers(0, 99), min_size=1, max_size=40).map(tuple)


def fake(seed: int = 0, **changes) -> FakeEngine:
    return FakeEngine(EngineSpec(engine="fake"), seed=seed, **changes)


def torch_engine(network) -> TorchEngine:
    return TorchEngine(EngineSpec(engine="torch", context=64, threads=torch.get_num_threads()), model=network)


def test_an_engine_agrees_with_itself_entirely():
    found = compare(fake(), fake(), PROMPTS, LABELS)
    assert (found.rows, found.agreement_rows) == (LOGPROB_ROWS, len(PROMPTS))
    assert (found.agreement, found.clear_disagreements) == (1.0, 0)
    assert (found.max_difference, found.mean_difference) == (0.0, 0.0)


def test_where_time_is_short_the_first_prompts_alone_are_chosen_on():
    told = []

    def enough(seconds_each: float) -> int:
        told.append(seconds_each)
        return 7

    right = {prompt: LABELS[n % 4] for n, prompt in enumerate(PROMPTS)}
    wrong = right | {PROMPTS[3]: LABELS[0]} | {prompt: LABELS[0] for prompt in PROMPTS[7:]}
    reference = Reference(lambda: fake(answers=right), PROMPTS, LABELS)
    found = reference.beside(lambda: fake(answers=wrong), enough)
    assert (found.rows, found.agreement_rows) == (LOGPROB_ROWS, 7)
    assert found.agreement == pytest.approx(6 / 7) and found.clear_disagreements == 1
    assert len(told) == 1 and told[0] > 0


class Counted(FakeEngine):
    """Counts the prompts that it is asked for each of the two."""

    def __init__(self, **changes):
        super().__init__(EngineSpec(engine="fake"), **changes)
        self.read, self.chose = 0, 0

    def next_logprobs(self, prompts, token_ids):
        self.read += len(prompts)
        return super().next_logprobs(prompts, token_ids)

    def choose(self, prompts, candidates, **more):
        self.chose += len(prompts)
        return super().choose(prompts, candidates, **more)


class Closing(Counted):
    """Answers nothing once it's closed."""

    closed = False

    def next_logprobs(self, prompts, token_ids):
        assert not self.closed
        return super().next_logprobs(prompts, token_ids)

    def choose(self, prompts, candidates, **more):
        assert not self.closed
        return super().choose(prompts, candidates, **more)


def test_what_the_reference_said_once_is_not_asked_of_it_again():
    right = {prompt: LABELS[n % 4] for n, prompt in enumerate(PROMPTS)}
    wrong = right | {PROMPTS[3]: LABELS[0]}
    engine = Counted(answers=right)
    reference = Reference(lambda: engine, PROMPTS, LABELS)
    first = reference.beside(lambda: fake(answers=right), lambda each_s: 30)
    assert (engine.read, engine.chose, reference.known) == (LOGPROB_ROWS, 30, 30)
    again = reference.beside(lambda: fake(answers=right), lambda each_s: 30)
    assert again == first and (engine.read, engine.chose) == (LOGPROB_ROWS, 30)
    more = reference.beside(lambda: fake(answers=wrong), lambda each_s: 40)
    assert more == compare(fake(answers=right), fake(answers=wrong), PROMPTS[:40], LABELS)
    assert engine.chose == reference.known == 40, "only what it wasn't asked before"


def test_a_reference_that_was_closed_meanwhile_is_opened_anew_for_what_it_has_not_said():
    right = {prompt: LABELS[n % 4] for n, prompt in enumerate(PROMPTS)}
    wrong = right | {PROMPTS[35]: LABELS[0]}
    open_now = [Closing(answers=right)]
    reference = Reference(lambda: open_now[-1], PROMPTS, LABELS)
    reference.beside(lambda: fake(answers=right), lambda each_s: 30)
    open_now[-1].closed = True
    open_now.append(Closing(answers=right))
    found = reference.beside(lambda: fake(answers=wrong), lambda each_s: 40)
    assert found == compare(fake(answers=right), fake(answers=wrong), PROMPTS[:40], LABELS)
    assert found.agreement < 1 and open_now[-1].chose > 0


def test_a_reference_that_has_said_all_is_not_opened_again():
    opened = []

    def engine() -> FakeEngine:
        opened.append(None)
        return fake()

    reference = Reference(engine, PROMPTS, LABELS)
    reference.beside(fake)
    before = len(opened)
    assert before > 0 and reference.beside(fake).agreement == 1.0 and len(opened) == before


def test_other_weights_disagree_clearly():
    found = compare(fake(), fake(seed=1), PROMPTS, LABELS)
    assert found.agreement < 0.7
    flips = round((1 - found.agreement) * len(PROMPTS))
    assert 0 < found.clear_disagreements <= flips


def test_every_flip_of_a_certain_answer_is_a_clear_one():
    right = {prompt: LABELS[n % 4] for n, prompt in enumerate(PROMPTS)}
    wrong = {prompt: LABELS[(n + (n % 10 == 0)) % 4] for n, prompt in enumerate(PROMPTS)}
    found = compare(fake(answers=right), fake(answers=wrong), PROMPTS, LABELS)
    assert found.agreement == pytest.approx(54 / 60)
    assert found.clear_disagreements == 6


@pytest.mark.parametrize(
    ("clear", "rows", "apart"),
    [
        (0, 20, False),
        (1, 20, False),
        (2, 20, True),
        (1, 52, False),
        (3, 52, True),
        (4, 200, False),
        (7, 200, True),
    ],
)
def test_engines_are_apart_where_chance_alone_gives_no_so_many_clear_disagreements(clear, rows, apart):
    found = Parity(
        rows=20,
        max_difference=0.0,
        mean_difference=0.0,
        agreement=1 - clear / rows,
        agreement_rows=rows,
        clear_disagreements=clear,
    )
    assert clearly_apart(found) == apart


def test_noise_flips_near_ties_only_even_where_the_search_left_a_candidate_unopened():
    network, noisy = tiny(), tiny()
    torch.manual_seed(1)
    for parameter in noisy.parameters():
        parameter.data.mul_(1 + 0.01 * torch.randn_like(parameter))
    prompts = [(3, 1 + n % 250, 1 + (n * 7) % 250) for n in range(150)]
    options = [(a, b, 0) for a in (5, 9, 30) for b in (6, 17, 88, 120)]
    found = compare(torch_engine(network), torch_engine(noisy), prompts, options)
    assert 0.8 < found.agreement < 1
    assert found.clear_disagreements == 0
    assert 0 < found.mean_difference < 0.2
    unopened = [c for c in torch_engine(network).choose(prompts, options) if -math.inf in c.logprobs]
    assert len(unopened) > 100


def test_differences_are_those_of_likely_tokens():
    network, other = tiny(), tiny()
    other.lm_head.weight.data[7] += 0.5
    options = [(token,) for token in (5, 7, 9, 30)]
    prompts = [(3, 1 + n) for n in range(5)]
    engines = torch_engine(network), torch_engine(other)
    expected = [
        abs(a - b)
        for ours, theirs in zip(*(e.next_logprobs(prompts, [5, 7, 9, 30]) for e in engines), strict=True)
        for a, b in zip(ours, theirs, strict=True)
        if max(a, b) > math.log(0.01005)
    ]
    found = compare(*engines, prompts, options)
    assert found.rows == 5
    assert found.max_difference == pytest.approx(max(expected))
    assert found.mean_difference == pytest.approx(sum(expected) / len(expected))


def test_nothing_to_compare_and_failing_engines_are_no_agreement():
    with pytest.raises(TrainingError, match="no rows"):
        compare(fake(), fake(), [], LABELS)
    with pytest.raises(TrainingError, match="fake failed with .*empty"):
        compare(fake(), fake(), [*PROMPTS, ()], LABELS)


@given(st.lists(st.tuples(answers, answers), min_size=1, max_size=5), st.integers(1, 10))
def test_positions_lie_inside_the_answers_and_the_first_of_them_are_of_every_row(rows, per_row):
    rows = [((100 + number, *prompt), answer) for number, (prompt, answer) in enumerate(rows)]
    found = positions(rows, per_row)
    assert len(set(found)) == len(found)
    assert [p[0] for p in found[: len(rows)]] == [prompt[0] for prompt, _ in rows]
    for prompt, answer in rows:
        own = sorted(len(p) - len(prompt) for p in found if p[0] == prompt[0])
        step = max(1, len(answer) // per_row)
        assert own[0] == 0 and own[-1] < len(answer)
        assert len(own) == min(per_row, len(range(0, len(answer), step)))
        assert all(p == (*prompt, *answer)[: len(p)] for p in found if p[0] == prompt[0])


def test_single_tokens_are_those_of_the_answers_once():
    assert single_tokens([(3, 1, 3), (2,)]) == [(1,), (2,), (3,)]


def test_fewer_positions_where_prompts_are_long():
    assert per_row([(1,) * 20] * 20) == 8
    assert per_row([(1,) * 500] * 20) == 4
    assert per_row([(1,) * 5000] * 20) == 3
