"""Models whose templates open every answer with a thought: the server says that it is closed."""

from types import SimpleNamespace
from typing import Any

import pytest

from rung.models.chat import THOUGHT_CLOSED
from rung.models.resolve import resolve
from rung.serve.bare import as_system
from rung.serve.run import _described
from tests.fixtures_climb import OPEN, make_tiny_gguf


@pytest.mark.parametrize(("template", "said"), [({"template": OPEN}, True), ({}, False)])
def test_a_model_whose_thoughts_are_closed_is_said_to_be_one(template, said, tmp_path):
    given = str(make_tiny_gguf(tmp_path / "tiny.gguf", **template))
    system = as_system(given)
    served: Any = SimpleNamespace(
        name="tiny", spec=system.spec, system=system, bare=True, model=resolve(given)
    )
    assert (THOUGHT_CLOSED in _described(served)) is said
