"""Models by their family, from the names that tasks give them."""

import pytest

from rung.models.catalog import CATALOG
from rung.models.family import FAMILIES, family_of
from rung.models.offered import OFFERED


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("openai:gpt-5-mini", "OpenAI"),
        ("openai:o3-mini", "OpenAI"),
        ("openai:chatgpt-4o-latest", "OpenAI"),
        ("openai:openai/gpt-oss-20b@http://127.0.0.1:8000/v1", "OpenAI"),
        ("anthropic:claude-sonnet-4-5", "Anthropic"),
        ("hf:Qwen/Qwen3-0.6B", "Qwen"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Meta"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "DeepSeek"),
        ("models/gemma-3-1b-it-Q4_K_M.gguf", "Google"),
        ("openai:gemini-2.5-flash@https://example.org/v1", "Google"),
        ("~/weights/Phi-4-mini/", "Microsoft"),
        ("philosophy-7b.gguf", "philosophy"),
        ("MyOwn-2.gguf", "myown"),
        ("7.gguf", "7.gguf"),
    ],
)
def test_a_model_belongs_to_the_family_that_its_name_tells(name, family):
    assert family_of(name) == family


def test_every_model_known_by_name_has_a_family():
    names = [entry.name for entry in CATALOG if entry.kind == "generate"] + [one.name for one in OFFERED]
    assert len(names) == 20
    assert {family_of(name) for name in names} <= FAMILIES.keys()
