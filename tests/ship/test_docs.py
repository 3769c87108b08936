"""docs/export.md beside the program: its commands, its table, its code and its numbers."""

import re
import shlex
from pathlib import Path

import pytest

from rung.cli.main import app
from rung.models.weight_types import MIXED, WRITTEN
from rung.ship.export import ExportOptions
from rung.ship.parity import LEAST_AGREEMENT, MARGIN, ROWS
from rung.ship.targets import GGUF_TYPES, RECIPES

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


def test_the_page_has_commands_and_one_piece_of_code():
    assert len(COMMANDS) == 5 and [kind for kind, _ in BLOCKS] == ["sh", "python"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_the_program_takes(command):
    name, *arguments = shlex.split(command)
    assert name == "rung"
    _, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
    given = bound.arguments
    kind = getattr(given.get("choices"), "type", None)
    assert given["to"] in RECIPES and (kind is None or kind in RECIPES[given["to"]].types)


def test_the_code_runs_up_to_the_system_that_is_not_there(tmp_path, monkeypatch):
    from rung.errors import SystemFolderError

    monkeypatch.chdir(tmp_path)
    (code,) = (block for kind, block in BLOCKS if kind == "python")
    with pytest.raises(SystemFolderError, match="runs/demo/rungs/sft/system"):
        exec(compile(code, "docs/export.md", "exec"), {})


def test_the_table_lists_every_target_with_its_types_in_order():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in PAGE.splitlines()
        if line.startswith("| `") and "--to" not in line
    ]
    assert [row[0].strip("`") for row in rows] == list(RECIPES)
    for row in rows:
        wanted = RECIPES[row[0].strip("`")].types
        if row[2] == "as `gguf`, but for `adapter`":
            assert (*wanted, "adapter") == RECIPES["gguf"].types
        else:
            assert re.findall(r"`(\w+)`", row[2]) == list(wanted)
    assert GGUF_TYPES == ("q8_0", *(name for name in WRITTEN if name != "q8_0"), *MIXED)


def test_the_rule_has_the_numbers_of_the_gate():
    assert f"falls by less than {100 * MARGIN:.0f} points" in PAGE
    assert f"least {100 * LEAST_AGREEMENT:.0f} % of the answers" in PAGE
    assert f": {ROWS} dev rows" in PAGE and ExportOptions(target="gguf").most == ROWS
