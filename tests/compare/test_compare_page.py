"""docs/compare.md beside the program: its commands and its numbers."""

import re
import shlex
from pathlib import Path

import pytest

from rung.cli.main import app
from rung.climb.decide import MIN_GAIN, MIN_ROWS
from rung.compare.compare import OUT
from rung.compare.outcome import ALPHA

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)


def test_the_page_has_commands():
    assert len(COMMANDS) == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_the_program_takes(command):
    name, *arguments = shlex.split(command)
    assert (name, arguments[0]) == ("rung", "compare")
    app.parse_args(arguments, print_error=False, exit_on_error=False)


def test_the_numbers_are_the_programs():
    assert f"each at {100 * ALPHA / 2:.1f} %" in PAGE and f"under {MIN_ROWS} rows" in PAGE
    assert f"better by {100 * MIN_GAIN:.1f} points" in PAGE and f"`{OUT}`" in PAGE
