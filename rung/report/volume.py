"""Local Systems against hosted models: from how many requests a month on each of them costs less."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rung.records import Climb, RungResult
from rung.report.charts import ACCENT, FONT_SIZE, INK, MUTED, ON_PAGE, PAGE, framed, log_ticks
from rung.report.notation import round_count, usd_text
from rung.report.summary import build_usd, measured
from rung.scoring.cost import (
    break_even_rented,
    break_even_requests,
    monthly_usd,
    rented_usd,
)
from rung.scoring.scorers import SCORERS

HEIGHT_PX = 300
LEAST, MOST = 1e3, 1e6
"""Requests a month that the chart spans where nothing says more."""
STEPS = 60
THIN, THICK = 1, 2
LABEL_PX = 14
TICK_PX = 40
CENT = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A local System against a hosted one, per month. None: it never costs less.

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


def hosted_results(climb: Climb) -> list[RungResult]:
    """The hosted candidates that were measured, in the task's order."""
    return [r for r, _ in measured(climb) if r.price is not None]


def drawn_hosted(climb: Climb) -> list[RungResult]:
    """Those of them that have a line in the chart: at no price there is none on its axis."""
    return [one for one in hosted_results(climb) if one.usd_per_1000 > 0]


def volumes(climb: Climb) -> list[Volume]:
    """Each measured local System against each hosted one, in the ladder's order; none without these."""
    return [
        _volume(climb, result, hosted)
        for hosted in hosted_results(climb)
        for result, _ in measured(climb)
        if result.price is None
    ]


def hosted_names(local: Sequence[Volume]) -> list[str]:
    """The hosted models that local Systems are set against."""
    return list(dict.fromkeys(one.hosted for one in local))


def volume_lines(local: Sequence[Volume]) -> list[str]:
    """The same in words."""
    return [
        f"{one.rung} costs less than {one.hosted} {_from(one.busy)} by the hours in which it answers, "
        f"{_from(one.rented)} on a machine that is on all month"
        for one in local
    ]


def hosted_notes(climb: Climb) -> list[tuple[str, str]]:
    """(term, text) of what hosted models cost: against each local System, and in this climb.

    Of several hosted models against one System each: the page has them all.
    """
    local = volumes(climb)
    if len(hosted_names(local)) > 1:
        shown = charted(climb, local).rung
        local = [one for one in local if one.rung == shown]
    told = [("" if number else "Against hosted", line) for number, line in enumerate(volume_lines(local))]
    if climb.paid_usd:
        paid, cap = usd_text(climb.paid_usd), usd_text(climb.paid_cap_usd)
        told.append(("Paid", f"{paid} to hosted models, of {cap} at most"))
    return told


def volume_cells(one: Volume) -> tuple[str, str]:
    """Both break-evens as cells of a table."""
    return _cell(one.busy), _cell(one.rented)


def volume_svg(climb: Climb, width: int) -> str:
    """Dollars a month by requests a month as SVG text, its plot `width` pixels wide; empty without both."""
    hosted, local = drawn_hosted(climb), volumes(climb)
    if not hosted or not local:
        return ""
    import altair as alt
    import vl_convert

    shown = charted(climb, local)
    low, high = _span(climb, local)
    steps = [low * (high / low) ** (at / STEPS) for at in range(STEPS + 1)]
    rented = [rented_usd(v, shown.seconds_per_answer, climb.usd_per_hour, shown.build_usd) for v in steps]
    busy = {one.rung: [monthly_usd(v, one.usd_per_1000, one.build_usd) for v in steps] for one in local}
    theirs = {
        one.rung: [monthly_usd(v, one.usd_per_1000, build_usd(climb, one)) for v in steps] for one in hosted
    }
    lines = (
        *((line, MUTED, [1, 0], THIN) for rung, line in busy.items() if rung != shown.rung),
        *((line, ACCENT, [1, 0], THICK) for line in theirs.values()),
        (busy[shown.rung], INK, [1, 0], THICK),
        (rented, MUTED, [5, 4], THICK),
    )
    costs = [usd for line, *_ in lines for usd in line if usd > 0]
    ends = [max(CENT, min(costs) / 1.5), max(costs) * 1.5]
    x_axis = alt.Axis(grid=False, tickCount=6, labelExpr="format(datum.value, '~s')")
    y_axis = alt.Axis(
        values=log_ticks(ends[0], ends[1], HEIGHT_PX // TICK_PX),
        domain=False,
        ticks=False,
        labelExpr="'$' + format(datum.value, ',~r')",
    )
    x = alt.X(
        "requests:Q",
        title="requests a month (log scale)",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=x_axis,
    )
    y = alt.Y(
        "usd:Q",
        title="US dollars a month (log scale)",
        scale=alt.Scale(type="log", domain=ends, nice=False, clamp=True),
        axis=y_axis,
    )
    layers = []
    for line, colour, dash, stroke in lines:
        rows = [{"requests": v, "usd": usd} for v, usd in zip(steps, line, strict=True) if usd > 0]
        base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y)
        layers.append(base.mark_line(strokeWidth=stroke, color=colour, strokeDash=dash))
    names = {rung: line[-1] for rung, line in (*theirs.items(), *busy.items())}
    told = [
        {"requests": high, "usd": usd, "name": name}
        for name, usd in _apart({name: usd for name, usd in names.items() if usd > 0}, ends)
    ]
    text = alt.Chart(alt.Data(values=told)).encode(x=x, y=y, text="name:N")
    place = {"align": "right", "baseline": "bottom", "dx": -4, "dy": -3, "fontSize": FONT_SIZE - 1}
    # Names may lie on other lines: those end around the letters.
    layers.append(text.mark_text(**place, color=PAGE, stroke=PAGE, strokeWidth=4))
    layers.append(text.mark_text(**place, color=MUTED))
    if climb.answers_per_month and low <= climb.answers_per_month <= high:
        at = alt.Chart(alt.Data(values=[{"requests": climb.answers_per_month}])).encode(x=x)
        layers.append(at.mark_rule(strokeWidth=1, color=MUTED, strokeDash=[2, 3]))
    drawn = vl_convert.vegalite_to_svg(framed(alt.layer(*layers), width, HEIGHT_PX).to_dict())
    for stand_in, css in ON_PAGE.items():
        drawn = drawn.replace(f'"{stand_in}"', f'"{css}"')
    return _described(drawn, volume_lines(local))


def _apart(names: Mapping[str, float], ends: Sequence[float]) -> list[tuple[str, float]]:
    """Names at the ends of their lines, in dollars; those that are closer than a line of text as one."""
    pixel = math.log(ends[1] / ends[0]) / HEIGHT_PX
    found: list[tuple[str, float]] = []
    for name, usd in sorted(names.items(), key=lambda one: -one[1]):
        if found and math.log(found[-1][1] / usd) < LABEL_PX * pixel:
            found[-1] = (f"{found[-1][0]}, {name}", found[-1][1])
        else:
            found.append((name, usd))
    return found


def charted(climb: Climb, local: Sequence[Volume]) -> Volume:
    """The local System of the chart: the chosen one, else the one that scores best."""
    scores = {result.rung: found.score for result, found in measured(climb)}
    up = SCORERS[climb.metric].higher_is_better
    chosen = [one for one in local if one.rung == climb.decision.chosen]
    return chosen[0] if chosen else max(local, key=lambda one: scores[one.rung] * (1 if up else -1))


def _volume(climb: Climb, result: RungResult, hosted: RungResult) -> Volume:
    built, prompt_usd, month = build_usd(climb, result), build_usd(climb, hosted), climb.answers_per_month
    answer_s = result.dev.seconds_per_answer if result.dev is not None else 0.0
    # The hosted model may be asked with a prompt that was searched for here: that has to pay for neither.
    more = max(0.0, built - prompt_usd)
    return Volume(
        rung=result.rung,
        hosted=hosted.rung,
        usd_per_1000=result.usd_per_1000,
        build_usd=built,
        seconds_per_answer=answer_s,
        here_usd=monthly_usd(month, result.usd_per_1000, built) if month else None,
        there_usd=monthly_usd(month, hosted.usd_per_1000, prompt_usd) if month else None,
        busy=break_even_requests(more, result.usd_per_1000, hosted.usd_per_1000),
        rented=break_even_rented(more, answer_s, climb.usd_per_hour, hosted.usd_per_1000)
        if answer_s > 0
        else None,
    )


def _from(requests: float | None) -> str:
    if requests is None:
        return "at no volume"
    return (
        "from the first request on"
        if requests < 1
        else f"from about {round_count(requests)} requests a month"
    )


def _cell(requests: float | None) -> str:
    if requests is None:
        return "never"
    return "always" if requests < 1 else round_count(requests)


def _span(climb: Climb, local: Sequence[Volume]) -> tuple[float, float]:
    """Requests a month from a tenth of the least volume that matters to ten times the most."""
    marks = [v for one in local for v in (one.busy, one.rented) if v is not None and v >= 1]
    marks += [climb.answers_per_month] if climb.answers_per_month else []
    low, high = min(marks, default=LEAST), max(marks, default=MOST)
    return max(1.0, 10.0 ** math.floor(math.log10(low / 3))), 10.0 ** math.ceil(math.log10(high * 3))


def _described(svg: str, lines: Sequence[str]) -> str:
    """Give the picture a name and a text that says the same, for those who don't see it."""
    title = "Dollars a month by requests a month"
    width, height = re.findall(r'width="([0-9.]+)" height="([0-9.]+)"', svg)[0]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    )
    said = escape("; ".join(lines))
    return f"{opening}<title>{escape(title)}</title><desc>{said}.</desc>{svg[svg.index('>') + 1 :]}"
