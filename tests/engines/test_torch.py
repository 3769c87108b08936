import json
import math
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GraniteConfig, GraniteForCausalLM

from rung.engines import lora
from rung.engines import torch as module
from rung.engines.base import EngineSpec, Request
from rung.engines.packed import Packed
from rung.engines.rows import SHORTEST_SHARED_PREFIX, STORED_TOKENS, in_batches, shared_prefix
from rung.engines.torch import TorchEngine, load_model
from rung.errors import EngineError, ModelError
from tests.fixtures_tiny import SIZES, randomise, reference_logprobs, tiny, tiny_folder

CONTEXT = 64
ids = st.lists(st.integers(1, 299), min_size=1, max_size=12).map(tuple)


def engine(model, **changes) -> TorchEngine:
    spec = {"engine": "torch", "context": CONTEXT, "threads": torch.get_num_threads(), **changes}
    return TorchEngine(EngineSpec(**spec), model=model)


ENGINES = {kind: engine(tiny(kind)) for kind in ("llama", "gemma")}


def node_by_node(model, prompt, candidates) -> list[float]:
    """Decoding constrained to the candidates, from one plain forward pass for each."""
    found = []
    for candidate in candidates:
        logprobs = reference_logprobs(model, prompt + candidate)
        total = 0.0
        for depth, token in enumerate(candidate):
            ways = sorted({c[depth] for c in candidates if c[:depth] == candidate[:depth]})
            after = logprobs[len(prompt) + depth - 1]
            total += (after[token] - after[ways].logsumexp(0)).item()
        found.append(total)
    return found


@st.composite
def tries(draw) -> list[tuple[int, ...]]:
    """Candidates over three letters, so that many share beginnings; 0 ends each."""
    words = st.lists(st.sampled_from([5, 9, 44]), min_size=0, max_size=4).map(tuple)
    return [(*word, 0) for word in draw(st.lists(words, min_size=1, max_size=10, unique=True))]


@pytest.mark.parametrize("kind", ENGINES)
@settings(deadline=None, max_examples=15)
@given(
    prefix=st.lists(st.integers(1, 299), max_size=15).map(tuple),
    ends=st.lists(ids, min_size=1, max_size=5),
    candidates=tries(),
)
def test_the_choice_is_that_of_decoding_node_by_node_with_and_without_a_shared_prefix(
    kind, prefix, ends, candidates
):
    one = ENGINES[kind]
    prompts = [prefix + end for end in ends]
    for prompt, choice in zip(prompts, one.choose(prompts, candidates), strict=True):
        expected = node_by_node(one.model, prompt, candidates)
        assert choice.index == max(range(len(candidates)), key=expected.__getitem__)
        assert choice.prompt_tokens == len(prompt)
        assert choice.evaluated_tokens >= len(prompt) or len(candidates) == 1
        for found, true in zip(choice.logprobs, expected, strict=True):
            assert found == pytest.approx(true, abs=1e-8) or (found == -math.inf and true < max(expected))


def test_a_shared_prefix_is_read_once(monkeypatch):
    one, read = ENGINES["llama"], []
    plain = Packed.hidden
    monkeypatch.setattr(
        Packed,
        "hidden",
        lambda self, pack, *rest: read.append((pack.ahead, pack.sizes)) or plain(self, pack, *rest),
    )
    prefix = tuple(range(1, 31))
    for candidates in ([(5,), (6,)], [(5, 7), (6,)]):
        read.clear()
        one.choose([(*prefix, 40), (*prefix, 50, 51)], candidates)
        assert read[0] == (0, (30,))
        assert {ahead for ahead, _ in read[1:]} == {30}
        assert sorted(size for _, sizes in read[1:] for size in sizes) == [1, 2]


def test_candidates_that_part_late_make_the_search_go_back():
    """Somewhere the likelier first token leads to the less likely candidates."""
    one = ENGINES["llama"]
    candidates = [(5, n, m) for n in range(60, 70) for m in range(70, 75)] + [(9, 1, 1)]
    prompts = [(n, 2 * n) for n in range(1, 60)]
    choices = one.choose(prompts, candidates)
    firsts = [reference_logprobs(one.model, p)[-1] for p in prompts]
    back = [c for c, f in zip(choices, firsts, strict=True) if (c.index == 50) != (f[9] > f[5])]
    assert len(back) > 5
    assert all(c.evaluated_tokens > c.prompt_tokens for c in back)


def test_log_probabilities_are_the_models_own_in_every_order():
    one = ENGINES["gemma"]
    prompts = [tuple(range(1, n)) for n in (4, 20, 2, 9)]
    for prompt, row in zip(prompts, one.next_logprobs(prompts, [7, 299, 0]), strict=True):
        assert row == pytest.approx(
            reference_logprobs(one.model, prompt)[-1][[7, 299, 0]].tolist(), abs=1e-10
        )


def test_log_probabilities_of_what_cannot_be_read_are_an_error_with_the_prompts_place():
    with pytest.raises(EngineError, match=f"prompt 1: the prompt has {CONTEXT} tokens.*{CONTEXT}"):
        ENGINES["llama"].next_logprobs([(1,), (1,) * CONTEXT], [3])
    with pytest.raises(EngineError, match="prompt 0: the prompt is empty"):
        ENGINES["llama"].next_logprobs([()], [3])


def test_an_empty_prompt_fails_alone(tmp_path):
    one = engine(tiny(), weights=tiny_folder(tmp_path, tiny()))
    wrong, right = one.generate([Request(prompt=(), max_tokens=2), Request(prompt=(5,), max_tokens=2)])
    assert wrong.failure == "generate: the prompt is empty" and wrong.final
    assert right.failure is None
    wrong, right = one.choose([(), (5,)], [(1,), (2,)])
    assert wrong.failure == "choose: the prompt is empty"
    assert wrong.logprobs == (-math.inf, -math.inf)
    assert right.failure is None


def test_room_for_the_longest_candidate_is_kept():
    one = ENGINES["llama"]
    fits, over = one.choose([(1,) * (CONTEXT - 3), (1,) * (CONTEXT - 2)], [(1, 2, 3), (1, 2, 4)])
    assert fits.failure is None
    assert over.failure is not None


lengths = st.lists(st.none() | st.integers(10, 3000), max_size=40)


@given(lengths, st.integers(0, 9), st.integers(1, 4000), st.integers(1, 8))
def test_batches_hold_every_row_once_and_keep_to_their_limits(sizes, shared, budget, most):
    cut = in_batches(sizes, shared, budget, most)
    assert sorted(i for batch in cut for i in batch) == [
        i for i, size in enumerate(sizes) if size is not None
    ]
    assert all(cut)
    for batch in cut:
        longest = max(sizes[i] or 0 for i in batch)
        assert len(batch) == 1 or (longest - shared) * len(batch) <= budget
        assert len(batch) == 1 or longest * len(batch) <= STORED_TOKENS
        assert len(batch) <= most
    for batch, following in pairwise(cut):
        rows, least = len(batch) + 1, min(sizes[i] or 0 for i in following)
        over = (least - shared) * rows > budget or least * rows > STORED_TOKENS
        assert rows > most or over


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=14).map(tuple), max_size=5), ids)
def test_a_shared_prefix_begins_every_prompt_and_leaves_each_a_token(ends, start):
    prompts = [start + end for end in ends]
    prefix = shared_prefix(prompts)
    assert all(p[: len(prefix)] == prefix and len(p) > len(prefix) for p in prompts)
    if len(prompts) > 1 and len(start) >= SHORTEST_SHARED_PREFIX:
        assert len(prefix) >= len(start)
        longer = {p[: len(prefix) + 1] for p in prompts}
        assert len(longer) > 1 or min(map(len, prompts)) == len(prefix) + 1


def test_an_adapter_is_loaded_with_the_weights(tmp_path):
    model = tiny(dtype=torch.float32)
    folder = tiny_folder(tmp_path / "base", model)
    lora.attach(model, rank=2, alpha=4, seed=0)
    randomise(model)
    lora.save(model, tmp_path / "adapter", base="tiny")
    spec = {"engine": "torch", "weights": folder, "context": CONTEXT, "threads": 1}
    plain = TorchEngine(EngineSpec(**spec)).next_logprobs([(1, 2, 3)], [4, 5])[0]
    adapted = TorchEngine(EngineSpec(**spec, adapter=tmp_path / "adapter")).next_logprobs(
        [(1, 2, 3)], [4, 5]
    )[0]
    assert adapted == pytest.approx(reference_logprobs(model, (1, 2, 3))[-1][[4, 5]].tolist(), abs=0.2)
    assert abs(adapted[0] - plain[0]) > 0.5
    with pytest.raises(ModelError, match="no readable adapter"):
        TorchEngine(EngineSpec(**spec, adapter=tmp_path / "nothing"))


@pytest.mark.parametrize("content", [None, '{"model_type": "martian"}', '{"model_type": "llama"}'])
def test_a_folder_that_holds_no_model_is_named(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
        (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(EngineError, match=f"{tmp_path}.*can't be read as a language model"):
        load_model(tmp_path)
    with pytest.raises(EngineError, match="needs a folder"):
        TorchEngine(EngineSpec(engine="torch"))


def test_an_adapter_beside_the_weights_is_never_laid_over_them(tmp_path):
    folder = tiny_folder(tmp_path / "base", tiny(dtype=torch.float32))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(EngineError, match="an adapter that would change them"):
        load_model(folder)


@pytest.mark.parametrize("change", ["renamed", "dropped", "resized"])
def test_weights_that_a_folder_lacks_are_never_made_up(tmp_path, change):
    folder = tiny_folder(tmp_path / "base", tiny(dtype=torch.float32))
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    taken = tensors.pop(name)
    if change == "renamed":
        tensors[f"other.{name}"] = taken
    if change == "resized":
        tensors[name] = taken[:-1].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"lacks 1 weights.*layers\.1\.mlp\.up_proj"):
        load_model(folder)


def test_want_of_memory_while_a_model_is_loaded_is_called_that(tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path / "base", tiny(dtype=torch.float32))

    def too_much(*_, **__):
        return torch.empty(2**55, dtype=torch.uint8)

    monkeypatch.setattr(module.AutoModelForCausalLM, "from_pretrained", too_much)
    with pytest.raises(EngineError, match="^the machine's memory is used up .*a smaller model need less"):
        load_model(folder)


def test_code_that_comes_with_a_model_is_not_run_and_nobody_is_asked_to(tmp_path, monkeypatch):
    mine = {"AutoConfig": "martian.Config", "AutoModelForCausalLM": "martian.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "martian", "auto_map": mine}))
    (tmp_path / "martian.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(EngineError, match="can't be read as a language model"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_bends_its_logits_is_refused(tmp_path):
    torch.manual_seed(0)
    GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)).save_pretrained(tmp_path / "bent")
    with pytest.raises(EngineError, match="'granite' turns its states into logits.*llama engine"):
        load_model(tmp_path / "bent")
    GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=1.0)).save_pretrained(tmp_path / "plain")
    assert load_model(tmp_path / "plain").config.model_type == "granite"


def test_a_model_with_parts_for_images_is_refused_before_it_is_asked(tmp_path):
    text = {**SIZES, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text, vision_config={**sizes, "image_size": 8, "patch_size": 4}, mm_tokens_per_image=4
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "seeing")
    with pytest.raises(EngineError, match="'gemma3' has other parts.*use a GGUF file"):
        load_model(tmp_path / "seeing")


@pytest.mark.parametrize(
    "statement",
    [
        "import rung.system",
        "import rung.rungs",
        "import rung.climb.climb",
        "import rung.cli.main",
        "from rung.engines import start",
    ],
)
def test_torch_is_not_loaded_before_it_is_needed(statement):
    check = f"{statement}; import sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0


HELP = """
import runpy, sys
sys.argv = ["rung", "--help"]
try:
    runpy.run_module("rung", run_name="__main__")
finally:
    print("torch" in sys.modules)
"""


def test_help_does_not_load_torch():
    root = Path(__file__).parents[2]
    child = subprocess.run([sys.executable, "-c", HELP], cwd=root, capture_output=True, text=True, timeout=60)
    assert "climb" in child.stdout
    assert child.stdout.endswith("False\n")


@given(st.lists(st.integers(6, 300), min_size=1, max_size=60), st.integers(1, 4), st.integers(300, 2000))
def test_prompts_are_shared_out_evenly_among_workers(lengths, count, budget):
    even = module._even(lengths, 5, budget, count)
    assert even <= budget
    own = sum(length - 5 for length in lengths)
    if own <= budget:
        assert even <= own // count + max(lengths) - 5


def test_whoever_asks_computes_on_the_engines_threads_though_another_thread_loaded_it(tmp_path):
    before, made = torch.get_num_threads(), list[TorchEngine]()
    model = tiny("llama")
    changes = {"threads": before + 1, "weights": tiny_folder(tmp_path, model)}
    loads = threading.Thread(target=lambda: made.append(engine(model, **changes)))
    loads.start()
    loads.join()
    try:
        for ask in (
            lambda: made[0].generate([Request(prompt=(1, 2), max_tokens=1)]),
            lambda: made[0].choose([(1, 2)], [(3,), (4,)]),
            lambda: made[0].next_logprobs([(1, 2)], [3]),
        ):
            torch.set_num_threads(before)
            ask()
            assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
