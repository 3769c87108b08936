"""docs/calls.md beside the program: its rows and its numbers."""

import json
import re
from pathlib import Path

from rung.calling import RESULT
from rung.engines.endpoint_calls import sent_names
from rung.models.tagged_calls import STOPS, read_tagged, spelled
from rung.rungs.api import TOKENS_BESIDE
from rung.rungs.below import TAGGED
from rung.rungs.called import NAMING_ROWS, TAUGHT_ROWS, WAY_ROWS, WAYS
from rung.rungs.instructions import CALLS_ALLOWED
from rung.rungs.length import stretches_of
from rung.rungs.tuning import NEAR_TIE
from rung.scoring.scorers import SCORERS
from rung.task.accepted import MOST_VALUES
from rung.task.outputs import read_calls

PAGE = (Path(__file__).parents[1] / "docs" / "calls.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def test_its_two_ways_to_write_a_row_are_read_as_the_same():
    ours, theirs = (
        read_calls(json.loads(text)) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    )
    row = SCORERS["tool_call"].row
    for arguments, right in [
        ({"city": "Riga", "unit": "C"}, 1),
        ({"city": "Rīga"}, 1),
        ({"city": "Riga, Latvia", "days": 1.0}, 1),
        ({"unit": "C"}, 0),
        ({"city": "Riga", "days": 2}, 0),
        ({"city": "RIGA"}, 0),
    ]:
        answer = [{"name": "weather", "arguments": arguments}]
        assert [row(answer, ours), row(answer, theirs)] == [right, right]
    assert ours[0]["arguments"] == theirs[0]["arguments"]


def test_its_call_in_tags_is_read_and_spelled_so():
    (text,) = (found.strip() for found in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL))
    calls = [{"name": "weather", "arguments": {"city": "Riga", "days": 1}}]
    assert read_tagged(text) == calls and spelled(calls) == text


def test_its_numbers_are_those_of_the_program():
    assert f"written out, up to {MOST_VALUES} for one argument" in TEXT
    assert CALLS_ALLOWED == 4 and "but four where all are shorter" in TEXT


def test_what_it_says_of_hosted_models_is_so():
    assert f"The first {WAY_ROWS} dev rows at most" in TEXT and f"chosen by {TAUGHT_ROWS} dev rows" in TEXT
    assert NAMING_ROWS == 5 and "(it is given up to five rows for that)" in TEXT
    assert WAYS[0] == "tools" and "of equals the first" in TEXT and '(`"written": "tools"`)' in TEXT
    assert (
        sent_names(["math.factorial"]) == ["math_factorial"]
        and "`math.factorial` as `math_factorial`" in TEXT
    )
    assert f"each call with `{RESULT}` as its result" in TEXT
    assert f"may be {TOKENS_BESIDE} tokens longer" in TEXT


def test_what_it_says_of_tunes_is_so():
    assert f"A tune learns it as `{TAGGED}`" in TEXT and f"`{STOPS[0]}`, where their results" in TEXT
    assert NEAR_TIE == 0.02 and "ahead by more than two points" in TEXT
    assert "twice the steps of one for JSON alone" in TEXT
    assert stretches_of(2) == 2 * stretches_of(1)
