"""The base model that a System refers to: named, and found again."""

from dataclasses import replace
from pathlib import Path

from rung.errors import SystemFolderError, WeightsError
from rung.home import expanded
from rung.models.catalog import entry_named
from rung.models.offered import offered_named
from rung.models.resolve import Model, as_brought, resolve
from rung.spec import ModelRef


def model_of(ref: ModelRef, folder: Path) -> Model:
    """The model that the System in `folder` answers with.

    One of the hub is that which it was made on, as long as it lies in the hub's cache, whatever its makers
    did to it since. Raises SystemFolderError where other weights lie in its place, ModelError where it can't
    be had or read.
    """
    if (model := as_brought(ref.source, ref.digest)) is not None:
        return replace(model, licence=ref.licence)
    source = Path(ref.source)
    if source.is_absolute() and not source.exists():
        raise WeightsError(
            f"the System in {str(folder)!r} answers with the model {ref.name!r} (sha256 {ref.digest[:16]}), "
            f"which lay at {ref.source!r} and isn't there: put it there, or write where it lies now as "
            "`model.source` in the System's system.json, which leaves the System what it is"
        )
    model = resolve(ref.source)
    if model.digest != ref.digest:
        raise SystemFolderError(
            f"the System was made on {ref.source!r} with digest {ref.digest[:16]!r}, but there is "
            f"{model.digest[:16]!r} now; restore the old weights or climb again"
        )
    return model


def ref_to(model: Model, given: str) -> ModelRef:
    """How a System names a model that `resolve(given)` found."""
    path = expanded(given)
    known = entry_named(given) is not None or offered_named(given) is not None
    source = str(path.resolve()) if not known and path.exists() else given
    return ModelRef(name=model.name, source=source, digest=model.digest, licence=model.licence)
