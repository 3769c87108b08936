"""A rung that broke: what is told and kept of it."""

from rung.climb.steps import Step
from rung.climb.stored import FAILED_FILE
from rung.errors import RungError, WeightsError
from rung.records import RungResult
from rung.rungs.base import Context
from rung.runs import write_json


def failed(step: Step, context: Context, error: RungError, seconds: float) -> RungResult:
    """The result of a rung that broke after so many seconds; said, and written to its folder."""
    write_json(context.folder / FAILED_FILE, {"failed": str(error)})
    context.reporter.say(f"{step.name} failed: {error}")
    return RungResult(
        rung=step.name,
        order=step.order,
        model=step.model,
        failed=str(error),
        weights_missing=isinstance(error, WeightsError),
        build_s=seconds,
    )
