"""The chart of quality against cost, as an SVG that takes its colours from the page around it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from rung.records import Climb, Interval, Measurement, MetricName, RungResult, SplitName
from rung.report.notation import metric_text, title_text, usd_text
from rung.report.summary import measured
from rung.scoring.notation import interval_text, score_text
from rung.scoring.scorers import SCORERS

if TYPE_CHECKING:
    import altair

FONT = "system-ui, sans-serif"
FONT_SIZE = 13
LETTER_PX = 7.4  # a generous mean for a sans-serif face of that size: labels must not touch
LINE_PX = 16.0
HEIGHT_PX = 340
FLOOR_LABEL = "always one answer"

# Vega wants real colours; these stand for what the page's style sheet decides, and are replaced in the SVG.
INK, MUTED, LINE, ACCENT, PAGE = "#010101", "#020202", "#030303", "#040404", "#050505"
ON_PAGE = {
    INK: "currentColor",
    MUTED: "var(--muted, #666)",
    LINE: "var(--line, #ddd)",
    ACCENT: "var(--accent, #0a6b5d)",
    PAGE: "var(--page, #fff)",
}

Box: TypeAlias = tuple[float, float, float, float]
Place: TypeAlias = tuple[float, float, str]
"""dx and dy from the point in pixels, and which edge of the text lies there: left, center or right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One rung on the chart. `low` and `high` bound its score."""

    rung: str
    usd: float
    score: float
    low: float
    high: float
    shipped: bool
    note: str = ""

    @property
    def label(self) -> str:
        """What is written beside the point: `note` tells of which other rows its score is."""
        return f"{self.rung} ({self.note})" if self.note else self.rung


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """From values to pixels: `log` or straight, `low` at pixel `start`, `high` at pixel `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def pixel(self, value: float) -> float:
        """Where a value lies."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def charted_split(climb: Climb) -> SplitName:
    """On which rows the rungs are drawn: on test where it was opened for two of them at least, else on dev.

    One score on test beside others on dev would show differences that the verdict doesn't speak of.
    """
    return "test" if sum(found.split == "test" for _, found in measured(climb)) > 1 else "dev"


def points(climb: Climb) -> list[Point]:
    """The measured rungs in the ladder's order."""
    split = charted_split(climb)
    pairs = [(result, (split == "dev" and result.dev) or found) for result, found in measured(climb)]
    return [_point(climb, result, found, split) for result, found in pairs]


def quality_cost_svg(climb: Climb, width: int) -> str:
    """The chart as SVG text, its plot `width` pixels wide; empty without a measured rung."""
    shown = points(climb)
    if not shown:
        return ""
    import vl_convert

    across, upright = _scales(shown, climb.metric, width)
    chart = _chart(climb, shown, across, upright)
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())
    return _described(_on_page(drawn), climb.metric, shown)


def floor_drawn(climb: Climb) -> bool:
    """Whether what one and the same answer scores lies on the chart, which isn't stretched for it."""
    shown = points(climb)
    if climb.constant is None or not shown or climb.constant.split != charted_split(climb):
        return False
    _, upright = _scales(shown, climb.metric, 1)
    return upright.low < climb.constant.score < upright.high


def floor_place(
    shown: Sequence[Point], across: Scale, upright: Scale, score: float
) -> tuple[float, float, Box]:
    """Where the name of the line at `score` stands: x and y of its left end's middle (pixels), and its box.

    Above or below the line, at its left or right end, wherever it meets the fewest points and bars.
    """
    wide, line = len(FLOOR_LABEL) * LETTER_PX, upright.pixel(score)
    tries = [
        (x, line + dy, (x, line + dy - LINE_PX / 2, x + wide, line + dy + LINE_PX / 2))
        for dy in (-LINE_PX * 0.6, LINE_PX * 0.6)
        for x in (across.start + 6, across.end - wide - 6)
    ]
    taken = _marks(shown, across, upright)
    return min(tries, key=lambda t: sum(_overlap(t[2], other) for other in taken))


def _marks(shown: Sequence[Point], across: Scale, upright: Scale) -> list[Box]:
    """What points and bars cover."""
    dots = [(across.pixel(p.usd), upright.pixel(p.score)) for p in shown]
    ends = [sorted((upright.pixel(p.high), upright.pixel(p.low))) for p in shown]
    return [(x - 7, y - 7, x + 7, y + 7) for x, y in dots] + [
        (x - 1, top, x + 1, bottom) for (x, _), (top, bottom) in zip(dots, ends, strict=True)
    ]


def label_places(
    shown: Sequence[Point], across: Scale, upright: Scale, besides: Sequence[Box] = ()
) -> list[Place]:
    """Where each label goes from its point: beside it, at an end of its bar, or shifted, where it is free.

    `besides` are boxes that something else is written in.
    """
    dots = [(across.pixel(p.usd), upright.pixel(p.score)) for p in shown]
    ends = [sorted((upright.pixel(p.high), upright.pixel(p.low))) for p in shown]
    taken = [*_marks(shown, across, upright), *besides]
    places = []
    for point, (x, y), (top, bottom) in zip(shown, dots, ends, strict=True):
        wide = len(point.label) * LETTER_PX
        at_ends = ((0.0, top - y - LINE_PX / 2, "center"), (0.0, bottom - y + LINE_PX / 2, "center"))
        tries = [(_box(x, y, place, wide), place) for place in (*_BESIDE, *at_ends, *_SHIFTED)]
        inside = [t for t in tries if t[0][0] >= across.start and t[0][2] <= across.end] or tries
        box, place = min(inside, key=lambda t: sum(_overlap(t[0], other) for other in taken))
        taken.append(box)
        places.append(place)
    return places


_BESIDE: tuple[Place, ...] = ((12.0, 0.0, "left"), (-12.0, 0.0, "right"))
_SHIFTED: tuple[Place, ...] = tuple(
    (dx, dy, align) for dy in (-12.0, 12.0, -24.0, 24.0, -36.0, 36.0) for dx, _, align in _BESIDE
)


def _box(x: float, y: float, place: Place, wide: float) -> Box:
    dx, dy, align = place
    left = x + dx - {"left": 0.0, "center": wide / 2, "right": wide}[align]
    return (left, y + dy - LINE_PX / 2, left + wide, y + dy + LINE_PX / 2)


def _overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _point(climb: Climb, result: RungResult, found: Measurement, split: SplitName) -> Point:
    note = "" if found.split == split else found.split
    if result.stopped and found.split == "dev":
        note = f"{result.stopped.rows:,} dev rows"
    return Point(
        rung=result.rung,
        usd=result.usd_per_1000,
        score=found.score,
        low=min(found.interval.low, found.score),
        high=max(found.interval.high, found.score),
        shipped=result.rung == climb.decision.chosen,
        note=note,
    )


def _scales(shown: Sequence[Point], metric: MetricName, width: int) -> tuple[Scale, Scale]:
    costs = [p.usd for p in shown]
    if min(costs) > 0:
        across = Scale(low=min(costs) / 2.2, high=max(costs) * 2.2, start=0, end=width, log=True)
    else:
        high = max(costs) * 1.25 or 1.0
        across = Scale(low=-high / 20, high=high, start=0, end=width)
    low, high = min(p.low for p in shown), max(p.high for p in shown)
    room = max((high - low) * 0.08, 0.01 if SCORERS[metric].shares else abs(high) * 0.05, 1e-9)
    low, high = low - room, high + room
    if SCORERS[metric].shares:
        low, high = max(low, -1 if low + room < 0 else 0), min(high, 1 + room / 2)
    return across, Scale(low=low, high=high, start=HEIGHT_PX, end=0)


def _chart(climb: Climb, shown: Sequence[Point], across: Scale, upright: Scale) -> "altair.TopLevelMixin":
    """Bars for the intervals, a dot for each rung, and a layer of text for each label: places differ."""
    import altair as alt

    x = alt.X(
        "usd:Q",
        title="US dollars per 1,000 answers" + (" (log scale)" if across.log else ""),
        scale=alt.Scale(type="log" if across.log else "linear", domain=[across.low, across.high], nice=False),
        axis=alt.Axis(grid=False, labelExpr="'$' + format(datum.value, '~r')", **_ticks(across)),
    )
    y_axis = alt.Axis(
        tickCount=5,
        domain=False,
        ticks=False,
        labelExpr=score_label(climb.metric, upright.high - upright.low),
    )
    y_scale = alt.Scale(domain=[upright.low, upright.high], nice=False, zero=False)
    title = f"{metric_text(climb.metric)}, {charted_split(climb)} rows"
    layers, besides = [], []
    floor = climb.constant
    if floor is not None and floor_drawn(climb):
        at, middle, box = floor_place(shown, across, upright, floor.score)
        besides.append(box)
        line = alt.Chart(alt.Data(values=[{"score": floor.score, "label": FLOOR_LABEL}]))
        height = alt.Y("score:Q", title=title, scale=y_scale, axis=y_axis)
        layers += [
            line.mark_rule(strokeDash=[4, 4], color=MUTED).encode(y=height),
            line.mark_text(
                align="left",
                baseline="middle",
                fontSize=FONT_SIZE - 1,
                color=MUTED,
                dy=middle - upright.pixel(floor.score),
            ).encode(x=alt.value(at), y=height, text="label:N"),
        ]
    places = label_places(shown, across, upright, besides)
    for point, (dx, dy, align) in zip(shown, places, strict=True):
        colour = ACCENT if point.shipped else MUTED
        row = {
            "usd": point.usd,
            "score": point.score,
            "low": point.low,
            "high": point.high,
            "label": point.label,
        }
        base = alt.Chart(alt.Data(values=[row])).encode(x=x)
        layers += [
            base.mark_rule(strokeWidth=2, color=colour).encode(
                y=alt.Y("low:Q", title=title, scale=y_scale, axis=y_axis), y2="high:Q"
            ),
            base.mark_point(
                size=150 if point.shipped else 80,
                fill=ACCENT if point.shipped else PAGE,
                stroke=colour,
                strokeWidth=2,
                opacity=1,
            ).encode(y="score:Q"),
            base.mark_text(
                align=cast("Any", align),
                baseline="middle",
                dx=dx,
                dy=dy,
                fontSize=FONT_SIZE,
                fontWeight="bold" if point.shipped else "normal",
                color=ACCENT if point.shipped else INK,
            ).encode(y="score:Q", text="label:N"),
        ]
    return framed(alt.layer(*layers), across.end, HEIGHT_PX)


def framed(chart: Any, width: float, height: int) -> Any:
    """A layered chart of this size (pixels) in the page's type and lines, on its own ground."""
    return (
        chart.properties(width=width, height=height, background="transparent", padding=4)
        .configure(font=FONT, aria=False)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=MUTED,
            titleColor=MUTED,
            gridColor=LINE,
            domainColor=LINE,
            tickColor=LINE,
            labelFontSize=FONT_SIZE - 1,
            titleFontSize=FONT_SIZE,
            titleFontWeight="normal",
            titlePadding=10,
            labelPadding=6,
        )
    )


def _ticks(scale: Scale) -> dict[str, Any]:
    """What an axis of costs marks."""
    if not scale.log:
        return {"tickCount": 5}
    return {"values": log_ticks(scale.low, scale.high, int(scale.end - scale.start) // 80)}


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values to mark on a log axis: 1, 2 and 5 of each decade, or fewer where over `most` crowd."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [float(f"{step}e{d}") for d in decades for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) <= max(3, most):
            break
    return found


def score_label(metric: MetricName, spread: float) -> str:
    """A Vega expression that writes a score as the rest of the report does, on an axis of this length."""
    if not SCORERS[metric].shares:
        return "format(datum.value, '~g')"
    digits = 3 if spread < 0.05 else 2
    plain = f"format(datum.value, '.{digits}f')"
    return f"datum.value >= 0 && datum.value < 0.9995 ? slice({plain}, 1) : {plain}"


def _on_page(svg: str) -> str:
    for stand_in, css in ON_PAGE.items():
        svg = svg.replace(f'"{stand_in}"', f'"{css}"')
    return svg


def _described(svg: str, metric: MetricName, shown: Sequence[Point]) -> str:
    """Give the picture a name and a text that says the same, for those who don't see it."""
    title = f"{title_text(metric)} against cost"
    said = [
        f"{p.label}: {score_text(p.score, metric)} "
        f"({interval_text(Interval(low=p.low, high=p.high), metric)}) at {usd_text(p.usd)} per 1,000"
        + (", shipped" if p.shipped else "")
        for p in shown
    ]
    inside = f"<title>{escape(title)}</title><desc>{escape('; '.join(said))}.</desc>"
    width, height = _SIZE.findall(svg)[0]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    )
    return opening + inside + svg[svg.index(">") + 1 :]


_SIZE = re.compile(r'width="([0-9.]+)" height="([0-9.]+)"')
