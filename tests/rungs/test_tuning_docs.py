"""docs/tuning.md beside the program: its key, its table and its numbers."""

import re
from pathlib import Path

import yaml

from rung.task import Tuning
from rung.training.loop import SAVE_ALL_EVERY_S, SAVE_EVERY_S
from rung.training.methods import ALPHA, METHODS, RANK, RS_ALPHA

PAGE = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def in_tens(rate: float) -> str:
    """2.5e-4, as the page writes it."""
    digits, _, power = f"{rate:.1e}".partition("e-0")
    return f"{digits.removesuffix('.0')}e-{power}"


def test_its_key_is_one_that_a_task_may_have():
    ((kind, block),) = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
    assert kind == "yaml"
    assert Tuning.model_validate(yaml.safe_load(block)["tuning"]) == Tuning(method="rslora", rank=64)


def test_the_table_has_every_method_with_its_rates():
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \| .* \|$", PAGE, re.MULTILINE)
    assert rows == [(name, ", ".join(map(in_tens, method.rates))) for name, method in METHODS.items()]


def test_its_numbers_are_those_of_the_program():
    assert f"a LoRA of rank {Tuning().rank} on all linear layers" in TEXT and RANK == Tuning().rank
    assert f"alpha being {ALPHA:g} for `lora` and {RS_ALPHA:g} for `rslora`" in TEXT
    assert SAVE_ALL_EVERY_S == 30 and "of `full` twice a minute" in TEXT
    assert SAVE_EVERY_S == 1 and "on a GPU once a second at most" in TEXT
    assert "1 to 512" in TEXT


def test_the_rungs_that_train_and_those_that_need_a_lora_are_all_named():
    assert "(`sft`, `distill`, `preference`, `reinforce`)" in TEXT
    assert "`preference` and `reinforce`, which go on from a LoRA, are skipped" in TEXT
