from hypothesis import given
from hypothesis import strategies as st

from rung.engines.spelling import UNSPELT, Vocabulary

pieces = st.binary(min_size=1, max_size=4).map(lambda text: bytes(97 + byte % 3 for byte in text))
vocabularies = st.lists(pieces, max_size=12).map(lambda some: Vocabulary([b"", b"a", b"b", b"c", *some]))
texts = st.binary(max_size=12).map(lambda text: bytes(97 + byte % 3 for byte in text))


def fewest(vocabulary: Vocabulary, text: bytes) -> int:
    """By trying all first tokens."""
    if not text:
        return 0
    firsts = [one for one in set(vocabulary.spellings) if one and text.startswith(one)]
    return 1 + min(fewest(vocabulary, text[len(one) :]) for one in firsts)


@given(vocabularies, texts)
def test_a_text_is_spelt_with_the_fewest_tokens(vocabulary, text):
    spelling = vocabulary.spell(text)
    tokens = spelling.tokens()
    assert b"".join(map(vocabulary.text_of, tokens)) == text
    assert len(tokens) == spelling.count == fewest(vocabulary, text)
    assert list(spelling.counts) == [fewest(vocabulary, text[first:]) for first in range(len(text) + 1)]


@given(vocabularies, texts, texts)
def test_what_stands_before_a_spelt_text_is_counted_with_it(vocabulary, text, tail):
    together = vocabulary.spell(text, vocabulary.spell(tail))
    assert together.text == text + tail
    assert list(together.counts) == list(vocabulary.spell(text + tail).counts)
    rest = together.after(len(text))
    assert (rest.text, rest.count) == (tail, vocabulary.spell(tail).count)


@given(vocabularies, texts, texts)
def test_beginnings_are_counted_as_they_grow(vocabulary, text, more):
    costs = vocabulary.extend(vocabulary.extend([0], text), text + more)
    whole = text + more
    assert costs == [vocabulary.spell(whole[:size]).count for size in range(len(whole) + 1)]


def test_a_text_that_no_tokens_spell_costs_more_than_any():
    vocabulary = Vocabulary([b"ab", b"", b"c"])
    assert vocabulary.spell(b"cabc").tokens() == (2, 0, 2)
    assert vocabulary.spell(b"ca").count == UNSPELT
    assert vocabulary.extend([0], b"cab") == [0, 1, UNSPELT, 2]


def test_ids_outside_the_vocabulary_add_nothing():
    vocabulary = Vocabulary([b"a", b""])
    assert [vocabulary.text_of(token) for token in (-1, 0, 1, 2)] == [b"", b"a", b"", b""]


WORDS = (b"", *(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"bc", "é".encode())
SPELT = Vocabulary(WORDS)


@given(st.lists(st.sampled_from(range(1, len(WORDS))), max_size=8))
def test_a_text_is_spelled_in_as_many_tokens_as_it_was(tokens):
    text = b"".join(WORDS[token] for token in tokens)
    found = SPELT.spell_in(text, len(tokens))
    assert len(found) == len(tokens) and b"".join(WORDS[token] for token in found) == text


def test_where_no_such_number_spells_a_text_it_is_spelled_in_few():
    for count in (0, 1, 9):
        found = SPELT.spell_in(b"abcab", count)
        assert b"".join(WORDS[token] for token in found) == b"abcab" and len(found) == 2
