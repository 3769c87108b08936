import re
from dataclasses import replace

import pytest
from climb_fixture import curve_climb, synthetic_climb
from rich.console import Console
from test_html import Reader

from rung.report.curves import curve_svg
from rung.report.html import report_html
from rung.report.text import show


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report_html(curve_climb(), tmp_path_factory.mktemp("run"))


def test_the_page_shows_each_curve_with_its_sentence_and_what_is_missing(page):
    text = Reader(page).text
    assert "Would more rows help?" in text
    for curve in curve_climb().curves:
        assert curve.sentence in text
    assert "300 rows .780 .749–.806 400 2.5 s" in text
    assert page.count('<figure class="curve">') == 2
    assert "Left out: 50% of the rows (600): <no time> of the budget is left" in text
    assert "<no time>" not in page


def test_the_passes_of_a_tune_are_shown(tmp_path):
    climb = curve_climb()
    curve = climb.curves[0]
    points = tuple(replace(point, passes=2.34) for point in curve.points)
    text = Reader(report_html(replace(climb, curves=(replace(curve, points=points),)), tmp_path)).text
    assert "dev rows passes time" in text and "300 rows .780 .749–.806 400 2.3 2.5 s" in text


def test_a_climb_without_curves_says_nothing_of_them(tmp_path):
    assert "Would more rows help?" not in report_html(synthetic_climb(), tmp_path)


def test_the_chart_has_a_mark_for_each_point_and_says_the_same_in_words():
    head, sft = curve_climb().curves
    drawn = curve_svg(head, "accuracy", 230)
    assert "300 rows: .780 (.749–.806); 600 rows: .831" in drawn
    assert len(re.findall(r'aria-roledescription="point"|role-mark', drawn)) >= 3
    assert "#04" not in drawn and "var(--accent" in drawn
    assert curve_svg(sft, "accuracy", 230) == "", "one point is no curve"


@pytest.mark.parametrize("width", [60, 100])
def test_the_terminal_says_whether_more_rows_would_help(width):
    console = Console(width=width, record=True, force_terminal=False)
    show(curve_climb(), console)
    text = " ".join(console.export_text().split())
    assert "300 rows .780" in text and "more rows would probably help" in text
    assert "left out: 50% of the rows" in text
