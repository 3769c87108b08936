"""A long run of the server: good and bad requests, clients that leave, children killed at random.

    python benchmarks/serve_soak.py --requests 20000 --kills 20

Half of the good requests go to a linear head, the others to a base model under llama.cpp: to four adapters
that choose among labels, and to the model as it is, streamed or not. Five in a hundred are bad: an unknown
model or field, no messages, broken JSON, a prompt that doesn't fit, a client that leaves. Every good one has
to be answered, by a head as it was the first time, every bad one refused with the status that it deserves.
Memory, open files and threads are read after the first twentieth of the requests and at the end.
"""

import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from common import options, print_machine, table
from serve import LABELS, questions, random_system, rung_server

ADAPTERS = 4
CHAT = "/v1/chat/completions"
TEXTS = questions(200)


@dataclass
class Seen:
    """What came back. `answers`: the first answer to each question, which the others have to equal."""

    good: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    left: int = 0
    lost: list[str] = field(default_factory=list)
    answers: dict[tuple[str, str], str] = field(default_factory=dict)


def main() -> None:
    """One run, and what it came to."""
    parser = options(__doc__, folder=False, runs=False)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=32)
    given = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        systems = [f"head={_head(Path(folder) / 'head')}"]
        for number in range(ADAPTERS):
            systems.append(f"s{number}={random_system(Path(folder) / str(number), number, 'codes', 8)}")
        with rung_server([*systems, "base=smollm2-135m"], 8) as side:
            seen, sizes, seconds = asyncio.run(_soak(side.url, side.pid, given))
    before, after = sizes
    names = ("MiB in all", "MiB of the server", "open files", "threads")
    table(
        ("", "after a twentieth", "at the end", "ratio"),
        [
            (name, f"{one:.0f}", f"{other:.0f}", f"{other / one:.3f}")
            for name, one, other in zip(names, before, after, strict=True)
        ],
    )
    print(f"\n{seen.good:,} good requests answered, {len(seen.lost)} lost; {given.kills} children killed")
    print(f"refused as they should be: {dict(sorted(seen.refused.items()))}; clients that left: {seen.left}")
    print(f"{seconds:.0f} s")
    for line in seen.lost[:20]:
        print("lost:", line)


async def _soak(
    url: str, pid: int, given: Any
) -> tuple[Seen, tuple[Sequence[float], Sequence[float]], float]:
    rng = random.Random(0)
    seen, gate = Seen(), asyncio.Semaphore(given.in_flight)
    kill_at = set(rng.sample(range(given.requests // 20, given.requests), given.kills))
    before: Sequence[float] = ()
    start = time.monotonic()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=given.in_flight)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits, trust_env=False) as client:

        async def one(seed: int) -> None:
            try:
                await _request(client, random.Random(seed), seen)
            finally:
                gate.release()

        tasks: set[asyncio.Task[None]] = set()
        for number in range(given.requests):
            await gate.acquire()
            if number in kill_at:
                _kill(pid, rng)
            if number == given.requests // 20:
                before = _sizes(pid)
            task = asyncio.create_task(one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    seconds = time.monotonic() - start
    await asyncio.sleep(2.0)
    return seen, (before, _sizes(pid)), seconds


async def _request(client: httpx.AsyncClient, rng: random.Random, seen: Seen) -> None:
    if rng.random() < 0.05:
        await _bad(client, rng, seen)
        return
    text = rng.choice(TEXTS)
    model = "head" if rng.random() < 0.5 else rng.choice([*(f"s{n}" for n in range(ADAPTERS)), "base"])
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
    if model == "base":
        body["max_tokens"] = 4
    streamed = rng.random() < 0.3
    try:
        answer = await (_streamed if streamed else _plain)(client, body)
    except (httpx.HTTPError, KeyError, ValueError) as error:
        seen.lost.append(f"{model}, {'streamed' if streamed else 'plain'}: {error!r}")
        return
    if model != "base" and answer not in LABELS:
        seen.lost.append(f"{model}: {answer!r} is no label")
    # Beside other requests a base model's near-ties may fall otherwise.
    elif model == "head" and seen.answers.setdefault((model, text), answer) != answer:
        seen.lost.append(f"{model}: {answer!r} is not what was answered first")
    else:
        seen.good += 1


async def _plain(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    response = await client.post(CHAT, json=body)
    if response.status_code != 200:
        raise ValueError(f"{response.status_code}: {response.text[:200]}")
    return response.json()["choices"][0]["message"]["content"]


async def _streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    text, ended = "", False
    async with client.stream("POST", CHAT, json={**body, "stream": True}) as response:
        if response.status_code != 200:
            raise ValueError(f"{response.status_code}: {(await response.aread())[:200]!r}")
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise ValueError(f"in the stream: {event['error']}")
                text += event["choices"][0]["delta"].get("content", "")
    if not ended:
        raise ValueError("the stream ended without [DONE]")
    return text


async def _bad(client: httpx.AsyncClient, rng: random.Random, seen: Seen) -> None:
    turn = [{"role": "user", "content": "The Wi-Fi is down"}]
    kinds: dict[str, tuple[int, bytes]] = {
        "unknown model": (404, json.dumps({"model": "nobody", "messages": turn}).encode()),
        "unknown field": (400, json.dumps({"model": "head", "messages": turn, "wings": 2}).encode()),
        "no messages": (400, json.dumps({"model": "head", "messages": []}).encode()),
        "broken JSON": (400, b'{"model": "head", "messages": ['),
        "too long": (
            400,
            json.dumps(
                {"model": "base", "messages": [{"role": "user", "content": "far too long " * 2000}]}
            ).encode(),
        ),
    }
    kind = rng.choice([*kinds, "leaves"])
    if kind == "leaves":
        body = {"model": "base", "messages": turn, "max_tokens": 200, "stream": rng.random() < 0.5}
        try:
            await client.post(CHAT, json=body, timeout=0.2)
        except httpx.TimeoutException:
            seen.left += 1
        return
    status, content = kinds[kind]
    response = await client.post(CHAT, content=content, headers={"content-type": "application/json"})
    if response.status_code == status and "error" in response.json():
        seen.refused[kind] += 1
    else:
        seen.lost.append(f"{kind}: status {response.status_code} instead of {status}")


def _kill(pid: int, rng: random.Random) -> None:
    every = psutil.Process(pid).children()
    children = [p for p in every if any("llama_child" in part for part in p.cmdline())]
    if children:
        os.kill(rng.choice(children).pid, signal.SIGKILL)


def _sizes(pid: int) -> tuple[float, ...]:
    process = psutil.Process(pid)
    own = process.memory_info().rss / 2**20
    children = sum(p.memory_info().rss for p in process.children(recursive=True)) / 2**20
    return own + children, own, float(process.num_fds()), float(process.num_threads())


def _head(folder: Path) -> Path:
    """A TF-IDF head over the labels of the benchmark, fitted on made rows."""
    from rung.models.head import counted, fit_tfidf, head_files
    from rung.spec import Spec
    from rung.system import save

    rng = random.Random(0)
    texts = [f"{text} {rng.choice(LABELS)}" for text in questions(400, seed=9)]
    head = fit_tfidf(counted(texts), [text.split()[-1] for text in texts], 0.3, 0)
    spec = Spec(rung="head", task="soak", kind="label", labels=head.labels, engine="head", features="tfidf")
    return save(folder, spec, head_files(head)).folder


if __name__ == "__main__":
    main()
