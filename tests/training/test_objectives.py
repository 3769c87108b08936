"""The losses of pairs and of judged answers in the training loop, against a plain padded loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.engines import lora
from rung.engines.packed import packed
from rung.errors import RunError
from rung.training import loop, parts
from rung.training.batches import Row, Tied, epoch
from rung.training.loop import Settings, Trainer, answer_logprobs
from rung.training.objectives import Judged, Pairs, balanced, mismatched
from tests.fixtures_tiny import DEVICE, randomise, tiny

BETA = 0.2
PAIRS = [
    Tied(
        rows=(
            Row(prompt=(5, 6, *range(3, 5 + i % 7)), answer=(10 + i % 5, 20 + i % 3, 0)),
            Row(prompt=(5, 6, *range(3, 5 + i % 7)), answer=(12 + i % 4, 0)[i % 2 :]),
        )
    )
    for i in range(22)
]
ROWS = [row for pair in PAIRS for row in pair.rows]
DESIRABLE = [i % 3 != 0 for i in range(len(ROWS))]
SETTINGS = Settings(learning_rate=5e-3, batch_size=4, rank=4, alpha=8, warmup=2, seed=1)


def begun(kind: str = "llama"):
    """A model whose adapter has learned something, and that adapter."""
    model = tiny(kind)
    lora.attach(model, rank=4, alpha=8, seed=1)
    randomise(model, size=0.05)
    return model, lora.state(model)


def plain(model, rows) -> torch.Tensor:
    """Log-probabilities of answers by one plain pass for each row."""
    found = []
    for row in rows:
        logits = model(torch.tensor([row.prompt + row.answer], device=DEVICE)).logits[0].log_softmax(-1)
        first = len(row.prompt) - 1
        found.append(sum(logits[first + k, token] for k, token in enumerate(row.answer)))
    return torch.stack(found)


def trainer(folder, items, objective, *, model, start, settings=SETTINGS) -> Trainer:
    return Trainer(model, items, settings, folder, "d", objective, start)


def pairs_of(model) -> Pairs:
    return Pairs(PAIRS, answer_logprobs(model, ROWS).tolist(), beta=BETA)


def judged_of(model) -> Judged:
    others = mismatched(ROWS, epoch(ROWS, SETTINGS.batch_size, SETTINGS.seed, 0))
    known, drawn = (answer_logprobs(model, rows).tolist() for rows in (ROWS, others))
    return Judged(DESIRABLE, known, others, drawn, beta=BETA)


def plain_loss(kind: str, model, reference, batch: list[int], others) -> torch.Tensor:
    """By the papers' formulas, written out."""
    found = []
    if kind == "pairs":
        for i in batch:
            now, before = (plain(one, PAIRS[i].rows) for one in (model, reference))
            gains = [(now[k] - before[k].detach()) / len(PAIRS[i].rows[k].answer) for k in (0, 1)]
            found.append(-torch.log(1 / (1 + torch.exp(-BETA * (gains[0] - gains[1])))))
        return torch.stack(found).mean()
    rows = [others[i] for i in batch]
    with torch.no_grad():
        point = max(0.0, float((plain(model, rows) - plain(reference, rows)).mean()))
    good = sum(DESIRABLE)
    weights = {True: max(1.0, (44 - good) / good), False: max(1.0, good / (44 - good))}
    for i in batch:
        gain = (plain(model, [ROWS[i]]) - plain(reference, [ROWS[i]]).detach())[0]
        sign = 1 if DESIRABLE[i] else -1
        found.append(weights[DESIRABLE[i]] * (1 - 1 / (1 + torch.exp(-sign * BETA * (gain - point)))))
    return torch.stack(found).mean()


@pytest.mark.parametrize("part_tokens", [120, -1])
@pytest.mark.parametrize("kind", ["pairs", "judged"])
def test_steps_are_those_of_torchs_adamw_on_the_plain_loss(kind, part_tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "TOKENS_AT_ONCE", 40)  # several parts
    monkeypatch.setattr(parts, "PART_TOKENS", part_tokens)  # with -1 each prompt has its own
    (model, start), (theirs, _), (reference, _) = begun(), begun(), begun()
    items, objective = (PAIRS, pairs_of(model)) if kind == "pairs" else (ROWS, judged_of(model))
    ours = trainer(tmp_path, items, objective, model=model, start=start)
    assert bool(parts.families(items, range(len(items)), ours.shared)[0]) == (part_tokens < 0)
    ticks = list(ours.run(4))
    weights = lora.parameters(theirs)
    groups = [{"params": weights[0::2], "times": 1}, {"params": weights[1::2], "times": 16}]
    optimiser = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    cut = epoch(items, 4, 1, 0)
    others = mismatched(ROWS, cut) if kind == "judged" else []
    for step, tick in enumerate(ticks):
        for group in optimiser.param_groups:
            group["lr"] = group["times"] * 5e-3 * min(1, (step + 1) / 2)
        optimiser.zero_grad()
        loss = plain_loss(kind, theirs, reference, cut[step], others)
        loss.backward()
        assert tick.loss == pytest.approx(loss.item(), abs=1e-9)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    assert abs(ticks[0].loss - ticks[-1].loss) > 1e-4
    for one, other in zip(ours.parameters, [*weights[0::2], *weights[1::2]], strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-8)


def test_pairs_are_told_better_after_a_few_passes_than_before(tmp_path):
    model, start = begun()
    before = answer_logprobs(model, ROWS).view(-1, 2)
    one = trainer(tmp_path, PAIRS, pairs_of(model), model=model, start=start)
    assert torch.equal(before, answer_logprobs(model, ROWS).view(-1, 2)), "it begins where the adapter is"
    list(one.run(24))
    lengths = torch.tensor([[len(row.answer) for row in pair.rows] for pair in PAIRS])
    gains = (answer_logprobs(model, ROWS).view(-1, 2) - before) / lengths
    assert (gains[:, 0] > gains[:, 1]).double().mean() > 0.9


@pytest.mark.parametrize("kind", ["pairs", "judged"])
def test_a_run_in_parts_is_the_run_at_once(kind, tmp_path):
    ends = []
    for name, stops in (("whole", (9,)), ("parts", (1, 4, 9))):
        for until in stops:
            model, start = begun()
            items, objective = (PAIRS, pairs_of(model)) if kind == "pairs" else (ROWS, judged_of(model))
            randomise(model)
            one = trainer(tmp_path / name, items, objective, model=model, start=start)
            list(one.run(until))
            one.close()
        ends.append(lora.state(model))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_another_start_is_refused_by_its_digest(tmp_path):
    model, start = begun()
    one = trainer(tmp_path, PAIRS, pairs_of(model), model=model, start=start)
    list(one.run(1))
    one.close()
    with pytest.raises(RunError, match="another digest"):
        Trainer(model, PAIRS, SETTINGS, tmp_path, "e", pairs_of(model), start)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_log_probabilities_of_answers_are_the_models_own(kind, monkeypatch):
    model, _ = begun(kind)
    with torch.no_grad():
        expected = plain(model, ROWS).cpu()
    done = []
    for tokens in (1, 30, 10_000):
        monkeypatch.setattr(loop, "TOKENS_AT_ONCE", tokens)
        for made in (None, packed(model)):
            found = answer_logprobs(model, ROWS, made, done.append)
            assert torch.allclose(found, expected, rtol=0, atol=1e-10)
            assert done[-1] == len(ROWS)


counts = st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda found: len(set(found)) == 2)


@given(counts)
def test_both_judgements_weigh_as_much_or_the_desirable_up_to_a_third_more(desirable):
    good, bad = sum(desirable), len(desirable) - sum(desirable)
    of_good, of_bad = balanced(desirable)
    assert min(of_good, of_bad) == 1
    assert 1 - 1e-9 <= of_good * good / (of_bad * bad) <= 4 / 3 + 1e-9


def test_one_judgement_alone_cannot_be_weighed():
    with pytest.raises(ValueError, match="both judgements"):
        balanced([True, True])


@given(st.integers(1, 30), st.integers(1, 7))
def test_mismatched_rows_have_their_own_prompts_and_the_answers_of_their_batch(count, size):
    rows = [Row(prompt=(n, n), answer=(100 + n,)) for n in range(count)]
    cut = epoch(rows, size, 0, 0)
    found = mismatched(rows, cut)
    assert [row.prompt for row in found] == [row.prompt for row in rows]
    for batch in cut:
        assert sorted(found[i].answer for i in batch) == sorted(rows[i].answer for i in batch)
        assert len(batch) == 1 or all(found[i].answer != rows[i].answer for i in batch)
