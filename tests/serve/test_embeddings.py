"""POST /v1/embeddings through the openai package's own client."""

import asyncio

import numpy as np
import openai
import pytest

from rung.models.embed import Embedder
from tests.fixtures_serve import gathered

pytestmark = pytest.mark.models
TEXTS = ["My payslip is wrong.", "ein Paket 📦", "x" * 5000]


def test_vectors_have_length_one_and_are_the_embedders(real):
    expected = Embedder().embed(TEXTS)
    found = real.user.embeddings.create(model="minilm-l6", input=TEXTS)
    vectors = np.array([item.embedding for item in found.data])
    assert [item.index for item in found.data] == [0, 1, 2] and found.model == "minilm-l6"
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
    assert (vectors * expected).sum(axis=1) == pytest.approx(1, abs=1e-3)
    assert found.usage.prompt_tokens == found.usage.total_tokens == Embedder().count_tokens(TEXTS)


def test_vectors_in_base64_are_those_in_floats(real):
    # The client asks for base64 by itself and decodes it.
    packed = real.user.embeddings.create(model="minilm-l6", input=TEXTS[0]).data[0].embedding
    plain = real.user.embeddings.create(model="minilm-l6", input=TEXTS[0], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(packed, abs=1e-7)
    body = {"model": "minilm-l6", "input": TEXTS[0], "encoding_format": "base64"}
    assert isinstance(real.post("/v1/embeddings", json=body).json()["data"][0]["embedding"], str)


def test_many_requests_at_once_are_all_answered(real):
    async def together():
        async with real.async_client() as client:
            return await gathered(
                [client.embeddings.create(model="minilm-l6", input=f"text {n}") for n in range(40)]
            )

    found = asyncio.run(together())
    expected = Embedder().embed([f"text {n}" for n in range(40)])
    for one, vector in zip(found, expected, strict=True):
        assert np.dot(one.data[0].embedding, vector) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("given", ("", [], ["a", ""], [1, 2], [[1, 2]], None))
def test_what_is_no_text_is_refused(real, given):
    with pytest.raises(openai.BadRequestError, match="input"):
        real.user.embeddings.create(model="minilm-l6", input=given)


def test_another_length_of_vectors_is_refused(real):
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        real.user.embeddings.create(model="minilm-l6", input="a", dimensions=64)


def test_a_model_that_makes_no_vectors_is_not_found(real):
    with pytest.raises(openai.NotFoundError, match="minilm-l6"):
        real.user.embeddings.create(model="base", input="a")
    with pytest.raises(openai.NotFoundError):
        real.user.chat.completions.create(model="minilm-l6", messages=[{"role": "user", "content": "a"}])


def test_the_model_of_the_vectors_is_among_the_models(real):
    assert "minilm-l6" in [model.id for model in real.user.models.list()]
    assert real.user.models.retrieve("minilm-l6").id == "minilm-l6"
