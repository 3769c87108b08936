import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.engines.trie import Search, Trie, log_sum
from rung.errors import EngineError

END = 9


def terminated(bodies) -> list[tuple[int, ...]]:
    """Distinct candidates, none a prefix of another, because END occurs only last."""
    return sorted({tuple(body) + (END,) for body in bodies})


candidate_sets = st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=12).map(terminated)


def scores(seed: int, path: tuple[int, ...], children: tuple[int, ...], spread: float) -> list[float]:
    """Any model: an unnormalised log-probability for each child, fixed by seed, path and child."""
    return [random.Random(f"{seed}|{path}|{child}").gauss(0, spread) for child in children]


def drive(trie: Trie, seed: int, spread: float, *, exhaustive: bool) -> tuple[int, tuple[float, ...], int]:
    search = Search(trie, exhaustive=exhaustive)
    calls = 0
    while (path := search.next()) is not None:
        search.feed(scores(seed, path, trie.children(path), spread))
        calls += 1
    return *search.result(), calls


def by_enumeration(candidates, seed: int, spread: float) -> list[float]:
    """Each candidate's log-probability, token by token, over the tokens that any candidate allows there."""
    result = []
    for candidate in candidates:
        total = 0.0
        for depth, token in enumerate(candidate):
            path = candidate[:depth]
            allowed = sorted({other[depth] for other in candidates if other[:depth] == path})
            values = dict(zip(allowed, scores(seed, path, tuple(allowed), spread), strict=True))
            total += values[token] - log_sum(list(values.values()))
        result.append(total)
    return result


@given(candidate_sets, st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 5.0]))
def test_an_exhaustive_search_gives_every_probability_and_they_sum_to_one(candidates, seed, spread):
    index, logprobs, _ = drive(Trie(candidates), seed, spread, exhaustive=True)
    expected = by_enumeration(candidates, seed, spread)
    assert logprobs == pytest.approx(expected, abs=1e-9)
    assert math.fsum(map(math.exp, logprobs)) == pytest.approx(1.0, abs=1e-9)
    assert expected[index] == pytest.approx(max(expected), abs=1e-9)


@given(candidate_sets, st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 5.0]))
def test_a_best_first_search_finds_the_argmax_and_never_calls_more_often(candidates, seed, spread):
    expected = by_enumeration(candidates, seed, spread)
    index, logprobs, calls = drive(Trie(candidates), seed, spread, exhaustive=False)
    _, _, all_calls = drive(Trie(candidates), seed, spread, exhaustive=True)
    assert expected[index] == pytest.approx(max(expected), abs=1e-9)
    assert logprobs[index] == pytest.approx(expected[index], abs=1e-9)
    assert calls <= all_calls
    for found, true in zip(logprobs, expected, strict=True):
        assert found == -math.inf or found == pytest.approx(true, abs=1e-9)


def test_a_trie_says_at_how_many_nodes_its_candidates_part():
    assert Trie([(1, 5), (2, 5), (3,)]).branchings == 1
    assert Trie([(1, 5), (1, 6), (1, 7, 1), (1, 7, 2), (3,)]).branchings == 3
    assert Trie([(1, 5)]).branchings == 0


def test_a_sure_model_opens_only_the_nodes_on_its_way():
    candidates = [(*body, END) for body in itertools.product((0, 1), repeat=6)]
    trie = Trie(candidates)
    search = Search(trie)
    calls = 0
    while (path := search.next()) is not None:
        search.feed([-0.001 if child == 1 else -7.0 for child in trie.children(path)])
        calls += 1
    assert calls == 6
    assert candidates[search.result()[0]] == (1, 1, 1, 1, 1, 1, END)


def test_single_token_candidates_need_exactly_one_call():
    trie = Trie([(3,), (1,), (2,)])
    assert trie.single_tokens
    search = Search(trie)
    assert search.next() == ()
    assert trie.children(()) == (3, 1, 2)
    search.feed([-3.0, -1.0, -2.0])
    assert search.next() is None
    assert search.result()[0] == 1


def test_a_chain_that_all_candidates_share_needs_no_call():
    trie = Trie([(5, 6, 7, 1), (5, 6, 7, 2)])
    search = Search(trie)
    assert search.next() == (5, 6, 7)
    search.feed([-1.0, -2.0])
    assert search.next() is None


def test_one_candidate_is_certain_without_a_call():
    search = Search(Trie([(4, 5)]))
    assert search.next() is None
    assert search.result() == (0, (0.0,))


@pytest.mark.parametrize(
    "candidates", [[(1, 2), (1, 2)], [(1,), (1, 2)], [(1, 2, 3), (4,), (1, 2)], [(), (1,)]]
)
def test_equal_candidates_and_prefixes_are_refused_by_number(candidates):
    with pytest.raises(ValueError, match=r"candidate \d .* end every candidate with a stop token"):
        Trie(candidates)


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match="no candidates"):
        Trie([])


@pytest.mark.parametrize(
    ("fed", "error", "said"),
    [
        ([-1.0], ValueError, "no log-probabilities"),
        ([-math.inf, -math.inf], EngineError, "no number"),
        ([math.nan, -1.0], EngineError, "no number"),
        ([-1.0, math.nan], EngineError, "no number"),
    ],
)
def test_unusable_log_probabilities_are_refused(fed, error, said):
    search = Search(Trie([(1,), (2,)]))
    with pytest.raises(error, match=said):
        search.feed(fed)
