from dataclasses import replace

import pytest
from rich.console import Console
from test_html import Reader

from rung.checks.data_report import DataReport
from rung.records import CheckRun, Finding
from rung.report.data import sentence, show_data, write_data_page
from rung.report.html import coded
from rung.report.notation import places_text

REPORT = DataReport(
    task="tickets",
    kind="label",
    parts=(("train", 800), ("dev", 100), ("test", 1)),
    digest="d",
    inferred=("output.kind = label",),
    findings=(
        Finding(
            check="repeats",
            severity="warn",
            message="rows that repeat: `rung check --fix OUT` keeps <one> of each",
            rows=tuple(f"train.jsonl:{line}" for line in range(3, 23)),
            count=120,
            details=tuple(f"train.jsonl:{line} again" for line in range(3, 23)),
        ),
        Finding(check="secrets", severity="block", message="a key", rows=("test.jsonl:1",), count=1),
    ),
    checks=(
        CheckRun(number=4, name="repeats", what="no row twice", findings=1),
        CheckRun(number=25, name="secrets", what="no keys", findings=1),
        CheckRun(number=14, name="audit", what="a second person agrees", findings=0, left_out="`--audit`"),
    ),
    accepted=(),
    seconds=3.0,
    versions=(),
)


@pytest.fixture
def page(tmp_path):
    write_data_page(REPORT, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_shows_the_gravest_first_with_its_places_and_what_was_left_out(page):
    text = " ".join(" ".join(Reader(page).words).split())
    assert page.index(">must be mended<") < page.index(">warning<")
    assert "train.jsonl 3, 4, 5, 6, 7, 8, 9, 10 and 112 more" in text
    assert "the first 20 of them" in text
    assert "Left out: audit," in text
    assert "1 row" in text and "1 fault blocks a climb; 1 warning in 2 checks." in text


def test_commands_stand_as_code_and_foreign_text_stays_text(page):
    assert "<code>rung check --fix OUT</code> keeps &lt;one&gt; of each" in page
    assert str(coded("a ` alone & <b>")) == "a ` alone &amp; &lt;b&gt;"
    assert str(coded("`<b>` and `x`")) == "<code>&lt;b&gt;</code> and <code>x</code>"


@pytest.mark.parametrize("width", [60, 120])
def test_the_terminal_says_the_same(tmp_path, width):
    console = Console(width=width, record=True, force_terminal=False)
    show_data(REPORT, console, tmp_path)
    text = " ".join(console.export_text().split())
    assert text.index("blocks secrets") < text.index("warning repeats")
    assert "train.jsonl 3, 4, 5, 6, 7, 8 and 114 more" in text and "15 more in the report" in text
    assert "Left out audit: `--audit`" in text


def test_a_report_without_findings_has_nothing_to_mend(tmp_path):
    clean = replace(REPORT, findings=())
    assert sentence(clean) == "Nothing to mend in 2 checks."
    write_data_page(clean, tmp_path / "page.html")
    assert "Nothing." in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("places", "count", "said"),
    [
        (["a.jsonl:1", "a.jsonl:7"], 2, "a.jsonl 1, 7"),
        (["a.jsonl:1", "b.jsonl:7", "b.jsonl:9"], 5, "a.jsonl 1, b.jsonl 7, 9 and 2 more"),
        (["0042"], 1, "0042"),
    ],
)
def test_a_file_is_named_once_for_its_lines(places, count, said):
    assert places_text(places, count) == said
