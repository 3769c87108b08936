import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.training.batches import Row, epoch
from rung.training.loop import TOKENS_AT_ONCE
from rung.training.parts import parts

DATA = Path(__file__).parents[3] / "shared" / "data"


def rows_of(lengths) -> list[Row]:
    return [Row(prompt=(1,) * length, answer=(2, 3)) for length in lengths]


def padding_share(rows, cut) -> float:
    real = sum(rows[i].tokens for batch in cut for i in batch)
    return 1 - real / sum(len(batch) * max(rows[i].tokens for i in batch) for batch in cut)


def in_parts(rows, cut) -> list[list[int]]:
    """What goes through the model at once where it takes every batch in two parts."""
    return [
        [batch[i] for i in part]
        for batch in cut
        for part in parts([rows[i].tokens for i in batch], 2, shared=0, slots=None, most=TOKENS_AT_ONCE)
    ]


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=300),
    st.integers(1, 20),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_an_epoch_is_every_row_once_in_batches_of_the_size(lengths, size, seed, number):
    rows = rows_of(lengths)
    cut = epoch(rows, size, seed, number)
    assert sorted(i for batch in cut for i in batch) == list(range(len(rows)))
    assert len(cut) == -(-len(rows) // size)
    assert sorted(map(len, cut))[1:] == [size] * (len(cut) - 1)
    assert cut == epoch(rows, size, seed, number)


def test_epochs_and_seeds_differ_in_what_shares_a_batch_and_in_order():
    rows = rows_of(range(1, 1001))
    first, second, other = epoch(rows, 8, 0, 0), epoch(rows, 8, 0, 1), epoch(rows, 8, 1, 0)
    for one, two in ((first, second), (first, other)):
        assert one != two
        assert {frozenset(b) for b in one} != {frozenset(b) for b in two}
    means = [sum(rows[i].tokens for i in b) / len(b) for b in first]
    assert means != sorted(means)


def test_little_is_padding_and_much_would_be_without_sorting():
    rows = rows_of([int(1.15 ** (i % 40)) + 3 for i in range(3000)])
    plain = [list(range(k, min(k + 8, len(rows)))) for k in range(0, len(rows), 8)]
    assert padding_share(rows, plain) > 0.3
    assert padding_share(rows, in_parts(rows, epoch(rows, 8, 0, 0))) < 0.05


def test_long_rows_share_their_batches_with_more_short_ones():
    """Where length tells the answer, batches of one length would be batches of one answer."""
    rows = rows_of([20] * 900 + [60] * 100)
    shares = [sum(i >= 900 for i in batch) / 16 for batch in epoch(rows, 16, 0, 0)]
    assert 0 < max(shares) < 0.5


@pytest.mark.parametrize("task", ["banking77", "sroie_receipts", "viggo_parse", "sms_spam"])
def test_little_is_padding_on_real_texts(task):
    file = DATA / task / "train.jsonl"
    if not file.is_file():
        pytest.skip(f"no data set at {file}")
    with file.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["input"] for line in lines]
    rows = rows_of([len(text) // 4 + 1 for text in texts[:4000]])
    assert padding_share(rows, in_parts(rows, epoch(rows, 8, 0, 0))) < 0.12
