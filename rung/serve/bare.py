"""A base model that is served as it is: a System without a task, which continues a chat or a text."""

from pathlib import Path

from rung.asking import context_of
from rung.errors import ModelError, SystemFolderError
from rung.models.resolve import resolve
from rung.registry import locate, names_model
from rung.spec import AnswerSpec, Spec
from rung.system import System, ref_to

MODEL = "model"
"""Its rung."""


def is_model(given: str) -> bool:
    """Whether it names a base model, and no System."""
    try:
        locate(given)
    except SystemFolderError:
        return names_model(given)
    return False


def as_system(given: str) -> System:
    """The System that a base model is by itself. Raises ModelError for one of sentence vectors."""
    model = resolve(given)
    if model.kind != "generate":
        raise ModelError(
            f"{given!r} makes sentence vectors and writes no text: Systems that use it bring it along, and "
            "/v1/embeddings answers with it"
        )
    spec = Spec(
        rung=MODEL,
        task=model.name,
        kind="text",
        engine="llama" if model.gguf is not None else "torch",
        model=ref_to(model, given),
        answer=AnswerSpec(form="free", max_tokens=context_of(model)),
    )
    return System(Path(), spec)
