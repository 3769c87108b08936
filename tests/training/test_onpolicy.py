"""Learning from answers that the model itself draws: the loss, its gradient, and what reward teaches."""

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from rung.engines import lora
from rung.engines.base import EngineSpec, Request
from rung.engines.torch import TorchEngine
from rung.errors import TrainingError
from rung.training import loop, parts
from rung.training.batches import Row
from rung.training.loop import Settings, Trainer
from rung.training.losses import token_logprobs
from rung.training.onpolicy import Drawn, OnPolicy, Rewarded, gains_of
from tests.fixtures_tiny import END, VOCABULARY, randomise, tiny, tiny_folder

PROMPTS = [Row(prompt=(3, 4, *range(5, 7 + i % 3)), answer=(9, END)) for i in range(6)]
SETTINGS = Settings(learning_rate=5e-3, batch_size=3, rank=4, alpha=8, warmup=2, seed=1)
WORD = 70
"""The token that is rewarded."""


def bits(*allowed: set[int]) -> np.ndarray:
    """Those tokens as the bits of a vocabulary, a row for each set."""
    whole = np.zeros((len(allowed), VOCABULARY), dtype=bool)
    for place, tokens in enumerate(allowed):
        whole[place, sorted(tokens)] = True
    return np.packbits(whole, axis=1, bitorder="little")


EVERY = set(range(VOCABULARY))
DRAWN = [
    Drawn(row=Row(prompt=(3, 4, 5), answer=(9, 9, END)), count=3, advantage=0.8),
    Drawn(row=Row(prompt=(3, 4, 5), answer=(12, END)), count=1, advantage=-2.4),
    Drawn(row=Row(prompt=(3, 4, 7, 8, 9), answer=(44, 7, 7, 7, END)), count=1, advantage=1.1),
]
CONSTRAINED = [
    Drawn(
        row=one.row,
        count=one.count,
        advantage=one.advantage,
        allowed=bits({*one.row.answer, 60}, {one.row.answer[1]}, *[EVERY] * (len(one.row.answer) - 2)),
    )
    for one in DRAWN
]


def trainer(folder: Path, draw, *, model=None) -> Trainer:
    model = tiny() if model is None else model
    if not any(True for _ in lora.layers(model)):
        lora.attach(model, rank=4, alpha=8, seed=1)
        randomise(model, 0.1)
    return Trainer(model, PROMPTS, SETTINGS, folder, "d", Rewarded(draw), lora.state(model))


def plain_loss(model, drawn) -> torch.Tensor:
    """TRL 1.16's `dapo` loss on policy, by full log-softmaxes, every answer as often as it was drawn.

    A token that was the only one allowed is no choice, and isn't counted.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    for one in drawn:
        ids = torch.tensor([[*one.row.prompt, *one.row.answer]])
        logits = model(ids).logits[0, len(one.row.prompt) - 1 : -1]
        allowed = torch.ones_like(logits, dtype=torch.bool)
        if one.allowed is not None:
            whole = np.unpackbits(one.allowed, axis=1, count=VOCABULARY, bitorder="little")
            allowed = torch.from_numpy(whole).bool()
        logprobs = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)
        own = logprobs[torch.arange(len(one.row.answer)), torch.tensor(one.row.answer)]
        ratio = (own - own.detach()).exp()
        mask = allowed.sum(1) > 1
        for _ in range(one.count):
            each = torch.minimum(ratio * one.advantage, ratio.clamp(0.8, 1.28) * one.advantage)
            total = total - each[mask].sum()
            count += int(mask.sum())
    return total / count


@pytest.mark.parametrize("drawn", [DRAWN, CONSTRAINED], ids=["free", "constrained"])
@pytest.mark.parametrize("tokens", [1024, 4])
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("part_tokens", [120, 0])
def test_a_step_has_the_loss_and_the_gradient_of_trls_formula(
    tmp_path, monkeypatch, drawn, tokens, packs, part_tokens
):
    monkeypatch.setattr(loop, "TOKENS_AT_ONCE", tokens)
    monkeypatch.setattr(parts, "PART_TOKENS", part_tokens)  # with 0 the answers to one prompt are a part
    if not packs:
        monkeypatch.setattr(loop, "packed", lambda model: None)
    one = trainer(tmp_path, lambda batch, step: (drawn, "said"))
    assert (one.packed is not None) == packs
    model = copy.deepcopy(one.model)
    expected = plain_loss(model, drawn)
    taking_turns = lora.parameters(model)
    ours = [*taking_turns[0::2], *taking_turns[1::2]]
    for parameter in ours:
        parameter.requires_grad_(True)
    slopes = torch.autograd.grad(plain_loss(model, drawn), ours)
    (tick,) = one.run(1)
    assert tick.loss == pytest.approx(float(expected.detach()), abs=1e-12)
    assert tick.said == "said"
    norm = torch.cat([slope.flatten() for slope in slopes]).norm()
    assert tick.grad_norm == pytest.approx(float(norm), rel=1e-9) and norm > 1e-3
    clipped = min(1.0, 1.0 / (float(norm) + 1e-6))
    for found, slope in zip(one._slopes, slopes, strict=True):
        assert torch.allclose(found, slope * clipped, rtol=0, atol=1e-12)


def test_what_a_schema_leaves_no_choice_of_has_no_log_probability_to_learn():
    states = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    head = torch.nn.Linear(8, VOCABULARY, bias=False, dtype=torch.float64)
    allowed = torch.from_numpy(bits({9}, {9, 11, 299}))
    found = token_logprobs(states, head, torch.tensor([9, 299]), allowed)
    (slope,) = torch.autograd.grad(found.sum(), states)
    logits = head(states.detach())[1, [9, 11, 299]].detach()
    assert found.tolist() == pytest.approx([0.0, float(logits.log_softmax(0)[2])], abs=1e-12)
    assert slope[0].abs().max() == 0 and slope[1].abs().max() > 0


def test_advantages_are_those_of_one_group():
    assert gains_of([0.0, 1.0]) == pytest.approx([-0.5 / (0.5**0.5 + 1e-4), 0.5 / (0.5**0.5 + 1e-4)])
    assert gains_of([0.3, 0.3, 0.3]) == [0.0, 0.0, 0.0]


def test_a_step_whose_answers_teach_nothing_counts_and_changes_nothing(tmp_path):
    one = trainer(tmp_path, lambda batch, step: (DRAWN if step else [], ""))
    before = [p.detach().clone() for p in one.parameters]
    (tick,) = one.run(1)
    assert (tick.step, tick.loss, tick.grad_norm) == (1, None, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, one.parameters, strict=True))
    list(one.run(2))
    assert not all(torch.equal(a, b) for a, b in zip(before, one.parameters, strict=True))


def test_a_draw_is_given_the_steps_items_and_ends_the_run_where_it_says_so(tmp_path):
    given = []

    def draw(batch, step):
        given.append((sorted(batch), step))
        if step == 3:
            raise TrainingError("no use")
        return DRAWN, ""

    one = trainer(tmp_path, draw)
    assert isinstance(one.objective, OnPolicy)
    with pytest.raises(TrainingError, match="no use"):
        list(one.run(9))
    assert [step for _, step in given] == [0, 1, 2, 3] and one.step == 3
    assert sorted(given[0][0] + given[1][0]) == sorted(given[2][0] + given[3][0]) == list(range(6))


def rewarding(engine: TorchEngine, earned: list[float]):
    """Draws 8 answers to each prompt at temperature 1; one earns the share of its tokens that are WORD."""

    def draw(batch, step):
        found, means = [], []
        for item in batch:
            dice = random.Random(f"{step}/{item}")
            prompt = PROMPTS[item].prompt
            asked = [
                Request(
                    prompt=prompt, max_tokens=4, stop_ids=(END,), temperature=1.0, seed=dice.getrandbits(32)
                )
                for _ in range(8)
            ]
            answers = [one.drawn for one in engine.generate(asked)]
            rewards = [answer.count(WORD) / 4 for answer in answers]
            means.append(sum(rewards) / 8)
            for answer, gain in zip(answers, gains_of(rewards), strict=True):
                found.append(Drawn(row=Row(prompt=prompt, answer=answer), count=1, advantage=gain))
        earned.append(sum(means) / len(means))
        return found, ""

    return draw


@pytest.fixture
def begin(tmp_path):
    """A run of its own under a name, with what each of its steps earned."""

    def of(name: str) -> tuple[Trainer, list[float]]:
        model = tiny(dtype=torch.float32)
        lora.attach(model, rank=4, alpha=8, seed=1)
        folder = tiny_folder(tmp_path / "weights", tiny(dtype=torch.float32))
        engine = TorchEngine(EngineSpec(engine="torch", weights=folder, context=64, threads=1), model=model)
        earned: list[float] = []
        return trainer(tmp_path / name, rewarding(engine, earned), model=model), earned

    return of


def test_a_model_learns_what_is_rewarded_by_reward_alone(begin):
    one, earned = begin("a")
    list(one.run(60))
    assert sum(earned[:5]) / 5 < 0.1 and sum(earned[-5:]) / 5 > 0.6, earned


def test_a_run_that_is_taken_up_again_draws_and_learns_the_same(begin):
    whole, earned = begin("whole")
    list(whole.run(7))
    again: list[float] = []
    for until in (2, 3, 7):
        part, found = begin("parts")
        list(part.run(until))
        again += found
        state = [p.detach().clone() for p in part.parameters]
        part.close()
    assert again == earned
    assert all(torch.equal(a, b) for a, b in zip(state, whole.parameters, strict=True))
