"""The guards' findings on screen, on the page, in the card and in the verdict; and the docs' figures."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from rung.climb.budget import GUARD_S, GUARD_SHARE, TRAINED, guard_s
from rung.climb.decide import decide
from rung.guards import limits, told
from rung.guards.item_checks import CHECKS
from rung.guards.items import general_items, prose
from rung.records import Candidate
from rung.records.guarded import (
    Collapse,
    Copied,
    Divergence,
    Forgetting,
    Guards,
    Items,
    KindScore,
    Overfit,
    SeedScores,
)
from rung.report.html import report_html
from rung.report.text import show
from rung.rungs import LADDER
from tests.report.climb_fixture import measurement, synthetic_climb

DOCS = Path(__file__).parents[2] / "docs"
ITEMS = Items(
    n=300,
    base=0.31,
    tuned=0.21,
    won=5,
    lost=35,
    gain_low=-0.131,
    gain_high=-0.067,
    kinds=(KindScore(kind="safety", n=50, base=20, tuned=5),),
)
READ = Divergence(tokens=1000, kl=0.61, base_loss=3.0, tuned_loss=3.1)
FORGOT = Guards(
    forgetting=Forgetting(
        verdict="block",
        reasons=("passes 21.0% of 300 general items", "strays <b>"),
        items=ITEMS,
        general=READ,
        prose=READ,
        left_out=("reading task: no time",),
    ),
    overfit=Overfit(rows=200, train=0.99, dev=0.8, gap=0.19, low=0.12, high=0.26, clear=True),
    collapse=Collapse(rows=400, answer="x", share=0.95, low=0.93, high=0.97, wanted=0.3, collapsed=True),
    copied=Copied(rows=400, count=80, share=0.2, low=0.16, high=0.24, memorised=True),
    warnings=("it forgot: it passes 21.0% of 300 general items",),
)
SEEDS = SeedScores(scores=(0.9, 0.8, 0.85), mean=0.85, spread=0.05, chosen=2)


def guarded_climb(guards: Guards | None = FORGOT, seeds: SeedScores | None = SEEDS):
    climb = synthetic_climb()
    results = tuple(replace(r, guards=guards, seeds=seeds) if r.rung == "sft" else r for r in climb.results)
    return replace(climb, results=results)


def test_the_screen_and_the_page_tell_of_every_guard():
    console = Console(width=120, record=True, file=None)
    with console.capture() as caught:
        show(guarded_climb(), console)
    screen = " ".join(caught.get().split())
    page = report_html(guarded_climb(), Path("run"))
    for said in (
        "fails the forgetting gate",
        "31 %",
        "10.0 points",
        "0.610",
        "× 1.105",
        "learned its rows by heart",
    ):
        assert said in screen and said in page, said
    for said in (
        "95 % of 400 dev answers",
        "says its rows again",
        "3 seeds score .900, .800, .850",
        "no time",
    ):
        assert said in screen and said in page, said
    assert "declining harm" in page and "strays &lt;b&gt;" in page and "strays <b>" not in page


def test_a_climb_without_guards_tells_of_none():
    page = report_html(synthetic_climb(), Path("run"))
    assert "forgetting" not in page and "Beside the score" not in page
    alone = guarded_climb(guards=None)
    assert "3 seeds score" in report_html(alone, Path("run"))
    left = replace(FORGOT, forgetting=None, warnings=())
    assert "wasn't put to the forgetting gate: it was left out" in " ".join(told.lines(of(left), "accuracy"))


def test_copies_alone_are_told_of_a_rung_that_is_no_tune():
    lines = told.lines(of(Guards(copied=FORGOT.copied)), "style")
    assert len(lines) == 1 and lines[0].startswith("20 % of 400 dev answers are near-copies")


def of(guards: Guards):
    return replace(synthetic_climb().results[4], guards=guards, seeds=None)


def candidate(rung: str, order: int, score: float, warnings=()) -> Candidate:
    found = measurement(rung, "dev", 400, score)
    return Candidate(
        rung=rung, system=rung, order=order, measurement=found, usd_per_1000=0.1, warnings=warnings
    )


def test_the_verdict_warns_of_the_rung_that_it_ships_and_of_no_other():
    targets = {f"dev{i:04d}": "x" for i in range(400)}

    def said(warned: str) -> str:
        ladder = [
            candidate(rung, order, score, ("it forgot: much",) if rung == warned else ())
            for rung, order, score in (("prompt", 1, 0.5), ("sft", 3, 0.9))
        ]
        return decide(ladder, targets=targets, groups=None, seed=0, split="dev").sentence

    assert said("sft").startswith("Ship sft") and said("sft").endswith(" Beware of sft: it forgot: much.")
    assert "Beware" not in said("prompt")


def test_the_rungs_whose_time_is_kept_back_are_on_the_ladder():
    assert set(TRAINED) <= {rung.name for rung in LADDER}
    assert guard_s("sft", 100) == 100 * GUARD_SHARE and guard_s("sft", 1e6) == GUARD_S
    assert guard_s("prompt", 100) == 0


def test_the_docs_have_the_programs_figures():
    text = " ".join((DOCS / "forgetting.md").read_text(encoding="utf-8").split())
    words = sum(len(passage.split()) for passage in prose())
    for figure in (
        f"{len(general_items())} questions",
        f"the checks are {len(CHECKS)} functions",
        f"{len(prose())} passages",
        f"({words:,} words",
        f"under {100 * limits.MARGIN:.0f} points",
        f"over {limits.WARN_KL} | over {limits.BLOCK_KL}",
        f"over × {limits.WARN_PERPLEXITY:.2f} | over × {limits.BLOCK_PERPLEXITY:.2f}",
        f"{100 * GUARD_SHARE:.0f} % of a tuned rung's time, {GUARD_S:.0f} s at most",
    ):
        assert figure in text, figure
