"""Whole climbs by a judge: what is said and paid, what people have to confirm, and what may not judge."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rung.checks.judge import FEWEST_CHECKED
from rung.checks.rows import prepare
from rung.cli.comparing import as_json
from rung.cli.main import run as command
from rung.climb import sealed
from rung.climb.again import rows_again
from rung.climb.climb import Options, climb
from rung.climb.hosted import PAID_FILE, till_for
from rung.climb.judging import agreement_text
from rung.climb.sealed import TEST_FILE
from rung.climb.sheet import SheetOptions, verdict_rungs, write_sheet
from rung.climb.stored import CLIMB_FILE, load_climb
from rung.compare.asked import Asked, asked_rows
from rung.compare.compare import CompareOptions, Wanted, compare
from rung.compare.judged import till_of
from rung.compare.sides import side
from rung.compare.words import verdict as compared_verdict
from rung.errors import EngineError, RungError, TaskError
from rung.judging import BROKE, JUDGE_FOLDER, JUDGEMENTS_FILE, tokens_written
from rung.records import Climb, Example
from rung.records.judged import Agreement
from rung.report.html import write_report
from rung.report.summary import facts
from rung.scoring.verdicts import pair_score
from tests.fixtures_climb import Log, number_rows, text_rows, write_rows
from tests.fixtures_hosted import PRICES, Hosted
from tests.fixtures_judge import is_judging, judged_task, says, verdict


@pytest.fixture(autouse=True, scope="module")
def environment(no_weights):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_API_KEY", "sk-test")
        patch.setenv("RUNG_CACHE", str(no_weights))
        patch.setattr("rung.engines.endpoint.BACKOFF_S", 0.01)
        yield


@dataclass(frozen=True)
class Done:
    """A climb that nobody checked yet, and what the server saw of it."""

    task: Path
    run: Path
    result: Climb
    server: Hosted
    seen: list[dict]
    log: Log


def options(run: Path, **changes) -> Options:
    return Options(**{"out": run, "rungs": ("prompt", "api"), "budget_s": 600, **changes})


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("done")
    with Hosted(says) as server:
        task, log = judged_task(folder / "task", tiny, server), Log()
        result, run = climb(task, options(folder / "run"), log)
        yield Done(task, run, result, server, list(server.seen), log)


def told(question: str, answer: str, wanted: str) -> float | None:
    """What an answer has to score by the judge of these tests, worked out apart from the program."""
    if answer == wanted:
        return 0.5
    frame = "=== input 0\n{}\n=== answer A 0\n{}\n=== answer B 0\n{}\n=== end 0\n"
    first, second = (verdict(frame.format(question, *both)) for both in ((answer, wanted), (wanted, answer)))
    known = first in ("A", "B", "tie") and second in ("A", "B", "tie")
    return pair_score(first, second) if known else None  # type: ignore[arg-type]


def test_every_answer_is_scored_against_its_rows_output(done):
    rows, seen = {e.id: e for e in scored_rows(done.run)}, set()
    for result in done.result.results:
        for found in (result.dev, result.test):
            assert found is not None
            for one in found.predictions:
                row = rows[one.example_id]
                wanted = told(f"{row.context}\n\n{row.input}", one.answer.text.strip(), str(row.output))
                assert one.score == wanted
                seen.add(wanted)
                if wanted is None:
                    assert (one.answer.failure or "").startswith(BROKE)
    assert seen == {None, 0.0, 0.5, 1.0}


def scored_rows(run: Path) -> tuple[Example, ...]:
    splits = rows_again(run).splits
    return (*splits.dev, *splits.test)


def test_a_judge_that_is_another_model_on_the_test_costs_no_rung_its_result(tiny, tmp_path, monkeypatch):
    count = sealed.count
    with Hosted(says) as server:
        task = judged_task(tmp_path / "task", tiny, server)

        def counted(*given) -> None:
            server.reports = "oracle-2027-01-01"
            count(*given)

        monkeypatch.setattr(sealed, "count", counted)
        with pytest.raises(EngineError, match="no rung could be scored on the test.*oracle-2027"):
            climb(task, options(tmp_path / "run", rungs=("prompt",)), Log())
    assert (tmp_path / "run" / "rungs" / "prompt" / "result.json").is_file()


def test_without_people_nothing_is_decided_and_the_sentence_says_who_judged(done):
    decision = done.result.decision
    assert (decision.kind, decision.chosen, decision.rows_needed) == ("undecided", "api", None)
    assert done.result.dev_decision.kind == "undecided"
    assert decision.sentence.startswith("Judge-only, not decided: by the judge alone, ship api: .")
    judge = f"Judged by openai:judge@{done.server.url}, in both orders, against each row's output"
    assert decision.sentence.endswith(f"{judge}: no human verdict checks it.")
    assert " of them the judge's" in decision.sentence
    assert any("nothing will be decided" in finding.message for finding in done.result.findings)
    tests = [c.decisive for c in decision.comparisons]
    assert tests and all(t is not None and t.better > 10 > t.worse and t.p < 0.01 for t in tests)


def test_its_price_is_told_before_and_after_and_everything_is_in_the_till(done):
    (said,) = [line for line in done.log.lines if line.startswith("judge ")]
    assert "for one System's answers to 54 dev rows in both orders" in said and "of $1 were paid" in said
    assert done.log.lines.index(said) < next(
        n for n, line in enumerate(done.log.lines) if line.startswith("prompt: about")
    )
    judging = [body for body in done.seen if is_judging(body)]
    keys = [json.dumps(body, sort_keys=True) for body in judging]
    assert len(keys) == len(set(keys))
    lines = [json.loads(line) for line in (done.run / PAID_FILE).read_text().splitlines()]
    paid = sum(line["usd"] for line in lines if line["model"] == "judge")
    judged = done.result.judged
    assert judged is not None and judged.paid_usd == pytest.approx(paid) and paid > 0
    assert done.result.paid_usd == pytest.approx(sum(line["usd"] for line in lines))
    # The question that it was asked for its name comes to these.
    assert 2 * (judged.pairs + judged.broken) + 1 == len(judging)


def test_a_climb_that_was_cut_off_judges_nothing_again(done):
    before, kept = len(done.server.seen), (done.run / CLIMB_FILE).read_bytes()
    (done.run / CLIMB_FILE).unlink()
    for folder in (done.run / "rungs").iterdir():
        (folder / "result.json").unlink()
    again, _ = climb(done.task, options(done.run), Log())
    assert len(done.server.seen) == before
    assert [r.dev and r.dev.score for r in again.results] == [
        r.dev and r.dev.score for r in done.result.results
    ]
    assert again.decision.sentence == done.result.decision.sentence
    (done.run / CLIMB_FILE).write_bytes(kept)


def marked(sheet: Path, *, wrong: int = 0) -> None:
    """Fill a sheet in as the judge would say it, but for the first `wrong` lines."""
    lines = [json.loads(line) for line in sheet.read_text(encoding="utf-8").splitlines()]
    for at, line in enumerate(lines):
        question = f"{line['context']}\n\n{line['input']}"
        better = {1.0: "answer", 0.0: "other", 0.5: "tie", None: ""}
        line["better"] = better[told(question, line["answer"], line["other"])]
        if at < wrong:
            line["better"] = "answer" if line["better"] != "answer" else "other"
    sheet.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def checked_by(done: Done, sheet: Path) -> Path:
    """The task with that file of what people said."""
    task = json.loads(done.task.read_text())
    task["judge"]["checked"] = str(sheet)
    done.task.write_text(json.dumps(task), encoding="utf-8")
    return done.task


def test_a_sheet_hides_who_wrote_what_and_a_finished_climb_is_decided_by_it(
    done, tmp_path, monkeypatch, capsys
):
    sheet = tmp_path / "checked.jsonl"
    monkeypatch.chdir(tmp_path)
    assert command(["judge", "sheet", str(done.run), "--out", sheet.name]) == 0
    assert f"write `checked: {sheet}` under `judge`" in capsys.readouterr().out
    assert command(["judge", "sheet", str(done.run), "--out", str(sheet)]) == 2
    assert command(["judge", "sheet", str(done.run), "--out", str(tmp_path / "checked.csv")]) == 2
    assert not (tmp_path / "checked.csv").exists() and ".jsonl" in capsys.readouterr().err
    lines = [json.loads(line) for line in sheet.read_text().splitlines()]
    assert len(lines) == 60 and all(line["better"] == "" for line in lines)
    outputs = {row["output"] for row in text_rows(270)}
    first = sum(line["answer"] in outputs and line["other"] not in outputs for line in lines)
    second = sum(line["other"] in outputs and line["answer"] not in outputs for line in lines)
    assert first + second == 60 and min(first, second) > 15
    marked(sheet)
    before = len(done.server.seen)
    found, _ = climb(checked_by(done, sheet), options(done.run), Log())
    assert len(done.server.seen) == before, "these pairs were judged in the climb"
    assert found.openings == 1
    assert (found.decision.kind, found.decision.chosen) == ("clear_winner", "api")
    assert found.decision.sentence.startswith("Ship api: .")
    assert found.decision.sentence.endswith("it agrees with 60 of 60 human verdicts (100 %, κ 1.000).")
    judged = found.judged
    assert judged is not None and judged.agreement is not None and judged.agreement.enough
    shown = {(one.rung, one.split): one for one in judged.rungs}
    assert shown.keys() == {(rung, split) for rung in ("prompt", "api") for split in ("dev", "test")}
    drawn = {rung: [line for line in lines if rung in line["drawn"]] for rung in ("prompt", "api")}
    assert all(line["drawn"][rung] == len(drawn[rung]) for rung in drawn for line in drawn[rung])
    assert sum(map(len, drawn.values())) >= 60
    for one in shown.values():
        assert one.corrected is not None and one.corrected.checked == len(drawn[one.rung])
        assert one.corrected.score == pytest.approx(one.score)
        assert one.corrected.low < one.score < one.corrected.high
        assert one.steady < one.pairs
    assert shown["api", "dev"].similar_pairs == shown["api", "dev"].pairs
    terms = dict(facts(found))
    assert (
        "both orders alike on" in terms["Judged api"]
        and f"corrected by {len(drawn['api'])} human" in terms["Judged api"]
    )
    assert "sign test" in terms["api against prompt"]
    write_report(found, tmp_path / "report.html")
    assert "Human verdicts" in (tmp_path / "report.html").read_text(encoding="utf-8")
    again, _ = climb(done.task, options(done.run), log := Log())
    assert again == found and "nothing was run again" in log.text


def test_people_who_disagree_leave_it_undecided_and_correct_the_scores(done, tmp_path):
    sheet = tmp_path / "checked.jsonl"
    write_sheet(done.run, SheetOptions(out=sheet, seed=4))
    marked(sheet, wrong=20)
    found, _ = climb(checked_by(done, sheet), options(done.run), Log())
    assert found.decision.kind == "undecided"
    assert found.decision.sentence.startswith("Judge-only, not decided: ")
    assert "agrees with 40 of 60 human verdicts (66.7 %" in found.decision.sentence
    assert "50 are needed, 80 % and κ 0.6" in found.decision.sentence
    assert found.judged is not None
    moved = [one.corrected.score - one.score for one in found.judged.rungs if one.corrected is not None]
    assert len(moved) == 4 and all(abs(change) > 0.02 for change in moved)


def test_a_comparison_rests_on_the_same_judge_and_asks_nothing_anew(done):
    before = len(done.server.seen)
    found = compare(f"{done.run}:prompt", f"{done.run}:api", CompareOptions(), Log())
    assert len(done.server.seen) == before
    assert (found.outcome.found, found.found) == ("second_better", "open")
    said = compared_verdict(found)
    assert said.startswith("Judge-only, not decided: by the judge alone, B is better than A: ")
    assert f"Judged by openai:judge@{done.server.url}" in said
    shown = as_json(found)
    assert shown["found"] == "open" and shown["trust"]["backed"] is False
    assert said.endswith(shown["trust"]["said"])
    scores = [r.dev.score for r in done.result.results if r.dev is not None]
    assert [found.first.measurement.score, found.second.measurement.score] == scores
    assert {change.way for change in found.changes} == {"up", "other"}
    alike = [change for change in found.changes if change.way == "other" and change.first_score is not None]
    assert alike and all(change.first != change.second for change in alike)


def test_what_the_judge_said_in_the_second_ones_run_is_not_paid_for_again(done, tmp_path):
    one, two = (Path(shutil.copytree(done.run, tmp_path / name)) for name in ("one", "two"))
    (one / JUDGE_FOLDER / JUDGEMENTS_FILE).unlink()
    lines = (one / PAID_FILE).read_text().splitlines(keepends=True)
    (one / PAID_FILE).write_text("".join(line for line in lines if json.loads(line)["model"] != "judge"))
    before = len(done.server.seen)
    compare(f"{one}:api", f"{two}:prompt", CompareOptions(), Log())
    asked = [body["messages"][-1]["content"] for body in done.server.seen[before:]]
    # The one run lost these answers, and neither has a verdict on them.
    assert {verdict(text) for text in asked} == {"maybe"}


def test_a_comparison_may_pay_as_much_as_the_climb_and_says_where_more_is_allowed(done, tmp_path):
    sides = (side(f"{done.run}:prompt"), side(f"{done.run}:api"))
    asked = asked_rows(*sides, Wanted())
    assert asked.prepared is not None
    for limit, cap in ((0.001, done.result.paid_cap_usd), (9.0, 9.0)):
        limits = asked.prepared.task.limits.model_copy(update={"api_usd": limit})
        task = asked.prepared.task.model_copy(update={"limits": limits})
        made = till_of(sides, replace(asked, prepared=replace(asked.prepared, task=task)), done.run)
        assert made is not None and made.cap_usd == cap
        with pytest.raises(EngineError, match="they are kept: raise limits.api_usd in task.yaml and run"):
            with made.reserved(PRICES.per_token, 10**9, 1):
                pass


def test_a_comparison_prices_the_judge_as_the_climb_does(tiny, tmp_path):
    with Hosted(says) as server:
        task = judged_task(tmp_path / "task", tiny, server, judge={"model": "anthropic:claude-sonnet-4-5"})
        prepared = prepare(task, Options())
    asked = Asked(examples=(), split="dev", metric="judge", told="", prepared=prepared)
    climbs, compares = till_for(prepared.task, Options(), tmp_path), till_of((), asked, tmp_path)
    assert climbs is not None and compares is not None
    place = next(place for place in climbs.prices if place[1] == "claude-sonnet-4-5")
    assert compares.prices[place] == climbs.prices[place] != PRICES.per_token


def test_a_comparison_whose_judge_cannot_be_asked_counts_no_look_at_the_sealed_test(done):
    known = (done.run / TEST_FILE).rename(done.run / "aside.jsonl")
    task = json.loads(done.task.read_text())
    task["judge"] = {"model": "openai:nobody@http://127.0.0.1:9/v1"}
    other = done.task.with_name("other.yaml")
    other.write_text(json.dumps(task), encoding="utf-8")
    try:
        with pytest.raises(EngineError, match="the judge openai:nobody@.* can't be asked"):
            wanted = Wanted(task=other, test=True)
            compare(f"{done.run}:prompt", f"{done.run}:api", CompareOptions(wanted=wanted), Log())
        assert not (done.run / TEST_FILE).exists()
    finally:
        known.rename(done.run / TEST_FILE)


def test_a_comparison_by_a_judge_needs_a_task_that_names_one(done, tmp_path):
    others = [{**row, "input": f"{row['input']} {row['input']} elsewhere"} for row in text_rows(60)]
    rows = write_rows(tmp_path / "rows.jsonl", others)
    with pytest.raises(TaskError, match="metric judge needs the judge that a task names"):
        wanted = Wanted(task=rows, metric="judge")
        compare(f"{done.run}:prompt", f"{done.run}:api", CompareOptions(wanted=wanted), Log())


def test_a_sheet_is_of_the_rungs_that_the_verdict_is_about_or_of_the_one_that_is_named(done, tmp_path):
    assert verdict_rungs(load_climb(done.run)) == ["api", "prompt"]
    made = write_sheet(done.run, SheetOptions(out=tmp_path / "one.jsonl", rung="prompt", pairs=500))
    assert made.rungs == ("prompt",) and 30 < made.pairs <= 54
    with pytest.raises(RungError, match="measured no rung 'sft'; name one of prompt, api"):
        write_sheet(done.run, SheetOptions(out=tmp_path / "two.jsonl", rung="sft"))
    with pytest.raises(TaskError, match="--pairs 0"):
        write_sheet(done.run, SheetOptions(out=tmp_path / "two.jsonl", pairs=0))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"judge": {"model": "openai:rival"}}, "is of one family (rival) with 'openai:rival@"),
        (
            {"judge": {"model": "openai:gpt-5"}, "models": ["openai:o3"]},
            "one family (OpenAI) with 'openai:o3'",
        ),
        ({"judge": {"model": "openai:gpt-9"}, "prices": None}, "OPENAI_API_KEY isn't set"),
        ({"prices": None}, "the price of openai:judge@"),
        ({"limits": {"api_usd": 0.02}}, "judging one System alone would cost about $0.0"),
        ({"output": {"kind": "number"}}, "'judge' does not fit outputs of kind 'number'"),
    ],
)
def test_a_judge_that_cannot_judge_is_refused_before_anything_is_built(tiny, tmp_path, keys, said):
    with Hosted(says) as server:
        task = judged_task(tmp_path / "task", tiny, server, **keys)
        if "output" in keys:
            write_rows(task.with_name("rows.jsonl"), number_rows(60))
        with pytest.raises(TaskError) as found:
            climb(task, options(tmp_path / "run"), Log())
        assert said in str(found.value)
        # One may ask a judge for its name.
        assert len(server.seen) <= 1
    assert not (tmp_path / "run" / "rungs").exists()


class Thinker(Hosted):
    """Bills 400 tokens for whatever it says."""

    def completion(self, body: dict) -> dict:
        found = super().completion(body)
        found["usage"]["completion_tokens"] = 400
        return found


def test_a_judge_that_thinks_first_is_priced_by_what_its_first_answer_took(tiny, tmp_path):
    log = Log()
    with Thinker(says) as server:
        task = judged_task(tmp_path / "task", tiny, server, limits={"api_usd": 0.3})
        with pytest.raises(TaskError, match="judging one System alone would cost about"):
            climb(task, options(tmp_path / "run"), log)
        assert len(server.seen) == 1
    said = r"about \$([\d.]+) for one System's answers to 54 dev .*, at 400 tokens a verdict"
    found = re.search(said, log.text)
    assert found is not None and float(found[1]) > 54 * 2 * 400 * PRICES.output_usd_per_m / 1e6
    folder, given = tmp_path / "run" / JUDGE_FOLDER, f"openai:judge@{server.url}"
    assert tokens_written(folder, given) == 400
    (kept,) = folder.glob("reported-*.json")
    kept.write_text(json.dumps({"given": given, "reported": server.reports}))
    assert tokens_written(folder, given) == 0, "of a run from before it was kept"


def test_a_judge_of_the_teachers_family_is_warned_of_and_so_is_a_sheet_with_few_marks(tiny, tmp_path):
    sheet = tmp_path / "checked.jsonl"
    pair = {"input": "i", "answer": "a", "other": "b"}
    write_rows(sheet, [{**pair, "better": "tie"}, {**pair, "input": "j", "better": ""}])
    with Hosted(says) as server:
        judge = {"model": "anthropic:claude-sonnet-4-5", "checked": str(sheet)}
        task = judged_task(tmp_path / "task", tiny, server, judge=judge, teacher="anthropic:claude-haiku-4-5")
        messages = [note.message for note in prepare(task, Options()).notes]
    assert any("one family (Anthropic) with the teacher anthropic:claude-haiku-4-5" in m for m in messages)
    few = f"checked.jsonl: 1 pairs were judged by a person, 1 more aren't filled in; without {FEWEST_CHECKED}"
    assert any(few in m for m in messages)
    with Hosted(says) as server, pytest.raises(TaskError, match="judge.checked: no such file"):
        judge = {"model": "anthropic:claude-sonnet-4-5", "checked": str(tmp_path / "no.jsonl")}
        prepare(judged_task(tmp_path / "task", tiny, server, judge=judge), Options())


def test_a_cap_reached_while_judging_ends_the_climb_and_a_higher_one_goes_on(tiny, tmp_path):
    with Hosted(says) as server:
        task = judged_task(tmp_path / "task", tiny, server, rows=150)
        run = options(tmp_path / "run", rungs=("api",), dev_rows=20, api_usd=0.036)
        with pytest.raises(RungError, match="api: .*could pass the cap of .*raise --api-usd"):
            climb(task, run, Log())
        assert (tmp_path / "run" / JUDGE_FOLDER / JUDGEMENTS_FILE).exists()
        before = len(server.seen)
        found, _ = climb(task, replace(run, api_usd=5.0), Log())
        bodies = [json.dumps(body, sort_keys=True) for body in server.seen]
        assert len(bodies) == len(set(bodies)) > before
    assert found.results[0].test is not None


def test_agreement_is_told_with_what_is_missing():
    some = Agreement(
        rows=40,
        same=38,
        low=0.83,
        high=0.99,
        kappa=0.9,
        kappa_low=0.8,
        kappa_high=1.0,
        broken=2,
        enough=False,
    )
    assert agreement_text(some) == (
        "it agrees with 38 of 40 human verdicts (95 %, κ .900), 2 more it gave no verdict on; 50 are needed, "
        "80 % and κ 0.6"
    )
    assert "gave no verdict on any of the 2" in agreement_text(replace(some, rows=0, same=0))
    assert "κ can't be told" in agreement_text(replace(some, kappa=None, enough=True))
