"""Climb public sets as tasks, each with the rungs that should matter there, and print each table as Markdown.

    python benchmarks/climb_ladder.py ../shared/data --sets xquad_en wikisql_partial_header --budget 20m

A set is a folder with train.jsonl and test.jsonl; its task is made here: what an answer is, the metric, the
documents, which fields of a row are shown. Rows are drawn with a fixed seed where a set has more than are
named. A climb that is complete is only read again.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from climb_sets import show

from rung.climb.climb import load_climb
from rung.climb.machine import describe_machine, versions

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Set:
    """A public set as a task: the text of task.yaml after `data`, its rungs, and how many rows are taken.

    `source` is the set's folder where that has another name. Rows of more than `longest` characters are left
    out of both files. So many `unlabelled` rows of the others are written without their outputs, and the rest
    for who makes a teacher of them (rest.jsonl). Of a row one line or several are made.
    """

    task: str
    rungs: str
    train: int | None = None
    test: int | None = None
    longest: int | None = None
    unlabelled: int = 0
    source: str = ""
    row: Callable[[Line], Line | list[Line]] = lambda row: {
        k: row[k] for k in ("input", "output", "context") if k in row
    }
    data: str = ""
    options: tuple[str, ...] = ()


def without_context(row: Line) -> Line:
    """The question alone: its passage has to be found."""
    return {"input": row["input"], "output": row["output"]}


def preferred(row: Line) -> Line:
    """An expert's reply before the one that was given."""
    meta = row["meta"]
    return {
        "prompt": row["input"],
        "chosen": row["output"],
        "rejected": meta["original_tutor_response"],
        "group": str(meta["c_id"]),
    }


def thumbs(row: Line) -> list[Line]:
    """An expert's reply, liked, and the one that was given, disliked."""
    said = ((row["output"], True), (row["meta"]["original_tutor_response"], False))
    group = str(row["meta"]["c_id"])
    return [{"prompt": row["input"], "completion": c, "label": liked, "group": group} for c, liked in said]


def last_number(row: Line) -> Line:
    """The sum's result, after its steps."""
    return {"input": row["input"], "output": float(row["meta"]["answer"].replace(",", ""))}


def accepted_calls(row: Line) -> Line:
    """The calls with every answer that the leaderboard takes as right."""
    return {"input": row["input"], "context": row["context"], "output": row["meta"]["possible_answers"]}


SETS = {
    "glue_sst2": Set(
        task="about: Tell whether a sentence of a film review is positive or negative.\n",
        rungs="head,prompt,few_shot,sft",
    ),
    "trec_coarse": Set(
        task="about: Tell what kind of answer a question asks for.\n",
        rungs="head,prompt,few_shot,optimise,workflow",
    ),
    "trec_few_labels": Set(
        source="trec_coarse",
        task="about: Tell what kind of answer a question asks for.\n",
        rungs="head,prompt,sft,distill",
        train=250,
        unlabelled=2000,
    ),
    "glue_stsb": Set(
        task="about: Say how alike in meaning two sentences are, from 0 (nothing in common) to 5 (the same)."
        "\noutput: {kind: number}\n",
        rungs="head,prompt,few_shot,sft",
        train=3000,
        test=500,
    ),
    "viggo_parse": Set(
        task="about: Write the meaning of a sentence about a video game as a dialogue act with attributes.\n"
        "output: {kind: text}\nmetric: exact\n",
        rungs="prompt,few_shot,sft",
        test=400,
    ),
    "viggo_few_labels": Set(
        source="viggo_parse",
        task="about: Write the meaning of a sentence about a video game as a dialogue act with attributes.\n"
        "output: {kind: text}\nmetric: exact\n",
        rungs="prompt,sft,distill",
        train=250,
        unlabelled=1000,
        test=400,
    ),
    "xquad_en": Set(
        task="about: Answer the question with the few words that say it, as short as can be.\n"
        "output: {kind: text}\nmetric: rouge_l\n",
        rungs="prompt,few_shot,retrieval,sft",
        test=300,
        row=without_context,
        data=", documents: documents.jsonl",
    ),
    "sroie_receipts": Set(
        task="about: Read company, date, address and total off a receipt.\noutput: {kind: json}\n",
        rungs="prompt,few_shot,workflow,sft",
    ),
    "wikisql_partial_header": Set(
        task="about: Write the question as one SQLite query on the table whose columns are given.\n"
        "output: {kind: sql}\nmetric: execution\n",
        rungs="prompt,few_shot,sft,reinforce",
        train=4000,
        test=400,
    ),
    "bfcl_v4_single_turn": Set(
        task="about: Call the functions that answer the request, with the arguments that it gives; no call "
        "where none of them can.\n",
        rungs="prompt,sft,reinforce",
        test=400,
        row=accepted_calls,
        options=("--accept", "secrets,targets,broken_rows"),
    ),
    "bfcl_short": Set(
        source="bfcl_v4_single_turn",
        task="about: Call the functions that answer the request, with the arguments that it gives; no call "
        "where none of them can.\n",
        rungs="prompt,few_shot,sft,reinforce",
        test=400,
        longest=1600,
        row=accepted_calls,
        options=("--accept", "broken_rows,secrets,targets"),
    ),
    "shakespeare_style": Set(
        task="about: Say the sentence as a character in a play by Shakespeare would.\noutput: {kind: text}\n"
        "metric: style\n",
        rungs="prompt,few_shot,sft",
        train=3000,
        test=400,
        row=without_context,
    ),
    "bridge_tutor_reply": Set(
        task="about: Reply to the student as an expert tutor would.\noutput: {kind: text}\nmetric: rouge_l\n",
        rungs="prompt,few_shot,sft,preference",
        row=preferred,
        data=", format: preference",
        options=("--accept", "preferences"),
    ),
    "bridge_style": Set(
        source="bridge_tutor_reply",
        task="about: Reply to the student as an expert tutor would.\noutput: {kind: text}\nmetric: style\n",
        rungs="prompt,few_shot,sft,preference",
        row=preferred,
        data=", format: preference",
        options=("--accept", "preferences"),
    ),
    "bridge_thumbs": Set(
        source="bridge_tutor_reply",
        task="about: Reply to the student as an expert tutor would.\noutput: {kind: text}\nmetric: style\n",
        rungs="prompt,sft,preference",
        row=thumbs,
    ),
    "gsm8k": Set(
        task="about: Solve the sum and give its result as a number.\noutput: {kind: number}\nmetric: exact\n",
        rungs="prompt,few_shot,workflow,sft,reinforce",
        train=3000,
        test=300,
        row=last_number,
    ),
}


def main() -> None:
    """Make the tasks, and climb them one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", required=True, choices=SETS, metavar="SET")
    parser.add_argument("--budget", default="20m")
    parser.add_argument("--models", default="smollm2-135m", help="with commas between")
    parser.add_argument("--rungs", help="instead of the set's own")
    parser.add_argument("--test-rows", type=int, help="fewer than the set has")
    parser.add_argument("--teacher", type=Path, help="a System's folder, for distill")
    parser.add_argument("--more", default="", help="lines for the task file, such as a hosted model's prices")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    given = parser.parse_args()
    print(describe_machine())
    print(", ".join(f"{name} {number}" for name, number in versions()))
    for name in given.sets:
        run, start = given.out / name, time.monotonic()
        chosen = replace(SETS[name], test=given.test_rows or SETS[name].test)
        made(chosen, given.folder / (chosen.source or name), run / "task", given.teacher, given.more)
        subprocess.run(
            [
                *(sys.executable, "-m", "rung", "climb", run / "task"),
                *("--budget", given.budget, "--out", run / "run", "--models", given.models),
                *("--rungs", given.rungs or chosen.rungs, *chosen.options),
            ],
            check=True,
            stdout=subprocess.DEVNULL if not os.environ.get("RUNG_SHOW") else None,
        )
        show(name, load_climb(run / "run"), time.monotonic() - start)


def made(chosen: Set, source: Path, folder: Path, teacher: Path | None, more: str) -> None:
    """A task folder of the set's rows; `more` are lines for its task file."""
    folder.mkdir(parents=True, exist_ok=True)
    data = chosen.data
    for part, count in (("train", chosen.train), ("test", chosen.test)):
        rows = [row for row in lines_of(source / f"{part}.jsonl") if fits(row, chosen.longest)]
        if count is not None and count < len(rows):
            places = random.Random(0).sample(range(len(rows)), count)
            if part == "train" and chosen.unlabelled:
                taken = set(places)
                left = [row for place, row in enumerate(rows) if place not in taken]
                asked = random.Random(1).sample(range(len(left)), chosen.unlabelled)
                written(folder / "unlabelled.jsonl", [{"input": left[place]["input"]} for place in asked])
                rest = [left[place] for place in sorted(set(range(len(left))) - set(asked))]
                written(folder / "rest.jsonl", lines_for(chosen, rest))
                data += ", unlabelled: unlabelled.jsonl"
            rows = [rows[place] for place in places]
        written(folder / f"{part}.jsonl", lines_for(chosen, rows))
    if teacher is not None:
        more += f"\nteacher: {json.dumps(str(teacher.resolve()))}\n"
    if "documents" in chosen.data:
        pages = lines_of(source / "documents.jsonl")
        named = [{"id": p["doc_id"], "title": p["title"], "text": p["text"]} for p in pages]
        written(folder / "documents.jsonl", named)
    listed = f"data: {{train: train.jsonl, test: test.jsonl{data}}}"
    text = f"name: {source.name}\n{listed}\n{chosen.task}{more}\n"
    (folder / "task.yaml").write_text(text, encoding="utf-8")


def lines_for(chosen: Set, rows: list[Line]) -> list[Line]:
    """What a set's rows are written as."""
    made = [chosen.row(row) for row in rows]
    return [line for one in made for line in (one if isinstance(one, list) else [one])]


def fits(row: Line, longest: int | None) -> bool:
    """Whether what a row shows the model is no longer than so many characters."""
    return longest is None or len(row["input"]) + len(row.get("context", "")) <= longest


def lines_of(path: Path) -> list[Line]:
    """Rows of JSONL; a text may hold line breaks of Unicode that JSON leaves as they are."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def written(path: Path, rows: list[Line]) -> None:
    """Rows as JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
