from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rung.errors import ModelError
from rung.models import embed
from rung.models.embed import BATCH_TOKENS, Embedder, no_rows
from rung.models.processor import multiplies_bf16

CLOSE = 4e-3 if multiplies_bf16() else 2e-6
"""bf16 rounds otherwise in a batch of another shape."""
TEXTS = ["The cat sits outside", "A cat is sitting outdoors", "Stock prices fell sharply", "", "one " * 400]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    made = Embedder()
    try:
        assert made.model
    except ModelError as error:
        pytest.skip(str(error))
    return made


@pytest.mark.models
def test_a_vector_is_the_normalised_mean_of_the_last_layer(embedder: Embedder) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    folder = embedder.model.folder
    assert folder is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = embedder.embed(TEXTS)
    assert (found.dtype, found.shape) == (np.float32, (len(TEXTS), 384))
    for text, vector in zip(TEXTS, found, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = network(**inputs).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=2 * CLOSE)


@pytest.mark.models
def test_neighbours_in_a_batch_do_not_change_a_vector(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS)
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=CLOSE)


@pytest.mark.models
def test_like_sentences_are_nearer_than_unlike_ones_and_order_is_kept(embedder: Embedder) -> None:
    told: list[tuple[int, int]] = []
    many = TEXTS[:3] * 200
    vectors = embedder.embed(many, progress=lambda done, total: told.append((done, total)))
    done = [some for some, _ in told]
    assert done == sorted(set(done)) and len(done) > 1 and told[-1] == (600, 600)
    assert max(np.diff(done)) <= BATCH_TOKENS
    np.testing.assert_allclose(vectors[:3], vectors[597:], atol=CLOSE)
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > vectors[0] @ vectors[2]


@pytest.mark.models
def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


@pytest.mark.models
def test_the_same_texts_are_embedded_once(embedder: Embedder, tmp_path: Path) -> None:
    first = embedder.cached_embeddings(TEXTS, tmp_path)
    again = embedder.cached_embeddings(
        TEXTS, tmp_path, progress=lambda done, total: pytest.fail("embedded twice")
    )
    np.testing.assert_array_equal(first, again)
    assert len(list(tmp_path.iterdir())) == 1
    embedder.cached_embeddings(TEXTS[::-1], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.models
def test_a_torn_cache_file_is_made_again(embedder: Embedder, tmp_path: Path) -> None:
    first = embedder.cached_embeddings(TEXTS, tmp_path)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:50])
    np.testing.assert_array_equal(embedder.cached_embeddings(TEXTS, tmp_path), first)


class Counting(Embedder):
    """Vectors of numbers as texts, each the number itself; killed after some texts, if so wished."""

    model: Any = SimpleNamespace(digest="a model")

    def __init__(self, killed_after: int = 1000) -> None:
        super().__init__()
        self.killed_after, self.asked = killed_after, []

    def embed(self, texts, *, progress=no_rows):
        if len(self.asked) >= self.killed_after:
            raise KeyboardInterrupt
        self.asked += texts
        progress(len(texts), len(texts))
        return np.array([[float(text)] for text in texts], dtype=np.float32)


def test_vectors_that_were_made_before_the_program_was_killed_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(embed, "PART_TEXTS", 4)
    texts = [str(number) for number in range(10)]
    with pytest.raises(KeyboardInterrupt):
        Counting(killed_after=8).cached_embeddings(texts, tmp_path)
    again, told = Counting(), []
    assert again.missing(texts, tmp_path) == 2 and again.missing(texts[1:], tmp_path) == 9
    vectors = again.cached_embeddings(texts, tmp_path, progress=lambda *done: told.append(done))
    assert again.asked == texts[8:] and told == [(10, 10)]
    assert vectors[:, 0].tolist() == list(range(10))
    assert again.missing(texts, tmp_path) == 0 and len(list(tmp_path.iterdir())) == 1


def test_a_generating_model_is_no_embedder(tiny_gguf) -> None:
    with pytest.raises(ModelError, match="minilm-l6"):
        Embedder(str(tiny_gguf())).embed(["x"])
