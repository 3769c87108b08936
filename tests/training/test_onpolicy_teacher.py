"""Learning from a teacher's distributions: the divergence is TRL's, and a student comes near its teacher."""

import copy
import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from rung.engines import lora
from rung.engines.base import EngineSpec, Request
from rung.engines.packed import packed
from rung.engines.torch import TorchEngine
from rung.training.batches import Row
from rung.training.loop import Trainer, answer_states
from rung.training.losses import reverse_kl
from rung.training.onpolicy import Shown, Taught
from tests.fixtures_tiny import END, VOCABULARY, randomise, tiny, tiny_folder
from tests.training.test_onpolicy import CONSTRAINED, DRAWN, PROMPTS, SETTINGS, bits

TRL = [
    "ignore:.*:FutureWarning",
    "ignore:.*:UserWarning",
    "ignore:.*:DeprecationWarning",
    "ignore:.*:ResourceWarning",
]


def heads(width: int, other: int) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    torch.manual_seed(3)
    return torch.nn.Linear(12, width), torch.nn.Linear(20, other, bias=False)


@pytest.mark.filterwarnings(*TRL)
def test_the_divergence_and_its_gradient_are_trls():
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    ours, theirs = heads(VOCABULARY, VOCABULARY)
    mine = torch.randn(2, 5, 12, requires_grad=True)
    hers = torch.randn(2, 5, 20)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected, _, count = _chunked_divergence_loss(
        mine, hers, ours.weight, theirs.weight, mask, 1.0, student_lm_head_bias=ours.bias
    )
    (slope,) = torch.autograd.grad(expected, mine)
    states = mine.detach()[mask > 0].requires_grad_(True)
    found = reverse_kl(states, ours, hers[mask > 0], theirs).mean()
    (own,) = torch.autograd.grad(found, states)
    assert int(count) == 8 and float(expected.detach()) > 0.1
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.allclose(own, slope[mask > 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("other", [VOCABULARY, VOCABULARY + 12, VOCABULARY - 40])
def test_only_tokens_that_were_allowed_and_that_both_models_have_count(other):
    ours, theirs = heads(VOCABULARY, other)
    ours, theirs = ours.double(), theirs.double()
    states = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    hers = torch.randn(3, 20, dtype=torch.float64)
    width = min(VOCABULARY, other)
    sets = [set(range(VOCABULARY)), {3, 9, 77}, {5}]
    allowed = torch.from_numpy(bits(*sets))
    expected = []
    for row, some in enumerate(sets):
        kept = [token for token in sorted(some) if token < width]
        p, q = (m[kept].log_softmax(-1) for m in (ours(states)[row], theirs(hers)[row]))
        expected.append(functional.kl_div(q, p, log_target=True, reduction="sum"))
    (slope,) = torch.autograd.grad(torch.stack(expected).sum(), states)
    found = reverse_kl(states, ours, hers, theirs, allowed)
    (own,) = torch.autograd.grad(found.sum(), states)
    assert found.tolist() == pytest.approx([float(one.detach()) for one in expected], abs=1e-12)
    assert torch.allclose(own, slope, rtol=0, atol=1e-12) and own[2].abs().max() == 0


@pytest.mark.parametrize("packs", [True, False])
def test_the_states_of_answers_are_those_that_the_head_reads(packs):
    model = tiny("gemma")
    rows = [one.row for one in DRAWN]
    found = answer_states(model, rows, packed(model) if packs else None)
    for row, states in zip(rows, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*row.prompt, *row.answer]])).logits[0, len(row.prompt) - 1 : -1]
            assert torch.allclose(model.lm_head(states), logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("drawn", [DRAWN, CONSTRAINED], ids=["free", "constrained"])
def test_a_step_has_the_mean_divergence_over_tokens_of_choice(tmp_path, drawn):
    teacher = tiny("qwen3")
    rows = [one.row for one in drawn]
    states = answer_states(teacher, rows)
    shown = [
        Shown(row=one.row, states=own, allowed=one.allowed) for one, own in zip(drawn, states, strict=True)
    ]
    model = tiny()
    lora.attach(model, rank=4, alpha=8, seed=1)
    objective = Taught(lambda batch, step: (shown, "said"), teacher.lm_head)
    one = Trainer(model, PROMPTS, SETTINGS, tmp_path, "d", objective)
    mine = answer_states(copy.deepcopy(one.model), rows)
    total, count = 0.0, 0
    for place, each in enumerate(drawn):
        allowed = None if each.allowed is None else torch.from_numpy(each.allowed)
        found = reverse_kl(mine[place], model.lm_head, states[place], teacher.lm_head, allowed)
        total += float(found.sum())
        count += len(found) if allowed is None else len(found) - 1
    (tick,) = one.run(1)
    assert tick.loss == pytest.approx(total / count, rel=1e-9) and total > 0.5
    assert tick.said == "said" and tick.grad_norm > 0


def test_a_student_comes_near_a_teacher_with_other_weights(tmp_path):
    teacher = tiny(dtype=torch.float32)
    lora.attach(teacher, rank=4, alpha=8, seed=9)
    randomise(teacher, 0.2, seed=5)
    model = tiny(dtype=torch.float32)
    folder = tiny_folder(tmp_path / "weights", model)
    lora.attach(model, rank=8, alpha=16, seed=1)
    engine = TorchEngine(EngineSpec(engine="torch", weights=folder, context=64, threads=1), model=model)

    def draw(batch, step):
        dice = random.Random(step)
        asked = [
            Request(
                prompt=row.prompt, max_tokens=6, stop_ids=(END,), temperature=1.0, seed=dice.getrandbits(32)
            )
            for row in [PROMPTS[i] for i in batch] * 4
        ]
        rows = [
            Row(prompt=request.prompt, answer=one.drawn)
            for request, one in zip(asked, engine.generate(asked), strict=True)
        ]
        states = answer_states(teacher, rows, packed(teacher))
        return [Shown(row=row, states=own) for row, own in zip(rows, states, strict=True)], ""

    gently = replace(SETTINGS, learning_rate=1e-3)
    one = Trainer(model, PROMPTS, gently, tmp_path / "run", "d", Taught(draw, teacher.lm_head))
    apart = [tick.loss for tick in one.run(60)]
    assert sum(apart[-5:]) < 0.6 * sum(apart[:5]), apart
