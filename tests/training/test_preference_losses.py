"""The losses of preference and reinforcement, against TRL's own trainers on the same model and batch."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rung.training.batches import Row
from rung.training.losses import (
    Clip,
    completion_targets,
    dpo_loss,
    group_advantages,
    grpo_loss,
    kl_point,
    kto_loss,
    token_logprobs,
)
from tests.fixtures_tiny import SIZES, tiny_tokenizer

TRL = [
    "ignore:.*:FutureWarning",
    "ignore:.*:UserWarning",
    "ignore:.*:DeprecationWarning",
    "ignore:.*:ResourceWarning",
]
pytestmark = [pytest.mark.filterwarnings(one) for one in TRL]

BETA = 0.3
PAIRS = (
    (Row(prompt=(5, 6, 7, 8), answer=(10, 11, 0)), Row(prompt=(5, 6, 7, 8), answer=(12, 9, 9, 30, 0))),
    (Row(prompt=(250,), answer=(3, 0)), Row(prompt=(250,), answer=(0,))),
    (Row(prompt=(17, 99, 3), answer=(8, 44, 7, 7, 1, 0)), Row(prompt=(17, 99, 3), answer=(8, 44, 0))),
)
CHOSEN, REJECTED = ([pair[side] for pair in PAIRS] for side in (0, 1))


def network(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(**(SIZES | {"pad_token_id": 1, "bos_token_id": 2}), tie_word_embeddings=True)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def policy():
    return network(1)


@pytest.fixture(scope="module")
def reference():
    return network(2)


@pytest.fixture(scope="module")
def tokenizer():
    return PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), eos_token="<end>", pad_token="<end>", bos_token="<end>"
    )


def per_token(model, rows) -> list[torch.Tensor]:
    """Log-probabilities of the answers' tokens by rung's own code, one tensor a row."""
    longest = max(len(row.prompt + row.answer) for row in rows)
    ids = torch.ones(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.prompt + row.answer)] = torch.tensor(row.prompt + row.answer)
    numbers, columns, targets = completion_targets(rows)
    hidden = model.model(ids).last_hidden_state[numbers, columns]
    return list(token_logprobs(hidden, model.lm_head, targets).split([len(row.answer) for row in rows]))


def sums(model, rows) -> torch.Tensor:
    return torch.stack([found.sum() for found in per_token(model, rows)])


def lengths(rows) -> torch.Tensor:
    return torch.tensor([len(row.answer) for row in rows])


def options(**changes):
    return {
        "output_dir": "unused",
        "report_to": [],
        "use_cpu": True,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "bf16": False,
        **changes,
    }


@pytest.fixture
def home(tmp_path, monkeypatch):
    """TRL's data sets are cached where nobody looks."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def preferences():
    from datasets import Dataset

    return Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)


@pytest.mark.parametrize("kind", ["sigmoid", "sigmoid_norm"])
def test_the_loss_of_pairs_and_its_gradient_are_those_of_trls_trainer(
    kind, policy, reference, tokenizer, home
):
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    trainer = DPOTrainer(
        copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=DPOConfig(**options(beta=BETA, loss_type=[kind], output_dir=str(home))),
        train_dataset=preferences(),
        processing_class=tokenizer,
    )
    rows = [
        {
            "prompt_ids": list(better.prompt),
            "chosen_ids": list(better.answer),
            "rejected_ids": list(worse.answer),
        }
        for better, worse in PAIRS
    ]
    batch = DataCollatorForPreference(pad_token_id=1)(rows)
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    ours = copy.deepcopy(policy)
    with torch.no_grad():
        before = torch.stack([sums(reference, CHOSEN), sums(reference, REJECTED)])
    now = torch.stack([sums(ours, CHOSEN), sums(ours, REJECTED)])
    sizes = torch.stack([lengths(CHOSEN), lengths(REJECTED)]) if kind == "sigmoid_norm" else None
    loss = dpo_loss(now, before, beta=BETA, lengths=sizes).mean()
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    loss.backward()
    assert_same_gradients(ours, trainer.model)


def assert_same_gradients(ours, theirs):
    """The head's own is left out: rung never trains it."""
    wanted = {name: p.grad for name, p in theirs.named_parameters() if "layers" in name}
    assert len(wanted) > 10
    for name, parameter in ours.named_parameters():
        if "layers" in name:
            assert torch.allclose(parameter.grad, wanted[name], rtol=1e-4, atol=1e-5), name
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-3


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.33, 0.6)])
@pytest.mark.parametrize("labels", [(True, False, True), (True, True, True), (False, False, False)])
def test_the_loss_of_judged_answers_and_its_reference_point_are_those_of_trls_trainer(
    weights, labels, policy, reference, tokenizer, home
):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    rated = Dataset.from_list([{"prompt": "a", "completion": "b", "label": n % 2 == 0} for n in range(4)])
    trainer = KTOTrainer(
        copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=KTOConfig(
            **options(
                beta=BETA,
                desirable_weight=weights[0],
                undesirable_weight=weights[1],
                output_dir=str(home),
                per_device_train_batch_size=2,
            )
        ),
        train_dataset=rated,
        processing_class=tokenizer,
    )
    others = [Row(prompt=row.prompt, answer=CHOSEN[n - 1].answer) for n, row in enumerate(CHOSEN)]
    rows = [
        {
            "prompt_ids": list(row.prompt),
            "completion_ids": list(row.answer),
            "KL_completion_ids": list(other.answer),
            "label": label,
        }
        for row, other, label in zip(CHOSEN, others, labels, strict=True)
    ]
    batch = DataCollatorForUnpairedPreference(pad_token_id=1)(rows)
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
        point = kl_point(sums(policy, others), sums(reference, others))
        loss = kto_loss(
            sums(policy, CHOSEN),
            sums(reference, CHOSEN),
            torch.tensor(labels),
            point,
            beta=BETA,
            weights=weights,
        )
    assert point.item() == pytest.approx(trainer._metrics["eval"]["kl"][-1], abs=1e-4)
    assert loss.mean().item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["dapo", "dr_grpo"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_the_loss_of_drawn_answers_is_that_of_trls_trainer(kind, beta, policy, reference, tokenizer, home):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    longest = max(len(row.answer) for row in CHOSEN)
    trainer = GRPOTrainer(
        copy.deepcopy(policy),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            **options(
                beta=0.0,
                loss_type=kind,
                epsilon=0.15,
                epsilon_high=0.28,
                max_completion_length=64,
                output_dir=str(home),
                per_device_train_batch_size=4,
                num_generations=2,
            )
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 4),
        processing_class=tokenizer,
    )
    trainer.beta = beta
    trainer.model.eval()

    def padded(parts):
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    with torch.no_grad():
        now, ref = (padded(per_token(model, CHOSEN)) for model in (policy, reference))
    torch.manual_seed(3)
    before = now + 0.8 * torch.randn_like(now)
    mask = padded([torch.ones(len(row.answer)) for row in CHOSEN])
    advantages = torch.tensor([1.2, -0.7, 0.4])
    widest = max(len(row.prompt) for row in CHOSEN)
    prompts = torch.ones(3, widest, dtype=torch.long)
    prompt_mask = torch.zeros_like(prompts)
    for number, row in enumerate(CHOSEN):
        prompts[number, -len(row.prompt) :] = torch.tensor(row.prompt)
        prompt_mask[number, -len(row.prompt) :] = 1
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": padded([torch.tensor(row.answer) for row in CHOSEN]),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": before,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    assert inputs["completion_ids"].shape == (3, longest)
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, inputs)
    clip = Clip(kind=kind, low=0.15, high=0.28, beta=beta, longest=64)
    loss = grpo_loss(now, before, mask, advantages, clip, ref if beta else None)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    ratios = (now - before).exp()[mask.bool()]
    assert (ratios > 1.28).any() and (ratios < 0.85).any(), "both ends of the clip are reached"
    with pytest.raises(ValueError, match="KL weight of 0.5 needs the reference"):
        grpo_loss(now, before, mask, advantages, Clip(beta=0.5))


numbers = st.floats(-30, 30).filter(lambda x: x == 0 or abs(x) > 1e-3)


def vectors(size: int, count: int):
    return st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=count, max_size=count)


def in_64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@settings(deadline=None)
@given(vectors(3, 4), st.floats(0.01, 1))
def test_a_pairs_loss_is_the_formula_of_the_paper_and_falls_as_the_margin_grows(values, beta):
    chosen, rejected, before, worse = values
    loss = dpo_loss(in_64([chosen, rejected]), in_64([before, worse]), beta=beta)
    for found, c, r, b, w in zip(loss.tolist(), chosen, rejected, before, worse, strict=True):
        margin = beta * ((c - b) - (r - w))
        assert found == pytest.approx(math.log1p(math.exp(-margin)) if margin > -700 else -margin)
    wider = dpo_loss(in_64([[c + 1 for c in chosen], rejected]), in_64([before, worse]), beta=beta)
    assert bool((wider < loss).all())


@settings(deadline=None)
@given(vectors(4, 3))
def test_advantages_of_a_group_have_mean_0_and_keep_its_order(rewards):
    found = group_advantages(in_64(rewards))
    assert torch.allclose(found.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    for given_row, row in zip(rewards, found.tolist(), strict=True):
        assert [row[i] for i in sorted(range(4), key=given_row.__getitem__)] == sorted(row)
        mean = sum(given_row) / 4
        spread = math.sqrt(sum((x - mean) ** 2 for x in given_row) / 3)
        assert row == pytest.approx([(x - mean) / (spread + 1e-4) for x in given_row])
    centred = group_advantages(in_64(rewards), scaled=False)
    assert torch.allclose(centred, in_64(rewards) - in_64(rewards).mean(1, keepdim=True))


def test_a_group_that_agrees_or_is_of_one_gains_nothing():
    assert group_advantages(torch.full((2, 4), 0.7)).abs().max() == 0
    assert group_advantages(torch.tensor([[3.0], [4.0]])).tolist() == [[0.0], [0.0]]


def losses():
    """Each loss as a function of the policy's log-probabilities alone, with a shape."""
    torch.manual_seed(5)
    before = torch.randn(2, 4, dtype=torch.float64) - 3
    sizes = torch.tensor([[3, 1, 7, 2], [4, 4, 1, 9]])
    desirable = torch.tensor([True, False, False, True])
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    gains = torch.tensor([0.8, -1.1], dtype=torch.float64)
    point = torch.tensor(0.4, dtype=torch.float64)

    def grpo(kind):
        clip = Clip(kind=kind, low=0.1, high=0.3, beta=0.1, longest=6)
        return lambda p: grpo_loss(p, before, mask, gains, clip, before + 0.3)

    def kto(p):
        return kto_loss(p[0], before[0], desirable, point, beta=0.7, weights=(1.2, 0.5)).sum()

    return {
        "sigmoid": lambda p: dpo_loss(p, before, beta=0.4).mean(),
        "sigmoid_norm": lambda p: dpo_loss(p, before, beta=0.4, lengths=sizes).mean(),
        "kto": kto,
        "dapo": grpo("dapo"),
        "dr_grpo": grpo("dr_grpo"),
    }


@pytest.mark.parametrize("name", losses())
def test_gradients_are_finite_differences_in_fp64(name):
    loss = losses()[name]
    torch.manual_seed(6)
    policy = (torch.randn(2, 4, dtype=torch.float64) - 3).requires_grad_()
    (slope,) = torch.autograd.grad(loss(policy), policy)
    assert slope.abs().max() > 1e-3
    step = 1e-6
    for at in itertools.product(range(2), range(4)):
        shift = torch.zeros_like(policy)
        shift[at] = step
        expected = (loss(policy + shift) - loss(policy - shift)) / (2 * step)
        assert slope[at].item() == pytest.approx(expected.item(), abs=1e-7)


def test_the_reference_point_is_never_below_0_and_has_no_gradient():
    policy = torch.tensor([-3.0, -1.0], requires_grad=True)
    assert kl_point(policy, torch.tensor([-1.0, -1.0])).item() == 0
    above = kl_point(policy, torch.tensor([-4.0, -4.0]))
    assert above.item() == 2.0 and not above.requires_grad


def test_token_logprobs_are_the_models_own_in_parts_or_at_once(monkeypatch):
    from rung.training import losses as module

    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50).double().requires_grad_(False)
    targets = torch.randint(50, (23,))
    weights = torch.randn(23, dtype=torch.float64)
    for at_once in (50, 4 * 50, 2**24):
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once)
        states = torch.linspace(-3, 3, 23 * 8, dtype=torch.float64).sin().view(23, 8).requires_grad_()
        found = token_logprobs(states, head, targets)
        expected = head(states).log_softmax(-1)[torch.arange(23), targets]
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
        (ours,) = torch.autograd.grad((found * weights).sum(), states)
        (theirs,) = torch.autograd.grad((expected * weights).sum(), states)
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
