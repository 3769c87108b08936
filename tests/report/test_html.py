import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from climb_fixture import (
    calibrated_climb,
    hostile_climb,
    one_rung_climb,
    stopped_climb,
    synthetic_climb,
)

from rung.climb.ending import UNTESTED
from rung.report.html import TEMPLATES, parted, report_html, write_report

RUN = Path("runs/demo")
VOID = {"meta", "br", "line", "path", "rect", "circle", "link", "hr", "img"}


class Reader(HTMLParser):
    """Reads the page as a browser would, and fails where a tag isn't closed by its own."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page():
    return report_html(synthetic_climb(), RUN)


@pytest.fixture(scope="module")
def hostile_page():
    return report_html(hostile_climb(), RUN)


@pytest.mark.parametrize(
    ("sentence", "said", "why"),
    [
        (
            "Ship head: .879 on 190 test rows, opened for it alone. On dev: ship head; sft isn't higher.",
            "Ship head: .879 on 190 test rows, opened for it alone.",
            "On dev: ship head; sft isn't higher.",
        ),
        (
            "Ship sft: .9 on 400 rows; it beats head's .8 (p < .001).",
            "Ship sft: .9 on 400 rows.",
            "It beats head's .8 (p < .001).",
        ),
        ("Ship head: .9 on 400 test rows.", "Ship head: .9 on 400 test rows.", ""),
        (
            "No verdict: every rung is over the limits (head: slow; prompt: slow); scores: head .9.",
            "No verdict: every rung is over the limits (head: slow; prompt: slow).",
            "Scores: head .9.",
        ),
    ],
)
def test_a_verdict_is_parted_into_what_it_says_and_why(sentence, said, why):
    assert parted(sentence) == (said, why)


@pytest.mark.parametrize("name", ["page", "hostile_page"])
def test_every_tag_is_closed(name, request):
    Reader(request.getfixturevalue(name))


def test_the_page_shows_the_verdict_and_what_it_rests_on(page):
    climb = synthetic_climb()
    text = Reader(page).text
    for words in (
        *parted(climb.decision.sentence),
        "opened once",
        "LoRA r=16 on all 1,200 training rows",
        "failed: the engine broke twice",
        "skipped: no teacher",
        "same answer on 100 % of 200 prompts",
        "3 inputs have two different labels",
        "metric: accuracy, the default for labels",
        "sft costs less than few_shot",
        "licence apache-2.0",
        "rung ask runs/demo/winner",
        "Synthetic ticket 0",
        "rows.jsonl:100",
        "sft with codes for the labels",
    ):
        assert words in text


def test_right_and_wrong_are_told_by_words_as_well(page):
    text = Reader(page).text
    assert "✗ wrong · delivery" in text
    assert "✓ right · refund" in text


def test_rows_of_the_user_never_become_markup(hostile_page):
    tags = Reader(hostile_page).tags
    assert "script" not in {tag for tag, _ in tags}
    assert "<script" not in hostile_page
    assert "&lt;script&gt;" in hostile_page
    assert not any(name.startswith("on") for _, attrs in tags for name in attrs)
    assert "{{ 7*7 }}" in hostile_page


def test_an_input_of_100_kilobytes_is_shortened(page, hostile_page):
    assert len(hostile_page) < len(page) + 20_000


def test_the_page_loads_nothing_from_elsewhere(page):
    tags = Reader(page).tags
    assert not [attrs for _, attrs in tags if {"src", "href", "srcset", "data", "action"} & attrs.keys()]
    assert "url(" not in (TEMPLATES / "report.css").read_text(encoding="utf-8")
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_can_be_read_by_those_who_do_not_see_it(page):
    tags = Reader(page).tags
    assert ("html", {"lang": "en"}) in tags
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")
    assert all(attrs.get("aria-label") for tag, attrs in tags if tag == "svg")
    headings = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(headings, headings[1:], strict=False))


def test_the_same_climb_gives_the_same_bytes(page, tmp_path):
    write_report(synthetic_climb(), tmp_path / "again.html", RUN)
    assert (tmp_path / "again.html").read_bytes() == page.encode()


def test_a_page_without_a_run_named_points_at_the_winner_beside_it(tmp_path):
    write_report(synthetic_climb(), tmp_path / "report.html")
    assert f"rung ask {tmp_path / 'winner'}" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_scores_of_style_on_unlike_numbers_of_rows_are_said_not_to_compare(page):
    said = "scores on dev and on test aren't to be compared"
    climb = synthetic_climb()
    untested = tuple(replace(r, test=None) if r.rung == "few_shot" else r for r in climb.results)
    styled = report_html(replace(climb, metric="style", results=untested), RUN)
    assert said in Reader(styled).text and said not in Reader(page).text
    beside = "Of style those don't compare with the others"
    assert beside in Reader(styled).text and beside not in Reader(page).text


def test_a_rung_that_was_tested_alone_is_drawn_and_said_on_dev():
    climb = synthetic_climb()
    alone = tuple(r if r.rung == "sft" or r.dev is None else replace(r, test=None) for r in climb.results)
    words = Reader(report_html(replace(climb, results=alone), RUN)).text
    assert "All scores are on dev rows; the sealed test was opened for sft alone" in words
    assert "Rungs marked (dev)" not in words
    vain = tuple(replace(r, notes=(f"{UNTESTED}it died",)) if r.rung == "few_shot" else r for r in alone)
    words = Reader(report_html(replace(climb, results=vain), RUN)).text
    assert (
        "was opened for sft, and the table has its score there; for few_shot it was opened in vain" in words
    )
    assert "of those that the sealed test was opened for one alone has a score there" in words


def test_a_rung_that_the_test_was_opened_for_in_vain_is_not_said_to_have_been_left_out():
    climb = synthetic_climb()
    lost = [
        replace(r, test=None, notes=(f"{UNTESTED}it died",)) if r.rung == "few_shot" else r
        for r in climb.results
    ]
    words = Reader(report_html(replace(climb, results=tuple(lost)), RUN)).text
    assert "the sealed test was opened for few_shot in vain" in words
    assert "weren't needed for the verdict" not in words


def test_only_the_first_disagreements_are_shown_and_the_page_says_so():
    climb = synthetic_climb()
    many = replace(climb, disagreements=climb.disagreements * 8)
    page = report_html(many, RUN)
    assert page.count('<article class="row">') == 12
    assert "the first 12 of those kept in climb.json" in page


def test_an_empty_climb_still_makes_a_page():
    climb = one_rung_climb()
    bare = replace(
        climb, results=(), inferred=(), findings=(), about=None, models=(), versions=(), digests=()
    )
    text = Reader(report_html(bare, RUN)).text
    assert "No verdict" in text
    assert "rung ask" not in text


def test_calibrations_have_a_table_of_their_own_and_the_shipped_rung_its_reliability(page):
    found = Reader(report_html(calibrated_climb(), RUN)).text
    assert "Can the probabilities be trusted?" in found
    assert ".041 → .018 .060 → .035 .031 .151 → .139 .402 → .331 temperature 1.7" in found
    assert "How often sft is right, by its probability" in found and ".400–1.000" in found
    assert "Can the probabilities be trusted?" not in page


def test_the_templates_are_shipped_with_the_package():
    names = {"data.html.jinja", "findings.html.jinja", "report.css", "report.html.jinja"}
    assert {path.name for path in TEMPLATES.iterdir()} == names


def test_a_stopped_rung_is_marked_wherever_its_score_is_shown():
    page = report_html(stopped_climb(), RUN)
    text = " ".join(Reader(page).words)
    assert "stopped after 64 of 400 dev rows: can't beat head any more" in text
    assert "predicted 58 s, took 1 m 03 s, peak memory 412 MiB" in text
    assert "few_shot (64 dev rows)" in page and "isn't to be compared" in text
    assert "peak memory reading and checks 640 MiB, test 2.1 GiB" in Reader(page).text
    plain = report_html(synthetic_climb(), RUN)
    assert "<dt>peak memory" not in plain and "isn't to be compared" not in plain
