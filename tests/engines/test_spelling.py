"""Texts as a given number of tokens."""

from hypothesis import given
from hypothesis import strategies as st

from rung.engines.spelling import Vocabulary

WORDS = (b"", *(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"bc", "é".encode())
VOCABULARY = Vocabulary(WORDS)


@given(st.lists(st.sampled_from(range(1, len(WORDS))), max_size=8))
def test_a_text_is_spelled_in_as_many_tokens_as_it_was(tokens):
    text = b"".join(WORDS[token] for token in tokens)
    found = VOCABULARY.spell_in(text, len(tokens))
    assert len(found) == len(tokens) and b"".join(WORDS[token] for token in found) == text


def test_where_no_such_number_spells_a_text_it_is_spelled_in_few():
    for count in (0, 1, 9):
        found = VOCABULARY.spell_in(b"abcab", count)
        assert b"".join(WORDS[token] for token in found) == b"abcab" and len(found) == 2
