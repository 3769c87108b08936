import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rung.engines import lora
from rung.engines.base import EngineSpec
from rung.engines.layout import ROUND
from rung.engines.packed import packed
from rung.threads import SPIN_COUNT, WAIT_POLICY
from rung.training.batches import Row
from rung.training.loop import packed_loss
from tests.fixtures_tiny import tiny, tiny_folder

aten = torch.ops.aten
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
    "forecasts",
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
    "weight_types",
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


class Products(TorchDispatchMode):
    """Counts the operations of matrix products, but for batched ones: those are attention's."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kind = func.overloadpacket
        if kind in (aten.mm, aten.addmm, aten.addmm_):
            left, right = args[-2:]
            self.operations += 2 * left.numel() * right.shape[1]
        elif kind is aten.linear:
            self.operations += 2 * args[0].numel() * len(args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("script", ["train_step"], indirect=True)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_operations_of_a_training_step_are_those_that_are_done(script, kind):
    model = tiny(kind)
    lora.attach(model, rank=4, alpha=8, seed=1)
    made = packed(model)
    rows = [Row(prompt=(5, 9, 3 + n, 7, 4, 6), answer=(8, 2, n)) for n in range(2 * ROUND // 8)]
    with Products() as products:
        torch.autograd.grad(packed_loss(made, rows), lora.parameters(model))
    places = 3 * len(rows)
    own = script.added_operations(model, 2 * ROUND, places)
    assert products.operations == script.operations(model, 2 * ROUND, places) + own
    assert 0 < own < products.operations


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("script", ["label_scoring"], indirect=True)
@pytest.mark.parametrize(
    ("labels", "nodes"), [([(5,), (6,), (7,)], [3]), ([(5, 6, 0), (5, 7, 0), (8, 0)], [2, 2])], ids=str
)
def test_the_operations_of_choosing_labels_are_those_that_are_done(
    script, labels, nodes, tmp_path, one_thread
):
    folder = tiny_folder(tmp_path / "tiny", tiny(dtype=torch.float32))
    engine = script.counting(EngineSpec(engine="torch", weights=folder, context=128, threads=1))
    prompts = [(9 + n, 5, 3, 7, 4, 6, 11, 13) for n in range(2 * ROUND // 8)]
    engine.choose(prompts[:1], labels)
    engine.weighed.clear()
    with Products() as products:
        found = engine.choose(prompts, labels, exhaustive=True)
    assert sorted(engine.weighed) == sorted(nodes * len(prompts))
    read = sum(choice.evaluated_tokens for choice in found)
    assert read == 2 * ROUND + (len(nodes) - 1) * len(prompts)
    assert products.operations == script.operations(engine, read)
    engine.close()


def test_every_script_may_name_the_machine_before_it_takes_all_cores():
    """The machine's line loads torch, whose threads have to be told beforehand to sleep while they wait."""
    told = "from common import print_machine, use_all_cores; print_machine(); use_all_cores()"
    environment = {k: v for k, v in os.environ.items() if k not in (WAIT_POLICY, SPIN_COUNT)}
    done = subprocess.run(
        [sys.executable, "-c", told],
        cwd=FOLDER,
        env={**environment, "PYTHONPATH": str(FOLDER.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "torch " in done.stdout, done.stderr
