"""docs/reinforce.md beside the program: its command and its numbers."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

from rung.cli.main import app
from rung.rungs import coursing, reinforce, reinforcing, reward_gate, rewards, rollouts
from rung.rungs.following import no_lora
from rung.task import Tuning
from rung.task.model import TuningMethod
from rung.training.learned import B_RATE
from rung.training.onpolicy import CLIP

PAGE = (Path(__file__).parents[2] / "docs" / "reinforce.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def test_the_command_is_one_that_the_program_takes():
    ((kind, block),) = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
    name, *arguments = shlex.split(block)
    assert (kind, name) == ("sh", "rung")
    _, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
    assert bound.arguments["choices"].rungs == "prompt,sft,reinforce"


def test_the_metrics_that_it_names_are_those_that_reward():
    told = re.findall(r"`(\w+)`", TEXT[TEXT.index("alone: ") : TEXT.index("With `mae`")])
    assert {*told, "mae"} == rewards.CHECKED.keys()
    assert all(rewards.no_reward(name, "text") for name in ("rouge_l", "style"))
    assert rewards.no_reward("accuracy", "label") is not None


def test_the_methods_without_a_lora_are_named_among_the_reasons_to_skip():
    for method in get_args(TuningMethod):
        tuning: Any = SimpleNamespace(task=SimpleNamespace(tuning=Tuning(method=method)))
        assert (no_lora(tuning) is None) == (method not in ("full", "prefix"))
    assert "`tuning.method` is `full` or `prefix`: there is no LoRA to go on from" in TEXT


def test_its_numbers_are_those_of_the_program():
    assert f"fewer than {reinforce.FEWEST_ROWS} training rows" in TEXT
    assert (
        f"{rollouts.GROUP} answers are drawn to each of {reward_gate.MOST_PROMPTS} training prompts" in TEXT
    )
    assert f"at temperature {rollouts.TEMPERATURE:g}" in TEXT
    assert f"at least {100 * reward_gate.LEAST_MIXED:.0f} % of the prompts" in TEXT
    assert f"from {reward_gate.LEAST_REWARD:g} to {reward_gate.MOST_REWARD:g}" in TEXT
    assert f"fewer prompts are asked, {reward_gate.FEWEST_PROMPTS} at least" in TEXT
    assert f"draws {rollouts.GROUP} answers to each of {reinforcing.PROMPTS} rows" in TEXT
    assert f"reads {rollouts.GROUP * reinforcing.PROMPTS} answers" in TEXT
    assert CLIP.kind == "dapo" and CLIP.beta == 0
    assert (
        reinforcing.RATE == 1e-5 and f"10⁻⁵ for the adapter's A and {B_RATE:g} times that for its B" in TEXT
    )
    assert coursing.DECAY_SHARE == 0.5 and "constant for half of the steps" in TEXT
    assert f"up to {reinforcing.MOST_STEPS} steps or ten passes, and ten steps at least" in TEXT
    assert reinforcing.MOST_PASSES == reinforcing.FEWEST_STEPS == 10
    assert f"after {rollouts.ZERO_STEPS} steps in which no answer earned anything" in TEXT
    assert f"over {rollouts.EVEN_STEPS} steps all answers" in TEXT
    assert f"more than {100 * rollouts.MOST_EVEN:.0f} % of the groups" in TEXT
    assert f"worse than at the start {coursing.PATIENCE} times in a row" in TEXT
    assert f"scored {coursing.LOOKS} times on the way" in TEXT
    assert f"over the first and the last {reinforcing.SHOWN_STEPS} steps" in TEXT
