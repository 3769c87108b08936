"""What the card of an export says of a base model: by what was learned over it, and by its licence."""

from dataclasses import replace

import pytest

from rung.models.offered import OFFERED
from rung.models.resolve import resolve
from rung.ship.card import _beside, _licence, notice
from rung.ship.subject import Subject, load_subject
from rung.ship.targets import licence_text
from rung.spec import ModelRef
from rung.system import Pool, save
from tests.fixtures_ship import make_gguf, make_tuned


@pytest.mark.parametrize(
    ("learned", "kind", "said"),
    [
        ("adapter", "adapter", "its base model, which is intact without the adapter:"),
        ("prefix", "adapter", "its base model, which is intact without the prefix:"),
        ("adapter", "bf16", "its base model:"),
        ("weights", "bf16", "its base model:"),
    ],
)
def test_a_base_is_called_intact_only_where_the_export_leaves_it_so(learned, kind, said):
    first, *_, line = _beside(["it forgot"], learned, kind)
    assert first.endswith(said) and line == "- It forgot."


@pytest.fixture(scope="module")
def of_offered(tmp_path_factory):
    """Subjects as if tuned on a model of the hub, by its name."""
    folder = tmp_path_factory.mktemp("offered")
    tuned = make_tuned(make_gguf(folder / "model.gguf"), folder / "tuned")
    model = resolve(str(folder / "model.gguf"))

    def made(name: str, licence: str) -> Subject:
        ref = ModelRef(name=name, source=name, digest=model.digest, licence=licence)
        files = {name: tuned.folder / name for name in tuned.spec.files}
        system = save(folder / name, tuned.spec.model_copy(update={"model": ref}), files)
        pool = Pool(models={model.digest: replace(model, name=name, licence=licence)})
        return load_subject(system, pool)

    return made


def test_the_note_on_the_licence_of_a_model_of_the_hub_is_on_its_card(of_offered):
    for entry in [next(e for e in OFFERED if e.licence == name) for name in ("gemma", "llama3.2", "mit")]:
        found = of_offered(entry.name, entry.licence)
        card = "\n".join(_licence(found))
        assert entry.licence_note in card and licence_text(found) == entry.licence_note
        assert f"`{entry.licence}`" in card and f"`{entry.hub}`" in card
        assert "Read it before you pass this on" not in card


def test_what_a_licence_wants_word_for_word_is_in_the_notice_and_on_the_card(of_offered):
    found = of_offered("llama-3.2-1b", "llama3.2")
    assert notice(found).endswith(
        "\nLlama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta Platforms, Inc. "
        "All Rights Reserved.\n"
    )
    assert "Built with Llama" in _licence(found)[0:2]
    for licence, model in (("llama3", "Meta Llama 3"), ("llama3.1", "Llama 3.1"), ("llama3.3", "Llama 3.3")):
        older = of_offered(f"own-{licence}", licence)
        assert f"\n{model} is licensed under the {model} Community License, Copyright ©" in notice(older)
        assert f"Built with {'Llama' if '.' in licence else model}" in _licence(older)[0:2]
    other = of_offered("phi-4-mini", "mit")
    assert "Llama" not in notice(other) and "Built with Llama" not in _licence(other)
    assert "ai.google.dev/gemma/terms" in notice(of_offered("gemma-3-1b-it", "gemma"))
