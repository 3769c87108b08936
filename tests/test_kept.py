"""Answers are kept for texts that come again, but not those to very long ones."""

from rung.task.kept import MOST_CHARS, kept_if_short


def test_an_answer_to_a_short_text_is_kept_and_one_to_a_long_text_is_not():
    asked = []

    @kept_if_short(4)
    def length(text: str | None, more: str = "") -> int:
        asked.append(text)
        return len(text or "") + len(more)

    half = "a" * (MOST_CHARS // 2)
    assert [length("b"), length("b"), length(None), length(None)] == [1, 1, 0, 0]
    assert [length(half, half), length(half, half)] == [MOST_CHARS, MOST_CHARS]
    assert asked == ["b", None, half]
    assert [length(half, more=half + "c") for _ in range(2)] == [MOST_CHARS + 1] * 2
    assert asked == ["b", None, half, half, half]
    assert length.__name__ == "length"
