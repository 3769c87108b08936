"""The forgetting gate: whether a base model can still do, with a tune's adapter on, what it could do before.

Both models get the same general items as chats, through the engine that serves the System, and read the same
texts through the one that trained it. Nothing of the task's own prompt is in that.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from rung.engines.base import Completion, Engine, Request
from rung.guards.item_checks import pass_check
from rung.guards.items import Item, general_items, prose, spread_items
from rung.guards.limits import judged
from rung.models._cache import cache_dir
from rung.models.chat import Chat, Message
from rung.models.retyped import retyped
from rung.models.weights import dequantised
from rung.records.guarded import Divergence, Forgetting, Items, KindScore
from rung.rungs.base import Context
from rung.rungs.rendered import rendered
from rung.runs import append_jsonl, digest_of, locked, read_each, storable, writing
from rung.scoring import stats
from rung.scoring.notation import duration_text
from rung.system import System
from rung.training.batches import Row

TASK_ROWS = 100
PROBED, AT_ONCE = 10, 30
"""Items that are asked to see how long the others take, and items whose answers are kept together."""
ANSWERS_FILE = "general.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a model answered to an item: text and token ids, or that the call broke."""

    text: str
    tokens: tuple[int, ...]
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One model's answers to the items, in a file: who is asked, how, and where the answers lie.

    `program` is what answers, by `program_of`.
    """

    who: str
    engine: Engine
    chat: Chat
    path: Path
    system: str
    program: str

    def key(self, item: Item) -> str:
        """Names an answer: the model, what runs it, the prompt in tokens, the limit and where answers end."""
        ends = [self.chat.stop_ids, self.chat.stop_strings()]
        return digest_of([self.system, self.program, self.prompt(item), item.tokens, ends])[:24]

    def prompt(self, item: Item) -> tuple[int, ...]:
        """The item as the one turn of a chat."""
        return self.chat.render([Message(role="user", content=item.ask)])

    def known(self) -> dict[str, Said]:
        """The answers so far, by key; calls that broke aren't kept. RunError for a damaged file."""
        return dict(read_each(self.path, _answer))


def _answer(line: dict) -> tuple[str, Said]:
    """An answer by its key, as a line has it."""
    return line["key"], Said(text=line["text"], tokens=tuple(line["tokens"]))


def forgetting(context: Context, system: System) -> Forgetting:
    """What a tuned System's base could do and can't any more, as far as there's time to look.

    `context.deadline` bounds it. The base's answers are kept in the cache folder by its digest and what runs
    it, for all climbs, the tune's in the rung's folder. Raises EngineError and ModelError where a model can't
    run.
    """
    start = time.monotonic()
    chat, spec = context.pool.chat(context.model), system.engine_spec(context.pool, tuned=False)
    left_out: list[str] = []
    engine = context.pool.engine(spec)
    digest = retyped(context.model, system.spec.weight_type).digest
    base = Asking(
        who="the base model",
        engine=engine,
        chat=chat,
        path=cache_dir() / "general" / f"{context.model.digest[:16]}-{spec.engine}.jsonl",
        system=digest,
        program=program_of(engine),
    )
    with locked(base.path.with_suffix(".lock")):
        prompts = asked(context, base, spread_items(), left_out)
    texts = {"prose": prose_rows(chat, context.limit), "task": task_rows(context, system)}
    if prompts is not None:
        texts["general"] = [
            Row(prompt=base.prompt(item), answer=said.tokens)
            for item, said in zip(spread_items(), prompts, strict=True)
            if said.tokens
        ]
    read = _read(context, system, texts, left_out)
    items = _compared(context, system, base, left_out)
    verdict, reasons = judged(items, read.get("general"), read.get("prose"))
    return Forgetting(
        verdict=verdict,
        reasons=reasons,
        items=items,
        general=read.get("general"),
        prose=read.get("prose"),
        task=read.get("task"),
        left_out=tuple(left_out),
        seconds=time.monotonic() - start,
    )


def program_of(engine: Engine) -> str:
    """The program that an engine runs and, for torch, on what and in which numbers.

    Another one may take the other of two tokens that are nearly as likely: nothing that a tune forgot.
    """
    from rung.engines.torch import TorchEngine

    if isinstance(engine, TorchEngine):
        return f"torch {version('torch')}, {engine.device.type}, {engine.model.dtype}"
    return f"xllamacpp {version('xllamacpp')}" if engine.name == "llama" else engine.name


def scored(items: Sequence[Item], base: Sequence[Said], tuned: Sequence[Said]) -> Items | None:
    """Both models' answers, checked; None where no item was answered by both."""
    rows = [
        (item.kind, *(pass_check(item.check, said.text, item.arguments) for said in pair))
        for item, *pair in zip(items, base, tuned, strict=True)
        if not any(said.failure for said in pair)
    ]
    if not rows:
        return None
    won = sum(after and not before for _, before, after in rows)
    lost = sum(before and not after for _, before, after in rows)
    bounds = stats.bonett_price(won, lost, len(rows), level=0.9)
    kinds = dict.fromkeys(kind for kind, *_ in rows)
    return Items(
        n=len(rows),
        base=sum(before for _, before, _ in rows) / len(rows),
        tuned=sum(after for _, _, after in rows) / len(rows),
        won=won,
        lost=lost,
        gain_low=bounds.low,
        gain_high=bounds.high,
        kinds=tuple(
            KindScore(
                kind=kind,
                n=sum(one == kind for one, *_ in rows),
                base=sum(before for one, before, _ in rows if one == kind),
                tuned=sum(after for one, _, after in rows if one == kind),
            )
            for kind in kinds
        ),
        broken=len(items) - len(rows),
    )


def prose_rows(chat: Chat, limit: int) -> list[Row]:
    """The general text in token ids, each passage read from its first token on, cut at the context's end."""
    found = [chat.continued(passage)[:limit] for passage in prose()]
    return [Row(prompt=ids[:1], answer=ids[1:]) for ids in found if len(ids) > 1]


def task_rows(context: Context, system: System) -> list[Row]:
    """Dev rows with their wanted answers, after the prompts that the System is served."""
    rows = rendered(context, system.spec, context.dev[:TASK_ROWS])
    return [row for row in rows if row.tokens <= context.limit]


def asked(context: Context, who: Asking, items: Sequence[Item], left_out: list[str]) -> list[Said] | None:
    """A model's answers to items; None where those that aren't known yet would take more than the time."""
    known = who.known()
    missing = [item for item in items if who.key(item) not in known]
    broken: dict[str, Said] = {}
    step = f"{len(items)} general items, {who.who}"
    bar = context.reporter.begin(f"{who.who} on {len(items)} general items", len(items))
    try:
        first = missing[:PROBED]
        if first and not context.in_time(f"begin {step}"):
            left_out.append(f"{step}: no time of the budget is left")
            return None
        begun = time.monotonic()
        broken |= _ask(who, first, known)
        took = time.monotonic() - begun
        rest = missing[len(first) :]
        if rest:
            needed = took / sum(item.tokens for item in first) * sum(item.tokens for item in rest)
            if not context.in_time(step, needed):
                left_out.append(f"{step}: about {duration_text(needed)} more than the budget has")
                return None
        for at in range(0, len(rest), AT_ONCE):
            broken |= _ask(who, rest[at : at + AT_ONCE], known)
            context.reporter.advance(bar, len(items) - len(rest) + at)
    finally:
        context.reporter.end(bar)
    found = known | broken
    return [found[who.key(item)] for item in items]


def _ask(who: Asking, items: Sequence[Item], known: dict[str, Said]) -> Mapping[str, Said]:
    """Ask and keep; the calls that broke."""
    requests = [
        Request(
            prompt=who.prompt(item),
            max_tokens=item.tokens,
            stop_ids=who.chat.stop_ids,
            stop=who.chat.stop_strings(),
        )
        for item in items
    ]
    given = dict(zip(map(who.key, items), map(_said, who.engine.generate(requests)), strict=True))
    held = {key: said for key, said in given.items() if said.failure is None}
    if held:
        lines = [{"key": key, "text": said.text, "tokens": list(said.tokens)} for key, said in held.items()]
        append_jsonl(who.path, lines)
    known |= held
    return {key: said for key, said in given.items() if said.failure is not None}


def _said(completion: Completion) -> Said:
    # Half a surrogate pair, which a model's bytes can spell, is text that no file can hold.
    text = storable(completion.text)
    return Said(text=text, tokens=tuple(completion.tokens), failure=completion.failure)


def _compared(context: Context, system: System, base: Asking, left_out: list[str]) -> Items | None:
    """Base and tune on all items; the tune through the engine that serves it."""
    with locked(base.path.with_suffix(".lock")):
        engine = context.pool.engine(system.engine_spec(context.pool, tuned=False))
        base = replace(base, engine=engine, program=program_of(engine))
        before = asked(context, base, general_items(), left_out)
    if before is None:
        return None
    engine = system.open(context.pool)
    tuned = replace(
        base,
        who="the tune",
        engine=engine,
        path=context.folder / ANSWERS_FILE,
        system=system.digest,
        program=program_of(engine),
    )
    after = asked(context, tuned, general_items(), left_out)
    return None if after is None else scored(general_items(), before, after)


def _read(
    context: Context, system: System, texts: Mapping[str, Sequence[Row]], left_out: list[str]
) -> dict[str, Divergence]:
    """Both models on texts, in the order given, those for which there's time; each is settled once."""
    from rung.engines.device import off_gpu
    from rung.guards.drift import divergence, open_pair

    assert system.is_tuned, "the gate is for tuned Systems"
    found: dict[str, Divergence] = {}
    context.pool.close()  # the engines' memory is the pair's now
    pair, pace = None, 0.0
    bar = context.reporter.begin("base and tune read the same texts", len(texts))
    try:
        for name, rows in texts.items():
            tokens = sum(row.tokens for row in rows)
            if not rows or not context.in_time(f"read {name}", pace * tokens):
                left_out.append(f"reading {name}: no time of the budget is left")
                continue
            if pair is None:
                with writing(cache_dir()):
                    pair = open_pair(dequantised(context.model), system.adapter, system.weights)
                for model in filter(None, pair):
                    context.pool.tell(off_gpu(model, f"{system.spec.rung}, its forgetting gate"))
            begun, (model, base) = time.monotonic(), pair
            kept = context.settled(
                f"read {name}", lambda m=model, r=rows, b=base: asdict(divergence(m, r, b))
            )
            found[name] = TypeAdapter(Divergence).validate_python(kept)
            pace = pace or (time.monotonic() - begun) / tokens
            context.reporter.advance(bar, len(found))
    finally:
        context.reporter.end(bar)
    return found
