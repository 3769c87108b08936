"""docs/preference.md beside the program: its command and its numbers."""

import re
import shlex
from pathlib import Path

from rung.cli.main import app
from rung.rungs import preferred, preferring, seeds
from rung.training.learned import B_RATE

PAGE = (Path(__file__).parents[2] / "docs" / "preference.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def test_the_command_is_one_that_the_program_takes():
    ((kind, block),) = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
    name, *arguments = shlex.split(block)
    assert (kind, name) == ("sh", "rung")
    _, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
    assert bound.arguments["choices"].rungs == "prompt,sft,preference"


def test_its_numbers_are_those_of_the_program():
    assert f"| pairs, by DPO | {preferred.FEWEST_PAIRS} training rows |" in TEXT
    assert f"{preferred.FEWEST_PAIRS} training answers, {preferred.FEWEST_JUDGED} of them false" in TEXT
    assert f"Fewer than about {preferring.GOOD_MANY} seldom gain" in TEXT
    assert f"{preferring.BATCH} in a step, β = {preferring.BETA:g}" in TEXT
    assert preferring.RATES == (5e-6, 2e-5) and "(5·10⁻⁶ and 2·10⁻⁵ for" in TEXT
    assert f"{B_RATE:g} times that for its B" in TEXT
    assert preferring.MOST_FALL == 0.2 and "fallen by more than a fifth" in TEXT
    assert preferring.DECAY_SHARE == 0.5 and "half of it decaying" in TEXT
    assert preferring.WARMUP_SHARE == 0.1 and "a warm-up of a tenth" in TEXT
    assert "**Three seeds.** Where the gain over `sft` is under twice the smallest detectable one" in TEXT
    assert (seeds.SEEDS, seeds.CLOSE) == (3, 2.0)
