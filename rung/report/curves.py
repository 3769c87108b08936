"""The chart of a learning curve: a rung's dev score by the rows that it learned from."""

import re
from html import escape

from rung.records import LearningCurve, MetricName
from rung.report.charts import ACCENT, MUTED, ON_PAGE, framed, score_label
from rung.report.notation import count_text, metric_text, title_text
from rung.scoring.notation import interval_text, score_text

HEIGHT_PX = 150


def curve_svg(curve: LearningCurve, metric: MetricName, width: int) -> str:
    """The chart as SVG text, its plot `width` pixels wide; empty with fewer than two points."""
    if len(curve.points) < 2:
        return ""
    import altair as alt
    import vl_convert

    rows = [
        {"rows": p.rows, "score": p.score, "low": p.interval.low, "high": p.interval.high}
        for p in curve.points
    ]
    x = alt.X(
        "rows:Q",
        title="training rows (log scale)",
        scale=alt.Scale(type="log", domain=[rows[0]["rows"] / 1.3, rows[-1]["rows"] * 1.3], nice=False),
        axis=alt.Axis(grid=False, values=[row["rows"] for row in rows], labelExpr="format(datum.value, ',')"),
    )
    spread = max(row["high"] for row in rows) - min(row["low"] for row in rows)
    y_axis = alt.Axis(tickCount=4, domain=False, ticks=False, labelExpr=score_label(metric, spread))
    y = alt.Y("low:Q", title=f"{metric_text(metric)}, dev", scale=alt.Scale(zero=False), axis=y_axis)
    base = alt.Chart(alt.Data(values=rows)).encode(x=x)
    chart = alt.layer(
        base.mark_rule(strokeWidth=2, color=MUTED).encode(y=y, y2="high:Q"),
        base.mark_line(strokeWidth=2, color=ACCENT).encode(y="score:Q"),
        base.mark_point(size=60, fill=ACCENT, stroke=ACCENT, opacity=1).encode(y="score:Q"),
    )
    chart = framed(chart, width, HEIGHT_PX)
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())
    for stand_in, css in ON_PAGE.items():
        drawn = drawn.replace(f'"{stand_in}"', f'"{css}"')
    return _described(drawn, curve, metric)


def _described(svg: str, curve: LearningCurve, metric: MetricName) -> str:
    """Give the picture a name and a text that says the same, for those who don't see it."""
    title = f"{title_text(metric)} of {curve.rung} by training rows"
    said = "; ".join(
        f"{count_text(p.rows, 'row')}: {score_text(p.score, metric)} ({interval_text(p.interval, metric)})"
        for p in curve.points
    )
    width, height = re.findall(r'width="([0-9.]+)" height="([0-9.]+)"', svg)[0]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    )
    return f"{opening}<title>{escape(title)}</title><desc>{escape(said)}.</desc>{svg[svg.index('>') + 1 :]}"
