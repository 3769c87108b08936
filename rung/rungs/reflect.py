"""Reflective search for an instruction (GEPA): a bigger model reads what went wrong and writes anew."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from rung import evaluate
from rung.errors import EngineError
from rung.evaluate import LOOK_ROWS
from rung.models.hosted import hosted
from rung.records import Answer, Example, Json
from rung.rungs.api import cannot_pay
from rung.rungs.base import Context, Outlook, Variant
from rung.rungs.left_out import enough_left, half_at_most, leaving_out
from rung.rungs.paces import batch_of, paces
from rung.rungs.rehearsal import outlook
from rung.rungs.replies import Replying, replying
from rung.rungs.teacher import is_system
from rung.runs import Shared, digest_of
from rung.scoring.scorers import SCORERS, worst_error
from rung.spec import Spec
from rung.system import SHOTS_FILE, System, read_index, save
from rung.task import Task
from rung.wording import passage_text, question

METRIC_CALLS = 600
"""Answers to training rows, those of each candidate to the rows that it is ranked by included."""
FEWEST_ROWS = 20
MOST_ROWS = 250
VALIDATION_ROWS, VALIDATION_SHARE = 50, 0.4
"""Of the training rows that the search uses: what candidates are ranked by. It reflects on the others."""
FINALISTS = 8
MINIBATCH = 3
"""Rows whose answers are shown at a time."""
DEV_SHARE = 0.5
KEPT_FOR_DEV = "kept for dev, seconds"
"""Of the rung's time: kept for the choice on dev."""
REPLY_TOKENS = 1024
LONGEST_INPUT = 2000
"""Characters of a row, and of passages beside it, that are shown to the model that reflects."""
SHORTER = (1000, 500, 250, 125)
"""Characters of all that is shown of a row, where it holds no more."""
LONGEST_INSTRUCTION = 2000
"""Characters; what is longer leaves a small model no room for the question."""
TEMPLATE = """I gave a small language model this instruction for a task:
```
<curr_param>
```
<beside>
Here are inputs, what the model answered, and what is wrong or right about each answer:
```
<side_info>
```

Write a better instruction for the same task. Say what the task is, how the answer has to look, and what the
feedback shows that the model gets wrong: rules that hold for new inputs, not these examples. The model is
small: short plain sentences, at most 150 words. Give the new instruction alone, within ``` marks."""
EXAMPLES = {"fixed": "always the same", "nearest": "the ones most like the input"}
"""Which worked examples the model that reflects is told of."""
COMPONENT = "instruction"
REPLIES = "how long the model that reflects takes, and how many of its instructions are better"
NO_REFLECTION = (
    "no model reflects on the mistakes: examples and wordings were drawn at random; "
    "`teacher: openai:NAME` in task.yaml, or a bigger model of this machine there, writes better instructions"
)


def no_reflection(task: Task) -> str | None:
    """Why no model reflects on a task, and how one would; None where the task names one."""
    if task.teacher is None:
        return NO_REFLECTION
    if not is_system(task.teacher):
        return None
    return (
        f"examples and wordings were drawn at random: the teacher {task.teacher} is a System, which answers "
        "its task and nothing else; a model, hosted or of this machine, can reflect on the mistakes"
    )


def reflector(context: Context) -> Replying | None:
    """The model that the task's teacher is; None where the teacher is a System, or nobody."""
    name = context.task.teacher
    return None if name is None else replying(name, context.pool, context.seed)


def cannot_reflect(context: Context) -> str | None:
    """Why no model reflects on the mistakes; None where one does."""
    if (reason := no_reflection(context.task)) is not None:
        return reason
    if context.bench.metric == "style":
        return "style is of all texts together: no answer by itself tells a model what went wrong"
    model = hosted(str(context.task.teacher))
    return None if model is None else cannot_pay(context, model, lambda: 0.0)


def foreseen(context: Context, start: System, metric_calls: int) -> Outlook | None:
    """The search and the choice on dev, by how fast the start answers a few rows; None where no engine held.

    What the model takes that reflects can't be told before it's asked, nor how many instructions it finds.
    At the least the search takes its answers alone and finds none; at most it takes half of the time, and as
    many as may be go to dev. In between any time is as likely.
    """
    apart = replace(context, folder=context.work / "foreseen")
    apart.folder.mkdir(parents=True, exist_ok=True)
    finalists = [Variant(name=f"instruction {place}", system=start) for place in range(FINALISTS)]
    (pace,) = paces(apart, finalists[:1])
    if pace is None:
        return None
    most_s = DEV_SHARE * max(0.0, context.seconds_left)
    least_s = min(most_s, pace.seconds(metric_calls, VALIDATION_ROWS))
    none, many = (
        outlook(replace(apart, deadline=context.deadline - s), variants, LOOK_ROWS, halving=True)
        for s, variants in ((least_s, finalists[:1]), (most_s, finalists))
    )
    if none is None or many is None:
        return None
    low_s, high_s = least_s + none.low_s, max(least_s + none.high_s, most_s + many.high_s)
    # The other finalists have yet to answer the rows that the start, by whose pace they go, has answered.
    again_s = (FINALISTS - 1) * pace.seconds(min(pace.asked, len(context.dev)), batch_of(context))
    high_s = max(high_s, min(high_s + again_s, context.seconds_left))
    return Outlook(seconds=(low_s + high_s) / 2, low_s=low_s, high_s=high_s, least_s=none.least_s, by=REPLIES)


def reflected(
    context: Context, start: System, model: Replying, metric_calls: int
) -> tuple[list[Variant], list[str]]:
    """The start and the instructions found from it, best first by the training rows kept for that; and notes.

    Answers and replies are kept, so that a climb that is taken up again asks nothing twice. Where the model
    breaks, the search ends with what it has. Raises ModelError for a model that can't be had.
    """
    from gepa.api import optimize

    learn, validate = rows_to_reflect_on(context, start)
    asked = leaving_out(context, start, (*learn, *validate))
    search = _Search(context, asked, model)
    context.settled(KEPT_FOR_DEV, lambda: DEV_SHARE * context.seconds_left)
    bar = context.reporter.begin("reflective search, answers", metric_calls)
    search.bar = bar
    try:
        result = optimize(
            seed_candidate={COMPONENT: start.spec.instruction or ""},
            trainset=learn,
            valset=validate,
            adapter=search,
            custom_candidate_proposer=search.propose,
            max_metric_calls=metric_calls,
            stop_callbacks=search.over,
            perfect_score=1.0 if context.sign > 0 else 0.0,
            # Its cache knows a row by its place, and those of both lists begin with 0.
            cache_evaluation=False,
            reflection_minibatch_size=MINIBATCH,
            seed=context.seed,
            logger=_Silent(),
            raise_on_exception=True,
        )
    finally:
        context.reporter.end(bar)
        model.close()
        if asked is not start:
            context.pool.indexes.pop(asked.shots_key, None)
    scores = result.val_aggregate_scores
    ranked = sorted(range(1, len(scores)), key=lambda place: (-scores[place], place))[: FINALISTS - 1]
    found = [Variant(name="the instruction it began with", system=start)]
    for place in ranked:
        text = result.candidates[place][COMPONENT]
        system = search.system(text) if asked is start else _worded(context, start, text, "whole")
        found.append(Variant(name=f"instruction {place} of the search", system=system))
    notes = [
        f"{model.name} wrote {search.written} instructions by the mistakes of others, reading "
        f"{search.read_tokens:,} tokens and writing {search.written_tokens:,}; "
        f"{len(scores) - 1} did better on the rows that they were written for, {len(ranked)} went to dev",
        *search.notes,
    ]
    return found, notes


@dataclass
class _Search:
    """What GEPA calls: the System under a candidate's instruction on rows, and the model that reflects."""

    context: Context
    start: System
    model: Replying
    written: int = 0
    read_tokens: int = 0
    written_tokens: int = 0
    slowest_s: float = 0.0
    asked: int = 0
    turns: int = 0
    bar: int = 0
    broke: bool = False
    notes: list[str] = field(default_factory=list)
    made: dict[str, System] = field(default_factory=dict)
    propose_new_texts: Any = None

    def system(self, instruction: str) -> System:
        """The start under another instruction."""
        if instruction == (self.start.spec.instruction or ""):
            return self.start
        if instruction not in self.made:
            self.made[instruction] = _worded(self.context, self.start, instruction, "instruction")
        return self.made[instruction]

    def evaluate(self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """Answers and scores of a batch, through the store; a broken call counts as an unreadable answer.

        Of errors that is the worst of all training rows: those of a batch may be nearly alike.
        """
        from gepa.core.adapter import EvaluationBatch

        context = self.context
        answers = evaluate.kept_answers(self.system(candidate[COMPONENT]), batch, context.bench)
        counted, _ = evaluate.counted_answers(batch, answers, context.bench)
        values = [a.value if a.failure is None else None for a in counted]
        scorer = SCORERS[context.bench.metric]
        worst = 0.0 if scorer.higher_is_better else worst_error([e.output for e in context.train])
        pairs = zip(values, batch, strict=True)
        rows = [worst if value is None else scorer.row(value, example.output) for value, example in pairs]
        self.asked += len(batch)
        context.reporter.advance(self.bar, self.asked)
        return EvaluationBatch(
            outputs=answers,
            scores=[context.sign * score for score in rows],
            trajectories=list(zip(batch, answers, rows, strict=True)) if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, str]]]:
        """Inputs, answers and feedback as the model that reflects reads them."""
        records = [
            {
                **self._read(answer),
                "Input": question(example)[:LONGEST_INPUT],
                "Answer": answer.text[:LONGEST_INPUT],
                "Feedback": feedback(self.context, example, answer, score),
            }
            for example, answer, score in eval_batch.trajectories
        ]
        return dict.fromkeys(components_to_update, records)

    def _read(self, answer: Answer) -> dict[str, str]:
        """The passages that stood in the answer's prompt, as far as they are shown; nothing without any."""
        known = {passage.id: passage for passage in self.context.passages}
        texts = [passage_text(known[one]) for one in answer.passages if one in known]
        return {"Parts of documents": "\n\n".join(texts)[:LONGEST_INPUT]} if texts else {}

    def propose(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """The instruction that the model writes; the old one where it writes none, or breaks."""
        from gepa.strategies.instruction_proposal import InstructionProposalSignature as Proposal

        reply = self._reply(candidate[COMPONENT], reflective_dataset[COMPONENT])
        text = Proposal.output_extractor(reply)["new_instruction"].strip() if reply.strip() else ""
        self.written += bool(text)
        return {COMPONENT: text[:LONGEST_INSTRUCTION] or candidate[COMPONENT]}

    def over(self, gepa_state: Any) -> bool:
        """Whether the search ends here: the model broke, or what is left of the time is for dev.

        A reply is given the time that the slowest one took.
        """
        kept = self.context.settled(KEPT_FOR_DEV, lambda: 0.0)
        assert isinstance(kept, float | int), "written by `reflected`"
        self.turns += 1
        # Before, no search began with nearest examples: what it had time for says nothing of one that does.
        near = ", nearest examples" if self.start.spec.shots.choice == "nearest" else ""
        step = f"reflection {self.turns}{near}"
        return self.broke or not self.context.in_time(step, kept + self.slowest_s)

    def _reply(self, instruction: str, records: Sequence[Mapping[str, Any]]) -> str:
        """What the model says to an instruction and what came of it, once and for all."""
        if self.broke:
            return ""
        start = time.monotonic()
        try:
            prompt = self._prompt(instruction, records)
            asked = f"reflection on {digest_of(prompt)}"
            kept = self.context.settled(asked, lambda: self._asked(prompt))
        except EngineError as error:
            self.broke = True
            self.notes.append(f"the search ended early: {error}")
            return ""
        self.slowest_s = max(self.slowest_s, self.context.settled_s(f"seconds of the {asked}", start))
        text, read, written = TypeAdapter(tuple[str, int, int]).validate_python(kept)
        self.read_tokens += read
        self.written_tokens += written
        return text

    def _asked(self, prompt: str) -> Json:
        found = self.model.reply(prompt, max_tokens=REPLY_TOKENS)
        return [found.text, found.prompt_tokens, found.completion_tokens]

    def _prompt(self, instruction: str, records: Sequence[Mapping[str, Any]]) -> str:
        """What the model is told, of each record as much as it has room for.

        Raises EngineError where it has too little for any.
        """
        from gepa.strategies.instruction_proposal import InstructionProposalSignature as Proposal

        template = TEMPLATE.replace("<beside>", _beside(self.start.spec))
        for most in (None, *SHORTER):
            shown = [{name: str(text)[:most] for name, text in one.items()} for one in records]
            told = {"current_instruction_doc": instruction, "dataset_with_feedback": shown}
            prompt = str(Proposal.prompt_renderer({**told, "prompt_template": template}))
            if self.model.fits(prompt, REPLY_TOKENS):
                return prompt
        raise EngineError(
            f"{self.model.name} has no room for an instruction and {len(records)} answers to it; name a "
            "teacher with a longer context"
        )


def _worded(context: Context, start: System, instruction: str, stem: str) -> System:
    """A System under another instruction, in a folder named after that."""
    spec: Spec = start.spec.model_copy(update={"instruction": instruction})
    files = {name: Shared(start.folder / name) for name in spec.files}
    return save(context.work / f"{stem}-{digest_of(instruction)[:12]}", spec, files)


def _beside(spec: Spec) -> str:
    """What stands in the prompt beside the instruction, in a line of its own; nothing without examples."""
    shots = spec.shots
    if shots.choice == "none":
        return ""
    return f"\nBeside it the model is shown {shots.k} worked examples, {EXAMPLES[shots.choice]}.\n"


def feedback(context: Context, example: Example, answer: Answer, score: float) -> str:
    """What is right or wrong about an answer, in words; the expected one included."""
    wanted = context.target(example)
    if answer.failure is not None:
        return f"The call broke: {answer.failure}. The right answer is: {wanted}"
    if answer.value is None:
        return f"This can't be read as a {context.kind}. The right answer is: {wanted}"
    best = 1.0 if context.sign > 0 else 0.0
    if score == best:
        return "This is right."
    if context.bench.metric == "judge" and score > 0:
        return "A judge finds this as good as the right answer."
    wrong = _wrong_fields(answer, example)
    told = f" Wrong: {', '.join(wrong)}." if wrong else ""
    return f"This is wrong.{told} The right answer is: {wanted}"


def _wrong_fields(answer: Answer, example: Example) -> list[str]:
    """The fields of an object that differ from the expected one's, in its order."""
    if not isinstance(answer.value, dict) or not isinstance(example.output, dict):
        return []
    given, wanted = answer.value, example.output
    return [
        name
        for name in (*wanted, *(k for k in given if k not in wanted))
        if given.get(name) != wanted.get(name)
    ]


def can_be_asked(context: Context, start: System) -> bool:
    """Whether a search may begin with a System: one that looks rows up needs others than it's asked."""
    if start.spec.shots.choice != "nearest":
        return True
    rows = _asked_of_half(context)
    return len(rows) >= FEWEST_ROWS and enough_left(context, start, rows)


def rows_to_reflect_on(context: Context, start: System) -> tuple[list[Example], list[Example]]:
    """Training rows to reflect on and others to rank by; none that is shown in the prompt, or too long.

    Where the prompt looks training rows up, whole draws of half of them at most.
    """
    if start.spec.shots.choice == "nearest":
        drawn = _asked_of_half(context)
    else:
        shown = {s.input for s in read_index(start.folder)[0]} if SHOTS_FILE in start.spec.files else set()
        rows = [row for row in _fitting(context) if question(row) not in shown]
        drawn = _dice(context).sample(rows, min(MOST_ROWS, len(rows)))
    if len(drawn) < 2:
        raise EngineError(f"{len(drawn)} training rows are left to reflect on beside those of the prompt")
    ranked = max(1, min(VALIDATION_ROWS, int(VALIDATION_SHARE * len(drawn))))
    return drawn[ranked:], drawn[:ranked]


def _asked_of_half(context: Context) -> list[Example]:
    return half_at_most(context, _fitting(context), _dice(context))[:MOST_ROWS]


def _fitting(context: Context) -> list[Example]:
    return sorted((e for e in context.train if e.id not in context.too_long), key=lambda e: e.id)


def _dice(context: Context) -> random.Random:
    return random.Random(f"{context.seed}:reflect")


class _Silent:
    """GEPA's log, which nobody reads."""

    def log(self, message: str) -> None:
        """Nothing."""
