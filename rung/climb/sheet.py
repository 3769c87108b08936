"""The sheet by which people check a judge: pairs of a climb's answers and the rows' outputs, to be marked."""

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rung.climb.again import rows_again
from rung.climb.stored import load_climb
from rung.errors import RunError, TaskError
from rung.records import Climb, Example, Json, Measurement
from rung.runs import need_lines_name, write_text

SHEET_PAIRS = 60

_Pair: TypeAlias = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class SheetOptions:
    """Where the sheet is written, how many pairs it holds at most, and of which rung alone, if so."""

    out: Path
    pairs: int = SHEET_PAIRS
    rung: str | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """How many pairs a sheet holds, and of which rungs."""

    pairs: int
    rungs: tuple[str, ...]


def write_sheet(run: Path, options: SheetOptions) -> Sheet:
    """Write random dev answers of a judged climb, each beside its row's output, in either order.

    They are of the rungs that the verdict is about; each line names those that gave its answer, with how many
    lines were drawn for each: a score is corrected by its whole sample or not at all. Answers that equal the
    output and those that couldn't be read are left out: they need no judge. Raises RungError where the run
    has no judged answers, and where the file is there already: it may hold somebody's work.
    """
    need_lines_name(options.out, "--out")
    if options.out.exists():
        raise TaskError(f"--out {str(options.out)!r} is there already; name another file")
    if options.pairs < 1:
        raise TaskError(f"--pairs {options.pairs}: give a number above 0")
    found = load_climb(run)
    if found.judged is None:
        raise RunError(
            f"{str(run)!r} was scored by {found.metric}, not by a judge: there is nothing to check"
        )
    rows = {e.id: e for e in rows_again(run).splits.dev}
    measured = {r.rung: r.dev for r in found.results if r.dev is not None}
    names = verdict_rungs(found) if options.rung is None else [options.rung]
    unknown = [name for name in names if name not in measured]
    if unknown:
        raise RunError(f"{str(run)!r} measured no rung {unknown[0]!r}; name one of {', '.join(measured)}")
    dice = random.Random(options.seed)
    drawn = draw({name: _pairs(measured[name], rows) for name in names}, options.pairs, dice)
    if not drawn:
        raise RunError(f"no answer of {' and '.join(names)} differs from its row's output: nothing to check")
    counts = Counter(name for _, of in drawn for name in of)
    lines = [_either_way(pair, {name: counts[name] for name in of}, dice) for pair, of in drawn]
    dice.shuffle(lines)
    write_text(options.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return Sheet(pairs=len(lines), rungs=tuple(names))


def verdict_rungs(found: Climb) -> list[str]:
    """The rung to ship and the one that it was compared with; else the first two measured."""
    decision = found.decision
    measured = [r.rung for r in found.results if r.dev is not None]
    ups = [c for c in decision.comparisons if c.dearer == decision.chosen]
    beaten = [c.cheaper for c in sorted(ups, key=lambda c: c.wins)]
    others = [c.dearer for c in decision.comparisons if c.cheaper == decision.chosen]
    named = [decision.chosen, decision.best, *reversed(beaten), *others, *measured]
    return list(dict.fromkeys(name for name in named if name is not None))[:2]


def draw(
    pairs: Mapping[str, Mapping[str, _Pair]], most: int, dice: random.Random
) -> list[tuple[_Pair, tuple[str, ...]]]:
    """Random pairs out of all that the rungs have, by what stands in each; with the rungs that have it.

    What falls to a rung is a simple random sample of its own pairs, as a part of one is (Cochran 1977,
    Sampling Techniques, chapter 2, on subpopulations). Samples drawn one after another, each from what is
    left, aren't: the later ones lack what rungs have in common.
    """
    every = {key: pair for of_rung in pairs.values() for key, pair in of_rung.items()}
    drawn = dice.sample(sorted(every), min(most, len(every)))
    return [(every[key], tuple(name for name in pairs if key in pairs[name])) for key in drawn]


def _pairs(found: Measurement, rows: Mapping[str, Example]) -> dict[str, _Pair]:
    """The answers that were compared with their row's output, each by what stands in it."""
    pairs: dict[str, _Pair] = {}
    for one in found.predictions:
        row, text = rows[one.example_id], one.answer.text.strip()
        if one.score is None or one.answer.value is None or text == str(row.output).strip():
            continue
        context = {"context": row.context} if row.context else {}
        pair = {**context, "input": row.input, "answer": text, "other": str(row.output)}
        pairs[json.dumps(pair)] = pair
    return pairs


def _either_way(pair: _Pair, drawn: Mapping[str, int], dice: random.Random) -> dict[str, Json]:
    """The pair to be marked; which of the two the System wrote isn't said."""
    answer, other = dice.sample([pair["answer"], pair["other"]], 2)
    return {**pair, "answer": answer, "other": other, "drawn": dict(drawn), "better": ""}
