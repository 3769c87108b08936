import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from climb_fixture import one_rung_climb, result, synthetic_climb

from rung.report.charts import (
    FLOOR_LABEL,
    HEIGHT_PX,
    ON_PAGE,
    Point,
    Scale,
    floor_drawn,
    floor_place,
    label_places,
    points,
    quality_cost_svg,
)

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["head", "prompt", "few_shot", "sft"]


def climb_of(count, *, usd=None):
    climb = synthetic_climb()
    results = tuple(
        replace(
            result(NAMES[i % 4], i, "", 0.04, usd if usd is not None else 0.0001 * 1.7**i, 1.0),
            rung=f"rung{i}",
        )
        for i in range(count)
    )
    return replace(climb, results=results)


def texts(svg):
    return [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("count", "usd"), [(1, None), (1, 0.0), (2, 0.001), (11, None), (11, 0.001), (11, 0.0)]
)
def test_every_rung_is_labelled_whatever_the_costs(count, usd):
    climb = climb_of(count, usd=usd)
    assert {f"rung{i}" for i in range(count)} <= set(texts(quality_cost_svg(climb, 700)))


def test_the_chart_is_the_same_bytes_each_time():
    assert quality_cost_svg(synthetic_climb(), 700) == quality_cost_svg(synthetic_climb(), 700)


def test_the_chart_takes_its_colours_from_the_page():
    svg = quality_cost_svg(synthetic_climb(), 700)
    assert "currentColor" in svg and "var(--accent" in svg
    assert not any(stand_in in svg for stand_in in ON_PAGE)


def test_the_chart_says_in_words_what_it_shows():
    root = ET.fromstring(quality_cost_svg(synthetic_climb(), 700))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == "Accuracy against cost"
    said = root.findtext(f"{SVG}desc")
    assert said is not None
    assert "sft: .930 (.899–.956) at $0.00076 per 1,000, shipped" in said


@pytest.mark.parametrize(("metric", "name"), [("rouge_l", "ROUGE-L"), ("macro_f1", "Macro F1")])
def test_the_chart_leaves_the_name_of_a_metric_its_capitals(metric, name):
    root = ET.fromstring(quality_cost_svg(replace(synthetic_climb(), metric=metric), 700))
    assert root.findtext(f"{SVG}title") == f"{name} against cost"


def opened_for(climb, *rungs):
    """The climb with the test opened for these alone."""
    kept = tuple(r if r.rung in rungs or r.dev is None else replace(r, test=None) for r in climb.results)
    return replace(climb, results=kept)


def test_a_rung_scored_on_dev_only_is_labelled_so_beside_those_that_were_tested():
    shown = texts(quality_cost_svg(opened_for(synthetic_climb(), "head", "sft"), 700))
    assert {"head", "sft", "few_shot (dev)"} <= set(shown)
    assert "accuracy, test rows" in shown


def test_one_tested_rung_is_drawn_on_dev_beside_the_others():
    climb = opened_for(synthetic_climb(), "sft")
    dev = {r.rung: r.dev.score for r in climb.results if r.dev is not None}
    assert {p.rung: p.score for p in points(climb)} == dev
    shown = texts(quality_cost_svg(climb, 700))
    assert {"head", "sft", "few_shot"} <= set(shown)
    assert "accuracy, dev rows" in shown
    on_test = replace(climb, constant=replace(climb.constant, score=0.7))
    assert not floor_drawn(on_test)
    assert floor_drawn(replace(on_test, constant=replace(on_test.constant, split="dev")))


def test_without_a_test_all_is_drawn_on_dev():
    shown = texts(quality_cost_svg(one_rung_climb(), 700))
    assert "prompt" in shown and "accuracy, dev rows" in shown


def test_nothing_measured_gives_no_chart():
    climb = synthetic_climb()
    assert quality_cost_svg(replace(climb, results=climb.results[-1:]), 700) == ""


def test_the_shipped_rung_alone_is_emphasised():
    assert [p.rung for p in points(synthetic_climb()) if p.shipped] == ["sft"]


def test_what_one_answer_scores_is_a_named_line_where_it_lies_on_the_chart_and_stretches_nothing():
    climb = synthetic_climb()
    assert not floor_drawn(climb)
    assert FLOOR_LABEL not in texts(quality_cost_svg(climb, 700))
    near = replace(climb, constant=replace(climb.constant, score=0.7))
    assert floor_drawn(near)
    assert FLOOR_LABEL in texts(quality_cost_svg(near, 700))
    assert "stroke-dasharray" in quality_cost_svg(near, 700)
    assert not floor_drawn(one_rung_climb())


@pytest.mark.parametrize("width", [290, 770])
@pytest.mark.parametrize("score", [0.58, 0.62, 0.7, 0.75, 0.86, 0.93])
def test_the_lines_name_stands_inside_the_chart_and_no_label_is_written_over_it(score, width):
    shown = points(synthetic_climb())
    across = Scale(low=0.00004, high=0.01, start=0, end=width, log=True)
    upright = Scale(low=0.55, high=1.0, start=HEIGHT_PX, end=0)
    x, _, box = floor_place(shown, across, upright, score)
    assert 0 <= x and box[2] <= width
    for point, (dx, dy, align) in zip(shown, label_places(shown, across, upright, [box]), strict=True):
        wide = len(point.label) * 7.4
        left = across.pixel(point.usd) + dx - {"left": 0, "center": wide / 2, "right": wide}[align]
        middle = upright.pixel(point.score) + dy
        apart = left >= box[2] or left + wide <= box[0] or middle + 8 <= box[1] or middle - 8 >= box[3]
        assert apart, (point.label, box)


def test_labels_of_neighbours_do_not_cover_each_other():
    across = Scale(low=0.0001, high=0.01, start=0, end=700, log=True)
    upright = Scale(low=0.5, high=1.0, start=HEIGHT_PX, end=0)
    close = [
        Point(
            rung=f"rung{i}",
            usd=0.001,
            score=0.8 + 0.002 * i,
            low=0.79,
            high=0.83,
            shipped=False,
        )
        for i in range(4)
    ]
    places = label_places(close, across, upright)
    spots = {
        (align, round((upright.pixel(p.score) + dy) / 8))
        for p, (_, dy, align) in zip(close, places, strict=True)
    }
    assert len(spots) == 4


def test_labels_stay_inside_the_chart():
    across = Scale(low=0.0001, high=0.01, start=0, end=700, log=True)
    upright = Scale(low=0.5, high=1.0, start=HEIGHT_PX, end=0)
    edge = Point(rung="a_long_name", usd=0.0095, score=0.8, low=0.7, high=0.9, shipped=False)
    ((dx, _, align),) = label_places([edge], across, upright)
    assert (dx < 0, align) == (True, "right")
