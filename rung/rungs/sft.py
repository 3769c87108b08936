"""Supervised fine-tuning: a LoRA on the rows, the rate by successive halving, as long as dev still rises."""

import json
from dataclasses import dataclass
from pathlib import Path

from rung.errors import TrainingError
from rung.records import Parity, Trial
from rung.rungs.base import Built, Context
from rung.rungs.instructions import longest_answer
from rung.rungs.probe import settle_engine
from rung.system import (
    ADAPTER_FOLDER,
    ADAPTER_GGUF,
    ANSWER_CONTEXT,
    AnswerSpec,
    Spec,
    System,
    answer_text,
    candidates,
    prompts_for,
    save,
)

FEWEST_ROWS = 50
RESERVE_S = 60.0
"""Kept back from the rung's time for the export, parity and the dev score."""


@dataclass(frozen=True)
class Form:
    """One way to write the answers: the Spec it makes and the training rows in token ids."""

    name: str
    spec: Spec


class Sft:
    """LoRA on every linear layer of the base model, trained on the prompt that will be served."""

    name = "sft"

    def skip(self, context: Context) -> str | None:
        """Too few rows teach nothing that examples in the prompt wouldn't."""
        if len(context.train) < FEWEST_ROWS:
            return f"{len(context.train)} training rows; tuning needs at least {FEWEST_ROWS}"
        return None

    def build(self, context: Context) -> Built:
        """Search, train, convert, prove parity, and settle the engine."""
        from rung.rungs.tuning import Plan, tune

        if context.seconds_left < 2 * RESERVE_S:
            raise TrainingError(
                f"{max(0, context.seconds_left):.0f} s of the budget are left, too few to tune; give more with --budget"
            )
        forms = answer_forms(context)
        plan = Plan(
            folder=context.folder / "training",
            budget_s=context.seconds_left - RESERVE_S,
            seed=context.seed,
        )
        outcome = tune(context, {form.name: form.spec for form in forms}, plan)
        spec = next(form.spec for form in forms if form.name == outcome.form)
        files = export(context, outcome.adapter, context.folder / "export")
        parity = prove(context, spec, files, context.folder / "parity")
        system, note = settle(context, spec, files, parity)
        whole = context.measure(system, context.dev, "sft, all dev rows")
        final = Trial(name="the tuned System", score=whole.score, n=whole.n, seconds=0.0, chosen=True)
        return Built(
            system=system,
            what=outcome.what,
            trials=(*outcome.trials, final),
            notes=(*outcome.notes, note),
            parity=parity,
        )


def answer_forms(context: Context) -> list[Form]:
    """The Specs to try: for labels one-token codes and the labels' words, else the answer as it is."""
    base = Spec(
        rung="sft",
        task=context.task.name,
        kind=context.kind,
        labels=context.labels,
        schema_=context.task.output.json_schema,
        engine="llama",
        model=context.ref,
        style="terse",
        answer=AnswerSpec(form="free", max_tokens=longest_answer(context)),
    )
    if context.kind == "label":
        words = Form("words", base.model_copy(update={"answer": AnswerSpec(form="words")}))
        codes = label_codes(context)
        return [
            Form("codes", base.model_copy(update={"answer": AnswerSpec(form="codes", codes=codes)})),
            words,
        ]
    if context.kind == "json":
        schema = base.answer.model_copy(update={"form": "schema"})
        return [Form("schema", base.model_copy(update={"answer": schema}))]
    return [Form("text", base)]


def label_codes(context: Context) -> tuple[int, ...]:
    """One token of its own for every label: the first of its words that no earlier label took.

    A label whose tokens are all taken gets the lowest ordinary token that is free.
    """
    chat = context.pool.chat(context.model)
    taken: list[int] = []
    for label in context.labels:
        own = chat.answer_ids(answer_text(label, "label"), "terse")
        own = [t for t in own if t not in chat.stop_ids]
        free = [t for t in own if t not in taken]
        taken.append(free[0] if free else next(t for t in range(1000, 10**6) if t not in taken))
    return tuple(taken)


def export(context: Context, adapter: Path, folder: Path) -> dict[str, Path | str]:
    """The PEFT adapter and its GGUF twin as files of a System."""
    from rung.models.weights import dequantised
    from rung.training.adapter import to_gguf

    folder.mkdir(parents=True, exist_ok=True)
    weights = dequantised(context.model)
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    gguf = to_gguf(adapter, folder / ADAPTER_GGUF, config=config)
    files: dict[str, Path | str] = {
        f"{ADAPTER_FOLDER}/{p.name}": p for p in sorted(adapter.iterdir()) if p.is_file()
    }
    return files | {ADAPTER_GGUF: gguf}


def prove(context: Context, spec: Spec, files: dict[str, Path | str], place: Path) -> Parity:
    """torch with the PEFT adapter against llama with the GGUF one.

    Raises TrainingError where more than 1 % of the rows clearly disagree: that's no rounding.
    """
    from rung.training import parity

    chat = context.pool.chat(context.model)
    systems: dict[str, System] = {
        engine: save(place / engine, spec.model_copy(update={"engine": engine}), files)
        for engine in ("torch", "llama")
    }
    rows = context.dev[:200] if context.kind == "label" else context.dev[:20]
    prompts = prompts_for(spec, chat, rows, [[] for _ in rows])
    if context.kind == "label":
        options = candidates(spec, chat)
    else:
        gold = [chat.answer_ids(context.target(e), spec.style) for e in rows]
        options = parity.single_tokens(gold)
        prompts = parity.positions(list(zip(prompts, gold, strict=True)))
    limit = min(context.model.context, ANSWER_CONTEXT) - max(map(len, options))
    fitting = [p for p in prompts if len(p) <= limit]
    found = parity.compare(
        systems["torch"].open(context.pool), systems["llama"].open(context.pool), fitting, options
    )
    if found.clear_disagreements / found.agreement_rows > 1 - parity.LOWEST_AGREEMENT:
        raise TrainingError(
            f"the tuned model isn't the same in both engines: they agree on {found.agreement:.1%} of "
            f"{found.agreement_rows} rows and {found.clear_disagreements} of the others are no near-ties; "
            f"log-probabilities differ by up to {found.max_difference:.2f}; the tune isn't shipped"
        )
    return found


def settle(context: Context, spec: Spec, files: dict[str, Path | str], parity: Parity) -> tuple[System, str]:
    """The tuned System under the faster engine, or under torch alone where llama.cpp doesn't agree with it.

    Below 99 % agreement the GGUF adapter isn't part of the System: nothing may serve what wasn't proved.
    """
    from rung.training.parity import LOWEST_AGREEMENT

    place = context.folder / "tuned"
    if parity.agreement >= LOWEST_AGREEMENT:
        return settle_engine(context, place, spec, files, context.dev[:8])
    kept = {name: source for name, source in files.items() if name != ADAPTER_GGUF}
    note = (
        f"engine torch: llama.cpp agrees on {parity.agreement:.1%} of {parity.agreement_rows} rows only (the "
        "others are near-ties), so its adapter isn't shipped"
    )
    return save(place, spec.model_copy(update={"engine": "torch"}), kept), note
