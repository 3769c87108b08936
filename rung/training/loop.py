"""The one training loop: AdamW, warm-up, constant rate, and a linear decay once told to end.

Warm-up-stable-decay rather than cosine: the length of a run isn't known when it starts, since it goes on
until the dev metric stops rising, and what a learning-rate trial has learned is a true beginning of
the full run, so nothing of it is thrown away.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import torch
from torch.optim.adamw import adamw

from rung.engines import lora, storage
from rung.engines.device import in_halves, let_go
from rung.engines.layout import pack, slot_tokens
from rung.engines.packed import Packed, packed, size_of
from rung.engines.parallel import portion, side_by_side, workers
from rung.engines.prefix import memory_of, prefix_of
from rung.engines.rows import Network, in_batches, pad_right, shared_prefix
from rung.errors import TrainingError
from rung.memory import used_up, want_of_memory
from rung.training import batches, losses
from rung.training.activations import Room, room_for, run_again, within
from rung.training.batches import Item, Row
from rung.training.checkpoint import Checkpoint
from rung.training.graphs import Graphs
from rung.training.learned import Learned, low_rank, masters, spans
from rung.training.objectives import Objective
from rung.training.onpolicy import OnPolicy, States
from rung.training.parts import families, length, parts

BETAS = (0.9, 0.999)
WEIGHT_DECAY = 0.01
WARMUP = 10
"""Steps. 50 of banking77, in all, ended at .627, .645 and .683 after 20, 10 and 5 of them; one seed each."""
CLIP_NORM = 1.0
TOKENS_AT_ONCE = 1024
"""A batch with more goes through the model in parts whose gradients add up to the whole batch's, so that what
is kept for the way back doesn't grow with the rows' length."""
SAVE_EVERY_S = 1.0
"""On a GPU, where storing the state takes as long as a few steps."""
SAVE_ALL_EVERY_S = 30.0
"""Where a model's own weights learn: their state is as large as several models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What fixes a run besides its rows. `learning_rate` is A's on the plateau; `warmup` is in steps."""

    learning_rate: float
    batch_size: int
    rank: int = 16
    alpha: float = 32.0
    warmup: int = WARMUP
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """What a progress bar shows after a step; what was drawn is `said` where answers are.

    A step that drew nothing to learn from has no `loss`.
    """

    step: int
    loss: float | None
    grad_norm: float
    seconds: float
    rows_per_s: float
    tokens_per_s: float
    said: str = ""


class Trainer:
    """One run: its model, of which some parameters learn, its optimiser state and its place in the rows."""

    def __init__(  # noqa: PLR0913 (what fixes a run)
        self,
        model: Network,
        rows: Sequence[Item],
        settings: Settings,
        folder: Path,
        digest: str,
        objective: Objective | OnPolicy | None = None,
        start: dict[str, torch.Tensor] | None = None,
        learned: Learned | None = None,
    ):
        """What learns is `learned`, or LoRA layers, which `model` gets unless it has them already.

        Resumes from `folder`. The completion loss is made small where there's no other `objective`, over the
        same rows or over what the model answers to their prompts. A run begins with what learns as it is
        drawn, or with the tensors of `start`.
        """
        if not rows:
            raise TrainingError("no rows to train on")
        if any(not row.answer or not row.prompt for item in rows for row in item.rows):
            raise TrainingError("a training row has no supervised token; check the answers and the template")
        self.model, self.rows, self.settings = model, rows, settings
        self.objective, self.start = objective, start
        self._items = rows
        if learned is None and not any(True for _ in lora.layers(model)):
            lora.attach(model, rank=settings.rank, alpha=settings.alpha, seed=settings.seed)
        self.learned = learned or low_rank(model)
        # Group by group: their rates differ, and a step is a few operations on what stands together.
        self.parameters = [p for group, _ in self.learned.groups for p in group]
        self._flat = masters(self.parameters) if self.learned.own else storage.side_by_side(self.parameters)
        self._spans = spans(self.learned)
        self._slope = torch.zeros_like(self._flat)
        sizes = [p.numel() for p in self.parameters]
        parts_of_slope = zip(self._slope.split(sizes), self.parameters, strict=True)
        self._slopes = [part.view(p.shape) for part, p in parts_of_slope]
        # Packs know no gradient of a model's own weights.
        self.packed = None if self.learned.own else packed(model)
        self.graphs = None
        # What stands before all rows already is learned: a beginning that they share isn't read on top of it.
        ahead = prefix_of(model) is not None
        if self.packed is not None and self.packed.device.type == "cuda" and objective is None and not ahead:
            self.graphs = Graphs(self.packed, self.parameters, self._slope)
        self._alone = self.packed is None or ahead
        prompts = [row.prompt for item in rows for row in item.rows]
        self.shared = 0 if self._alone else len(shared_prefix(prompts))
        self.moments = [torch.zeros_like(self._flat) for _ in range(2)]
        self.checkpoint = Checkpoint(folder, [self._flat, *self.moments], digest)
        self.steps_per_epoch = -(-len(rows) // settings.batch_size)
        self._most: int | None = None
        self._beside = workers(self.parameters[0].device)
        self._room: Room | None = None
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        self.step, self._saved = 0, -math.inf
        self.restart()

    def restart(self) -> None:
        """Make this run's stored state the model's, whatever the model was used for in between."""
        if self.checkpoint.step == 0:
            if self.start is None:
                self.learned.draw(self.settings.seed)
            else:
                self.learned.restore(self.start)
            if self.learned.own:
                self._flat.copy_(masters(self.parameters))
            for moment in self.moments:
                moment.zero_()
        self.step = self.checkpoint.load()
        self._publish()
        self.model.eval()  # what is kept while nothing learns is made anew

    def run(
        self, until: int, *, decay: tuple[int, int] | None = None, warmup: int | None = None
    ) -> Iterator[Tick]:
        """Train to step `until`, yielding after every step. `decay` = (first, last) step of the linear decay.

        `warmup` steps take the place of the settings' where a run turns out shorter than it was to be.

        Raises TrainingError where the loss or its gradient stops being a number.
        """
        while self.step < until:
            start = time.perf_counter()
            batch = self._batch()
            prompts = len(batch)
            if isinstance(self.objective, OnPolicy):
                self._items = self.objective.draw(batch, self.step)
                batch = list(range(len(self._items)))
            rate = self._rate(decay, self.settings.warmup if warmup is None else warmup)
            loss, norm = self._update(batch, rate) if batch else (None, 0.0)
            if loss is not None and not math.isfinite(loss + norm):
                raise TrainingError(
                    f"the loss became {loss} and its gradient's norm {norm} at step {self.step + 1} with "
                    f"learning rate {self.settings.learning_rate:g}; a lower rate is needed"
                )
            self.step += 1
            self._save(until)
            seconds = time.perf_counter() - start
            yield Tick(
                step=self.step,
                loss=loss,
                grad_norm=norm,
                seconds=seconds,
                rows_per_s=prompts / seconds,
                tokens_per_s=sum(self._items[i].tokens for i in batch) / seconds,
                said=self.objective.said if isinstance(self.objective, OnPolicy) else "",
            )

    def close(self) -> None:
        """Let go of the state file; it stays on disk."""
        self.checkpoint.close()

    def _save(self, until: int) -> None:
        """Store the state at the end, and on the way where that takes no longer than a small part of it."""
        now, every_s = time.monotonic(), SAVE_EVERY_S if self._flat.is_cuda else 0.0
        if self.learned.own:
            every_s = SAVE_ALL_EVERY_S
        if self.step == until or now - self._saved >= every_s:
            self.checkpoint.save(self.step)
            self._saved = time.monotonic()

    def _batch(self) -> list[int]:
        number, place = divmod(self.step, self.steps_per_epoch)
        if self._epoch[0] != number:
            cut = batches.epoch(self.rows, self.settings.batch_size, self.settings.seed, number)
            self._epoch = (number, cut)
        return self._epoch[1][place]

    def _update(self, batch: list[int], rate: float) -> tuple[float, float]:
        self.model.train()
        loss = self._slopes_in_memory(batch)
        norm = float(self._slope.norm())
        if math.isfinite(norm) and math.isfinite(loss):
            self._slope.mul_(min(1.0, CLIP_NORM / (norm + 1e-6)))
            self._adamw(rate)
            self._publish()
        self.model.eval()
        return loss, norm

    def _publish(self) -> None:
        """Give the model what was learned, where it doesn't stand there already."""
        if self.learned.own:
            with torch.no_grad():
                parts = self._flat.split([p.numel() for p in self.parameters])
                for p, part in zip(self.parameters, parts, strict=True):
                    p.copy_(part.view(p.shape))

    def _slopes_in_memory(self, batch: list[int]) -> float:
        """The mean loss of a batch, its gradient being the slopes.

        Where memory doesn't hold it, half as many tokens go through the model at once from then on.
        """
        while True:
            self._slope.zero_()
            try:
                return self._add_slopes(batch)
            except RuntimeError as error:
                if not used_up(error):
                    raise
                why = want_of_memory(error)
            self._halve(batch, why)  # not before the error is gone, whose frames hold what the pass had made

    def _halve(self, batch: list[int], why: str) -> None:
        """Take half as many tokens at once, at last a row alone. TrainingError where that is too much."""
        longest = max(self._tokens([i]) for i in batch)
        # A row that is longer than that is alone already, and little of it is kept for the way back.
        if self._most is not None and self._most < longest:
            if self._beside == 1:
                raise TrainingError(f"a row of {longest:,} tokens at step {self.step + 1}: {why}")
            self._beside //= 2
        device = self.parameters[0].device
        count, most = workers(device), self._most or tokens_at_once(device, self.packed)
        self._most = max(1, min(most, count * max(map(self._tokens, self._cut(batch)))) // 2)
        self.graphs = None
        each = max(1, self._most // count)
        if self.packed is not None:
            self.packed.room = min(self.packed.room, each)
        elif self._room is not None:
            self._room.most = each
        let_go()

    def _add_slopes(self, batch: list[int]) -> float:
        """The mean loss of a batch; its gradient is added to the slopes."""
        drawn = self._cut(batch)
        if self.objective is not None and not isinstance(self.objective, OnPolicy):
            self.objective.begin(batch, lambda rows: answer_logprobs(self.model, rows, self.packed))
        shares = self._shares(drawn)
        if self.graphs is not None:
            return sum(map(self.graphs.add, map(self._of, drawn), repeat(self.shared), shares))

        def slopes(given: tuple[list[int], float]) -> tuple[float, tuple[torch.Tensor, ...]]:
            part, share = given
            with torch.enable_grad():
                loss = self._loss(part) * share
                # Before the loss is read, which waits for a GPU.
                found = torch.autograd.grad(loss, self.parameters)
            return float(loss.detach()), found

        loss = 0.0
        # In the parts' order, whichever ends first: the same rows give the same bits.
        count, most = workers(self.parameters[0].device), self._beside
        if self.packed is not None:
            most = min(most, self.packed.beside(max(map(self._tokens, drawn))))
        with run_again(self.model, self._room):
            for part_loss, found in side_by_side(slopes, list(zip(drawn, shares, strict=True)), count, most):
                loss += part_loss
                for total, more in zip(self._slopes, found, strict=True):
                    total.add_(more)
        return loss

    def _cut(self, batch: Sequence[int]) -> list[list[int]]:
        """The items of a batch in the parts that go through the model at once, the longest first."""
        device = self.parameters[0].device
        count, most = workers(device), self._most or tokens_at_once(device, self.packed)
        slots = None if self.packed is None else partial(slot_tokens, device=device)

        def cut(chosen: Sequence[int], at_once: int, shared: int, room: int) -> list[list[int]]:
            lengths = [length(self._items[i], shared) for i in chosen]
            found = parts(lengths, at_once, shared=shared, slots=slots, most=room)
            return [[chosen[i] for i in part] for part in found]

        if self.packed is None:
            fits = self._fits(batch)
            found = cut(batch, count, self.shared, min(most, count * fits))
            return [few for part in found for few in within(part, self._tokens, fits)]
        if self.objective is None or self._alone:
            return cut(batch, count, self.shared, most)
        together, others = families(self._items, batch, self.shared)
        found = cut(others, count, self.shared, most) if others else []
        for members in together:
            found += cut(members, 1, len(self._items[members[0]].rows[0].prompt) - 1, most // count)
        return sorted(found, key=lambda part: -self._tokens(part)) if together else found

    def _fits(self, batch: Sequence[int]) -> int:
        """How many tokens memory holds in each pass over transformers' own modules."""
        if self._room is None:
            self._room = room_for(self.model, self.parameters)
        return self._room.tokens(max(row.tokens for row in self._of(batch)))

    def _tokens(self, part: Sequence[int]) -> int:
        """Tokens of a part that are read, what its rows share counted once, and padding where any is."""
        rows = self._of(part)
        if self.packed is None:
            return len(rows) * max(row.tokens for row in rows)
        shared = self._read_once(rows)
        return shared + sum(length(self._items[i], shared) - shared for i in part)

    def _read_once(self, rows: Sequence[Row]) -> int:
        """How many tokens that a part's rows begin with are read once; of one prompt all but its last."""
        first = rows[0].prompt
        if self.objective is None or self._alone or len(rows) == 1:
            return self.shared
        return len(first) - 1 if all(row.prompt == first for row in rows) else self.shared

    def _of(self, part: Sequence[int]) -> list[Row]:
        """The rows of some items."""
        return [row for i in part for row in self._items[i].rows]

    def _shares(self, cut: Sequence[Sequence[int]]) -> list[float]:
        """What parts weigh: by their tokens, or by items where these have losses; 1 if weighed already."""
        if isinstance(self.objective, OnPolicy):
            return [1.0] * len(cut)
        of_items = self.objective is not None
        sizes = [len(p) if of_items else sum(len(row.answer) for row in self._of(p)) for p in cut]
        return [size / sum(sizes) for size in sizes]

    def _loss(self, part: Sequence[int]) -> torch.Tensor:
        """The mean loss of a part, or what it adds to the batch's."""
        rows = self._of(part)
        if isinstance(self.objective, OnPolicy):
            return self.objective.loss(part, self._states(rows))
        if self.objective is None:
            if self.packed is None:
                return batch_loss(self.model, rows)
            return packed_loss(self.packed, rows, self.shared)
        logprobs = summed_logprobs(self.model, rows, self.packed, self._read_once(rows))
        return self.objective.losses(part, logprobs).mean()

    def _states(self, rows: Sequence[Row]) -> States:
        if self.packed is None:
            return _padded_states(self.model, rows)
        return packed_states(self.packed, rows, self._read_once(rows))

    def _adamw(self, rate: float) -> None:
        """Decoupled weight decay Adam (Loshchilov & Hutter 2019), through torch's fused kernel."""
        with torch.no_grad():
            for part, share in self._spans:
                adamw(
                    [self._flat[part]],
                    [self._slope[part]],
                    [self.moments[0][part]],
                    [self.moments[1][part]],
                    [],
                    [torch.tensor(float(self.step), device=self._flat.device)],
                    fused=True,
                    amsgrad=False,
                    beta1=BETAS[0],
                    beta2=BETAS[1],
                    lr=rate * share,
                    weight_decay=WEIGHT_DECAY,
                    eps=1e-8,
                    maximize=False,
                )

    def _rate(self, decay: tuple[int, int] | None, warmup: int) -> float:
        rate = self.settings.learning_rate * min(1.0, (self.step + 1) / max(1, warmup))
        if decay is not None and self.step >= decay[0]:
            rate *= max(0.02, (decay[1] - self.step) / max(1, decay[1] - decay[0]))
        return rate


def tokens_at_once(device: torch.device, made: Packed | None) -> int:
    """Tokens of a batch, in all parts that run side by side, that go through the model at once."""
    most = portion(TOKENS_AT_ONCE, device)
    return most if made is None or device.type == "cpu" else min(most, made.room)


def packed_loss(model: Packed, batch: Sequence[Row], shared: int = 0) -> torch.Tensor:
    """Completion loss of a batch without padding; what its rows share at their beginning is run once."""
    return losses.completion_loss(*packed_states(model, batch, shared))


def batch_loss(model: Network, batch: Sequence[Row]) -> torch.Tensor:
    """Completion loss of a batch, rows padded on the right (causal attention can't see the padding)."""
    return losses.completion_loss(*_padded_states(model, batch))


def summed_logprobs(
    model: Network, batch: Sequence[Row], made: Packed | None = None, shared: int = 0
) -> torch.Tensor:
    """Log-probabilities [rows] of the answers of a batch, each the sum over its tokens, with a gradient.

    `made` is the model over packs, for models that can be read so; all rows begin with `shared` tokens.
    """
    states = _padded_states(model, batch) if made is None else packed_states(made, batch, shared)
    found = losses.token_logprobs(*states)
    return torch.stack([part.sum() for part in found.split([len(row.answer) for row in batch])])


def packed_states(model: Packed, batch: Sequence[Row], shared: int) -> States:
    """The states before supervised tokens, the head, and those tokens.

    No beginning is `shared` where a prefix was learned.
    """
    prefix, memory = batch[0].prompt[:shared], memory_of(model.model)
    own = [(*row.prompt[shared:], *row.answer[:-1]) for row in batch]
    once = pack(own, model.device, prefix=prefix, known=size_of(memory))
    rows, columns, targets = losses.completion_targets(batch)
    hidden = model.hidden(once, once.places(rows.tolist(), (columns - shared).tolist()), memory)
    return hidden, model.model.lm_head, targets.to(model.device)


def _padded_states(model: Network, batch: Sequence[Row]) -> States:
    device = model.lm_head.weight.device
    ids = pad_right([(*row.prompt, *row.answer[:-1]) for row in batch]).to(device)
    rows, columns, targets = losses.completion_targets(batch)
    hidden = model.model(ids, use_cache=False).last_hidden_state
    return hidden[rows, columns], model.lm_head, targets.to(device)


def answer_states(model: Network, rows: Sequence[Row], made: Packed | None = None) -> list[torch.Tensor]:
    """The states before each token of the answers, [tokens, width] for each row, without a gradient.

    `made` is the model over packs, for models that can be read so.
    """
    device = model.lm_head.weight.device
    found: list[torch.Tensor] = [torch.empty(0)] * len(rows)

    @torch.no_grad()
    def read(part: list[int]) -> list[torch.Tensor]:
        batch = [rows[i] for i in part]
        states = _padded_states(model, batch) if made is None else packed_states(made, batch, 0)
        return list(states[0].split([len(row.answer) for row in batch]))

    for part in in_batches([row.tokens for row in rows], 0, tokens_at_once(device, made)):
        for place, own in zip(part, in_halves(read, part), strict=True):
            found[place] = own
    return found


def dev_loss(model: Network, rows: Sequence[Row], made: Packed | None = None) -> float:
    """Mean completion loss over rows (nats per supervised token). Raises TrainingError without rows.

    `made` is the model over packs, for models that can be read so.
    """
    if not rows:
        raise TrainingError("no rows to measure the loss on")
    total = float(answer_logprobs(model, rows, made).sum())
    return -total / sum(len(row.answer) for row in rows)


def answer_logprobs(
    model: Network,
    rows: Sequence[Row],
    made: Packed | None = None,
    on_done: Callable[[int], None] = lambda done: None,
) -> torch.Tensor:
    """Log-probabilities [rows] of the answers in fp64, each the sum over its tokens, without a gradient.

    `on_done` is called with the number of rows that are done.
    """
    device = model.lm_head.weight.device
    count = workers(device)
    found, done = [0.0] * len(rows), 0

    def summed(part: list[int]) -> list[float]:
        with torch.inference_mode():
            return summed_logprobs(model, [rows[i] for i in part], made).tolist()

    batches = in_batches([row.tokens for row in rows], 0, tokens_at_once(device, made) // count)
    for part, values in zip(batches, side_by_side(partial(in_halves, summed), batches, count), strict=True):
        for place, value in zip(part, values, strict=True):
            found[place] = value
        done += len(part)
        on_done(done)
    return torch.tensor(found, dtype=torch.float64)
