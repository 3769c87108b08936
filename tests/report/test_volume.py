import re
from dataclasses import replace

import pytest

from rung.report.html import report_html
from rung.report.summary import build_usd
from rung.report.volume import _apart, charted, hosted_notes, volume_svg, volumes
from rung.scoring.cost import break_even_rented, break_even_requests
from tests.report.climb_fixture import hosted_climb, synthetic_climb


def test_every_local_rung_is_set_against_the_hosted_one():
    climb = hosted_climb()
    found = volumes(climb)
    assert [one.rung for one in found] == ["head", "prompt", "few_shot", "sft"]
    assert {one.hosted for one in found} == {"api"}
    sft = next(r for r in climb.results if r.rung == "sft")
    (one,) = [one for one in found if one.rung == "sft"]
    assert one.busy == break_even_requests(build_usd(climb, sft), sft.usd_per_1000, 1.0)
    answer_s = sft.dev.seconds_per_answer
    assert one.rented == break_even_rented(build_usd(climb, sft), answer_s, climb.usd_per_hour, 1.0)
    # 73 dollars of rent at .10 an hour buy 73,000 answers at a dollar for 1,000.
    assert one.rented == pytest.approx(730.5 * climb.usd_per_hour * 1000, rel=0.01)
    assert one.there_usd == pytest.approx(climb.answers_per_month / 1000)


def test_of_several_hosted_models_each_has_its_line_and_its_own_break_evens(tmp_path):
    climb = hosted_climb()
    api = climb.results[-1]
    both = (replace(api, rung="api@dear"), replace(api, rung="api@cheap", order=8, usd_per_1000=0.1))
    climb = replace(climb, results=(*climb.results[:-1], *both))
    found = {(one.rung, one.hosted): one for one in volumes(climb)}
    assert len(found) == 8 and found["sft", "api@dear"].busy < found["sft", "api@cheap"].busy
    svg, page = volume_svg(climb, 560), report_html(climb, tmp_path)
    assert all(name in svg.partition("</desc>")[2] for name in ("api@dear", "api@cheap"))
    assert "sft costs less than api@dear from" in svg and "sft costs less than api@cheap from" in svg
    assert "Green: api@dear, api@cheap. Dark: sft by" in page and "Thin: the other local" in page
    lines = [text for _, text in hosted_notes(climb) if "costs less than" in text]
    assert [line.partition(" from")[0] for line in lines] == [
        f"sft costs less than {name}" for name in ("api@dear", "api@cheap")
    ], "the terminal has the one that ships alone"


def test_a_hosted_model_that_costs_nothing_has_no_line_and_the_caption_names_none(tmp_path):
    climb = hosted_climb()
    api = climb.results[-1]
    both = (replace(api, rung="api@dear"), replace(api, rung="api@free", order=8, usd_per_1000=0.0))
    climb = replace(climb, results=(*climb.results[:-1], *both))
    page, drawn = report_html(climb, tmp_path), volume_svg(climb, 560).partition("</desc>")[2]
    assert "Green: api@dear. Dark: sft by" in page and "costs less than api@dear or api@free" in page
    assert "api@dear" in drawn and "api@free" not in drawn


def test_what_a_teacher_was_paid_is_part_of_building():
    climb = hosted_climb()
    sft = next(r for r in climb.results if r.rung == "sft")
    assert build_usd(climb, replace(sft, spent_usd=3.0)) == build_usd(climb, sft) + 3.0


def test_a_rung_that_goes_on_from_another_pays_for_that_one_too():
    climb = hosted_climb()
    sft = next(r for r in climb.results if r.rung == "sft")
    more = replace(sft, rung="preference", order=6, build_s=30.0, upon="sft")
    found = {one.rung: one for one in volumes(replace(climb, results=(*climb.results, more)))}
    assert found["preference"].build_usd > found["sft"].build_usd
    assert found["preference"].busy > found["sft"].busy


def test_a_prompt_that_was_searched_for_here_is_paid_for_by_the_hosted_model_too():
    climb = hosted_climb()
    paid = {"few_shot": {"spent_usd": 3.0}, "api": {"upon": "few_shot"}}
    climb = replace(climb, results=tuple(replace(r, **paid.get(r.rung, {})) for r in climb.results))
    few_shot, api = (next(r for r in climb.results if r.rung == rung) for rung in paid)
    assert build_usd(climb, api) == build_usd(climb, few_shot) > 3.0
    found = {one.rung: one for one in volumes(climb)}
    assert found["few_shot"].busy == 0 and found["sft"].busy == 0
    assert found["sft"].there_usd == pytest.approx(
        climb.answers_per_month / 1000 + build_usd(climb, api) / 12
    )


def test_the_terminal_says_from_which_volume_on_and_what_was_paid():
    told = dict(reversed(hosted_notes(hosted_climb())))
    assert told["Paid"] == "$0.40 to hosted models, of $1.00 at most"
    assert "head costs less than api from" in told["Against hosted"]
    assert "on a machine that is on all month" in told["Against hosted"]
    assert hosted_notes(synthetic_climb()) == []


def test_a_hosted_model_that_costs_next_to_nothing_is_never_undercut_by_a_machine_on_all_month():
    climb = hosted_climb()
    results = tuple(replace(r, usd_per_1000=1e-9) if r.rung == "api" else r for r in climb.results)
    found = volumes(replace(climb, results=results))
    assert all(one.busy is None and one.rented is None for one in found)
    assert "at no volume" in hosted_notes(replace(climb, results=results))[0][1]


def test_every_local_system_has_its_line_and_its_name_in_the_chart():
    climb = hosted_climb()
    svg = volume_svg(climb, 560)
    local = volumes(climb)
    assert len(local) > 1
    named = {part.strip() for text in re.findall(r">([^<>]+)</text>", svg) for part in text.split(",")}
    assert {one.rung for one in local} | {local[0].hosted} <= named
    assert len(re.findall(r'stroke-width="1"[^>]*/>', svg)) >= len(local) - 1


def test_names_of_lines_that_end_close_together_stand_in_one_place():
    assert _apart({"a": 100.0, "b": 99.0, "c": 1.0}, [0.5, 200.0]) == [("a, b", 100.0), ("c", 1.0)]
    assert _apart({"c": 1.0}, [0.5, 2.0]) == [("c", 1.0)]


def test_the_page_has_the_table_and_a_chart_that_says_the_same_in_words(tmp_path):
    climb = hosted_climb()
    page = report_html(climb, tmp_path)
    assert "Here or hosted?" in page and page.count('<figure class="volume">') == 1
    svg = volume_svg(climb, 560)
    assert svg.startswith("<svg") and "sft costs less than api" in svg and "var(--accent" in svg
    assert charted(climb, volumes(climb)).rung == climb.decision.chosen
    assert "Here or hosted?" not in report_html(synthetic_climb(), tmp_path)
    assert volume_svg(synthetic_climb(), 560) == ""
