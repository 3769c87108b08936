"""The export that the README and the help show is of a System that can be exported and lies where it says."""

import shlex
from pathlib import Path

import pytest

from rung.cli.main import app
from rung.cli.shipping import export
from rung.climb.stored import RUNGS_FOLDER
from rung.registry import load_system
from rung.ship.export import ExportOptions, chosen
from tests.fixtures_ship import make_gguf, make_tuned

README = Path(__file__).parents[2] / "README.md"
SHOWN = {
    "README": README.read_text(encoding="utf-8").splitlines(),
    "help": [line.strip().removeprefix("Example: ") for line in str(export.__doc__).splitlines()],
}


@pytest.mark.parametrize("place", SHOWN)
def test_the_export_that_is_shown_is_of_a_rung_that_has_weights(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = (line for line in SHOWN[place] if line.startswith("rung export "))
    _, *arguments = shlex.split(line, comments=True)
    _, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
    system = Path(bound.arguments["system"])
    assert system.parts[:1] + system.parts[2:] == ("runs", RUNGS_FOLDER, "sft", "system")
    monkeypatch.chdir(tmp_path)
    system.parent.mkdir(parents=True)
    make_tuned(make_gguf(tmp_path / "base.gguf"), system)
    loaded, _ = load_system(str(system))
    assert chosen(loaded, ExportOptions(target=bound.arguments["to"])) == ("gguf", "q8_0")
