import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engines.held import ROOM, HeldRows, empty_rows
from rung.engines.packed import packed
from rung.engines.rows import attention_windows, pad_right
from rung.errors import EngineError
from tests.fixtures_tiny import DEVICE, WINDOW, tiny

MODELS = {
    (kind, attention): tiny(kind, attention=attention)
    for kind in ("llama", "gemma")
    for attention in ("sdpa", "eager")
}
tokens = st.lists(st.integers(1, 99), max_size=2 * WINDOW).map(tuple)
some_tokens = st.lists(st.integers(1, 99), min_size=1, max_size=2 * WINDOW).map(tuple)


def hidden_after(model, row) -> torch.Tensor:
    """From one plain forward pass of this row alone."""
    with torch.inference_mode():
        return model.model(torch.tensor([row], device=DEVICE)).last_hidden_state[0, -1]


def assert_like_alone(model, hidden: torch.Tensor, rows) -> None:
    # Eager attention takes its softmax in fp32 even here.
    near = 1e-10 if model.config._attn_implementation == "sdpa" else 1e-4
    for state, row in zip(hidden, rows, strict=True):
        assert torch.allclose(state, hidden_after(model, row), atol=near)


def packs(kind):
    """The model over packs: transformers' own passes tell what is right for it too."""
    made = packed(tiny(kind))
    assert made is not None
    return made


PACKED = {kind: packs(kind) for kind in ("llama", "qwen3", "gemma")}


@pytest.mark.parametrize(
    ("model", "over"),
    [(model, None) for model in MODELS.values()] + [(over.model, over) for over in PACKED.values()],
    ids=[*map("-".join, MODELS), *(f"{kind}-packs" for kind in PACKED)],
)
@settings(deadline=None, max_examples=12)
@given(prefix=tokens, parts=st.lists(st.tuples(some_tokens, tokens, tokens), min_size=1, max_size=4))
def test_a_row_sees_what_it_would_see_alone_whatever_gaps_its_neighbours_cause(model, over, prefix, parts):
    with torch.inference_mode():
        if prefix:
            memory = empty_rows(model, over, 1)
            memory.feed([prefix])
            rows = memory.spread(len(parts))
        else:
            rows = empty_rows(model, over, len(parts))
        firsts, peeked, seconds = zip(*parts, strict=True)
        assert_like_alone(model, rows.feed(firsts), [prefix + f for f in firsts])
        expected = [prefix + f + p for f, p in zip(firsts, peeked, strict=True)]
        assert_like_alone(model, rows.peek(peeked), expected)
        assert_like_alone(
            model,
            rows.peek([p[::-1] for p in peeked]),
            [e[: len(prefix + f)] + p[::-1] for e, f, p in zip(expected, firsts, peeked, strict=True)],
        )
        if any(seconds):
            rows.feed(seconds)
        whole = [prefix + f + s for f, s in zip(firsts, seconds, strict=True)]
        order = list(range(len(parts)))[::-1][:3]
        rows.keep(order)
        assert_like_alone(model, rows.last, [whole[i] for i in order])
        assert_like_alone(model, rows.feed([(7,)] * len(order)), [(*whole[i], 7) for i in order])


@pytest.mark.parametrize("over", PACKED.values(), ids=PACKED)
@torch.inference_mode()
def test_held_rows_go_on_beyond_their_room_and_start_from_nothing(over):
    first = HeldRows(over, 1)
    first.feed([(3, 4, 5)])
    first.feed([(6,)])
    assert [keys.shape[1] for keys, _ in first.memory()] == [4] * len(over.blocks)
    rows = first.spread(2)
    assert rows.feed([(), ()]) is rows.last
    rows.feed([(), (9, 8)])
    whole = [(3, 4, 5, 6), (3, 4, 5, 6, 9, 8)]
    for step in range(2 * ROOM):
        token = 10 + step % 80
        whole = [(*row, token) for row in whole]
        states = rows.feed([(token,), (token,)])
    assert_like_alone(over.model, states, whole)


def test_the_sliding_window_matters_in_these_tests():
    model = MODELS["gemma", "sdpa"]
    row, other = (5,) * 3 * WINDOW, (9,) + (5,) * (3 * WINDOW - 1)
    assert attention_windows(model.config) == {"full_attention": None, "sliding_attention": WINDOW}
    wide = tiny("gemma")
    wide.config.sliding_window = 512
    assert not torch.allclose(hidden_after(model, other), hidden_after(wide, other), atol=1e-3)
    assert not torch.allclose(hidden_after(model, row), hidden_after(model, other), atol=1e-6)


def test_one_kind_of_layer_needs_one_mask():
    assert attention_windows(MODELS["llama", "sdpa"].config) == {"": None}


def test_layers_that_are_no_attention_are_refused_by_name():
    config = tiny("gemma").config
    config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(EngineError, match="gemma3_text.*linear_attention.*llama engine"):
        attention_windows(config)


def test_padding_goes_to_the_right():
    assert pad_right([(1, 2, 3), (4,), ()]).tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0]]
    assert pad_right([(), ()]).tolist() == [[0], [0]]
