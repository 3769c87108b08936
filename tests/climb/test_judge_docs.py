"""docs/judge.md beside the program: its blocks and its numbers."""

import re
import shlex
from pathlib import Path

from rung.checks.judge import FEWEST_CHECKED, LEAST_AGREEMENT, LEAST_KAPPA
from rung.cli.main import app
from rung.climb.corrected import FEWEST_CORRECTED
from rung.climb.judging import agreement_text
from rung.climb.sheet import SHEET_PAIRS
from rung.data.checked import read_checked
from rung.judging import JUDGE_FOLDER, JUDGEMENTS_FILE
from rung.records.judged import Agreement
from rung.scoring.verdicts import SIMILAR
from rung.task import load_task

PAGE = (Path(__file__).parents[2] / "docs" / "judge.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL))


def test_every_block_is_one_that_the_program_takes(tmp_path):
    assert BLOCKS.keys() == {"yaml", "sh", "json"} and PAGE.count("```") == 6
    (tmp_path / "checked.jsonl").write_text(BLOCKS["json"])
    pairs, empty = read_checked(tmp_path / "checked.jsonl")
    assert ([pair.better for pair in pairs], empty) == (["answer", "other"], 0)
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "task.yaml").write_text(BLOCKS["yaml"])
    task = load_task(tmp_path)
    assert task.judge is not None and task.judge.checked == tmp_path / "checked.jsonl"
    name, *arguments = shlex.split(BLOCKS["sh"])
    _, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
    assert (name, bound.arguments["out"]) == ("rung", Path("checked.jsonl"))


def test_its_numbers_are_those_of_the_program():
    assert f"**{FEWEST_CHECKED} pairs or more" in TEXT
    assert f"{LEAST_AGREEMENT:.0%}".replace("%", " %") + " or more, with Cohen's κ of .6 or more" in TEXT
    assert LEAST_KAPPA == 0.6
    assert f"this writes {SHEET_PAIRS} pairs to mark" in TEXT
    assert f"Where {FEWEST_CORRECTED} or more of a rung's dev answers were marked" in TEXT
    assert f"neither has over {SIMILAR:g} times the words" in TEXT
    assert f"`{JUDGE_FOLDER}/{JUDGEMENTS_FILE}`" in TEXT


def test_the_sentence_that_it_shows_is_the_programs():
    found = Agreement(
        rows=60, same=52, low=0.7, high=0.9, kappa=0.781, kappa_low=0.6, kappa_high=0.9, broken=0, enough=True
    )
    assert f"against each row's output: {agreement_text(found)}.`" in TEXT
