"""Worked examples in the prompt: a stratified handful, or the nearest neighbours of each question."""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rung.records import Example
from rung.rungs.base import Built, Context, Outlook, Variant, no_room
from rung.rungs.instructions import answer_spec, few_shot_instruction, spec_for
from rung.rungs.probe import race, under_each_engine
from rung.rungs.rehearsal import outlook
from rung.rungs.variants import choose
from rung.spec import ShotSpec
from rung.system import SHOTS_FILE, VECTORS_FILE, Sources, save
from rung.task import Task
from rung.wording import Shot, messages, question

NEIGHBOURS = (4, 8, 16)
STRATIFIED = 8
SAMPLE_ROWS = 200
"""Training rows by which the length of an example is judged."""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Variants that differ in the number of examples only: they share their files."""

    shots: ShotSpec
    counts: tuple[int, ...]
    files: Sources
    shown: str


class FewShot:
    """k examples: one set for all, or k nearest by sentence vectors (kNN)."""

    name = "few_shot"

    def embeds(self, task: Task) -> bool:
        """The nearest neighbours of a question are found by them, whatever the task."""
        return True

    def skip(self, context: Context) -> str | None:
        """At least one example has to fit beside the question."""
        if reason := no_room(context, learns=True):
            return reason
        if len(context.train) < STRATIFIED:
            return f"{len(context.train)} training rows; worked examples need at least {STRATIFIED}"
        if room_for_shots(context) < 1:
            return f"one worked example and a question don't fit a prompt of {context.limit:,} tokens"
        return None

    def outlook(self, context: Context) -> Outlook | None:
        """By a few rows with each number of examples."""
        return outlook(context, _variants(context)[0])

    def build(self, context: Context) -> Built:
        """Try k stratified and k nearest examples for every k that fits, all constrained."""
        variants, notes = _variants(context)
        chosen, trials, more = choose(context, variants)
        return Built(system=chosen.system, what=chosen.name, trials=trials, notes=(*notes, *more))


def _variants(context: Context) -> tuple[list[Variant], list[str]]:
    """What is tried, under the engine that is faster with a middling number of examples, and notes on that.

    Short prompts and nearest examples come first, so that they are tried when time is short.
    """
    room = room_for_shots(context)
    base = spec_for(
        context,
        "few_shot",
        instruction=few_shot_instruction(context),
        answer=answer_spec(context, constrained=True),
    )
    sized: list[tuple[int, Variant]] = []
    kinds = _kinds(context, room)
    raced, shown = kinds[0], f"{kinds[0].shots.k} {kinds[0].shown} examples"
    first = base.model_copy(update=_settings(context, raced.shots))
    backend, note = race(context, shown, under_each_engine(context, "race", first, raced.files))
    notes = [f"{shown}: {note}"]
    for kind in kinds:
        for k in kind.counts:
            shots = kind.shots.model_copy(update={"k": k})
            spec = backend.runs(base.model_copy(update=_settings(context, shots)))
            system = save(context.work / f"{kind.shots.choice}-{k}", spec, kind.files)
            sized.append((k, Variant(name=f"{k} {kind.shown} examples", system=system)))
    if (taught := answer_spec(context, constrained=False)).written != "json":
        spec = backend.runs(first.model_copy(update={"answer": taught}))
        system = save(context.work / "own-form", spec, raced.files)
        sized.append((raced.shots.k, Variant(name=f"{shown}, in its own form of call", system=system)))
    if left_out := [k for k in NEIGHBOURS if k > room]:
        fitting = f"k = {', '.join(map(str, left_out))} left out"
        notes.append(f"{fitting}: {room} long examples fit a prompt of {context.limit:,} tokens")
    return [variant for _, variant in sorted(sized, key=lambda one: one[0])], notes


def _settings(context: Context, shots: ShotSpec) -> dict:
    """What examples change in a Spec: neighbours are found by sentence vectors."""
    return {"shots": shots, "vectors": context.vectors_ref if shots.choice == "nearest" else None}


def _kinds(context: Context, room: int) -> list[_Kind]:
    rows = [e for e in context.train if is_short(context, e)]
    fixed, most = min(STRATIFIED, room), min(room, len(rows))
    counts = tuple(k for k in NEIGHBOURS if k <= most) or (most,)
    return [
        _Kind(
            shots=ShotSpec(choice="nearest", k=counts[len(counts) // 2]),
            counts=counts,
            files=_index(context, rows),
            shown="nearest",
        ),
        _Kind(
            shots=ShotSpec(choice="fixed", k=fixed),
            counts=(fixed,),
            files={SHOTS_FILE: shot_lines(stratified(rows, fixed, context.seed), context)},
            shown="stratified",
        ),
    ]


def stratified(rows: Sequence[Example], k: int, seed: int) -> list[Example]:
    """k rows, in turn from every distinct output, the commonest first; at random within one."""
    shuffled = sorted(rows, key=lambda e: e.id)
    random.Random(seed).shuffle(shuffled)
    by_output: dict[str, list[Example]] = defaultdict(list)
    for row in shuffled:
        by_output[json.dumps(row.output, sort_keys=True)].append(row)
    queues = sorted(by_output.values(), key=len, reverse=True)
    chosen: list[Example] = []
    while len(chosen) < k and any(queues):
        for queue in queues:
            if queue and len(chosen) < k:
                chosen.append(queue.pop())
    return chosen


def room_for_shots(context: Context) -> int:
    """How many long examples (95th percentile) fit beside a long question and its answer."""
    chat = context.pool.chat(context.model)
    rows = [e for e in context.train if e.id not in context.too_long]
    sample = rows[:: max(1, len(rows) // SAMPLE_ROWS)]
    instruction = few_shot_instruction(context)
    bare = [len(chat.render(messages(instruction, e), style="chat")) for e in sample]
    with_one = [len(chat.render(messages(instruction, e, [_shot(e, context)]), style="chat")) for e in sample]
    shot = _percentile([one - none for one, none in zip(with_one, bare, strict=True)], 0.95)
    free = context.limit - _percentile(bare, 0.95)
    return max(0, (free - answer_spec(context, constrained=True).max_tokens) // max(1, shot))


def is_short(context: Context, row: Example) -> bool:
    """Whether the row leaves half of the context to others: a longer one would crowd them out.

    A token is at least one byte, so few rows have to be counted.
    """
    shot = _shot(row, context)
    most = context.limit // 2
    if len(shot.input.encode()) + len(shot.output.encode()) < most:
        return True
    chat = context.pool.chat(context.model)
    return len(chat.answer_ids(shot.input)) + len(chat.answer_ids(shot.output)) < most


def _percentile(sizes: list[int], share: float) -> int:
    return sorted(sizes)[int(share * (len(sizes) - 1))]


def _index(context: Context, rows: Sequence[Example]) -> Sources:
    from safetensors.numpy import save as as_bytes

    return {VECTORS_FILE: as_bytes({"vectors": context.vectors(rows)}), SHOTS_FILE: shot_lines(rows, context)}


def shot_lines(rows: Sequence[Example], context: Context) -> str:
    """Worked examples as the lines of a System's file."""
    return written_shots(_shot(e, context) for e in rows)


def written_shots(shots: Iterable[Shot]) -> str:
    """The same of what stands in a prompt."""
    return "".join(json.dumps(asdict(shot), ensure_ascii=False) + "\n" for shot in shots)


def _shot(row: Example, context: Context) -> Shot:
    return Shot(input=question(row), output=context.target(row))
