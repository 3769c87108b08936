"""Worked examples in the prompt: a stratified handful, or the nearest neighbours of each question."""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rung.records import Example
from rung.rungs.base import Built, Context, Variant, choose
from rung.rungs.instructions import answer_spec, short_instruction, spec_for
from rung.rungs.probe import settle_engine
from rung.system import (
    ANSWER_CONTEXT,
    SHOTS_FILE,
    VECTORS_FILE,
    Shot,
    ShotSpec,
    messages,
    question,
    save,
)

NEIGHBOURS = (4, 8, 16)
STRATIFIED = 8


class FewShot:
    """k examples: one set for all, or k nearest by sentence vectors (kNN)."""

    name = "few_shot"

    def skip(self, context: Context) -> str | None:
        """At least one example has to fit beside the question."""
        if len(context.train) < STRATIFIED:
            return f"{len(context.train)} training rows; worked examples need at least {STRATIFIED}"
        if _room(context) < 1:
            return f"one worked example and a question don't fit a prompt of {ANSWER_CONTEXT} tokens"
        return None

    def build(self, context: Context) -> Built:
        """Try k stratified and k nearest examples for every k that fits, all constrained."""
        room = _room(context)
        answer = answer_spec(context, constrained=True)
        base = spec_for(context, self.name, instruction=short_instruction(context), answer=answer)
        place = context.folder / "variants"
        with TemporaryDirectory() as draft:
            nearest_files = _index(context, context.train, Path(draft))
            fixed = {
                SHOTS_FILE: _lines(stratified(context.train, min(STRATIFIED, room), context.seed), context)
            }
            wanted = [("fixed", min(STRATIFIED, room), fixed)]
            wanted += [("nearest", k, nearest_files) for k in NEIGHBOURS if k <= room] or [
                ("nearest", room, nearest_files)
            ]
            notes: list[str] = []
            engine = ""
            variants = []
            for choice, k, files in wanted:
                spec = base.model_copy(update={"shots": ShotSpec(choice=choice, k=k)})
                where = place / f"{choice}-{k}"
                if not engine:
                    system, note = settle_engine(context, where, spec, files, context.dev[:8])
                    engine = system.spec.engine
                    notes.append(note)
                system = save(where, spec.model_copy(update={"engine": engine}), files)
                name = f"{k} nearest examples" if choice == "nearest" else f"{k} stratified examples"
                variants.append(Variant(name=name, system=system))
        left_out = [k for k in NEIGHBOURS if k > room]
        if left_out:
            notes.append(f"k = {left_out} don't fit a prompt of {ANSWER_CONTEXT} tokens")
        chosen, trials, more = choose(context, variants)
        return Built(system=chosen.system, what=chosen.name, trials=trials, notes=(*notes, *more))


def stratified(rows: Sequence[Example], k: int, seed: int) -> list[Example]:
    """k rows, in turn from every distinct output, the commonest first; at random within one."""
    shuffled = sorted(rows, key=lambda e: e.id)
    random.Random(seed).shuffle(shuffled)
    by_output: dict[str, list[Example]] = defaultdict(list)
    for row in shuffled:
        by_output[json.dumps(row.output, sort_keys=True)].append(row)
    queues = sorted(by_output.values(), key=len, reverse=True)
    chosen: list[Example] = []
    while len(chosen) < k:
        for queue in queues:
            if queue and len(chosen) < k:
                chosen.append(queue.pop())
        if not any(queues):
            break
    return chosen


def _room(context: Context) -> int:
    """How many long examples (95th percentile) fit beside a long question and its answer."""
    chat = context.pool.chat(context.model)
    sample = context.train[:: max(1, len(context.train) // 200)]
    instruction = short_instruction(context)
    bare = [len(chat.render(messages(instruction, e), style="chat")) for e in sample]
    with_one = [len(chat.render(messages(instruction, e, [_shot(e, context)]), style="chat")) for e in sample]
    shot = _percentile([one - none for one, none in zip(with_one, bare, strict=True)], 0.95)
    free = min(context.model.context, ANSWER_CONTEXT) - _percentile(bare, 0.95)
    return max(0, (free - answer_spec(context, constrained=True).max_tokens) // max(1, shot))


def _percentile(sizes: list[int], share: float) -> int:
    return sorted(sizes)[int(share * (len(sizes) - 1))]


def _index(context: Context, rows: Sequence[Example], draft: Path) -> dict[str, Path | str]:
    import numpy as np
    from safetensors.numpy import save_file

    bar = context.reporter.begin("few_shot: embedding the training rows", len(rows))
    vectors = context.pool.embedder.cached_embeddings(
        [question(e) for e in rows],
        context.vectors_folder,
        progress=lambda done, _: context.reporter.advance(bar, done),
    )
    context.reporter.end(bar)
    save_file({"vectors": np.ascontiguousarray(vectors, dtype=np.float32)}, draft / VECTORS_FILE)
    return {VECTORS_FILE: draft / VECTORS_FILE, SHOTS_FILE: _lines(rows, context)}


def _lines(rows: Sequence[Example], context: Context) -> str:
    return "".join(json.dumps(asdict(_shot(e, context)), ensure_ascii=False) + "\n" for e in rows)


def _shot(row: Example, context: Context) -> Shot:
    return Shot(input=question(row), output=context.target(row))
