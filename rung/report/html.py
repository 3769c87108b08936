"""The report as one self-contained HTML file: no script, no network, the same bytes for the same climb."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rung.climb.ending import is_untested
from rung.climb.names import rung_of
from rung.guards import told
from rung.records import Climb, Finding
from rung.report import notation, summary
from rung.report.charts import charted_split, floor_drawn, quality_cost_svg
from rung.report.curves import curve_svg
from rung.report.plain import in_plain_words
from rung.report.volume import charted, drawn_hosted, hosted_names, volume_cells, volume_svg, volumes
from rung.runs import write_text
from rung.scoring.notation import duration_text, gain_text, interval_text, percent_text, score_text
from rung.web import COLOURS

TEMPLATES = Path(__file__).parent / "templates"
DISAGREEMENTS = 12
WIDE_PX = 770
NARROW_PX = 290
CURVE_PX = 270
VOLUME_PX = 560


def write_report(climb: Climb, path: Path, run: Path | None = None) -> None:
    """Write the page. `run` is the folder that holds the winner, by default the page's own folder."""
    write_text(path, report_html(climb, run or path.parent))


def report_html(climb: Climb, run: Path) -> str:
    """The page as text; `run` is named in the commands that it shows."""
    return environment().get_template("report.html.jinja").render(**_view(climb, run))


def _view(climb: Climb, run: Path) -> dict[str, Any]:
    """What the template sees. The charts are markup of our own; everything else is escaped."""
    from markupsafe import Markup

    measured = summary.measured(climb)
    return {
        "climb": climb,
        "plain": in_plain_words(climb),
        "rows": summary.rows(climb),
        "several": summary.on_models(climb),
        "facts": summary.facts(climb),
        "measured": measured,
        "charted_split": charted_split(climb),
        "tested": [result.rung for result, m in measured if m.split == "test"],
        "untested": [result.rung for result in climb.results if is_untested(result)],
        "dev_only": any(m.split == "dev" and not result.stopped for result, m in measured),
        "stopped": any(result.stopped for result in climb.results),
        "secondary": [name for name, _ in measured[0][1].secondary] if measured else [],
        "tried": [r for r in climb.results if r.trials or r.found or r.notes or r.parity],
        "wide_chart": Markup(quality_cost_svg(climb, WIDE_PX)),
        "narrow_chart": Markup(quality_cost_svg(climb, NARROW_PX)),
        "floor_drawn": floor_drawn(climb),
        "calibrations": summary.calibrations(climb),
        "guarded": [r for r in climb.results if r.guards is not None or r.seeds is not None],
        "tuned": any(r.guards is not None and r.guards.collapse is not None for r in climb.results),
        "reliability": summary.reliability(climb),
        "curve_charts": [Markup(curve_svg(curve, climb.metric, CURVE_PX)) for curve in climb.curves],
        "disagreements": climb.disagreements[:DISAGREEMENTS],
        "tests_on_dev": summary.tests_on_dev(climb),
        "break_even": summary.break_even(climb),
        "volumes": (local := volumes(climb)),
        "volume_hosted": hosted_names(local),
        "volume_drawn": [one.rung for one in drawn_hosted(climb)],
        "volume_local": len({one.rung for one in local}),
        "volume_charted": charted(climb, local).rung if local else "",
        "volume_chart": Markup(volume_svg(climb, VOLUME_PX)),
        "findings": by_gravity(climb.findings),
        "checks": climb.checks,
        "peaks": summary.peaks_text(climb),
        "winner": shlex.quote(str(run / climb.winner)) if climb.winner else None,
    }


def coded(text: str) -> Any:
    """Escaped text with what stands between two backticks as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    shown = (
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts)
    )
    return Markup("").join(shown)


_GRAVITY = ("block", "warn", "info")


def by_gravity(findings: Sequence[Finding]) -> list[Finding]:
    """The gravest first, otherwise in their order."""
    return sorted(findings, key=lambda finding: _GRAVITY.index(finding.severity))


def parted(sentence: str) -> tuple[str, str]:
    """A verdict's first clause, which says it, and the rest, which says why. Never cut inside brackets."""
    ends = re.finditer(r"(?<=[\w)])[.;](?= [A-Za-z])", sentence)
    cut = next((end for end in ends if _is_even(sentence[: end.start()])), None)
    if cut is None:
        return sentence, ""
    rest = sentence[cut.end() :].strip()
    return f"{sentence[: cut.start()]}.", rest[0].upper() + rest[1:]


def _is_even(text: str) -> bool:
    """Whether each bracket is closed."""
    return text.count("(") == text.count(")")


def environment() -> Any:
    """Jinja with the report's filters; everything that it fills in is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, COLOURS.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "clean": notation.clean,
        "coded": coded,
        "parted": parted,
        "places": notation.places_text,
        "short": notation.short,
        "count": notation.count_text,
        "duration": duration_text,
        "gain": gain_text,
        "interval": interval_text,
        "memory": notation.memory_text,
        "metric": notation.metric_text,
        "ms": notation.ms_text,
        "p": notation.p_text,
        "percent": percent_text,
        "rung": rung_of,
        "score": score_text,
        "usd": notation.usd_text,
        "target": summary.target_text,
        "answers": summary.disagreement_answers,
        "parity": summary.parity_text,
        "volume": volume_cells,
        "guard_headline": told.headline,
        "guard_measures": told.measures,
        "guard_fit": told.fit_lines,
        "seeds": told.seeds_text,
    }
    environment.globals["build_usd"] = summary.build_usd
    return environment
