import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from climb_fixture import (
    calibrated_climb,
    hosted_climb,
    hostile_climb,
    one_rung_climb,
    stopped_climb,
    synthetic_climb,
)
from rich.cells import cell_len
from rich.console import Console

from rung.climb.names import rung_of
from rung.report import summary
from rung.report.text import Screen, show


def shown(climb, width, run=None):
    out = io.StringIO()
    show(climb, Console(file=out, width=width), run)
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize(
    "climb", [synthetic_climb(), hostile_climb(), one_rung_climb(), stopped_climb(), calibrated_climb()]
)
def test_no_line_is_wider_than_the_terminal(climb, width):
    assert max(cell_len(line) for line in shown(climb, width, Path("runs/demo")).splitlines()) <= width


def figures_of(climb):
    """Every figure of the table by its rung."""
    return {
        row.rung: [
            text
            for text in (
                *(*row.dev, *row.test, row.p50_ms, row.p95_ms),
                *(row.usd, row.usd_correct, row.build, row.memory),
            )
            if text
        ]
        for row in summary.rows(climb)
        if row.state not in ("skipped", "failed")
    }


def lines_of(lines, rung):
    """A rung's lines of figures, ten at most."""
    start = next(at for at, line in enumerate(lines) if line[2:].startswith(f"{rung_of(rung)}"))
    return lines[start : start + 10]


def assert_whole(climb, width):
    """Each figure stands somewhere in its rung's lines, the last one under its heading."""
    lines = shown(climb, width).splitlines()
    end = next(line.index("memory") for line in lines if "memory" in line) + len("memory")
    for rung, texts in figures_of(climb).items():
        found = lines_of(lines, rung)
        for text in texts:
            assert any(re.search(rf"(?<!\S){re.escape(text)}(?!\S)", line) for line in found), text
        assert any(line[:end].endswith(f" {texts[-1]}") for line in found)


@pytest.mark.parametrize("width", [*range(22, 80), 100, 111, 112, 120])
def test_every_figure_stands_whole_in_a_terminal_of_any_width(width):
    assert_whole(synthetic_climb(), width)


@pytest.mark.parametrize("width", [60, 112, 120])
def test_a_models_long_name_cuts_no_figure(width):
    climb, model = synthetic_climb(), "smollm2-135m-instruct-tuned-on-tickets"
    results = tuple(replace(r, rung=f"{r.rung}@{model}", model=model) for r in climb.results)
    climb = replace(climb, results=results, models=(*climb.models, (model, "d", "mit")))
    assert_whole(climb, width)
    lines = shown(climb, width).splitlines()
    assert all(sum("@smollm2" in line for line in lines_of(lines, r.rung)[:3]) == 1 for r in results)


def test_in_a_narrow_terminal_hosted_models_of_one_name_are_told_apart_by_where_they_are():
    climb = hosted_climb()
    api = climb.results[-1]
    models = [f"gemma@localhost-{port}" for port in (8001, 8002)]
    both = (replace(api, rung=f"api@{model}", order=7 + at) for at, model in enumerate(models))
    text = shown(replace(climb, results=(*climb.results[:-1], *both)), 80)
    assert "@gemma…ost-8001" in text and "@gemma…ost-8002" in text


def test_the_figures_of_a_rung_stand_under_their_headings():
    lines = shown(synthetic_climb(), 120).splitlines()
    heading = next(line for line in lines if "p95 ms" in line)
    row = next(line for line in lines if line.startswith("● sft"))
    ends = [heading.index(word) + len(word) for word in ("p50", "p95 ms", "$/1,000", "correct", "memory")]
    values = ("39", "62", "$0.00076", "$0.00082", "412 MiB")
    assert [row[:end].endswith(value) for end, value in zip(ends, values, strict=True)] == [True] * 5


@pytest.mark.parametrize("width", [80, 120])
def test_every_rung_the_verdict_and_the_places_are_shown(width):
    text = shown(synthetic_climb(), width, Path("runs/my run"))
    for words in (
        ".906–.964",
        ".899–.956",
        "24 m 12 s",
        "ship · LoRA r=16",
        "failed: the engine broke twice",
        "skipped: no teacher is named",
        "Ship sft: 6.9 points better",
        "same answer on 100 % of 200 prompts",
        "opened once",
        "3 inputs have two different labels",
        "1 more finding",
        "runs/my run/report.html",
        "rung ask 'runs/my run/winner'",
    ):
        assert words in text


def test_the_calibration_of_the_shipped_rung_is_told():
    lines = shown(calibrated_climb(), 120).splitlines()
    assert any(
        re.fullmatch(r"Calibration +ECE \.041 → \.018 on 400 test rows, temperature 1\.7", x.strip())
        for x in lines
    )


def test_the_shipped_rung_is_marked_without_colour():
    lines = shown(synthetic_climb(), 80).splitlines()
    assert [line for line in lines if line.startswith("●")] == [
        line for line in lines if " sft  " in line[:12]
    ]


def test_rows_of_the_user_are_neither_markup_nor_escape_codes():
    text = shown(hostile_climb(), 80)
    assert "\x1b" not in text
    assert "[bold]x[/bold]" in text


@pytest.mark.parametrize("width", [40, 80])
def test_what_a_rung_found_out_of_the_task_is_shown(width):
    climb = synthetic_climb()
    told = (
        "recall@1/3/5/8: bm25 .500 / .700 / .800 / .900",
        "a knowledge gap\x1b[2J, which documents can close",
    )
    results = tuple(replace(r, found=told) if r.rung == "prompt" else r for r in climb.results)
    text = shown(replace(climb, results=results), width)
    assert "Found by prompt" in text and "\x1b" not in text
    assert "bm25 .500 / .700 / .800 / .900" in " ".join(text.split())
    assert "which documents can close" in " ".join(text.split())
    assert "Found by" not in shown(climb, width)


def test_a_climb_without_a_winner_names_none():
    assert "rung ask" not in shown(one_rung_climb(), 80, Path("runs/x"))


def test_the_direction_of_an_error_is_named():
    assert "lower is better" in shown(replace(synthetic_climb(), metric="mae"), 80)


def test_a_log_gets_plain_lines_now_and_then():
    out = io.StringIO()
    with Screen(console=Console(file=out, width=80), every_s=0.0) as screen:
        screen.say("[head] starts" + " and goes on" * 9)
        bar = screen.begin("head, all dev rows", 400)
        screen.advance(bar, 100, "loss 0.61 · 21 rows/s")
        screen.end(bar)
    lines = out.getvalue().splitlines()
    assert lines[0] == "[head] starts" + " and goes on" * 9
    assert lines[1].startswith("head, all dev rows: 100 of 400, 0.0 s, about 0.0 s left, loss 0.61")
    assert lines[2] == "head, all dev rows: done in 0.0 s"


def test_what_was_done_before_tells_nothing_of_the_pace(monkeypatch):
    now = iter([0.0, 10.0, 10.0])
    monkeypatch.setattr("rung.report.text.time.monotonic", lambda: next(now))
    out = io.StringIO()
    with Screen(console=Console(file=out, width=80), every_s=0.0) as screen:
        bar = screen.begin("sft", 200, 100)
        screen.advance(bar, 110)
        screen.end(bar)
    assert out.getvalue().splitlines()[0] == "sft: 110 of 200, 10 s, about 1 m 30 s left"


def test_a_log_is_silent_about_what_is_quick():
    out = io.StringIO()
    with Screen(console=Console(file=out)) as screen:
        bar = screen.begin("quick", 3)
        for done in range(4):
            screen.advance(bar, done)
        screen.end(bar)
    assert out.getvalue() == ""


def terminal():
    out = io.StringIO()
    return out, Console(file=out, force_terminal=True, width=80, color_system=None, _environ={})


def test_a_terminal_shows_bars_and_what_is_said_stays():
    out, console = terminal()
    with Screen(console=console) as screen:
        first = screen.begin("head on 400 dev rows", 400)
        second = screen.begin("fetching the model", None)
        screen.advance(first, 200, "loss 0.61")
        screen.say("a line that stays")
        screen.end(second)
        screen.end(first)
    assert "head on 400 dev rows" in out.getvalue()
    assert "a line that stays" in out.getvalue()


def test_leaving_by_an_error_gives_the_cursor_back():
    out, console = terminal()
    with pytest.raises(KeyboardInterrupt), Screen(console=console) as screen:
        screen.begin("head", 400)
        raise KeyboardInterrupt
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
    assert not screen.console.is_alt_screen
    screen.close()


def test_bars_can_begin_again_after_all_have_ended():
    _, console = terminal()
    with Screen(console=console) as screen:
        for _ in range(2):
            bar = screen.begin("x", 2)
            screen.advance(bar, 1)
            screen.end(bar)


@pytest.mark.parametrize("width", [80, 120])
def test_times_and_stops_are_told_below_the_figures(width):
    text = " ".join(shown(stopped_climb(), width).split())
    assert "stopped after 64 of 400 dev rows: can't beat head any more" in text
    assert "predicted 58 s, took 1 m 03 s, peak memory 412 MiB" in text
    assert "Peak memory reading and checks 640 MiB, test 2.1 GiB" in text
