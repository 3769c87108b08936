"""Whole climbs by style with a judge of content: what is said and paid, and which answers count."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rung.checks.rows import prepare
from rung.climb.climb import Options, climb
from rung.climb.curve import _as_scored_now, _Point
from rung.climb.hosted import PAID_FILE
from rung.climb.sheet import SheetOptions, write_sheet
from rung.climb.stored import CLIMB_FILE
from rung.compare.compare import CompareOptions, compare
from rung.content import content_kept
from rung.errors import RunError, TaskError
from rung.evaluate import OTHER_CONTENT, embed_in
from rung.judging.content import LEAST_RIGHT, PLANTED_ROWS
from rung.records import Answer, Climb, CurvePoint, Interval
from rung.report.html import write_report
from rung.report.summary import facts
from rung.scoring.notation import percent_text
from rung.system import Pool
from rung.task import load_task
from tests.climb.test_judging import options, scored_rows
from tests.fixtures_climb import Log, make_tiny_gguf
from tests.fixtures_hosted import Hosted
from tests.fixtures_judge import compared, content_verdict, in_style, is_judging, judged_task

pytestmark = pytest.mark.models
PAGE = (Path(__file__).parents[2] / "docs" / "style.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True, scope="module")
def environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_API_KEY", "sk-test")
        patch.setattr("rung.engines.endpoint.BACKOFF_S", 0.01)
        yield


@dataclass(frozen=True)
class Done:
    """A climb with a good judge, and what the server saw of it."""

    task: Path
    run: Path
    result: Climb
    server: Hosted
    seen: list[dict]
    log: Log

    @property
    def asked(self) -> dict[tuple[str, str, str], str]:
        """What the judge was shown, and what it has to have said of it."""
        texts = [body["messages"][-1]["content"] for body in self.seen if is_judging(body)]
        return {compared(text): content_verdict(text) for text in texts}


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("done")
    with Hosted(in_style) as server:
        task, log = judged_task(folder / "task", tiny, server, metric="style"), Log()
        result, run = climb(task, options(folder / "run"), log)
        yield Done(task, run, result, server, list(server.seen), log)


def test_an_answer_counts_where_the_vectors_and_the_judge_find_that_it_keeps_its_content(done):
    """Worked out apart from the climb, from what its System wrote and what the judge was shown."""
    rows, seen = {e.id: e for e in scored_rows(done.run)}, set()
    with Pool() as pool:
        for result in done.result.results:
            for found in (result.dev, result.test):
                assert found is not None
                mine = [rows[one.example_id] for one in found.predictions]
                plain = [
                    Answer(text=p.answer.text, value=p.answer.text.strip() or None) for p in found.predictions
                ]
                near, _ = content_kept(mine, plain, embed_in(done.run, pool))
                lost = 0
                for row, alone, one in zip(mine, near, found.predictions, strict=True):
                    text, wanted = one.answer.text.strip(), str(row.output)
                    asked = done.asked.get((f"{row.context}\n\n{row.input}", wanted, text))
                    word = None if text == wanted else asked
                    if alone.value is not None:
                        assert word is not None or text == wanted, "asked of all that the vectors let through"
                        lost += word == "other"
                        seen.add(word)
                    kept = alone.value if word != "other" else None
                    assert one.answer.value == kept and one.answer.failure is None
                assert dict(found.secondary)[OTHER_CONTENT] == pytest.approx(lost / len(mine))
    assert seen == {None, "same", "other", "maybe"}
    assert sum(text == wanted for _, wanted, text in done.asked) == PLANTED_ROWS, "the trial's alone"


def test_what_it_costs_and_that_it_can_judge_is_said_before_anything_is_built(done):
    price, trial = (line for line in done.log.lines if line.startswith("judge "))
    assert "for one System's answers to 54 dev rows if the sentence vectors keep all of them" in price
    assert (
        f"for {2 * PLANTED_ROWS} planted texts, at 16 tokens a verdict" in price
        and "of $1 were paid" in price
    )
    assert "of 10 planted pairs of unrelated outputs it tells 10 apart" in trial
    built = next(n for n, line in enumerate(done.log.lines) if line.startswith("prompt: about"))
    assert done.log.lines.index(price) < done.log.lines.index(trial) < built
    bodies = [body for body in done.seen if is_judging(body)]
    assert len({json.dumps(body, sort_keys=True) for body in bodies}) == len(bodies)
    judged = done.result.content_judged
    assert judged is not None and done.result.judged is None
    # The question that it was asked for its name comes to these.
    assert judged.texts + judged.broken + 2 * PLANTED_ROWS + 1 == len(bodies)
    outputs = {"2", "two", *(str(row.output) for row in scored_rows(done.run))}
    words = [word for (_, _, text), word in done.asked.items() if text not in outputs]
    assert judged.broken == words.count("maybe") > 0 and judged.other == words.count("other") > 0
    lines = [json.loads(line) for line in (done.run / PAID_FILE).read_text().splitlines()]
    paid = sum(line["usd"] for line in lines if line["model"] == "judge")
    assert judged.paid_usd == pytest.approx(paid) and paid > 0


def test_the_report_tells_how_often_the_judge_and_the_vectors_differ(done):
    terms, judged = dict(facts(done.result)), done.result.content_judged
    assert judged is not None
    told = terms["Judge of content"]
    assert told.startswith(f"openai:judge@{done.server.url} (") and "; paid $" in told
    assert (
        f"asked of {judged.texts} answers that the sentence vectors let through: {judged.other} say" in told
    )
    assert f"no verdict on {judged.broken} more" in told and "planted pairs" in told
    (found,) = [r.test or r.dev for r in done.result.results if r.rung == "api"]
    assert found is not None
    share = dict(found.secondary)[OTHER_CONTENT]
    assert share > 0.05
    assert f"takes {percent_text(share)} of its {found.n} {found.split} answers" in terms["Content of api"]
    write_report(done.result, done.run / "page.html")
    page = (done.run / "page.html").read_text(encoding="utf-8")
    assert "Other content is the share of answers" in page and "Judge of content" in page
    with pytest.raises(RunError, match="scored by style, not by a judge: there is nothing to check"):
        write_sheet(done.run, SheetOptions(out=done.run / "sheet.jsonl"))


def test_a_climb_that_was_cut_off_asks_the_judge_nothing_again(done):
    before, kept = len(done.server.seen), (done.run / CLIMB_FILE).read_bytes()
    (done.run / CLIMB_FILE).unlink()
    for folder in (done.run / "rungs").iterdir():
        (folder / "result.json").unlink()
    again, _ = climb(done.task, options(done.run), Log())
    assert len(done.server.seen) == before
    assert [r.dev and r.dev.score for r in again.results] == [
        r.dev and r.dev.score for r in done.result.results
    ]
    assert again.content_judged == done.result.content_judged
    (done.run / CLIMB_FILE).write_bytes(kept)
    finished, _ = climb(done.task, options(done.run), log := Log())
    assert "nothing was run again" in log.text and finished.content_judged == done.result.content_judged


def test_a_comparison_scores_by_the_same_judge_and_asks_nothing_anew(done):
    before = len(done.server.seen)
    found = compare(f"{done.run}:prompt", f"{done.run}:api", CompareOptions(), Log())
    assert len(done.server.seen) == before
    scores = [r.dev.score for r in done.result.results if r.dev is not None]
    assert [found.first.measurement.score, found.second.measurement.score] == scores
    assert found.trust is None
    (said,) = [note for note in found.notes if note.startswith("content is judged by openai:judge@")]
    lost = [round(dict(one.measurement.secondary)[OTHER_CONTENT] * 54) for one in (found.first, found.second)]
    assert f"took out {lost[0]} of A's 54 answers and {lost[1]} of B's 54 answers" in said and lost[1] > 0


def test_a_judge_named_anew_takes_up_no_scores_that_were_made_without_it(done):
    task = json.loads(done.task.read_text())
    for judge in (None, {"model": "openai:another"}):
        other = {key: value for key, value in task.items() if key != "judge"} | (
            {"judge": judge} if judge else {}
        )
        file = done.task.with_name("other.yaml")
        file.write_text(json.dumps(other), encoding="utf-8")
        with pytest.raises(RunError, match="judge"):
            climb(file, options(done.run), Log())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"limits": {"api_usd": 0.02}}, "judging one System alone would cost about"),
        ({"prices": None}, "the price of openai:judge@"),
        ({"judge": {"model": "openai:rival"}}, "is of one family"),
    ],
)
def test_a_judge_that_may_not_or_cannot_judge_ends_a_climb_before_anything_is_built(
    keys, said, tiny, tmp_path
):
    with Hosted(in_style) as server:
        task = judged_task(tmp_path / "task", tiny, server, metric="style", **keys)
        run = options(tmp_path / "run")
        with pytest.raises(TaskError, match=said):
            climb(task, run, Log())
        assert len(server.seen) <= 1 and not (tmp_path / "run" / "rungs").exists()


def test_a_local_judge_that_is_too_small_ends_a_climb_before_anything_is_built(tiny, tmp_path):
    """Other weights than those that answer, which are the same bytes whatever the file is called."""
    judge = make_tiny_gguf(tmp_path / "judge.gguf", context=4096)
    with Hosted(in_style) as server:
        task = judged_task(tmp_path / "task", tiny, server, metric="style", judge={"model": str(judge)})
        run = replace(Options(), out=tmp_path / "run", rungs=("prompt",), budget_s=600)
        with pytest.raises(TaskError, match=r"takes \d+ of 10 .*take the judge out"):
            climb(task, run, Log())
        assert not (tmp_path / "run" / "rungs").exists()


def test_the_page_shows_what_the_program_takes_and_has_its_numbers(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2 and PAGE.count("```") == 4
    (tmp_path / "task.yaml").write_text("data: {train: rows.jsonl}\n" + "".join(blocks))
    task = load_task(tmp_path)
    assert task.metric == "style" and task.judge is not None
    text = " ".join(PAGE.split())
    assert (PLANTED_ROWS, LEAST_RIGHT) == (10, 0.8)
    assert "outputs of ten dev rows" in text and "right on eight of ten both times" in text
    assert f"`{OTHER_CONTENT}`, beside each score" in text


def test_a_run_that_is_gone_on_with_has_scores_as_they_are_worked_out_now(done, tmp_path):
    """An earlier version took one draw of folds: its scores would stand beside those of twenty."""
    run = Path(shutil.copytree(done.run, tmp_path / "run"))
    (run / CLIMB_FILE).unlink()
    for path in sorted(run.glob("rungs/*/result.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept["dev"] |= {"score": 0.123, "interval": {"low": 0.1, "high": 0.2, "level": 0.95}}
        for one in kept["dev"]["predictions"]:
            one["score"] = 0.5
        path.write_text(json.dumps(kept), encoding="utf-8")
    asked = len(done.server.seen)
    result, _ = climb(done.task, options(run), Log())
    for found, first in zip(result.results, done.result.results, strict=True):
        assert found.dev == first.dev and found.rung == first.rung
    assert len(done.server.seen) == asked, "the answers are those that were kept"


def test_a_kept_point_of_a_curve_is_scored_as_those_to_come(done):
    first = done.result.results[0]
    assert first.dev is not None
    context: Any = SimpleNamespace(dev=prepare(done.task, options(done.run)).splits.dev)
    low = Interval(low=0.1, high=0.2)
    shown = CurvePoint(rows=30, score=0.123, interval=low, n=first.dev.n, seconds=1.0)
    kept = _Point(shown=shown, dev=replace(first.dev, score=0.123, interval=low))
    found = _as_scored_now(kept, context)
    assert (found.dev, found.shown.score, found.shown.interval) == (
        first.dev,
        first.dev.score,
        first.dev.interval,
    )
