import ast
import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = (
    "batch_sizes",
    "calibration",
    "check_rows",
    "check_sets",
    "clients",
    "climb_ladder",
    "climb_sets",
    "decision_simulated",
    "evaluate_vs_llamacpp",
    "export_parity",
    "floor",
    "full_and_qlora",
    "gradient_error",
    "growth",
    "knn_prefixes",
    "label_scoring",
    "machine_limit",
    "memory",
    "rollouts",
    "same_accuracy",
    "schema_close",
    "sentence_vectors",
    "serve",
    "serve_schemathesis",
    "serve_soak",
    "shared_prefix",
    "step_memory",
    "train_gpu",
    "train_step",
    "train_vs_trl",
    "tune_recipe",
)
PARTS = (
    "check_rows_child",
    "child",
    "common",
    "made_schemas",
    "memory_stages",
    "ours_train",
    "peer_llama",
    "peer_train",
    "train_gpu_child",
)


@pytest.fixture
def script(request, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [f"{request.param}.py", "--help"])
    yield importlib.import_module(request.param)
    for name in (*SCRIPTS, *PARTS):
        sys.modules.pop(name, None)


def test_every_file_is_a_script_or_a_part_of_one():
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted((*SCRIPTS, *PARTS))


@pytest.mark.parametrize("script", SCRIPTS, indirect=True)
def test_a_script_says_how_it_is_used(script, capsys):
    with pytest.raises(SystemExit) as ending:
        script.main()
    assert ending.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS, indirect=True)
def test_a_script_stands_in_the_table_of_the_read_me(script):
    assert f"`{script.__name__}.py`" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_script_takes_from_rung_is_there(script):
    """`--help` loads nothing heavy: an import inside a function would be missed by it."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rung":
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}")
