"""Zero-shot: the model as it is, under the better of a few written instructions, constrained and free."""

from rung.rungs.base import Built, Context, Outlook, Variant, no_room, slug
from rung.rungs.instructions import answer_notes, answer_spec, instructions, spec_for
from rung.rungs.probe import race, under_each_engine
from rung.rungs.rehearsal import outlook
from rung.rungs.variants import choose
from rung.spec import Spec
from rung.system import save

NO_ABOUT = (
    "the task says nothing about the job, so the instruction is a general one; write `about` in task.yaml"
)


class Prompt:
    """Learns nothing from the rows; dev picks the instruction."""

    name = "prompt"

    def skip(self, context: Context) -> str | None:
        """Every task can be asked, if only its rows fit."""
        return no_room(context, learns=False)

    def outlook(self, context: Context) -> Outlook | None:
        """By a few rows under each instruction."""
        return outlook(context, _variants(context)[0])

    def build(self, context: Context) -> Built:
        """Try each instruction constrained, and the first one free as well."""
        variants, note = _variants(context)
        chosen, trials, notes = choose(context, variants)
        about = () if context.task.about.strip() else (NO_ABOUT,)
        told = (*about, *answer_notes(context), note, *notes)
        return Built(system=chosen.system, what=f"zero-shot, {chosen.name}", trials=trials, notes=told)


def _variants(context: Context) -> tuple[list[Variant], str]:
    """What is tried, under the engine that is faster, and a note on that."""
    specs = _specs(context)
    first = next(iter(specs.values()))
    backend, note = race(context, "zero-shot", under_each_engine(context, "race", first, {}))
    variants = [
        Variant(
            name=name,
            system=save(context.work / slug(name), backend.runs(spec), {}),
            # Labels are shipped scored only: freely, an answer may be none of them and has no odds.
            shippable=context.kind != "label" or spec.answer.form != "free",
        )
        for name, spec in specs.items()
    ]
    return variants, note


def _specs(context: Context) -> dict[str, Spec]:
    """What is tried, by name. Text has nothing to be constrained to."""
    specs = {}
    for number, (name, text) in enumerate(instructions(context).items()):
        for constrained in (True, False):
            answer = answer_spec(context, constrained=constrained)
            how = "free" if answer.form == "free" else "constrained"
            how = how if answer.written == "json" else "in its own form of call"
            if constrained or (number == 0 and context.kind != "text"):
                specs[f"{name} instruction, {how}"] = spec_for(
                    context, "prompt", instruction=text, answer=answer
                )
    return specs
