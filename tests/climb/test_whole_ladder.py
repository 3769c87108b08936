"""One climb through every rung of the ladder, each handing over to the next, from rows to the winner."""

import io
import json

import pytest
from rich.console import Console

from rung import load
from rung.climb.climb import Options, climb
from rung.report.text import show
from rung.rungs import LADDER, few_shot, reinforcing, reward_gate, tuning, workflow
from rung.rungs.optimise import Optimise
from rung.system import System
from tests.fixtures_climb import TOPICS, Log, json_rows, make_tiny_gguf, preferred, write_rows
from tests.fixtures_hosted import KEY, PRICES, Hosted, as_asked, unlabelled

ROWS, DEV_ROWS = 250, 24
"""Of which 50 are test rows."""
ON_TOP_OF_SFT = {"preference", "reinforce"}
DOCUMENTS = "\n\n".join(f"{topic}: words about it are {', '.join(words)}." for topic, words in TOPICS.items())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    tiny = make_tiny_gguf(folder / "tiny.gguf", context=2048)
    with pytest.MonkeyPatch.context() as patch, Hosted(as_asked) as server:
        patch.setenv("RUNG_API_KEY", KEY)
        patch.setattr(few_shot, "NEIGHBOURS", (4,))
        patch.setattr(workflow, "SAMPLES", (3,))
        patch.setattr(workflow, "THOUGHT_TOKENS", 16)
        ladder = [Optimise(metric_calls=60) if isinstance(rung, Optimise) else rung for rung in LADDER]
        patch.setattr("rung.climb.options.LADDER", tuple(ladder))
        patch.setattr(tuning, "MOST_EPOCHS", 5)
        patch.setattr(reinforcing, "MOST_STEPS", 10)
        patch.setattr(reinforcing, "PROMPTS", 2)
        patch.setattr(reward_gate, "MOST_PROMPTS", 30)
        write_rows(folder / "rows.jsonl", preferred(json_rows(ROWS)))
        write_rows(folder / "free.jsonl", [{"input": e.input} for e in unlabelled()])
        (folder / "about.txt").write_text(DOCUMENTS)
        task = {
            "name": "topics",
            "data": {"train": "rows.jsonl", "unlabelled": "free.jsonl", "documents": "about.txt"},
            "models": [str(tiny), server.name],
            "teacher": server.name,
            "prices": PRICES.model_dump(),
        }
        (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
        options = Options(out=folder / "run", budget_s=900, forgetting=False, dev_rows=DEV_ROWS)
        result, run = climb(folder / "task.yaml", options, Log())
        yield result, run


@pytest.mark.models
def test_every_rung_is_scored_or_skipped_for_what_the_task_is(done):
    result, _ = done
    by_name = {r.rung: r for r in result.results}
    assert set(by_name) == {rung.name for rung in LADDER}
    out = {name: r.skipped or r.failed for name, r in by_name.items() if r.dev is None}
    assert all("the output is json" in (out.pop(name) or "") for name in ("head", "distill_head"))
    gate = out.pop("reinforce", None)
    assert gate is None or "of 30 training prompts with 8 answers each" in gate
    assert out == {}


@pytest.mark.models
def test_rungs_go_on_from_those_below_them(done):
    result, run = done
    by_name = {r.rung: r for r in result.results if r.dev is not None}
    systems = {name: System.load(run / r.folder) for name, r in by_name.items()}
    for name in ON_TOP_OF_SFT & by_name.keys():
        assert by_name[name].upon == "sft"
        assert systems[name].spec.answer == systems["sft"].spec.answer
    assert by_name["workflow"].upon in by_name and by_name["api"].upon in by_name
    assert systems["distill"].adapter is not None and by_name["distill"].spent_usd > 0
    assert {name: system.digest for name, system in systems.items()} == {
        name: r.system for name, r in by_name.items()
    }


@pytest.mark.models
def test_what_the_rungs_found_is_shown_and_the_winner_answers(done):
    result, run = done
    out = io.StringIO()
    show(result, Console(file=out, width=100), run)
    shown = " ".join(out.getvalue().split())
    assert "Found by retrieval" in shown and "Found by distill" in shown and "Found by workflow" in shown
    assert "calls per answer: " in shown and "the teacher scores " in shown
    assert result.decision.chosen is not None and result.openings == 1
    with load(run / "winner") as answer:
        assert set(answer("my password is locked again")) == {"topic", "first"}
