"""Local Systems against a hosted model: from how many requests a month on each of them costs less."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rung.records import Climb, RungResult
from rung.report.charts import ACCENT, FONT_SIZE, INK, MUTED, ON_PAGE, framed
from rung.report.notation import count_text, round_count, usd_text
from rung.report.summary import build_usd, measured
from rung.scoring.cost import (
    AMORTISED_MONTHS,
    HOURS_A_MONTH,
    break_even_rented,
    break_even_requests,
    monthly_usd,
    rented_usd,
)

HEIGHT_PX = 300
FEWEST, MOST = 1e2, 1e8
"""Requests a month that the chart spans at least."""
STEPS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A local System against the hosted one, per month. None: it never costs less.

    `busy` counts the hours in which the machine answers, `rented` machines that are on all month.
    """

    rung: str
    hosted: str
    usd_per_1000: float
    build_usd: float
    seconds_per_answer: float
    here_usd: float | None
    there_usd: float | None
    busy: float | None
    rented: float | None


def hosted_result(climb: Climb) -> RungResult | None:
    """The hosted rung, where it was measured."""
    return next((r for r, _ in measured(climb) if r.price is not None), None)


def volumes(climb: Climb) -> list[Volume]:
    """Each measured local System against the hosted one, in the ladder's order; none without that."""
    hosted = hosted_result(climb)
    if hosted is None:
        return []
    return [_volume(climb, result, hosted) for result, _ in measured(climb) if result.price is None]


def volume_lines(climb: Climb) -> list[str]:
    """The same in words, for the terminal."""
    return [
        f"{one.rung} costs less than {one.hosted} {_from(one.busy)} by the hours in which it answers, "
        f"{_from(one.rented)} on a machine that is on all month"
        for one in volumes(climb)
    ]


def volume_cells(one: Volume) -> tuple[str, str]:
    """Both break-evens as cells of a table."""
    return _cell(one.busy), _cell(one.rented)


def volume_svg(climb: Climb, width: int) -> str:
    """Dollars a month by requests a month as SVG text, its plot `width` pixels wide; empty without both."""
    hosted, local = hosted_result(climb), volumes(climb)
    if hosted is None or not local or hosted.usd_per_1000 <= 0:
        return ""
    import altair as alt
    import vl_convert

    shown = next((one for one in local if one.rung == climb.decision.chosen), local[-1])
    low, high = _span(climb, local)
    steps = [low * (high / low) ** (at / STEPS) for at in range(STEPS + 1)]
    lines = {
        hosted.rung: [monthly_usd(v, hosted.usd_per_1000) for v in steps],
        shown.rung: [monthly_usd(v, shown.usd_per_1000, shown.build_usd) for v in steps],
        f"{shown.rung}, machine on all month": [
            rented_usd(v, shown.seconds_per_answer, climb.usd_per_hour, shown.build_usd) for v in steps
        ],
    }
    looks = ((ACCENT, [1, 0]), (INK, [1, 0]), (MUTED, [5, 4]))
    costs = [usd for line in lines.values() for usd in line if usd > 0]
    x_axis = alt.Axis(grid=False, tickCount=6, labelExpr="format(datum.value, '~s')")
    y_axis = alt.Axis(tickCount=5, domain=False, ticks=False, labelExpr="'$' + format(datum.value, '~s')")
    x = alt.X(
        "requests:Q",
        title="requests a month (log scale)",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=x_axis,
    )
    y = alt.Y(
        "usd:Q",
        title="US dollars a month (log scale)",
        scale=alt.Scale(type="log", domain=[min(costs) / 1.5, max(costs) * 1.5], nice=False, clamp=True),
        axis=y_axis,
    )
    layers = []
    for (name, line), (colour, dash) in zip(lines.items(), looks, strict=True):
        rows = [{"requests": v, "usd": usd} for v, usd in zip(steps, line, strict=True) if usd > 0]
        base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y)
        layers.append(base.mark_line(strokeWidth=2, color=colour, strokeDash=dash))
        del name
    if climb.answers_per_month and low <= climb.answers_per_month <= high:
        at = alt.Chart(alt.Data(values=[{"requests": climb.answers_per_month}])).encode(x=x)
        layers.append(at.mark_rule(strokeWidth=1, color=MUTED, strokeDash=[2, 3]))
    drawn = vl_convert.vegalite_to_svg(framed(alt.layer(*layers), width, HEIGHT_PX).to_dict())
    for stand_in, css in ON_PAGE.items():
        drawn = drawn.replace(f'"{stand_in}"', f'"{css}"')
    return _described(drawn, volume_lines(climb))
