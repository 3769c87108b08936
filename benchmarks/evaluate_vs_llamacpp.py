"""Few-shot answers over a set's labels: rung's torch engine against a plain client of llama.cpp's server.

    python benchmarks/evaluate_vs_llamacpp.py ../shared/data/banking77 --shots 8 --rows 200

Both get the very same prompts as token ids, those of rung's `few_shot` with the nearest examples. The peer's
server has `--parallel` slots and prompt caching; its client keeps as many requests in flight, each with a
grammar of the labels, at temperature 0. rung scores whole labels, the peer writes the likeliest token that
the grammar admits: so rung's engine also writes the rows where they differ greedily under the grammar, which
tells what the engines differ by from what the methods do. A near-tie: rung's engine gives the two labels
log-probabilities within 1 nat.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from common import (
    HERE,
    USERS_ENVIRONMENT,
    median,
    opened,
    options,
    print_machine,
    spread,
    table,
    use_all_cores,
    with_peer,
)

Tokens = tuple[int, ...]
NEAR_TIE_NATS = 1.0
LONGEST_ANSWER = 64
WARM_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What both sides are asked: prompts, the labels as token sequences (end included) and as text.

    `warm` are other prompts, asked outside of the clock; `pieces` is every token as text.
    """

    prompts: list[Tokens]
    warm: list[Tokens]
    candidates: list[Tokens]
    texts: list[str]
    ends: tuple[int, ...]
    pieces: list[str]
    context: int
    gguf: Path
    weights: Path


def main() -> None:
    """Both sides in turn; one table, and what the rows are on which they differ."""
    parser = options(__doc__)
    with_peer(parser)
    parser.add_argument("--shots", type=int, default=8, help="nearest examples in a prompt")
    parser.add_argument("--rows", type=int, default=200, help="of the dev rows")
    parser.add_argument("--parallel", type=int, default=16, help="the peer's slots and requests in flight")
    given = parser.parse_args()
    use_all_cores()
    asked = questions(given)
    from rung.engines.base import EngineSpec
    from rung.engines.torch import TorchEngine

    engine = TorchEngine(EngineSpec(engine="torch", weights=asked.weights, context=asked.context))
    engine.choose(asked.warm, asked.candidates)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(given.runs):
        start = time.perf_counter()
        chosen = engine.choose(asked.prompts, asked.candidates)
        ours.append(len(chosen) / (time.perf_counter() - start))
        with served(asked, given) as (client, number):
            ask(client, asked, asked.warm, given.parallel)
            start = time.perf_counter()
            written = ask(client, asked, asked.prompts, given.parallel)
            theirs.append(len(written) / (time.perf_counter() - start))
    print_machine({"xllamacpp": number})
    tokens = median([len(prompt) for prompt in asked.prompts])
    print(f"{len(asked.prompts)} prompts of {tokens:.0f} tokens (median), {len(asked.texts)} labels")
    rows = [
        ["rung, torch engine, whole labels", spread(ours, ".2f"), "1.00"],
        ["llama.cpp's server, grammar", spread(theirs, ".2f"), f"{median(ours) / median(theirs):.2f}"],
    ]
    table(("side", "rows/s", "rung's ratio to it"), rows)
    compare(engine, asked, [asked.texts[choice.index] for choice in chosen], written)


def questions(given: argparse.Namespace) -> Questions:
    """The prompts of `few_shot` with the nearest examples."""
    from rung.asking import candidates, prompts_for
    from rung.models.weights import dequantised
    from rung.rungs import few_shot
    from rung.rungs.instructions import answer_spec, few_shot_instruction, spec_for
    from rung.spec import ShotSpec
    from rung.system import save
    from rung.wording import label_texts

    with opened(given.folder) as context:
        chat, shots = context.pool.chat(context.model), ShotSpec(choice="nearest", k=given.shots)
        base = spec_for(
            context,
            few_shot.FewShot.name,
            instruction=few_shot_instruction(context),
            answer=answer_spec(context, constrained=True),
        )
        spec = base.model_copy(update={**few_shot._settings(context, shots), "engine": "torch"})
        system = save(context.work / "nearest", spec, few_shot._index(context, context.train))
        rows = context.dev[: given.rows + WARM_ROWS]
        prompts = prompts_for(spec, chat, rows, system._shots(rows, context.pool), context.limit)
        assert context.model.gguf is not None, "the default model has a GGUF file"
        return Questions(
            prompts=prompts[: given.rows],
            warm=prompts[given.rows :],
            candidates=candidates(spec, chat),
            texts=label_texts(spec.labels),
            ends=chat.stop_ids,
            pieces=[chat.tokens.decode([token]) for token in range(len(chat.tokens.texts))],
            context=context.limit,
            gguf=context.model.gguf,
            weights=dequantised(context.model),
        )


@contextmanager
def served(asked: Questions, given: argparse.Namespace) -> Iterator[tuple[httpx.Client, str]]:
    """(a client of a fresh server, the version of xllamacpp)."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [given.peer_python, str(HERE / "peer_llama.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=USERS_ENVIRONMENT,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        longest = max(map(len, asked.prompts)) + LONGEST_ANSWER
        job = {"gguf": str(asked.gguf), "parallel": given.parallel, "context": -(-longest // 256) * 256}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            errors.seek(0)
            sys.exit(f"llama.cpp's server didn't start: {errors.read().decode(errors='replace')[-2000:]}")
        said = json.loads(line)
        try:
            limits = httpx.Limits(max_connections=given.parallel)
            with httpx.Client(
                base_url=said["address"], timeout=600, limits=limits, trust_env=False
            ) as client:
                yield client, said["xllamacpp"]
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


def ask(client: httpx.Client, asked: Questions, prompts: Sequence[Tokens], parallel: int) -> list[str]:
    """The server's answers, `parallel` requests in flight."""
    choices = " | ".join(json.dumps(text) for text in asked.texts)

    def one(prompt: Tokens) -> str:
        body = {
            "prompt": list(prompt),
            "grammar": f"root ::= {choices}",
            "temperature": 0,
            "n_predict": LONGEST_ANSWER,
            "cache_prompt": True,
        }
        response = client.post("/completion", json=body)
        response.raise_for_status()
        return response.json()["content"]

    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(one, prompts))


def compare(engine: Any, asked: Questions, ours: list[str], theirs: list[str]) -> None:
    """How often they agree, and what becomes of the others."""
    unlike = [row for row, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]
    print(f"\nthe same answer on {1 - len(unlike) / len(ours):.1%} of {len(ours)} rows")
    strange = [theirs[row] for row in unlike if theirs[row] not in asked.texts]
    if strange:
        print(f"{len(strange)} answers of the server are no labels, such as {strange[0]!r}")
    method, near, margins = 0, 0, []
    for row in unlike:
        method += greedy(engine, asked, asked.prompts[row]) == theirs[row]
        if theirs[row] in asked.texts:
            margins.append(margin(engine, asked, row, ours[row], theirs[row]))
            near += margins[-1] < NEAR_TIE_NATS
    if unlike:
        print(
            f"of the {len(unlike)} others {method} are the server's answer too where rung's engine writes "
            "greedily under the grammar: there the methods differ, not the engines"
        )
    if margins:
        print(f"{near} are near-ties; rung prefers its own answer by {spread(margins, '.2f')} nats")


def greedy(engine: Any, asked: Questions, prompt: Tokens) -> str:
    """What rung's engine writes token by token under the grammar, as the server does."""
    text = ""
    while True:
        rest = [label[len(text) :] for label in asked.texts if label.startswith(text)]
        ways = [t for t, piece in enumerate(asked.pieces) if piece and any(r.startswith(piece) for r in rest)]
        ways += asked.ends if "" in rest else ()
        (found,) = engine.next_logprobs([prompt], ways)
        token = ways[max(range(len(ways)), key=found.__getitem__)]
        if token in asked.ends:
            return text
        text, prompt = text + asked.pieces[token], (*prompt, token)
        if rest == [asked.pieces[token]]:
            return text


def margin(engine: Any, asked: Questions, row: int, one: str, other: str) -> float:
    """By how many nats rung's engine prefers label `one` to `other`, all labels admitted."""
    from rung.training.parity import _margin

    pair = (asked.texts.index(one), asked.texts.index(other))
    return _margin(engine, asked.prompts[row], asked.candidates, pair)


if __name__ == "__main__":
    main()
