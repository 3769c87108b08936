import pytest

from rung.cli.durations import seconds
from rung.errors import TaskError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("1h30m", 5400),
        ("1h", 3600),
        ("2h5m10s", 7510),
        ("1.5H", 5400),
        (" 90s ", 90),
    ],
)
def test_spans_of_time_are_read_as_people_write_them(text, wanted):
    assert seconds(text, "--budget") == wanted


@pytest.mark.parametrize(
    "text", ["", "30", "3d", "m30", "30s10m", "-5m", "0m", "٣٠m", "1h 30m", "9" * 310 + "h"]
)
def test_anything_else_names_the_option_the_value_and_the_forms(text):
    with pytest.raises(TaskError, match="--budget .* 90s, 30m or 1h30m") as caught:
        seconds(text, "--budget")
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(("text", "wanted"), [("30d", 2592000), ("1d12h", 129600), ("90s", 90)])
def test_days_are_read_where_they_make_sense(text, wanted):
    assert seconds(text, "--expires", days=True) == wanted


def test_a_span_with_days_that_cannot_be_read_names_the_forms_with_days():
    with pytest.raises(TaskError, match="--expires '3y' .* 12h, 30d or 1d12h"):
        seconds("3y", "--expires", days=True)
