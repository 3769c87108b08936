"""What one and the same answer to every test row scores on public sets: the floor of each climb.

    python benchmarks/floor.py ../shared/data --sets glue_stsb bridge_tutor_reply

The answer is the best one of the training rows; rows are those that `climb_ladder.py` climbs on. The script
prints a Markdown table.
"""

import argparse
import tempfile
from pathlib import Path

from climb_ladder import SETS, made

from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.records import Answer
from rung.report.notation import metric_text, short
from rung.scoring.constant import constant_answer
from rung.scoring.measure import measurement
from rung.scoring.notation import interval_text, score_text


def main() -> None:
    """A line for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", required=True, choices=SETS, metavar="SET")
    given = parser.parse_args()
    print("| set | metric | always | test rows | scores |\n|---|---|---|---|---|")
    for name in given.sets:
        with tempfile.TemporaryDirectory() as place:
            chosen = SETS[name]
            made(chosen, given.folder / (chosen.source or name), Path(place), None)
            prepared = prepare(Path(place), Options())
        metric, test = prepared.task.metric, prepared.splits.test
        assert metric is not None, "the task was completed from its rows"
        answer = constant_answer([row.output for row in prepared.splits.train], metric)
        if answer is None:
            continue
        given_answer = Answer(text=str(answer), value=answer)
        found = measurement(
            system=name, split="test", metric=metric, examples=test, answers=[given_answer] * len(test)
        )
        print(
            f"| {name} | {metric_text(metric)} | {short(str(answer), 60) or 'nothing'} | {found.n:,} "
            f"| {score_text(found.score, metric)} ({interval_text(found.interval, metric)}) |"
        )


if __name__ == "__main__":
    main()
