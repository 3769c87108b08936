"""A big hosted model, asked with the best prompt of the rungs below, and priced by the token."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rung.engines.key_hosts import need_known_host
from rung.errors import EngineError, TaskError
from rung.hosted import complete, hosted_engine_spec, hosted_ref, need_same_model
from rung.models.hosted import Hosted, hosted
from rung.records import TokenPrice, Trial
from rung.rungs.base import Built, Context, Outlook, Variant
from rung.rungs.below import best_prompting, without_passages
from rung.rungs.bought import to_buy
from rung.rungs.called import NAMING_ROWS, SAID, WAY_ROWS, open_ways, refused, system_folder
from rung.rungs.instructions import LONGEST_ANSWER, instructions, longest_target, what_to_answer
from rung.rungs.rehearsal import outlook
from rung.rungs.retrieval import LOOK_THERE
from rung.rungs.variants import choose
from rung.runs import Shared
from rung.scoring.cost import tokens_usd
from rung.scoring.prices import listed_price
from rung.search import index_names
from rung.spec import AnswerSpec, ModelRef, RetrievalSpec, ShotSpec, Spec, Written
from rung.system import Sources, System, save
from rung.task import Task
from rung.task.model import Prices
from rung.wording import messages

SAMPLE_ROWS = 20
"""Dev rows by which the cost is foretold."""
MORE_TOKENS = 24
"""Of an answer over the longest training one: other tokenizers, and what stands around a label in JSON."""
TOKENS_BESIDE = 128
"""Of an answer with calls of its own form more: words before them, and what stands around them there."""
NOT_TAKEN = "calls are asked for as JSON, as functions can't be sent as `tools`"
NAMED = "reported model"
MOST_MOVED = 0.05
"""Of the dev rows, answered by another model: with more broken calls a rung is out."""


class Api:
    """Learns nothing: it shows what a month of somebody else's model buys."""

    name = "api"
    model_free: Literal[True] = True

    def skip(self, context: Context) -> str | None:
        """A model has to be named, its key set and its price known, and the dev rows have to fit the cap."""
        model = rival_of(context.task)
        if model is None:
            return "no hosted model is named; add one after the first of `models`, such as openai:gpt-5-mini"
        return cannot_pay(context, model, lambda: self._to_pay_usd(context, model))

    def _to_pay_usd(self, context: Context, model: Hosted) -> float:
        """About what the dev rows cost that aren't paid for yet."""
        given = prompting(context)
        rows = _rows_to_buy(context, model, given)
        return rows and rows * foretold_usd(context, price_of(context, model), given)

    def usd_per_1000(self, context: Context) -> float:
        """By the prompts of a few dev rows and the training answers, in the base model's tokens."""
        model = rival_of(context.task)
        assert model is not None, "the rung applies"
        given = prompting(context)
        return 1000 * foretold_usd(context, price_of(context, model), given)

    def outlook(self, context: Context) -> Outlook | None:
        """By the first dev rows, which are paid for once: a server that makes callers wait may be too slow.

        Raises EngineError where it can't be asked.
        """
        model, given, _ = _begun(context)
        variants, _ = _variants(context, model, given)
        return outlook(context, variants, WAY_ROWS) if len(variants) > 1 else outlook(context, variants)

    def build(self, context: Context) -> Built:
        """Ask the model the dev rows.

        Raises EngineError where it can't be asked, the cap is reached, or it's another model by now.
        """
        model, given, each_usd = _begun(context)
        price = price_of(context, model)
        variants, refusal = _variants(context, model, given)
        asked, tried, left_out = variants[0], (), ()
        if len(variants) > 1:
            asked, tried, left_out = choose(context, variants, WAY_ROWS)
        system, calls = asked.system, calls_said(asked.system)
        found = context.measure(system, context.dev, asked.name)
        need_same_model([one.answer for one in found.predictions], MOST_MOVED)
        rows = len(found.predictions)
        trial = Trial(
            name=f"{model.model}, {given.shown}{calls}",
            score=found.score,
            n=rows,
            seconds=found.seconds_per_answer * rows,
            chosen=True,
            stopped=rows < len(context.dev),
        )
        reported = system.spec.model.digest if system.spec.model is not None else ""
        notes = (
            f"prompt: {given.shown}{calls}",
            *refusal,
            *left_out,
            *(without_passages(context) if given.retrieval is None else ()),
            f"answered by {reported.removeprefix('endpoint:')}: no digest names its weights",
        )
        return Built(
            system=system,
            what=f"{model.given}, {given.shown}{calls}",
            trials=tried or (trial,),
            notes=notes,
            price=price,
            foretold_usd=each_usd,
            upon=given.rung,
        )


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """An instruction with worked examples and a search for passages, in files, as a local `system` has them.

    `vectors` is the model of the sentence vectors that either is looked up by. `rung` is what the context's
    `built` calls the System whose prompt it is.
    """

    instruction: str
    shots: ShotSpec
    retrieval: RetrievalSpec | None = None
    vectors: ModelRef | None = None
    files: Sources
    shown: str
    system: System | None = None
    rung: str | None = None


def _variants(context: Context, model: Hosted, given: Prompting) -> tuple[list[Variant], tuple[str, ...]]:
    """The ways of asking that are tried, and a note on one that the server refuses."""
    ways, notes = asked_ways(context, model, given, Api.name)
    several = len(ways) > 1
    return [
        Variant(name=f"api, {model.model}{f', {SAID[way]}' if several else ''}", system=system)
        for way, system in ways.items()
    ], notes


def calls_said(system: System) -> str:
    """How a hosted System asks for calls, in a few words after others; nothing for other answers."""
    return f", {SAID[system.spec.answer.written]}" if system.spec.kind == "tool_call" else ""


def _begun(context: Context) -> tuple[Hosted, Prompting, float]:
    """The model, its prompt, and about what a dev row costs in US dollars.

    Before any is paid it says how much all that aren't paid for yet will cost; once under a cap.
    """
    model = rival_of(context.task)
    assert model is not None, "the rung applies"
    given = prompting(context)
    each = foretold_usd(context, price_of(context, model), given)
    till = context.pool.till
    assert till is not None, "what is paid for has a till"
    question = f"answers to pay for, ${till.cap_usd:g}"
    if context.told(question) is None:
        rows = context.settled(question, lambda: _rows_to_buy(context, model, given))
        assert isinstance(rows, int), "written by this function"
        if rows:
            context.reporter.say(
                f"api: about ${each * rows:.4f} for {rows:,} answers of {model.model}; {paid_text(context)}"
            )
    return model, given, each


def _rows_to_buy(context: Context, model: Hosted, given: Prompting) -> int:
    """How many dev rows' answers under this prompt aren't paid for yet.

    Of several ways of asking a few rows are answered in each, and the others in one: in the one that most is
    paid for in. Where that is all, another one's few were paid, too, or can't be had.
    """
    left = [
        to_buy(context, lambda way=way: unasked(context, model, given, Api.name, way), context.dev)
        for way in open_ways(context, Api.name)
    ]
    if not all(map(sum, left)):
        return 0
    if len(left) == 1:
        return sum(left[0])
    return sum(sum(counts[:WAY_ROWS]) for counts in left) + min(sum(counts[WAY_ROWS:]) for counts in left)


def rival_of(task: Task) -> Hosted | None:
    """The first hosted model that the task names beside its base model. Raises ModelError for half a name.

    A rung is given a task that names one alone.
    """
    return next((found for name in task.models if (found := hosted(name))), None)


def rivals_of(task: Task) -> tuple[Hosted, ...]:
    """All of them. Raises ModelError for half a name, TaskError for one model twice."""
    found: dict[tuple[str, str], Hosted] = {}
    for model in filter(None, map(hosted, task.models)):
        if (other := found.get((model.url, model.model))) is not None:
            raise TaskError(
                f"models: {other.given!r} and {model.given!r} are the same hosted model; name one"
            )
        found[model.url, model.model] = model
    return tuple(found.values())


def prices(task: Task, models: Sequence[Hosted]) -> dict[tuple[str, str], TokenPrice]:
    """The known price of each hosted model by (URL, model): the task's own by its name, else a listed one.

    One by the name of a System goes for the model that it answers for, where that has none by its own. Where
    the task names several models, a price that it gives for none by name is that of those that no list knows.
    """
    given = task.prices.per_token if isinstance(task.prices, Prices) else None
    by_name = task.prices if isinstance(task.prices, dict) else {}
    several = len({(m.url, m.model) for m in models}) > 1
    found: dict[tuple[str, str], TokenPrice] = {}
    for m in models:
        if (own := by_name.get(m.named)) is not None:
            found.setdefault((m.url, m.model), own.per_token)
    for m in models:
        listed = listed_price(m.model, m.url)
        # One price can't be that of two models: of several it's for those that no list knows.
        usual = (listed or given) if several else (given or listed)
        if usual is not None:
            found.setdefault((m.url, m.model), usual)
    return found


def price_unknown(model: Hosted) -> str:
    """What is said of a model that has no price: by its name one stands beside any others in a task file."""
    name = json.dumps(model.named, ensure_ascii=False)
    price = "{input_usd_per_m: …, output_usd_per_m: …, cached_input_usd_per_m: …}"
    return f"the price of {model.given} isn't known; give it in task.yaml as prices: {{{name}: {price}}}"


def price_of(context: Context, model: Hosted) -> TokenPrice:
    """Raises EngineError where nothing may be paid, or the price isn't known."""
    if context.pool.till is None:
        raise EngineError(f"{model.given!r} is asked in climbs only, where a cap holds")
    return context.pool.till.price(model.url, model.model)


def cannot_pay(context: Context, model: Hosted, to_pay_usd: Callable[[], float]) -> str | None:
    """Why a hosted model can't be asked: no key, none for its host, no price, or too little money left."""
    if model.key_missing:
        return f"{model.given} can't be asked: {model.key_variable} isn't set in the environment"
    till = context.pool.till
    if till is None or (model.url, model.model) not in till.prices:
        return price_unknown(model)
    try:
        need_known_host(model, till.named)
    except EngineError as error:
        return str(error)
    more, left = to_pay_usd(), max(0.0, till.cap_usd - till.spent_usd)
    if more > left:
        return (
            f"{model.given} would cost about ${more:.4f} more and ${left:.4f} of "
            f"${till.cap_usd:g} are left to pay; raise --api-usd, or choose by fewer rows with --dev-rows"
        )
    return None


def paid_text(context: Context) -> str:
    """What was paid so far and may be, in words."""
    till = context.pool.till
    assert till is not None, "what is paid for has a till"
    return f"${till.spent_usd:.4f} of ${till.cap_usd:g} were paid so far"


def prompting(context: Context, *, nearest: bool = True) -> Prompting:
    """The best prompt of the rungs below by the dev rows that all of them answered; else the plainest one.

    Passages stand in it where they do in the best one, and where a tune of this climb may read them. With
    `nearest` false it's none that looks up the nearest training rows: for who is asked these rows.
    """
    best = best_prompting(context, nearest=nearest)
    if best is None:
        return Prompting(
            instruction=instructions(context)["plain"],
            shots=ShotSpec(),
            files={},
            shown="the plain instruction",
        )
    rung = next(name for name, one in context.built.items() if one is best)
    given = _with_passages(context, best)
    spec, asked = given.spec, what_to_answer(context)
    told = spec.instruction or ""
    # A small model is held to the labels by its engine; a hosted one may know them from the prompt alone.
    instruction = told if asked in told else f"{told} {asked}"
    passages = "" if spec.retrieval is None else f", {spec.retrieval.said}"
    return Prompting(
        instruction=instruction.strip(),
        shots=spec.shots,
        retrieval=spec.retrieval,
        vectors=spec.vectors,
        files={name: Shared(given.folder / name) for name in spec.files},
        shown=f"the prompt of {rung}{passages}",
        system=given,
        rung=rung,
    )


def _with_passages(context: Context, best: System) -> System:
    """The System with the best prompt; where a tune may read passages, and it shows none, with these.

    Asked without what its rival or its student reads, a big model would be outdone by the documents.
    """
    found = context.retrieval
    if found is None or found.spec.retrieval is None or best.spec.retrieval is not None:
        return best
    changes = {
        "instruction": f"{best.spec.instruction or ''} {LOOK_THERE}".strip(),
        "retrieval": found.spec.retrieval,
        "vectors": best.spec.vectors or found.spec.vectors,
    }
    index = index_names(found.spec.retrieval.search)
    files = {name: Shared(best.folder / name) for name in best.spec.files}
    files |= {name: Shared(found.folder / name) for name in index}
    return save(context.work / "prompt-with-passages", best.spec.model_copy(update=changes), files)


def foretold_usd(context: Context, price: TokenPrice, given: Prompting) -> float:
    """About what one answer costs, none of its prompt cached, and no thoughts before it."""
    rows = context.dev[:SAMPLE_ROWS]
    chat = context.pool.chat(context.model)
    if given.system is not None:
        prompts = given.system.prompts(rows, context.pool)
    else:
        prompts = [chat.render(messages(given.instruction, row)) for row in rows]
    answers = [len(chat.answer_ids(context.target(e))) for e in context.train[:SAMPLE_ROWS]]
    return tokens_usd(price, sum(map(len, prompts)) / len(prompts), sum(answers) / len(answers), 0)


def asked_ways(
    context: Context, model: Hosted, given: Prompting, rung: str
) -> tuple[dict[Written, System], tuple[str, ...]]:
    """A hosted model with a prompt as a System for each way of asking that its server takes.

    With a note on one that it refuses. Raises EngineError where it can't be asked.
    """
    why = refused(
        context,
        rung,
        lambda: hosted_system(context, model, given, rung, "tools"),
        lambda: unasked(context, model, given, rung),
    )
    ways: dict[Written, System] = {
        way: hosted_system(context, model, given, rung, way) for way in open_ways(context, rung)
    }
    return ways, ((f"{NOT_TAKEN}: {why}",) if why else ())


def hosted_system(
    context: Context, model: Hosted, given: Prompting, rung: str, written: Written = "json"
) -> System:
    """A hosted model with a prompt as a System, named after what the server says that it is.

    It's named after the one that gave the newest answer: where that is another, the old one isn't there now.
    Settled once: behind a name two may answer for a while.
    """
    plain = _hosted_spec(context, model, given, rung, "json")
    name = context.settled(NAMED, lambda: _newest_name(context, model) or reported(context, plain, model))
    spec = _hosted_spec(context, model, given, rung, written)
    named = spec.model_copy(update={"model": hosted_ref(model, str(name))})
    return save(system_folder(context, rung, written), named, given.files)


def unasked(
    context: Context, model: Hosted, given: Prompting, rung: str, written: Written = "json"
) -> System:
    """The same before the server is asked what it is: named as far as that is known, else by no name."""
    spec = _hosted_spec(context, model, given, rung, written)
    told = context.told(NAMED)
    name = _newest_name(context, model) if told is None else str(told)
    ref = hosted_ref(model, name)
    if told is None and not name:
        ref = ref.model_copy(update={"digest": f"endpoint:{model.host}:"})
    named = spec.model_copy(update={"model": ref})
    return save(context.work / f"unasked-{rung}-{written}", named, given.files)


def _hosted_spec(context: Context, model: Hosted, given: Prompting, rung: str, written: Written) -> Spec:
    form = "schema" if context.kind in ("label", "json") else "free"
    room = min(LONGEST_ANSWER, 2 * longest_target(context) + MORE_TOKENS)
    return Spec(
        rung=rung,
        task=context.task.name,
        kind=context.kind,
        labels=context.labels,
        schema_=context.task.output.json_schema if context.kind == "json" else None,
        engine="endpoint",
        model=hosted_ref(model, ""),
        instruction=given.instruction,
        shots=given.shots,
        retrieval=given.retrieval,
        answer=AnswerSpec(form=form, max_tokens=room + TOKENS_BESIDE * (written == "tools"), written=written),
        vectors=given.vectors,
    )


def reported(context: Context, spec: Spec, model: Hosted) -> str:
    """What the server calls the model that answers a dev row.

    After a row that it refuses, or has no words for, the next few are asked. Raises EngineError where it
    answers none.
    """
    engine, failure = context.pool.engine(hosted_engine_spec(model)), ""
    for row in context.dev[:NAMING_ROWS]:
        (found,) = complete(spec.model_copy(update={"model": None}), engine, [row], [[]])
        if found.failure is None or (found.reported and not found.truncated):
            return found.reported
        failure = found.failure
        if not found.final:
            break
    raise EngineError(failure)


def _newest_name(context: Context, model: Hosted) -> str:
    """What the model called itself in the newest answer that was paid for; empty where there is none."""
    till = context.pool.till
    return "" if till is None else till.name_of(model.url, model.model)
