"""A task's rows as a tune on its model would see them, made once for several checks."""

from functools import cached_property

from rung.calling import tagged_text
from rung.records import Example
from rung.rungs.base import Context
from rung.rungs.rendered import rendered
from rung.rungs.sft import answer_forms
from rung.spec import Spec
from rung.task.outputs import as_kind
from rung.training.batches import Row


class Renders:
    """The forms in which answers are learned, and the rows in each of them."""

    def __init__(self, context: Context, rows: tuple[Example, ...]) -> None:
        """`rows` whose output isn't of the task's kind, or that no prompt can hold, are left out."""
        self.context = context
        self.examples = tuple(e for e in rows if e.id not in context.too_long and self._is_target(e))
        self._made: dict[str, tuple[tuple[Example, Row], ...]] = {}

    @cached_property
    def forms(self) -> dict[str, Spec]:
        """By name: for labels, codes and words; else the answer as it is, and calls as a model was taught."""
        forms = answer_forms(self.context)
        if not any(_is_tagged(spec) for spec in forms.values()):
            return forms
        if all(tagged_text(e.output) is not None for e in self.examples):
            return forms
        return {form: spec for form, spec in forms.items() if not _is_tagged(spec)}

    @property
    def plainest(self) -> str:
        """The form in which the answer is written as it is."""
        forms = self.forms.items()
        return next(form for form, spec in forms if spec.answer.form != "codes" and not _is_tagged(spec))

    def rows(self, form: str) -> tuple[tuple[Example, Row], ...]:
        """Each row with its ids."""
        if form not in self._made:
            made = rendered(self.context, self.forms[form], self.examples)
            self._made[form] = tuple(zip(self.examples, made, strict=True))
        return self._made[form]

    def _is_target(self, row: Example) -> bool:
        value = as_kind(row.output, self.context.kind)
        return value is not None and (self.context.kind != "label" or str(value) in self.context.labels)


def _is_tagged(spec: Spec) -> bool:
    return spec.answer.written == "tagged"
