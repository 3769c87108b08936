"""What the card of an export says of a base model, by what was learned over it."""

import pytest

from rung.ship.card import _beside


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
