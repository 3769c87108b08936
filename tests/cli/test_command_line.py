"""The command `rung` as users meet it: arguments, output and an exit status.

A process of its own is asked where a start, the streams or the exit is what counts; of each command one is.
"""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter

import rung
from rung.cli import commands, main
from rung.models.catalog import entry_named
from rung.models.offered import OFFERED
from rung.records import Climb
from tests.fixtures_tagged import make_head

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from climb_fixture import synthetic_climb

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "sklearn",
    "scipy",
    "numpy",
    "pydantic",
    "altair",
    "pandas",
    "httpx",
    "jinja2",
)


def run(*arguments, folder, python=("-m", "rung")):
    return subprocess.run(
        [sys.executable, *python, *arguments],
        cwd=folder,
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"},
        check=False,
    )


@dataclass(frozen=True)
class Done:
    """How a command ended that ran in this process."""

    returncode: int
    stdout: bytes
    stderr: bytes


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    """Run a command in this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")

    def ran(*arguments):
        status = main.run(arguments)
        said = capfd.readouterr()
        return Done(status, said.out.encode(), said.err.encode())

    return ran


def error_line(done):
    """The one line that a user's mistake is answered with."""
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert said.startswith("error: ") and said.count("\n") == 1
    assert done.stdout == b""
    return said


@pytest.fixture
def finished(tmp_path):
    """A folder with one finished run in runs/, made from the synthetic climb."""
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    (folder / "climb.json").write_bytes(TypeAdapter(Climb).dump_json(synthetic_climb()))
    return tmp_path


def test_help_lists_the_commands_and_where_to_start(tmp_path):
    done = run("--help", folder=tmp_path)
    text = done.stdout.decode()
    assert done.returncode == 0
    assert all(f" {name} " in text for name in ("init", "climb", "report", "ask", "export", "models"))
    assert "Start with `rung climb FILE`" in text


@pytest.mark.parametrize("command", ["init", "climb", "report", "ask", "export", "models"])
def test_each_command_explains_itself_with_an_example(command, here):
    text = here(command, "--help").stdout.decode()
    assert f"Example: rung {command} " in text


def test_help_loads_no_heavy_package(tmp_path):
    script = (
        "import sys; from rung.cli.main import run; status = run(['--help']); "
        f"print('loaded', status, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    text = run(folder=tmp_path, python=("-c", script)).stdout.decode()
    assert text.splitlines()[-1] == "loaded 0 []"


def test_the_version_is_that_of_the_package(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert run("--version", folder=tmp_path).stdout.decode() == f"{project['version']}\n"
    assert rung.__version__ == project["version"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "frob"),
        (["climb"], "TASK"),
        (["climb", "rows.jsonl", "--frob"], "--frob"),
        (["climb", "rows.jsonl", "--budget", "3d"], "--budget '3d'"),
        (["climb", "rows.jsonl", "--dev-rows", "many"], "many"),
        (["climb", "rows.jsonl"], "rows.jsonl"),
        (["report", "nowhere"], "nowhere does not exist"),
        (["report"], "rung climb TASK"),
        (["ask", "nowhere", "hello"], "nowhere"),
        (["export", "nowhere", "--to", "gguf", "--out", "x"], "no System at 'nowhere'"),
        (["export", "nowhere", "--to", "pdf", "--out", "x"], "pdf"),
        (["export", "nowhere", "--to", "gguf"], "--out"),
        (["models", "--fetch", "smollm"], "smollm2-135m"),
        (
            ["models", "--fetch", "~nobody-here/x.gguf"],
            "no model '~nobody-here/x.gguf': there's no such file",
        ),
        (["compare", "~nobody-here/x", "y"], "nor is it a run, RUN:RUNG or a model"),
        (["climb", "a text that was pasted " * 20], "File name too long"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, said, here):
    assert said in error_line(here(*arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["climb", "rows.jsonl"], "rows.jsonl"),
        (["compare", "nowhere", "y"], "nor is it a run, RUN:RUNG or a model"),
        (["export", "nowhere", "--to", "gguf", "--out", "x"], "no System at 'nowhere'"),
    ],
)
def test_a_mistake_is_the_only_thing_that_a_process_says(arguments, said, tmp_path):
    assert said in error_line(run(*arguments, folder=tmp_path))


def test_the_newest_report_is_shown_again(finished):
    done = run("report", folder=finished)
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    assert synthetic_climb().decision.sentence in " ".join(text.split())
    assert "rung ask runs/demo/winner" in text


def test_the_page_is_written_where_it_is_wanted(finished, here):
    done = here("report", "runs/demo", "--html", "out/page.html")
    assert done.returncode == 0, done.stderr.decode()
    page = (finished / "out" / "page.html").read_text(encoding="utf-8")
    assert synthetic_climb().decision.sentence.replace("<", "&lt;") in page
    assert "rung ask runs/demo/winner" in page


def test_a_damaged_climb_is_the_users_to_mend(finished, here):
    (finished / "runs" / "demo" / "climb.json").write_text('{"task": 1}')
    assert "climb.json" in error_line(here("report"))


def test_a_name_that_is_no_utf_8_is_a_mistake_too(tmp_path, here):
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text('{"input": "a", "output": "b"}\n')
    asked = run("check", b"caf\xe9.jsonl", folder=tmp_path)
    for done in (asked, here("check", "rows.jsonl", "--fix", os.fsdecode(b"caf\xe9"))):
        assert "udce9" in (said := error_line(done))
        assert "isn't UTF-8; rename that file or folder" in said


@pytest.mark.parametrize("argument", ["models", "--version"])
def test_a_reader_that_has_left_gets_no_complaint(argument, finished):
    left, output = os.pipe()
    os.close(left)
    with os.fdopen(output, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "rung", argument],
            cwd=finished,
            stdout=gone,
            stderr=subprocess.PIPE,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


def run_redirected(redirections, *arguments, folder, **environment):
    """The command with its streams sent elsewhere by a shell."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "rung", *arguments],
        cwd=folder,
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environment},
        check=False,
    )


@pytest.mark.parametrize("argument", ["report", "--version"])
def test_without_an_output_a_command_ends_as_with_one(argument, finished):
    done = run_redirected(">&-", argument, folder=finished)
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_streams_a_mistake_is_one_still(finished):
    done = run_redirected("<&- 2>&-", "report", "nowhere", folder=finished)
    assert (done.returncode, done.stdout) == (2, b"")
    make_head(finished / "head")
    done = run_redirected("<&-", "ask", "head", "-", folder=finished)
    assert "the text is empty" in error_line(done)


def test_a_context_may_begin_with_a_hyphen(tmp_path, here):
    make_head(tmp_path / "head")
    done = here("ask", "head", "- one", "--context", "--- a list")
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
@pytest.mark.parametrize("argument", ["report", "--version"])
def test_an_output_that_is_full_is_the_users_to_mend(argument, finished):
    said = error_line(run_redirected(">/dev/full", argument, folder=finished))
    assert (
        said == "error: can't write the output, or a file: No space left on device; mend that and try again\n"
    )


def test_what_the_encoding_of_the_output_lacks_is_written_as_its_escape(finished):
    done = run_redirected("", "report", folder=finished, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode("latin-1")
    assert "Ship sft: 6.9 points better" in text and r".899\u2013.956" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["climb", "x"], "interrupted; the same command resumes\n"), (["report", "x"], "interrupted\n")],
)
def test_an_interrupt_says_how_to_go_on_where_one_can(arguments, said, here, monkeypatch):
    def stuck(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commands, "seconds", stuck)
        patch.setattr(Path, "is_file", stuck)
        done = here(*arguments)
    assert done.returncode == 130
    assert done.stderr.decode() == said


def test_a_fault_of_its_own_shows_where_it_happened(tmp_path):
    script = (
        "import sys; from rung.cli import main\n"
        "@main.app.command\n"
        "def broken(): raise ZeroDivisionError('its own')\n"
        "main.main(['broken'])"
    )
    done = run(folder=tmp_path, python=("-c", script))
    assert done.returncode == 1
    assert "Traceback" in done.stderr.decode() and "its own" in done.stderr.decode()


def test_models_are_listed_with_size_and_licence_and_which_were_not_tried(tmp_path):
    text = run("models", folder=tmp_path).stdout.decode()
    line = next(line for line in text.splitlines() if line.startswith("smollm2-135m"))
    assert "98 MB" in line and "apache-2.0" in line
    text = " ".join(text.split())
    assert "whoever gets the model or a tune of it must be bound by the terms too" in text
    assert text.count("Not tried here.") == len(OFFERED)


def test_one_model_is_told_of_whole(here):
    text = " ".join(here("models", "functiongemma-270m").stdout.decode().split())
    assert "unsloth/functiongemma-270m-it-GGUF" in text and "google/functiongemma-270m-it" in text
    assert "32,768 tokens" in text and "It is asked and tuned in the form of call that it was taught" in text
    assert "Tried by us no" in text and "to be accepted" in text
    ours = " ".join(here("models", "smollm2-135m").stdout.decode().split())
    assert "Tried by us yes" in ours and "plain ChatML is used instead" in ours
    assert "nearest: smollm2" in error_line(here("models", "smollm"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llama-3.2-1b", "yes"),
        ("smollm2-135m", "yes"),
        ("qwen3.5-0.8b", "no: not all of its layers are attention"),
        ("minilm-l6", "no: it makes vectors of texts"),
    ],
)
def test_whether_a_model_can_be_tuned_is_told(here, name, said):
    text = " ".join(here("models", name).stdout.decode().split())
    assert f"Can be tuned {said} Licence" in text


def test_weights_in_an_installed_wheel_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    model = entry_named("smollm2-135m")
    assert model is not None
    for source in (source for file in model.files for source in file.sources):
        info = tmp_path / f"{source.package.replace('-', '_')}-{source.version}.dist-info"
        info.mkdir(exist_ok=True)
        facts = f"Metadata-Version: 2.1\nName: {source.package}\nVersion: {source.version}\n"
        (info / "METADATA").write_text(facts)
        (tmp_path / source.member).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source.member).write_text("")
    text = run("models", folder=tmp_path).stdout.decode()
    line = next(line for line in text.splitlines() if line.startswith("smollm2-135m"))
    assert line.split()[:5] == ["smollm2-135m", "98", "MB", "apache-2.0", "yes"]


def test_the_public_names_exist_and_are_sorted():
    assert rung.__all__ == sorted(rung.__all__)
    assert all(hasattr(rung, name) for name in rung.__all__)
    with pytest.raises(AttributeError, match="no attribute 'frob'"):
        rung.__getattr__("frob")


def test_importing_the_package_stays_light(tmp_path):
    script = f"import sys, rung; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run(folder=tmp_path, python=("-c", script)).stdout == b"[]\n"


def test_loading_what_is_no_system_says_so(tmp_path):
    with pytest.raises(rung.RungError, match="no System at"):
        rung.load(tmp_path)


def test_the_json_answer_holds_everything_that_was_measured():
    from rung.cli.answers import as_json, as_line
    from rung.records import Answer

    answer = Answer(
        text="refund",
        value="refund",
        probability=0.9,
        options=(("refund", 0.9), ("other", 0.1)),
        latency_s=0.0123456789,
    )
    assert json.loads(as_json(answer)) == {
        "answer": "refund",
        "text": "refund",
        "probability": 0.9,
        "raw_probability": None,
        "options": [{"answer": "refund", "probability": 0.9}, {"answer": "other", "probability": 0.1}],
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "latency_s": 0.012346,
    }
    assert as_line(Answer(text="{'a'", value=None)) == "{'a'"
    assert as_line(Answer(text="", value={"b": 1, "a": "é"})) == '{"a": "é", "b": 1}'
    assert "\x1b" not in as_line(Answer(text="\x1b[2J", value=None))


CHECKED = [
    {"input": f"{word} {number} {word[::-1]}", "output": label}
    for number, (word, label) in enumerate(
        zip("parcel invoice password courier refund account".split() * 20, "abcabc" * 20, strict=True)
    )
]


def test_check_says_what_it_found_and_leaves_a_report(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHECKED))
    done = run("check", "rows.jsonl", "--models", str(tmp_path / "no.gguf"), folder=tmp_path)
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert "Nothing blocks a climb" in said and "Left out" in said and "serving_render" in said
    (folder,) = (tmp_path / "runs").iterdir()
    report = json.loads((folder / "data_report.json").read_text())
    assert report["parts"][0][0] == "train" and len(report["signature"]) == 64
    assert "<script" not in (folder / "data_report.html").read_text()


def test_check_ends_with_2_where_something_blocks_unless_it_is_accepted(tmp_path, here):
    lines = [json.dumps(row) for row in CHECKED]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "{broken"]))
    done = here("check", "rows.jsonl", "--models", "no.gguf")
    assert done.returncode == 2 and b"broken_rows" in done.stdout
    assert b"rows.jsonl:121" in done.stderr and b"--accept broken_rows" in done.stderr
    done = here("check", "rows.jsonl", "--models", "no.gguf", "--accept", "broken_rows", "--out", "o")
    assert done.returncode == 0 and json.loads((tmp_path / "o" / "data_report.json").read_text())["accepted"]
    assert "no check has that name" in error_line(here("check", "rows.jsonl", "--accept", "nothing"))


def test_check_writes_a_mended_copy(tmp_path, here):
    lines = [json.dumps(row) for row in [*CHECKED, CHECKED[0]]]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "{broken"]))
    done = here("check", "rows.jsonl", "--fix", "mended")
    assert done.stdout.decode() == (
        "mended: kept train.jsonl 120 rows; set aside broken_rows 1 row, repeats 1 row (set_aside.jsonl)\n"
    )
    assert "isn't an empty folder" in error_line(here("check", "rows.jsonl", "--fix", "mended"))


def test_rows_cannot_be_shown_without_the_model(tmp_path, here):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHECKED))
    said = error_line(here("check", "rows.jsonl", "--show", "2", "--models", "no.gguf"))
    assert "isn't on this machine" in said
