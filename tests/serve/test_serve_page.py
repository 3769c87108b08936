"""docs/serve.md beside the program: its commands are taken, and its Python is answered by a server."""

import ast
import re
import shlex
from pathlib import Path

from rung.cli.main import app
from tests.fixtures_serve import also

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def test_its_commands_are_ones_that_the_program_takes():
    (block,) = [text for kind, text in BLOCKS if kind == "console"]
    commands = [shlex.split(line.removeprefix("$ ")) for line in block.splitlines()]
    for name, *arguments in commands:
        assert name == "rung" and arguments[0] == "serve"
        app.parse_args(arguments, print_error=False, exit_on_error=False)
    assert {kind for kind, _ in BLOCKS} == {"console", "python"}


def test_its_python_is_answered_with_a_label(tiny, tiny_systems):
    (program,) = [text for kind, text in BLOCKS if kind == "python"]
    with also(tiny, {"helpdesk": tiny_systems["words"].folder}) as server:
        there = program.replace("http://127.0.0.1:8000", server.address)
        assert there != program
        *lines, last = ast.parse(there).body
        assert isinstance(last, ast.Expr)
        names: dict[str, object] = {}
        exec(compile(ast.Module(lines, []), "serve.md", "exec"), names)
        answer = eval(compile(ast.Expression(last.value), "serve.md", "eval"), names)
    assert answer in tiny_systems["words"].spec.labels
