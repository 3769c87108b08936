import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from rung.engines import lora
from rung.engines.packed import packed
from rung.errors import TrainingError
from rung.training import loop, losses
from rung.training.batches import Row
from rung.training.loop import batch_loss, dev_loss
from rung.training.losses import completion_targets
from tests.fixtures_tiny import DEVICE, randomise, tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ids = st.lists(st.integers(0, 299), min_size=1, max_size=20).map(tuple)
rows = st.builds(lambda prompt, answer: Row(prompt=prompt, answer=answer), ids, ids)
BATCH = [
    Row(prompt=(5, 6, 7, 8, 9), answer=(10, 11, 0)),
    Row(prompt=(250,), answer=(3, 0)),
    Row(prompt=(17, 99, 250, 3, 3, 8, 44), answer=(0,)),
    Row(prompt=(7, 7), answer=(9, 8, 7, 6, 5, 4, 3, 2, 1, 0)),
]


@given(st.lists(rows, min_size=1, max_size=6))
def test_exactly_the_answers_are_supervised_each_from_the_token_before_it(batch):
    numbers, columns, targets = completion_targets(batch)
    found: list[list[int]] = [[] for _ in batch]
    for number, column, target in zip(numbers.tolist(), columns.tolist(), targets.tolist(), strict=True):
        whole = batch[number].prompt + batch[number].answer
        assert whole[column + 1] == target
        assert column < batch[number].tokens
        found[number].append(target)
    assert [tuple(f) for f in found] == [row.answer for row in batch]


def plain_loss(model, batch) -> torch.Tensor:
    """The usual way: everything padded, labels of -100 where nothing is supervised, logits for all."""
    longest = max(len(row.prompt + row.answer) for row in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long, device=DEVICE)
    labels, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
    for number, row in enumerate(batch):
        whole = row.prompt + row.answer
        tokens[number, : len(whole)] = torch.tensor(whole)
        labels[number, len(row.prompt) : len(whole)] = torch.tensor(row.answer)
        mask[number, : len(whole)] = 1
    answer = model(input_ids=tokens, attention_mask=mask, labels=labels)
    loss = torch.nn.functional.cross_entropy(answer.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    # transformers' own loss is the same, but for its rounding to fp32.
    assert loss.item() == pytest.approx(answer.loss.item(), abs=1e-5)
    return loss


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_loss_and_gradients_are_those_of_peft_and_a_plain_padded_loop(kind):
    model = tiny(kind)
    lora.attach(model, rank=4, alpha=6, seed=0)
    randomise(model)
    config = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    twin = get_peft_model(tiny(kind), config, autocast_adapter_dtype=False)
    theirs = dict(twin.named_parameters())
    pairs = [
        (ours, theirs[f"base_model.model.{name}.lora_{matrix}.default.weight"])
        for name, layer in lora.layers(model)
        for matrix, ours in (("A", layer.lora_a), ("B", layer.lora_b))
    ]
    assert len(pairs) == 28
    for ours, other in pairs:
        other.data.copy_(ours.data)
    loss, reference = batch_loss(model, BATCH), plain_loss(twin, BATCH)
    loss.backward()
    reference.backward()
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(reference.item(), abs=1e-12)
    for ours, other in pairs:
        assert other.grad.abs().max() > 1e-4
        assert torch.allclose(ours.grad, other.grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_padding_changes_nothing(kind):
    model = tiny(kind)
    lora.attach(model, rank=4, alpha=6, seed=0)
    randomise(model)
    alone = [batch_loss(model, [row]) for row in BATCH]
    supervised = [len(row.answer) for row in BATCH]
    mean = sum(a * n for a, n in zip(alone, supervised, strict=True)) / sum(supervised)
    together = batch_loss(model, BATCH)
    assert together.item() == pytest.approx(mean.item(), abs=1e-12)
    ours = torch.autograd.grad(together, lora.parameters(model))
    theirs = torch.autograd.grad(mean, lora.parameters(model))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_the_dev_loss_weighs_tokens_equally_whatever_the_batches(monkeypatch):
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0)
    randomise(model)
    expected = batch_loss(model, BATCH).item()
    for size in (1, 8, 24, 64):
        monkeypatch.setattr(loop, "TOKENS_AT_ONCE", size)
        assert dev_loss(model, BATCH) == pytest.approx(expected, abs=1e-12)
        assert dev_loss(model, BATCH, packed(model)) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(TrainingError, match="no rows"):
        dev_loss(model, [])


@settings(deadline=None, max_examples=10)
@given(st.lists(rows, min_size=1, max_size=3))
def test_the_loss_is_the_models_own_log_probability_of_the_answers(batch):
    model = tiny()
    expected = []
    for row in batch:
        with torch.no_grad():
            logprobs = model(torch.tensor([row.prompt + row.answer], device=DEVICE)).logits[0].log_softmax(-1)
        first = len(row.prompt) - 1
        expected += [-logprobs[first + k, token].item() for k, token in enumerate(row.answer)]
    assert batch_loss(model, batch).item() == pytest.approx(sum(expected) / len(expected), abs=1e-10)


@pytest.mark.parametrize("bias", [False, True])
def test_logits_in_parts_are_logits_at_once(monkeypatch, bias):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=bias).double().requires_grad_(False)
    targets = torch.randint(50, (23,))
    found = []
    for at_once in (1, 4 * 50, 2**24):
        monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
        states = torch.linspace(-3, 3, 23 * 8, dtype=torch.float64).sin().view(23, 8).requires_grad_()
        loss = losses.completion_loss(states, head, targets)
        (2 * loss).backward()
        assert torch.equal(losses.completion_loss(states.detach(), head, targets), loss.detach())
        found.append((loss.item(), states.grad))
    expected = torch.nn.functional.cross_entropy(head(states), targets)
    (slope,) = torch.autograd.grad(2 * expected, states)
    for loss, gradient in found:
        assert loss == pytest.approx(expected.item(), abs=1e-12)
        assert torch.allclose(gradient, slope, rtol=0, atol=1e-12)


def test_the_loss_of_states_in_bf16_is_in_fp32():
    model = tiny(dtype=torch.bfloat16)
    lora.attach(model, rank=4, alpha=6, seed=0)
    loss = batch_loss(model, BATCH)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(batch_loss(tiny(), BATCH).item(), rel=0.05)
