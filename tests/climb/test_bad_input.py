"""What users get wrong: exit status 2, one line that says what, where and the way out, and nothing lost."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rung.checks.rows import FEWEST_LEFT
from rung.cli.main import run
from rung.climb.climb import Options, climb, load_climb
from rung.evaluate import FEWEST_PACED
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from rung.rungs import tuning
from tests.fixtures_climb import Log, label_rows, text_rows, write_rows
from tests.fixtures_disk import little_room

ROOT = Path(__file__).parents[2]
GOOD = label_rows(60)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines(*rows) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def refused(capsys, *arguments) -> str:
    """The one line that a climb is refused with."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert run(["climb", *map(str, arguments)]) == 2
    after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert after == before, "something was written"
    printed = capsys.readouterr()
    last = printed.err.rstrip("\n").split("\n")[-1]
    assert last.startswith("error: ") and "error:" not in printed.err.removesuffix(last + "\n")
    assert printed.out == ""
    return last


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"rows\.jsonl: the file is empty; name one"),
        (
            lines(*GOOD[:3], b'{"input": "caf\xe9"}\n'),
            r"rows\.jsonl:4: not UTF-8 at byte .* save the",
        ),
        (lines(*GOOD[:4], b'{"input": "a", \n'), r"rows\.jsonl:5: broken JSON at column .* correct the row"),
        (
            lines(*GOOD[:2], {"messages": [{"role": "user", "content": "a"}]}),
            r"rows\.jsonl:3: this row is written as chat .* but rows\.jsonl:1 as io",
        ),
        (
            lines(*GOOD[:5], {"input": "no answer"}),
            r"rows\.jsonl:6: 'output' is missing or empty; fill",
        ),
        (lines(*GOOD[:5], {"input": " ", "output": "x"}), r"rows\.jsonl:6: input is empty"),
        (lines(*({**row, "output": "billing"} for row in GOOD)), r"every row has the output 'billing'; add"),
        (lines(*GOOD[:19]), r"rows\.jsonl: 19 rows; a climb needs at least 20"),
        (lines({"question": 1}), r"rows\.jsonl:1: no known columns among \['question'\]; accepted: "),
    ],
)
def test_rows_that_cannot_be_used_are_named_with_file_and_line(content, said, capsys):
    Path("rows.jsonl").write_bytes(content)
    assert re.search(said, refused(capsys, "rows.jsonl", "--rungs", "prompt"))


def test_rows_of_which_too_few_are_left_to_choose_by_are_named_with_the_way_out(capsys):
    groups = ["a"] * 18 + ["b"] * 3 + ["c"] * 3
    rows = [row | {"group": group} for row, group in zip(GOOD[:24], groups, strict=True)]
    write_rows(Path("rows.jsonl"), rows)
    said = refused(capsys, "rows.jsonl", "--rungs", "prompt")
    assert re.search(r"rows\.jsonl: of 24 rows [0-3] are left to choose by: .* of more groups", said)
    assert FEWEST_LEFT == FEWEST_PACED


def test_twenty_rows_are_enough_to_begin(tiny):
    data = write_rows(Path("rows.jsonl"), GOOD[:20])
    result, _ = climb(data, Options(models=(str(tiny),), rungs=("prompt",)), Log())
    assert result.decision.kind == "no_verdict"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "smolm2-135m"], r"no model 'smolm2-135m': .* \(nearest: smollm2-135m"),
        (["--models", "weights/here.gguf"], r"no model 'weights/here\.gguf'"),
        pytest.param(
            ["--models", "minilm-l6"],
            "'minilm-l6' makes sentence vectors and can't write answers",
            marks=pytest.mark.models,
        ),
        (["--rungs", "promt"], "no rung is called 'promt'; did you mean 'prompt'"),
        (
            ["--rungs", "zzz"],
            "no rung is called 'zzz'; The ladder has head, prompt, few_shot, retrieval, optimise, "
            "workflow, distill_head, sft",
        ),
        (["--dev-rows", "19"], "--dev-rows 19 is too few to choose by; give at least 20"),
        (["--seed", "-1"], "--seed -1: give a whole number from 0"),
        (["--format", "xml"], "unknown data format 'xml'; choose auto, "),
        (["--test", "tset.jsonl"], r"data\.test: no such file: .*tset\.jsonl"),
        (["--out", "rows.jsonl"], "'rows.jsonl' is a file and a run is a folder; choose another place"),
        (["--out", "rows.jsonl/run"], r"can't write 'rows\.jsonl/run.*choose another place with --out"),
        (["--out", "."], "'.' isn't empty and isn't a run; choose another folder with --out"),
    ],
)
def test_a_wrong_choice_is_named_with_the_way_out(arguments, said, tiny, capsys):
    write_rows(Path("rows.jsonl"), GOOD)
    chosen = [] if "--models" in arguments else ["--models", str(tiny)]
    line = refused(capsys, "rows.jsonl", *chosen, *arguments)
    assert re.search(said, line), line


def test_an_unknown_key_of_the_task_file_is_met_with_the_nearest_one(capsys):
    write_rows(Path("rows.jsonl"), GOOD)
    Path("task.yaml").write_text("data: {train: rows.jsonl}\nmetrik: accuracy\n")
    assert "unknown key 'metrik'; did you mean 'metric'?" in refused(capsys, "task.yaml")


def test_what_each_of_several_hosted_models_asks_for_is_said(tiny):
    write_rows(Path("rows.jsonl"), GOOD)
    Path("task.yaml").write_text(f"data: {{train: rows.jsonl}}\nmodels: [{tiny}, openai:a, openai:b]\n")
    log = Log()
    result, _ = climb(Path("task.yaml"), Options(rungs=("prompt",)), log)
    (said,) = [found for found in result.findings if found.check == "models" and "hosted" in found.message]
    assert said.severity == "info" and said.message.startswith("models: 2 hosted models are compared with")
    assert "openai:a, openai:b: each is paid for on the dev rows" in said.message


def test_one_input_with_two_outputs_is_found_with_the_ceiling_it_sets(tiny):
    rows = [*GOOD, {**GOOD[0], "output": "login"}]
    log = Log()
    result, _ = climb(
        write_rows(Path("rows.jsonl"), rows), Options(models=(str(tiny),), rungs=("prompt",)), log
    )
    (found,) = [finding for finding in result.findings if finding.check == "conflicts"]
    assert "rows.jsonl:1 'billing' and rows.jsonl:61 'login'" in found.message
    assert "no system can answer more than 98.36% of all rows exactly" in found.message
    assert found.message in log.text


def long(row: dict) -> dict:
    return {**row, "input": row["input"] + " please help" * 300}


def test_rows_longer_than_the_context_are_counted_and_break_nothing(tiny, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 5)
    rows = [long(row) if i % 4 == 0 else row for i, row in enumerate(label_rows(240))]
    log = Log()
    result, _ = climb(
        write_rows(Path("rows.jsonl"), rows),
        Options(models=(str(tiny),), rungs=("prompt", "sft"), test_all=True, forgetting=False),
        log,
    )
    (found,) = [finding for finding in result.findings if finding.check == "too_long"]
    assert "rows longer than 512 tokens with their prompt and answer: " in found.message
    assert found.message in log.text
    counts = [int(word) for word in found.message.split(":")[1].replace(",", "").split() if word.isdigit()]
    assert sum(counts) == 60
    for part in result.results:
        assert part.failed is None and part.dev is not None and part.test is not None
        assert part.dev.failures + part.test.failures == counts[1] + counts[2]
        assert part.dev.n + part.dev.failures == result.n_dev
    assert any(f"{counts[0]} rows longer than 512 tokens were left out" in n for n in result.results[1].notes)


@pytest.mark.models
def test_rows_that_are_all_too_long_are_an_error_where_only_a_language_model_could_answer(tiny, capsys):
    write_rows(Path("rows.jsonl"), [long(row) for row in text_rows(60)])
    arguments = ["climb", "rows.jsonl", "--models", str(tiny)]
    assert run(arguments) == 2
    last = capsys.readouterr().err.rstrip("\n").split("\n")[-1]
    assert last.startswith("error: no rung could be built: head: a linear head gives labels or numbers")
    assert "prompt: none of the 12 dev rows fits 512 tokens with its prompt and answer; shorten" in last


def test_a_model_that_was_exchanged_is_noticed(tiny, capsys):
    model = Path("model.gguf")
    model.write_bytes(tiny.read_bytes())
    write_rows(Path("rows.jsonl"), label_rows(270))
    arguments = ["rows.jsonl", "--models", "model.gguf", "--rungs", "prompt", "--out", "run"]
    assert run(["climb", *arguments]) == 0
    capsys.readouterr()
    content = bytearray(tiny.read_bytes())
    content[-1] ^= 0xFF
    model.write_bytes(content)
    assert "'run' belongs to another climb: model is " in refused(capsys, *arguments)
    assert run(["ask", "run/winner", "my password"]) == 2
    assert "was made on " in capsys.readouterr().err


def limited(size: int):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def climbing(rung: str, tiny: Path) -> list[str]:
    """The command that climbs one rung on 200 rows, in this folder."""
    write_rows(Path("rows.jsonl"), label_rows(200))
    return [
        *("climb", "rows.jsonl", "--no-forgetting", "--dev-rows", "20"),
        *("--models", str(tiny), "--rungs", rung, "--out", "run"),
    ]


def goes_on(command: list[str], full: str, said: str, capsys) -> None:
    """What was said on the full disk names the way out; on a disk with room the same command ends well."""
    last = full.rstrip("\n").split("\n")[-1]
    assert last.startswith(f"error: can't write {said}") and "free some space" in last
    assert not Path("run/climb.json").exists()
    status, told = run(command), capsys.readouterr().err
    assert status == 0, told
    assert "going on with run" in told
    assert load_climb(Path("run")).results[0].failed is None


def test_a_full_disk_ends_the_climb_in_one_line_and_the_same_command_goes_on(tiny, capsys):
    command = climbing("prompt", tiny)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    called = [sys.executable, "-m", "rung", *command]
    full = subprocess.run(called, env=env, capture_output=True, preexec_fn=limited(4_000), check=False)
    assert full.returncode == 2, full.stderr.decode()
    goes_on(command, full.stderr.decode(), "'run/", capsys)


def test_a_disk_that_is_full_in_training_does_so_too(tiny, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 4)
    command = climbing("sft", tiny)
    dequantised(resolve(str(tiny)))  # what is trained, made before
    with little_room(100_000):
        assert run(command) == 2
    goes_on(command, capsys.readouterr().err, "the training state ", capsys)
