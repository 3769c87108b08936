"""Whether the model is asked and taught what the task means: templates, lengths, supervised tokens, stops."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rung.checks.base import Outcome, Subject, by_share, finding, rows_text, such_as
from rung.checks.renders import Renders
from rung.errors import EngineError, ModelError
from rung.models.chat import Chat, Message
from rung.records import Example, Finding
from rung.rungs.base import Context
from rung.rungs.instructions import answer_spec, instructions
from rung.task.outputs import shown
from rung.wording import messages, question

if TYPE_CHECKING:
    from rung.engines.llama import LlamaEngine

CUT_BLOCK = 0.01
ENDLESS_BLOCK = 0.5
SERVED_ROWS = 20
NO_MODEL = "the model isn't here: rung models --fetch NAME"


def template(subject: Subject) -> Outcome:
    """The model's template takes an instruction and a question, and loses neither."""
    renders = subject.renders
    if renders is None:
        return NO_MODEL
    context = renders.context
    chat = context.pool.chat(context.model)
    row = subject.rows[0]
    instruction = next(iter(instructions(context).values()))
    try:
        chat.render(messages(instruction, row))
        for spec in renders.forms.values():
            chat.render(messages(spec.instruction, row), style=spec.style)
    except ModelError as error:
        message = f"the template of {context.model.name!r} can't make a prompt: {error}"
        return [finding("template", "block", message, [row])]
    return []


def cut_answers(subject: Subject) -> Outcome:
    """Rows whose answer doesn't fit behind its prompt, or into the tokens that an answer may have."""
    renders = subject.renders
    if renders is None:
        return NO_MODEL
    context = renders.context
    free = answer_spec(context, constrained=True)
    most = free.max_tokens if context.kind != "label" else context.limit
    cut = [
        row
        for row, made in renders.rows(renders.plainest)
        if made.tokens > context.limit or len(made.answer) > most
    ]
    if not cut:
        return []
    share = len(cut) / len(subject.rows)
    message = (
        f"answers that don't fit: {rows_text(len(cut))} ({share:.1%}), {such_as(cut)}: prompt and answer "
        f"may have {context.limit:,} tokens together, an answer {most:,}; such rows aren't learned from "
        "and can't be answered right; shorten them or split the task"
    )
    return [finding("cut_answers", by_share(share, warn=0, block=CUT_BLOCK) or "warn", message, cut)]


def supervised(subject: Subject) -> Outcome:
    """Every row teaches at least one token, and the mask begins where the answer does."""
    renders = subject.renders
    if renders is None:
        return NO_MODEL
    from rung.training.losses import completion_targets

    found = []
    for form in renders.forms:
        rows = renders.rows(form)
        empty = [row for row, made in rows if not made.answer]
        if empty:
            message = f"rows that teach nothing as {form}: {rows_text(len(empty))}, {such_as(empty)}"
            found.append(finding("supervised", "block", message, empty))
        some = [made for _, made in rows if made.answer][:SERVED_ROWS]
        for made in some:
            _, columns, targets = completion_targets([made])
            if targets.tolist() != list(made.answer) or columns.tolist()[:1] != [len(made.prompt) - 1]:
                message = f"the loss mask of a row as {form} doesn't begin at its answer"
                found.append(finding("supervised", "block", message))
                break
    return found


def end_of_turn(subject: Subject) -> Outcome:
    """What is learned ends with the token that ends an answer: a model that isn't taught to stop goes on."""
    renders = subject.renders
    if renders is None:
        return NO_MODEL
    context = renders.context
    chat = context.pool.chat(context.model)
    end, found = chat.end, []
    for form, spec in renders.forms.items():
        if spec.answer.form == "codes":
            continue  # one token is asked for, and nothing after it
        rows = renders.rows(form)
        ends = {(end,), (chat.call_end,)} if spec.answer.written == "tagged" else {(end,)}
        endless = [row for row, made in rows if made.answer[-1:] not in ends]
        if endless:
            share = len(endless) / len(rows)
            grave = by_share(share, warn=0, block=ENDLESS_BLOCK) or "warn"
            message = (
                f"answers that don't end with {_name(context, end)}: {rows_text(len(endless))}, "
                f"{such_as(endless)}; a model that learns from them goes on until it's cut off"
            )
            found.append(finding("end_of_turn", grave, message, endless))
    return found


def double_bos(subject: Subject) -> Outcome:
    """A prompt begins with the token of the beginning once, where the model wants it, and never twice."""
    renders = subject.renders
    if renders is None:
        return NO_MODEL
    context = renders.context
    bos = context.pool.chat(context.model).tokens.bos_id
    twice = [
        row
        for form in renders.forms
        for row, made in renders.rows(form)
        if bos is not None and made.prompt[:2] == (bos, bos)
    ]
    if not twice:
        return []
    message = (
        f"prompts that begin with {_name(context, bos)} twice: {rows_text(len(twice))}, {such_as(twice)}; "
        "the chat template writes it and the tokenizer adds it: take it out of the template"
    )
    return [finding("double_bos", "block", message, twice)]


def serving_render(subject: Subject) -> Outcome:
    """What is learned is what is served, byte for byte: 20 rows through the engine that answers.

    Prompts as text and as ids, both ways, and the chat turns by the model file's own template, where it has
    one: a client of that server sends turns, not ids.
    """
    renders = subject.renders
    if renders is None:
        return NO_MODEL
    context = renders.context
    if context.model.gguf is None:
        return "the model has no GGUF file: torch serves the very ids that were learned"
    from rung.engines.base import EngineSpec
    from rung.engines.llama import LlamaEngine

    spec = EngineSpec(
        engine="llama",
        gguf=context.model.gguf,
        base=context.model.files,
        context=context.limit,
        parallel=context.pool.parallel,
    )
    try:
        engine = context.pool.engine(spec)
        assert isinstance(engine, LlamaEngine), "asked for by name"
        return _unlike(renders, engine)
    except EngineError as error:
        return f"llama.cpp can't run the model: {error}"


def _unlike(renders: Renders, engine: "LlamaEngine") -> list[Finding]:
    """The rows of which the engine makes other text, other ids or another prompt."""
    context = renders.context
    chat = context.pool.chat(context.model)
    instruction = next(iter(instructions(context).values()))
    rows = [row for row, _ in renders.rows(renders.plainest)]
    looked = rows[:: max(1, len(rows) // SERVED_ROWS)][:SERVED_ROWS]
    wrong: dict[str, tuple[Example, str]] = {}
    for row in looked:
        for spec in renders.forms.values():
            turns = messages(spec.instruction, row)
            ids, text = chat.render(turns, style=spec.style), chat.show(turns, spec.style)
            if (fault := _other(engine, chat, row, ids, text)) is not None:
                wrong.setdefault(row.id, (row, fault))
        turns = messages(instruction, row)
        ids, text = chat.render(turns), chat.show(turns)
        fault = _other(engine, chat, row, ids, text)
        if fault is None and not chat.plain and "strftime_now" not in chat.template:
            served, bos = engine.templated(_as_sent(turns)), _bos(chat)
            served, text = served.removeprefix(bos), text.removeprefix(bos)
            fault = None if _sends(served, text) else f"by its template {_first_difference(served, text)}"
        if fault is not None:
            wrong.setdefault(row.id, (row, fault))
    if not wrong:
        return []
    first, fault = next(iter(wrong.values()))
    message = (
        f"prompts that aren't served as they are learned: {rows_text(len(wrong))} of {len(looked)} looked "
        f"at, such as {first.where}: llama.cpp reads {fault}"
    )
    details = [f"{row.where}: {fault}" for row, fault in wrong.values()]
    return [finding("serving_render", "block", message, [row for row, _ in wrong.values()], details)]


def _other(engine: "LlamaEngine", chat: Chat, row: Example, ids: tuple[int, ...], text: str) -> str | None:
    """How the engine's reading of a prompt differs; None where it doesn't.

    Text that spells a control token is plain in our ids, which can't be told from the token in text. White
    space isn't looked at there: some vocabularies put a blank before a piece, and some tokens take one away.
    """
    spelt = any(isinstance(part, int) for part in chat.tokens.split(question(row)))
    if not spelt and engine.tokens_of(text) == ids:
        return None
    said = engine.text_of(ids)
    if said != text and (not spelt or "".join(said.split()) != "".join(text.split())):
        return _first_difference(said, text)
    return None if spelt else "other token ids for the same text"


def _sends(served: str, text: str) -> bool:
    """Whether the server's own template sends the same; ours may go on and close a thought."""
    more = text.removeprefix(served)
    return text.startswith(served) and not re.sub("</?think>", "", more).strip()


def _bos(chat: Chat) -> str:
    """What the server puts before a prompt by itself, whether or not its template does."""
    tokens = chat.tokens
    return tokens.texts[tokens.bos_id] if tokens.add_bos and tokens.bos_id is not None else ""


def _as_sent(turns: Sequence[Message]) -> list[Mapping[str, str]]:
    return [{"role": turn.role, "content": turn.content.strip()} for turn in turns]


def _first_difference(one: str, other: str) -> str:
    place = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    around = slice(max(0, place - 20), place + 20)
    return f"{shown(one[around], 60)} where {shown(other[around], 60)} was learned (character {place})"


def tokens(subject: Subject) -> Outcome:
    """How long the rows are in tokens: what a tune reads for each pass over them."""
    renders = subject.renders
    if renders is None:
        return NO_MODEL
    form = renders.plainest
    train = {row.id for row in subject.splits.train}
    made = [made for row, made in renders.rows(form) if row.id in train]
    if not made:
        return []
    sizes = sorted(one.tokens for one in made)
    answers = sorted(len(one.answer) for one in made)
    middle, most = sizes[len(sizes) // 2], sizes[int(0.95 * (len(sizes) - 1))]
    over = "all" if subject.of is None else "these"
    message = (
        f"a training row has {middle:,} tokens (95 % at most {most:,}, the longest {sizes[-1]:,}), "
        f"{answers[len(answers) // 2]:,} of them the answer's: {sum(sizes):,} for a pass over {over}"
    )
    return [finding("tokens", "info", message)]


def _name(context: Context, token: int | None) -> str:
    return "nothing" if token is None else repr(context.pool.chat(context.model).tokens.texts[token])
