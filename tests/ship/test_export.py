"""`export`: each target from end to end on a very small model, what is refused, what a failed gate leaves."""

import json
import shutil
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rung.asking import prompts_for
from rung.cli import main
from rung.cli.shipping import exported_lines
from rung.climb.climb import Options, climb
from rung.errors import DataError, ModelError, RunError, RungError, TaskError
from rung.models.catalog import CATALOG
from rung.models.chat import Message, load_chat
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from rung.records import Example
from rung.ship.export import ExportOptions, chosen, export
from rung.ship.tagging import tag_system
from rung.ship.targets import GGUF_TYPES, RECIPES
from rung.spec import AnswerSpec, ShotSpec, Spec
from rung.system import Pool, System, ref_to, save
from rung.training import adapter
from rung.wording import Shot
from tests.fixtures_climb import Log, label_rows, write_rows
from tests.fixtures_ship import LABELS, make_gguf, make_tuned

ROWS, SURE_NATS = 60, 0.3
FILES = {
    "peft": {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"},
    "merged": {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
        "chat_template.jinja",
    },
    "gguf": {"topics-f16.gguf"},
    "ollama": {"topics-f16.gguf", "Modelfile"},
    "vllm": {"model/model.safetensors", "model/chat_template.jinja", "serve.sh"},
    "hub-folder": {"config.json", "model.safetensors", "chat_template.jinja"},
}


class Place:
    """A folder with a tuned System, rows that it is sure of, and a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gguf = make_gguf(folder / "base.gguf", kind="q8_0")
        self.system, rows = sure_of_its_codes(make_tuned(self.gguf, folder / "draft"), folder / "system")
        self.rows = write_rows(folder / "rows.jsonl", rows)

    def export(self, out: Path, to: str, system: System | None = None, **changes):
        options = ExportOptions(**{"target": to, "rows": self.rows, **changes})
        return export((system or self.system).folder, out, options, Log())


def sure_of_its_codes(system: System, folder: Path) -> tuple[System, list[dict]]:
    """The System with codes that its model writes by itself, as a real tune would have it, and rows for them.

    Nine in ten rows are labelled as it answers them.
    """
    rows = [Example(id=str(i), input=row["input"], output=None) for i, row in enumerate(label_rows(1500))]
    with Pool() as pool:
        assert system.spec.model is not None
        chat = pool.chat(pool.model(system.spec.model, system.folder))
        prompts = prompts_for(system.spec, chat, rows, [[] for _ in rows])
        everything = system.open(pool).next_logprobs(prompts, range(len(chat.tokens.texts)))
        counts = Counter(row.index(max(row)) for row in everything)
        words = [token for token, _ in counts.most_common() if chat.tokens.decode([token]).strip().isalpha()]
        codes = tuple(words[: len(LABELS)])
        spec = system.spec.model_copy(update={"answer": AnswerSpec(form="codes", codes=codes)})
        made = save(folder, spec, {name: system.folder / name for name in system.spec.files})
        leads = [max(row[code] for code in codes) - sorted(row)[-2] for row in everything]
        sure = [row for row, lead in zip(rows, leads, strict=True) if lead > SURE_NATS][:ROWS]
        answers = [answer.text for answer in made.answer(sure, pool)]
    assert len(sure) == ROWS
    wrong = {label: LABELS[number - 1] for number, label in enumerate(LABELS)}
    return made, [
        {"input": row.input, "output": answer if place % 10 else wrong[answer]}
        for place, (row, answer) in enumerate(zip(sure, answers, strict=True))
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def test_there_are_six_targets_and_each_is_tried():
    assert set(RECIPES) == set(FILES) and len(RECIPES) == 6


@pytest.mark.parametrize("target", RECIPES)
def test_a_target_has_its_files_passes_the_gate_and_says_all_of_it(place, tmp_path, target):
    done = place.export(tmp_path / "out", target, type="f16" if target in ("gguf", "ollama") else None)
    there = {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert there == set(done.files) and FILES[target] | {"README.md", "NOTICE", "parity.json"} <= there
    gate = done.gate
    assert gate.passed and gate.rows == ROWS and gate.prompts_same == ROWS
    assert gate.engine_after == ("llama" if target in ("gguf", "ollama") else "torch")
    kept = json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))
    assert (kept["target"], kept["system"], kept["passed"]) == (target, place.system.digest, True)
    assert kept["same"] == gate.same and kept["agreement"]["low"] == gate.agreement.low
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "**Passed.**" in page and f"{ROWS} rows" in page and "`billing`" in page
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]
    assert done.size_bytes > 10_000


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_a_gguf_of_each_type_is_loaded_and_its_size_is_told(place, tmp_path, kind):
    done = place.export(tmp_path / "out", "gguf", type=kind.upper(), force=True)
    assert (done.type, done.files[-1]) == (kind, f"topics-{kind}.gguf")
    assert done.size_bytes == (tmp_path / "out" / f"topics-{kind}.gguf").stat().st_size


def test_vllm_may_have_the_adapter_beside_the_base(place, tmp_path):
    done = place.export(tmp_path / "out", "vllm", type="adapter")
    command = (tmp_path / "out" / "serve.sh").read_text()
    assert "--enable-lora --max-lora-rank 8 --lora-modules topics=./adapter" in command
    assert "--max-model-len 512" in command and "adapter/adapter_model.safetensors" in done.files


def test_a_gguf_may_be_the_base_as_it_is_with_the_adapter_beside_it(place, tmp_path):
    from gguf import GGUFReader

    done = place.export(tmp_path / "out", "gguf", type="adapter")
    assert {"topics-base.gguf", "adapter.gguf"} <= set(done.files) and done.gate.prompts_same == ROWS
    ours, theirs = GGUFReader(tmp_path / "out" / "topics-base.gguf"), GGUFReader(place.gguf)
    assert ours.fields.keys() == theirs.fields.keys()
    changed = {key for key in ours.fields if ours.fields[key].contents() != theirs.fields[key].contents()}
    assert changed == {"general.name", "tokenizer.chat_template"}
    for one, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (one.name, one.tensor_type) == (other.name, other.tensor_type)
        assert one.data.tobytes() == other.data.tobytes()
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "llama-server -m topics-base.gguf --lora adapter.gguf" in page


def test_the_gate_sees_rows_in_the_wrong_order(place, tmp_path, monkeypatch):
    """Without llama.cpp's permutation of queries and keys the file loads, answers, and is another model."""
    monkeypatch.setattr(adapter, "PERMUTED", frozenset())
    with pytest.raises(RunError, match="doesn't answer as its System, so nothing was written: .* --force"):
        place.export(tmp_path / "out", "gguf", type="f16")
    assert list(tmp_path.iterdir()) == []
    done = place.export(tmp_path / "out", "gguf", type="f16", force=True)
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert not done.gate.passed and "**Not passed**, and exported all the same: " in page
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["faults"] == list(done.gate.faults)


def test_the_gate_sees_another_prompt(place, tmp_path, monkeypatch):
    from rung.ship.frame import Frame

    monkeypatch.setattr(Frame, "jinja", property(lambda self: "{{ messages[0]['content'] }}"))
    done = place.export(tmp_path / "out", "merged", force=True)
    assert not done.gate.passed and done.gate.prompts_same == 0
    (note,) = done.gate.notes
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"**But** {note}." in page and f"  but         {note}" in exported_lines(done)
    with pytest.raises(RunError, match="prompts aren.t the System.s own, token for token"):
        place.export(tmp_path / "other", "merged")


def test_few_rows_prove_nothing(place, tmp_path):
    with pytest.raises(RunError, match="can't be ruled out: it may be up to .* with 30 rows.*now 30"):
        place.export(tmp_path / "out", "merged", most=30)


def test_a_folder_that_holds_anything_is_left_alone(place, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(RunError, match="isn't empty"):
        place.export(tmp_path / "out", "merged")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
    (tmp_path / "file").write_text("keep")
    with pytest.raises(RunError, match="is a file"):
        place.export(tmp_path / "file", "merged")
    (tmp_path / "empty").mkdir()
    assert place.export(tmp_path / "empty", "peft").gate.passed


def prompted(place: Place, folder: Path, examples=(), **changes) -> System:
    model = resolve(str(place.gguf))
    fields = {
        "rung": "few_shot" if examples else "prompt",
        "task": "topics",
        "kind": "label",
        "labels": LABELS,
        "engine": "llama",
        "model": ref_to(model, str(place.gguf)),
        "instruction": "Say which topic it is.",
        "shots": ShotSpec(choice="fixed", k=len(examples)) if examples else ShotSpec(),
        "answer": AnswerSpec(form="words"),
        **changes,
    }
    lines = "".join(json.dumps({"input": shot.input, "output": shot.output}) + "\n" for shot in examples)
    return save(folder, Spec(**fields), {"shots.jsonl": lines} if examples else {})


@pytest.mark.parametrize("target", ["ollama", "vllm"])
def test_a_fixed_prompt_becomes_a_template_with_the_bases_own_weights(place, tmp_path, target):
    system = prompted(place, tmp_path / "system", (Shot(input="my {{ tax }}", output="billing"),))
    options = ExportOptions(target=target, rows=place.rows, force=True)
    done = export(system.folder, tmp_path / "out", options, Log())
    assert done.gate.prompts_same == ROWS
    if target == "ollama":
        assert (tmp_path / "out" / "topics-base.gguf").read_bytes() == place.gguf.read_bytes()
        assert done.gate.way in ("written", "listed")
        text = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
        assert 'SYSTEM """Say which topic it is."""' in text
    else:
        assert done.type == "bf16" and done.gate.way == "guided"
        ours = (tmp_path / "out" / "model" / "model.safetensors").read_bytes()
        assert ours == (dequantised(resolve(str(place.gguf))) / "model.safetensors").read_bytes()


@pytest.mark.parametrize("target", ["peft", "merged", "gguf", "hub-folder"])
def test_a_prompt_has_no_weights_to_export(place, tmp_path, target):
    system = prompted(place, tmp_path / "system")
    with pytest.raises(TaskError, match=f"as {target}: prompt learned no weights .*--to ollama or --to vllm"):
        chosen(system, ExportOptions(target=target))


@pytest.mark.parametrize("target", RECIPES)
def test_heads_and_examples_that_are_looked_up_are_served_by_rung_alone(place, tmp_path, target):
    head = save(
        tmp_path / "head", Spec(rung="head", task="t", kind="label", labels=LABELS, engine="head"), {}
    )
    nearest = prompted(place, tmp_path / "nearest", shots=ShotSpec(choice="nearest", k=4))
    for system, said in ((head, "linear head"), (nearest, "looked up anew")):
        with pytest.raises(TaskError, match=f"as {target}: .*{said}.*`rung serve` and rung.load") as caught:
            chosen(system, ExportOptions(target=target))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "olama"}, "--to 'olama': did you mean 'ollama'"),
        (
            {"target": "gguf", "type": "q4"},
            "--type 'q4': did you mean 'q4_0'|--type 'q4': did you mean 'q4_1'",
        ),
        ({"target": "merged", "type": "q8_0"}, "There is bf16, f32"),
        ({"target": "peft", "type": "f16"}, "There is adapter"),
        ({"target": "merged", "most": 0}, "--most 0"),
    ],
)
def test_a_wrong_choice_is_named_with_what_there_is(place, options, said):
    with pytest.raises(TaskError, match=said):
        chosen(place.system, ExportOptions(**options))


def test_every_gguf_type_is_offered_once_with_q8_0_first():
    assert GGUF_TYPES[0] == "q8_0" and len(set(GGUF_TYPES)) == len(GGUF_TYPES) == 19


def test_a_mixed_type_without_llama_cpps_program_says_how_to_get_it(place, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        TaskError, match="q4_k_m is made by .*'llama-quantize', which isn't on the PATH: get it"
    ):
        place.export(tmp_path / "out", "gguf", type="q4_k_m")
    assert list(tmp_path.iterdir()) == []


PROGRAM = """#!/bin/sh
[ "$3" = Q4_K_M ] || exit 3
{}
"""


@pytest.mark.parametrize(
    ("does", "said"), [('cp "$1" "$2"', None), ("echo no room >&2; exit 4", "exit status 4: no room")]
)
def test_a_mixed_type_is_made_by_llama_cpps_program_of_an_f16_file(place, tmp_path, monkeypatch, does, said):
    """The program is one that meets its contract: two files and a type, and exit status 0 when it's done."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "llama-quantize"
    program.write_text(PROGRAM.format(does))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    if said is not None:
        with pytest.raises(TaskError, match=said):
            place.export(tmp_path / "out", "gguf", type="q4_k_m")
        assert not (tmp_path / "out").exists()
        return
    done = place.export(tmp_path / "out", "gguf", type="q4_k_m")
    wide = place.export(tmp_path / "wide", "gguf", type="f16")
    assert "topics-q4_k_m.gguf" in done.files and not [name for name in done.files if name.startswith(".")]
    assert done.size_bytes == wide.size_bytes


def test_a_base_without_a_gguf_says_what_to_do(place, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(dequantised(resolve(str(place.gguf))), folder)
    model = resolve(str(folder))
    spec = place.system.spec.model_copy(update={"model": ref_to(model, str(folder))})
    system = save(tmp_path / "system", spec, {n: place.system.folder / n for n in place.system.spec.files})
    with pytest.raises(
        ModelError, match="--to merged and convert that with llama.cpp's convert_hf_to_gguf.py"
    ):
        place.export(tmp_path / "out", "gguf", system=system)
    assert place.export(tmp_path / "out", "merged", system=system).gate.passed


def test_a_hub_card_begins_with_front_matter_and_names_the_base_its_licence_and_the_notice(place, tmp_path):
    from rung.ship.card import notice, readme
    from rung.ship.subject import load_subject

    done = place.export(tmp_path / "out", "hub-folder")
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(page.split("---\n")[1])
    assert front["license"] == "mit" and front["library_name"] == "transformers" and "base_model" not in front
    assert str(tmp_path) not in page and str(place.folder) not in page
    with pytest.raises(TaskError, match="no hub id"):
        place.export(tmp_path / "adapter", "hub-folder", type="adapter")

    with Pool() as pool:
        subject = load_subject(place.system, pool)
        for entry in CATALOG[:2]:
            other = replace(subject, model=replace(subject.model, digest=entry.sha256))
            page = readme(other, "hub-folder", "bf16", done.gate, None, 10**6)
            front = yaml.safe_load(page.split("---\n")[1])
            assert (front["license"], front["base_model"]) == (entry.licence, entry.origin)
            assert entry.licence_note in page
            assert ("ai.google.dev/gemma/terms" in notice(other)) == (entry.licence == "gemma")


@pytest.mark.parametrize("target", ["ollama", "merged"])
def test_written_answers_are_compared_by_next_tokens_too(place, tmp_path, target):
    spec = place.system.spec.model_copy(
        update={"kind": "text", "labels": (), "answer": AnswerSpec(form="free", max_tokens=6)}
    )
    files = {name: place.system.folder / name for name in spec.files}
    system = save(tmp_path / "system", spec, files)
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"input": r["input"], "output": "yes"} for r in label_rows(50)]
    )
    kind = None if target == "merged" else "f16"
    gate = place.export(tmp_path / "out", target, system=system, rows=rows, type=kind, force=True).gate
    assert gate.tokens and gate.metric == "rouge_l" and gate.prompts_same == gate.rows == 50
    assert 20 < gate.compared <= 160 and gate.same > 0.8 * gate.compared and gate.same_answers > 25
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert (
        "next tokens inside its answers" in page
        and f"| the same answer, whole | {gate.same_answers} of 50 |" in page
    )


@pytest.mark.parametrize(
    "settings",
    [{"r": 0}, {"lora_alpha": None}, {"r": "x"}, {"peft_type": "IA3"}],
    ids=lambda s: next(iter(s)),
)
def test_an_adapter_whose_settings_make_no_sense_is_refused(place, tmp_path, settings):
    adapter_config = "adapter/adapter_config.json"
    given = json.loads((place.system.folder / adapter_config).read_text())
    files = {name: place.system.folder / name for name in place.system.spec.files}
    files[adapter_config] = json.dumps({**given, **settings})
    system = save(tmp_path / "system", place.system.spec, files)
    with pytest.raises(ModelError, match="rank and alpha|only LoRA adapters"):
        place.export(tmp_path / "out", "gguf", system=system)


def test_an_exported_adapter_names_no_code(place, tmp_path):
    """PEFT imports what `auto_mapping` of an adapter's settings names."""
    adapter_config = "adapter/adapter_config.json"
    given = json.loads((place.system.folder / adapter_config).read_text())
    files = {name: place.system.folder / name for name in place.system.spec.files}
    files[adapter_config] = json.dumps({**given, "auto_mapping": {"parent_library": "os"}})
    system = save(tmp_path / "system", place.system.spec, files)
    place.export(tmp_path / "out", "peft", system=system)
    assert "auto_mapping" not in json.loads((tmp_path / "out" / "adapter_config.json").read_text())


def test_codes_that_read_alike_are_nothing_for_ollama(place, tmp_path):
    spec = place.system.spec
    answer = spec.answer.model_copy(update={"codes": (*spec.answer.codes[:2], spec.answer.codes[1])})
    files = {name: place.system.folder / name for name in spec.files}
    system = save(tmp_path / "system", spec.model_copy(update={"answer": answer}), files)
    with pytest.raises(TaskError, match="can't be told apart as text.*--to vllm"):
        place.export(tmp_path / "out", "ollama", system=system)


@pytest.fixture(scope="module")
def run(place, tmp_path_factory) -> Path:
    """A finished climb of the prompt alone."""
    folder = tmp_path_factory.mktemp("climbed")
    rows = write_rows(folder / "tickets.jsonl", label_rows(300))
    options = Options(out=folder / "run", models=(str(place.gguf),), rungs=("prompt",), budget_s=600)
    climb(rows, options, Log())
    return folder / "run"


def test_a_system_in_a_run_is_asked_the_dev_rows_of_its_climb(run, tmp_path):
    folder = run / "rungs" / "prompt" / "system"
    options = ExportOptions(target="vllm", most=50, force=True)
    done = export(folder, tmp_path / "out", options, Log())
    assert done.gate.rows == 50 and done.gate.told == "dev rows of the climb, from tickets.jsonl"
    kept = json.loads((run / "climb.json").read_text(encoding="utf-8"))
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"`{dict(kept['digests'])['data']}`" in page and "| dev | " in page
    again = run.parent / "tickets.jsonl"
    named = export(
        folder, tmp_path / "named", ExportOptions(target="vllm", most=50, rows=again, force=True), Log()
    )
    assert named.gate.before == done.gate.before and "dev rows of the climb" in named.gate.told


def test_a_tune_that_was_exported_can_be_asked_and_a_climb_on_it_says_why_it_cannot_begin(place, tmp_path):
    place.export(tmp_path / "out", "gguf", type="f16")
    (file,) = (tmp_path / "out").glob("*.gguf")
    chat = load_chat(resolve(str(file)))
    base = load_chat(resolve(str(place.gguf)))
    asked = [Message(role="user", content=" about my bill ")]
    assert chat.end == base.end == base.tokens.eos_id
    assert chat.render(asked) == base.render(asked, style="terse")
    rows = write_rows(tmp_path / "tickets.jsonl", label_rows(300))
    options = Options(out=tmp_path / "run", models=(str(file),), rungs=("prompt",), budget_s=40)
    with pytest.raises(ModelError, match=r"leaves out turn 1 \('system'\)"):
        climb(rows, options, Log())


def test_a_tag_is_exported_with_the_rows_of_its_climb(run, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    tag_system(str(run / "rungs" / "prompt" / "system"), "topics:1.0")
    options = ExportOptions(target="vllm", most=50, force=True)
    done = export("topics:1.0", tmp_path / "out", options, Log())
    assert done.gate.rows == 50 and done.gate.told == "dev rows of the climb, from tickets.jsonl"


def test_rows_that_cannot_be_found_are_asked_for(run, place, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    folder, options = moved / "rungs" / "prompt" / "system", ExportOptions(target="vllm")
    rows = write_rows(tmp_path / "other.jsonl", label_rows(300, seed=5))
    (moved / "rows.json").write_text(json.dumps({"train": str(rows), "format": "auto"}))
    with pytest.raises(DataError, match="holds 0 of the 60 dev rows.*--rows FILE"):
        export(folder, tmp_path / "out", options, Log())
    (moved / "rows.json").write_text("[]")
    with pytest.raises(RunError, match="can't read"):
        export(folder, tmp_path / "out", options, Log())
    (moved / "rows.json").unlink()
    with pytest.raises(DataError, match="doesn't say where its rows lie; .*--rows FILE"):
        export(folder, tmp_path / "out", options, Log())
    with pytest.raises(DataError, match="lies in no finished run.*--rows FILE"):
        export(place.system.folder, tmp_path / "out", options, Log())
    with pytest.raises(RungError, match="nowhere"):
        export(
            folder,
            tmp_path / "out",
            ExportOptions(target="vllm", rows=tmp_path / "nowhere.jsonl"),
            Log(),
        )
    assert not (tmp_path / "out").exists()


def test_the_command_says_size_scores_agreement_and_verdict(place, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        "export",
        str(place.system.folder),
        "--to",
        "peft",
        "--out",
        str(out),
        "--rows",
        str(place.rows),
    ]
    assert main.run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0]
        == f"{out}: peft, adapter, {(out / 'adapter_model.safetensors').stat().st_size / 1e6:,.1f} MB"
    )
    assert lines[1] == f"accuracy on {ROWS} rows (rows of rows.jsonl)"
    assert lines[2].startswith("  before      .900 (") and lines[3].startswith("  after       .900 (")
    assert lines[4].startswith("  difference  +.000 (\N{MINUS SIGN}.0")
    assert (
        lines[5].startswith(f"  the same    {ROWS} of {ROWS} answers (") and lines[-1] == "parity gate passed"
    )
    assert main.run(arguments) == 2
    assert "isn't empty" in capsys.readouterr().err
