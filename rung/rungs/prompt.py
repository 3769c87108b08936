"""Zero-shot: the model as it is, under the better of a few written instructions, constrained and free."""

from rung.rungs.base import Built, Context, Variant, choose
from rung.rungs.instructions import answer_spec, instructions, spec_for
from rung.rungs.probe import settle_engine
from rung.system import save


class Prompt:
    """Learns nothing from the rows; dev picks the instruction."""

    name = "prompt"

    def skip(self, context: Context) -> str | None:
        """Every task can be asked."""
        return None

    def build(self, context: Context) -> Built:
        """Try each instruction constrained, and the first one free as well."""
        specs = {}
        for name, text in instructions(context).items():
            for constrained in (True, False):
                if not constrained and (name != "plain" or context.kind == "text"):
                    continue
                answer = answer_spec(context, constrained=constrained)
                how = "constrained" if answer.form != "free" else "free"
                specs[f"{name} instruction, {how}"] = spec_for(
                    context, self.name, instruction=text, answer=answer
                )
        place = context.folder / "variants"
        first = next(iter(specs.values()))
        system, note = settle_engine(context, place / "race", first, {}, context.dev[:8])
        variants = [
            Variant(
                name=name,
                system=save(
                    place / name.replace(" ", "-").replace(",", ""),
                    spec.model_copy(update={"engine": system.spec.engine}),
                    {},
                ),
            )
            for name, spec in specs.items()
        ]
        chosen, trials, notes = choose(context, variants)
        return Built(
            system=chosen.system, what=f"zero-shot, {chosen.name}", trials=trials, notes=(note, *notes)
        )
