"""Supervised fine-tuning: a tune on the rows, the rate by successive halving, as long as dev still rises."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from rung.calling import tagged_text
from rung.errors import EngineError, ModelError, TrainingError
from rung.models.tagged_calls import ESCAPE, STOPS
from rung.models.weights import untunable
from rung.records import Example, Json, Measurement, Parity, Trial
from rung.records.guarded import SeedScores
from rung.rungs.base import JOURNAL_FILE, Built, Context, Outlook, no_room, strict_score
from rung.rungs.below import BARE, TAGGED, without_passages
from rung.rungs.instructions import answer_schema, answer_spec, most_calls
from rung.rungs.learned_files import is_learned, llama_files, torch_files, without_llama
from rung.rungs.probe import RETYPED, TORCH, Backend, race, under_each_engine
from rung.rungs.proving import Proof
from rung.search import index_names
from rung.spec import AnswerSpec, Spec
from rung.system import ADAPTER_GGUF, WEIGHTS_GGUF, System, save
from rung.wording import label_texts

if TYPE_CHECKING:
    from rung.rungs.tune import Plan
    from rung.rungs.tuning import Outcome

FOUR_BIT_PACKAGE = "bitsandbytes"
FEWEST_ROWS = 50
RESERVE_S = 60.0
RESERVE_SHARE = 0.25
"""Kept back from the rung's time for the export, parity and the dev score: the less of the two."""
RESERVE_USED = 0.5
"""Of those seconds so many are used, as a rule."""
FEWEST_S = 45.0
"""With less time than this no tune is begun."""


class Sft:
    """A tune of the base model as the task wants it, on the prompt that will be served."""

    name = "sft"

    def skip(self, context: Context) -> str | None:
        """Too few rows teach nothing that examples in the prompt wouldn't."""
        if reason := no_room(context, learns=True):
            return reason
        if len(context.train) < FEWEST_ROWS:
            return f"{len(context.train)} training rows; tuning needs at least {FEWEST_ROWS}"
        return unable(context)

    def outlook(self, context: Context) -> Outlook | None:
        """By the first steps of the tune and a few answers: as long as dev goes on rising, as a rule.

        It may stop at its third score. Where it gains little over the best rung so far two more seeds follow.
        """
        from rung.rungs.seeds import RISES, ends_of, ranged
        from rung.rungs.tuning import foresee

        plan = planned(context)
        forms = begun_forms(context, plan, self.name)
        length = foresee(context, forms, plan)
        return ranged(
            ends_of(length),
            beside_s=length.closing_s + RESERVE_USED * plan.reserve_s,
            least_s=length.closing_s,
            left_s=context.seconds_left if context.best is not None else 0.0,
            by=RISES,
        )

    def build(self, context: Context) -> Built:
        """Search, train, convert, prove parity, and settle the engine.

        Raises TrainingError where there's no time, the tune collapses or its engines don't agree.
        """
        return tuned(context, self.name)


def unable(context: Context) -> str | None:
    """Why the model, or the task's way to tune, can't be had here; None where nothing is lacking."""
    if reason := untunable(context.model):
        return reason
    if context.task.tuning.method != "qlora" or find_spec(FOUR_BIT_PACKAGE) is not None:
        return None
    from rung.training.blocked import blocks_for

    if blocks_for(context.model, "qlora") is not None:
        return None
    return (
        f"tuning.method qlora needs {FOUR_BIT_PACKAGE} where there is a GPU, or no GGUF file of blocks: pip "
        "install 'rung[qlora]', or take lora"
    )


def tuned(context: Context, rung: str) -> Built:
    """A tune on the context's training rows, as the System of a rung. Raises TrainingError as `Sft.build`.

    Where its gain is small it is done with two more seeds, and the one with the median score is kept.
    """
    from rung.rungs.seeds import retrained, seed_trials, why_more
    from rung.rungs.tuning import tune

    plan = planned(context)
    forms = begun_forms(context, plan, rung)
    outcome = tune(context, forms, plan)
    system, parity, note = settled_system(context, forms[outcome.form], outcome.adapter)
    whole = context.measure(system, context.dev, f"{rung}, all dev rows")
    trials, seeds = outcome.trials, None
    notes = [*_on_passages(context, outcome), *_on_form(context), *outcome.notes, note]
    if why := why_more(context, whole):
        others, said = retrained(context, forms[outcome.form], outcome, why)
        notes.append(said)
        if others:
            try:
                seeds = seed_scores(context, system, whole, others)
                trials = (*trials, *seed_trials(seeds, len(whole.predictions)))
            except EngineError as error:
                notes.append(f"one seed only: the others couldn't be scored ({error})")
            if seeds is not None and seeds.chosen:
                adapters = outcome.adapter, others[seeds.chosen - 1]
                system, parity, last, why = settled_seed(context, forms[outcome.form], *adapters)
                notes.extend([f"the seed that is kept: {last}"] if last != note else [])
                if why is not None:
                    trials, seeds = outcome.trials, None
                    notes.append(why)
                whole = context.measure(system, context.dev, f"{rung}, all dev rows")
    looked_up = system.spec.retrieval
    final = Trial(
        name="the System made of it",
        score=whole.score,
        n=len(whole.predictions),
        seconds=whole.seconds_per_answer * len(whole.predictions),
        chosen=True,
    )
    return Built(
        system=system,
        what=outcome.what if looked_up is None else f"{outcome.what}, {looked_up.said}",
        passes=outcome.passes,
        cut_short=outcome.cut_short,
        trials=(*trials, final),
        notes=tuple(notes),
        parity=parity,
        upon=looked_up and context.retrieval and context.retrieval.spec.rung,
        seeds=seeds,
    )


def _on_passages(context: Context, outcome: "Outcome") -> tuple[str, ...]:
    """Why the tune reads no passages though there are documents, or does though looking up gained nothing."""
    if context.retrieval is None or context.no_gain is None:
        return without_passages(context)
    which = "without" if outcome.form.endswith(BARE) else "with"
    both = any(BARE in trial.name for trial in outcome.trials)
    tried = "so dev chose between the two" if both else "and the tune wasn't tried without them"
    return (
        f"{which} passages of the documents: {context.no_gain}, but the oracle test found a knowledge gap, "
        f"{tried}",
    )


def seed_scores(context: Context, first: System, whole: Measurement, others: Sequence[Path]) -> SeedScores:
    """The dev scores of a tune and of the same with other seeds, each as a System under the first's engine.

    All dev rows are asked of each, whatever the rival did on them.
    """
    from rung.rungs.seeds import summed_up

    found = [whole]
    beside = {name for name in first.spec.files if not is_learned(name)}
    for number, adapter in enumerate(others, start=1):
        files = {name: first.folder / name for name in beside} | torch_files(context, adapter)
        if first.spec.files.keys() & {ADAPTER_GGUF, WEIGHTS_GGUF}:
            files |= llama_files(context, adapter)
        spec = first.spec.model_copy(update={"files": {}})
        system = save(context.work / f"seed-{number}-tuned", spec, files)
        what = f"{spec.rung}, seed {number}, all dev rows"
        found.append(context.measure_all(system, context.dev, what))
    values = [context.sign * strict_score(one, context.dev) for one in found]
    return summed_up([one.score for one in found], values)


def planned(context: Context) -> "Plan":
    """In how many seconds to tune, and where. Raises TrainingError where those are too few."""
    from rung.rungs.tune import Plan

    def seconds_and_reserve() -> Json:
        reserve = min(RESERVE_S, RESERVE_SHARE * max(0.0, context.seconds_left))
        return [context.seconds_left - reserve, reserve]

    kept = context.settled("seconds to tune, and to keep", seconds_and_reserve)
    seconds, reserve = TypeAdapter(tuple[float, float]).validate_python(kept)
    if seconds < FEWEST_S:
        raise TrainingError(
            f"{max(0.0, seconds):.0f} s of the budget are left to tune in, at least {FEWEST_S:.0f} s are "
            "needed; give more with --budget"
        )
    context.pool.close()  # the engines of the rungs before hold gigabytes that a tune can use
    return Plan(folder=context.work / "training", budget_s=seconds, reserve_s=reserve, seed=context.seed)


def answer_forms(context: Context, rung: str = "sft") -> dict[str, Spec]:
    """The Specs to try by name: for labels one-token codes and their words, else the answer as it is.

    Calls are JSON, and what the model was taught to write where that is another form. That one comes first,
    as what the model knows best: rates are tried in it, and nothing else where no search fits the time. Where
    a tune may read passages it learns and answers with those that the same search finds; where these gained
    nothing before it, dev chooses. Prompts with passages come first: by the longer ones the time is planned.
    """
    looked_up = context.retrieval
    base = Spec(
        rung=rung,
        task=context.task.name,
        kind=context.kind,
        labels=context.labels,
        schema_=answer_schema(context),
        engine="llama",
        model=context.ref,
        style="terse",
        retrieval=looked_up and looked_up.spec.retrieval,
        vectors=looked_up and looked_up.spec.vectors,
        answer=answer_spec(context, constrained=True).model_copy(update={"ends": "token"}),
        context_tokens=context.task.context_tokens,
    )
    if context.kind != "label":
        forms = {**_taught_form(context, base), base.answer.form: base}
        if looked_up is not None and context.no_gain is not None:
            bare = {"retrieval": None, "vectors": None}
            forms |= {f"{form} {BARE}": spec.model_copy(update=bare) for form, spec in forms.items()}
        return forms
    codes = AnswerSpec(form="codes", codes=label_codes(context))
    return {"codes": base.model_copy(update={"answer": codes}), "words": base}


def begun_forms(context: Context, plan: "Plan", rung: str) -> dict[str, Spec]:
    """The `answer_forms` that the tune was begun with; settled once, for its time is planned by them.

    One that an earlier version began, which settled none, learned no calls in the form that the model was
    taught.
    """
    forms = answer_forms(context, rung)

    def names() -> Json:
        old = (plan.folder / JOURNAL_FILE).exists()
        begun = [name for name in forms if not (old and name.startswith(TAGGED))]
        if len(begun) < len(forms):
            context.reporter.say(f"{rung} goes on as an earlier version began it: calls are JSON alone")
        return [*begun]

    kept = TypeAdapter(list[str]).validate_python(context.settled("forms of the answer", names))
    return {name: forms[name] for name in kept if name in forms}


def _taught_form(context: Context, base: Spec) -> dict[str, Spec]:
    """Calls in the form that the model was taught, asked for by its own template; none where it has none.

    Nor where that form can't spell the calls of every row.
    """
    if not _knows_tags(context) or unspelled(context):
        return {}
    answer = answer_spec(context, constrained=False).model_copy(update={"most_calls": most_calls(context)})
    return {TAGGED: base.model_copy(update={"style": "chat", "answer": answer})}


def _knows_tags(context: Context) -> bool:
    return context.kind == "tool_call" and context.pool.chat(context.model).tagged_calls


def unspelled(context: Context) -> list[Example]:
    """The training and dev rows with calls that the form which the model was taught can't spell."""
    return [e for e in (*context.train, *context.dev) if tagged_text(e.output) is None]


def _on_form(context: Context) -> tuple[str, ...]:
    """A note on calls that aren't learned in the form that the model was taught; none where they may be."""
    if not _knows_tags(context) or not (rows := unspelled(context)):
        return ()
    count = f"{len(rows):,} rows call" if rows[1:] else "a row calls"
    return (
        f"calls are learned as JSON alone: {count} with what the form that the model was taught can't spell, "
        f"such as {rows[0].where} (a text that holds {ESCAPE!r} or {STOPS[0]!r}, or an odd name)",
    )


def label_codes(context: Context) -> tuple[int, ...]:
    """One token of its own for every label: the first of its words that no earlier label took.

    A label whose tokens are all taken gets the highest ordinary token that is free.
    """
    chat = context.pool.chat(context.model)
    control = set(chat.tokens.control.values())
    ordinary = [t for t in range(len(chat.tokens.texts)) if t not in control]
    taken: dict[int, None] = {}
    for text in label_texts(context.labels):
        own = [t for t in chat.answer_ids(text, "terse") if t not in control]
        taken[next(t for t in (*own, *reversed(ordinary)) if t not in taken)] = None
    return tuple(taken)


def settled_system(context: Context, spec: Spec, adapter: Path) -> tuple[System, Parity | None, str]:
    """The tuned System under the faster engine that is proved to be the trained model, and why that one.

    Below 99 % agreement the GGUF adapter isn't part of the System: nothing may serve what wasn't proved.
    A base model without a GGUF file has torch alone, as has what llama.cpp knows no adapters of. Raises
    TrainingError where the engines clearly disagree.
    """
    from rung.training.parity import LOWEST_AGREEMENT

    files = torch_files(context, adapter)
    if spec.retrieval is not None and context.retrieval is not None:
        files |= {name: context.retrieval.folder / name for name in index_names(spec.retrieval.search)}
    torch_alone = TORCH.runs(spec)
    if (reason := without_llama(context, adapter)) is not None:
        return save(context.work / "tuned", torch_alone, files), None, f"engine torch: {reason}"
    systems = under_each_engine(context, "tuned", spec, {**files, **llama_files(context, adapter)})
    proof = Proof(context, spec, systems)
    parity = proof.of()
    if parity.agreement >= LOWEST_AGREEMENT:
        return _fastest(context, systems, proof, parity)
    count = parity.clear_disagreements
    apart = f"{count} of the others clearly not" if count else "the others are near-ties"
    note = (
        f"engine torch: llama.cpp agrees on {parity.agreement:.1%} of {parity.agreement_rows} rows only "
        f"({apart}), so its file isn't shipped"
    )
    return save(context.work / "tuned", torch_alone, files), parity, note


def settled_seed(
    context: Context, spec: Spec, first: Path, median: Path
) -> tuple[System, Parity | None, str, str | None]:
    """What `settled_system` gives of the seed with the median score.

    Where that one can't be proved, what it gives of the first seed, which was, and why.
    """
    context.pool.close()  # what is open under the same folder holds the first one's adapter
    try:
        return (*settled_system(context, spec, median), None)
    except (TrainingError, EngineError, ModelError) as error:
        context.pool.close()
        why = f"one seed only: the one with the median score couldn't be proved ({error})"
        return (*settled_system(context, spec, first), why)


def _fastest(
    context: Context, systems: dict[Backend, System], proof: Proof, parity: Parity
) -> tuple[System, Parity, str]:
    """The fastest that is proved, with its parity; `parity` is that of llama.cpp with the file's weights."""
    backend, note = race(context, "tuned", systems)
    if backend not in RETYPED:
        return systems[backend], parity, note
    if (proved := _proved(proof, backend)) is not None:
        return systems[backend], proved, note
    own = {one: system for one, system in systems.items() if one not in RETYPED}
    backend, note = race(context, "tuned, the file's own weights", own)
    return systems[backend], parity, f"{note}; other weights were faster and not proved to be the same model"


def _proved(proof: Proof, backend: Backend) -> Parity | None:
    """The parity of llama.cpp with another type of weights; None where that isn't the trained model."""
    from rung.training.parity import LOWEST_AGREEMENT

    try:
        found = proof.of(backend)
    except (TrainingError, EngineError, ModelError):
        return None
    return found if found.agreement >= LOWEST_AGREEMENT else None
