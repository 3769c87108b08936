import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import passages
from rung.data.documents import Document
from rung.data.passages import CHARACTERS, WORDS, cut, passages_of
from rung.errors import DataError
from rung.scoring.extract import words

PARTS = st.sampled_from(
    [
        "# Head",
        "## Under",
        "\n",
        "\n\n",
        ". ",
        "! ",
        "word ",
        "a",
        "ß" * 40,
        "語" * 300,
        "。",
        " " * 80,
        "x" * 3000,
    ]
    + ["The lift goes to the third floor. ", "- item\n", "| 1 | 2 |\n", "»Stop.« ", "\t", "\u2028", "#no "]
)
TEXTS = st.lists(PARTS, max_size=150).map("".join) | st.text(max_size=400)


def document(text: str, id: str = "a.md", title: str = "") -> Document:
    return Document(id=id, title=title, text=text)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_every_character_that_is_not_blank_is_in_a_passage_and_none_is_too_long(text):
    spans = [(start, end) for start, end, _ in cut(text)]
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(place in covered for place, letter in enumerate(text) if not letter.isspace())
    assert spans == sorted(spans) and len(set(spans)) == len(spans)
    for start, end in spans:
        part = text[start:end].strip()
        assert part and len(part) <= CHARACTERS + 64 and len(words(part)) <= WORDS + 64


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_ids_are_the_documents_with_a_number_and_do_not_hang_on_other_documents(texts):
    documents = [document(text, id=f"d{'#1' * number}") for number, text in enumerate(texts)]
    found = passages_of(documents)
    assert len({one.id for one in found}) == len(found)
    alone = [one for each in documents for one in passages_of([each])]
    assert list(found) == alone
    for each in documents:
        own = [one for one in passages_of([each])]
        assert [one.id for one in own] == [f"{each.id}#{number}" for number in range(1, len(own) + 1)]


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_neighbours_share_a_few_sentences_at_most(text):
    spans = [(start, end) for start, end, _ in cut(text)]
    for (_, end), (start, later) in zip(spans, spans[1:], strict=False):
        assert later > end
        assert len(words(text[start:end])) <= passages.OVERLAP_WORDS


def test_a_passage_ends_at_a_heading_and_is_called_by_it():
    text = "# Kettle\n\nIt boils.\n\n## Care\n\n### Scale\n\nUse vinegar.\n\n## Parts\nA lid."
    assert [(one.id, one.title, one.text) for one in passages_of([document(text, title="Kettle")])] == [
        ("a.md#1", "Kettle", "# Kettle\n\nIt boils."),
        ("a.md#2", "Kettle: Scale", "## Care\n\n### Scale\n\nUse vinegar."),
        ("a.md#3", "Kettle: Parts", "## Parts\nA lid."),
    ]


def test_long_text_is_cut_between_paragraphs_and_sentences_with_the_last_ones_repeated():
    sentence = "One two three four five six seven eight nine ten. "
    long = "".join(f"S{number} {sentence}" for number in range(30))
    first, second, *_ = passages_of([document(long)])
    assert first.text.endswith("nine ten.") and len(words(first.text)) <= WORDS
    assert second.text.startswith("S12 ") and "S13 " in first.text
    halves = f"{sentence * 9}\n\n{sentence * 9}"
    assert [one.text for one in passages_of([document(halves)])] == [(sentence * 9).strip()] * 2


@pytest.mark.parametrize("between", ["\n\n", "\n\n\u3000\u3000", " \n \n"])
def test_paragraphs_of_a_script_without_blanks_are_cut_between_sentences_and_told_apart(between):
    text = "这是一个句子。" * 60 + between + "另外一段。" * 60
    assert [one.text for one in passages_of([document(text)])] == [
        *["这是一个句子。" * count for count in (26, 26, 18)],
        *["另外一段。" * count for count in (40, 27)],
    ]


@pytest.mark.parametrize("sentence", ["彼は「行く！」と言った。", "你来吗？！", "“好。”他说。", "（走吧！）"])
def test_a_sentence_without_a_blank_after_it_ends_with_all_its_marks(sentence):
    found = [one.text for one in passages_of([document(sentence * 100)])]
    assert len(found) > 1 and all(one.endswith(("。", "？！", "」", "”", "）")) for one in found)
    assert all(one.startswith(("彼", "と", "你", "“", "他", "（")) for one in found)


def test_lines_of_such_sentences_are_sentences_too():
    lines = "".join(f"{number}{'字' * 20}，{'词' * 20}。\n" for number in range(40))
    found = [one.text for one in passages_of([document(lines)])]
    assert all(one.endswith("词。") and one[0].isdigit() for one in found)


def test_a_search_that_compares_all_is_given_no_more_than_it_is_fit_for(monkeypatch):
    monkeypatch.setattr(passages, "MAX_PASSAGES", 2)
    with pytest.raises(DataError, match=r"over 2 passages, at 'b'; leave some out"):
        passages_of([document("x", id="a"), document("# y\nz\n# u\nv", id="b")])
