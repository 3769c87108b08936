"""The server: beside llama.cpp's own, with many adapters on one base, and how small it can be.

    python benchmarks/serve.py --part own        # throughput and latency beside llama.cpp's own server
    python benchmarks/serve.py --part adapters   # 32 adapters at random against one
    python benchmarks/serve.py --part smallest   # memory and times of the smallest served System

`own`: both servers are asked /v1/completions for the same prompts, greedily, the same number of tokens, with
as many slots; they take turns, each with the processor to itself, and the ratio is the median of the turns'.
`adapters`: random LoRAs of rank 16 on every linear layer, as Systems that choose among eight labels and as
Systems that write. Latencies are of requests sent one at a time.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from common import HERE, median, options, print_machine, spread, table

LABELS = ("access", "facilities", "hardware", "leave", "network", "payroll", "security", "travel")
TOPICS = ("the Wi-Fi in room {n}", "badge {n}", "payslip {n}", "laptop {n}", "the trip on day {n}")
THINGS = ("bridge", "captain", "clock", "garden", "harbour", "letter", "market", "orchard", "river", "window")
ASKS = ("I can't use {t} since this morning, what should I do?", "Who looks after {t}?", "Please mend {t}.")


@dataclass(frozen=True, kw_only=True)
class Address:
    """A server that runs: where, and its processes."""

    url: str
    pid: int


def main() -> None:
    """One part, or all."""
    parser = options(__doc__, folder=False)
    parser.add_argument("--part", choices=("own", "adapters", "smallest", "all"), default="all")
    parser.add_argument("--requests", type=int, default=128, help="of each round")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer that is written")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--adapters", type=int, default=32)
    given = parser.parse_args()
    print_machine()
    for part in ("own", "adapters", "smallest"):
        if given.part in (part, "all"):
            {"own": own, "adapters": adapters, "smallest": smallest}[part](given)


def questions(count: int, seed: int = 0) -> list[str]:
    """Short requests of people at work, no two alike."""
    rng = random.Random(seed)
    return [rng.choice(ASKS).format(t=rng.choice(TOPICS).format(n=number)) for number in range(count)]


def beginnings(count: int, seed: int = 0) -> list[str]:
    """Texts that the model goes on with for as long as it's let, no two alike."""
    rng = random.Random(seed)
    return [
        f"A story of {rng.randrange(10_000)} {rng.choice(THINGS)}s, a {rng.choice(THINGS)} and a "
        f"{rng.choice(THINGS)}.\n\nOnce upon a time, there was"
        for _ in range(count)
    ]


def own(given: argparse.Namespace) -> None:
    """rung against llama.cpp's own server of the same wheel."""
    with _llama(given.slots) as theirs, rung_server(["model=smollm2-135m"], given.slots) as ours:
        sides = {"llama.cpp's own server": (theirs, None), "rung serve": (ours, "model")}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        alone: dict[str, list[float]] = {name: [] for name in sides}
        texts: dict[str, list[str]] = {}
        for turn in range(given.runs):
            prompts = beginnings(given.requests, seed=turn)
            # Who comes first changes from turn to turn.
            for name, (side, model) in list(sides.items())[:: 1 if turn % 2 else -1]:
                bodies = [_text_body(model, prompt, given.tokens) for prompt in prompts]
                seconds, found = asyncio.run(_ask_all(side.url, "/v1/completions", bodies, given.in_flight))
                rates[name].append(sum(answer["usage"]["completion_tokens"] for answer in found) / seconds)
                texts[name] = [answer["choices"][0]["text"] for answer in found]
            for name, times in asyncio.run(_by_turns(sides, beginnings(40, seed=1000 + turn))).items():
                alone[name].append(1000 * statistics.median(times))
        first = next(iter(rates.values()))
        same = statistics.mean(one == other for one, other in zip(*texts.values(), strict=True))
        table(
            ("server", "tokens/s", "ratio", "p50 of one token, ms"),
            [
                (
                    name,
                    spread(rates[name], ".1f"),
                    f"{median([one / other for one, other in zip(rates[name], first, strict=True)]):.2f}",
                    spread(alone[name], ".1f"),
                )
                for name in sides
            ],
        )
        added = median([b - a for a, b in zip(*alone.values(), strict=True)])
        print(f"\nadded p50: {added:.1f} ms; {same:.0%} of the last round's answers are the same\n")


async def _by_turns(
    sides: Mapping[str, tuple[Address, str | None]], prompts: Sequence[str]
) -> dict[str, list[float]]:
    """Seconds of one token after each prompt, one request at a time, the servers in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    async with httpx.AsyncClient(timeout=600, trust_env=False) as client:
        for place, prompt in enumerate(prompts):
            for name, (side, model) in list(sides.items())[:: 1 if place % 2 else -1]:
                start = time.perf_counter()
                response = await client.post(f"{side.url}/v1/completions", json=_text_body(model, prompt, 1))
                response.raise_for_status()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def adapters(given: argparse.Namespace) -> None:
    """Many adapters at random against one of them."""
    with tempfile.TemporaryDirectory() as folder:
        for form in ("codes", "free"):
            systems = [
                f"s{number}={random_system(Path(folder) / f'{form}-{number}', number, form, given.tokens)}"
                for number in range(given.adapters)
            ]
            rates: dict[str, list[float]] = {"one": [], "mixed": []}
            with rung_server(systems[:1], given.slots) as side:
                before = _memory(side.pid)
            with rung_server(systems, given.slots) as side:
                each = (_memory(side.pid) - before) / max(1, given.adapters - 1)
                for turn in range(given.runs):
                    for name, count in (("one", 1), ("mixed", given.adapters)):
                        rng = random.Random(turn)
                        bodies = [
                            _chat_body(f"s{rng.randrange(count)}", text)
                            for text in questions(given.requests, seed=turn)
                        ]
                        path = "/v1/chat/completions"
                        seconds, _ = asyncio.run(_ask_all(side.url, path, bodies, given.in_flight))
                        rates[name].append(len(bodies) / seconds)
            table(
                (
                    "answers",
                    "one adapter, requests/s",
                    f"{given.adapters} mixed",
                    "ratio",
                    "MiB for each more",
                ),
                [
                    (
                        "one of eight labels" if form == "codes" else f"{given.tokens} tokens",
                        spread(rates["one"], ".2f"),
                        spread(rates["mixed"], ".2f"),
                        f"{median(rates['mixed']) / median(rates['one']):.2f}",
                        f"{each:.1f}",
                    )
                ],
            )
            print()


def smallest(given: argparse.Namespace) -> None:
    """Memory and times of one small System, served for one request at a time."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for form, what in (("codes", "one of eight labels"), ("free", f"{given.tokens} tokens")):
            system = random_system(Path(folder) / form, 0, form, given.tokens)
            with rung_server([f"s={system}"], 1, "--context", "512") as side:
                bodies = [_chat_body("s", text) for text in questions(50)]
                seconds = sorted(asyncio.run(_one_by_one(side.url, bodies, "/v1/chat/completions")))
                rows.append(
                    (
                        what,
                        f"{_memory(side.pid):.0f}",
                        f"{1000 * seconds[len(seconds) // 2]:.0f}",
                        f"{1000 * seconds[int(len(seconds) * 0.95)]:.0f}",
                    )
                )
        table(("SmolLM2-135M Q4_1 and an adapter of rank 16", "MiB in all", "p50 ms", "p95 ms"), rows)


def _text_body(model: str | None, prompt: str, tokens: int) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0}
    return {**body, "model": model} if model else body


def _chat_body(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


async def _ask_all(
    url: str, path: str, bodies: Sequence[dict[str, Any]], in_flight: int
) -> tuple[float, list[Any]]:
    """Seconds for all, so many at a time, and the answers."""
    gate = asyncio.Semaphore(in_flight)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client:

        async def one(body: dict[str, Any]) -> Any:
            async with gate:
                response = await client.post(path, json=body)
                response.raise_for_status()
                return response.json()

        await one(bodies[0])
        start = time.perf_counter()
        found = await asyncio.gather(*[one(body) for body in bodies])
        return time.perf_counter() - start, found


async def _one_by_one(
    url: str, bodies: Sequence[dict[str, Any]], path: str = "/v1/completions"
) -> list[float]:
    seconds = []
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        for body in [bodies[0], *bodies]:
            start = time.perf_counter()
            (await client.post(path, json=body)).raise_for_status()
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


@contextmanager
def rung_server(systems: Sequence[str], slots: int, *more: str) -> Iterator[Address]:
    """`rung serve` on a free port, until the end of the block."""
    command = [sys.executable, "-m", "rung", "serve", *systems, "--port", "0", "--slots", str(slots), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None, "a pipe was asked for"
        said = ""
        while not said.startswith("listening on "):
            said = process.stdout.readline()
            if not said:
                raise SystemExit(f"rung serve ended with status {process.wait()}")
        yield Address(url=said.split()[2].removesuffix("/v1"), pid=process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def _llama(slots: int) -> Iterator[Address]:
    from rung.models.resolve import resolve

    process = subprocess.Popen(
        [sys.executable, str(HERE / "peer_llama.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None and process.stdout is not None, "pipes were asked for"
        job = {"gguf": str(resolve("smollm2-135m").gguf), "parallel": slots, "context": 2048}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        said = json.loads(process.stdout.readline())
        yield Address(url=said["address"], pid=process.pid)
    finally:
        process.kill()
        process.wait()


def _memory(pid: int) -> float:
    """Resident memory of a process and its children, MiB."""
    import psutil

    process = psutil.Process(pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) / 2**20


def random_system(folder: Path, seed: int, form: str, tokens: int) -> Path:
    """A System with a random adapter of rank 16 on every linear layer of SmolLM2-135M."""
    from rung.models.chat import load_chat
    from rung.models.resolve import resolve
    from rung.spec import AnswerSpec, Spec
    from rung.system import ref_to, save

    model = resolve("smollm2-135m")
    chat = load_chat(model)
    codes = tuple(chat.tokens.encode(label, special=False)[0] for label in LABELS)
    answer = (
        AnswerSpec(form="codes", codes=codes)
        if form == "codes"
        else AnswerSpec(form="free", max_tokens=tokens)
    )
    spec = Spec(
        rung="sft",
        task=f"task-{seed}",
        kind="label" if form == "codes" else "text",
        labels=LABELS if form == "codes" else (),
        engine="llama",
        model=ref_to(model, "smollm2-135m"),
        style="terse",
        answer=answer,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    gguf = folder.parent / f"{folder.name}.gguf"
    _random_adapter(gguf, seed)
    system = save(folder, spec, {"adapter.gguf": gguf})
    gguf.unlink()
    return system.folder


def _random_adapter(path: Path, seed: int, rank: int = 16) -> None:
    """A GGUF LoRA for SmolLM2-135M, small enough to leave the text a text."""
    import gguf

    rng = np.random.default_rng(seed)
    width, middle, keys = 576, 1536, 192
    shapes = {
        "attn_q": (width, width),
        "attn_k": (width, keys),
        "attn_v": (width, keys),
        "attn_output": (width, width),
        "ffn_gate": (width, middle),
        "ffn_up": (width, middle),
        "ffn_down": (middle, width),
    }
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    for block in range(30):
        for name, (entering, leaving) in shapes.items():
            a = rng.normal(0, entering**-0.5, (rank, entering)).astype(np.float16)
            b = rng.normal(0, 0.003, (leaving, rank)).astype(np.float16)
            writer.add_tensor(f"blk.{block}.{name}.weight.lora_a", a)
            writer.add_tensor(f"blk.{block}.{name}.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
