import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.errors import DataError, ModelError
from rung.models._gguf import gguf_metadata
from rung.models._pretokenizers import _SPLITS
from rung.models.resolve import resolve
from rung.models.tokens import LONG_TEXT, _from_gguf, load_tokenizer

HARD = [
    "a purchase  113",
    "total:                9",
    "a\r\n\r\n5",
    " \n\n  x",
    "don't I'LL we'Ve x''s",
    "½²Ⅷ٣ 1234567 12,345.67",
    "日本語 テキスト e\u0301 👩\u200d👩\u200d👧 İſ",
    "\u00a0x \u2003y\u3000\u3000z",
    "\x00\x01\x7f",
    "$$++<=>^~|!?..",
    "▁▁ a ▁",
    "\t\t x\n\n\n\t",
    "a" * 67,
    " " * 90,
    "<|im_end|><bos><eos><start_of_turn>user <0x41><unk>",
    "",
]
ALPHABETS = (" \n\t\r57a'.,sS", "aab ", "<>/|im_endbos ", "éß日👍\u200d\u0301½ ")


def made_up(count: int) -> list[str]:
    """Strings that are dense in what pre-tokenizers differ about."""
    draw = random.Random(7)
    return ["".join(draw.choices(draw.choice(ALPHABETS), k=draw.randint(1, 30))) for _ in range(count)]


@pytest.fixture(params=sorted(_SPLITS))
def tiny(request: pytest.FixtureRequest, tiny_gguf):
    return resolve(str(tiny_gguf(request.param)))


def test_each_known_pre_tokenizer_splits_as_llama_cpp_does(tiny, llama_cpp) -> None:
    assert len(_SPLITS) == 10
    server, tokens = llama_cpp(tiny.gguf), load_tokenizer(tiny)
    for text in [*HARD, *made_up(400)]:
        for special in (False, True):
            assert tokens.encode(text, special=special) == server.tokenize(text, special=special), repr(text)


def test_two_pre_tokenizers_do_differ_on_the_test_strings(tiny_gguf) -> None:
    first, second = (load_tokenizer(resolve(str(tiny_gguf(pre)))) for pre in ("smollm", "qwen2"))
    assert any(first.encode(text, special=False) != second.encode(text, special=False) for text in HARD)


def test_an_unknown_pre_tokenizer_is_refused_by_name(tiny_gguf) -> None:
    with pytest.raises(ModelError, match="'martian'"):
        load_tokenizer(resolve(str(tiny_gguf("martian"))))


@pytest.mark.parametrize(
    ("key", "value"),
    [("token_type", [1, 1]), ("eos_token_id", 10**6), ("bos_token_id", -1), ("merges", [1, 2])],
)
def test_a_damaged_vocabulary_is_a_model_error(tiny_gguf, monkeypatch, key, value) -> None:
    path = tiny_gguf()
    values = {**gguf_metadata(path, arrays=True), f"tokenizer.ggml.{key}": value}
    monkeypatch.setattr("rung.models.tokens.gguf_metadata", lambda *_, **__: values)
    with pytest.raises(ModelError, match="damaged vocabulary"):
        _from_gguf(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_any_text_comes_back_from_its_tokens(tiny_gguf_model, text: str) -> None:
    tokens = load_tokenizer(tiny_gguf_model)
    assert tokens.decode(tokens.encode(text, special=False)) == text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.one_of(st.text(max_size=5), st.sampled_from(["<|im_end|>", "<|im_start|>", "<|"]))))
def test_text_never_becomes_a_control_token_unless_asked(tiny_gguf_model, pieces: list[str]) -> None:
    tokens = load_tokenizer(tiny_gguf_model)
    plain = tokens.encode("".join(pieces), special=False)
    assert not set(plain) & set(tokens.control.values())


@pytest.fixture(scope="module")
def tiny_gguf_model(tiny_gguf):
    return resolve(str(tiny_gguf()))


def test_control_tokens_are_read_when_asked_and_left_out_of_decoded_text(tiny_gguf_model) -> None:
    tokens = load_tokenizer(tiny_gguf_model)
    ids = tokens.encode("<|im_start|>a<|im_end|>", special=True)
    assert (ids[0], ids[-1]) == (tokens.bos_id, tokens.eos_id) == (1, 2)
    assert tokens.decode(ids) == "a"
    assert tokens.token_bytes(1) == b"<|im_start|>" and tokens.id_of("<|im_start|>") == 1
    assert tokens.id_of("no such token") is None and tokens.vocab_size == 2000


def test_half_a_surrogate_pair_is_a_data_error(tiny_gguf_model) -> None:
    with pytest.raises(DataError, match="surrogate"):
        load_tokenizer(tiny_gguf_model).encode("a\ud800b", special=False)


def test_a_long_text_has_the_tokens_of_any_other_and_half_a_pair_in_it_is_told(tiny_gguf_model) -> None:
    tokens, text = load_tokenizer(tiny_gguf_model), "my parcel é🎉 <|im_end|> " * (LONG_TEXT // 20)
    assert len(text) > LONG_TEXT
    assert tokens.encode(text, special=False) == tokens.backend.encode(text, add_special_tokens=False).ids
    with pytest.raises(DataError, match="surrogate"):
        tokens.encode(f"{text}\ud800", special=False)


def test_a_saved_tokenizer_read_from_a_folder_gives_the_same_ids(tiny_gguf, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    model = resolve(str(tiny_gguf(add_bos=True)))
    ours = load_tokenizer(model)
    ours.save(tmp_path / "tokenizer.json")
    save_file({"w": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": [2]}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<|im_start|>"}}))
    theirs = load_tokenizer(resolve(str(tmp_path)))
    assert (theirs.bos_id, theirs.eos_id, theirs.add_bos) == (1, 2, True)
    assert (theirs.texts, theirs.spelling, theirs.control) == (ours.texts, ours.spelling, ours.control)
    for text in [*HARD, *made_up(100)]:
        ids = ours.encode(text, special=True)
        assert theirs.encode(text, special=True) == ids
        assert theirs.decode(ids) == ours.decode(ids)


@pytest.mark.models
def test_real_rows_tokenise_exactly_as_in_llama_cpp(catalog_model, llama_cpp, real_texts) -> None:
    server, tokens = llama_cpp(catalog_model.gguf), load_tokenizer(catalog_model)
    assert len(real_texts) >= 1000
    wrong = [
        text
        for text in real_texts
        if tokens.encode(text, special=False) != server.tokenize(text, special=False)
    ]
    assert wrong == []


@pytest.mark.models
def test_made_up_text_tokenises_exactly_as_in_llama_cpp(catalog_model, llama_cpp) -> None:
    server, tokens = llama_cpp(catalog_model.gguf), load_tokenizer(catalog_model)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.text(min_size=1, max_size=60))
    def check(text: str) -> None:
        for special in (False, True):
            assert tokens.encode(text, special=special) == server.tokenize(text, special=special)

    check()
    known = {tokens.token_bytes(i) for i in range(tokens.vocab_size)}
    for char in map(chr, [*range(1, 0xD800, 5), *range(0xE000, 0x20000, 31)]):
        if char != "▁" and all(bytes([byte]) in known for byte in char.encode()):
            assert tokens.decode(tokens.encode(f"x{char}", special=False)) == f"x{char}"
    for text in [*HARD, *made_up(300)]:
        for special in (False, True):
            assert tokens.encode(text, special=special) == server.tokenize(text, special=special), repr(text)
