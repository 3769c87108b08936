"""How numbers and foreign text are written, on screen and on the page alike."""

import json
import math
import unicodedata
from collections.abc import Sequence

from rung.records import Json, MetricName
from rung.scoring.notation import NOTHING
from rung.scoring.notation import usd_text as usd_text
from rung.scoring.scorers import SCORERS

NBSP = "\N{NO-BREAK SPACE}"

METRIC_NAMES: dict[MetricName, str] = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "field_f1": "field F1",
    "exact": "exact match",
    "rouge_l": "ROUGE-L",
    "style": "style",
    "mae": "mean absolute error",
    "spearman": "Spearman correlation",
    "tool_call": "calls right",
    "execution": "execution accuracy",
    "judge": "judged win rate",
}


def metric_text(metric: MetricName) -> str:
    """The metric in words; the direction is named where less is better."""
    name = METRIC_NAMES[metric]
    return name if SCORERS[metric].higher_is_better else f"{name}, lower is better"


def title_text(metric: MetricName) -> str:
    """The metric's name as a heading begins with it; the capitals that it has stay."""
    name = METRIC_NAMES[metric]
    return name[0].upper() + name[1:]


def p_text(p: float) -> str:
    """A p-value: `p = .012`, or `p < .001`."""
    return f"p{NBSP}<{NBSP}.001" if p < 0.001 else f"p{NBSP}={NBSP}{_share(p)}"


def ms_text(seconds: float) -> str:
    """A latency in milliseconds, without the unit; a dash where none was measured."""
    if seconds <= 0:
        return NOTHING
    return f"{1000 * seconds:.1f}" if seconds < 0.00995 else f"{1000 * seconds:,.0f}"


def memory_text(mebibytes: float) -> str:
    """Memory: `412 MiB`, `1.9 GiB`; a dash where none was measured."""
    if mebibytes <= 0:
        return NOTHING
    return f"{mebibytes:,.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"


def opened_text(count: int) -> str:
    """How often the sealed test was opened, and what it means where that is more than once."""
    if count < 2:
        return ("not opened", "opened once")[count]
    often = "twice" if count == 2 else f"{count:,} times"
    return f"opened {often}, and each look makes its scores a little too good"


def round_count(count: float) -> str:
    """An estimated count, to two digits: `980,000`."""
    return f"{float(f'{count:.2g}'):,.0f}" if count >= 100 else f"{max(1, math.ceil(count))}"


def count_text(count: float, noun: str) -> str:
    """A count with its noun: `1 row`, `400 rows`."""
    return f"{count:,.0f} {noun}" + ("" if count == 1 else "s")


def places_text(places: Sequence[str], count: int) -> str:
    """Where the first of `count` rows stand, a file named once: `train.jsonl 3929, 4739 and 77 more`."""
    said, file = [], None
    for place in places:
        name, _, line = short(place, 80).rpartition(":")
        said.append(line if name == file else f"{name} {line}".strip())
        file = name
    more = f" and {count - len(places):,} more" if count > len(places) else ""
    return ", ".join(said) + more


def value_text(value: Json) -> str:
    """A target or an answer as text: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def short(text: str, limit: int = 280) -> str:
    """Foreign text on one line, at most `limit` characters, cut at a space where one is near."""
    line = " ".join(clean(text[: 4 * limit + 1000]).split())
    if len(line) <= limit and len(text) <= 4 * limit + 1000:
        return line
    cut = line[: limit - 1]
    space = cut.rfind(" ", limit * 3 // 4)
    return (cut if space < 0 else cut[:space]).rstrip() + "…"


def clean(text: str) -> str:
    """Foreign text without what could drive a terminal, turn its writing direction, or fail to be encoded."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in _UNSHOWN else _stand_in(c) for c in text
    )


_UNSHOWN = frozenset({"Cc", "Cs", "Cf", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # part of words in some scripts, and of emoji


def _stand_in(character: str) -> str:
    if character in _JOINERS:
        return character
    return " " if character in "\r\x0b\x0c\x85\u2028\u2029" else "\N{REPLACEMENT CHARACTER}"


def _share(value: float) -> str:
    written = f"{value:.3f}"
    return written.removeprefix("0") if value < 0.9995 else written
