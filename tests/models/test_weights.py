import json
from pathlib import Path

import pytest

from rung.errors import ModelError, WeightsError
from rung.models import weights
from rung.models.chat import Message, load_chat
from rung.models.resolve import resolve
from rung.models.tokens import load_tokenizer
from rung.models.weights import dequantised
from tests.fixtures_disk import little_room

TEXT = "def f(x): return 12 + 345  # a  comment"


def network_of(folder: Path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def torch_logprobs(network, ids: list[int]):
    import torch

    with torch.inference_mode():
        return network(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_that_memory_does_not_hold_are_not_made(tiny_gguf, own_cache: Path, monkeypatch) -> None:
    model = resolve(str(tiny_gguf()))
    monkeypatch.setattr(weights, "loadable_bytes", lambda: 2 * model.parameters - 1)
    with pytest.raises(WeightsError, match=r"takes 0\.0 GiB of memory, and 0\.0 are free"):
        dequantised(model)
    assert not list(own_cache.rglob("*.safetensors"))
    monkeypatch.setattr(weights, "loadable_bytes", lambda: 2 * model.parameters)
    assert (dequantised(model) / "model.safetensors").is_file()


def test_a_gguf_becomes_a_folder_once_that_gives_llama_cpps_log_probabilities(
    tiny_gguf, llama_cpp, own_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = resolve(str(tiny_gguf()))
    told: list[tuple[int, int]] = []
    folder = dequantised(model, progress=lambda done, total: told.append((done, total)))
    assert folder.is_relative_to(own_cache) and (folder / "complete").is_file()
    assert told[-1] == (11, 11) and "it/s" not in capfd.readouterr().err
    assert dequantised(model, progress=lambda done, total: pytest.fail("made twice")) == folder
    ids = load_tokenizer(model).encode(TEXT, special=False)
    ours = torch_logprobs(network_of(folder), ids)
    theirs = llama_cpp(model.gguf).top(ids, 10)
    assert len(theirs) == 10
    for token, logprob in theirs.items():
        assert ours[token].item() == pytest.approx(logprob, abs=0.05)


def test_the_folder_carries_the_tokenizer_that_serving_uses(tiny_gguf, own_cache: Path) -> None:
    from transformers import AutoTokenizer

    model = resolve(str(tiny_gguf(add_bos=True)))
    folder = dequantised(model)
    ours, theirs = load_tokenizer(model), AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, "a\r\n\r\n5", "total:                9", "<|im_end|>"):
        assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text, special=True)
    assert theirs("x").input_ids[0] == theirs.bos_token_id == ours.bos_id
    assert theirs.eos_token_id == ours.eos_id
    assert theirs.chat_template == model.template


def test_a_full_disk_says_what_to_do_and_leaves_nothing_behind(tiny_gguf, own_cache: Path) -> None:
    model = resolve(str(tiny_gguf()))
    with pytest.raises(ModelError, match="can.t write the cache folder .*free some space or set RUNG_CACHE"):
        with little_room():
            dequantised(model)
    assert not list(own_cache.rglob("*.safetensors"))
    with pytest.raises(OSError, match="too large"), little_room():
        load_tokenizer(model).save(own_cache / "tokenizer.json")
    assert (dequantised(model) / "complete").is_file()


def test_a_gguf_that_was_replaced_is_not_kept_under_the_old_ones_digest(tiny_gguf, own_cache: Path) -> None:
    path, other = tiny_gguf(), tiny_gguf(add_bos=True)
    model, kept = resolve(str(path)), path.read_bytes()
    path.write_bytes(other.read_bytes())
    with pytest.raises(WeightsError, match="tiny.*gguf' was replaced or changed since its digest was taken"):
        dequantised(model)
    assert not list(own_cache.rglob("*.safetensors"))
    path.write_bytes(kept)
    assert (dequantised(model) / "complete").is_file()


def test_a_safetensors_model_is_its_own_folder(tiny_gguf, own_cache: Path) -> None:
    folder = dequantised(resolve(str(tiny_gguf())))
    again = resolve(str(folder))
    assert dequantised(again) == folder
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True


def test_an_architecture_that_transformers_cannot_read_says_what_to_do(
    tmp_path: Path, own_cache: Path
) -> None:
    import gguf
    import numpy as np

    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "martian")
    writer.add_name("odd")
    writer.add_tensor("w", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="martian.*safetensors folder"):
        dequantised(resolve(str(path)))


@pytest.mark.models
def test_real_weights_give_llama_cpps_log_probabilities(catalog_model, llama_cpp) -> None:
    network = network_of(dequantised(catalog_model))
    chat = load_chat(catalog_model)
    for question in ("What is the capital of France?", "Translate to German: good morning", "2 + 2 ="):
        ids = list(chat.render([Message(role="user", content=question)]))
        ours = torch_logprobs(network, ids)
        theirs = llama_cpp(catalog_model.gguf).top(ids, 20)
        likely = {token: logprob for token, logprob in theirs.items() if logprob > -4}
        gaps = {token: round(ours[token].item() - logprob, 3) for token, logprob in likely.items()}
        assert likely and max(map(abs, gaps.values())) < 0.4, gaps
